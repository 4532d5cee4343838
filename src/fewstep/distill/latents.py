"""Cached latents: scenes rendered and encoded once, so that training a UNet never runs the autoencoder."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from fewstep.data.buckets import bucket, buckets
from fewstep.data.emoji import World
from fewstep.distill import dist
from fewstep.distill.state import write_text
from fewstep.distill.workers import each, spare
from fewstep.engine.decode import ENCODED
from fewstep.models.bundle import digest_weights, save_weights
from fewstep.models.prompt import Prompt, time_ids

ENCODED_BESIDE = 32  # pictures that are encoded at once on an accelerator, while others are rendered
SHARD = 128  # pictures a file, all of one bucket: few enough that a small cache holds every bucket
GOLDEN = 0.6180339887498949  # multiples of the golden ratio, modulo 1, fill [0, 1) evenly from the first few on


@dataclass(frozen=True)
class Samples:
    """Training samples of one bucket, with the index that all their randomness hangs on."""

    latents: Tensor  # [B, C, H/f, W/f], scaled to unit variance
    captions: list[str]
    time_ids: Tensor  # [B, 6]
    indices: list[int]  # global sample indices
    seed: int
    prompt: Prompt | None = None  # the captions, encoded, where that is done once for all

    def noise(self, purpose: int) -> Tensor:
        """Unit noise like the latents; each sample's own, a function of (seed, index, purpose). A purpose serves one draw: another would repeat it."""
        shape = self.latents.shape[1:]
        draws = [np.random.default_rng((self.seed, index, purpose)).standard_normal(shape, np.float32) for index in self.indices]
        return torch.from_numpy(np.stack(draws)).to(self.latents.device)

    def uniform(self, purpose: int) -> np.ndarray:
        """One uniform draw from [0, 1) a sample, as :meth:`noise` seeded: float64 [B]."""
        return np.array([np.random.default_rng((self.seed, index, purpose)).random() for index in self.indices])


Text = Callable[[Samples], Prompt]
"""What the captions of samples say to a UNet: float32."""


class Cache(Protocol):
    """Encoded pictures that training takes its samples from: rendered scenes (:class:`Latents`), or shards (prepared.py)."""

    @property
    def counts(self) -> Mapping[tuple[int, int], int]:
        """Pictures in each bucket (width, height)."""

    @property
    def spread(self) -> float:
        """What latents are divided by, to have unit variance."""

    def batch(self, indices: range, batch_size: int, scale: float, device: torch.device) -> Samples:
        """The samples with these global indices. All indices of one batch of ``batch_size`` come from one bucket."""

    def rows(self, size: tuple[int, int], rows: Sequence[int], indices: range, scale: float, device: torch.device) -> Samples:
        """The cached pictures ``rows`` of the bucket ``size``, modulo how many it holds, as samples with these global indices."""


def stretch(batch_size: int) -> int:
    """Sample indices that a phase has to itself, so that no two phases draw the same noise: whole batches."""
    return 10**9 // batch_size * batch_size


class Latents:
    """A cache of ``count`` encoded scenes. Opening it makes what is missing; a cache of another autoencoder or world is made anew."""

    def __init__(self, folder: Path, world: World, vae: AutoencoderKL, count: int, key: str, precision: torch.dtype) -> None:
        self.folder, self.seed, self.side = Path(folder), world.seed, int(vae.config.sample_size)
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.folder / "cache.json"
        content = json.dumps({"key": key, "count": count})
        if dist.rank() == 0 and (not marker.is_file() or marker.read_text() != content):
            for stale in self.folder.glob("*.safetensors"):
                stale.unlink()
            write_text(marker, content)
        dist.wait()
        shards = list(range(0, count, SHARD))
        own = [range(first, min(first + SHARD, count)) for first in shards[dist.rank() :: dist.world()]]
        missing = [shard for shard in own if not self._shard(shard.start).is_file()]
        if missing and dist.rank() == 0:
            print(f"fewstep: rendering and encoding {sum(map(len, missing)):,} scenes before the first update", file=sys.stderr)
        self._encode(world, vae, missing, precision)
        dist.wait()
        parts: dict[tuple[int, int], list[Tensor]] = {}
        self.captions: dict[tuple[int, int], list[str]] = {}
        for first in shards:
            size, captions, latents = self._read(first)
            parts.setdefault(size, []).append(latents)
            self.captions.setdefault(size, []).extend(captions)
        self.latents = {size: torch.cat(tensors) for size, tensors in parts.items()}

    @property
    def counts(self) -> dict[tuple[int, int], int]:
        """Pictures in each bucket (width, height)."""
        return {size: len(rows) for size, rows in self.latents.items()}

    @property
    def spread(self) -> float:
        """The standard deviation over all cached latents, before scaling: the autoencoder's scaling_factor is one over it."""
        return float(torch.cat([part.float().flatten() for part in self.latents.values()]).std())

    def batch(self, indices: range, batch_size: int, scale: float, device: torch.device) -> Samples:
        """The samples with these global indices. All indices of one batch of ``batch_size`` come from one bucket."""
        sizes = [size for size in buckets(self.side) if size in self.latents]
        wanted = bucket(np.random.default_rng((self.seed, 2, indices[0] // batch_size)).random(), self.side)
        size = wanted if wanted in sizes else sizes[0]  # a small cache may lack a bucket
        rows = [int(np.random.default_rng((self.seed, 3, index)).integers(len(self.latents[size]))) for index in indices]
        return self.rows(size, rows, indices, scale, device)

    def rows(self, size: tuple[int, int], rows: Sequence[int], indices: range, scale: float, device: torch.device) -> Samples:
        """The cached pictures ``rows`` of the bucket ``size``, modulo how many it holds, as samples with these global indices."""
        rows = [row % len(self.latents[size]) for row in rows]
        return Samples(
            latents=self.latents[size][rows].float().mul(scale).to(device),
            captions=[self.captions[size][row] for row in rows],
            time_ids=time_ids(len(rows), *size, device=device),
            indices=list(indices),
            seed=self.seed,
        )

    def _shard(self, first: int) -> Path:
        return self.folder / f"{first:07d}.safetensors"

    @torch.no_grad()
    def _encode(self, world: World, vae: AutoencoderKL, shards: Sequence[range], precision: torch.dtype) -> None:
        workers = spare()
        some = ENCODED_BESIDE if workers else ENCODED
        parts = [[range(start, min(start + some, shard.stop)) for start in range(shard.start, shard.stop, some)] for shard in shards]
        rendered = iter(each(partial(_scenes, world, self.side), [part for own in parts for part in own], workers))
        for shard, own in zip(shards, parts, strict=True):
            captions: list[str] = []
            latents = []
            for pictures, said in islice(rendered, len(own)):
                captions += said
                with torch.autocast(vae.device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                    latents.append(vae.encode(pictures.to(vae.device)).latent_dist.mean.half().cpu())
            write_text(self._shard(shard.start).with_suffix(".json"), json.dumps({"size": _size(shard, self.side), "captions": captions}))
            save_weights({"latents": torch.cat(latents).contiguous()}, self._shard(shard.start), {"format": "pt"})

    def _read(self, first: int) -> tuple[tuple[int, int], list[str], Tensor]:
        record = json.loads(self._shard(first).with_suffix(".json").read_text())
        width, height = record["size"]
        return (width, height), record["captions"], load_file(self._shard(first))["latents"]


def _size(indices: range, side: int) -> tuple[int, int]:
    """(width, height) of the pictures of a shard, or of a part of it."""
    return bucket(indices.start // SHARD * GOLDEN % 1, side)


def _scenes(world: World, side: int, indices: range) -> tuple[Tensor, list[str]]:
    pictures, captions = [], []
    for index in indices:
        rng = world.rng(index)
        scene = world.scene(rng)
        captions.append(world.caption(scene, rng))
        pictures.append(world.render(scene, *_size(indices, side)))
    return to_tensor(np.stack(pictures)), captions


def cache_key(data: str, vae: AutoencoderKL, precision: torch.dtype) -> str:
    """What a cache depends on: the data's recipe and the autoencoder, as float16 files hold it. Runs that share both may share a cache."""
    digest = hashlib.sha256(f"{data} {precision}".encode())
    digest_weights(digest, vae)
    return digest.hexdigest()[:12]


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1], channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
