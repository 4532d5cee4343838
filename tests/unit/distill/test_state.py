"""A run on disk survives being stopped at any moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewstep.distill.ema import Ema
from fewstep.distill.recipe import RecipeError
from fewstep.distill.sharding import save_shares
from fewstep.distill.state import Run, State, write_text


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is cleaned up."""


def parts(seed: int = 0) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer], dict[str, Ema]]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    return {"student": model}, {"student": torch.optim.Adam(model.parameters(), lr=0.1)}, {"student": Ema(model, 0.9)}


def advance(run: Run, models: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer], averages: dict[str, Ema]) -> None:
    models["student"](torch.ones(1, 3) * (1 + run.state.update)).square().sum().backward()
    optimizers["student"].step()
    optimizers["student"].zero_grad()
    averages["student"].update(models["student"])
    run.state.update += 1
    run.state.samples += 4
    run.log({"phase": run.state.phase, "update": run.state.update})


def weights(models: dict[str, nn.Module]) -> list[torch.Tensor]:
    return [value.clone() for value in models["student"].state_dict().values()]


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["update"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_checkpoint_restores_everything(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    assert run.begin("stage/phase") is False
    for _ in range(3):
        advance(run, *mine)
    run.save(*mine)
    again, reopened = parts(seed=1), Run(tmp_path, "r")
    assert reopened.state == run.state
    assert reopened.begin("stage/phase") is True
    reopened.load(*again)
    for _ in range(2):  # weights, moments and averages: if any were lost the two would part
        advance(run, *mine)
        advance(reopened, *again)
    assert all(torch.equal(a, b) for a, b in zip(weights(mine[0]), weights(again[0]), strict=True))
    assert all(torch.equal(mine[2]["student"].weights[key], again[2]["student"].weights[key]) for key in ("weight", "bias"))


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("p")
    advance(run, *mine)
    run.save(*mine)
    advance(run, *mine)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"phase": "p", "upda')  # torn by the kill
    assert Run(tmp_path, "r").state.update == 1
    assert logged(tmp_path) == [1]


def test_state_says_how_long_the_lines_are_once_they_are_cut_back(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("p")
    advance(run, *mine)
    run.save(*mine)
    advance(run, *mine)
    reopened = Run(tmp_path, "r")  # one line is cut off
    reopened.finish()  # and the state is written before there is another
    assert State.read(tmp_path / "state.json").metrics_bytes == (tmp_path / "metrics.jsonl").stat().st_size


def test_lines_that_somebody_cut_are_missed_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("p")
    for _ in range(3):
        advance(run, *mine)
    run.save(*mine)
    os.truncate(tmp_path / "metrics.jsonl", (tmp_path / "metrics.jsonl").stat().st_size - 5)
    reopened = Run(tmp_path, "r")
    assert "metrics.jsonl has lost 5 bytes" in capsys.readouterr().err
    advance(reopened, *mine)
    assert logged(tmp_path) == [1, 2, 4]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no whole JSON"),
        ("{", "no whole JSON"),
        ("[]", "does not say 'recipe'"),
        ("3", "no whole JSON"),
        ('{"recipe": "r"}', "does not say 'phase'"),
        ('{"recipe": "r", "phase": "p", "done": [], "update": "many"}', "'update' is not what this version of fewstep writes"),
        ('{"recipe": "r", "phase": "p", "done": [], "mood": 1}', "'mood' is not what this version of fewstep writes"),
    ],
)
def test_a_damaged_state_is_a_sentence_with_the_way_out(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(RecipeError, match=rf"state\.json cannot be used \(.*{says}.*--run"):
        Run(tmp_path, "r")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "another's", "no shares", "a cut share"])
def test_a_damaged_checkpoint_is_a_sentence_with_the_way_out(tmp_path: Path, damage: str) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("p")
    advance(run, *mine)
    run.save(*mine)
    file = tmp_path / run.state.checkpoint
    if damage == "another's":
        save_file({"model/student/weight": torch.zeros(2, 3)}, file)
    elif damage in ("empty", "half"):
        file.write_bytes(b"half" * (damage == "half"))
    else:
        file.unlink()
        if damage == "no shares":
            file.mkdir()
        if damage == "a cut share":
            save_shares({"model/student/weight": torch.zeros(2, 3)}, file)
            for share in file.iterdir():
                os.truncate(share, 20)
    reopened = Run(tmp_path, "r")
    with pytest.raises(RecipeError, match=rf"{file.name} cannot be used \(.*--run"):
        reopened.load(*mine)


@pytest.mark.parametrize("where", ["save_file", "replace", "unlink"])
def test_a_kill_while_saving_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Half a checkpoint; a whole one that state.json does not name yet; the old one not yet removed."""
    from fewstep.distill import state

    mine, run = parts(), Run(tmp_path, "r")
    run.begin("p")
    advance(run, *mine)
    run.save(*mine)
    at_one = weights(mine[0])
    advance(run, *mine)
    at_two = weights(mine[0])

    def torn(tensors: object, path: Path, *args: object, **kwargs: object) -> None:
        Path(path).write_bytes(b"half")
        raise Killed

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if where == "save_file":
            patch.setattr(state, "save_file", torn)
        elif where == "replace":
            patch.setattr(os, "replace", killed)
            patch.setattr(Path, "replace", killed)
        else:
            patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            run.save(*mine)
    again, reopened = parts(seed=1), Run(tmp_path, "r")
    assert reopened.begin("p") is True
    reopened.load(*again)
    committed = where == "unlink"
    assert reopened.state.update == (2 if committed else 1)
    assert logged(tmp_path) == ([1, 2] if committed else [1])
    assert all(torch.equal(a, b) for a, b in zip(weights(again[0]), at_two if committed else at_one, strict=True))
    advance(reopened, *again)
    reopened.save(*again)
    assert Run(tmp_path, "r").state.update == (3 if committed else 2)


def test_an_old_checkpoint_goes_when_the_next_is_current(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("a/b")
    for _ in range(3):
        advance(run, *mine)
        run.save(*mine)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [run.state.checkpoint]
    run.finish()
    assert not list(tmp_path.glob("checkpoint-*"))
    assert Run(tmp_path, "r").state.done == ("a/b",)


def test_what_a_kill_left_behind_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("p")
    advance(run, *mine)
    run.save(*mine)
    strays = [tmp_path / "checkpoint-p-9.safetensors", tmp_path / "weights" / ".4-step.safetensors.77.tmp"]
    for path in strays:
        path.write_bytes(b"half")
    (tmp_path / "checkpoint-p-8").mkdir()
    reopened = Run(tmp_path, "r")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [run.state.checkpoint] and not strays[1].exists()
    reopened.load(*mine)


def test_a_finished_phase_is_on_record_and_the_next_starts_at_zero(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("first")
    advance(run, *mine)
    run.finish()
    assert run.begin("second") is False
    assert (run.state.update, run.state.samples, run.state.done) == (0, 0, ("first",))
    advance(run, *mine)
    reopened = Run(tmp_path, "r")  # killed before the second's first checkpoint
    assert reopened.state.done == ("first",) and reopened.begin("second") is False
    assert [json.loads(line)["phase"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == ["first"]


def test_a_run_of_another_recipe_is_refused_and_untouched(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "aaa")
    run.begin("p")
    advance(run, *mine)
    run.save(*mine)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=r"another recipe \(aaa, not bbb\).*--run"):
        Run(tmp_path, "bbb")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_state_json_is_readable_and_whole(tmp_path: Path) -> None:
    mine, run = parts(), Run(tmp_path, "r")
    run.begin("p")
    advance(run, *mine)
    run.save(*mine)
    record = json.loads((tmp_path / "state.json").read_text())
    assert State(**{**record, "done": tuple(record["done"])}) == run.state
    assert record["metrics_bytes"] == (tmp_path / "metrics.jsonl").stat().st_size
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_write_text_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(Killed):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.slow
def test_a_run_is_one_processs_at_a_time(tmp_path: Path) -> None:
    """A second one is refused before it cuts a line of the first one's off, and let in once that has ended."""
    pytest.importorskip("fcntl")
    hold = "import sys, time; from pathlib import Path; from fewstep.distill.state import Run\n"
    hold += "run = Run(Path(sys.argv[1]), 'r'); run.log({'update': 1}); print('held', flush=True); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(RecipeError, match="another process"):
            Run(tmp_path, "r")
        assert (tmp_path / "metrics.jsonl").read_text() == '{"update": 1}\n'
        other.kill()
    Run(tmp_path, "r")
