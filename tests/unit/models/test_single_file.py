"""A model in one file: read back to the bit, and refused in a sentence where it is not one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import SMALLER, tiny_bundle

from fewstep.export import write
from fewstep.models.bundle import load_bundle
from fewstep.models.keys import LOGIT_SCALE, POSITIONS, PREFIXES, UNET
from fewstep.models.single_file import read_single_file
from fewstep.models.weights import WeightsError, read_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return tiny_bundle(tmp_path_factory.mktemp("single") / "tiny", students=(4,))


@pytest.fixture(scope="module")
def whole(tiny: Path) -> Path:
    """Its four-step student as one file."""
    return write(tiny, 4, "single-file", tiny.parent / "four.safetensors")


def test_a_round_trip_is_exact(tiny: Path, whole: Path) -> None:
    """Every tensor comes back to the bit, and the stamp with them; of the folder only configurations and tokenizers are read."""
    folder = write(tiny, 4, "diffusers", tiny.parent / "four")
    own = load_bundle(folder)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    back = read_single_file(whole, folder)
    for part, network in own.models.items():
        assert all(torch.equal(value, back.models[part].state_dict()[name]) for name, value in network.state_dict().items()), part
    assert back.stamp == own.stamp
    assert (back.stamp.steps, back.stamp.kind) == (4, "unet")


def test_tensors_that_nothing_reads_may_be_missing(tiny: Path, whole: Path, tmp_path: Path) -> None:
    """Fine-tunes come with and without them."""
    tensors = load_file(whole)
    del tensors[POSITIONS], tensors[LOGIT_SCALE]
    save_file(tensors, tmp_path / "without.safetensors")
    read_single_file(tmp_path / "without.safetensors", tiny)


def changed(whole: Path, out: Path, name: str, value: torch.Tensor | None) -> Path:
    """A copy of ``whole`` with one tensor changed or taken away."""
    tensors = load_file(whole)
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value
    save_file(tensors, out)
    return out


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (PREFIXES[UNET] + "out.2.bias", None, "'model.diffusion_model.out.2.bias' is missing"),
        (PREFIXES[UNET] + "out.2.bias", torch.zeros(7), "has shape [7], not [4]"),
        (PREFIXES[UNET] + "out.3.bias", torch.zeros(4), "'model.diffusion_model.out.3.bias' is not known"),
        ("model_ema.decay", torch.zeros(1), "'model_ema.decay' is not known"),
        (PREFIXES[UNET] + "out.2.bias", torch.full((4,), torch.nan), "not finite"),
    ],
)
def test_what_almost_fits_is_refused(tiny: Path, whole: Path, tmp_path: Path, name: str, value: torch.Tensor | None, said: str) -> None:
    """The sentence names the tensor."""
    with pytest.raises(WeightsError) as error:
        read_single_file(changed(whole, tmp_path / "odd.safetensors", name, value), tiny)
    assert said in str(error.value)


def test_what_is_no_such_file_is_refused(tiny: Path, whole: Path, tmp_path: Path) -> None:
    """Cut off, missing, or a pickle by its name."""
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    for path in (cut, tmp_path / "none.safetensors", tmp_path / "model.ckpt"):
        with pytest.raises(WeightsError, match=path.name):
            read_single_file(path, tiny)


def test_a_unet_alone_is_in_released_names(tiny: Path) -> None:
    """As SDXL-Lightning's files are: diffusers' names without a prefix, float16, and a stamp that says how to sample."""
    path = write(tiny, 4, "unet", tiny.parent / "files")
    assert path.name == "tiny-4-step-unet.safetensors"
    tensors = read_weights(path)
    own = load_bundle(write(tiny, 4, "diffusers", tiny.parent / "four-again")).unet.state_dict()
    assert tensors.keys() == own.keys()
    assert all(value.dtype == torch.float16 and torch.equal(value.float(), own[name]) for name, value in tensors.items())


LOADING = """
import json, re, sys, threading, time
from pathlib import Path
import torch
from fewstep.models.bundle import load_bundle
from fewstep.models.single_file import read_single_file

file, folder = map(Path, sys.argv[1:])

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

def watched(load):
    before = peak = held()
    done = threading.Event()
    def watch():
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, held())
    watching = threading.Thread(target=watch)
    watching.start()
    kept.append(load())
    done.set()
    watching.join()
    return peak - before

kept = [load_bundle(folder.with_name("tiny"))]  # what is loaded once and for all
ways = (lambda: read_single_file(file, folder, dtype=torch.float16), lambda: load_bundle(folder, dtype=torch.float16))
print(json.dumps([watched(load) for load in ways]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much of a process's memory is its own")
def test_a_large_model_is_in_memory_once(tiny: Path, tmp_path: Path) -> None:
    """Of one file and of a folder alike: the most memory that a process has of its own while it loads is the file's size, and a tensor.

    Tensors go back to the system as they are freed; in glibc's own heap up to a third of the file stays as holes, which are no second copy.
    """
    shape = dataclasses.replace(SMALLER, unet_channels=(64, 448), unet_heads=(1, 7), unet_transformers=(1, 2))
    folder = tiny_bundle(tmp_path / "large", students=(), shape=shape)
    shutil.copytree(tiny, tmp_path / "tiny")
    file = write(folder, 32, "single-file", tmp_path / "large.safetensors")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", LOADING, str(file), str(folder)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    size = file.stat().st_size
    assert size > 1e8
    assert all(0.9 * size < peak < 1.2 * size for peak in json.loads(done.stdout)), (size, done.stdout)
