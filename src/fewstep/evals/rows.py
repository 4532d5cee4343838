"""The rows of the table: renders, the autoencoder's reconstructions of them, the teacher and its students, each as one callable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.data.emoji import Scene, World
from fewstep.engine.decode import ENCODED, decode
from fewstep.evals.prompts import Question
from fewstep.evals.report import Row
from fewstep.evals.table import RECONSTRUCTION, RENDERS, TEACHER
from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import encode, time_ids
from fewstep.models.students import student
from fewstep.sampler import sample
from fewstep.schedule import pairs, trailing_timesteps
from fewstep.stamp import Stamp
from fewstep.zoo.registry import students


def rows_for(folder: Path, world: World, device: str = "cpu", teacher_steps: int = 32) -> dict[str, Row]:
    """The table's rows for the model in ``folder``: "renders", "reconstruction", "teacher" and each student it has, by its steps, most first.

    Pictures have the size that the model was trained at. Raises WeightsError or ModelError on a model or a student that cannot be read.
    """
    bundle = load_bundle(folder, device)
    side = int(bundle.unet.config.sample_size) * bundle.factor
    teacher = replace(bundle.stamp, steps=teacher_steps, timesteps=tuple(trailing_timesteps(teacher_steps)))
    rows: dict[str, Row] = {
        RENDERS: Renders(world, side),
        RECONSTRUCTION: Reconstructions(world, side, bundle),
        TEACHER: Model(bundle, bundle.unet, teacher, side),
    }
    for steps in sorted(students(folder), reverse=True):
        rows[str(steps)] = Model(bundle, *student(bundle, steps), side)
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
    """A teacher or a student, sampled as its stamp says. One seed and one prompt give the same noise in every row."""

    bundle: Bundle
    unet: Any
    stamp: Stamp
    side: int  # pixels

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question], seeds: Sequence[int]) -> tuple[np.ndarray, float]:
        """Sample and decode."""
        began = time.perf_counter()
        stamp = self.stamp
        latents = self.side // self.bundle.factor
        shape = (1, self.unet.config.in_channels, latents, latents)
        noise = torch.cat([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]).to(self.bundle.device)
        ids = time_ids(len(seeds), self.side, self.side, self.bundle.device)
        frames = sample(
            denoiser(self.unet, encode(self.bundle, [question.text for question in questions]), ids, stamp.guidance_scale),
            noise,
            pairs(stamp.timesteps),
            prediction_type=stamp.prediction_type,
            start_scale=stamp.start_scale,
            fresh=stamp.fresh,
        )
        finished = next(frame.latents for frame in frames if frame.step == stamp.steps)
        pictures = decode(self.bundle.vae, finished)
        return pictures, _milliseconds(began, len(pictures))


def _milliseconds(began: float, count: int) -> float:
    return (time.perf_counter() - began) * 1000 / max(count, 1)
