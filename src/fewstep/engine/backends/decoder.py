"""The decoder of an autoencoder in torch, as backends call it: in half precision without black pictures, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from fewstep.engine.backends import log

MOST_SIDE = 512  # pixels of a part: SDXL's autoencoder says 1024, the size of its pictures


class Decoder:
    """The decoder of ``vae``: its own latents [B, C, H/f, W/f] to pixels [B, 3, H, W].

    SDXL's own autoencoder exceeds float16's 65504 within, and what comes out is not finite: a black picture in most tools. Such pictures
    are decoded again in float32, each by itself, so that a picture does not depend on those before it; the log says so once.

    ``tiled``: in overlapping parts of at most ``side`` pixels that are blended into each other, as diffusers does it, for pictures whose activations
    do not fit. ``quick`` makes a network ready to compute, and ``home`` is where it lies until then; None: where the autoencoder is.
    """

    def __init__(self, vae: Any, tiled: bool = False, quick: Callable[[Any], Any] = lambda network: network, home: str | None = None) -> None:
        self._vae, self._tiled, self._quick, self._home = vae, tiled, quick, home
        self.side = min(MOST_SIDE, int(vae.config.sample_size))

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode."""
        pixels = self._decode(self._vae, latents)
        if pixels.dtype != torch.float16 or bool(pixels.isfinite().all()) or not bool(latents.isfinite().all()):
            return pixels
        return self._decode(self._wide, latents.float())

    def _decode(self, vae: Any, latents: Tensor) -> Tensor:
        if not self._tiled:
            whole: Tensor = vae.decode(latents, return_dict=False)[0]
            return whole
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = self.side, self.side >> (len(vae.config.block_out_channels) - 1)
        try:
            pixels: Tensor = vae.decode(latents, return_dict=False)[0]
        finally:
            vae.disable_tiling()
        return pixels

    @cached_property
    def _wide(self) -> Any:
        """The autoencoder once more, in float32. What was compiled is no part of it."""
        log.warning("fewstep: the decoder exceeds what float16 can hold; such pictures are decoded again in float32")
        with init_empty_weights(include_buffers=False):
            wide = type(self._vae).from_config(self._vae.config)
        wide.load_state_dict({name: value.to(self._home or value.device, torch.float32) for name, value in self._vae.state_dict().items()}, assign=True)
        return self._quick(wide.eval().requires_grad_(False))
