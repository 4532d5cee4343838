"""From rows to the pictures that are wanted: a template filled in, columns read as fields, rows multiplied by shapes and seeds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.batch.cells import is_unicode
from fewstep.batch.fields import FIELDS, meant, parse
from fewstep.batch.manifest import Manifest, Row
from fewstep.engine.request import SEEDS, Request, RequestError

COLUMN = re.compile(r"(?<!\\)\{([^{}|\\]*)\}")  # {name}; {red|blue} is a choice that the seed makes, and stays in the prompt
COMBINE = ("zip", "matrix")
SIZED = ("aspect", "width", "height")
MOST_VALUES = 100_000  # of one column that is combined with others: they are held in memory


@dataclass(frozen=True)
class Wanted:
    """One picture as the manifest asks for it. ``labels`` are the cells that are no fields: the template's, and those to keep."""

    index: int  # of the picture in its job, from 0
    row: int  # of the manifest, from 1
    line: int  # of the file
    request: Request
    labels: Mapping[str, Any]


@dataclass(frozen=True)
class Bad:
    """What cannot be made: ``count`` pictures from ``index`` on."""

    index: int
    row: int
    line: int
    error: str
    count: int = 1


@dataclass(frozen=True)
class Expansion:
    """How rows become requests. ``given`` holds fields for the rows that do not have them. What is empty multiplies nothing."""

    template: str | None = None
    combine: str = "zip"
    sizes: tuple[tuple[int, int], ...] = ()
    seeds: tuple[int, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    @property
    def each(self) -> int:
        """Pictures of one row."""
        return max(1, len(self.sizes)) * max(1, len(self.seeds))

    @property
    def holes(self) -> list[str]:
        """The columns that the template names."""
        return list(dict.fromkeys(name.strip() for name in COLUMN.findall(self.template or "")))

    def check(self, columns: Sequence[str]) -> None:
        """Raises RequestError unless a row with these ``columns`` can be made into requests."""
        holes, there = self.holes, ", ".join(columns) or "none"
        for name in (*holes, *self.keep):
            if name not in columns:
                what = f"the template names {{{name}}}" if name in holes else f"--keep names {name!r}"
                raise RequestError(f"{what}, and there is no such column: there is {there}")
        for name in columns:
            if name not in FIELDS and name not in holes and name not in self.keep:
                known = [*FIELDS, *holes]
                raise RequestError(f"unknown column {name!r:.60}: a column is {meant(name, known)}; name it in --keep to have it in the results alone")
        if self.template is None and "prompt" not in columns and "prompt" not in self.given:
            raise RequestError(f"there is no column 'prompt': there is {there}; name one so, or give a --template that names columns in braces")
        if self.template is not None and "prompt" in columns and "prompt" not in holes:
            raise RequestError("there are both a column 'prompt' and a --template that does not name it: leave one away, or write {prompt} into the template")
        if self.sizes and (sized := [name for name in SIZED if name in columns or name in self.given]):
            raise RequestError(f"--aspects and a '{sized[0]}' were both given: give one of them")
        if self.seeds and ("seed" in columns or "seed" in self.given):
            raise RequestError("--seeds and a 'seed' were both given: give one of them")

    def wanted(self, manifest: Manifest) -> Iterator[Wanted | Bad]:
        """Every picture, row by row; of one row shape by shape, and of one shape seed by seed.

        Raises RequestError at once where the manifest names its columns and they cannot be used.
        """
        if manifest.columns is not None:
            self.check(manifest.columns)
        for number, row in enumerate(self._rows(manifest), start=1):
            yield from self._of(row, number, manifest.path.parent, manifest.columns is not None)

    def count(self, manifest: Manifest) -> int:
        """How many pictures the manifest asks for, bad rows included."""
        return self.each * (sum(1 for _ in manifest.rows()) if self.combine == "zip" else _combinations(_columns(manifest)))

    def _rows(self, manifest: Manifest) -> Iterator[Row]:
        return manifest.rows() if self.combine == "zip" else _combined(manifest)

    def _of(self, row: Row, number: int, folder: Path, named: bool) -> Iterator[Wanted | Bad]:
        index = (number - 1) * self.each
        try:
            if row.problem:
                raise RequestError(row.problem)
            if not named:
                self.check((*row.values, *(name for name in row.empty if name in (*self.holes, *self.keep))))
            fields, labels = self._read(row, folder)
        except RequestError as error:
            yield Bad(index, number, row.line, str(error), self.each)
            return
        for size, seed in itertools.product(self.sizes or (None,), self.seeds or (None,)):
            varied = {**fields, **_chosen(fields, number, size, seed)}
            try:
                yield Wanted(index, number, row.line, Request(**varied), labels)
            except RequestError as error:
                yield Bad(index, number, row.line, str(error))
            index += 1

    def _read(self, row: Row, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """(fields of the request, labels) of a row. Raises RequestError."""
        for name, value in row.values.items():
            if not (is_unicode(name) and is_unicode(value)):
                raise RequestError(f"its {name} is not valid Unicode: write the file in UTF-8")
        for name in self.holes or ["prompt"]:
            if name not in row.values and (self.holes or "prompt" not in self.given):
                raise RequestError(f"its {name} is empty")
            if isinstance(row.values.get(name), dict | list) and self.holes:
                raise RequestError(f"its {name} is {row.values[name]!r:.60}, and the template names it: give a text or a number")
        labels = {name: row.values[name] for name in dict.fromkeys((*self.holes, *self.keep)) if name in row.values and name not in FIELDS}
        own = {name: parse(name, value, folder) for name, value in row.values.items() if name in FIELDS}
        if self.template is not None:
            own["prompt"] = COLUMN.sub(lambda match: str(row.values[match[1].strip()]), self.template)
        return {**self.given, **own}, labels


def _chosen(fields: Mapping[str, Any], number: int, size: tuple[int, int] | None, seed: int | None) -> dict[str, Any]:
    """What a row leaves open and must not be left to chance: a seed is the row's number, a variation's the one after its own."""
    chosen: dict[str, Any] = {} if size is None else {"width": size[0], "height": size[1]}
    own = chosen["seed"] = seed if seed is not None else fields.get("seed", number)
    if fields.get("variation") and fields.get("variation_seed") is None and isinstance(own, int):
        chosen["variation_seed"] = (own + 1) % SEEDS
    return chosen


def _combined(manifest: Manifest) -> Iterator[Row]:
    """A row for every combination of the columns' values, the last column's the quickest. Raises RequestError where a row cannot be read."""
    values = _columns(manifest)
    for combination in itertools.product(*(column.values() for column in values.values())) if values else ():
        cells = {name: value for name, (value, _) in zip(values, combination, strict=True)}
        yield Row(max(line for _, line in combination), cells)


def _combinations(values: Mapping[str, Mapping[str, Any]]) -> int:
    return math.prod(map(len, values.values())) if values else 0


def _columns(manifest: Manifest) -> dict[str, dict[str, tuple[Any, int]]]:
    """By column, each of its values once with the line it is first in. Raises RequestError where a row cannot be read."""
    values: dict[str, dict[str, tuple[Any, int]]] = {}
    for row in manifest.rows():
        if row.problem:
            raise RequestError(f"{manifest.path}, line {row.line}: {row.problem}")
        for name, value in row.values.items():
            values.setdefault(name, {}).setdefault(repr(value), (value, row.line))
            if len(values[name]) > MOST_VALUES:
                raise RequestError(f"{manifest.path}: the column {name!r} has more than {MOST_VALUES} values: combine fewer, or give --combine zip")
    return values
