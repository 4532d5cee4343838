"""What can be asked of backends by name. Loads no torch."""

from __future__ import annotations

from fewstep.engine.model import check_choice
from fewstep.engine.request import BACKENDS

STAGES = ("text", "denoise", "decode")
RUNTIMES = ("onnxruntime", "openvino", "native")  # of graphs on a CPU; the first comes with the plain install
NATIVE = RUNTIMES[2]  # kernels of our own, where there is a compiler
EIGHT_BITS = ("int8", "float8")


def stages_of(backend: str) -> tuple[str, ...]:
    """The runtime of each of STAGES in a backend's name: one for all, or three joined by "+"."""
    names = tuple(backend.split("+"))
    return names * len(STAGES) if len(names) == 1 else names


def check_backend(name: str) -> None:
    """Raises RequestError unless ``name`` is a backend's."""
    names = str(name).split("+")
    if len(names) != len(STAGES) or not set(names) <= set(RUNTIMES):
        check_choice("backend", name, BACKENDS)
