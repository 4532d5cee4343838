"""A picture's own noise: the numbers that torch's CPU generator draws, and so those of a diffusers pipeline with one. Needs numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # torch turns so many uniform numbers into normal ones at once


class Noise:
    """One picture's generator: what ``torch.Generator("cpu").manual_seed(seed)`` is to ``torch.randn``. ``seed`` is from 0 to 2^63 - 1."""

    def __init__(self, seed: int) -> None:
        # torch seeds its Mersenne twister with the low half of the seed; RandomState is the numpy generator whose stream is frozen for good
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)
        self._second: float | None = None

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The next standard normal numbers in ``shape``: those of ``torch.randn(shape, generator=generator)`` to within 1e-5."""
        size = math.prod(shape)
        if size < BLOCK:
            return np.array([self._one() for _ in range(size)], np.float32).reshape(shape)
        flat = np.empty(size, np.float32)
        uniform, rest = self._uniform(size), size % BLOCK
        flat[: size - rest] = box_muller(uniform[: size - rest])
        if rest:  # torch does not finish a broken block: it draws the last whole one anew
            flat[-BLOCK:] = box_muller(self._uniform(BLOCK))
        return flat.reshape(shape)

    def _uniform(self, count: int) -> NDArray[np.float32]:
        """Numbers in [0, 1) of 24 bits, as many as a float32 holds."""
        raw = self._twister.randint(0, 1 << 32, count, np.uint32)
        return (raw & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2**-24)

    def _one(self) -> float:
        """A single number: torch draws so few in double precision, by twos, and keeps the second for later."""
        if self._second is not None:
            drawn, self._second = self._second, None
            return drawn
        high_1, low_1, high_2, low_2 = map(int, self._twister.randint(0, 1 << 32, 4, np.uint32))
        turn, tail = (((high << 32 | low) & (1 << 53) - 1) * 2**-53 for high, low in ((high_1, low_1), (high_2, low_2)))
        radius = math.sqrt(-2 * math.log1p(-tail))
        self._second = radius * math.sin(2 * math.pi * turn)
        return radius * math.cos(2 * math.pi * turn)


class Draws:
    """What the pictures of a batch draw: ``draws(k)`` is the k-th draw of each, [B, C, H, W], a function of their seeds and k alone.

    Each has its own generator, whatever else is in the batch: draw 0 is what a picture begins as, and draw k what is fresh after its k-th
    evaluation, in the order in which a diffusers pipeline with a generator for each picture draws them.
    """

    def __init__(self, begin: Sequence[Callable[[], Callable[[tuple[int, ...]], NDArray[np.float32]]]], shape: tuple[int, ...]) -> None:
        self._begin, self._shape = begin, shape  # what opens a picture's generator, and the shape of one draw, [1, C, H, W]
        self._open: list[Callable[[tuple[int, ...]], NDArray[np.float32]]] = []
        self._next = -1  # the draw that the open generators give next; -1: none is open

    def __call__(self, k: int = 0) -> NDArray[np.float32]:
        """The k-th draw of each picture, [B, C, H, W]."""
        if not 0 <= self._next <= k:
            self._open, self._next = [begin() for begin in self._begin], 0
        while self._next < k:
            self._draw()
        return self._draw()

    def _draw(self) -> NDArray[np.float32]:
        self._next += 1
        return np.concatenate([draw(self._shape) for draw in self._open])


def drawing(seed: int, variations: Sequence[tuple[int, float]] = ()) -> Callable[[tuple[int, ...]], NDArray[np.float32]]:
    """What draws the noise of ``seed``, in a shape, after each (other seed, share) of ``variations`` has led so far towards that seed's."""
    base, others = Noise(seed), [(Noise(other), share) for other, share in variations]

    def draw(shape: tuple[int, ...]) -> NDArray[np.float32]:
        return reduce(lambda noise, other: slerp(noise, other[0].draw(shape), other[1]), others, base.draw(shape))

    return draw


def slerp(first: NDArray[np.float32], second: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """``share`` of the way from one noise to another of the same shape, along the sphere, so that it stays as large as noise is.

    sin((1-s)·θ)/sin θ · first + sin(s·θ)/sin θ · second, with θ the angle between them (Shoemake, 1985). Exact at both ends.
    """
    if share in (0, 1):
        return second if share else first
    a, b = first.astype(np.float64), second.astype(np.float64)
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    angle = math.acos(min(1.0, max(-1.0, float(cosine))))
    if math.sin(angle) < 1e-6:  # the same noise, or its opposite, to which no way is the shortest
        return ((1 - share) * a + share * b).astype(np.float32)
    return ((math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)).astype(np.float32)


def box_muller(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normal numbers [N] from uniform ones u [N] in [0, 1), N a multiple of 16.

    In each block of 16 the first half gives radii, √(-2 ln(1-u)), and the second angles, 2πu (Box and Muller, 1958).
    """
    first, second = uniform.reshape(-1, 2, BLOCK // 2).swapaxes(0, 1)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - first))
    angle = np.float32(2 * math.pi) * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
