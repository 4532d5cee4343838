"""Does training for editing help? python bench/editing.py

Two students of 4 steps from the same 8-step student, with as many updates, the same data and seed: one as the paper has it, one of whose jumps a
share starts at any noise level (``anywhere``) and a share of whose samples keeps a picture outside a mask (``masked``), which the teacher paints
beside first. Both finish sketches, which are held-out scenes made soft: the whole picture (image-to-image), and the middle of one that is sharp
around it (inpainting). Of the strengths only 0.5 is a level of the plain student's own. Ground, budget and files are those of bench/methods.py;
--table writes the table into docs/methods.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import PAGE, RESULTS, Bench, Row, arguments, asked_of, made, opened, read_results, stage_of, whole, write_between
from PIL import Image, ImageFilter

from fewstep.bench.machine import describe
from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import RecipeError, read_recipe
from fewstep.engine.device import best_device
from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.evals.prompts import Question, held_out
from fewstep.evals.rows import Renders

MARKS = "<!-- editing -->", "<!-- end of editing -->"
STEPS, SHARE = 4, 0.3  # of the students; of the jumps and of the samples that are for editing
STRENGTHS = (0.3, 0.5, 0.7)
SOFT = 0.03  # deviation of a sketch's blur over the picture's side
MIDDLE = 0.25  # from each border to the mask, over the side
KINDS = ("sketch", "mask")
STUDENTS = {"plain": {}, "editing": {"anywhere": SHARE, "masked": SHARE}}


def soft(pictures: np.ndarray) -> np.ndarray:
    """Sketches of ``pictures``: what is left after a blur."""
    radius = SOFT * pictures.shape[1]
    return np.stack([np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius))) for picture in pictures])


def editor(run: Path) -> Engine:
    """The student of ``run``, held to any strength, whether it was taught to begin there or not."""
    engine = whole(run, STEPS)
    able = replace(engine.model, limits=replace(engine.model.limits, anywhere=frozenset({STEPS})))
    return Engine(able, engine.backend, engine.decoder)


def finished(engine: Engine, questions: Sequence[Question], sharp: np.ndarray, kind: str, strength: float) -> np.ndarray:
    """What the student makes of sketches of the scenes ``sharp``, uint8 [N, H, W, 3]: of all of each, or of its middle."""
    mask = middle(sharp.shape[1]) if kind == "mask" else None
    requests = []
    for seed, (question, scene, sketch) in enumerate(zip(questions, sharp, soft(sharp), strict=True)):
        begun = Image.composite(Image.fromarray(sketch), Image.fromarray(scene), mask) if mask is not None else Image.fromarray(sketch)
        requests.append(Request(question.text, seed, STEPS, image=begun, mask=mask, strength=strength))
    return np.stack([np.asarray(picture.image) for picture in engine.generate_many(requests)])


def middle(side: int) -> Image.Image:
    """A mask that has the middle of a picture repainted."""
    edge = round(MIDDLE * side)
    mask = Image.new("L", (side, side))
    mask.paste(255, (edge, edge, side - edge, side - edge))
    return mask


def cell(bench: Bench, asked: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Train and measure one student; its content is what its file holds."""
    plan = read_recipe(bench.recipe, DistillPlan, bench.settings)
    stage = replace(stage_of(Row("paper"), plan, STEPS, asked["budget"], ""), **STUDENTS[name])  # type: ignore[arg-type]
    engine = editor(bench.trained(Row("paper"), stage, seed))
    questions = held_out(bench.world, bench.prompts)
    sharp = bench.ask(Renders(bench.world, engine.limits.native), questions)
    figures = {}
    for kind in KINDS:
        for strength in STRENGTHS:
            pictures = finished(engine, questions, sharp, kind, strength)
            adherence, detail, artefacts = bench.judged(questions, pictures, sharp)
            distance = float(np.sqrt(np.square(pictures.astype(np.float32) - sharp).mean()))
            figures[f"{kind} {strength}"] = {"adherence": adherence, "detail": detail, "artefacts": artefacts, "distance": distance}
    machine = describe(best_device(), torch.get_num_threads())["kind"]
    return {"student": name, "steps": STEPS, "seed": seed, **asked, "stage": STUDENTS[name], "figures": figures, "machine": machine}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Means over seeds in Markdown, the plain student's before the other's."""
    if not results:
        return "No student has been measured yet."
    seeds = {name: [result["figures"] for result in results if result["student"] == name] for name in STUDENTS}
    lines = [f"| | strength | {' | '.join(f'{figure}, plain | {figure}, editing' for figure in ('adherence', 'detail', 'artefacts', 'distance'))} |"]
    lines += ["|---" * 10 + "|"]
    for kind in KINDS:
        for strength in STRENGTHS:
            shown = []
            for figure, form in (("adherence", ".1%"), ("detail", ".2f"), ("artefacts", ".1%"), ("distance", ".1f")):
                for name in STUDENTS:
                    values = [figures[f"{kind} {strength}"][figure] for figures in seeds[name]]
                    shown.append(f"{format(float(np.mean(values)), form)} ± {format(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, form)}")
            lines.append(f"| {kind} | {strength} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> int:
    given = arguments(__doc__)
    folder = given.out or (given.work / "quick-editing" if given.quick else RESULTS / "editing")
    if given.table:
        write_between(MARKS, table(read_results(folder)), PAGE)
        return 0
    bench = opened(given)
    asked = asked_of(given, bench)
    for seed in map(int, given.seeds.split(",")):
        for name in STUDENTS:
            if content := made(folder / f"{name}-{seed}.json", asked, partial(cell, bench, asked, name, seed)):
                print(name, seed, " ".join(f"{key} {value['adherence']:.3f}" for key, value in content["figures"].items()), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RecipeError, ValueError) as error:
        print(f"bench/editing.py: {error}", file=sys.stderr)
        sys.exit(2)
