"""What can be asked of backends by name. Loads no torch."""

from __future__ import annotations

from fewstep.engine.model import check_choice
from fewstep.engine.request import BACKENDS

STAGES = ("text", "denoise", "decode")
RUNTIMES = ("onnxruntime", "openvino")  # of graphs on a CPU; the first comes with the plain install
NATIVE = "native"  # kernels of our own, which denoise and decode
EIGHT_BITS = ("int8", "float8")


def stages_of(backend: str) -> tuple[str, ...]:
    """The runtime of each of STAGES in a backend's name: one for all, or three joined by "+"."""
    names = tuple(backend.split("+"))
    return names * len(STAGES) if len(names) == 1 else names


def check_backend(name: str) -> None:
    """Raises RequestError unless ``name`` is a backend's."""
    text, *others = name.split("+")
    if len(others) != len(STAGES) - 1 or text not in RUNTIMES or not set(others) <= {*RUNTIMES, NATIVE}:
        check_choice("backend", name, BACKENDS)
