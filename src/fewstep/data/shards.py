"""Shards: encoded pictures of one bucket with their captions, in safetensors with JSON beside, and the reader that training takes them from.

DIR/shards.json                   which encoders made them, and by which rules
DIR/00012-336x192.safetensors     latents [N, C, h, w], prompt_embeds [N, L, D], pooled [N, P] in bfloat16; time_ids [N, 6] in int32
DIR/00012-336x192.json            {"key", "size", "names", "captions", "crc32"}
DIR/00012.json                    what became of part 12 of the source
DIR/audit.json                    written last: the set is whole
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fewstep.data.files import read_json, write_json
from fewstep.models.bundle import save_weights
from fewstep.models.prompt import Prompt
from fewstep.models.weights import WeightsError, read_header

MARKER, AUDIT = "shards.json", "audit.json"
FORMAT = 1  # of the files
TENSORS = ("latents", "prompt_embeds", "pooled", "time_ids")
OPEN = 128  # shards that are kept open, by memory map
Size = tuple[int, int]


class ShardsError(ValueError):
    """Shards that cannot be trained on; the message says which, what is wrong and what to do."""


@dataclass(frozen=True)
class Rows:
    """Encoded pictures of one bucket."""

    latents: Tensor  # bfloat16 [B, C, h, w], as the autoencoder has them
    prompt: Prompt  # bfloat16
    time_ids: Tensor  # int32 [B, 6]
    captions: list[str]


@dataclass(frozen=True)
class Shard:
    """One file and what its JSON says of it."""

    path: Path
    size: Size
    captions: list[str]
    crc32: list[int]
    written: int  # when, in nanoseconds: a file that is made again is opened again


def write_shard(path: Path, key: str, size: Size, rows: Rows, names: Sequence[str]) -> None:
    """Write one shard, its JSON first: the tensors' rename is what makes it there. Raises OSError where there is no room."""
    tensors = {"latents": rows.latents, "prompt_embeds": rows.prompt.embeds, "pooled": rows.prompt.pooled, "time_ids": rows.time_ids}
    content = {"key": key, "size": size, "names": list(names), "captions": rows.captions, "crc32": checksums(tensors)}
    write_json(path.with_suffix(".json"), content)
    try:
        save_weights({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error}): make room and give the same command again, it goes on") from None


def checksums(tensors: dict[str, Tensor]) -> list[int]:
    """CRC-32 of each row, over all its tensors."""
    found = [0] * len(tensors["latents"])
    for name in TENSORS:
        found = [zlib.crc32(row.contiguous().view(torch.uint8).numpy(), crc) for row, crc in zip(tensors[name], found, strict=True)]
    return found


@dataclass
class Shards:
    """A prepared set. Opening it reads headers and captions alone; pictures are read as they are asked for.

    ``key`` is that of the model they shall be trained with. With ``skip_corrupt`` every byte is checked at once, and a damaged shard is left
    out and named in ``skipped``; without, the first one that is met raises. Raises ShardsError on a set that is not whole, is of other encoders or
    is empty.
    """

    folder: Path
    key: str
    skip_corrupt: bool = False
    skipped: list[str] = field(default_factory=list)
    counts: dict[Size, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        self._places: dict[Size, list[tuple[Shard, int]]] = {}
        for name in self._names():
            try:
                shard = self._open(name)
                if self.skip_corrupt:
                    take(shard, range(len(shard.captions)))
            except ShardsError:
                if not self.skip_corrupt:
                    raise
                self.skipped.append(name)
                continue
            self._places.setdefault(shard.size, []).extend((shard, row) for row in range(len(shard.captions)))
        self.counts = {size: len(places) for size, places in sorted(self._places.items())}
        if not self.counts:
            raise ShardsError(f"{self.folder} holds no pictures: see its audit.html for why they were dropped, and prepare others")

    def _check(self) -> None:
        marker = read_json(self.folder / MARKER)
        if not marker:
            raise ShardsError(f"{self.folder} holds no shards: give the --out folder of fewstep data prepare")
        if read_json(self.folder / AUDIT).get("parts") != len(self._parts()):
            raise ShardsError(f"{self.folder} is not finished: give its fewstep data prepare again, it goes on where it was stopped")
        if marker.get("key") != self.key:
            raise ShardsError(
                f"{self.folder} was encoded by another autoencoder or other text encoders ({marker.get('key')}, those of {marker.get('model')}; this model's "
                f"are {self.key}): prepare the pictures with --model as the recipe has it, or give that model in the recipe"
            )

    def _parts(self) -> list[Path]:
        return [path for path in sorted(self.folder.glob("*.json")) if path.stem.isdecimal()]

    def _names(self) -> list[str]:
        names: list[str] = []
        for path in self._parts():
            record = read_json(path)
            if "shards" not in record:
                raise corrupt(path, "it is no record of a part")
            names += record["shards"]
        return names

    def _open(self, name: str) -> Shard:
        path = self.folder / f"{name}.safetensors"
        record = read_json(path.with_suffix(".json"))
        try:
            shapes = read_header(path).shapes
            captions, crc32 = list(map(str, record["captions"])), list(map(int, record["crc32"]))
            width, height = record["size"]
            alike = {len(captions), len(crc32), *(shapes[tensor][0] for tensor in TENSORS)}
        except (WeightsError, KeyError, TypeError, ValueError, IndexError) as error:
            raise corrupt(path, str(error) if isinstance(error, WeightsError) else "its JSON is damaged or missing") from None
        if len(alike) != 1:
            raise corrupt(path, "its tensors and its JSON have different numbers of pictures")
        return Shard(path, (width, height), captions, crc32, path.stat().st_mtime_ns)

    @property
    def identity(self) -> str:
        """What a run depends on of the set: its encoders, and every picture's bytes, in 12 hexadecimal digits."""
        digest = hashlib.sha256(self.key.encode())
        for size, places in sorted(self._places.items()):
            digest.update(repr((size, [shard.crc32[row] for shard, row in places])).encode())
        return digest.hexdigest()[:12]

    def read(self, size: Size, rows: Sequence[int]) -> Rows:
        """The pictures ``rows`` of the bucket ``size``. Raises ShardsError, naming the file, on one that is damaged."""
        parts = [take(shard, range(row, row + 1)) for shard, row in (self._places[size][row] for row in rows)]
        return Rows(
            torch.cat([part.latents for part in parts]),
            Prompt(torch.cat([part.prompt.embeds for part in parts]), torch.cat([part.prompt.pooled for part in parts])),
            torch.cat([part.time_ids for part in parts]),
            [caption for part in parts for caption in part.captions],
        )


def take(shard: Shard, rows: range) -> Rows:
    """Successive ``rows`` of a shard, checked against their checksums. Raises ShardsError."""
    try:
        file = _mapped(shard.path, shard.written)
        tensors = {name: file.get_slice(name)[rows.start : rows.stop] for name in TENSORS}
    except (SafetensorError, OSError) as error:
        raise corrupt(shard.path, str(error)) from None
    if checksums(tensors) != shard.crc32[rows.start : rows.stop]:
        raise corrupt(shard.path, "its bytes are not those that were written")
    prompt = Prompt(tensors["prompt_embeds"], tensors["pooled"])
    return Rows(tensors["latents"], prompt, tensors["time_ids"], shard.captions[rows.start : rows.stop])


@lru_cache(maxsize=OPEN)
def _mapped(path: Path, written: int) -> Any:
    return safe_open(path, framework="pt").__enter__()  # type: ignore[no-untyped-call]


def corrupt(path: Path, problem: str) -> ShardsError:
    """The error for a damaged shard."""
    name = path.stem.partition("-")[0]
    return ShardsError(
        f"{path} is damaged ({problem}): take {name}.json away and give fewstep data prepare again, or leave it out with data.skip_corrupt = true"
    )
