"""The curves of a run: its lines, thinned, phase by phase; and those of a run that went well, to draw behind them. Loads no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

Points = list[list[float]]  # [share of the phase in (0, 1], value]
Curves = dict[str, dict[str, Points]]  # by phase, then "turn/metric"
BINS = 40  # points that a phase's curve keeps
APART = ("phase", "turn", "update", "samples")  # of a line, what is no figure


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's JSONL file; nothing where there is none. One that is still being written, or is damaged, is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf8", errors="replace") as stream:
        for text in stream:
            with suppress(ValueError):
                if text.endswith("\n") and isinstance(line := json.loads(text), dict):
                    yield line


def curves(lines: Iterable[Mapping[str, Any]], looks: Iterable[Mapping[str, Any]] = (), updates: Mapping[str, int] | None = None) -> Curves:
    """Curves from the lines of metrics.jsonl and of health.jsonl, at most BINS points each, means over as many stretches.

    ``updates`` are those of each phase when it is done; by default what is there is taken for the whole.
    """
    rows: dict[str, dict[str, Points]] = {}
    for turn, line in [*((line["turn"], line) for line in lines), *(("look", line) for line in looks)]:
        phase = rows.setdefault(line["phase"], {})
        for name, value in line.items():
            if name not in APART and isinstance(value, int | float) and math.isfinite(value):
                phase.setdefault(f"{turn}/{name}", []).append([line["update"], value])
    found: Curves = {}
    for name, of in rows.items():
        last = max(point[0] for points in of.values() for point in points)
        whole = max((updates or {}).get(name, 0), last)
        found[name] = {key: thin(points, whole) for key, points in of.items()}
        found[name] |= _gradients(found[name])
    return found


def thin(points: Sequence[Sequence[float]], whole: float, bins: int = BINS) -> Points:
    """The means of (update, value) over ``bins`` stretches of a phase of ``whole`` updates, as (share, value); empty stretches are left out."""
    sums: dict[int, list[float]] = {}
    for update, value in points:
        entry = sums.setdefault(min(int((update - 1) * bins / whole), bins - 1), [0, 0.0, 0.0])
        entry[0], entry[1], entry[2] = entry[0] + 1, entry[1] + update, entry[2] + value
    return [[round(at / count / whole, 4), float(f"{value / count:.4g}")] for _, (count, at, value) in sorted(sums.items())]


def _gradients(of: Mapping[str, Points]) -> dict[str, Points]:
    """The student's gradient norm over the critic's, stretch by stretch."""
    sides = [of.get(f"{turn}/grad_norm", []) for turn in ("student", "critic")]
    if not all(sides) or len(sides[0]) != len(sides[1]):
        return {}
    pairs = zip(*sides, strict=True)
    return {"contest/gradients": [[ours[0], float(f"{ours[1] / theirs[1]:.4g}")] for ours, theirs in pairs if theirs[1] > 0]}


@cache
def reference() -> Curves:
    """The curves of the run that made the embedded students, docs/runs/2026-11-25/students.jsonl, as they ship beside this file."""
    return json.loads(files("fewstep.distill.watch").joinpath("reference.json").read_text(encoding="utf8"))["phases"]
