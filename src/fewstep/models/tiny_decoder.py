"""A reduced decoder: latents to pictures by a few plain convolutions, in a fraction of the autoencoder's time.

MODEL/decoder_tiny/config.json                              its dimensions
MODEL/decoder_tiny/diffusion_pytorch_model.safetensors      its weights; the metadata name the autoencoder's file that it stands in for
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.models.bundle import WEIGHTS, load_weights, save_weights
from fewstep.models.weights import TINY, TINY_KEY, WeightsError, check_decoder


@dataclass(frozen=True)
class TinyConfig:
    """The dimensions of a reduced decoder. Raises ValueError on a contradiction."""

    latent_channels: int
    factor: int  # pixels a side of one latent position
    channels: tuple[int, ...] = (96, 64, 48)  # of each level; the first has the latents' side, each further one twice that of the one before
    blocks: tuple[int, ...] = (1, 2, 2)  # residual blocks of each level

    def __post_init__(self) -> None:
        sizes = (self.latent_channels, self.factor, *self.channels)
        whole = all(type(number) is int for number in (*sizes, *self.blocks))
        if not whole or not all(1 <= size <= 1024 for size in sizes) or not all(0 <= count <= 64 for count in self.blocks):
            raise ValueError(f"latent_channels, factor and channels are whole numbers from 1 to 1024, blocks from 0 to 64: {self}")
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ValueError(f"channels = {self.channels}, blocks = {self.blocks}: one number each for every level")
        if self.factor % 2 ** (len(self.channels) - 1):
            raise ValueError(f"factor = {self.factor}: {len(self.channels)} levels, each twice the side of the one before, need a multiple of {self.upscaled}")

    @property
    def upscaled(self) -> int:
        """The last level's side over that of the latents; what is left to ``factor`` is done by one shuffle into pixels."""
        return int(2 ** (len(self.channels) - 1))


class TinyDecoder(nn.Module):
    """Residual blocks on few levels, and one last convolution whose channels are shuffled into pixels: nothing is computed at full size.

    No normalisation and no attention, for each costs passes over memory; every ReLU and every sum follows a convolution, and runtimes fuse it.
    What leads past the blocks is linear, so that training begins as a linear decoder: with a ReLU there, channels died and it stayed grey.
    """

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        before = config.channels[0]
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, before, 3, padding=1)]
        for level, (width, blocks) in enumerate(zip(config.channels, config.blocks, strict=True)):
            if level:
                layers += [nn.Conv2d(before, 4 * width, 1), nn.PixelShuffle(2)]
            layers += [_Block(width) for _ in range(blocks)]
            before = width
        shuffle = config.factor // config.upscaled
        layers += [nn.Conv2d(before, 3 * shuffle**2, 3, padding=1), nn.PixelShuffle(shuffle)]
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, f·H, f·W] with values about [-1, 1], not clamped, of latents [B, C, H, W] of any size.

        The latents are those that ``AutoencoderKL.decode`` takes: no longer multiplied by the scaling factor.
        """
        return self.layers(latents.contiguous(memory_format=torch.channels_last))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W], as it comes out
        return x + self.second(torch.relu(self.first(x)))


def build_tiny(config: TinyConfig) -> TinyDecoder:
    """A reduced decoder with weights drawn from torch's generator, every residual block the identity to begin with."""
    decoder = TinyDecoder(config)
    for module in decoder.modules():
        if isinstance(module, _Block):  # without normalisation the depth would otherwise multiply the variance
            nn.init.zeros_(module.second.weight)
            nn.init.zeros_(module.second.bias)  # type: ignore[arg-type]
    return decoder


def save_tiny(decoder: TinyDecoder, folder: Path, vae: str) -> Path:
    """Write ``decoder`` as float16 into the model's ``folder`` and return its own. ``vae`` is the hash of the autoencoder's file it is for."""
    own = Path(folder) / TINY
    own.mkdir(parents=True, exist_ok=True)
    config = {"_class_name": type(decoder).__name__, **asdict(decoder.config)}
    (own / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    tensors = {key: value.half().contiguous() for key, value in decoder.state_dict().items()}
    save_weights(tensors, own / WEIGHTS, {"format": "pt", TINY_KEY: json.dumps({"vae": vae})})
    return own


def load_tiny(folder: Path, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> TinyDecoder:
    """The reduced decoder in the model's ``folder``, frozen.

    Raises WeightsError if there is none, if its files are damaged, or if it was made for another autoencoder than the one beside it.
    """
    check_decoder(Path(folder))
    decoder = TinyDecoder(read_config(folder))
    load_weights(decoder, Path(folder) / TINY / WEIGHTS)
    return decoder.to(device, dtype).eval().requires_grad_(False)


def read_config(folder: Path) -> TinyConfig:
    """The dimensions of the reduced decoder in the model's ``folder``. Raises WeightsError if they cannot be read."""
    path = Path(folder) / TINY / "config.json"
    try:
        record = json.loads(path.read_text(encoding="utf8"))
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if not key.startswith("_")}
        return TinyConfig(**fields)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not the dimensions of a reduced decoder ({error}): fetch it again") from None
