"""Few-step text-to-image: pictures in 1, 2, 4 or 8 network evaluations.

    from fewstep import Engine, Request
    picture = Engine.load("emoji").generate(Request("a red apple on a blue background", seed=7))
    picture.save("apple.png")

Importing this loads neither torch nor diffusers: the names below are fetched when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.engine.control import Control as Control
    from fewstep.engine.engine import Engine as Engine
    from fewstep.engine.engine import load as load
    from fewstep.engine.request import Picture as Picture
    from fewstep.engine.request import Request as Request

__version__ = "0.1.0"
__all__ = ["Control", "Engine", "Picture", "Request", "__version__", "load"]
_HOMES = {
    "Control": "fewstep.engine.control",
    "Engine": "fewstep.engine.engine",
    "load": "fewstep.engine.engine",
    "Picture": "fewstep.engine.request",
    "Request": "fewstep.engine.request",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fewstep' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
