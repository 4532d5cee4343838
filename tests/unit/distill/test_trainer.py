"""The loop: 2N steps equal N + kill + N to the last bit, turns touch only what is theirs, and a loss that is no number stops the run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from fewstep.distill.ema import Ema
from fewstep.distill.optimizer import MomentlessAdam
from fewstep.distill.state import DiskFull, Run
from fewstep.distill.steps import deviation, moments
from fewstep.distill.trainer import Figure, NonFinite, Phase, Routine, Terminated, train, update

UPDATES = 12


class Killed(BaseException):
    """Stands for SIGKILL."""


def make_phase(name: str = "stage/phase", updates: int = UPDATES, poison: int | None = None, clip: float = 0.0) -> Phase:
    """A student that chases a fixed teacher, and a critic that tells the two apart: all that a phase has, at a size that costs nothing."""
    torch.manual_seed(0)
    student, teacher, critic = (
        nn.Linear(4, 4),
        nn.Linear(4, 4).requires_grad_(False),
        nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1)),
    )

    def batch(indices: range) -> Tensor:
        samples = [torch.randn(4, generator=torch.Generator().manual_seed(1000 + index)) for index in indices]
        if poison is not None and poison in indices:
            samples[indices.index(poison)] = torch.full((4,), float("nan"))
        return torch.stack(samples)

    def losses(turn: str, x: Tensor) -> dict[str, Tensor]:
        real, fake = teacher(x), student(x)
        if turn == "student":
            critic.requires_grad_(False)
            return {
                "loss": nn.functional.softplus(-critic(fake)).mean() + (fake - real).square().mean(),
                "mse": (fake - real).square().mean(),
            }
        critic.requires_grad_(True)
        fake = fake.detach()
        return {"loss": (nn.functional.softplus(-critic(real)) + nn.functional.softplus(critic(fake))).mean()}

    return Phase(
        name=name,
        updates=updates,
        batch_size=4,
        models={"student": student, "critic": critic},
        optimizers={
            "student": torch.optim.AdamW(student.parameters(), lr=0.02),
            "critic": torch.optim.Adam(critic.parameters(), lr=0.01, betas=(0.0, 0.99)),
        },
        batch=batch,
        losses=losses,
        turns=("student", "critic"),
        learning_rate=lambda n: 1 / (1 + 0.1 * n),
        averages={"student": Ema(student, 0.9)},
        clip=clip,
    )


def everything(phase: Phase) -> dict[str, Tensor]:
    """All that an update may change: weights, averages and moments."""
    tensors = {f"{name}.{key}": value for name, model in phase.models.items() for key, value in model.state_dict().items()}
    tensors |= {f"ema.{name}.{key}": value for name, average in phase.averages.items() for key, value in average.state().items()}
    for name, optimizer in phase.optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()}
    return {key: value.detach().clone() for key, value in tensors.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def logged(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_at(number: int) -> Routine:
    def act(phase: Phase, run: Run) -> None:
        if run.state.update == number:
            raise Killed

    return Routine(act=act, every=1)


def save_at(number: int) -> Routine:
    def act(phase: Phase, run: Run) -> None:
        if run.state.update == number:
            run.save(phase.models, phase.optimizers, phase.averages)

    return Routine(act=act, every=1)


def test_an_average_ages_by_the_students_turns(tmp_path: Path) -> None:
    phase = make_phase()
    train(Run(tmp_path, "r"), phase)
    assert phase.averages["student"].updates == UPDATES // 2, "in the critic's turns the student stands still"


@pytest.mark.parametrize(("saved", "killed"), [(6, 6), (6, 9), (5, 11), (None, 7)])
def test_2n_steps_equal_n_kill_n(tmp_path: Path, saved: int | None, killed: int) -> None:
    whole = make_phase()
    train(Run(tmp_path / "whole", "r"), whole)

    first = make_phase()
    routines = [stop_at(killed)] if saved is None else [save_at(saved), stop_at(killed)]
    with pytest.raises(Killed):
        train(Run(tmp_path / "parts", "r"), first, routines)
    second = make_phase()
    for parameter in second.models["student"].parameters():  # whatever it starts from, the checkpoint rules
        if saved is not None:
            parameter.data.add_(1.0)
    run = Run(tmp_path / "parts", "r")
    assert run.state.update == (saved or 0)
    train(run, second)

    assert equal(everything(whole), everything(second))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")  # the same losses of student and critic, each line once
    assert [line["update"] for line in logged(tmp_path / "parts")] == list(range(1, UPDATES + 1))
    assert [line["samples"] for line in logged(tmp_path / "parts")] == [4 * n for n in range(1, UPDATES + 1)]
    assert [line["turn"] for line in logged(tmp_path / "parts")] == ["student", "critic"] * (UPDATES // 2)


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_trainer import make_phase
from fewstep.distill.state import Run
from fewstep.distill.trainer import Routine, train
train(Run(Path(sys.argv[2]), "r"), make_phase(updates=200), [Routine(lambda phase, run: time.sleep(0.005), every=1)], save_seconds=0.02)
"""


@pytest.mark.slow
def test_sigkill_of_a_real_process(tmp_path: Path) -> None:
    """Wherever the kill falls, between or within checkpoints, the run ends as one that was never stopped."""
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "parts")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src"), "OMP_NUM_THREADS": "1"}
    for target in (60,):
        process = subprocess.Popen(command, env=environment)
        for _ in range(6000):
            metrics = tmp_path / "parts" / "metrics.jsonl"
            if metrics.is_file() and metrics.read_bytes().count(b"\n") >= target:
                break
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = make_phase(updates=200)
    run = Run(tmp_path / "parts", "r")
    assert 0 < run.state.update < 200
    train(run, resumed)
    whole = make_phase(updates=200)
    train(Run(tmp_path / "whole", "r"), whole)
    assert equal(everything(whole), everything(resumed))
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")


def test_a_phase_that_reached_its_end_is_not_trained_again(tmp_path: Path) -> None:
    """Killed between the last update and the mark that the phase is done: its last checkpoint is loaded, nothing more."""
    train(Run(tmp_path, "r"), make_phase())
    before = logged(tmp_path)
    again = make_phase()
    train(Run(tmp_path, "r"), again)
    reference = make_phase()
    train(Run(tmp_path / "other", "r"), reference)
    assert logged(tmp_path) == before and equal(everything(again), everything(reference))


def test_a_phase_that_is_done_is_passed_over(tmp_path: Path) -> None:
    run = Run(tmp_path, "r")
    train(run, make_phase())
    run.finish()
    untouched = make_phase()
    before = everything(untouched)
    train(Run(tmp_path, "r"), untouched)
    assert equal(everything(untouched), before)


def test_phases_follow_one_another(tmp_path: Path) -> None:
    run = Run(tmp_path, "r")
    for name in ("a/one", "a/two"):
        train(run, make_phase(name, updates=3))
        run.finish()
    assert [(line["phase"], line["update"]) for line in logged(tmp_path)] == [(name, n) for name in ("a/one", "a/two") for n in (1, 2, 3)]
    assert Run(tmp_path, "r").state.done == ("a/one", "a/two")


def test_a_loss_that_is_no_number_stops_before_any_weight_moves(tmp_path: Path) -> None:
    phase = make_phase(poison=22)  # in update 6, samples 20 to 23: the critic's turn
    snapshots: list[dict[str, Tensor]] = []
    run = Run(tmp_path, "r")
    with pytest.raises(NonFinite) as caught:
        train(run, phase, [Routine(lambda phase, run: snapshots.append(everything(phase)), every=1)])
    message = str(caught.value)
    assert "stage/phase" in message and "samples 20 to 23" in message and "critic" in message
    assert len(snapshots) == 5 and equal(everything(phase), snapshots[-1])
    assert run.state.update == 5 and len(logged(tmp_path)) == 5


def test_a_loss_that_is_infinite_in_a_logged_value_alone_stops_too() -> None:
    phase = make_phase()
    phase.losses = lambda turn, x: {"loss": phase.models["student"](x).sum(), "other": torch.tensor(float("inf"))}
    before = everything(phase)
    with pytest.raises(NonFinite, match="inf"):
        update(phase, "student", [phase.batch(range(4))], range(4), 1.0, [0.1])
    assert equal(everything(phase), before)


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_a_figure_of_a_batch_is_the_same_in_however_many_parts_it_is_worked_off(size: int) -> None:
    """A deviation over six samples, of which a part of one has none: no mean of the parts' own."""
    phase, indices = make_phase(), range(6)
    phase.losses = lambda turn, x: {"loss": phase.models["student"](x).sum(), "deviation": Figure(moments(x), deviation)}
    parts = [phase.batch(indices[first : first + size]) for first in range(0, 6, size)]
    found = update(phase, "student", parts, indices, 1.0, [0.0])
    assert found["deviation"] == pytest.approx(float(phase.batch(indices).std(correction=0)), rel=1e-6)


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_no_number_stops_before_any_weight_moves(clip: float) -> None:
    phase = make_phase()
    phase.clip = clip
    phase.losses = lambda turn, x: {"loss": (phase.models["student"](x).sum() * 0).abs().sqrt()}  # 0, with a slope of 0 times infinity
    before = everything(phase)
    with pytest.raises(NonFinite, match="student's gradient is not finite at samples 0 to 3"):
        update(phase, "student", [phase.batch(range(4))], range(4), 1.0, [0.1])
    assert equal(everything(phase), before)
    assert all(p.grad is None for p in phase.models["student"].parameters())


def test_a_turn_moves_its_own_weights_and_leaves_no_gradient() -> None:
    phase = make_phase()
    for turn, other in (("student", "critic"), ("critic", "student")):
        mine, theirs = ([p.detach().clone() for p in phase.models[name].parameters()] for name in (turn, other))
        update(phase, turn, [phase.batch(range(4))], range(4), 1.0, [0.1])
        assert not any(torch.equal(a, b) for a, b in zip(mine, phase.models[turn].parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(theirs, phase.models[other].parameters(), strict=True))
        assert all(p.grad is None for model in phase.models.values() for p in model.parameters())


def test_learning_rate_is_a_factor_on_each_groups_own() -> None:
    phase = make_phase()
    phase.optimizers["student"] = torch.optim.SGD(
        [{"params": [p], "lr": rate} for p, rate in zip(phase.models["student"].parameters(), (0.5, 0.25), strict=True)]
    )
    before = [p.detach().clone() for p in phase.models["student"].parameters()]
    phase.losses = lambda turn, x: {"loss": sum((p.sum() for p in phase.models["student"].parameters()), torch.zeros(()))}
    update(phase, "student", [phase.batch(range(4))], range(4), 0.1, [0.5, 0.25])
    for p, start, step in zip(phase.models["student"].parameters(), before, (0.05, 0.025), strict=True):
        torch.testing.assert_close(p.detach(), start - step)  # the gradient is one everywhere


def test_learning_rate_survives_a_kill(tmp_path: Path) -> None:
    """The factor is of the update's number, on the recipe's own rate: not on a rate that was scaled before."""
    with pytest.raises(Killed):
        train(Run(tmp_path, "r"), make_phase(), [save_at(8), stop_at(8)])
    second = make_phase()
    train(Run(tmp_path, "r"), second)
    assert second.optimizers["critic"].param_groups[0]["lr"] == pytest.approx(0.01 / (1 + 0.1 * 11))


def test_gradients_are_clipped_and_their_norm_is_logged() -> None:
    phase = make_phase(clip=1e-3)
    phase.optimizers["student"] = torch.optim.SGD(phase.models["student"].parameters(), lr=1.0)
    before = [p.detach().clone() for p in phase.models["student"].parameters()]
    values = update(phase, "student", [phase.batch(range(4))], range(4), 1.0, [1.0])
    moved = torch.cat([(p.detach() - start).flatten() for p, start in zip(phase.models["student"].parameters(), before, strict=True)])
    assert values["grad_norm"] > 1e-3 and float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_routines_come_when_they_are_due(tmp_path: Path) -> None:
    seen: dict[str, list[int]] = {"every": [], "last": [], "both": []}

    def note(name: str) -> object:
        return lambda phase, run: seen[name].append(run.state.update)

    routines = [
        Routine(note("every"), every=5),  # type: ignore[arg-type]
        Routine(note("last"), last=True),  # type: ignore[arg-type]
        Routine(note("both"), every=6, last=True),  # type: ignore[arg-type]
    ]
    train(Run(tmp_path, "r"), make_phase(), routines)
    assert seen == {"every": [5, 10], "last": [12], "both": [6, 12]}


def test_samples_do_not_depend_on_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.distill import dist

    for ranks in (1, 2, 3, 5):
        shares = []
        for rank in range(ranks):
            monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(dist, "world", lambda ranks=ranks: ranks)
            shares.append(list(dist.share(range(12, 24))))
        assert sorted(index for share in shares for index in share) == list(range(12, 24))


def test_the_end_of_a_phase_is_looked_at_even_if_a_signal_falls_on_it(tmp_path: Path) -> None:
    """Whoever looks does not while the run is asked to end: then the next start does, once."""
    seen: list[int] = []

    def look(phase: Phase, run: Run) -> None:
        if run.stopping is None:
            seen.append(run.state.update)

    def ask(phase: Phase, run: Run) -> None:
        if run.state.update == UPDATES:
            run.stopping = Terminated("asked to end")

    with pytest.raises(Terminated):
        train(Run(tmp_path, "recipe"), make_phase(), [Routine(ask, every=1), Routine(look, last=True)])
    for _ in range(2):
        train(Run(tmp_path, "recipe"), make_phase(), [Routine(look, last=True)])
    assert seen == [UPDATES]


def test_a_signal_during_the_last_save_ends_the_run(tmp_path: Path) -> None:
    class Asked(Run):
        def save(self, *what: Any) -> None:
            super().save(*what)
            self.stopping = Terminated("asked to end")

    with pytest.raises(Terminated):
        train(Asked(tmp_path, "recipe"), make_phase(), [])


def test_a_full_disk_of_one_rank_is_a_sentence(tmp_path: Path) -> None:
    """torch wraps what its ranks' writes raise in something that is no Exception."""
    run = Run(tmp_path, "recipe")
    with pytest.raises(DiskFull, match="the disk is full"), run.room(1000):
        raise CheckpointException("writing", {1: (OSError(errno.ENOSPC, "No space left on device"), None)})  # type: ignore[dict-item]
    with pytest.raises(CheckpointException), run.room(1000):
        raise CheckpointException("writing", {1: (ValueError("something else"), None)})  # type: ignore[dict-item]


def test_adam_without_a_first_moment_moves_as_torchs_does() -> None:
    def path(optimizer: Any) -> Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(5, 3)
        steps = optimizer(layer.parameters())
        for _ in range(20):
            layer(torch.randn(7, 5)).square().mean().backward()
            steps.step()
            steps.zero_grad()
        return layer.weight.detach()

    ours = path(lambda weights: MomentlessAdam(weights, 1e-2, beta2=0.99))
    theirs = path(lambda weights: torch.optim.AdamW(weights, 1e-2, betas=(0.0, 0.99), weight_decay=0.0))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
