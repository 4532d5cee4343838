"""Reading parquet files of pictures with captions, as the Hub's data sets have them. Needs the extra "parquet"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fewstep.data.fields import CAPTIONS, SCORES, told
from fewstep.data.item import Item
from fewstep.engine.request import RequestError

PICTURES = ("image", "jpg", "jpeg", "png", "webp", "picture", "bytes")


@dataclass(frozen=True)
class Cell:
    """The picture in one row of a row group."""

    path: Path
    column: str
    group: int
    row: int

    def read(self) -> bytes:
        """Its bytes. Raises RequestError on a row without any."""
        value = _group(self.path, self.column, self.group)[self.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise RequestError("its row in the parquet file holds no picture")
        return content


def read(path: Path) -> Iterator[Item]:
    """The rows of one file, captions and scores alone; the pictures stay where they are.

    Raises RequestError on a file that is no parquet or holds no pictures.
    """
    file = _open(path)
    names = file.schema_arrow.names
    column = next((name for name in PICTURES if name in names), None)
    if column is None or "string" in str(file.schema_arrow.field(column).type).split("<")[0]:
        raise RequestError(f"{path} has no column with the bytes of pictures, but {', '.join(names)}: fetch the pictures first, as img2dataset does")
    wanted = [name for name in (*CAPTIONS, *SCORES) if name in names]
    row = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        rows = file.read_row_group(group, columns=wanted).to_pylist() if wanted else [{}] * count
        for place, content in enumerate(rows):
            said = told(content)
            yield Item(f"{path.name}/{row}", Cell(path, column, group, place), said.caption, said.score)
            row += 1


@lru_cache(maxsize=1)  # rows are asked for one after another
def _group(path: Path, column: str, group: int) -> Any:
    return _open(path).read_row_group(group, columns=[column]).column(0)


@lru_cache(maxsize=2)
def _open(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid:
        raise RequestError(f"{path} is no parquet file, or it is not whole: fetch it again") from None
