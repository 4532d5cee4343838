"""Checkpoints in one file, as fine-tunes are published: what they are is read from the header, and their pictures are the folder's."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.headers import original, sparse
from tests.tiny import tiny_bundle

from fewstep import Engine, Request
from fewstep.engine.backends import BackendError
from fewstep.engine.model import open_model
from fewstep.export import write
from fewstep.stamp import StepMismatch
from fewstep.zoo.recognise import recognise
from fewstep.zoo.registry import ModelError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return tiny_bundle(tmp_path_factory.mktemp("checkpoints") / "tiny", students=(2, 4))


@pytest.fixture(scope="module")
def four(tiny: Path) -> Path:
    """Its four-step student in one file."""
    return write(tiny, 4, "single-file", tiny.parent / "four.safetensors")


@pytest.fixture(scope="module")
def foreign(tiny: Path) -> Path:
    """Its teacher in one file that says nothing of itself, as other tools write it."""
    stamped = write(tiny, 32, "single-file", tiny.parent / "stamped.safetensors")
    save_file(load_file(stamped), tiny.parent / "foreign.safetensors")
    return tiny.parent / "foreign.safetensors"


def pixels(engine: Engine, steps: int) -> np.ndarray:
    """Of one picture."""
    return np.asarray(engine.generate(Request("a ghost", seed=3, steps=steps)).image)


def test_a_student_in_one_file_makes_the_folders_picture(tiny: Path, four: Path) -> None:
    """To the bit; its stamp says the steps, and the folder lends configurations and tokenizers alone."""
    engine = Engine.load(str(four), base=str(tiny), backend="eager")
    assert engine.limits.students == (4,)
    assert np.array_equal(pixels(engine, 4), pixels(Engine.load(str(tiny), backend="eager"), 4))
    with pytest.raises(StepMismatch, match="trained for 4 steps"):
        open_model(str(four), 2, str(tiny))


def test_few_step_weights_go_on_a_checkpoint_and_come_off(tiny: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one network that changes its weights, as SDXL's do: what a student changed is read from the file again."""
    monkeypatch.setattr("fewstep.models.students.ROOM", 0)
    monkeypatch.setattr("fewstep.engine.parts.SDXL_TEXT", recognise(foreign).width)  # as if the tiny model were SDXL, and in the Hub's cache
    monkeypatch.setattr("fewstep.engine.parts.configured", lambda known: tiny)
    engine = Engine.load(few_step=str(tiny / "students" / "2-step.safetensors"), base=str(foreign), backend="eager")
    folder = Engine.load(str(tiny), backend="eager")
    before = pixels(engine, 16)
    assert np.array_equal(pixels(engine, 2), pixels(folder, 2))
    assert np.array_equal(pixels(engine, 16), before)
    assert not np.array_equal(pixels(engine, 2), before)


def test_other_dimensions_need_a_folder(foreign: Path, four: Path) -> None:
    """Nothing is guessed, whoever wrote the file: the sentence says what to give."""
    for file in (foreign, four):
        with pytest.raises(ModelError, match="--base a folder"):
            open_model(str(file))


def test_onnxruntime_has_no_graphs_for_it(tiny: Path, four: Path) -> None:
    """It says so."""
    with pytest.raises(BackendError, match="--backend eager"):
        Engine.load(str(four), base=str(tiny), backend="onnxruntime")


def test_sdxl_is_recognised_in_less_than_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the header of a file of 6.9 GB, none of which is read; its missing tokenizers are a sentence with what to type."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    path = sparse(tmp_path / "sd_xl_base_1.0.safetensors", original())
    assert 6.9e9 < path.stat().st_size < 7e9
    begun = time.perf_counter()
    found = recognise(path)
    assert time.perf_counter() - begun < 1
    assert found.whole and found.sentence() == "a checkpoint of SDXL in the original layout; F16, 6.94 GB"
    with pytest.raises(ModelError, match=r"hf download stabilityai/stable-diffusion-xl-base-1\.0"):
        open_model(str(path))
