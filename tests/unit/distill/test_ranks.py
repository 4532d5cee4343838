"""Several ranks under torchrun, each with all weights or with shares: the same run as one rank's, through kills and other numbers of ranks."""

from __future__ import annotations

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
from safetensors.torch import load_file

from fewstep.distill import dist
from fewstep.distill.pretrain import train_teacher
from fewstep.distill.recipe import RecipeError
from fewstep.distill.walk import distill
from fewstep.distill.watch.status import read_status

RECIPES = Path(__file__).parents[3] / "recipes"
TEACHER = ["autoencoder.updates=2", "text.updates=2", "teacher.updates=2", "vocabulary_captions=50", "data.pictures=64"]
RECIPE = """
teacher = "{teacher}"
precision = "float32"
batch_size = 4
reuse = 2
rank = 4
alpha = 8.0
ship_rank = 3

[evaluation]
prompts = 0

[health]
stop = false

[data]
source = "shapes"
subjects = 6
pictures = 64

[[stages]]
teacher_steps = 4
steps = 2
n = 2
warm = 4
conditional = 2
unconditional = 2
full = 2
adapter = 2

[[stages]]
teacher_steps = 2
steps = 1
n = 2
levels = [1, 2]
prediction_type = "sample"
convert = 2
unconditional = 2
full = 2
"""
PROGRAM = """
import torch
from torch import nn
from fewstep.distill import dist
from fewstep.distill.sharding import in_shares, spread

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
    def forward(self, x, added):
        assert added["time_ids"].dtype == torch.float32 and added["time_ids"][0, 0] == 1365, added
        return self.layer(x)

dist.start()
net = Net()
spread(net, torch.bfloat16)
assert in_shares(net)
x = torch.randn(2, 6)
with torch.autocast("cpu", dtype=torch.bfloat16):
    assert net(x, {"time_ids": torch.full((2, 6), 1365.0)}).dtype == torch.bfloat16
print("as they are", flush=True)

net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
spread(net, torch.bfloat16)
with torch.autocast("cpu", dtype=torch.bfloat16):
    net.requires_grad_(False)  # as a critic is in the student's turn, which a run may go on with
    net(x)
    net.requires_grad_(True)
    net(x).float().sum().backward()
assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in net.parameters())
print("it learns", flush=True)
"""
SPREAD = ("--set", "sharded=true", "--set", "checkpointing=true")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    teacher = train_teacher(RECIPES / "smoke-teacher.toml", folder / "teacher", TEACHER)
    (folder / "recipe.toml").write_text(RECIPE.format(teacher=teacher))
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    distill(recipe, recipe.parent / "alone")
    return recipe.parent / "alone"


def start(recipe: Path, run: Path, ranks: int, *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "fewstep"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FEWSTEP_RUNS": str(run.parent)}  # torchrun takes --run for its own
    (named := run.parent / f"{run.name}.toml").write_text(recipe.read_text())
    arguments = ["distill", str(named), *settings]
    return subprocess.Popen([*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]
    return output


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(one: Path, other: Path) -> None:
    """The losses of two runs agree within rounding, and so do their students."""
    ours, theirs = lines(one), lines(other)
    assert [(line["phase"], line["turn"], line["update"]) for line in ours] == [(line["phase"], line["turn"], line["update"]) for line in theirs]
    for line, wanted in zip(ours, theirs, strict=True):
        assert line.keys() == wanted.keys()
        for key in wanted.keys() - {"phase", "turn"}:
            assert line[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-3), (key, line, wanted)
    for steps in (2, 1):
        first, second = (load_file(run / "weights" / f"{steps}-step.safetensors") for run in (one, other))
        assert first.keys() == second.keys()
        for key in first:
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=2e-3, msg=key)


def changes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as they are, and of a LoRA what it adds: where singular values are near each other, its factors hang on the last bits."""
    ups = {key: tensors[key.replace("lora_down", "lora_up")].flatten(1) for key in tensors if "lora_down" in key}
    own = {key: value for key, value in tensors.items() if "lora_" not in key}
    return {**own, **{key: up.float() @ tensors[key].float().flatten(1) for key, up in ups.items()}}


def children(process: subprocess.Popen[str]) -> list[int]:
    """The ranks of a run, by process number."""
    found = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("settings", [(), SPREAD], ids=["whole", "shares"])
def test_two_ranks_compute_what_one_does(recipe: Path, alone: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    finish(start(recipe, tmp_path / "two", 2, *settings))
    same(tmp_path / "two", alone)
    for file, bound in (("1-step-unet.safetensors", 2e-3), ("2-step-lora.safetensors", 5e-5)):  # the LoRA has another rank and scale than those of the contest
        first, second = (changes(load_file(run / "model" / "students" / file)) for run in (tmp_path / "two", alone))
        assert first.keys() == second.keys()
        for key in first:
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=bound, msg=key)


@pytest.mark.slow
def test_a_network_in_shares_takes_what_comes_and_learns_after_it_was_frozen(tmp_path: Path) -> None:
    """In bfloat16 1365 would be 1368: what multiplies is cast, and not what comes in."""
    (script := tmp_path / "shares.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    assert (found.stdout.count("as they are"), found.stdout.count("it learns")) == (2, 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_in_shares_whose_rank_is_killed_goes_on_with_another_number_of_ranks(recipe: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = start(recipe, run, 2, *SPREAD, "--set", "save_seconds=0.0")
    deadline = time.monotonic() + 400
    while not list(run.glob("checkpoint-4to2-conditional-1*")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(children(process)[1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    seen = len(lines(run))
    assert seen < len(lines(alone))
    distill(run.parent / f"{run.name}.toml", run, ["sharded=true", "checkpointing=true"])  # alone: what was in shares is read whole
    same(run, alone)


@pytest.mark.parametrize(("size", "alike", "says"), [(4, True, "teacher.batch_size = 4: 3 ranks"), (6, False, "the ranks have different recipes")])
def test_ranks_that_cannot_work_together_are_a_sentence(monkeypatch: pytest.MonkeyPatch, size: int, alike: bool, says: str) -> None:
    monkeypatch.setattr(dist, "world", lambda: 3)
    monkeypatch.setattr(dist, "alike", lambda number: alike)
    with pytest.raises(RecipeError, match=says):
        dist.check("0a1b", {"teacher.batch_size": size})


ENDS = """
import os, sys
from pathlib import Path
from fewstep.data.shards import ShardsError
from fewstep.distill import dist, latents
from fewstep.distill.state import DiskFull, Run
from fewstep.distill.walk import distill

kind, recipe, run = sys.argv[1:]
log, batch, seen = Run.log, latents.Latents.batch, []

def full(self, line):
    if dist.rank() == 0 and self.state.update == 3:
        raise DiskFull("no room")
    log(self, line)

def damaged(self, indices, *rest):
    seen.append(indices)
    if dist.rank() == 1 and len(seen) == 3:
        raise ShardsError("00001.safetensors is damaged")
    return batch(self, indices, *rest)

if kind == "full":
    Run.log = full
else:
    latents.Latents.batch = damaged
try:
    distill(Path(recipe), Path(run), ["sharded=true", "evaluation.prompts=2", "evaluation.figure=distance", "health.every=2"])
except Exception as error:
    print(f"rank {dist.rank()} {type(error).__name__} {error}", flush=True)
    os._exit(1)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "said"), [("full", ["rank 0 DiskFull no room"]), ("damaged", [f"rank {rank} Unread 00001.safetensors is damaged" for rank in (0, 1)])]
)
def test_what_one_rank_meets_ends_all_and_is_told(recipe: Path, tmp_path: Path, kind: str, said: list[str]) -> None:
    """Whoever ends alone waits for nobody, whose looks and evaluations are drawn together; what samples cannot be read all ranks and status say."""
    (script := tmp_path / "ends.py").write_text(ENDS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), kind, str(recipe), str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert found.returncode != 0
    for line in said:
        assert line in found.stdout, found.stderr[-3000:]
    status = read_status(tmp_path / "run")
    assert (status["state"], status["why"]) == ("stopped", said[0].split(maxsplit=3)[3])


@pytest.mark.slow
def test_ranks_that_do_not_divide_the_batch_are_refused(recipe: Path, tmp_path: Path) -> None:
    process = start(recipe, tmp_path / "three", 3)
    output, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "batch_size = 4" in output
    assert "3 ranks" in output
    assert not (tmp_path / "three" / "metrics.jsonl").exists() or not lines(tmp_path / "three")
