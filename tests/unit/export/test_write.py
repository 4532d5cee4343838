"""Exports: nothing is overwritten, nothing half-written stays, and every file says what it is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.tiny import tiny_bundle

from fewstep.engine.request import RequestError
from fewstep.export import write
from fewstep.export.card import card
from fewstep.models.bundle import WEIGHTS, read_stamp, save_weights
from fewstep.models.weights import read_weights
from fewstep.stamp import Stamp, StepMismatch, file_hash

LORA = {
    "lora_unet_mid_block_resnets_0_conv1." + key: value
    for key, value in (
        ("lora_down.weight", torch.ones(2, 64, 3, 3)),
        ("lora_up.weight", torch.full((64, 2, 1, 1), 0.5)),
        ("alpha", torch.tensor(2.0)),
    )
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a whole student for 4 steps, a LoRA for 2 and one that draws fresh noise for 8."""
    folder = tiny_bundle(tmp_path_factory.mktemp("mixed") / "mixed", students=(4, 8))
    base = file_hash(folder / "unet" / WEIGHTS)
    stamp = Stamp(kind="lora", steps=2, base=base, alpha=2.0, recipe="abc", stage="4-2", phases=("mse", "conditional"), pictures=640)
    save_weights(LORA, folder / "students" / "2-step.safetensors", stamp.to_metadata())
    fresh = folder / "students" / "8-step.safetensors"
    stamp = read_stamp(fresh)
    assert stamp is not None
    save_weights(read_weights(fresh), fresh, dataclasses.replace(stamp, fresh=1.0).to_metadata())
    return folder


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {steps: write(tiny, steps, "diffusers", folder / f"tiny-{steps}") for steps in (1, 4, 24)}


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("to", ["diffusers", "lora"])
def test_overwrites_nothing(mixed: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(RequestError, match="is there already"):
        write(mixed, 2, to, out)
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


def test_refuses_a_folder_that_holds_something_and_takes_an_empty_one(tiny: Path, tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        write(tiny, 4, "diffusers", full)
    assert [path.name for path in full.iterdir()] == ["notes.txt"]
    write(tiny, 4, "diffusers", empty)
    assert (empty / "model_index.json").is_file()


def test_leaves_nothing_behind_when_it_fails(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewstep.export.diffusers.card", full)
    with pytest.raises(OSError, match="No space"):
        write(tiny, 4, "diffusers", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 4])
def test_the_stamp_survives(tiny: Path, exported: dict[int, Path], steps: int) -> None:
    assert read_stamp(exported[steps] / "unet" / WEIGHTS) == read_stamp(tiny / "students" / f"{steps}-step.safetensors")


def test_a_merged_lora_is_stamped_as_the_whole_unet_it_is(mixed: Path, tmp_path: Path) -> None:
    out = write(mixed, 2, "diffusers", tmp_path / "out")
    stamp, own = read_stamp(out / "unet" / WEIGHTS), read_stamp(mixed / "students" / "2-step.safetensors")
    assert stamp is not None
    assert own is not None
    assert stamp == dataclasses.replace(own, kind="unet", alpha=0.0)
    assert stamp.phases == ("mse", "conditional")
    merged, base = (read_weights(folder / "unet" / WEIGHTS)["mid_block.resnets.0.conv1.weight"].float() for folder in (out, mixed))
    assert torch.allclose(merged - base, torch.ones_like(base), atol=1e-3)  # 2/2 · Σ over rank 2 of 0.5 · 1


def test_a_teacher_is_stamped_with_the_steps_asked_for(exported: dict[int, Path]) -> None:
    stamp = read_stamp(exported[24] / "unet" / WEIGHTS)
    assert stamp is not None
    assert (stamp.kind, stamp.steps, stamp.guidance_scale) == ("teacher", 24, 5.0)


def test_the_folder_is_small_and_says_how_to_sample(exported: dict[int, Path]) -> None:
    for steps, prediction_type in ((1, "sample"), (4, "epsilon")):
        scheduler = json.loads((exported[steps] / "scheduler" / "scheduler_config.json").read_text())
        assert scheduler["_class_name"] == "EulerDiscreteScheduler"
        assert (scheduler["timestep_spacing"], scheduler["prediction_type"]) == ("trailing", prediction_type)
    assert {value.dtype for value in read_weights(exported[4] / "unet" / WEIGHTS).values()} == {torch.float16}
    assert json.loads((exported[4] / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    assert exported[4].stat().st_mode & 0o777 == (exported[4] / "unet").stat().st_mode & 0o777, "readable by whoever reads its parts"


@pytest.mark.parametrize("steps", [1, 4])
def test_the_card_names_the_steps(exported: dict[int, Path], steps: int) -> None:
    text = (exported[steps] / "README.md").read_text(encoding="utf8")
    assert f"num_inference_steps={steps}, guidance_scale=0," in text
    assert f'from_pretrained("tiny-{steps}")' in text
    assert f"trained for {steps} step{'s' * (steps > 1)} without" in text


def test_the_card_of_a_teacher_says_guidance_and_names_no_licence_that_is_not_ours(exported: dict[int, Path], tiny: Path) -> None:
    text = (exported[24] / "README.md").read_text(encoding="utf8")
    assert "num_inference_steps=24, guidance_scale=5," in text
    assert "Licence" not in text

    from fewstep.zoo.registry import embedded

    assert "license: apache-2.0" in card(embedded("emoji"), Stamp(kind="unet", steps=4), 256, "mine")


def test_an_export_holds_one_step_count(exported: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(StepMismatch, match="--steps 4"):
        write(exported[4], 2, "diffusers", tmp_path / "out")
    again = write(exported[4], 4, "diffusers", tmp_path / "again")
    assert file_hash(again / "unet" / WEIGHTS) == file_hash(exported[4] / "unet" / WEIGHTS)


def test_refuses_what_diffusers_cannot_sample(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="draws noise anew between steps"):
        write(mixed, 8, "diffusers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_steps_and_formats_that_are_not_there(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="3 steps were asked for"):
        write(tiny, 3, "diffusers", tmp_path / "out")
    with pytest.raises(RequestError, match="diffusers, unet, lora, single-file, onnx and graphs"):
        write(tiny, 4, "gguf", tmp_path / "out")


@pytest.mark.parametrize("name", ["lora.safetensors", "folder"])
def test_a_lora_is_copied_with_what_other_tools_ask_for(mixed: Path, tmp_path: Path, name: str) -> None:
    path = write(mixed, 2, "lora", tmp_path / name)
    assert path == (tmp_path / name if path.name == name else tmp_path / name / "mixed-2-step-lora.safetensors")
    tensors = read_weights(path)
    assert tensors.keys() == LORA.keys()
    assert all(torch.equal(tensors[key], value) for key, value in LORA.items())
    assert read_stamp(path) == read_stamp(mixed / "students" / "2-step.safetensors")
    found = metadata(path)
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == "mixed/lora", "a miniature does not claim to be SDXL"
    assert (found["modelspec.resolution"], found["modelspec.prediction_type"]) == ("256x256", "epsilon")
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("2", "2")


def test_says_which_steps_have_a_lora(mixed: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="4 steps of mixed are a whole UNet, not a LoRA: use --steps 2, or --to diffusers"):
        write(mixed, 4, "lora", tmp_path / "out")
    with pytest.raises(RequestError, match="has no student for 32 steps"):
        write(tiny, 32, "lora", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_importing_it_loads_no_torch() -> None:
    program = "import fewstep.export, sys\nprint([name for name in ('torch', 'diffusers', 'safetensors') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"
