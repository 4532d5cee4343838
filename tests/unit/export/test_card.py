"""What an export says of itself, and how it gets to the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from fewstep.cli import main
from fewstep.engine.model import open_model
from fewstep.engine.request import RequestError
from fewstep.export import card_path, write
from fewstep.export.card import EVALUATION, PROGRAMS, card
from fewstep.export.modelspec import modelspec
from fewstep.export.push import check_push
from fewstep.models.bundle import WEIGHTS
from fewstep.stamp import Stamp, file_hash
from fewstep.zoo.known import KNOWN
from fewstep.zoo.registry import embedded

STUDENT = Stamp("unet", 4, base="0123456789ab", recipe="abc", stage="8-4", phases=("mse", "conditional"), pictures=16000)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose configurations are SDXL's."""
    folder = tmp_path_factory.mktemp("wide") / "sdxl"
    for part, config in (("unet", {"block_out_channels": [320, 640, 1280], "sample_size": 128}), ("vae", {"block_out_channels": [128, 256, 512, 512]})):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("to", PROGRAMS)
def test_a_card_names_the_settings_of_every_tool(wide: Path, to: str) -> None:
    text = card(wide, STUDENT, 1024, "student.safetensors", to=to)
    compile(text.split("```python\n")[1].split("```")[0], "card", "exec")
    assert "num_inference_steps=4, guidance_scale=0" in text
    assert "KSampler: steps 4, cfg 1, sampler_name euler, scheduler sgm_uniform" in text
    assert "Sampling method Euler, Schedule type SGM Uniform, Sampling steps 4, CFG scale 1." in text
    assert "Distilled from weights 0123456789ab in the phases mse, conditional of the stage 8-4 over 16,000 pictures by a recipe with the hash abc." in text
    assert "Licence" not in text, "whoever gave the weights says under which"


def test_what_predicts_the_picture_is_sampled_otherwise(wide: Path) -> None:
    text = card(wide, Stamp("unet", 1, "sample"), 1024, "one")
    assert "ModelSamplingDiscrete with sampling x0" in text
    assert "It predicts the picture itself, which they cannot sample" in text


def test_a_miniature_sends_nobody_to_tools_that_cannot_open_it(tiny: Path) -> None:
    text = card(tiny, STUDENT, 256, "mine")
    assert "KSampler" not in text
    assert "ComfyUI, A1111 and Forge know SDXL's own widths alone" in text


def test_the_table_is_of_these_weights_or_left_out(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "tiny")
    row = {
        "top1": 0.9,
        "top5": 1.0,
        "repainted": 0.6,
        "background": 1.0,
        "frechet": 2.5,
        "diversity": None,
        "precision": 0.5,
        "sharpness": 0.75,
        "distance": 15.0,
    }
    weights = folder / "students" / "4-step.safetensors"
    about = {"prompts": "500", "teacher": file_hash(folder / "unet" / WEIGHTS), "student 4": file_hash(weights)}
    found = {"about": about, "rows": [{"name": name, **row} for name in ("teacher", "4", "2")]}
    (folder / EVALUATION).write_text(json.dumps(found))
    text = card(folder, STUDENT, 256, "mine", weights=weights)
    assert "| 4 steps | 90.0% | 100.0% | 60.0% | 100.0% | 2.500 | – | 50.0% | 75% | 15.0 |" in text
    assert "| 2 steps" not in text
    teacher = card(folder, Stamp("teacher", 32), 256, "mine", weights=folder / "unet" / WEIGHTS)
    assert "| teacher | 90.0% |" in teacher and "| 4 steps" not in teacher
    assert "## Evaluation" not in card(folder, STUDENT, 256, "mine", weights=folder / "students" / "2-step.safetensors"), "another student on this base"
    for other in ({"teacher": "another"}, {"student 4": "another"}):
        (folder / EVALUATION).write_text(json.dumps({**found, "about": {**about, **other}}))
        assert "## Evaluation" not in card(folder, STUDENT, 256, "mine", weights=weights)
    del about["student 4"]
    (folder / EVALUATION).write_text(json.dumps(found))
    assert "## Evaluation" not in card(folder, STUDENT, 256, "mine", weights=weights), "it does not say of which student it is"


@pytest.mark.skipif(not embedded("emoji").is_dir(), reason="the embedded model is not in this checkout")
def test_the_embedded_models_card_has_its_table() -> None:
    model = open_model("emoji")
    text = card(model.folder, Stamp("unet", 4), 256, "mine", weights=model.weights(4))
    assert "license: apache-2.0" in text
    assert "| teacher |" in text and "| 4 steps |" in text


def test_files_say_their_settings_and_whose_they_are(wide: Path) -> None:
    said = modelspec(wide, STUDENT)
    assert said["modelspec.sai_model_spec"] == "1.0.1"
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
    assert said["modelspec.usage_hint"] == "4 steps, sampler Euler, schedule SGM Uniform (trailing timesteps), CFG scale 1, predicts epsilon"
    assert "modelspec.license" not in said
    assert modelspec(embedded("emoji"), STUDENT)["modelspec.license"] == "Apache-2.0"
    assert "modelspec.prediction_type" not in modelspec(wide, Stamp("unet", 1, "sample"))


WALKS = {  # what the tools call the ways of the known models
    "sdxl-turbo": ('EulerAncestralDiscreteScheduler, timestep_spacing="trailing"', "sampler_name euler_ancestral, scheduler sgm_uniform", "Euler a"),
    "lcm-lora": ("timesteps=[999, 759, 499, 259], guidance_scale=0", "sampler_name lcm, scheduler sgm_uniform", "LCM"),
    "hyper-sd": ('DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing"', "sampler_name ddim", "DDIM"),
}


@pytest.mark.parametrize("name", WALKS)
def test_each_walk_has_its_tools_names(wide: Path, name: str) -> None:
    known = KNOWN[name]
    chosen = known.choose(4)
    text = card(wide, chosen.row if chosen else (known.rows or {})[4], 1024, "x", to="unet", model=name)
    compile(text.split("```python\n")[1].split("```")[0], "card", "exec")
    diffusers, comfy, forge = WALKS[name]
    assert diffusers in text and comfy in text and f"Sampling method {forge}, Schedule type SGM Uniform" in text
    assert known.licence in text and f"license: {'openrail++' if known.licence.startswith('Open') else 'other'}" in text


def test_tools_that_cannot_walk_so_are_not_told_to(wide: Path) -> None:
    """They begin at 999, and have no sampler for every walk."""
    late, tcd = (card(wide, one.row, 1024, "x", to="unet") for one in KNOWN["hyper-sd"].weights[:2])
    assert "timesteps=[800]" in late and "KSampler cannot begin at timestep 800" in late and "Their schedules cannot begin at timestep 800" in late
    assert "TCDScheduler" in tcd and "eta=1.0" in tcd and "KSampler has no sampler for TCD" in tcd
    plain = card(wide, Stamp("teacher", 50, spacing="leading", start_scale=1.0, guidance_scale=5.0), 1024, "x", to="single-file")
    assert "steps 50, cfg 5, sampler_name euler, scheduler normal" in plain and 'timestep_spacing="leading"' in plain


class Hub:
    """What HfApi is asked for, by whom it is made; with ``fails`` it refuses."""

    fails: Exception | None = None

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self) -> Hub:
        return self

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> None:
            if self.fails:
                raise self.fails
            self.calls.append((name, {**kwargs, **({"repo_id": args[0]} if args else {})}))

        return call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    own = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", own)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return own


def exported(*arguments: object) -> int:
    try:
        main(["export", *map(str, arguments)])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_a_folder_goes_to_the_hub_with_its_card(tiny: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "student"
    assert exported(tiny, "--steps", 4, "--out", out, "--push", "me/student") == 0
    assert capsys.readouterr().out.splitlines() == [str(out), "https://huggingface.co/me/student"]
    (made, first), (sent, second) = hub.calls
    assert (made, first["repo_id"], first["exist_ok"]) == ("create_repo", "me/student", True)
    assert (sent, second["folder_path"]) == ("upload_folder", str(out))
    assert (out / "README.md").is_file()


def test_a_file_goes_to_the_hub_and_gets_a_card(tiny: Path, tmp_path: Path, hub: Hub) -> None:
    out = tmp_path / "student.safetensors"
    assert exported(tiny, "--steps", 2, "--to", "unet", "--out", out, "--push", "me/student") == 0
    sent = {call["path_in_repo"]: call["path_or_fileobj"] for name, call in hub.calls if name == "upload_file"}
    assert sent == {"student.safetensors": str(out), "README.md": str(card_path(out))}
    assert "num_inference_steps=2" in card_path(out).read_text(encoding="utf8")


def test_nothing_goes_to_the_hub_unless_it_is_asked_for(tiny: Path, tmp_path: Path, hub: Hub) -> None:
    write(tiny, 2, "unet", tmp_path / "student.safetensors")
    assert exported(tiny, "--steps", 1, "--to", "unet", "--out", tmp_path / "other.safetensors") == 0
    assert not hub.calls


@pytest.mark.parametrize(
    ("repo", "to", "says"), [("student", "unet", "OWNER/NAME"), ("me/../x", "unet", "OWNER/NAME"), ("me/x", "onnx", "there are cards of diffusers")]
)
def test_what_cannot_be_published_is_refused_before_it_is_exported(tiny: Path, tmp_path: Path, hub: Hub, repo: str, to: str, says: str, capsys: Any) -> None:
    assert exported(tiny, "--steps", 4, "--to", to, "--out", tmp_path / "out", "--push", repo) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_token_or_the_hub_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(RequestError, match="needs a token of the Hub that may write: log in with hf auth login"):
        check_push("me/x", "unet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match="HF_HUB_OFFLINE"):
        check_push("me/x", "unet")


def test_a_hub_that_refuses_leaves_the_export(tiny: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fails = ConnectionError("no route to host\nand more")
    out = tmp_path / "student.safetensors"
    assert exported(tiny, "--steps", 4, "--to", "unet", "--out", out, "--push", "me/x") == 2
    assert f"{out} is written, but me/x did not take it (no route to host)" in capsys.readouterr().err
    assert out.is_file()
