"""What was made is kept for who asks again: the last few, or all that one caller asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


def recent(store: OrderedDict[Hashable, T], key: Hashable, make: Callable[[], T], most: int) -> T:
    """What ``store`` has for ``key``, or else ``make`` makes; it keeps the ``most`` that were asked for last."""
    if key in store:
        store.move_to_end(key)
    else:
        store[key] = make()
        if len(store) > most:
            store.popitem(last=False)
    return store[key]


def once(make: Callable[..., T]) -> Callable[..., T]:
    """``make``, which is called once for the same arguments: equal ones where they have a hash, else the very same, which are kept."""
    found: dict[Hashable, tuple[tuple[Any, ...], T]] = {}

    def made(*arguments: Any) -> T:
        key = tuple(one if isinstance(one, Hashable) else id(one) for one in arguments)
        if key not in found:
            found[key] = arguments, make(*arguments)
        return found[key][1]

    return made
