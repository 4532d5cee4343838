"""How many pictures of one kind are best made at once here: measured once for each size and way of steering, and kept on disk. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import numpy as np

from fewstep.engine.backends import Backend
from fewstep.engine.backends.names import NATIVE, stages_of
from fewstep.engine.backends.native.library import identity
from fewstep.engine.device import card, instructions, processor
from fewstep.engine.measured import Momentary, least, remembered
from fewstep.engine.model import Model
from fewstep.engine.request import MOST_BATCH, Settled
from fewstep.engine.software import compiler, installed
from fewstep.engine.steering import Steering, guides, layout, scales, time_ids
from fewstep.engine.wording import read

BATCHES = (1, 2, 4, MOST_BATCH)
COMPILED = (1, MOST_BATCH)  # where minutes go by before a batch can be measured
WORTH = 0.9  # of the largest batch's time a picture, for a smaller one to be taken
LONG = 1.0  # seconds of one evaluation, beside which nothing counts that a batch saves: pictures come one by one
ROUNDS = 3


class Batching:
    """The best batches of a model's pictures."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._best: dict[Hashable, int] = {}

    def best(self, settled: Settled, backend: Backend) -> int:
        """How many like ``settled`` are best made at once.

        What counts is the time a picture of one evaluation of the UNet: text and decoding gain little by a batch.
        """
        guidance_scale, nag_scale = scales(settled, self._model.stamp(settled.steps).guidance_scale)
        steered = guidance_scale > 1, nag_scale is not None, len(settled.control), settled.tile
        key = (settled.width, settled.height, settled.chunks, *steered, backend.name, backend.precision, backend.threads)
        if key not in self._best:
            about = {
                "what": "batch",
                "model": self._model.hash(self._model.limits.default_steps),
                "key": list(map(str, key)),
                "device": [backend.device, *(card(backend.device) or ()), processor(), *instructions()],
                "versions": {name: installed(name) for name in ("fewstep", "torch", "onnxruntime", "openvino")} | _kernels(backend.name),
            }
            found = remembered(about, lambda: self._measured(settled, backend))
            self._best[key] = found if found in BATCHES else MOST_BATCH
        return self._best[key]

    def _measured(self, settled: Settled, backend: Backend) -> int | Momentary:
        """The best batch; only for now where a larger one failed, for what is free then may be free later."""
        seconds, failed = self._seconds(settled, backend)
        return Momentary(choose(seconds)) if failed else choose(seconds)

    def _seconds(self, settled: Settled, backend: Backend) -> tuple[dict[int, float], bool]:
        """(the least seconds a picture of an evaluation at each batch, up to the first that fails; whether one did)."""
        work: dict[int, Callable[[], None]] = {}
        spent: dict[int, float] = {}
        failed = False
        for batch in COMPILED if backend.name == "compiled" else BATCHES:
            try:
                work[batch] = self._evaluation(settled, backend, batch)
                work[batch]()
                spent[batch] = least(work[batch], backend.device, backend.threads) / batch
            except (MemoryError, RuntimeError):
                failed = True
                break
            if spent[batch] > LONG:
                break
        try:
            for _ in range(ROUNDS):
                for batch, seconds in spent.items():
                    if seconds < LONG:
                        spent[batch] = min(seconds, least(work[batch], backend.device, backend.threads) / batch)
        except (MemoryError, RuntimeError):
            failed = True
        return spent, failed

    def _evaluation(self, settled: Settled, backend: Backend, batch: int) -> Callable[[], None]:
        stamp, factor, many = self._model.stamp(settled.steps), self._model.limits.factor, [settled] * batch
        words = read("")
        prompt, *others = (backend.encode((words, words), chunks) for chunks in settled.chunks[: 1 + (settled.negative is not None)])
        x = backend.array(np.zeros((batch, self._model.channels, settled.height // factor, settled.width // factor), np.float32))
        ids = np.array([time_ids(settled)] * batch, np.float32)
        guidance_scale, nag_scale = scales(settled, stamp.guidance_scale)
        timesteps = stamp.evaluations(settled.start, settled.entry)
        reading = guides(many, timesteps)
        steering = Steering(guidance_scale, nag_scale, ids, others * batch or None, reading, settled.tile, layout(settled, stamp.timesteps))
        denoise = backend.denoiser(settled.steps, [prompt] * batch, steering)

        def work() -> None:
            denoise(x, timesteps[0])
            backend.wait()

        return work


def choose(seconds: Mapping[int, float]) -> int:
    """The best batch for these seconds a picture: the largest, but where a smaller one is clearly faster; 1 where none is known."""
    best = min(seconds, key=lambda batch: seconds[batch], default=1)
    most = max(seconds, default=1)
    if not seconds or seconds[1] > LONG:
        return 1
    return best if seconds[best] < WORTH * seconds[most] else most


def short_of_memory(error: BaseException) -> bool:
    """Whether that is what ``error`` says; torch, which has a kind of its own for a card's, may not be there."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _kernels(backend: str) -> dict[str, str]:
    """{their name: what identifies them} of the kernels that ``backend`` computes with, if any are our own."""
    command = compiler()
    return {NATIVE: identity(command)} if command and NATIVE in stages_of(backend) else {}
