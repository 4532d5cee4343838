"""The engine: a loaded model that answers requests with pictures. Loads no torch: that is its backends' affair."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewstep import __version__
from fewstep.engine.adapters import find_stack
from fewstep.engine.backends import Backend, BackendError, log, open_backend, slower
from fewstep.engine.batching import Batching, short_of_memory
from fewstep.engine.clock import Clock
from fewstep.engine.control import Control, Controls, find_net, settle_controls
from fewstep.engine.encodings import Encodings
from fewstep.engine.many import in_order
from fewstep.engine.matte import cut_out
from fewstep.engine.memory import numbers
from fewstep.engine.model import Model, check_choice, check_tiled, open_model
from fewstep.engine.noise import Draws, drawing
from fewstep.engine.recent import once
from fewstep.engine.record import ANEW, Record
from fewstep.engine.request import DECODERS, MOST_BATCH, TILED, Frame, Limits, Loras, Picture, Request, RequestError, Settled
from fewstep.engine.source import prepare
from fewstep.engine.steering import Steering, guides, layout, scales, time_ids
from fewstep.engine.variations import way
from fewstep.engine.words import hints, read_words
from fewstep.models.stack import Stack
from fewstep.models.weights import LoraError, WeightsError
from fewstep.sampler import sample
from fewstep.schedule import add_noise, alpha_bar


class Engine:
    """A model in memory. Students are loaded when a request first asks for their step count. Not for use by two threads at once."""

    def __init__(self, model: Model, backend: Backend, decoder: str = "full", others: Sequence[str] = ()) -> None:
        if decoder not in (*model.decoders(), TILED):
            raise RequestError(f"decoder = {decoder!r}: {model.limits.name} has no reduced decoder; leave --decoder at full")
        self.model, self.backend, self.decoder = model, backend, decoder
        self.encodings = Encodings(backend)
        self._others = list(others)  # backends to go on with if this one turns out not to work
        self._hashes: dict[int, str] = {}
        self._crowded = False  # whether it was said that memory is short
        self._loras: Loras = ()

    @classmethod
    def load(
        cls,
        model: str = "emoji",
        steps: int | None = None,
        decoder: str = "full",
        backend: str = "auto",
        device: str | None = None,
        threads: int | None = None,
        base: str | None = None,
        few_step: str | None = None,
        loras: Loras = (),
        memory: str = "auto",
        controlnets: Sequence[str | Path | None] | None = None,
        precision: str = "auto",
        measure: bool = True,
    ) -> Engine:
        """Load ``model``: a known name, a diffusers folder, few-step weights in a .safetensors file, or an id of the Hub that is in its cache.

        ``few_step``, such as "lightning-lora:4" or a LoRA's file, is put on ``base``, or on ``model`` where that is not given, and
        ``loras``, each a file and a weight, over it for requests that do not name their own (:meth:`use_loras`).
        ``steps`` is for requests that do not say (None: 4 where the model has that). ``device`` is the first there is of cuda, mps and
        cpu unless given, ``threads`` all the cores there are, ``memory`` how the model is kept on a card: "full", "model" (each network while
        it works), "sequential" (layer by layer) or "auto", the quickest that fits with the ``controlnets`` that requests will name (None: the
        model's own). ``precision`` says what it computes with, and ``measure`` whether that may decide who does (:func:`open_backend`).
        Raises RequestError, ModelError, StepMismatch, WeightsError or BackendError, each a sentence, on what cannot be had.
        """
        check_choice("decoder", decoder, (*DECODERS, TILED))
        found = open_model(str(model), steps, base, few_step)
        nets = None if controlnets is None else [numbers(path) for path in dict.fromkeys(find_net(one, found).path for one in controlnets)]
        opened = open_backend(found, backend, device, threads, memory, nets, precision, measure)
        engine = cls(found, opened, decoder, slower(opened) if backend == "auto" else ())
        engine.use_loras(loras)
        return engine

    @property
    def limits(self) -> Limits:
        """Sizes and step counts that this model can do, and whether it can begin from an image here."""
        return dataclasses.replace(self.model.limits, no_images=self.backend.no_images, count=self.backend.count, stack=self._stack, guides=self._guides)

    def use_loras(self, loras: Loras) -> None:
        """Put ``loras``, (file, weight) each, over the weights, for requests that do not name their own; none takes all off, to the bit.

        In whatever order they are given the pictures are the same. The model stays loaded; the weights change with the next picture, whose
        timings say how long that took ("adapters"). Raises RequestError on a file that cannot be used with this model.
        """
        find_stack(self.model, (), loras, self.limits.default_steps)
        self._loras = tuple(loras)

    def _stack(self, loras: Loras | None, steps: int) -> Stack:
        return find_stack(self.model, self._loras, loras, steps)

    def _guides(self, control: Sequence[Control], width: int, height: int, evaluations: int) -> Controls:
        if self.backend.no_control and ("eager" not in self._others or find_spec("torch") is None):
            raise RequestError(self.backend.no_control)
        return settle_controls(self.model, control, width, height, evaluations)

    def _able(self, batch: Sequence[Settled]) -> Engine:
        """This engine, or the one beside it where its backend computes no ControlNets and ``batch`` has some."""
        return self._beside if batch[0].control and self.backend.no_control else self

    @cached_property
    def _beside(self) -> Engine:
        return Engine(self.model, open_backend(self.model, "eager", self.backend.device, self.backend.threads), self.decoder)

    def hints(self, prompt: str) -> list[str]:
        """Sentences about words of ``prompt`` that the model was not taught; none for a model that does not say what it was taught."""
        return hints(prompt, self._words, self.limits.name)

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        return read_words(self.model.folder)

    def generate(self, request: Request) -> Picture:
        """Make one picture. Raises RequestError on a request that this model cannot meet."""
        return self._finish([self.limits.settle(request)])[0]

    def generate_many(self, requests: Iterable[Request]) -> Iterator[Picture]:
        """Make a picture of each request, in their order; of the same size, steps and strength as many are made at once as is best (:meth:`best_batch`),
        or half as many, and half again, where a card has no memory for those.

        All are checked before the first is made. Raises RequestError on an empty list or a request that cannot be met.
        """
        limits = dataclasses.replace(self.limits, prepare=once(prepare), guides=once(self._guides))
        settled = [limits.settle(request) for request in requests]
        if not settled:
            raise RequestError("the list of requests is empty: give at least one prompt")
        return in_order(settled, self.best_batch, self._finish)

    def best_batch(self, settled: Settled) -> int:
        """How many pictures like ``settled`` are best made at once on this machine, at most MOST_BATCH: measured when it is first asked."""
        engine = self._able([settled])
        try:
            return engine._batching.best(settled, engine.backend)
        except (MemoryError, RuntimeError, WeightsError):  # who makes them will say so, or go on with another backend
            return MOST_BATCH

    @cached_property
    def _batching(self) -> Batching:
        return Batching(self.model)

    def stream(self, request: Request) -> Iterator[Frame]:
        """Make one picture step by step: a Frame after each evaluation, the last with the picture. Stop by not asking for the next."""
        for (frame,) in self.walk([self.limits.settle(request)]):
            if frame.picture or frame.step < frame.steps:
                yield frame

    def walk(self, batch: Sequence[Settled], decoder: str | None = None) -> Iterator[list[Frame]]:
        """Make pictures of one kind (Settled.kind) together: after each evaluation a Frame of each, in their order.

        After the last they come once more with their pictures: who stops before has nothing decoded. ``batch`` is settled by ``limits``;
        ``decoder`` is this engine's unless given. Raises RequestError on a decoder that the model lacks.
        """
        chosen = decoder or self.decoder
        check_choice(f"the decoder of {self.limits.name}", chosen, (*self.model.decoders(), TILED))
        step, able = batch[0].start, self._able(batch)
        for backend, x0, pictures in able._walk(batch, chosen):
            step += not pictures
            yield [
                Frame(step, settled.steps, partial(able._preview, backend, settled, x0[row : row + 1]), pictures[row] if pictures else None)
                for row, settled in enumerate(batch)
            ]

    def repeat(
        self, record: Record, image: Image.Image | None = None, mask: Image.Image | None = None, loras: Loras = (), control: Sequence[Control] = ()
    ) -> Picture:
        """Make the picture of ``record`` again: the same bytes on the same machine. One that was begun from an image needs that and its mask,
        one with LoRAs their files at the record's weights, and one that followed control images those as the record has them.

        The batch it was made in is filled with copies, and the same backend computes on the same device with as many threads, for kernels
        differ by all of these in the last bits. Raises RequestError where this machine cannot do so, or if the weights or the image are not
        those of the record.
        """
        settled = dataclasses.replace(self.limits.settle(record.again(image, mask, loras, control)), template=record.template)
        record.check_source(settled)
        own = self._hash(settled.steps)
        if own != record.hash:
            raise RequestError(f"the picture was made with weights {record.hash} of '{record.model}', and these are {own}: give --model with those")
        check_choice("the record's decoder", record.decoder, (*DECODERS, TILED))
        if record.threads > max(self.backend.threads, os.cpu_count() or 1):
            raise RequestError(f"the picture was made with {record.threads} threads, and here are {os.cpu_count()} cores: {ANEW}")
        backend, precision = self.backend, record.precision or "auto"
        if (backend.name, backend.device, backend.threads, backend.precision) != (record.backend, record.device, record.threads, precision):
            backend = open_backend(self.model, record.backend, record.device, record.threads, precision=precision)
        alone = Engine(self.model, backend, record.decoder)  # with no other backend to go on with
        alone._hashes, alone._crowded = self._hashes, self._crowded
        picture = alone._finish([settled] * record.batch)[record.row]
        record.check_made_alike(picture.record)
        return picture

    def _finish(self, batch: Sequence[Settled]) -> list[Picture]:
        """The pictures of one batch: all of one kind."""
        pictures: list[Picture] = []
        for *_, pictures in self._able(batch)._walk(batch, self.decoder):  # noqa: B007
            pass
        return pictures

    def _walk(self, batch: Sequence[Settled], decoder: str) -> Iterator[tuple[Backend, Any, list[Picture]]]:
        """After each evaluation (the backend that made it, x0 [B, C, H/f, W/f], no pictures), and at the end once more with the pictures. Raises
        RequestError on a LoRA whose values cannot be used, which are read no sooner.

        Where the backend turns out not to compute it, the next one takes its place, and where it finds no memory for a picture alone the next one makes
        that picture: from the beginning, but what was said is not said again.
        """
        said = 0
        while True:
            try:
                for found in islice(self._evaluations(batch, decoder), said, None):
                    said += 1
                    yield found
                return
            except LoraError as error:
                raise RequestError(str(error)) from None
            except (BackendError, MemoryError, RuntimeError) as error:
                short = short_of_memory(error)
                if not self._others or not (len(batch) == 1 if short else isinstance(error, BackendError)):
                    raise
                failed = error.with_traceback(None)  # once it is let go of, and with it what it held
            if short:
                yield from islice(self._roomier(failed)._walk(batch, decoder), said, None)
                return
            self._go_on(failed)

    def _evaluations(self, batch: Sequence[Settled], decoder: str) -> Iterator[tuple[Backend, Any, list[Picture]]]:
        first, count = batch[0], len(batch)
        decoder = self._fitting(self.backend, first, decoder)
        stamp, factor = self.model.stamp(first.steps), self.limits.factor
        guidance_scale, nag_scale = scales(first, stamp.guidance_scale)
        backend, adapting = self._ready(first, decoder, nag_scale is not None)
        clock = Clock(backend)
        prompts = [self.encodings.prompt(settled) for settled in batch]
        negatives = [self.encodings.negative(settled) for settled in batch if settled.negative is not None]
        ids = np.array([time_ids(settled) for settled in batch], np.float32)
        timesteps = stamp.evaluations(first.start, first.entry)
        reading = guides(batch, timesteps)
        steering = Steering(guidance_scale, nag_scale, ids, negatives or None, reading, first.tile, layout(first, stamp.timesteps))
        timings = {**adapting, "text": clock.lap()}
        shape = (1, self.model.channels, first.height // factor, first.width // factor)
        draws = Draws([partial(drawing, settled.seed, way(settled)) for settled in batch], shape)
        x = backend.array(draws(0))
        walk = partial(
            sample,
            backend.denoiser(first.steps, prompts, steering),
            renoise=lambda step: backend.array(draws(step)),
            **stamp.walk(first.start, first.entry),
        )
        if any(settled.source for settled in batch):
            latents, masks = self.encodings.sources(batch, shape, factor)
            timings["encode"] = clock.lap()
            noised = partial(add_noise, latents, x)
            x = x if timesteps[0] == stamp.timesteps[0] else noised(alpha_bar(timesteps[0]))
            walk = partial(walk, keep=lambda x, t: masks * x + (1 - masks) * noised(alpha_bar(t)))
        away = 0.0
        for frame in walk(noise=x):  # the device is not waited for between steps
            left = time.perf_counter()
            yield backend, frame.x0, []
            away += time.perf_counter() - left  # what the caller did meanwhile is no stage's
        spent = clock.lap() - away
        images = backend.decode(frame.latents, decoder, first.tile)
        timings |= {"denoise": spent, "decode": clock.lap()}
        timings = {stage: round(1000 * seconds / count, 2) for stage, seconds in timings.items()}
        made = partial(self._picture, backend, timings, steering, decoder, count)
        yield backend, frame.x0, [made(settled, image, row) for row, (settled, image) in enumerate(zip(batch, images, strict=True))]

    def _fitting(self, backend: Backend, settled: Settled, decoder: str) -> str:
        """``decoder``, or the full one in parts where a whole picture would not fit. Raises RequestError on parts of a tile, which have borders."""
        check_tiled(decoder, settled.tile)
        if decoder != "full" or settled.tile or not backend.crowded(settled.width, settled.height):
            return decoder
        if not self._crowded:
            log.warning("fewstep: a whole picture of %dx%d pixels does not fit what memory is free: it is decoded in parts", settled.width, settled.height)
        self._crowded = True
        return TILED

    def _ready(self, settled: Settled, decoder: str, attends: bool) -> tuple[Backend, dict[str, float]]:
        """(The backend with what pictures like ``settled`` need, or the next that has it where the engine may choose; the seconds that a
        change of LoRAs took, with what was loaded for it, if there was one).
        """
        while True:
            try:
                began = time.perf_counter()
                changed = self.backend.adapt(settled.loras)
                self.backend.prepare(settled.steps, decoder, attends, settled.tile)
                return self.backend, {"adapters": time.perf_counter() - began} if changed else {}
            except (BackendError, MemoryError) as error:
                self._go_on(error)

    def _go_on(self, error: Exception) -> None:
        """Go on with the next backend, because of ``error``, which is raised where there is none."""
        self.backend, self._others = self._next(error)
        self.encodings = Encodings(self.backend, self.encodings.remembered)

    def _roomier(self, error: Exception) -> Engine:
        """An engine with the next backend, for a picture that this one finds no memory for; the next picture may be smaller. Raises ``error`` if none is."""
        backend, others = self._next(error)
        return Engine(self.model, backend, self.decoder, others)

    def _next(self, error: Exception) -> tuple[Backend, list[str]]:
        """(The next backend, the names of those after it). Raises ``error`` where there is none."""
        if not self._others:
            raise error
        name, *others = self._others
        try:
            other = open_backend(self.model, name, self.backend.device, self.backend.threads, precision=self.backend.precision)
        except (BackendError, ImportError, OSError, MemoryError, RuntimeError):  # torch's libraries may not fit either
            raise error from None
        log.warning("fewstep: %s; going on with %s", str(error).splitlines()[0] if str(error) else type(error).__name__, name)
        return other, others

    def _picture(
        self, backend: Backend, timings: dict[str, float], steering: Steering, decoder: str, batch: int, settled: Settled, pixels: np.ndarray, row: int
    ) -> Picture:
        record = Record.of(
            settled,
            model=self.limits.name,
            hash=self._hash(settled.steps),
            guidance_scale=steering.guidance_scale,
            nag_scale=steering.nag_scale,
            sampler=None if (name := self.model.stamp(settled.steps).sampler) == "Euler" else name,
            version=__version__,
            backend=backend.name,
            precision=None if backend.precision == "auto" else backend.precision,
            device=backend.device,
            threads=backend.threads,
            decoder=decoder,
            batch=batch,
            row=row,
        )
        image = Image.fromarray(_pasted(settled, pixels))
        image = cut_out(image) if settled.transparent else image
        return Picture(image, settled.seed, settled.steps, settled.width, settled.height, self.limits.name, dict(timings), record)

    def _preview(self, backend: Backend, settled: Settled, x0: Any) -> Image.Image:
        decoder = self._fitting(backend, settled, self.model.decoders()[-1])
        return Image.fromarray(_pasted(settled, backend.decode(x0, decoder, settled.tile)[0]))

    def _hash(self, steps: int) -> str:
        if steps not in self._hashes:
            self._hashes[steps] = self.model.hash(steps)
        return self._hashes[steps]


def _pasted(settled: Settled, pixels: np.ndarray) -> np.ndarray:
    """Decoded ``pixels`` with what was not to change put back."""
    return settled.source.paste(pixels) if settled.source else pixels


def load(model: str = "emoji", steps: int | None = None, decoder: str = "full", backend: str = "auto") -> Engine:
    """``Engine.load``."""
    return Engine.load(model, steps, decoder, backend)
