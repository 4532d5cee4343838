"""Exports: nothing is overwritten, nothing half-written stays, and every file says what it is."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.hub import fill
from tests.tiny import SDXL, SMALLER, tiny_bundle

from fewstep.cli import explain
from fewstep.engine.engine import Engine
from fewstep.engine.model import Model, open_model
from fewstep.engine.request import Request, RequestError
from fewstep.export import card_path, write
from fewstep.export.card import card
from fewstep.export.diffusers import opened
from fewstep.models.bundle import TEXT_WEIGHTS, WEIGHTS, load_bundle, read_stamp, save_weights
from fewstep.models.lora import targets
from fewstep.models.miniature import Shape
from fewstep.models.weights import read_weights
from fewstep.stamp import Stamp, StepMismatch, file_hash
from fewstep.zoo.known import KNOWN

SMALLER_SDXL = dataclasses.replace(SDXL, unet_channels=(32, 64), unet_heads=(1, 2), unet_transformers=(1, 2))
WEIGHT_FILES = (f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", f"text_encoder/{TEXT_WEIGHTS}", f"text_encoder_2/{TEXT_WEIGHTS}")

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

    monkeypatch.setattr("fewstep.export.diffusers.write_card", full)
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


def test_weights_are_as_readable_as_other_files_and_a_place_without_room_says_so(tmp_path: Path) -> None:
    save_weights(LORA, tmp_path / "a.safetensors", {})
    (tmp_path / "card.md").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "card.md").stat().st_mode
    with pytest.raises(FileNotFoundError) as caught:
        save_weights(LORA, tmp_path / "nowhere" / "a.safetensors", {})
    assert explain(caught.value) == (2, f"{tmp_path / 'nowhere'}/.a.safetensors.{os.getpid()}.tmp: No such file or directory")


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


def test_says_which_steps_have_a_student(mixed: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="tiny has no student for 32 steps, and a LoRA is a student's: use --steps 1 or 2 or 4 or 8"):
        write(tiny, 32, "lora", tmp_path / "out")
    alone = write(mixed, 4, "diffusers", tmp_path / "alone")
    with pytest.raises(RequestError, match="alone is a student without the base that it was made from"):
        write(alone, 4, "lora", tmp_path / "out")
    with pytest.raises(RequestError, match="rank = 0: give a rank from 1 to"):
        write(mixed, 4, "lora", tmp_path / "out", rank=0)
    assert list(tmp_path.iterdir()) == [alone]


def test_a_whole_student_is_extracted_and_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By singular values: at full rank it is the student but for what no LoRA changes, and less of it at a lower rank. Its file serves as few-step weights."""
    folder = tiny_bundle(tmp_path / "whole", students=(), shape=SMALLER)
    base = load_bundle(folder).unet.state_dict()
    torch.manual_seed(5)
    tuned = {name: (value + 0.02 * torch.randn_like(value) * (value.ndim > 1)).half() for name, value in base.items()}
    stamp = Stamp(kind="unet", steps=4, recipe="abc")
    (folder / "students").mkdir(exist_ok=True)
    save_weights(tuned, folder / "students" / "4.safetensors", stamp.to_metadata())
    files, left = [], []
    for rank in (1, 8, 1024):
        caplog.clear()
        files.append(write(folder, 4, "lora", tmp_path / f"{rank}.safetensors", rank))
        said = metadata(files[-1])
        found = re.search(r"Extracted at rank \d+ from a whole UNet: it leaves out ([0-9.]+)% of what that changes", said["modelspec.description"])
        assert found is not None and found[0] in card_path(files[-1]).read_text() and f"rank {rank} leaves out {found[1]} %" in caplog.text
        left.append(float(found[1]))
        own = read_stamp(files[-1])
        assert own == dataclasses.replace(stamp, kind="lora", base=file_hash(folder / "unet" / WEIGHTS), alpha=float(rank))
    bundle = load_bundle(folder)
    layers = targets(bundle.unet)
    share = [sum(float((tuned[name].double() - base[name].double()).square().sum()) for name in names) for names in ({f"{one}.weight" for one in layers}, base)]
    assert left[0] > left[1] > left[2] == pytest.approx(100 * (1 - share[0] / share[1]) ** 0.5, abs=0.1)
    model = open_model(few_step=str(files[2]), base=str(folder))
    back = opened(model, 4).unet.state_dict()
    for name in layers:
        torch.testing.assert_close(back[f"{name}.weight"], tuned[f"{name}.weight"].float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("shape", [SMALLER, SMALLER_SDXL], ids=["emoji", "sdxl"])
def test_round_trips_are_exact(shape: Shape, tmp_path: Path) -> None:
    """Whichever way a student has gone, each format of it has the same tensors to the bit, and the same stamp."""
    folder = tiny_bundle(tmp_path / "tiny", students=(4,), shape=shape)
    formats = ("diffusers", "single-file", "unet")

    def exported(model: Model | Path, there: Path) -> dict[str, Path]:
        return {to: write(model, 4, to, there / (to if to == "diffusers" else f"{to}.safetensors")) for to in formats}

    first = exported(folder, tmp_path / "first")
    ways = {
        "diffusers": open_model(str(first["diffusers"])),
        "single-file": open_model(str(first["single-file"]), base=str(folder)),
        "unet": open_model(few_step=str(first["unet"]), base=str(folder)),
    }
    for way, model in ways.items():
        again = exported(model, tmp_path / way)
        for to in formats:
            files = [first[to], again[to]] if to != "diffusers" else [[path[to] / part for part in WEIGHT_FILES] for path in (first, again)]
            for one, other in zip(*(one if isinstance(one, list) else [one] for one in files), strict=True):
                before, after = read_weights(one), read_weights(other)
                assert before.keys() == after.keys(), (way, to)
                assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items()), (way, to)
                assert read_stamp(one) == read_stamp(other), (way, to)


@pytest.mark.slow
def test_a_lora_goes_round_too(mixed: Path, tmp_path: Path) -> None:
    """Given as few-step weights to its base, it is exported as it was; and merged it is what the engine wears."""
    first = write(mixed, 2, "lora", tmp_path / "first.safetensors")
    model = open_model(few_step=str(first), base=str(mixed))
    again = write(model, 2, "lora", tmp_path / "again.safetensors")
    before, after = read_weights(first), read_weights(again)
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert read_stamp(first) == read_stamp(again)
    merged = [write(one, 2, "unet", tmp_path / f"{number}.safetensors") for number, one in enumerate((mixed, model))]
    assert all(torch.equal(value, read_weights(merged[1])[name]) for name, value in read_weights(merged[0]).items())


@pytest.mark.slow
def test_known_few_step_weights_are_exported_with_their_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one word, out of the Hub's cache: its name, its licence and its settings are in the card, and the file makes the engine's picture."""
    fill(tmp_path / "cache", tmp_path / "scratch")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    for name, steps, scheduler in (("sdxl-lightning", 4, "EulerDiscreteScheduler"), ("lcm-lora", 4, "LCMScheduler"), ("sdxl-turbo", 1, "EulerAncestral")):
        path = write(name, steps, "single-file", tmp_path / "out")
        assert path.name == f"{name}-{steps}-step.safetensors"
        text = card_path(path).read_text(encoding="utf8")
        assert f"The {steps}-step student of {name}" in text and scheduler in text
        assert f'config="{KNOWN["sdxl-turbo" if name == "sdxl-turbo" else "sdxl"].repo}"' in text
        assert KNOWN[name].licence in text and KNOWN[name].repo in text
        base = str(open_model(name, steps).folder)
        pictures = [
            Engine.load(*given, backend="eager", **more).generate(Request("a ghost", 3, steps, 64, 64)).image.tobytes()
            for given, more in (((name, steps), {}), ((str(path), steps), {"base": base}))
        ]
        assert pictures[0] == pictures[1], name
    folder = write("sdxl", 20, "diffusers", tmp_path / "plain")
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["timestep_spacing"] == "leading"
    with pytest.raises(RequestError, match="draws noise anew between steps"):
        write("lcm-lora", 4, "diffusers", tmp_path / "no")


def test_importing_it_loads_no_torch() -> None:
    program = "import fewstep.export, sys\nprint([name for name in ('torch', 'diffusers', 'safetensors') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"
