"""results.parquet: the results as a table, for who has pyarrow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from fewstep.batch.make import UNSAID
from fewstep.engine.record import Record

NAME = "results.parquet"
ROWS = 1024  # written at once
OWN = {"index": "int", "row": "int", "line": "int", "path": "str", "member": "str", "key": "str", "sha256": "str", "bytes": "int"}
MORE = {"score": "float", "error": "str", "labels": "str"}
STAGES = ("adapters", "text", "encode", "denoise", "decode")


def write_table(lines: Iterable[dict[str, Any]], path: Path) -> Path:
    """Write ``lines`` of the results as parquet: timings as columns ms_text and so on, what is nested as JSON.

    Returns ``path``. Raises OSError.
    """
    import pyarrow
    import pyarrow.parquet

    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "str": pyarrow.string(), "bool": pyarrow.bool_()}
    record = {field.name: str(field.type).removesuffix(" | None") for field in dataclasses.fields(Record) if field.name not in UNSAID}
    columns = {**OWN, **record, **{f"ms_{stage}": "float" for stage in STAGES}, **MORE}
    schema = pyarrow.schema([(name, kinds.get(kind, pyarrow.string())) for name, kind in columns.items()])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows = map(_row, lines)
        while some := list(islice(rows, ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
    return path


def _row(line: dict[str, Any]) -> dict[str, Any]:
    timings = {f"ms_{stage}": value for stage, value in line.get("timings_ms", {}).items()}
    nested = {name: json.dumps(value, ensure_ascii=False) for name, value in line.items() if isinstance(value, dict | list)}
    flags = {} if "error" in line else dict.fromkeys(FLAGS, False)
    return {**flags, **line, **nested, **timings}


FLAGS = [field.name for field in dataclasses.fields(Record) if field.type == "bool"]
