"""How much memory a model takes on a device, and how it is kept there. Loads no torch by itself.

What networks need besides their weights is that of the largest set of tensors alive at once, counted on the meta device with attention that
keeps no matrix (docs/models.md): of the decoder always DECODER tensors at full size, of a UNet about DENOISER at the latents' size, and what each
ControlNet says of all of its levels about RESIDUALS more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.engine.control import OWN
from fewstep.engine.model import Model
from fewstep.models.adapters import TEXT, UNET
from fewstep.models.dimensions import CONFIGS
from fewstep.models.weights import find_weights, read_header

MEMORY = ("auto", "full", "model", "sequential")
DECODER = 5, 3  # tensors alive at once, of the finest channels or of the second-finest: whichever are more
DENOISER = 18
RESIDUALS = 6
SPARE = 600 << 20  # bytes of a card that its driver, kernels and a library's workspace take
SDXL_PARAMETERS = {TEXT[0]: 123_060_480, TEXT[1]: 694_659_840, UNET: 2_567_463_684, "vae": 83_653_863}  # counted on the meta device
SDXL_CONTROLNET = 1_251_014_160  # of a whole one, as its small siblings are not: a copy of the UNet's encoder
PARTS = (*TEXT, UNET, "vae")


@dataclass(frozen=True)
class Need:
    """Bytes that one picture at a time needs."""

    weights: Mapping[str, int]  # of each network
    denoise: int  # besides the weights
    decode: int
    nets: Sequence[int] = ()  # weights of each ControlNet that guides it

    def of(self, way: str) -> int:
        """All of it, where the networks are kept as ``way`` says: all on the device, one by one, or layer by layer."""
        most = max(self.denoise, self.decode)
        if way == "full":
            return sum(self.weights.values()) + sum(self.nets) + most + SPARE
        if way == "model":
            denoising = [weights + self.denoise for weights in (self.weights[UNET], *self.nets)]
            return max(*(self.weights[part] for part in TEXT), *denoising, self.weights["vae"] + self.decode) + SPARE
        return most + SPARE


def sdxl(size: int, nets: int = 0) -> Need:
    """What SDXL needs for one picture of 1024 pixels a side in numbers of ``size`` bytes, without guidance, with so many ControlNets."""
    weights = {part: count * size for part, count in SDXL_PARAMETERS.items()}
    denoise = denoising(CONFIGS[UNET], 128, 128, size, nets)
    return Need(weights, denoise, decoding(CONFIGS["vae"], 1024, 1024, size), (SDXL_CONTROLNET * size,) * nets)


def need(model: Model, width: int, height: int, size: int, guided: bool = False, nets: Sequence[int] | None = None) -> Need:
    """What ``model`` needs for a picture of this size in numbers of ``size`` bytes. Raises WeightsError on weights that cannot be read.

    ``guided``: its UNet is asked for two pictures at once. ``nets`` are the numbers of each ControlNet that guides it; None: of its own, if it has one.
    """
    own = find_weights(model.folder / OWN)
    counts = nets if nets is not None else [numbers(own)] if own.is_file() else []
    return Need(
        weights={part: count * size for part, count in parameters(model).items()},
        denoise=denoising(_config(model, UNET), width // model.limits.factor, height // model.limits.factor, size, len(counts)) * (1 + guided),
        decode=decoding(_config(model, "vae"), width, height, size),
        nets=[count * size for count in counts],
    )


def parameters(model: Model) -> dict[str, int]:
    """{network: its numbers}, from the headers of its files."""
    if model.file is not None:
        from fewstep.models.keys import PREFIXES

        stored = read_header(model.file).tensors
        counts = {part: sum(_count(one.shape) for name, one in stored.items() if name.startswith(prefix)) for part, prefix in PREFIXES.items()}
        return {part: counts.get(part, 0) for part in PARTS}
    files = {part: find_weights(model.folder / part, "model.safetensors") if part in TEXT else find_weights(model.folder / part) for part in PARTS}
    return {part: numbers(path) for part, path in files.items()}


def decoding(vae: Mapping[str, Any], width: int, height: int, size: int) -> int:
    """Bytes that decoding one picture of this many pixels takes besides the weights."""
    channels = vae["block_out_channels"]
    return int(max(count * wide for count, wide in zip(DECODER, channels, strict=False)) * width * height * size)


def denoising(unet: Mapping[str, Any], width: int, height: int, size: int, nets: int = 0) -> int:
    """Bytes that one evaluation of one picture of this many latent positions, guided by so many ControlNets, takes besides the weights.

    What the nets say is added up before the UNet begins: while the last one computes, that of the others is there.
    """
    tensors = DENOISER + RESIDUALS * max(min(nets, 1), nets - 1)
    return int(tensors * unet["block_out_channels"][0] * width * height * size)


def choose(wanted: Need, free: int) -> str:
    """The quickest way to keep a model in so many bytes of a card: "full", "model" or "sequential"."""
    return next((way for way in MEMORY[1:3] if wanted.of(way) <= free), "sequential")


def numbers(path: Path) -> int:
    """The numbers in a safetensors file, from its header. Raises WeightsError on one that cannot be read."""
    return sum(_count(one.shape) for one in read_header(path).tensors.values())


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _config(model: Model, part: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(model.folder / part / "config.json").read_text(encoding="utf8"))
    return content
