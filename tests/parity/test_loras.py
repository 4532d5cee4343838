"""Stacks of LoRAs make diffusers' pictures, whatever layout the files have; and every backend makes the same with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from tests import loras
from tests.alike import difference

from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.export import write
from fewstep.models.bundle import Bundle, load_bundle
from fewstep.zoo.registry import embedded

PROMPT = "a red apple on a blue background"
PIXELS = 2  # of 255
FLATTEST, LEAST = 5.0, 10  # what a picture has to differ in from a flat one, and from the one without LoRAs
EMOJI = embedded("emoji")


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return load_bundle(tiny)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), backend="eager")


@pytest.fixture
def pipe(tiny: Path, tmp_path: Path) -> Any:
    opened = StableDiffusionXLPipeline.from_pretrained(write(tiny, 4, "diffusers", tmp_path / "export"), add_watermarker=False)
    opened.set_progress_bar_config(disable=True)
    return opened


def check(engine: Engine, pipe: Any, stack: list[tuple[Path, float]]) -> None:
    """Ours and diffusers' with ``stack``, which must not be the picture without it."""
    for number, (path, _) in enumerate(stack):
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=str(number))
    pipe.set_adapters([str(number) for number in range(len(stack))], [weight for _, weight in stack])
    side = 128 // engine.limits.factor
    noise = torch.randn((1, 4, side, side), generator=torch.Generator("cpu").manual_seed(3))
    theirs = pipe(PROMPT, width=128, height=128, num_inference_steps=4, guidance_scale=0.0, latents=noise).images[0]
    ours, plain = (engine.generate(Request(PROMPT, 3, 4, 128, 128, loras=used)).image for used in (stack, ()))
    assert np.asarray(theirs).std() > FLATTEST and difference(ours, plain) >= LEAST, "a difference would not be seen"
    assert difference(ours, theirs) <= PIXELS


@pytest.mark.parametrize("alpha", [None, 2.0])
@pytest.mark.parametrize("layout", ["modules", "blocks"])
def test_kohyas_files(engine: Engine, pipe: Any, bundle: Bundle, tmp_path: Path, layout: str, alpha: float | None) -> None:
    content = loras.factors(bundle, 1)
    tensors = loras.kohya(content, alpha=alpha) if layout == "modules" else loras.sgm(content, bundle, alpha)
    check(engine, pipe, [(loras.write(tensors, tmp_path / "a.safetensors"), 0.8)])


def test_diffusers_files_as_it_writes_them(engine: Engine, pipe: Any, bundle: Bundle, tmp_path: Path) -> None:
    """With alpha in the metadata, and text encoders."""
    content = loras.factors(bundle, 1)
    layers = {
        part: {name: tensor for key, tensor in loras.diffusers({part: its}).items() if (name := key.removeprefix(f"{part}."))} for part, its in content.items()
    }
    ends = sorted({module.split(".")[-1] for module in content[loras.UNET]})
    said = {f"{part}_lora_adapter_metadata": {"r": 4, "lora_alpha": 2, "target_modules": ends} for part in (loras.UNET, *loras.TEXTS)}
    for part in loras.TEXTS:
        said[f"{part}_lora_adapter_metadata"]["target_modules"] = ["q_proj", "v_proj", "out_proj", "fc1"]
    files = {"unet_lora_layers": layers[loras.UNET], **{f"{part}_lora_layers": layers[part] for part in loras.TEXTS}}
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, weight_name="a.safetensors", **files, **said)
    check(engine, pipe, [(tmp_path / "a.safetensors", 0.8)])


def test_diffusers_old_files(engine: Engine, pipe: Any, bundle: Bundle, tmp_path: Path) -> None:
    content = loras.factors(bundle, 1, parts=(loras.UNET,))
    attention = {loras.UNET: {module: both for module, both in content[loras.UNET].items() if ".attn" in module}}
    check(engine, pipe, [(loras.write(loras.old_diffusers(attention), tmp_path / "a.safetensors"), 3.0)])


def test_pefts_files(engine: Engine, bundle: Bundle, tiny: Path, tmp_path: Path) -> None:
    """As peft itself saves an adapter of a UNet, and computes with it."""
    from peft import LoraConfig, get_peft_model

    content = loras.factors(bundle, 1, parts=(loras.UNET,))
    network = load_bundle(tiny).unet
    adapted = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules=list(content[loras.UNET])))
    with torch.no_grad():
        for name, (down, up) in content[loras.UNET].items():
            layer = adapted.get_submodule(f"base_model.model.{name}")
            layer.lora_A["default"].weight.copy_(down)
            layer.lora_B["default"].weight.copy_(up)
    adapted.save_pretrained(tmp_path)
    own, plain = engine.backend._unet(16), bundle.unet  # type: ignore[attr-defined]
    settled = engine.limits.settle(Request(PROMPT, steps=16, loras=[(tmp_path / "adapter_model.safetensors", 1.0)]))
    own = engine.backend._unet(16, settled.loras)  # type: ignore[attr-defined]
    merged = adapted.merge_and_unload().state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], merged[name], rtol=1e-4, atol=1e-5)
        assert torch.equal(value, merged[name]) == (name.removesuffix(".weight") not in content[loras.UNET])


def test_a_stack_of_three_files_at_their_weights(engine: Engine, pipe: Any, bundle: Bundle, tmp_path: Path) -> None:
    contents = [loras.factors(bundle, seed, rank) for seed, rank in ((1, 4), (2, 2), (3, 8))]
    made = [loras.kohya(contents[0], alpha=3.0), loras.sgm({loras.UNET: contents[1][loras.UNET]}, bundle), loras.diffusers(contents[2])]
    paths = [loras.write(tensors, tmp_path / f"{number}.safetensors") for number, tensors in enumerate(made)]
    check(engine, pipe, list(zip(paths, (0.7, -0.5, 0.3), strict=True)))


@pytest.mark.skipif(not (EMOJI / "graphs").is_dir(), reason="the embedded model is not in this checkout")
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_onnxruntime_makes_eagers_picture(tmp_path: Path, steps: int) -> None:
    """With changes of the UNet and both text encoders; and after them the picture without any, to the bit."""
    content = loras.factors(load_bundle(EMOJI), 1, size=0.1)
    path = loras.write(loras.kohya(content), tmp_path / "a.safetensors")
    engines = [Engine.load("emoji", backend=backend) for backend in ("onnxruntime", "eager")]
    plain, worn, again = ([engine.generate(Request(PROMPT, 3, steps, loras=stack)) for engine in engines] for stack in ((), [(path, 0.7)], ()))
    assert difference(worn[0].image, worn[1].image) <= PIXELS and difference(worn[0].image, plain[0].image) >= LEAST
    for before, after in zip(plain, again, strict=True):
        assert before.image.tobytes() == after.image.tobytes()
    assert all("adapters" in picture.timings for picture in worn + again)


@pytest.mark.parametrize("tiny", ["emoji"], indirect=True, scope="session")  # it is held to eager's pictures, which are held to diffusers' in both
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_compiled_network_wears_stacks_without_being_compiled_again(engine: Engine, bundle: Bundle, tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from torch._dynamo.utils import counters

    from fewstep.engine.backends import compiled

    compile_ = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **options: compile_(function, backend="aot_eager", **options))
    path = loras.write(loras.kohya(loras.factors(bundle, 1)), tmp_path / "a.safetensors")
    quick = Engine.load(str(tiny), backend="compiled")
    requests = [Request(PROMPT, 3, 4, 64, 64, loras=stack) for stack in ((), [(path, 1.0)], [(path, 0.5)], ())]
    first = quick.generate(requests[0])
    graphs = counters["stats"]["unique_graphs"]
    for request in requests:
        assert difference(quick.generate(request).image, engine.generate(request).image) <= PIXELS
    assert counters["stats"]["unique_graphs"] == graphs > 0
    assert quick.generate(requests[0]).image.tobytes() == first.image.tobytes()
