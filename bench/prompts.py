"""What a negative prompt and a word's weight do to the embedded model's pictures, as its judge sees them.

    python bench/prompts.py --out docs/runs/DATE/prompts.json

For each prompt and way of asking: how many of the pictures show what (subject or background), and how sure the judge is on average.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.evals.judge import BACKGROUNDS, JUDGE, Judge, load_judge, look
from fewstep.zoo.registry import find

STEPS = (1, 4)
NEGATIVES = {  # a prompt that leaves the subject open, or the background, and what not to draw
    "a bird on a green background": "duck",
    "an insect on a green background": "lady beetle",
    "a flower on a green background": "rose",
    "a fox": "gray background",
}
WAYS: tuple[dict[str, float], ...] = ({"nag_scale": 1.5}, {"nag_scale": 2}, {"nag_scale": 3}, {"nag_scale": 5}, {"guidance_scale": 1.5}, {"guidance_scale": 2})
WEIGHTED = ("a (owl:{}) penguin on a green background", "a fox on a blue (red:{}) background")
WEIGHTS = (0, 0.3, 0.6, 0.8, 1, 1.2, 1.5)


def main() -> None:
    """Measure, print, and write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=32, help="pictures of each, with the seeds from 0")
    options = parser.parse_args()
    engine, judge, rows = Engine.load("emoji", decoder="tiny"), load_judge(find("emoji") / JUDGE), []
    for asked in questions():
        rows.append(asked | seen(engine, judge, asked, options.count))
        print(json.dumps(rows[-1]), flush=True)
    record = {"model": engine.model.hash(4), "backend": engine.backend.name, "decoder": engine.decoder, "count": options.count, "rows": rows}
    temporary = options.out.with_name(f".{options.out.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    temporary.replace(options.out)


def questions() -> Iterator[dict[str, Any]]:
    """The fields of each request, without its seed."""
    for steps in STEPS:
        for prompt, negative in NEGATIVES.items():
            yield {"prompt": prompt, "steps": steps}
            for way in WAYS:
                yield {"prompt": prompt, "steps": steps, "negative": negative, **way}
        for template in WEIGHTED:
            for weight in WEIGHTS:
                yield {"prompt": template.format(weight), "steps": steps}


def seen(engine: Engine, judge: Judge, asked: dict[str, Any], count: int) -> dict[str, Any]:
    """The judge's answers over ``count`` pictures: how often each subject and background, the most frequent first, and how sure it was."""
    pictures = engine.generate_many([Request(seed=seed, **asked) for seed in range(count)])
    subjects, backgrounds = judge.classify(look(judge, np.stack([np.asarray(picture.image) for picture in pictures])))
    return {
        "subjects": dict(Counter(judge.subjects[index] for index in subjects.argmax(dim=1)).most_common()),
        "backgrounds": dict(Counter(BACKGROUNDS[index] for index in backgrounds.argmax(dim=1)).most_common()),
        "sure": round(float(torch.softmax(subjects, dim=1).amax(dim=1).mean()), 3),
    }


if __name__ == "__main__":
    main()
