"""The header of a safetensors file: the names, types and places of its tensors, checked whole before anything else of the file is read.

8 bytes, little-endian: the header's length │ JSON {name: {"dtype", "shape", "data_offsets"}, "__metadata__": {text: text}} │ tensors, end to end

Source: the format's description, https://github.com/huggingface/safetensors#format. Loads neither that library nor torch, and allocates
nothing that the file does not hold.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

LONGEST = 25_000_000  # bytes: what the Hub's own client reads of a header at most; SDXL's has 0.3 MB
LARGEST = 1 << 63  # of a dimension or a place in the file
DIMENSIONS = 64  # torch's own limit
METADATA = "__metadata__"
BITS = {  # of one number of each type of the format
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
OTHERS = {  # what else is found under the name of a safetensors file, by how it begins
    b"PK\x03\x04": "it is a zip archive, as PyTorch's .ckpt and .pt are",
    b"GGUF": "it is a GGUF file",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself",
    b"<": "it is a web page",
    b"{": "it is a JSON file",
    **{bytes([0x80, protocol]): "it is a pickle, which can run code when it is opened" for protocol in range(2, 6)},
}


@dataclass(frozen=True)
class Stored:
    """One tensor, as it lies in the file."""

    dtype: str  # as the format has it: "F16"
    shape: tuple[int, ...]
    start: int  # in bytes after the header
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name of a tensor: its shape}."""
        return {name: stored.shape for name, stored in self.tensors.items()}


def parse_header(stream: BinaryIO, size: int) -> Header:
    """The header of a file of ``size`` bytes. Raises ValueError, saying what is wrong, unless every byte of the file is accounted for."""
    start = stream.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {len(start)} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > min(LONGEST, size - 8):
        lies = f"its header claims to be {length} bytes long, in a file of {size}"
        raise ValueError(_other(start, stream) or (lies if length > size - 8 else f"its header of {length / 1e6:.0f} MB is longer than any model's"))
    text = stream.read(length)
    try:
        content = json.loads(text.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise ValueError(_other(start + text[:24], stream) or "its header is no JSON") from None
    if not isinstance(content, dict) or not text.startswith(b"{"):
        raise ValueError("its header is no table of tensors")
    metadata = content.pop(METADATA, None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no texts")
    tensors = {name: _stored(name, entry) for name, entry in content.items()}
    _check_places(tensors, size - 8 - length)
    return Header(tensors, metadata)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of names that are Unicode and occur once: of two entries under one name, readers differ in which they take."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name twice")
    "".join(table).encode()
    return table


def _stored(name: str, entry: Any) -> Stored:
    kinds = {"dtype": str, "shape": list, "data_offsets": list}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"'{name:.200}' has no type, shape or place")
    dtype, shape, places = (entry[key] for key in kinds)
    if dtype not in BITS:
        raise ValueError(f"'{name:.200}' is of a type that the format does not have, '{dtype:.20}'")
    if len(shape) > DIMENSIONS or len(places) != 2 or not all(type(number) is int and 0 <= number < LARGEST for number in shape + places):
        raise ValueError(f"'{name:.200}' has a shape or a place that cannot be")
    start, end = places
    if (end - start) * 8 != prod(shape) * BITS[dtype]:
        raise ValueError(f"'{name:.200}' has {end - start} bytes for a shape of {shape} in {dtype}")
    return Stored(dtype, tuple(shape), start, end)


def _check_places(tensors: Mapping[str, Stored], size: int) -> None:
    """Raises ValueError unless the tensors lie end to end and fill ``size`` bytes: nothing overlaps, nothing is hidden between them."""
    end = 0
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if stored.start != end:
            raise ValueError(f"'{name:.200}' {'overlaps the one before it' if stored.start < end else 'comes after a gap'}")
        end = stored.end
    if end != size:
        raise ValueError(f"its tensors are {end} bytes, and it holds {size}: it is truncated" if end > size else f"{size - end} bytes follow its last tensor")


def _other(start: bytes, stream: BinaryIO) -> str:
    """What a file that begins so is instead, in words; empty where it is nothing known."""
    start += stream.read(max(24 - len(start), 0))
    return next((what for begins, what in OTHERS.items() if start.startswith(begins)), "")
