"""Runs that are broken on purpose, and ends that come from outside: each is caught in time, says so, and can go on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file
from tests.unit.distill.test_trainer import UPDATES, equal, everything, logged, make_phase

from fewstep.distill import state
from fewstep.distill.pretrain import train_teacher
from fewstep.distill.state import DiskFull, Run
from fewstep.distill.trainer import NonFinite, Stopped, train
from fewstep.distill.walk import distill
from fewstep.distill.watch.health import BLIND_TURNS
from fewstep.distill.watch.watch import Watch

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "recipes"
TEACHER = ["autoencoder.updates=2", "text.updates=2", "teacher.updates=2", "vocabulary_captions=50", "data.pictures=64"]
CONTEST = "stages=[{teacher_steps=4, steps=2, n=2, unconditional=60}]"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_teacher(RECIPES / "smoke-teacher.toml", tmp_path_factory.mktemp("run") / "teacher", TEACHER)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_critic_at_a_hundred_times_its_rate_is_caught(teacher: Path, tmp_path: Path) -> None:
    """It unlearns everything within some ten turns and then says the same of every picture: the run ends within 60 updates in all."""
    rate = 100 * 3e-5
    settings = [f"teacher={json.dumps(str(teacher))}", "data.pictures=64", "batch_size=4", "health={every=0, stop=true}", "evaluation.prompts=0", CONTEST]
    with pytest.raises(Stopped, match="critic_learning_rate"):
        distill(RECIPES / "smoke.toml", tmp_path / "run", [*settings, f"critic_learning_rate={rate}"])
    stopped = json.loads((tmp_path / "run" / "state.json").read_text())
    assert 2 * BLIND_TURNS <= stopped["update"] < 60
    assert stopped["checkpoint"] and (tmp_path / "run" / stopped["checkpoint"]).is_file()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "stopped"
    assert "red" in {light["colour"] for light in status["lights"] if light["name"] == "critic's variety"}


def test_a_loss_that_is_no_number_leaves_the_state_of_the_update_before(tmp_path: Path) -> None:
    """Saved, named in status.json, and to the bit what a run that ended there has."""
    broken = make_phase(poison=22)  # in update 6
    run = Run(tmp_path / "broken", "r")
    with pytest.raises(NonFinite):
        train(run, broken, Watch(run, ()).routines())
    whole = make_phase(updates=5)
    train(Run(tmp_path / "whole", "r"), whole)
    loaded = make_phase()
    again = Run(tmp_path / "broken", "r")
    assert again.begin("stage/phase")
    again.load(loaded.models, loaded.optimizers, loaded.averages)
    assert equal(everything(loaded), everything(whole))
    assert "samples 20 to 23" in json.loads((tmp_path / "broken" / "status.json").read_text())["why"]


WATCHED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.unit.distill.test_trainer import make_phase
from fewstep.distill.state import Run
from fewstep.distill.trainer import Routine, train
from fewstep.distill.watch.watch import Watch
run = Run(Path(sys.argv[2]), "r")
watch = Watch(run, ())
train(run, make_phase(updates=40), [*watch.routines(), Routine(watch._tell, every=1)])
"""
SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.unit.distill.test_trainer import make_phase
from fewstep import cli
from fewstep.distill.state import Run
from fewstep.distill.trainer import Routine, train
cli.app = lambda *_, **__: train(Run(Path(sys.argv[2]), "r"), make_phase(updates=4000), [Routine(lambda phase, run: time.sleep(0.005), every=1)])
cli.main()
"""


@pytest.mark.slow
def test_sigterm_of_a_real_process_saves_and_goes_on(tmp_path: Path) -> None:
    """One sentence, exit code 130 and a checkpoint of the very last update that was logged, though none was due."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(ROOT), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
    for _ in range(6000):
        if (tmp_path / "metrics.jsonl").is_file() and len(logged(tmp_path)) >= 5:
            break
        assert process.poll() is None, "ended before it could be stopped"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("fewstep: stopped by SIGTERM")
    assert said.count("\n") == 1
    kept = json.loads((tmp_path / "state.json").read_text())
    assert kept["update"] == len(logged(tmp_path)) < 4000
    assert kept["metrics_bytes"] == (tmp_path / "metrics.jsonl").stat().st_size
    assert (tmp_path / kept["checkpoint"]).is_file()


def test_a_run_goes_on_when_nobody_reads_its_progress(tmp_path: Path) -> None:
    """As with ``| head -1``, and stderr in the same pipe: all updates are made, and what goes to stderr alone says that nobody listens."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    for name, stderr in (("apart", subprocess.PIPE), ("together", subprocess.STDOUT)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-c", WATCHED, str(ROOT), str(tmp_path / name)]
        done = subprocess.run(command, env=environment, stdout=writer, stderr=stderr, text=True, timeout=100, check=False)
        os.close(writer)
        assert done.returncode == 0, done.stderr
        assert len(logged(tmp_path / name)) == 40
        assert done.stderr in (None, "fewstep: nobody reads the output any more; the work goes on\n")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")])
def test_a_full_disk_is_a_sentence_and_costs_nothing_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The checkpoint before stays whole, no half of the new one is left, and with room the run ends as if nothing had been."""

    def full(tensors: Mapping[str, Any], path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise error

    run = Run(tmp_path / "run", "r")
    phase = make_phase()
    run.begin(phase.name)
    run.state.update, run.state.samples = 0, 0
    run.save(phase.models, phase.optimizers, phase.averages)
    before = run.state.checkpoint
    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(DiskFull, match="make room") as caught:
        train(run, phase)
    assert "\n" not in str(caught.value)
    assert [path.name for path in run.folder.glob("checkpoint-*")] == [before]
    monkeypatch.setattr(state, "save_file", save_file)
    resumed, whole = make_phase(), make_phase()
    train(Run(tmp_path / "run", "r"), resumed)
    train(Run(tmp_path / "whole", "r"), whole)
    assert equal(everything(resumed), everything(whole))
    assert len(logged(tmp_path / "run")) == UPDATES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The kernel's own ENOSPC, for a line of metrics."""
    run = Run(tmp_path, "r")
    run._metrics.close()
    with Path("/dev/full").open("ab", buffering=0) as full:
        run._metrics = full
        with pytest.raises(DiskFull):
            run.log({"phase": "a", "turn": "student", "update": 1})


def test_another_error_of_the_system_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), Run(tmp_path, "r").room(8):
        raise PermissionError(errno.EACCES, "no")
