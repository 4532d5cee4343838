"""What a file is, from its header alone: every kind of SDXL's at full size, those of other models, and what a file says of its sampling."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.headers import full_size, original, sparse

from fewstep.bench.sdxl import random_bundle
from fewstep.engine.model import open_model
from fewstep.models.keys import PREFIXES, TEXT, TEXT_2, UNET, V_PREDICTION, VAE, ZERO_SNR, original_module
from fewstep.models.lora import targets
from fewstep.stamp import Stamp
from fewstep.zoo.known import KNOWN
from fewstep.zoo.recognise import recognise
from fewstep.zoo.registry import ModelError, find

Shapes = dict[str, tuple[int, ...]]


def bare(part: str) -> Shapes:
    return {name.removeprefix(PREFIXES[part]): shape for name, shape in original((part,)).items()}


@cache
def layers() -> dict[str, tuple[int, ...]]:
    return {module: tuple(layer.weight.shape) for module, layer in targets(random_bundle(device="meta").unet).items()}  # type: ignore[union-attr, arg-type]


def lora(name: Callable[[str], str], sides: tuple[str, str] = ("lora_down", "lora_up"), rank: int = 64) -> Shapes:
    """SDXL's 788 layers, as SDXL-Lightning's LoRAs have them."""
    found = {}
    for module, (out, *rest) in layers().items():
        found[f"{name(module)}.{sides[0]}.weight"] = (rank, *rest)
        found[f"{name(module)}.{sides[1]}.weight"] = (out, rank, *(1,) * (len(rest) - 1))
    return found


def kohya(module: str) -> str:
    return f"lora_unet_{module.replace('.', '_')}"


def by_blocks(module: str) -> str:
    return kohya(original_module(module, full_size()[UNET]))


def controlnet() -> Shapes:
    """The half of a UNet with what reads the picture before it."""
    half = {name: shape for name, shape in full_size()[UNET].items() if not name.startswith(("up_blocks.", "conv_out.", "conv_norm_out."))}
    return {**half, "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3), "controlnet_down_blocks.0.weight": (320, 320, 1, 1)}


FILES: dict[str, tuple[Callable[[], Shapes], str]] = {  # {what it is: (its tensors, the sentence without its size)}
    "checkpoint": (original, "a checkpoint of SDXL in the original layout"),
    "UNet": (lambda: full_size()[UNET], "a UNet of SDXL in diffusers' names"),
    "UNet, original": (lambda: original((UNET,)), "a UNet of SDXL in the original layout"),
    "UNet, bare": (lambda: bare(UNET), "a UNet of SDXL in the original layout"),
    "VAE": (lambda: full_size()[VAE], "a VAE in diffusers' names"),
    "VAE, original": (lambda: original((VAE,)), "a VAE in the original layout"),
    "VAE, bare": (lambda: bare(VAE), "a VAE in the original layout"),
    "text encoder": (lambda: full_size()[TEXT], "a text encoder in diffusers' names"),
    "text encoder, original": (lambda: original((TEXT,)), "a text encoder in the original layout"),
    "text encoder, open_clip": (lambda: bare(TEXT_2), "a text encoder in the original layout"),
    "kohya": (lambda: lora(kohya), "a LoRA of SDXL in kohya's names"),
    "kohya by blocks": (lambda: lora(by_blocks), "a LoRA of SDXL in kohya's names by blocks"),
    "LoRA of diffusers": (lambda: lora(lambda module: f"unet.{module}", ("lora_A", "lora_B")), "a LoRA of SDXL in diffusers' names"),
    "peft": (lambda: lora(lambda module: f"base_model.model.{module}", ("lora_A", "lora_B")), "a LoRA of SDXL in peft's names"),
    "ControlNet": (controlnet, "a ControlNet of SDXL in diffusers' names"),
    "DoRA": (lambda: {**lora(kohya), "lora_unet_x.dora_scale": (1, 4)}, "an adapter of SDXL"),
}


@pytest.mark.parametrize("what", FILES)
def test_every_kind_of_sdxls(tmp_path: Path, what: str) -> None:
    """Of gigabytes that are not there, in less than a second."""
    shapes, sentence = FILES[what]
    path = sparse(tmp_path / "a.safetensors", shapes())
    begun = time.perf_counter()
    found = recognise(path)
    assert time.perf_counter() - begun < 1
    assert found.sentence().split(";")[0] == sentence
    assert (found.rows, found.said_by, found.prediction_type, found.dtype) == ((), "", None, "F16")
    assert found.whole == (what == "checkpoint")


@pytest.mark.parametrize(("width", "model"), [(768, "Stable Diffusion 1.5"), (1024, "Stable Diffusion 2"), (1280, "SDXL's refiner"), (224, "")])
def test_the_width_of_the_text_tells_models_apart(tmp_path: Path, width: int, model: str) -> None:
    """Of checkpoints, LoRAs and ControlNets alike; other dimensions are nobody's."""
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    kinds: tuple[tuple[str, Shapes], ...] = (
        ("checkpoint", {f"{PREFIXES[UNET]}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, width), f"{PREFIXES[VAE]}a": (1,)}),
        ("LoRA", {f"{kohya(key)}.lora_down.weight": (4, width), f"{kohya(key)}.lora_up.weight": (320, 4)}),
        ("ControlNet", {f"{key}.weight": (320, width), "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)}),
    )
    for kind, shapes in kinds:
        found = recognise(sparse(tmp_path / "a.safetensors", shapes))
        assert (found.kind, found.model, found.width) == (kind, model, width)


def test_a_model_for_which_there_is_no_unet(tmp_path: Path) -> None:
    """Flux and its kin have other networks, in a checkpoint's prefix or without."""
    for prefix in ("", PREFIXES[UNET]):
        assert recognise(sparse(tmp_path / "a.safetensors", {f"{prefix}double_blocks.0.img_attn.qkv.weight": (4, 4)})).model == "Flux"


@pytest.mark.parametrize("known", [known for known in KNOWN.values() if known.weights and known.name != "lcm-lora"], ids=lambda known: known.name)
def test_published_files_are_known_by_name(tmp_path: Path, known: object) -> None:
    """With the row that the registry has for them; but what is in a file must be what its name says."""
    for one in known.weights:  # type: ignore[attr-defined]
        right, wrong = (full_size()[UNET], lora(kohya, rank=4))[:: 1 if one.row.kind == "unet" else -1]
        path = tmp_path / Path(one.file).with_suffix(".safetensors").name
        found = recognise(sparse(path, right))
        assert (found.family, found.rows, found.said_by) == (known.name, (one.row,), "name")  # type: ignore[attr-defined]
        assert recognise(sparse(path, wrong)).rows == ()


def test_published_checkpoints_are_known_by_name(tmp_path: Path) -> None:
    """SDXL-Lightning's all-in-one files, one of which predicts the picture, and Turbo's, which takes one to four steps."""
    said = {
        "sdxl_lightning_4step": "sdxl-lightning, for 4 steps",
        "sdxl_lightning_1step_x0": "sdxl-lightning, for 1 step, predicts the picture",
        "sd_xl_turbo_1.0_fp16": "sdxl-turbo, for 1, 2, 3, 4 steps",
    }
    for name, sentence in said.items():
        found = recognise(sparse(tmp_path / f"{name}.safetensors", original()))
        assert found.sentence() == f"a checkpoint of SDXL in the original layout, {sentence}; F16, 6.94 GB"


def test_a_stamp_comes_before_a_name(tmp_path: Path) -> None:
    """It is what the file itself says."""
    stamp = Stamp("unet", 2, "sample")
    found = recognise(sparse(tmp_path / "sdxl_lightning_4step_unet.safetensors", full_size()[UNET], stamp.to_metadata()))
    assert (found.rows, found.said_by, found.family, found.prediction_type) == ((stamp,), "stamp", "", "sample")
    with pytest.raises(ModelError, match="stamp in this file cannot be read"):
        recognise(sparse(tmp_path / "a.safetensors", {"x": (1,)}, {"fewstep": "[]"}))


@pytest.mark.parametrize(("spec", "prediction"), [("v", "v_prediction"), ("epsilon", "epsilon"), ("else", None)])
def test_what_modelspec_says_of_the_prediction(tmp_path: Path, spec: str, prediction: str | None) -> None:
    path = sparse(tmp_path / "a.safetensors", original(), {"modelspec.prediction_type": spec})
    assert recognise(path).prediction_type == prediction


def test_a_velocity_fine_tune_is_sampled_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By modelspec, or by the mark that ComfyUI goes by; a schedule that is not SDXL's is refused."""
    monkeypatch.setattr("fewstep.engine.parts.configured", lambda known: find("emoji"))
    spec = sparse(tmp_path / "spec.safetensors", original(), {"modelspec.prediction_type": "v"})
    mark = sparse(tmp_path / "mark.safetensors", {**original(), V_PREDICTION: (0,)})
    assert [open_model(str(path)).stamp(20).prediction_type for path in (spec, mark)] == ["v_prediction", "v_prediction"]
    odd = sparse(tmp_path / "odd.safetensors", {**original(), V_PREDICTION: (0,), ZERO_SNR: (0,)})
    with pytest.raises(ModelError, match="zero terminal SNR"):
        open_model(str(odd))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("VAE", "is no model of SDXL's kind, but a VAE in diffusers' names; F16, 0.17 GB: give"),
        ("ControlNet", "is no model of SDXL's kind, but a ControlNet of SDXL in diffusers' names"),
        ("DoRA", "is no model of SDXL's kind, but an adapter of SDXL"),
    ],
)
def test_what_makes_no_picture_is_called_by_its_name(tmp_path: Path, name: str, said: str) -> None:
    path = sparse(tmp_path / "a.safetensors", FILES[name][0]())
    with pytest.raises(ModelError) as caught:
        open_model(str(path))
    assert said in str(caught.value)
    with pytest.raises(ModelError, match="is no few-step weights, but"):
        open_model(few_step=f"{path}:4", base="emoji")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    """Whatever it is given for."""
    key = f"{PREFIXES[UNET]}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    path = sparse(tmp_path / "a.safetensors", {key: (320, 768), "cond_stage_model.transformer.text_model.a": (1,)})
    with pytest.raises(ModelError, match=r"but a checkpoint of Stable Diffusion 1\.5 in the original layout"):
        open_model(str(path))
    with pytest.raises(ModelError, match="is no whole model"):
        open_model(few_step=f"{sparse(tmp_path / 'lora.safetensors', lora(kohya))}:4", base=str(path))


ENDS = ("", ".weight", ".lora_down.weight", ".attn2.to_k.weight", ".attn2.to_k.lora_A.weight", ".alpha")
NAMES = st.builds(
    lambda *parts: "".join(parts),
    st.sampled_from(["", *PREFIXES.values(), "lora_unet_", "down_blocks.", "decoder.up."]),
    st.text(max_size=4),
    st.sampled_from(ENDS),
)


@given(
    st.dictionaries(NAMES, st.lists(st.integers(0, 3), max_size=4).map(tuple), max_size=6),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
)
def test_any_names_are_something(tmp_path_factory: pytest.TempPathFactory, shapes: Shapes, metadata: dict[str, str]) -> None:
    """Whatever the names and shapes: an answer and a sentence, and a checkpoint only with what makes one."""
    shapes.pop("__metadata__", None)
    found = recognise(sparse(tmp_path_factory.mktemp("any") / "a.safetensors", shapes, metadata))
    assert found.sentence() and (found.kind != "checkpoint" or any(name.startswith(PREFIXES[UNET]) for name in shapes))
