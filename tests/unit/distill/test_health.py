"""What a run says of itself: lights and stop rules on numbers, looks that are closed forms, and training that none of it changes."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.distill.test_trainer import UPDATES, equal, everything, make_phase
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.distill.outline import Part, seconds_left
from fewstep.distill.pretrain import train_teacher
from fewstep.distill.recipe import RecipeError
from fewstep.distill.state import Run
from fewstep.distill.trainer import Phase, Routine, Stopped, Terminated, train
from fewstep.distill.walk import distill
from fewstep.distill.watch.health import CHANCE, PATIENCE, WINDOW, Monitor, critic_light, gradient_light, loss_light, spread_light, teacher_light
from fewstep.distill.watch.page import report
from fewstep.distill.watch.probe import BANDS, apart, compare, spectrum
from fewstep.distill.watch.status import duration, lines, read_status
from fewstep.distill.watch.watch import Watch

ROOT = Path(__file__).parents[3]
RUN = ROOT / "docs" / "runs" / "2026-11-25" / "students.jsonl"
GUESSING = {"loss": CHANCE, "right": 0.5, "spread": 1.0, "grad_norm": 1.0}


def contest(turns: int, **critic: float) -> Iterator[dict[str, Any]]:
    """So many turns of either side, the critic's with these figures."""
    for update in range(2 * turns):
        side = "student" if update % 2 else "critic"
        yield {"phase": "4to2/full", "turn": side, "update": update + 1, "samples": 0, **(GUESSING | critic if side == "critic" else {"grad_norm": 1.0})}


def caught(lines: Iterator[dict[str, Any]]) -> tuple[int, str]:
    """(the critic's turns, the sentence) at which a rule ends the run; (0, "") if none does."""
    monitor, turns = Monitor(), 0
    for line in lines:
        monitor.take(line)
        turns += line["turn"] == "critic"
        if why := monitor.verdict():
            return turns, why
    return 0, ""


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"right": 1.0, "loss": 0.001}, "it has won"),
        ({"loss": 5 * CHANCE}, "run away"),
        ({"spread": 0.1}, "collapse"),
    ],
)
def test_a_broken_contest_is_caught_in_time(figures: dict[str, float], said: str) -> None:
    """After as many of the critic's turns as are stated, not sooner, with the way out."""
    turns, why = caught(contest(2 * PATIENCE, **figures))
    assert turns == PATIENCE
    assert said in why
    assert "lower" in why
    assert caught(contest(PATIENCE - 1, **figures)) == (0, "")


def test_runs_that_went_well_are_never_stopped() -> None:
    """The committed run that made the embedded students: no rule ends it, and no light of its contests is red."""
    monitor, reds = Monitor(), set()
    for text in RUN.read_text(encoding="utf8").splitlines():
        monitor.take(json.loads(text))
        assert monitor.verdict() == ""
        reds |= {light.name for light in monitor.lights() if light.colour == "red"}
    assert not reds


def test_a_student_that_does_not_move_is_caught_at_the_second_look() -> None:
    """A first look has nothing to compare with; another phase begins anew."""
    monitor = Monitor()
    monitor.look({"phase": "a/warm", "endpoint": 0.5})
    assert monitor.verdict() == ""
    monitor.look({"phase": "a/warm", "endpoint": 0.5, "moved": 0.0})
    assert "did not move" in monitor.verdict()
    monitor.look({"phase": "b/warm", "endpoint": 0.5})
    assert monitor.verdict() == ""


def test_lights_change_where_they_say() -> None:
    """Green in the middle, red at the ends, and what is not finite is red whatever else holds."""
    assert [critic_light(x).colour for x in (0.3, 0.5, 0.9, 0.99)] == ["red", "green", "yellow", "red"]
    assert [loss_light(x).colour for x in (0.5, 1.5, 3.0)] == ["green", "yellow", "red"]
    assert [gradient_light(x).colour for x in (1e-4, 2e-3, 1.0, 50.0, 1e3)] == ["red", "yellow", "green", "yellow", "red"]
    assert [spread_light(x).colour for x in (0.5, 0.8, 1.0, 1.2, 2.0)] == ["red", "yellow", "green", "yellow", "red"]
    assert [teacher_light(x).colour for x in (0.2, 0.6, 1.0, 3.0)] == ["red", "yellow", "green", "red"]
    monitor = Monitor()
    for line in contest(WINDOW):
        monitor.take(line)
    assert {light.colour for light in monitor.lights()} == {"green"}
    monitor.take({"phase": "4to2/full", "turn": "critic", "update": 99, "samples": 0, **GUESSING, "loss": math.nan})
    assert monitor.lights()[0].colour == "red"


def test_a_spectrum_sums_to_the_variance_over_space() -> None:
    """Parseval; and a chequerboard lies in the finest octave alone."""
    x = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0)) + 5
    whole = (x - x.mean((2, 3), keepdim=True)).square().mean()
    assert torch.isclose(torch.stack(spectrum(x)).sum(), whole, rtol=1e-4)
    board = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float().expand(1, 1, 16, 16)
    finest, *others = spectrum(board)
    assert torch.isclose(finest, torch.tensor(0.25), rtol=1e-4)
    assert len(others) == BANDS - 1
    assert all(power < 1e-6 for power in others)


def test_a_student_that_is_its_teacher_is_at_the_endpoint() -> None:
    """Every ratio is one and every distance nothing; halved latents have half of all."""
    wanted = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    same = compare(wanted, wanted, 2)
    assert same == pytest.approx({"endpoint": 0, "spread": 1, "shift": 0, "diversity": 1, "band1": 1, "band2": 1, "band3": 1})
    half = compare(wanted / 2, wanted, 2)
    assert half["spread"] == half["diversity"] == pytest.approx(0.5)
    assert half["band1"] == pytest.approx(0.25)
    assert float(apart(wanted[:2], 2)) == pytest.approx(float((wanted[0] - wanted[1]).square().mean().sqrt()))


def halted(phase: Phase, folder: Path, at: int, error: Exception | None) -> Run:
    """A run of ``phase`` that ends at update ``at``, by what a routine says or by SIGTERM."""
    run = Run(folder, "r")

    def act(phase: Phase, run: Run) -> None:
        if run.state.update == at:
            if error is None:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                run.stopping = error

    with pytest.raises(Terminated if error is None else type(error)):
        train(run, phase, [Routine(act, every=1)])
    return run


@pytest.mark.parametrize("error", [None, Stopped("enough")])
def test_a_run_that_was_asked_to_end_goes_on_to_the_same_bits(tmp_path: Path, error: Exception | None) -> None:
    """It saves its state first; SIGTERM means the end of the process again afterwards."""
    whole = make_phase()
    train(Run(tmp_path / "whole", "r"), whole)
    run = halted(make_phase(), tmp_path / "halted", 7, error)
    assert run.state.update == 7
    assert json.loads((run.folder / "state.json").read_text())["stopped"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = make_phase()
    train(Run(tmp_path / "halted", "r"), resumed)
    assert equal(everything(resumed), everything(whole))
    assert (tmp_path / "halted" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()


def test_a_batch_in_parts_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    """Accumulation changes nothing but rounding."""
    whole, parts = make_phase(), make_phase()
    parts.accumulate = 2
    train(Run(tmp_path / "whole", "r"), whole)
    train(Run(tmp_path / "parts", "r"), parts)
    one, other = everything(whole), everything(parts)
    assert all(torch.allclose(value, other[name], rtol=1e-3, atol=1e-5) for name, value in one.items())


def test_watching_changes_nothing_and_tells_how_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bits with and without; status.json, the report and the words on the screen agree."""
    plain, watched = make_phase(), make_phase()
    train(Run(tmp_path / "plain", "r"), plain)
    run = Run(tmp_path / "watched", "r")
    watch = Watch(run, (Part("stage/phase", UPDATES, 4, 48.0, "unet"), Part("stage/next", UPDATES, 4, 96.0, "unet")))
    train(run, watched, watch.routines())
    assert equal(everything(plain), everything(watched))
    status = read_status(run.folder)
    assert (status["state"], status["phase"], status["update"], status["stages"]) == ("running", "stage/phase", UPDATES, 1)
    assert status["seconds_left"] == pytest.approx(2 * run.state.spent["stage/phase"], rel=0.2)
    assert f"stage/phase  {UPDATES}/{UPDATES} updates" in capsys.readouterr().out
    assert "stage/phase" in report(run.folder)
    watch.finish()
    assert lines(read_status(run.folder))[0].startswith("done")
    called = CliRunner().invoke(app, ["distill", "status", str(run.folder), "--json", str(tmp_path / "status.json")])
    assert called.output.startswith("done")
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "done"


def test_time_left_is_work_over_pace() -> None:
    """A phase half done takes as long again; the next, of twice the work, twice the whole; before any pace there is no answer."""
    parts = [Part("a/warm", 10, 4, 40.0, "unet"), Part("a/full", 10, 4, 80.0, "unet")]
    assert seconds_left(parts, {"a/warm": 30.0}, (), "a/warm", 5) == pytest.approx(30 + 120)
    assert seconds_left(parts, {"a/warm": 60.0}, ("a/warm",), "a/full", 0) == pytest.approx(120)
    assert seconds_left(parts, {}, (), "a/warm", 0) is None


def test_a_process_that_is_gone_is_told_from_one_that_runs(tmp_path: Path) -> None:
    """By its number, on the same host; and a folder without a run is a sentence."""
    run = Run(tmp_path / "run", "r")
    watch = Watch(run, (Part("stage/phase", UPDATES, 4, 48.0, "unet"),))
    train(run, make_phase(), watch.routines())
    path = run.folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"process": 2**22 + 1}))
    assert read_status(run.folder)["state"] == "gone"
    assert lines(read_status(run.folder))[0].startswith("gone")
    for content in ("", "[]", "{}"):  # somebody's editor, or a full disk
        path.write_text(content)
        assert read_status(run.folder)["state"] == "silent" and read_status(run.folder)["update"] == UPDATES
    (run.folder / "teacher").mkdir()
    (run.folder / "teacher" / "status.json").write_text('{"state": "done"}')
    assert read_status(run.folder)["state"] == "silent", "that of its teacher's run says nothing of it"
    (run.folder.parent / "begun" / "latents").mkdir(parents=True)
    with pytest.raises(RecipeError, match="has not begun to learn"):
        read_status(run.folder.parent / "begun")
    with pytest.raises(RecipeError, match="holds no run"):
        read_status(tmp_path)


def test_durations_have_two_units_at_most() -> None:
    """Rounded to what a person would say."""
    assert [duration(s) for s in (47, 720, 12_000, 187_200)] == ["47 s", "12 min", "3 h 20 min", "2 d 4 h"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_looks_leave_a_distillation_as_it_is_and_stop_a_frozen_student(tmp_path: Path) -> None:
    """A tiny plan's losses are the same with looks and without; with a learning rate of next to nothing the second look ends it."""
    recipes = ROOT / "recipes"
    small = ["autoencoder.updates=2", "text.updates=2", "teacher.updates=2", "vocabulary_captions=50", "data.pictures=64"]
    teacher = train_teacher(recipes / "smoke-teacher.toml", tmp_path / "teacher", small)
    stages = (
        "stages=[{kind='mse', teacher_steps=4, steps=2, n=2, mse=6}, {teacher_steps=2, steps=1, n=2, prediction_type='sample', "
        "convert=4, warm=4, conditional=4, unconditional=4, full=4}]"
    )
    settings = ["data.pictures=64", "batch_size=2", "evaluation.prompts=0", f"teacher={json.dumps(str(teacher))}", stages]
    for name, every in (("blind", 0), ("seen", 3)):
        distill(recipes / "smoke.toml", tmp_path / name, [*settings, f"health.every={every}"])
    assert (tmp_path / "seen" / "metrics.jsonl").read_text() == (tmp_path / "blind" / "metrics.jsonl").read_text()
    looks = [json.loads(text) for text in (tmp_path / "seen" / "health.jsonl").read_text().splitlines()]
    assert {"endpoint", "diversity", "spread", "band1", "teacher_spread"} <= looks[0].keys()
    assert list((tmp_path / "seen" / "samples").glob("*.jpg"))
    frozen = [*settings, "teacher=emoji", "health.every=2", "health.stop=true", "mse_learning_rate=1e-30"]
    with pytest.raises(Stopped, match="did not move"):
        distill(recipes / "smoke.toml", tmp_path / "frozen", frozen)
    assert json.loads((tmp_path / "frozen" / "state.json").read_text())["update"] == 4
