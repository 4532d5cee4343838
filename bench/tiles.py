"""What it costs a picture to have no seam: how often the embedded model's judge finds the subject, and how well opposite sides fit together.

    python bench/tiles.py --out docs/runs/DATE/tiles.json

A seam is the distance between the two sides, in distances between neighbours inside: 1 is what cannot be seen. Ways differ in how many
levels of the UNet wrap around (fewstep.engine.tiles), the finest first, and in whether the first evaluation does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.distill.state import write_text
from fewstep.engine import steering, tiles
from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.evals.judge import JUDGE, Judge, load_judge, look
from fewstep.zoo.registry import find

Rule = Callable[[int, int, int, bool], int]  # (height, width, levels, whether it is the first of several evaluations) to levels that wrap around
COLOURS = ("red", "blue", "green", "yellow", "pink", "white")
WAYS: dict[str, Rule | None] = {
    "no tile": None,
    "all levels": lambda height, width, levels, first: levels,
    "from 16 positions up": lambda height, width, levels, first: tiles.depth(height, width, levels, False),
    "the same, not in the first evaluation": tiles.depth,
}


def main() -> None:
    """Measure, print, and write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48, help="subjects, evenly among those the judge knows")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 2, 1])
    options = parser.parse_args()
    engine, judge = Engine.load("emoji"), load_judge(find("emoji") / JUDGE)
    rows = []
    for steps in options.steps:
        for way, rule in WAYS.items():
            if steps == 1 and rule is tiles.depth:
                continue  # no evaluation follows the first
            rows.append({"steps": steps, "way": way, **measured(engine, judge, steps, rule, options.count)})
            print(json.dumps(rows[-1]), flush=True)
    record = {"model": engine.model.hash(4), "backend": engine.backend.name, "decoder": engine.decoder, "count": options.count, "rows": rows}
    write_text(options.out, json.dumps(record, indent=1) + "\n")


def measured(engine: Engine, judge: Judge, steps: int, rule: Rule | None, count: int) -> dict[str, Any]:
    """Of ``count`` pictures that wrap around both ways by ``rule``: the share that shows its subject, and their seams, mean and worst."""
    own, steering.depth = steering.depth, rule or steering.depth
    try:
        wanted = list(subjects(judge, count))
        asked = [Request(f"a {judge.subjects[index]} on a {colour} background", seed, steps, tile=rule and "xy") for seed, (index, colour) in enumerate(wanted)]
        pictures = np.stack([np.asarray(picture.image) for picture in engine.generate_many(asked)])
    finally:
        steering.depth = own
    found, _ = judge.classify(look(judge, pictures))
    seams = [seam for picture in pictures for seam in sides(picture)]
    hits = found.argmax(dim=1).numpy() == np.array([index for index, _ in wanted])
    return {"found": round(float(hits.mean()), 3), "seam": round(float(np.mean(seams)), 3), "worst": round(max(seams), 3)}


def subjects(judge: Judge, count: int) -> Iterator[tuple[int, str]]:
    """(the judge's number of a subject, a colour for its background)."""
    for place in range(count):
        yield place * len(judge.subjects) // count, COLOURS[place % len(COLOURS)]


def sides(picture: np.ndarray) -> tuple[float, float]:
    """The seam between left and right, and between top and bottom, of a picture, uint8 [H, W, 3]."""
    pixels = picture.astype(float)
    across, down = (np.abs(pixels.take(0, axis) - pixels.take(-1, axis)).mean() / np.abs(np.diff(pixels, axis=axis)).mean() for axis in (1, 0))
    return float(across), float(down)


if __name__ == "__main__":
    main()
