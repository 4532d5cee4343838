"""The list of what to make: rows of a CSV, JSONL, YAML, parquet or text file, read one after another and never all at once. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from fewstep.batch.cells import plain
from fewstep.batch.delimited import records
from fewstep.engine.request import RequestError

ENDINGS = ".csv, .tsv, .jsonl, .yaml, .parquet, or .txt with one prompt a line"
PARQUET_ROWS = 1024  # read at once
UNQUOTED = {  # kinds of values in YAML by how they are written; all else is text
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "-?(0|[1-9][0-9]*)",
    "float": r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": "<<",
}
NOT_YAML = "holds characters that YAML does not take: write it in UTF-8, without control characters"


@dataclass(frozen=True)
class Row:
    """One row. ``values`` are its cells by column, without those that are empty; ``problem`` says why it cannot be read."""

    line: int  # where it stands in the file, from 1; in parquet the number of the row
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    empty: tuple[str, ...] = ()  # the columns of the others, where each row names its own


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
    with path.open("rb") as stream:
        wide = stream.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)  # what Excel saves as Unicode text
    if wide:
        return path.open(encoding="utf-16", errors="replace", newline=newline)
    # what is not UTF-8 becomes halves of surrogates, which a request refuses by its line; a strict decoder would end the file there
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _csv_columns(path: Path) -> tuple[str, ...]:
    with _text(path, "") as stream:
        line, cells = next(records(stream), (1, []))
    if isinstance(cells, str):
        raise RequestError(f"{path}, line {line}: {cells}: it names the columns, for instance prompt,seed")
    return tuple(cell.strip() for cell in cells)


def _csv_rows(path: Path) -> Iterator[Row]:
    with _text(path, "") as stream:
        table = records(stream)
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
    cells, name = dict[str, Any](), ""
    try:
        for name, value in content.items():
            cells[name] = plain(value)
    except ValueError:
        return Row(line, problem=f"its {name} holds bytes that are no text: leave it out, or write it as text")
    except RecursionError:
        return Row(line, problem=f"its {name} is nested too deep: leave it out, or write it as text")
    empty = tuple(name for name, value in cells.items() if value is None)
    return Row(line, {name: value for name, value in cells.items() if value is not None}, empty=empty)


def _yaml_rows(path: Path) -> Iterator[Row]:
    """One row of the list after another, as the parser comes to it."""
    import yaml

    shape = f"{path}: a YAML manifest is a list, and each of its items has columns and values"
    with _text(path) as stream:
        try:
            loader = _yaml_loader(stream)
        except yaml.reader.ReaderError:
            raise RequestError(f"{path} {NOT_YAML}") from None
        try:
            loader.get_event()  # the stream's beginning
            if not loader.check_event(yaml.DocumentStartEvent):
                raise RequestError(f"{path} is empty: {shape}")
            loader.get_event()
            if not loader.check_event(yaml.SequenceStartEvent):
                raise RequestError(shape)
            loader.get_event()
            while not loader.check_event(yaml.SequenceEndEvent):
                yield _yaml_row(loader, loader.compose_node(None, 0))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            if isinstance(error, RequestError):
                raise
            mark = getattr(error, "problem_mark", None)
            line = loader.line + 1 if mark is None else mark.line + 1
            what = NOT_YAML if isinstance(error, yaml.reader.ReaderError) else "is no YAML from here on: give a list of rows"
            yield Row(line, problem=f"the file {what}")
        finally:
            loader.dispose()


def _yaml_loader(stream: TextIO) -> Any:
    """The safe one, but what stands without quotes is read as in YAML 1.2: 16:9 is no number of seconds, no is a word, and so is 007 or a date."""
    import yaml

    loader = yaml.SafeLoader(stream)
    kinds = [(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z")) for kind, pattern in UNQUOTED.items()]
    loader.yaml_implicit_resolvers = {None: kinds}
    return loader


def _yaml_row(loader: Any, node: Any) -> Row:
    import yaml

    line = node.start_mark.line + 1
    try:
        return _row_of(line, loader.construct_document(node))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):  # a tag of YAML's own may hold anything
        return Row(line, problem="it holds a tag or a value that cannot be read: leave it out, or put it in quotes")


def _parquet_columns(path: Path) -> tuple[str, ...]:
    return tuple(_parquet(path).schema_arrow.names)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow

    line = 0
    try:
        for batch in _parquet(path).iter_batches(PARQUET_ROWS):
            yield from _batch_rows(batch, line + 1)
            line += batch.num_rows
    except (pyarrow.ArrowException, OSError):
        yield Row(line + 1, problem="the file is damaged from here on: write it again")


def _batch_rows(batch: Any, first: int) -> Iterator[Row]:
    """The rows of a batch, one by one where something in it has no value in Python, such as a time to the nanosecond."""
    try:
        contents = batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield _row_of(first + number, batch.slice(number, 1).to_pylist()[0])
            except (ValueError, OverflowError) as error:
                yield Row(first + number, problem=f"it cannot be read ({error!s:.100}): write the cell as text")
        return
    for number, content in enumerate(contents):
        yield _row_of(first + number, content)


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException:
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
