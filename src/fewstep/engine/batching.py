"""How many pictures of one kind are best made at once here: measured once for each size, and kept on disk. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import numpy as np

from fewstep.engine.backends import Backend, BackendError
from fewstep.engine.doctor import installed, instructions, processor
from fewstep.engine.measured import least, remembered
from fewstep.engine.model import Model
from fewstep.engine.request import MOST_BATCH, Settled
from fewstep.engine.steering import Steering, time_ids
from fewstep.engine.wording import read
from fewstep.schedule import TRAIN_TIMESTEPS

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

    def best(self, settled: Settled, backend: Backend, guided: bool) -> int:
        """How many like ``settled``, ``guided`` or not, are best made at once.

        What counts is the time a picture of one evaluation of the UNet: text and, on a processor, decoding are done one by one anyway.
        """
        key = (settled.width, settled.height, settled.chunks, guided, backend.name, backend.precision, backend.threads)
        if key not in self._best:
            about = {
                "what": "batch",
                "model": self._model.hash(self._model.limits.default_steps),
                "key": list(map(str, key)),
                "device": [backend.device, processor(), *instructions()],
                "versions": {name: installed(name) for name in ("fewstep", "torch", "onnxruntime", "openvino")},
            }
            found = remembered(about, lambda: choose(self._seconds(settled, backend, guided)))
            self._best[key] = found if found in BATCHES else MOST_BATCH
        return self._best[key]

    def _seconds(self, settled: Settled, backend: Backend, guided: bool) -> dict[int, float]:
        """The least seconds a picture of an evaluation at each batch, up to the first that the machine has no memory for."""
        work: dict[int, Callable[[], None]] = {}
        spent: dict[int, float] = {}
        for batch in COMPILED if backend.name == "compiled" else BATCHES:
            try:
                work[batch] = self._evaluation(settled, backend, guided, batch)
                work[batch]()
                spent[batch] = least(work[batch], backend.device, backend.threads) / batch
            except (BackendError, MemoryError, RuntimeError):
                break
            if spent[batch] > LONG:
                break
        for _ in range(ROUNDS):
            for batch, seconds in spent.items():
                if seconds < LONG:
                    spent[batch] = min(seconds, least(work[batch], backend.device, backend.threads) / batch)
        return spent

    def _evaluation(self, settled: Settled, backend: Backend, guided: bool, batch: int) -> Callable[[], None]:
        timesteps = self._model.stamp(settled.steps).timesteps
        words = read("")
        prompt = backend.encode((words, words), settled.chunks[0])
        factor = self._model.limits.factor
        x = backend.array(np.zeros((batch, self._model.channels, settled.height // factor, settled.width // factor), np.float32))
        steering = Steering(2.0 if guided else 1.0, None, np.array([time_ids(settled)] * batch, np.float32))
        denoise = backend.denoiser(settled.steps, [prompt] * batch, steering)

        def work() -> None:
            denoise(x, timesteps[0] if timesteps else TRAIN_TIMESTEPS - 1)
            backend.wait()

        return work


def choose(seconds: Mapping[int, float]) -> int:
    """The best batch for these seconds a picture: the largest, but where a smaller one is clearly faster; 1 where none is known."""
    best = min(seconds, key=lambda batch: seconds[batch], default=1)
    most = max(seconds, default=1)
    if not seconds or seconds[1] > LONG:
        return 1
    return best if seconds[best] < WORTH * seconds[most] else most
