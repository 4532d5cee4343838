"""The rows of the table: renders, the autoencoder's reconstructions of them, the teacher and its students, each as one callable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fewstep.data.emoji import Scene, World
from fewstep.engine.decode import ENCODED, decode
from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.evals.prompts import Question
from fewstep.evals.report import Row
from fewstep.evals.table import RECONSTRUCTION, RENDERS, TEACHER
from fewstep.models.bundle import Bundle, load_bundle


def rows_for(folder: Path, world: World, device: str = "cpu", teacher_steps: int = 32, backend: str = "auto", precision: str = "auto") -> dict[str, Row]:
    """The table's rows for the model in ``folder``: "renders", "reconstruction", "teacher", each student it has, by its steps, most first,
    and "N tiny" for those again with the reduced decoder, where there is one.

    Pictures have the size that the model was trained at. Raises WeightsError or ModelError on a model or a student that cannot be read.
    """
    bundle, engine = load_bundle(folder, device), Engine.load(str(folder), backend=backend, device=device, precision=precision)
    side, students = engine.limits.native, sorted(engine.limits.students, reverse=True)
    rows: dict[str, Row] = {
        RENDERS: Renders(world, side),
        RECONSTRUCTION: Reconstructions(world, side, bundle),
        TEACHER: Model(engine, teacher_steps),
        **{str(steps): Model(engine, steps) for steps in students},
    }
    for decoder in engine.model.decoders()[1:]:
        reduced = Engine(engine.model, engine.backend, decoder)
        rows |= {f"{steps} {decoder}": Model(reduced, steps) for steps in students}
    return rows


@dataclass(frozen=True)
class Renders:
    """The scenes themselves; the seed moves the subject and grows another place, within the world's dials."""

    world: World
    side: int  # pixels

    def __call__(self, questions: Sequence[Question], seeds: Sequence[int]) -> tuple[np.ndarray, float]:
        """Paint the scenes."""
        began = time.perf_counter()
        scenes = [self._moved(question.scene, seed) for question, seed in zip(questions, seeds, strict=True)]
        pictures = [self.world.render(scene, self.side, self.side) for scene in scenes]
        return np.stack(pictures), _milliseconds(began, len(pictures))

    def _moved(self, scene: Scene, seed: int) -> Scene:
        rng, reach = np.random.default_rng((self.world.seed, seed)), self.world.dials.shift
        shift = (float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach)))
        return replace(scene, shift=shift, texture=int(rng.integers(2**31)))


@dataclass(frozen=True)
class Reconstructions:
    """The renders after the autoencoder: the best that any generator on its latents can do."""

    world: World
    side: int  # pixels
    bundle: Bundle

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question], seeds: Sequence[int]) -> tuple[np.ndarray, float]:
        """Encode and decode the renders of the same seeds."""
        renders, _ = Renders(self.world, self.side)(questions, seeds)
        began = time.perf_counter()
        vae, pictures = self.bundle.vae, torch.from_numpy(renders).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        latents = torch.cat([vae.encode(part.to(self.bundle.device)).latent_dist.mode() for part in torch.split(pictures, ENCODED)])
        restored = decode(vae, latents * vae.config.scaling_factor)
        return restored, _milliseconds(began, len(restored))


@dataclass(frozen=True)
class Model:
    """A teacher or a student, as whoever generates with it gets it. One seed and one prompt give the same noise in every row."""

    engine: Engine
    steps: int

    def __call__(self, questions: Sequence[Question], seeds: Sequence[int]) -> tuple[np.ndarray, float]:
        """Generate."""
        requests = [Request(question.text, seed, self.steps) for question, seed in zip(questions, seeds, strict=True)]
        pictures = list(self.engine.generate_many(requests))
        spent = sum(sum(picture.timings.values()) for picture in pictures)
        return np.stack([np.asarray(picture.image) for picture in pictures]), spent / len(pictures)


def _milliseconds(began: float, count: int) -> float:
    return (time.perf_counter() - began) * 1000 / max(count, 1)
