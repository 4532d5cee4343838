"""Backends: who carries out the three stages, text, denoise and decode. The engine knows none of them by more than this interface."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from fewstep.engine.backends.names import EIGHT_BITS, RUNTIMES, check_backend, stages_of
from fewstep.engine.device import best_device, free
from fewstep.engine.memory import MEMORY, choose, need
from fewstep.engine.model import Model, check_choice
from fewstep.engine.request import PRECISIONS, RequestError
from fewstep.engine.steering import Steering
from fewstep.models.chunks import Words
from fewstep.models.stack import Stack
from fewstep.models.weights import WeightsError

MOST_THREADS = 64  # that anybody is taken to mean on a machine of few cores: thousands do not come back
ORDER = {"cpu": ("onnxruntime", "eager"), "cuda": ("compiled", "eager")}  # fastest first; on a CPU as measured (docs/performance.md)
HALF = 2  # bytes of a number on a card
OFFLOADING = ("model", "sequential")
log = logging.getLogger("fewstep")


class BackendError(RuntimeError):
    """A backend that cannot be used here for this model; the message says why and what to do."""


class Backend(Protocol):
    """One model on one device. Arrays are the backend's own (NumPy's or torch's), float32, and the sampler computes with either."""

    name: str
    device: str
    precision: str  # one of PRECISIONS, as it was asked for
    threads: int  # processor threads that it computes with
    no_control: str  # why it cannot compute ControlNets, and what to do about it; empty if it can
    no_images: str  # why it cannot encode an image, and what to do about it; empty if it can

    def adapt(self, stack: Stack) -> bool:
        """Compute with these LoRAs over the weights from now on, and with no others. Returns whether that changes anything."""

    def prepare(self, steps: int, decoder: str, attends: bool = False, tile: str | None = None) -> None:
        """Load what these step count and decoder need, if it is not loaded yet; ``attends``: with attentions that take a negative prompt;
        ``tile``: for pictures that wrap around.
        """

    def count(self, words: Words) -> int:
        """How many chunks of tokens ``words`` take."""

    def encode(self, words: tuple[Words, Words], chunks: int = 1) -> Any:
        """One prompt for both encoders, encoded: an object that :meth:`denoiser` takes, of at least so many chunks. No words are the null prompt."""

    def encode_image(self, pixels: np.ndarray, tile: str | None = None) -> np.ndarray:
        """One picture, uint8 [H, W, 3], as unit-variance latents, float32 [1, C, H/f, W/f]; it wraps around along ``tile``."""

    def array(self, values: np.ndarray) -> Any:
        """``values`` where the backend computes."""

    def denoiser(self, steps: int, prompts: Sequence[Any], steering: Steering) -> Callable[[Any, int], Any]:
        """``denoise(x, t)`` with the weights for ``steps`` steps, for latents [B, C, H/f, W/f] and B prompts of as many chunks each."""

    def crowded(self, width: int, height: int) -> bool:
        """Whether a whole picture of this size would not fit into what memory is free, and in parts it could be decoded."""

    def decode(self, latents: Any, decoder: str, tile: str | None = None) -> np.ndarray:
        """Pictures of unit-variance ``latents``: uint8 [B, H, W, 3]. They wrap around along ``tile``, "x", "y" or "xy"."""

    def wait(self) -> None:
        """Return when the device has done all that it was given."""


def open_backend(
    model: Model,
    name: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    memory: str = "auto",
    nets: Sequence[int] | None = None,
    precision: str = "auto",
    measure: bool = True,
) -> Backend:
    """The backend ``name`` for ``model``; "auto" is the first that works in the order of their measured speed, and says so if it is not the fastest.

    ``device`` is the first there is of cuda, mps and cpu unless given; ``memory`` how the model is kept on it (fewstep.engine.memory),
    ``nets`` being the sizes, in numbers, of the ControlNets that will guide it (None: the model's own). ``precision`` says what it computes
    with: "auto" is float32 on a processor and 16 bits where a card is quicker by them. ``measure``: "auto" may be decided by measuring, which
    another machine, or this one another day, may decide otherwise.
    Raises BackendError if ``name`` cannot be used here or none can, RequestError on a ``memory`` or ``precision`` that does not go with the rest,
    WeightsError on weights that no backend could use.
    """
    check_backend(name)
    check_choice("precision", precision, PRECISIONS)
    most = max(MOST_THREADS, 4 * (os.cpu_count() or 1))
    if threads is not None and (type(threads) is not int or not 1 <= threads <= most):
        raise RequestError(f"threads = {threads!r:.40}: give a whole number from 1 to {most}; this machine has {os.cpu_count() or 1} cores")
    if device is not None and not isinstance(device, str):
        raise RequestError(f"device = {device!r:.40}: give the name of one, such as 'cpu', 'cuda' or 'cuda:1'")
    where = device or ("cpu" if stages_of(name)[0] in RUNTIMES else best_device())
    way = settle_memory(model, name, where, memory, nets)
    if way != "full" and precision in EIGHT_BITS:
        raise RequestError(f"precision = '{precision}': networks that visit the card stay in 16 bits: give --memory full, or leave --precision at auto")
    order = ("offloaded",) if way != "full" else able(where, precision) if name == "auto" else (name,)
    failed: list[str] = []
    for kind in order:
        graphs = stages_of(kind)[0] in RUNTIMES
        more: dict[str, Any] = {"name": name, "measure": measure} if graphs else {"way": way} if kind == "offloaded" else {}
        try:
            module = import_module(f"fewstep.engine.backends.{'graphs' if graphs else kind}")
            backend: Backend = module.open(model, where, threads, strict=name != "auto", precision=precision, **more)
        except WeightsError:
            raise
        except (BackendError, ImportError, MemoryError, RuntimeError) as error:
            if len(order) == 1 and isinstance(error, ImportError):
                raise  # whoever shows it knows which extra brings what is missing
            failed.append(f"{kind}: {(str(error).splitlines() or [type(error).__name__])[0]}")
            continue
        for reason in failed:
            log.warning("fewstep: the faster backend cannot be used here (%s); going on with %s", reason, kind)
        return backend
    raise BackendError(f"{model.limits.name} cannot be run here with backend {name!r} ({'; '.join(failed)})")


def able(device: str, precision: str) -> tuple[str, ...]:
    """The backends that "auto" tries on ``device``, fastest first: those that compute in ``precision``."""
    order = ORDER.get(device.split(":")[0], ("eager",))
    if device == "cpu" and precision == "bfloat16":
        return order[:1]  # torch's is many times slower there
    return tuple(kind for kind in order if kind != "onnxruntime" or precision in ("auto", "float32"))


def slower(backend: Backend) -> tuple[str, ...]:
    """The backends that "auto" would try after this one, on its device."""
    order = able(backend.device, backend.precision)
    stages = set(stages_of(backend.name))
    if stages <= set(RUNTIMES) and stages != {RUNTIMES[0]}:
        return order  # the first runtime computes what another does not
    return order[order.index(backend.name) + 1 :] if backend.name in order else ()


def settle_memory(model: Model, name: str, device: str, memory: str, nets: Sequence[int] | None = None) -> str:
    """How ``model`` is kept on ``device`` by the backend ``name``: "full", or "model" or "sequential" by the backend that offloads.

    "auto" is the quickest that fits what is free on a card. Raises RequestError on what does not go together, BackendError on a card that is not there.
    """
    check_choice("memory", memory, MEMORY)
    if name not in ("auto", "offloaded"):
        if memory in OFFLOADING:
            raise RequestError(f"memory = '{memory}': the backend {name} keeps all networks where it computes: leave --backend at auto")
        return "full"
    if not device.startswith("cuda"):
        if memory in OFFLOADING:
            log.warning("fewstep: --memory %s changes nothing here: on %s the networks lie where they are computed", memory, device)
        return "model" if name == "offloaded" else "full"
    way = memory
    if memory == "auto":
        from fewstep.engine.backends.eager import check_device

        check_device(device)  # before a card that is not there is asked what is free on it
        wanted, there = need(model, model.limits.native, model.limits.native, HALF, model.limits.teacher, nets), free(device) or 0
        way = choose(wanted, there)
        if way != "full":
            told = f"{wanted.of('full') / 1e9:.1f} GB are needed and {there / 1e9:.1f} GB are free on {device}"
            log.warning("fewstep: %s, so the networks visit it (--memory %s); slower, and the pictures are the same within rounding", told, way)
    return "model" if name == "offloaded" and way == "full" else way
