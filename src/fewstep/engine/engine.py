"""The engine: a loaded model that answers requests with pictures."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from fewstep import __version__
from fewstep.engine.decode import decode
from fewstep.engine.model import UNET, Model, check_choice, open_model
from fewstep.engine.record import Record
from fewstep.engine.request import MOST_BATCH, Frame, Limits, Picture, Request, RequestError, Settled
from fewstep.engine.words import hints
from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import Prompt, cat, encode, time_ids
from fewstep.models.students import read_student
from fewstep.sampler import sample
from fewstep.schedule import pairs
from fewstep.stamp import Stamp

BACKENDS = ("auto", "eager")
DECODERS = ("full",)
REMEMBERED = 64  # prompts whose embeddings are kept


@dataclass(frozen=True)
class _Weights:
    """A UNet, how it is to be sampled, and the hash of its file."""

    unet: Any
    stamp: Stamp
    hash: str


class Engine:
    """A model in memory. Students are loaded when a request first asks for their step count. Not for use by two threads at once."""

    def __init__(self, model: Model, bundle: Bundle, backend: str = "eager") -> None:
        self.model, self.bundle, self.backend = model, bundle, backend
        self.device = bundle.device
        if self.device.type == "cpu":  # convolutions run faster so, with the same results
            for network in (bundle.unet, bundle.vae):
                network.to(memory_format=torch.channels_last)
        self._weights: dict[int, _Weights] = {}
        self._prompts: OrderedDict[str, Prompt] = OrderedDict()

    @classmethod
    def load(cls, model: str = "emoji", steps: int | None = None, decoder: str = "full", backend: str = "auto", device: str | None = None) -> Engine:
        """Load ``model``: a known name, a diffusers folder or a stamped .safetensors file.

        ``steps`` is for requests that do not say (None: 4 where the model has that). ``device`` is the first there is of cuda, mps and
        cpu unless given. Raises RequestError, ModelError, StepMismatch or WeightsError, each a sentence, on what cannot be had.
        """
        check_choice("decoder", decoder, DECODERS)
        check_choice("backend", backend, BACKENDS)
        found = open_model(str(model), steps)
        return cls(found, load_bundle(found.folder, device or best_device()))

    @property
    def limits(self) -> Limits:
        """Sizes and step counts that this model can do."""
        return self.model.limits

    def hints(self, prompt: str) -> list[str]:
        """Sentences about words of ``prompt`` that the model was not taught; none for a model that does not say what it was taught."""
        return hints(prompt, self.bundle.words, self.limits.name)

    def generate(self, request: Request) -> Picture:
        """Make one picture. Raises RequestError on a request that this model cannot meet."""
        return self._finish([self.limits.settle(request)])[0]

    def generate_many(self, requests: Iterable[Request]) -> Iterator[Picture]:
        """Make a picture of each request, in their order; up to eight of the same size and steps are made at once.

        All are checked before the first is made. Raises RequestError on an empty list or a request that cannot be met.
        """
        settled = [self.limits.settle(request) for request in requests]
        if not settled:
            raise RequestError("the list of requests is empty: give at least one prompt")
        return self._in_order(settled)

    def _in_order(self, settled: Sequence[Settled]) -> Iterator[Picture]:
        done: dict[int, Picture] = {}
        waiting = dict(enumerate(settled))
        for index, first in enumerate(settled):
            if index in waiting:
                alike = [i for i, s in waiting.items() if (s.width, s.height, s.steps) == (first.width, first.height, first.steps)][:MOST_BATCH]
                done.update(zip(alike, self._finish([waiting.pop(i) for i in alike]), strict=True))
            yield done.pop(index)

    def stream(self, request: Request) -> Iterator[Frame]:
        """Make one picture step by step: a Frame after each evaluation, the last with the picture. Stop by not asking for the next."""
        settled = self.limits.settle(request)
        for step, (x0, pictures) in enumerate(self._walk([settled]), start=1):
            yield Frame(step, settled.steps, partial(self._preview, x0), pictures[0] if pictures else None)

    def repeat(self, record: Record) -> Picture:
        """Make the picture of ``record`` again: the same bytes on the same machine.

        The batch it was made in is filled with copies and as many threads are used, for kernels differ by both in the last bits.
        Raises RequestError if the weights are not those of the record.
        """
        settled = self.limits.settle(record.request)
        own = self._load(settled.steps).hash
        if own != record.hash:
            raise RequestError(f"the picture was made with weights {record.hash} of '{record.model}', and these are {own}: give --model with those")
        threads = torch.get_num_threads()
        torch.set_num_threads(min(record.threads, os.cpu_count() or 1))
        try:
            return self._finish([settled] * record.batch)[record.row]
        finally:
            torch.set_num_threads(threads)

    def _finish(self, batch: Sequence[Settled]) -> list[Picture]:
        """The pictures of one batch: all of one size and one step count."""
        pictures: list[Picture] = []
        for _, pictures in self._walk(batch):  # noqa: B007
            pass
        return pictures

    @torch.inference_mode()
    def _walk(self, batch: Sequence[Settled]) -> Iterator[tuple[Tensor, list[Picture]]]:
        """After each evaluation (x0 [B, C, H/f, W/f], pictures): pictures are empty until the last."""
        first, count = batch[0], len(batch)
        weights = self._load(first.steps)
        clock = _Clock(self.device)
        prompt = cat(*(self._encode(settled.prompt) for settled in batch))
        text = clock.lap()
        ids = time_ids(count, first.width, first.height, self.device)
        generators = [torch.Generator("cpu").manual_seed(settled.seed) for settled in batch]
        shape = (1, int(weights.unet.config.in_channels), first.height // self.limits.factor, first.width // self.limits.factor)

        def noise(_: int = 0) -> Tensor:
            """A picture's own noise, whatever else is in the batch: drawn on the CPU, exactly as diffusers does with one generator."""
            return torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)

        stamp = weights.stamp
        denoise = denoiser(weights.unet, prompt, ids, stamp.guidance_scale)
        walk = sample(
            denoise,
            noise(),
            pairs(stamp.timesteps),
            prediction_type=stamp.prediction_type,
            start_scale=stamp.start_scale,
            fresh=stamp.fresh,
            renoise=noise,
        )
        spent = 0.0
        for frame in walk:
            spent += clock.lap()
            if frame.step < stamp.steps:
                yield frame.x0, []
                clock.lap()  # what the caller did meanwhile is not denoising
                continue
            images = decode(self.bundle.vae, frame.latents)
            timings = {"text": text, "denoise": spent, "decode": clock.lap()}
            timings = {stage: round(1000 * seconds / count, 2) for stage, seconds in timings.items()}
            yield (
                frame.x0,
                [self._picture(settled, image, timings, weights, count, row) for row, (settled, image) in enumerate(zip(batch, images, strict=True))],
            )

    def _picture(self, settled: Settled, image: Image, timings: dict[str, float], weights: _Weights, batch: int, row: int) -> Picture:
        made = dataclasses.asdict(settled)
        record = Record(
            **made,
            model=self.limits.name,
            hash=weights.hash,
            guidance_scale=weights.stamp.guidance_scale,
            version=__version__,
            backend=self.backend,
            device=self.device.type,
            threads=torch.get_num_threads(),
            batch=batch,
            row=row,
        )
        made.pop("prompt")
        return Picture(image=image, **made, model=self.limits.name, timings=dict(timings), record=record)

    @torch.inference_mode()
    def _preview(self, x0: Tensor) -> Image:
        return decode(self.bundle.vae, x0[:1])[0]

    def _encode(self, prompt: str) -> Prompt:
        """One prompt, encoded alone so that its batch makes no difference; the last few are remembered."""
        if prompt in self._prompts:
            self._prompts.move_to_end(prompt)
        else:
            self._prompts[prompt] = encode(self.bundle, [prompt])
            if len(self._prompts) > REMEMBERED:
                self._prompts.popitem(last=False)
        return self._prompts[prompt]

    def _load(self, steps: int) -> _Weights:
        """The weights for ``steps`` steps, loaded once; a teacher's are the same for every number of steps."""
        if steps not in self._weights:
            path = self.model.students.get(steps)
            if path is None:
                unet, stamp = self.bundle.unet, dataclasses.replace(self.model.base, steps=steps, timesteps=())
            elif path == self.model.folder / UNET:
                unet, stamp = self.bundle.unet, self.model.base
            else:
                unet, stamp = read_student(self.bundle, path)
            if self.device.type == "cpu":
                unet.to(memory_format=torch.channels_last)
            self._weights[steps] = _Weights(unet, stamp, self.model.hash(steps))
        return self._weights[steps]


class _Clock:
    """Seconds between laps, after waiting for what an accelerator still has to do."""

    def __init__(self, device: torch.device) -> None:
        self._wait: Callable[[], None] = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        self._wait()
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def load(model: str = "emoji", steps: int | None = None, decoder: str = "full", backend: str = "auto") -> Engine:
    """``Engine.load``."""
    return Engine.load(model, steps, decoder, backend)


def best_device() -> str:
    """The first there is of cuda, mps and cpu."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
