"""SDXL at full size as names and shapes, and files of any size that hold a header and nothing else: sparse, so that they take no room."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path

from fewstep.bench.sdxl import random_bundle
from fewstep.models.bundle import released_names
from fewstep.models.keys import PARTS, entries

Shapes = Mapping[str, tuple[int, ...]]


@cache
def full_size() -> dict[str, dict[str, tuple[int, ...]]]:
    """{part: {diffusers' name: shape}} of SDXL, from the meta device."""
    networks = random_bundle(device="meta").models
    states = {part: networks[part].state_dict() for part in PARTS}
    return {part: {name: tuple(states[part][key].shape) for name, key in released_names(networks[part]).items()} for part in PARTS}


def original(parts: tuple[str, ...] = PARTS) -> dict[str, tuple[int, ...]]:
    """{name: shape} of these parts of SDXL in its original layout."""
    return {entry.name: entry.shape(full_size()[part]) for part in parts for entry in entries(part, full_size()[part])}


def sparse(path: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Path:
    """A file of float16 tensors of these shapes, all zeros."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)
    return path
