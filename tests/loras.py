"""LoRA files for the tiny model in every layout that people have them in, all of one content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.models.adapters import PEFT_CONFIG
from fewstep.models.bundle import Bundle
from fewstep.models.keys import original_module

UNET, TEXTS = "unet", ("text_encoder", "text_encoder_2")
Made = dict[str, dict[str, tuple[Tensor, Tensor]]]
Factors = Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]  # {part: {module: (down, up)}}, with text_model. before a text encoder's modules
KOHYA = {UNET: "lora_unet_", TEXTS[0]: "lora_te1_", TEXTS[1]: "lora_te2_"}
ENDS = {UNET: ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "conv.conv", "conv"), "text": ("q_proj", "v_proj", "out_proj", "fc1")}


def factors(
    bundle: Bundle, seed: int, rank: int = 4, parts: tuple[str, ...] = (UNET, *TEXTS), size: float = 0.3
) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """Random factors for the layers that LoRAs usually change, large enough to be seen in a picture of random weights."""
    generator = torch.Generator().manual_seed(seed)
    found: Made = {}
    for part in parts:
        for name, layer in bundle.models[part].named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(ENDS.get(part, ENDS["text"])):
                shape = layer.weight.shape
                down = torch.randn(rank, *shape[1:], generator=generator) * size / shape[1:].numel() ** 0.5
                up = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2), generator=generator) * size
                found.setdefault(part, {})[name if part == UNET or name.startswith("text_model.") else f"text_model.{name}"] = (down, up)
    return found


def kohya(content: Factors, rename: Callable[[str], str] = lambda module: module, alpha: float | None = None) -> dict[str, Tensor]:
    tensors = {}
    for part, module, down, up in each(content):
        key = KOHYA[part] + (rename(module) if part == UNET else module).replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        tensors |= {} if alpha is None else {f"{key}.alpha": torch.tensor(alpha)}
    return tensors


def sgm(content: Factors, bundle: Bundle, alpha: float | None = None) -> dict[str, Tensor]:
    shapes = {name: tuple(weight.shape) for name, weight in bundle.unet.named_parameters()}
    return kohya(content, lambda module: original_module(module, shapes), alpha)


def diffusers(content: Factors) -> dict[str, Tensor]:
    return {f"{part}.{module}.lora_{side}.weight": value for part, module, *both in each(content) for side, value in zip("AB", both, strict=True)}


def old_diffusers(content: Factors) -> dict[str, Tensor]:
    """As its LoRA processors wrote them: UNet attention alone."""
    tensors = {}
    for _, module, down, up in each({UNET: content[UNET]}):
        block, end = module.rsplit(".", 1) if not module.endswith("to_out.0") else (module.removesuffix(".to_out.0"), "to_out")
        tensors |= {f"unet.{block}.processor.{end}_lora.down.weight": down, f"unet.{block}.processor.{end}_lora.up.weight": up}
    return tensors


def peft(content: Factors, part: str) -> dict[str, Tensor]:
    """As peft saves one network."""
    return {f"base_model.model.{key.removeprefix(f'{part}.')}": value for key, value in diffusers({part: content[part]}).items()}


def each(content: Factors) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    for part, modules in content.items():
        for module, (down, up) in modules.items():
            yield part, module, down, up


def write(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None, config: dict[str, object] | None = None) -> Path:
    """``path``, with ``metadata`` inside and peft's ``config`` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, path, metadata=metadata)
    if config is not None:
        (path.parent / PEFT_CONFIG).write_text(json.dumps(config))
    return path
