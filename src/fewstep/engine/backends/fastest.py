"""Which runtime is the fastest on this machine, stage by stage: measured once, and kept on disk."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from fewstep.engine.backends import BackendError, log
from fewstep.engine.backends.names import NATIVE, RUNTIMES, STAGES, stages_of
from fewstep.engine.backends.native.library import identity, possible
from fewstep.engine.backends.native.network import UnknownNetwork
from fewstep.engine.device import instructions, processor
from fewstep.engine.measured import Momentary, least, remembered
from fewstep.engine.model import Model
from fewstep.engine.request import listed
from fewstep.engine.software import compiler, installed
from fewstep.engine.steering import Steering
from fewstep.engine.wording import read
from fewstep.schedule import TRAIN_TIMESTEPS
from fewstep.stamp import file_hash

ROUNDS = 9
VARIABLE = "FEWSTEP_RUNTIMES"  # those that may be chosen, separated by commas; all that are installed unless it is set
WORTH = 0.9  # of the first runtime's time, for another library to be loaded beside it
BOUND = 2  # of 255, that a runtime's picture may be from the first one's


def available() -> list[str]:
    """The runtimes that may be chosen and that can be had here."""
    allowed = os.environ.get(VARIABLE, ",".join(RUNTIMES)).split(",")
    return [name for name in RUNTIMES if name in allowed and (possible() if name == NATIVE else find_spec(name))]


def steady() -> str:
    """The name of the runtimes for who must have the same ones another day: those that were the fastest where it was measured (docs/decisions.md)."""
    return NATIVE if NATIVE in available() and "AVX2" in instructions() else RUNTIMES[0]


def fastest(model: Model, threads: int, make: Callable[[str], Any]) -> str:
    """The name of the runtimes that are the fastest for ``model``: one, or one for each of STAGES. ``make`` opens a backend by such a name.

    The first of RUNTIMES where there is no other, or VARIABLE allows none. Measured once for each model, processor, number of threads
    and versions; one that makes another picture than the first does is not taken.
    """
    own, there = compiler(), available()
    if len(there) < 2:
        return RUNTIMES[0]
    about = {
        "what": "runtimes",
        "model": file_hash(model.unet),  # the same networks for every step count
        "size": model.limits.native,
        "processor": [processor(), *instructions()],
        "threads": threads,
        "versions": {name: identity(own) if own and name == NATIVE else installed(name) for name in ("fewstep", *there)},
    }

    def measure() -> str | Momentary:
        log.warning("fewstep: measuring once which of %s is faster on this machine; takes some seconds", listed(there))
        work: dict[str, dict[str, Callable[[], Any]]] = {}
        momentary, pictures = False, []
        for name in there:
            opened = False
            try:
                backend, opened = make(name), True
                stages, picture = _work(model, backend)
                pictures.append(picture.astype(int))
                if np.abs(pictures[-1] - pictures[0]).max() > BOUND:
                    log.warning("fewstep: %s makes another picture than %s does, and is not used", name, there[0])
                    continue
                work[name] = stages
            except (BackendError, ImportError, MemoryError, RuntimeError) as error:
                lasting = isinstance(error, (BackendError, ImportError)) and not opened and name != NATIVE  # a compiler is repaired
                momentary |= not lasting and not isinstance(error.__cause__, UnknownNetwork)
                log.warning("fewstep: %s cannot be used here (%s)", name, (str(error).splitlines() or [type(error).__name__])[0])
        try:
            found = choose(_seconds(work, threads))
        except (MemoryError, RuntimeError):
            return Momentary(RUNTIMES[0])
        return Momentary(found) if momentary else found

    found = remembered(about, measure)
    return found if isinstance(found, str) and set(stages_of(found)) <= set(there) else RUNTIMES[0]


def choose(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """The name for these seconds, {runtime: {stage: ...}}: the first runtime's, but where another is clearly faster."""
    names = []
    for stage in STAGES:
        best = min(seconds, key=lambda name: seconds[name][stage], default=RUNTIMES[0])
        first = RUNTIMES[0]
        names.append(best if first not in seconds or seconds[best][stage] < WORTH * seconds[first][stage] else first)
    return names[0] if len(set(names)) == 1 else "+".join(names)


def _work(model: Model, backend: Any) -> tuple[dict[str, Callable[[], Any]], Any]:
    """(each stage of a picture of the model's own size, done once already, what comes of them). Raises what ``backend`` does where it does not work."""
    steps, native = model.limits.default_steps, model.limits.native
    side, timesteps = native // model.limits.factor, model.stamp(steps).timesteps
    words = read("a red apple on a blue background")
    prompt = backend.encode((words, words))
    x = backend.array(np.random.default_rng(0).standard_normal((1, model.channels, side, side)).astype(np.float32))
    denoise = backend.denoiser(steps, [prompt], Steering(1.0, None, np.array([[native, native, 0, 0, native, native]], np.float32)))
    t = timesteps[0] if timesteps else TRAIN_TIMESTEPS - 1
    work: dict[str, Callable[[], Any]] = {
        "text": lambda: backend.encode((words, words)),
        "denoise": lambda: denoise(x, t),
        "decode": lambda: backend.decode(x, "full"),
    }
    for compute in work.values():
        compute()
    return work, backend.decode(denoise(x, t), "full")


def _seconds(work: Mapping[str, Mapping[str, Callable[[], Any]]], threads: int) -> dict[str, dict[str, float]]:
    """The least seconds of each runtime's stages, which work in turn; infinity where there is none to compare with."""
    spent = {name: dict.fromkeys(STAGES, math.inf) for name in work}
    for _ in range(ROUNDS if len(work) > 1 else 0):
        for stage in STAGES:
            for name, stages in work.items():
                spent[name][stage] = min(spent[name][stage], least(stages[stage], "cpu", threads))
    return spent
