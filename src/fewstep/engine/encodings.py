"""What a picture begins with, encoded: texts to embeddings, images to latents. Each is encoded alone, so that its batch makes no difference."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fewstep.engine.backends import Backend
from fewstep.engine.recent import recent
from fewstep.engine.request import Settled
from fewstep.engine.wording import read
from fewstep.models.adapters import TEXT
from fewstep.models.stack import Stack, key_of

REMEMBERED = 64  # prompts whose embeddings are kept, unless more are asked for, and images whose latents are


class Encodings:
    """What ``backend`` has encoded, of which the last few are kept: ``remembered`` prompts, and REMEMBERED images."""

    def __init__(self, backend: Backend, remembered: int = REMEMBERED) -> None:
        self.backend, self.remembered = backend, remembered
        self._prompts: OrderedDict[Hashable, Any] = OrderedDict()
        self._images: OrderedDict[Hashable, Any] = OrderedDict()

    def prompt(self, settled: Settled) -> Any:
        """What a picture is of: its prompt, or as far on the straight line to its blend as its weight says, pooled text included."""
        encode = partial(self.text, literal=settled.literal, chunks=settled.chunks[0], loras=settled.loras)
        first = encode((settled.prompt, settled.prompt_2))
        if settled.blend is None or settled.blend_weight is None:
            return first
        second, near, far = encode((settled.blend,)), 1 - settled.blend_weight, settled.blend_weight
        return type(first)(near * first.embeds + far * second.embeds, near * first.pooled + far * second.pooled)

    def negative(self, settled: Settled) -> Any:
        """What a picture is led away from: its negative prompt."""
        return self.text((settled.negative,), settled.literal, settled.chunks[1], settled.loras)

    def text(self, texts: Sequence[str | None], literal: bool = False, chunks: int = 1, loras: Stack = ()) -> Any:
        """One prompt. Where there is a second text, the second encoder reads that."""
        said = [read(text, literal) for text in texts if text is not None]
        words = said[0], said[-1]
        return recent(self._prompts, (words, chunks, key_of(loras, *TEXT)), partial(self.backend.encode, words, chunks), self.remembered)

    def sources(self, batch: Sequence[Settled], shape: tuple[int, ...], factor: int) -> tuple[Any, Any]:
        """(latents [B, C, H/f, W/f] of the images, masks [B, 1, H/f, W/f] of what is made anew), one of which has ``shape``; zeros and ones
        for a picture without an image.
        """
        latents, masks = [], []
        for source, tile in ((settled.source, settled.tile) for settled in batch):
            if source is None:
                latents.append(np.zeros(shape, np.float32))
                masks.append(np.ones((1, 1, *shape[2:]), np.float32))
            else:
                latents.append(recent(self._images, (source.image_hash, tile), partial(self.backend.encode_image, source.pixels, tile), REMEMBERED))
                masks.append(source.latent_mask(factor))
        return self.backend.array(np.concatenate(latents)), self.backend.array(np.concatenate(masks))
