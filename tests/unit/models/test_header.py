"""The header of a safetensors file: whatever the bytes, it is what the library itself reads or one sentence, and nothing large is allocated."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fewstep.models.header import LONGEST, METADATA, parse_header
from fewstep.models.weights import WeightsError, read_header, read_weights

ONE = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
NAMES = st.text(max_size=8)
TYPES = st.sampled_from([np.float16, np.float32, np.int64, np.uint8, np.bool_])


def file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def parse(content: bytes) -> Any:
    return parse_header(io.BytesIO(content), len(content))


def theirs(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
    with safe_open(path, framework="numpy") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}, dict(opened.metadata() or {})


def agrees(content: bytes, path: Path) -> bool:
    """Whether ``content`` is read; if it is, the library must read the same from it."""
    path.write_bytes(content)
    try:
        ours = parse(content)
    except ValueError as error:
        assert "\n" not in str(error) and str(error)
        return False
    assert ({name: (one.dtype, one.shape) for name, one in ours.tensors.items()}, ours.metadata) == theirs(path)
    return True


@given(st.dictionaries(NAMES, st.tuples(TYPES, st.lists(st.integers(0, 3), max_size=3)), max_size=4), st.dictionaries(NAMES, NAMES, max_size=2))
def test_what_the_library_writes_is_read(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    arrays = {name: np.zeros(shape, kind) for name, (kind, shape) in tensors.items() if name != METADATA}
    assert agrees(save(arrays, metadata or None), tmp_path_factory.mktemp("h") / "a.safetensors")


@given(st.binary(max_size=200))
@example(b"")
@example(file(b"[" * 100_000))
@example(file(b"9" * 5000))
@example(file(b'{"a":' * 50_000))
@example(file(b'{"\xff":1}'))
@example(file(b'{"\\ud800":' + json.dumps(ONE).encode() + b"}", bytes(12)))
@example(file(b'{"a":NaN}'))
def test_any_bytes_are_read_as_the_library_does_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    agrees(content, tmp_path_factory.mktemp("h") / "a.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["F16", "F32", "F4", "BOOL"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", METADATA, "a"]), inner, max_size=4),
    max_leaves=12,
)
PLACES = st.lists(st.integers(-1, 24), max_size=3)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F16", "U8", "F4", "F0", 3]),
        "shape": st.lists(st.integers(-1, 4), max_size=2),
        "data_offsets": PLACES,
    }
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["a", "b", "c", METADATA]), ENTRIES | JSON, max_size=3), st.integers(0, 24))
def test_any_table_is_read_as_the_library_does_or_refused(tmp_path_factory: pytest.TempPathFactory, header: Any, size: int) -> None:
    agrees(file(header, bytes(size)), tmp_path_factory.mktemp("h") / "a.safetensors")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"short", "it has 5 bytes"),
        (file({}, length=2**62), f"claims to be {2**62} bytes long, in a file of 10"),
        (file({"a": ONE}, bytes(11)), "its tensors are 12 bytes, and it holds 11: it is truncated"),
        (file({"a": ONE}, bytes(14)), "2 bytes follow its last tensor"),
        (file({"a": ONE, "b": ONE}, bytes(12)), "'b' overlaps the one before it"),
        (file({"a": {**ONE, "data_offsets": [4, 16]}}, bytes(16)), "'a' comes after a gap"),
        (file({"a": {**ONE, "shape": [3, 3]}}, bytes(12)), "'a' has 12 bytes for a shape of [3, 3] in F16"),
        (file({"a": {**ONE, "shape": [2**64, 0]}}, bytes(12)), "cannot be"),
        (file({"a": {**ONE, "data_offsets": [12, 0]}}, bytes(12)), "'a' has -12 bytes"),
        (file({"a": {**ONE, "dtype": "F128"}}, bytes(12)), "of a type that the format does not have, 'F128'"),
        (file(b'{"a":1,"a":2}'), "its header is no JSON"),
        (file({METADATA: {"format": 3}}), "its metadata are no texts"),
        (b"PK\x03\x04" + bytes(range(1, 60)), "it is a zip archive"),
        (b"\x80\x04\x95" + bytes(range(1, 60)), "it is a pickle"),
        (b"GGUF\x03" + bytes(range(1, 60)), "it is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5135149760\n", "it is a pointer of Git LFS"),
        (b"<!doctype html><title>404</title>", "it is a web page"),
    ],
)
def test_each_fault_is_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (read_header, read_weights):
        with pytest.raises(WeightsError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: not a readable safetensors file (") and said in str(caught.value)
    with pytest.raises(SafetensorError):
        theirs(path)


def test_a_bomb_is_not_lit(tmp_path: Path) -> None:
    """A header as long as it says, but longer than any model's, is not read; one that lies allocates nothing."""
    path = tmp_path / "a.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 1 << 40) + b"{")
        stream.truncate(1 << 41)
    tracemalloc.start()
    for length in (1 << 40, LONGEST + 1):
        with path.open("r+b") as stream:
            stream.write(struct.pack("<Q", length))
        with pytest.raises(WeightsError, match="longer than any model's"):
            read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
