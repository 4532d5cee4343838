"""The picture of the students' curves is what the lines of their runs say."""

from __future__ import annotations

from tests.unit.bench.test_methods import program


def test_the_picture_in_the_documentation_is_of_the_lines_beside_it() -> None:
    drawn = program("curves")
    assert drawn.OUT.read_text(encoding="utf8") == drawn.drawing([drawn.DOCS / "runs" / f"{run}.jsonl" for run in drawn.RUNS])
    assert all(f"runs/{run}.jsonl" in (drawn.DOCS / "training.md").read_text(encoding="utf8") for run in drawn.RUNS)
