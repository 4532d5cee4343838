"""The full decoder's pictures of cached latents, made once: a reduced decoder learns from them without running the full one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from fewstep.distill import dist
from fewstep.distill.latents import SHARD, Latents, to_tensor
from fewstep.distill.state import write_text
from fewstep.models.bundle import save_weights

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Crops:
    """The same part of several pictures of one bucket."""

    latents: Tensor  # [B, C, h, w], as the autoencoder knows them
    pictures: Tensor  # [B, 3, f·h', f·w'] in [-1, 1]: what the full decoder makes of the part that counts
    rows: slice  # of the decoded crop's pixels, those that ``pictures`` shows
    columns: slice


class Decoded:
    """A cache of ``count`` decoded pictures, from each bucket its share. Opening it makes what is missing; one of other latents is made anew."""

    def __init__(self, folder: Path, latents: Latents, vae: AutoencoderKL, count: int, key: str, precision: torch.dtype) -> None:
        self.folder, self.latents, self.seed = Path(folder), latents.latents, latents.seed
        self.counts = shares({size: len(rows) for size, rows in self.latents.items()}, count)
        self.deviation = _deviation(self.latents)
        self.folder.mkdir(parents=True, exist_ok=True)
        marker, content = self.folder / "cache.json", json.dumps({"key": key, "counts": [[*size, number] for size, number in self.counts.items()]})
        if dist.rank() == 0 and (not marker.is_file() or marker.read_text() != content):
            for stale in self.folder.glob("*.safetensors"):
                stale.unlink()
            write_text(marker, content)
        dist.wait()
        shards = [(size, first) for size, number in self.counts.items() for first in range(0, number, SHARD)]
        for size, first in shards[dist.rank() :: dist.world()]:
            if not self._shard(size, first).is_file():
                self._decode(vae, size, range(first, min(first + SHARD, self.counts[size])), precision)
        dist.wait()
        self.pictures: dict[Size, list[np.ndarray]] = {}  # uint8 [B, H, W, 3] a shard
        for size, first in shards:
            self.pictures.setdefault(size, []).append(load_file(self._shard(size, first))["pictures"].numpy())

    def batch(self, indices: range, batch_size: int, crop: int, margin: int, noise: float) -> Crops:
        """The crops with these global indices: all indices of one batch of ``batch_size`` see the same place of one bucket.

        ``crop`` and ``margin`` are :func:`span`'s. The latents get noise of a deviation that is uniform up to ``noise`` of their channel's own.
        """
        places = np.random.default_rng((self.seed, 4, indices[0] // batch_size)).random(3)
        sizes, ends = list(self.counts), np.cumsum(list(self.counts.values()))
        size = sizes[int(np.searchsorted(ends, places[0] * ends[-1], side="right"))]
        height, width = self.latents[size].shape[2:]
        (down, kept_down), (across, kept_across) = span(height, crop, margin, places[1]), span(width, crop, margin, places[2])
        latents, pictures, factor = [], [], size[0] // width
        for index in indices:
            rng = np.random.default_rng((self.seed, 5, index))
            row = int(rng.integers(self.counts[size]))
            clean = self.latents[size][row, :, down.start : down.stop, across.start : across.stop].float()
            drawn = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
            latents.append(clean + noise * rng.random() * self.deviation * drawn)
            picture = self.pictures[size][row // SHARD][row % SHARD]
            pictures.append(picture[_pixels(kept_down, factor), _pixels(kept_across, factor)])
        return Crops(
            torch.stack(latents),
            to_tensor(np.stack(pictures)),
            _pixels(kept_down, factor, down.start),
            _pixels(kept_across, factor, across.start),
        )

    def _shard(self, size: Size, first: int) -> Path:
        return self.folder / f"{size[0]}x{size[1]}-{first:07d}.safetensors"

    @torch.no_grad()
    def _decode(self, vae: AutoencoderKL, size: Size, rows: range, precision: torch.dtype) -> None:
        parts = []
        for row in rows:  # one by one, as the engine does: more fall out of a processor's cache
            latents = self.latents[size][row : row + 1].to(vae.device, vae.dtype)
            with torch.autocast(vae.device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                parts.append(to_bytes(vae.decode(latents, return_dict=False)[0]))
        save_weights({"pictures": torch.cat(parts)}, self._shard(size, rows.start), {"format": "pt"})


def span(length: int, crop: int, margin: int, draw: float) -> tuple[range, range]:
    """Along an axis of ``length`` latents: the positions of a crop placed by a uniform ``draw`` from [0, 1), and those of them that count.

    Where a crop ends and the picture does not, the decoder meets zeros in place of neighbours, and ``margin`` positions do not count. At the
    picture's own border it meets them in use as well: there all positions count, and a crop that holds the whole axis loses none.
    """
    crop = min(crop, length)
    start = int(draw * (length - crop + 1))
    stop = start + crop
    return range(start, stop), range(start + margin if start else 0, stop - margin if stop < length else stop)


def shares(lengths: dict[Size, int], count: int) -> dict[Size, int]:
    """How many of each bucket make ``count`` in all, in proportion to ``lengths``; all of them if there are not that many."""
    ends = np.cumsum([0, *lengths.values()])
    cuts = ends * min(count, int(ends[-1])) // ends[-1]
    return {size: int(number) for size, number in zip(lengths, np.diff(cuts), strict=True) if number}


def to_bytes(pictures: Tensor) -> Tensor:
    """float [B, 3, H, W] in [-1, 1] to uint8 [B, H, W, 3] on the CPU, rounded as the engine does: the inverse of ``to_tensor``."""
    return ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def _pixels(positions: range, factor: int, start: int = 0) -> slice:
    return slice((positions.start - start) * factor, (positions.stop - start) * factor)


def _deviation(latents: dict[Size, Tensor]) -> Tensor:
    """The standard deviation of each channel, [C, 1, 1]: that of details is a fifth of that of colours, and so should their noise be."""
    channels = torch.cat([part.float().transpose(0, 1).flatten(1) for part in latents.values()], dim=1)
    return channels.std(dim=1)[:, None, None]
