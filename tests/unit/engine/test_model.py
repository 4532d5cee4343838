"""What a model on disk can do, and weights that cannot be used."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.engine.engine import Engine
from fewstep.engine.model import UNET, open_model
from fewstep.engine.request import Request
from fewstep.models.weights import WeightsError
from fewstep.stamp import Stamp, StepMismatch, file_hash
from fewstep.zoo.registry import ModelError, embedded, find, names, peek, students


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def test_a_folder_says_what_it_can_do(tiny: Path) -> None:
    model = open_model(str(tiny))
    assert (model.limits.factor, model.limits.native) == (16, 256)
    assert (model.limits.students, model.limits.teacher, model.limits.default_steps) == ((1, 2, 4, 8), True, 4)
    assert model.hash(2) == file_hash(tiny / "students" / "2-step.safetensors")
    assert model.hash(32) == file_hash(tiny / UNET)


def test_without_students_the_default_is_the_teacher(copy: Path) -> None:
    shutil.rmtree(copy / "students")
    assert open_model(str(copy)).limits.default_steps == 32


def test_without_four_steps_the_default_is_the_most(copy: Path) -> None:
    for steps in (4, 8):
        (copy / "students" / f"{steps}-step.safetensors").unlink()
    assert open_model(str(copy)).limits.default_steps == 2


def test_one_file_is_opened_on_the_model_around_it(tiny: Path) -> None:
    path = tiny / "students" / "2-step.safetensors"
    alone, sibling = Engine.load(str(path)), Engine.load(str(tiny))
    assert (alone.limits.students, alone.limits.teacher, alone.limits.default_steps) == ((2,), False, 2)
    request = Request("pizza", seed=1, steps=2, width=64, height=64)
    assert alone.generate(request).image.tobytes() == sibling.generate(request).image.tobytes()


def test_one_file_asked_for_other_steps_names_the_flag(tiny: Path) -> None:
    with pytest.raises(StepMismatch, match="trained for 4 steps and asked for 2: use --steps 4"):
        open_model(str(tiny / "students" / "4-step.safetensors"), steps=2)


def test_a_folder_for_one_step_count_is_held_to_it(copy: Path) -> None:
    shutil.rmtree(copy / "students")
    save_file(load_file(copy / UNET), copy / UNET, metadata=Stamp(kind="unet", steps=4).to_metadata())
    assert open_model(str(copy)).limits.students == (4,)
    assert Engine.load(str(copy)).generate(Request("pizza", seed=1, width=64, height=64)).steps == 4
    with pytest.raises(StepMismatch, match="use --steps 4"):
        open_model(str(copy), steps=2)


def test_a_file_without_a_stamp_and_a_teachers_are_refused(copy: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    (copy / "other").mkdir()
    for target in (plain, copy / "other" / "plain.safetensors"):
        save_file(load_file(copy / UNET), target)
    with pytest.raises(ModelError, match="does not say how many steps"):
        open_model(str(copy / "other" / "plain.safetensors"))
    save_file({"x": torch.zeros(1)}, plain)
    with pytest.raises(ModelError, match=r"is no model of SDXL's kind, but nothing that is known; F32, 0\.0 MB: give a whole model"):
        open_model(str(plain))
    with pytest.raises(ModelError, match="teacher's UNet alone"):
        open_model(str(copy / UNET))


def test_known_names_and_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "emoji" in names()
    for missing in ("nothing", "nothing.safetensors", "a/b"):
        with pytest.raises(ModelError, match=f"there is no model '{missing}': give one of emoji"):
            find(missing)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match="is no model"):
        find("notes.txt")
    with pytest.raises(ModelError, match=r"holds no model_index\.json"):
        open_model(str(tmp_path))


def test_a_known_name_comes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "emoji").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewstep.zoo.registry.embedded", lambda name: tmp_path / "elsewhere" / name)
    with pytest.raises(ModelError, match="not in this installation"):
        find("emoji")
    assert embedded("emoji").name == "emoji"


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".pkl"])
def test_a_pickle_is_never_opened(tmp_path: Path, suffix: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="only safetensors are read"):
        find(str(path))
    assert not (tmp_path / "sprung").exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def disguise(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1.0]}) * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def boast(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


def nest(path: Path) -> None:
    header = b"[" * 100_000
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    stamp, tensors = peek(path), load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=stamp.to_metadata() if stamp else None)


def spoil(path: Path) -> None:
    rewrite(path, lambda tensors: tensors["conv_in.weight"].view(-1)[3].fill_(float("nan")) and None)


def reshape(path: Path) -> None:
    rewrite(path, lambda tensors: tensors.update({"conv_in.weight": torch.zeros(3, 3)}))


def rename(path: Path) -> None:
    rewrite(path, lambda tensors: tensors.update({"stranger": tensors.pop("conv_in.weight")}))


DAMAGE = [truncate, disguise, empty, boast, nest, spoil, reshape, rename]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("part", ["students/2-step.safetensors", "unet/diffusion_pytorch_model.safetensors"])
def test_damaged_weights_are_refused_in_one_sentence(copy: Path, damage: Callable[[Path], None], part: str) -> None:
    damage(copy / part)
    with pytest.raises((WeightsError, ModelError)) as caught:
        Engine.load(str(copy), steps=2).generate(Request("pizza", seed=1, width=64, height=64))
    assert Path(part).name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["text_encoder/model.safetensors", "text_encoder_2/model.safetensors", "vae/diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("damage", [truncate, disguise, Path.unlink])
def test_the_other_networks_are_checked_too(copy: Path, damage: Callable[[Path], None], part: str) -> None:
    damage(copy / part)
    with pytest.raises(WeightsError, match="safetensors"):
        Engine.load(str(copy))


CONFIGURATIONS = ("unet/config.json", "vae/config.json", "text_encoder/config.json", "tokenizer/vocab.json", "tokenizer_2/merges.txt")
GARBAGE = ("", "{", "[]", '{"sample_size": "big", "block_out_channels": 3}')
HARMLESS = {("tokenizer_2/merges.txt", content) for content in ("", "[]")}  # a list of merges may be empty, and one odd word is ignored


@pytest.mark.parametrize(("file", "content"), [(file, content) for file in CONFIGURATIONS for content in GARBAGE if (file, content) not in HARMLESS])
def test_damaged_configurations_are_refused_in_one_sentence(copy: Path, file: str, content: str) -> None:
    (copy / file).write_text(content)
    with pytest.raises((WeightsError, ModelError)) as caught:
        Engine.load(str(copy))
    assert "\n" not in str(caught.value)


def test_a_stamp_that_cannot_be_read_is_refused(copy: Path) -> None:
    path = copy / "students" / "2-step.safetensors"
    save_file(load_file(path), path, metadata={"fewstep": json.dumps([1])})
    with pytest.raises(ModelError, match="2-step"):
        students(copy)
