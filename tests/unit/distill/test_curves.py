"""Curves are means over stretches, and the reference that ships is the committed run's."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from fewstep.distill.watch.chart import HEIGHT, LEFT, TOP, WIDTH, chart
from fewstep.distill.watch.curves import BINS, curves, read_lines, reference, thin

ROOT = Path(__file__).parents[3]


def test_the_reference_is_made_from_the_committed_run() -> None:
    """Anew from the file that it names, to the digit."""
    shipped = json.loads(files("fewstep.distill.watch").joinpath("reference.json").read_text(encoding="utf8"))
    assert shipped["phases"] == curves(read_lines(ROOT / shipped["source"])) == reference()


def test_a_thinned_curve_keeps_the_mean() -> None:
    """Stretches of equal length: the mean of their means is the mean of all; and few points stay as they are."""
    points = [[update, float(update % 7)] for update in range(1, 40 * BINS // 4 + 1)]
    thinned = thin(points, len(points))
    assert len(thinned) == BINS
    assert sum(y for _, y in thinned) / BINS == pytest.approx(sum(y for _, y in points) / len(points), rel=1e-3)
    assert thin([[1, 0.25], [4, 0.5]], 4) == [[0.25, 0.25], [1.0, 0.5]]


def test_the_gradients_ratio_is_the_students_over_the_critics() -> None:
    lines = [{"phase": "a/full", "turn": turn, "update": i + 1, "grad_norm": norm} for i, (turn, norm) in enumerate([("critic", 4.0), ("student", 1.0)] * 20)]
    assert {y for _, y in curves(lines)["a/full"]["contest/gradients"]} == {0.25}


def test_a_line_that_is_damaged_or_still_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\0\n3\n{"update": 1}\n{"upda')
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [{"update": 1}]


def test_a_chart_puts_values_where_they_belong() -> None:
    """On a logarithmic axis a decade is a decade: 1 lies half-way between 0.1 and 10. A zero has no place there."""
    drawn = chart("x", {"a/one": 1.0, "a/two": 1.0}, {"a/one": [[0.0, 0.1], [0.5, 1.0], [1.0, 10.0], [1.0, 0.0]]}, {}, log=True)
    (line,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    points = [tuple(float(v) for v in point.split(",")) for point in line.split()]
    assert points == [(LEFT, TOP + HEIGHT), (LEFT + WIDTH / 4, TOP + HEIGHT / 2), (LEFT + WIDTH / 2, TOP)]
    assert chart("x", {"a/one": 1.0}, {}, {}) == ""


def test_names_are_escaped() -> None:
    assert "<b>" not in chart("<b>", {"<b>/x": 1.0}, {"<b>/x": [[0.5, 1.0]]}, {})
