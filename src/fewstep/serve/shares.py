"""Something of which there is only so much, such as places or bytes, and how much of it each client has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable


class Shares:
    """``most`` of it in all. A client may have as much as is left free then: however eager some are, there is something for who comes new.

    One alone can have half of it. Lives on the event loop's thread.
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._own: Counter[Hashable] = Counter()

    def take(self, owner: Hashable, amount: int = 1) -> bool:
        """Have so much more for ``owner``. Returns False, and takes nothing, where that is too much."""
        if self._own[owner] + amount > self.most - self.taken:
            return False
        self._own[owner] += amount
        self.taken += amount
        return True

    def give(self, owner: Hashable, amount: int = 1) -> None:
        """It is not needed any more."""
        self._own[owner] -= amount
        self.taken -= amount
        if not self._own[owner]:
            del self._own[owner]
