"""The list of what to make: rows of a CSV, JSONL, YAML, parquet or text file, read one after another and never all at once. Loads no torch."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from fewstep.engine.request import RequestError

ENDINGS = ".csv, .tsv, .jsonl, .yaml, .parquet, or .txt with one prompt a line"
PARQUET_ROWS = 1024  # read at once
SEPARATORS = ("\t", ";", ",")


@dataclass(frozen=True)
class Row:
    """One row. ``values`` are its cells by column, without those that are empty; ``problem`` says why it cannot be read."""

    line: int  # where it stands in the file, from 1; in parquet the number of the row
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


Read = Callable[[Path], Iterator[Row]]


@dataclass(frozen=True)
class Manifest:
    """A file of rows. ``columns`` are in its first line, None where each row names its own."""

    path: Path
    columns: tuple[str, ...] | None
    _read: Read = field(repr=False)

    def rows(self) -> Iterator[Row]:
        """The rows, from the first on. What cannot be read is a row with a problem."""
        return self._read(self.path)

    def hash(self) -> str:
        """The SHA-256 of the file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def open_manifest(path: Path) -> Manifest:
    """The manifest in a file, by how its name ends. Raises RequestError on one that cannot be read or has no rows to begin with."""
    kind = path.suffix.lower()
    if kind not in READERS:
        raise RequestError(f"{path} is no manifest: give a file that ends in {ENDINGS}")
    try:
        with path.open("rb"):
            pass
        columns = COLUMNS[kind](path) if kind in COLUMNS else None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror or 'it is not whole'}): give a file that ends in {ENDINGS}") from None
    if columns is not None:
        _check_columns(path, columns)
    return Manifest(path, columns, READERS[kind])


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    if not any(columns):
        raise RequestError(f"{path} is empty: its first line names the columns, for instance prompt,seed")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice or "" in columns:
        raise RequestError(f"{path}: {f'two columns are called {twice[0]!r}' if twice and twice[0] else 'a column has no name'}: give each its own")


def _text(path: Path, newline: str | None = None) -> TextIO:
    # what is not UTF-8 becomes halves of surrogates, which a request refuses by its line; a strict decoder would end the file there
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _separator(path: Path) -> str:
    with _text(path) as stream:
        first = stream.readline()
    return next((sign for sign in SEPARATORS if sign in first), ",")


def _table(path: Path, stream: TextIO) -> Iterator[tuple[int, list[str] | str]]:
    """(line that it begins in, its cells or what is wrong with it) of every record of a CSV, the first included."""
    reader = csv.reader(stream, delimiter=_separator(path), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, f"it is no row of a CSV ({error})"


def _csv_columns(path: Path) -> tuple[str, ...]:
    with _text(path, "") as stream:
        _, cells = next(_table(path, stream), (1, []))
    if isinstance(cells, str):
        raise RequestError(f"{path}, line 1: {cells}: it names the columns, for instance prompt,seed")
    return tuple(cell.strip() for cell in cells)


def _csv_rows(path: Path) -> Iterator[Row]:
    with _text(path, "") as stream:
        table = _table(path, stream)
        _, first = next(table, (1, []))
        columns = [cell.strip() for cell in first]
        for line, cells in table:
            if isinstance(cells, str):
                yield Row(line, problem=cells)
            elif len(cells) > len(columns):
                yield Row(line, problem=f"it has {len(cells)} cells for {len(columns)} columns: put quotes around a cell with the separator in it")
            elif any(cell.strip() for cell in cells):
                yield Row(line, {name: cell for name, cell in zip(columns, cells, strict=False) if cell.strip()})


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with _text(path) as stream:
        for line, text in enumerate(stream, start=1):
            if text.strip():
                yield _json_row(line, text)


def _json_row(line: int, text: str) -> Row:
    try:
        return _row_of(line, json.loads(text))
    except (ValueError, RecursionError):
        return Row(line, problem='it is no JSON: write one object a line, for instance {"prompt": "a fox", "seed": 7}')


def _row_of(line: int, content: Any) -> Row:
    """A row of what JSON, YAML or parquet holds for it."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return Row(line, problem="it is no object of columns and values")
    return Row(line, {name: value for name, value in content.items() if value is not None})


def _yaml_rows(path: Path) -> Iterator[Row]:
    """One row of the list after another, as the parser comes to it."""
    import yaml

    shape = f"{path}: a YAML manifest is a list, and each of its items has columns and values"
    with _text(path) as stream:
        loader = yaml.SafeLoader(stream)
        try:
            loader.get_event()  # the stream's beginning
            if not loader.check_event(yaml.DocumentStartEvent):
                raise RequestError(f"{path} is empty: {shape}")
            loader.get_event()
            if not loader.check_event(yaml.SequenceStartEvent):
                raise RequestError(shape)
            loader.get_event()
            while not loader.check_event(yaml.SequenceEndEvent):
                node = loader.compose_node(None, 0)
                yield _row_of(node.start_mark.line + 1, loader.construct_document(node))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            if isinstance(error, RequestError):
                raise
            mark = getattr(error, "problem_mark", None)
            line = 0 if mark is None else mark.line + 1
            yield Row(line, problem="the file is no YAML from here on: give a list of rows")
        finally:
            loader.dispose()


def _parquet_columns(path: Path) -> tuple[str, ...]:
    return tuple(_parquet(path).schema_arrow.names)


def _parquet_rows(path: Path) -> Iterator[Row]:
    line = 0
    for batch in _parquet(path).iter_batches(PARQUET_ROWS):
        for content in batch.to_pylist():
            line += 1
            yield _row_of(line, content)


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid:
        raise RequestError(f"{path} is no parquet file, or it is not whole: write it again") from None


def _prompt_rows(path: Path) -> Iterator[Row]:
    with _text(path) as stream:
        for line, text in enumerate(stream, start=1):
            if text.strip():
                yield Row(line, {"prompt": text.strip()})


READERS: dict[str, Read] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _jsonl_rows,
    ".yaml": _yaml_rows,
    ".yml": _yaml_rows,
    ".parquet": _parquet_rows,
    ".txt": _prompt_rows,
}
COLUMNS: dict[str, Callable[[Path], tuple[str, ...]]] = {
    ".csv": _csv_columns,
    ".tsv": _csv_columns,
    ".parquet": _parquet_columns,
    ".txt": lambda path: ("prompt",),
}
