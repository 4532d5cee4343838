"""Shards: encoded pictures of one bucket with their captions, in safetensors with JSON beside, and the reader that training takes them from.

DIR/shards.json                   which encoders made them, and by which rules
DIR/00012-336x192.safetensors     latents [N, C, h, w], prompt_embeds [N, L, D], pooled [N, P] in bfloat16; time_ids [N, 6] in int32
DIR/00012-336x192.json            {"key", "size", "names", "captions", "crc32"}
DIR/00012.json                    what became of part 12 of the source
DIR/audit.json                    written last: the set is whole
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
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
    captions: tuple[str, ...]
    crc32: tuple[int, ...]
    written: int  # when, in nanoseconds: a file that is made again is opened again


Places = list[tuple[Shard, int]]  # where pictures lie: a shard, and the row in it


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

    ``key`` is that of the model they shall be trained with. With ``skip_corrupt`` every byte is checked at once, a damaged shard is named in
    ``skipped``, and in place of its pictures, ``lost`` in all, others of the bucket are shown, or of the nearest where it has none: a run which began with
    them goes on in its order. Without, the first one that is met raises. Raises ShardsError on a set that is not whole, is of other encoders or is empty.
    """

    folder: Path
    key: str
    skip_corrupt: bool = False
    skipped: list[str] = field(default_factory=list)
    lost: int = 0
    counts: dict[Size, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check()
        self._places: dict[Size, Places] = {}
        damaged: set[Path] = set()
        for name in self._names():
            path = self.folder / f"{name}.safetensors"
            try:
                shard = _recorded(path)
            except ShardsError as error:  # nothing is known of it, and nothing is shown in its place
                self._skip(name, error)
                continue
            try:
                _check_tensors(shard, whole=self.skip_corrupt)
            except ShardsError as error:
                self._skip(name, error)
                damaged.add(path)
                self.lost += len(shard.captions)
            self._places.setdefault(shard.size, []).extend((shard, row) for row in range(len(shard.captions)))
        self._shown = _standing_in(self._places, damaged)
        self.counts = {size: len(self._places[size]) for size in sorted(self._shown)}
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

    def _skip(self, name: str, error: ShardsError) -> None:
        if not self.skip_corrupt:
            raise error
        self.skipped.append(name)

    @property
    def identity(self) -> str:
        """What a run depends on of the set: its encoders, and every picture's bytes as they were written, in 12 hexadecimal digits."""
        digest = hashlib.sha256(self.key.encode())
        for size in self.counts:
            digest.update(repr((size, [shard.crc32[row] for shard, row in self._places[size]])).encode())
        return digest.hexdigest()[:12]

    def read(self, size: Size, rows: Sequence[int]) -> Rows:
        """The pictures ``rows`` of the bucket ``size``. Raises ShardsError, naming the file, on one that is damaged."""
        parts = [take(shard, range(row, row + 1)) for shard, row in (self._shown[size][row] for row in rows)]
        return Rows(
            torch.cat([part.latents for part in parts]),
            Prompt(torch.cat([part.prompt.embeds for part in parts]), torch.cat([part.prompt.pooled for part in parts])),
            torch.cat([part.time_ids for part in parts]),
            [caption for part in parts for caption in part.captions],
        )


def _recorded(path: Path) -> Shard:
    """The shard at ``path`` as its JSON has it. Raises ShardsError."""
    record = read_json(path.with_suffix(".json"))
    try:
        captions, crc32 = tuple(map(str, record["captions"])), tuple(map(int, record["crc32"]))
        width, height = record["size"]
        if len(captions) != len(crc32):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise corrupt(path, "its JSON is damaged or missing") from None
    return Shard(path, (width, height), captions, crc32, path.stat().st_mtime_ns if path.is_file() else 0)


def _check_tensors(shard: Shard, whole: bool) -> None:
    """Raises ShardsError where a shard's tensors are not as many as its JSON says or, looked at as a ``whole``, not as they were written."""
    try:
        shapes = read_header(shard.path).shapes
        alike = {len(shard.captions), *(shapes[tensor][0] for tensor in TENSORS)}
    except (WeightsError, KeyError, IndexError) as error:
        raise corrupt(shard.path, str(error) if isinstance(error, WeightsError) else "it lacks a tensor") from None
    if len(alike) != 1:
        raise corrupt(shard.path, "its tensors and its JSON have different numbers of pictures")
    if whole:
        take(shard, range(len(shard.captions)))


def _standing_in(places: Mapping[Size, Places], damaged: Set[Path]) -> dict[Size, Places]:
    """``places`` with whole ones in turn where they are of ``damaged`` shards, of the same bucket or of the nearest that has any; none where nothing is."""
    whole = {size: own for size, every in places.items() if (own := [place for place in every if place[0].path not in damaged])}
    shown: dict[Size, Places] = {}
    for size, every in places.items() if whole else ():
        others = cycle(whole[min(whole, key=lambda other: _apart(size, other))])
        shown[size] = [next(others) if place[0].path in damaged else place for place in every]
    return shown


def _apart(one: Size, other: Size) -> tuple[float, Size]:
    """How far two shapes are apart: by their ratios, then by their names, so that all ranks come to the same."""
    return abs(math.log(one[0] * other[1] / (one[1] * other[0]))), other


def take(shard: Shard, rows: range) -> Rows:
    """Successive ``rows`` of a shard, checked against their checksums. Raises ShardsError."""
    try:
        file = _mapped(shard.path, shard.written)
        tensors = {name: file.get_slice(name)[rows.start : rows.stop] for name in TENSORS}
    except (SafetensorError, OSError) as error:
        raise corrupt(shard.path, str(error)) from None
    if tuple(checksums(tensors)) != shard.crc32[rows.start : rows.stop]:
        raise corrupt(shard.path, "its bytes are not those that were written")
    prompt = Prompt(tensors["prompt_embeds"], tensors["pooled"])
    return Rows(tensors["latents"], prompt, tensors["time_ids"], list(shard.captions[rows.start : rows.stop]))


@lru_cache(maxsize=OPEN)
def _mapped(path: Path, written: int) -> Any:
    return safe_open(path, framework="pt").__enter__()  # type: ignore[no-untyped-call]


def corrupt(path: Path, problem: str) -> ShardsError:
    """The error for a damaged shard."""
    name = path.stem.partition("-")[0]
    return ShardsError(
        f"{path} is damaged ({problem}): take {name}.json away and give fewstep data prepare again, or do without it: --set data.skip_corrupt=true"
    )
