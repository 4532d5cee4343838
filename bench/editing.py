"""Does training for editing help? python bench/editing.py

Two students of 4 steps from the same 8-step student, with as many updates, the same data and seed: one as the paper has it, one of whose jumps a
share starts at any noise level (``anywhere``) and a share of whose samples keeps a picture outside a mask (``masked``), which the teacher paints
beside first. Both finish sketches, which are held-out scenes made soft: the whole picture (image-to-image), and the middle of one that is sharp
around it (inpainting). Of the strengths only 0.5 is a level of the plain student's own. Ground, budget and files are those of bench/methods.py;
--table writes the table into docs/methods.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from methods import PAGE, RESULTS, Bench, Row, arguments, budget_of, opened, read_results, stage_of, taught_by, write_between
from PIL import Image, ImageFilter

from fewstep.bench.machine import describe
from fewstep.distill.editing import Kept
from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import RecipeError, read_recipe
from fewstep.distill.state import write_text
from fewstep.engine.decode import decode
from fewstep.engine.device import best_device
from fewstep.evals.prompts import Question, held_out
from fewstep.evals.rows import Renders
from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import encode, time_ids
from fewstep.models.students import student
from fewstep.sampler import sample
from fewstep.schedule import CLEAN, TRAIN_TIMESTEPS, add_noise, alpha_bar

MARKS = "<!-- editing -->", "<!-- end of editing -->"
STEPS, SHARE = 4, 0.3  # of the students; of the jumps and of the samples that are for editing
STRENGTHS = (0.3, 0.5, 0.7)
SOFT = 0.03  # deviation of a sketch's blur over the picture's side
MIDDLE = 0.25  # from each border to the mask, over the side
KINDS = ("sketch", "mask")
STUDENTS = {"plain": {}, "editing": {"anywhere": SHARE, "masked": SHARE}}


def times_from(strength: float, steps: int) -> list[tuple[int, int]]:
    """(t, t_next) from a picture noised to ``strength``, in strides of a student of so many ``steps``."""
    levels = [strength - k / steps for k in range(math.ceil(strength * steps - 1e-9))] + [0.0]
    timesteps = [round(level * TRAIN_TIMESTEPS) - 1 for level in levels]
    return list(zip(timesteps, timesteps[1:], strict=False))


@dataclass(frozen=True)
class Editor:
    """A few-step student that changes pictures."""

    bundle: Bundle
    unet: Any

    @torch.no_grad()
    def __call__(self, questions: Sequence[Question], sketches: np.ndarray, around: np.ndarray | None, strength: float) -> np.ndarray:
        """Finish ``sketches``, uint8 [N, H, W, 3]; outside the middle ``around`` is kept, where it is given."""
        parts = [slice(first, first + 16) for first in range(0, len(questions), 16)]
        return np.concatenate([self._few(questions[p], sketches[p], None if around is None else around[p], strength, p.start) for p in parts])

    def _few(self, questions: Sequence[Question], sketches: np.ndarray, around: np.ndarray | None, strength: float, first: int) -> np.ndarray:
        begun, count = self._latents(sketches), len(questions)
        noise = torch.from_numpy(np.stack([np.random.default_rng((7, first + row)).standard_normal(begun.shape[1:], np.float32) for row in range(count)]))
        height, width = begun.shape[-2:]
        kept = None
        if around is not None:
            made = torch.zeros(count, 1, height, width, dtype=torch.bool)
            made[..., round(MIDDLE * height) : -round(MIDDLE * height), round(MIDDLE * width) : -round(MIDDLE * width)] = True
            kept = Kept(made, self._latents(around), noise)
        ids = time_ids(count, sketches.shape[2], sketches.shape[1])
        frames = sample(
            denoiser(self.unet, encode(self.bundle, [question.text for question in questions]), ids),
            add_noise(begun if kept is None else kept.hold(begun, torch.full((count,), CLEAN)), noise, alpha_bar(times_from(strength, STEPS)[0][0])),
            times_from(strength, STEPS),
            prediction_type="epsilon",
            start_scale=1.0,
            keep=lambda x, t: x if kept is None else kept.hold(x, torch.full((count,), t)),
        )
        return decode(self.bundle.vae, list(frames)[-1].latents)

    def _latents(self, pictures: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        found = torch.cat([self.bundle.vae.encode(part).latent_dist.mode() for part in pixels.split(2)])
        return found * self.bundle.vae.config.scaling_factor


def soft(pictures: np.ndarray) -> np.ndarray:
    """Sketches of ``pictures``: what is left after a blur."""
    radius = SOFT * pictures.shape[1]
    return np.stack([np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius))) for picture in pictures])


def cell(bench: Bench, name: str, seed: int, budget: float) -> dict[str, Any]:
    """Train and measure one student; its content is what its file holds."""
    plan = read_recipe(bench.recipe, DistillPlan, bench.settings)
    stage = replace(stage_of(Row("paper"), plan, STEPS, budget), **STUDENTS[name])  # type: ignore[arg-type]
    model = bench.trained(Row("paper"), stage, seed)
    bundle = load_bundle(model)
    editor = Editor(bundle, student(bundle, STEPS)[0])
    questions = held_out(bench.world, bench.prompts)
    sharp = bench.ask(Renders(bench.world, int(bundle.vae.config.sample_size)), questions)
    figures = {}
    for kind in KINDS:
        for strength in STRENGTHS:
            made = editor(questions, soft(sharp), sharp if kind == "mask" else None, strength)
            adherence, detail, artefacts = bench.judged(questions, made, sharp)
            distance = float(np.sqrt(np.square(made.astype(np.float32) - sharp).mean()))
            figures[f"{kind} {strength}"] = {"adherence": adherence, "detail": detail, "artefacts": artefacts, "distance": distance}
    about = {"student": name, "steps": STEPS, "seed": seed, "start": plan.start, "teacher": taught_by(plan)}
    about |= {"budget": budget, "prompts": bench.prompts}
    return {**about, "stage": STUDENTS[name], "figures": figures, "machine": describe(best_device(), torch.get_num_threads())["kind"]}


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
    bench, budget = opened(given), budget_of(given)
    for seed in map(int, given.seeds.split(",")):
        for name in STUDENTS:
            file = folder / f"{name}-{seed}.json"
            if not file.is_file():
                content = cell(bench, name, seed, budget)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(content, indent=1) + "\n")
                print(file.name, " ".join(f"{key} {value['adherence']:.3f}" for key, value in content["figures"].items()), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RecipeError, ValueError) as error:
        print(f"bench/editing.py: {error}", file=sys.stderr)
        sys.exit(2)
