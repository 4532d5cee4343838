"""The two sides that are compared: this project's engine and diffusers' pipeline, with the same weights, noise, type and threads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from fewstep.engine.backends import Backend, BackendError, open_backend
from fewstep.engine.engine import Engine
from fewstep.engine.model import Model
from fewstep.engine.request import Picture, Request, RequestError
from fewstep.export import write
from fewstep.models.weights import WeightsError

FULL, TINY = "full", "tiny"


@dataclass(frozen=True)
class Setting:
    """How pictures are to be made."""

    steps: int
    batch: int = 1
    side: int = 256  # pixels


@dataclass(frozen=True)
class Question:
    """Prompts with a seed each."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]


class Questions:
    """Prompts that were not asked before, so that no side has their text at hand."""

    def __init__(self) -> None:
        self._asked = itertools.count(1)

    def __call__(self, batch: int) -> Question:
        """``batch`` of them."""
        seeds = tuple(itertools.islice(self._asked, batch))
        return Question(tuple(f"a red apple on a blue background, number {seed}" for seed in seeds), seeds)


def ours(engine: Engine, setting: Setting) -> Callable[[Question], list[Picture]]:
    """What makes the pictures of a question with the engine."""

    def work(question: Question) -> list[Picture]:
        asked = zip(question.prompts, question.seeds, strict=True)
        return list(engine.generate_many([Request(prompt, seed, setting.steps, setting.side, setting.side) for prompt, seed in asked]))

    return work


def theirs(pipeline: Any, setting: Setting, guidance_scale: float = 0.0) -> Callable[[Question], list[Image]]:
    """What makes the same pictures with a StableDiffusionXLPipeline from the noise that the engine draws.

    It is drawn in float32: in 16 bits torch before 2.13 draws other numbers, and pictures would be others.
    """
    place = setting.side // pipeline.vae_scale_factor
    shape = 1, pipeline.unet.config.in_channels, place, place

    def work(question: Question) -> list[Image]:
        noise = torch.cat([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in question.seeds])
        size = {"width": setting.side, "height": setting.side}
        asked = {"num_inference_steps": setting.steps, "guidance_scale": guidance_scale}
        return list(pipeline(list(question.prompts), latents=noise.to(pipeline.device, pipeline.unet.dtype), **size, **asked).images)

    return work


@dataclass
class Sides:
    """What the measurements of one model share. Everything is opened when it is first asked for, and kept."""

    model: Model
    backend: str = "auto"
    threads: int = 1
    folder: Path = Path()  # for what diffusers is to open; gone when the run is
    whole: bool = False  # whether the model's folder is every student's: then diffusers opens it as it is
    questions: Questions = field(default_factory=Questions)

    def __post_init__(self) -> None:
        self.engine = cache(self._engine)
        self.exported = cache(self._exported)
        self._open_backend = cache(self._backend)
        self._open_pipeline = cache(self._pipeline)

    @property
    def name(self) -> str:
        """The model as the engine and diffusers are to open it."""
        return str(self.model.folder)

    @property
    def device(self) -> str:
        """Where both sides compute."""
        return self.engine(FULL).backend.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that both sides compute in: that of the engine's networks, where they are torch's."""
        network = getattr(getattr(self.engine(FULL).backend, "bundle", None), "unet", None)
        return getattr(network, "dtype", torch.float32)

    @property
    def guidance_scale(self) -> float:
        """The teacher's."""
        return self.model.base.guidance_scale

    def decoders(self, side: int) -> tuple[list[str], list[str]]:
        """(those that work here, a sentence for each that does not), tried on a picture of ``side`` pixels."""
        try:
            self.engine(TINY).generate(Request("a probe", 0, self.model.limits.students[0], side, side))
        except (RequestError, WeightsError, BackendError) as error:
            return [FULL], [f"rows with the tiny decoder are left out: {error}"]
        return [FULL, TINY], []

    def eagerly(self, setting: Setting) -> Callable[[Question], list[Image]]:
        """What makes the pictures of a question with the tiny decoder and eager torch, which other backends are compared to."""
        work = ours(self.engine(TINY, "eager"), setting)
        return lambda question: images(work(question))

    def pipeline(self, steps: int) -> Any:
        """diffusers' pipeline with the weights for ``steps`` steps."""
        return self._open_pipeline(self.exported(steps))

    def _engine(self, decoder: str = FULL, backend: str | None = None) -> Engine:
        """One a decoder, for each remembers the text that it encoded; they share their networks."""
        return Engine(self.model, self._open_backend(backend or self.backend), decoder)

    def _backend(self, name: str) -> Backend:
        """The backend of this name; the one there is if it is that already."""
        main = self._open_backend(self.backend) if name != self.backend else None
        return main if main and main.name == name else open_backend(self.model, name, threads=self.threads)

    def _pipeline(self, folder: Path) -> Any:
        hush()
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=self.dtype, add_watermarker=False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)

    def _exported(self, steps: int) -> Path:
        """The folder that diffusers opens for ``steps``: what ``fewstep export`` writes."""
        return self.model.folder if self.whole else write(self.model.folder, steps, "diffusers", self.folder / f"{steps}-steps")


def hush() -> None:
    """Keep both libraries' bars and remarks out of a benchmark's output."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()


def images(pictures: Sequence[Picture]) -> list[Image]:
    """The pictures themselves."""
    return [picture.image for picture in pictures]


def stages(pictures: Sequence[Picture]) -> dict[str, float]:
    """Seconds of text, denoise and decode, over all of ``pictures``."""
    return {stage: sum(picture.timings[stage] for picture in pictures) / 1000 for stage in ("text", "denoise", "decode")}


def threads(pictures: Sequence[Picture]) -> int:
    """The threads that they were made with, as their records say."""
    return pictures[0].record.threads
