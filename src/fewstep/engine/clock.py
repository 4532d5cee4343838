"""How long the stages of a picture take."""

from __future__ import annotations

import time

from fewstep.engine.backends import Backend


class Clock:
    """Seconds between laps, after waiting for what an accelerator still has to do."""

    def __init__(self, backend: Backend) -> None:
        self._wait, self._last = backend.wait, time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        self._wait()
        last, self._last = self._last, time.perf_counter()
        return self._last - last
