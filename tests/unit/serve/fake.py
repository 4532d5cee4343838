"""An engine whose steps happen when a test says so."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

from PIL import Image

from fewstep.engine.record import Record
from fewstep.engine.request import MOST_BATCH, Frame, Limits, Picture, Request, Settled

PATIENCE = 20  # seconds that a test waits before it fails
LIMITS = Limits("fake", factor=16, native=64, students=(1, 2, 4, 8), teacher=True, default_steps=4)
TIMINGS = {"text": 1.0, "denoise": 2.0, "decode": 3.0}


def run(test: Coroutine[Any, Any, Any]) -> Any:
    """Run an asynchronous test."""
    return asyncio.run(asyncio.wait_for(test, PATIENCE))


def settled(prompt: str = "pizza", seed: int = 1, steps: int = 1, width: int = 64, height: int = 64) -> Settled:
    return LIMITS.settle(Request(prompt, seed, steps, width, height))


class FakeEngine:
    """Before each step of a held engine ``await reach()`` says which prompts are at it, and ``go`` lets it happen. Prompts of warming up pass."""

    limits = LIMITS

    def __init__(self, held: bool = False, broken: str | None = None) -> None:
        self.held, self.broken = held, broken
        self.walks: list[tuple[list[str], str]] = []  # (prompts, decoder) of each batch that began
        self.steps = self.decodes = self.previews = 0
        self.abandoned: list[list[str]] = []
        self._reached: queue.Queue[tuple[list[str], int]] = queue.Queue()
        self._tokens = threading.Semaphore(0)

    def best_batch(self, settled: Settled) -> int:
        return MOST_BATCH

    def walk(self, batch: Sequence[Settled], decoder: str | None = None) -> Iterator[list[Frame]]:
        prompts, steps = [one.prompt for one in batch], batch[0].steps
        warming = prompts == [""]
        if not warming:
            self.walks.append((prompts, decoder or "full"))
        if self.broken in prompts:
            raise RuntimeError("broken")
        try:
            for step in range(1, steps + 1):
                if self.held and not warming:
                    self._reached.put((prompts, step))
                    assert self._tokens.acquire(timeout=PATIENCE)
                self.steps += not warming
                yield [Frame(step, steps, partial(self._preview, one)) for one in batch]
            self.decodes += not warming
            yield [Frame(steps, steps, partial(self._preview, one), picture(one, decoder or "full", len(batch), row)) for row, one in enumerate(batch)]
        except GeneratorExit:
            self.abandoned.append(prompts)
            raise

    def _preview(self, one: Settled) -> Image.Image:
        self.previews += 1
        return image(one)

    async def reach(self) -> tuple[list[str], int]:
        """The (prompts, number) of the step that is about to happen."""
        return await asyncio.to_thread(self._reached.get, True, PATIENCE)

    def go(self, steps: int = 1) -> None:
        """Let so many steps happen."""
        self._tokens.release(steps)

    def release(self) -> None:
        """Hold nothing any more."""
        self.held = False
        self._tokens.release(1000)


def image(one: Settled) -> Image.Image:
    colour = (one.seed % 256, len(one.prompt) % 256, one.steps)
    return Image.new("RGBA", (one.width, one.height), (*colour, 128)) if one.transparent else Image.new("RGB", (one.width, one.height), colour)


def picture(one: Settled, decoder: str, batch: int, row: int) -> Picture:
    record = Record.of(one, model="fake", hash="0" * 12, guidance_scale=0.0, version="0", backend="fake", device="cpu", threads=1, decoder=decoder)
    made = {key: getattr(one, key) for key in ("seed", "steps", "width", "height")}
    return Picture(image=image(one), **made, model="fake", timings=TIMINGS, record=record)
