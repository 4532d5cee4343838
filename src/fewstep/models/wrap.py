"""Pictures without a seam: inside :func:`wrapping` every convolution sees the picture's opposite side beyond its border.

Normalisation and attention look at all positions alike, and know of none where it is; so a network whose convolutions wrap answers to
noise that is moved along with a picture that is moved along, as far as it moves by whole steps of the network's strides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_inside = threading.local()


def wraps() -> bool:
    """Whether this is called inside :func:`wrapping` with a way to wrap: where a compiled network would miss it."""
    return bool(getattr(_inside, "depth", 0))


def wrapping(tile: str | None, least: int = 1) -> AbstractContextManager[Any]:
    """Inside it, pictures [B, C, H, W] of at least so many positions a side are wrapped around along "x", "y" or "xy"; with None all is as ever.

    Modules are left as they are: what is changed is how torch's own functions are called, on this thread.
    """
    return _Wrapping(tile, least) if tile else nullcontext()


class _Wrapping(TorchFunctionMode):
    def __init__(self, tile: str, least: int) -> None:
        super().__init__()
        self._least = least
        self._x, self._y = "x" in tile, "y" in tile

    def __enter__(self) -> Any:
        _inside.depth = getattr(_inside, "depth", 0) + 1
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        _inside.depth -= 1
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.conv2d:
            return self._convolve(*args, **kwargs)
        if func is functional.pad and len(args) > 1 and len(args[1]) == 4 and set(kwargs) <= {"mode", "value"} and kwargs.get("mode") == "constant":
            x, around = self._wrapped(args[0], tuple(args[1]))
            return func(x, around, **kwargs)
        return func(*args, **kwargs)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, *more: Any, **named: Any) -> Tensor:
        down, across = (padding, padding) if isinstance(padding, int) else padding
        x, (across, _, down, _) = self._wrapped(x, (across, across, down, down))
        return functional.conv2d(x, weight, bias, stride, (down, across), *more, **named)

    def _wrapped(self, x: Tensor, around: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
        """(``x`` with what lies beyond it put around it, what is still to be put there): left, right, top and bottom."""
        left, right, top, bottom = around
        taken = left * self._x, right * self._x, top * self._y, bottom * self._y
        if min(x.shape[-2:]) < self._least or not any(taken):
            return x, around
        return functional.pad(x, taken, mode="circular"), tuple(side - gone for side, gone in zip(around, taken, strict=True))
