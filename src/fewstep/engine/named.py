"""A function of whoever gives the command, named as ``module:function``. Imported only then."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fewstep.engine.request import RequestError


def named(option: str, name: str, does: str) -> Callable[..., Any]:
    """The function ``name``, given with ``option``; ``does`` is what it should. Raises RequestError, saying why, if there is none."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise RequestError(f"{option} {name}: write it as module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as problem:
        raise RequestError(f"{option} {name} cannot be imported ({type(problem).__name__}: {problem}): see that PYTHONPATH leads to it") from None
    if not callable(found):
        raise RequestError(f"{option} {name} is no function: give one that {does}")
    use: Callable[..., Any] = found
    return use
