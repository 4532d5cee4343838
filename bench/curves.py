"""Draw the curves of the runs that made the embedded students: python bench/curves.py

From the lines under docs/runs into docs/images/curves.svg, which docs/training.md shows. The same lines give the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import chain
from pathlib import Path

from fewstep.distill.state import write_text
from fewstep.distill.watch.chart import HEIGHT, LEFT, TOP, WIDTH, chart
from fewstep.distill.watch.curves import curves, read_lines

DOCS = Path(__file__).parents[1] / "docs"
RUNS = ("2026-11-29/students", "2026-11-30/one-step")  # 32 to 2 steps, and one
OUT = DOCS / "images" / "curves.svg"
DRAWN = (  # heading, figure, whether its axis is logarithmic, and values that it covers in any case
    ("the student's loss: mean squared error where MSE teaches and in the adapter, of the contest in the rest", "student/loss", True, ()),
    ("share of pictures that the critic tells right; 0.5 is guessing", "critic/right", False, (0.4, 0.7)),
    ("distance from the student's landing point to the teacher's, in the contest", "critic/distance", True, ()),
)
ROOM = 24  # above each chart, for its heading
STYLE = "svg{--ink:#2a2f36;--soft:#6b7280;--line:#c9ced6;color:#2a2f36;font-family:sans-serif}"
DARK = "@media(prefers-color-scheme:dark){svg{--ink:#e6e8eb;--soft:#9aa3ad;--line:#474e57;color:#e6e8eb}}"


def drawing(runs: Sequence[Path]) -> str:
    """One SVG of the charts of DRAWN over the phases of ``runs``, one after another."""
    lines = list(chain.from_iterable(map(read_lines, runs)))
    found = curves(lines)
    spans = {phase: max(line["update"] for line in lines if line["phase"] == phase) ** 0.5 for phase in found}  # else one phase would be all of it
    wide, tall = LEFT + WIDTH + 4, TOP + HEIGHT + 6
    parts = []
    for number, (heading, figure, log, shown) in enumerate(DRAWN):
        own = {phase: of[figure] for phase, of in found.items() if figure in of}
        y = number * (tall + ROOM) + ROOM
        parts.append(f'<text x="{LEFT}" y="{y - 8}" font-size="13" fill="currentColor">{escape(heading)}</text>')
        parts.append(chart(heading, spans, own, {}, log, shown).replace("<svg ", f'<svg y="{y}" width="{wide}" height="{tall}" ', 1))
    box = f"0 0 {wide} {len(DRAWN) * (tall + ROOM)}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}"><style>{STYLE}{DARK}</style>{"".join(parts)}</svg>\n'


if __name__ == "__main__":
    write_text(OUT, drawing([DOCS / "runs" / f"{run}.jsonl" for run in RUNS]))
    print(OUT)
