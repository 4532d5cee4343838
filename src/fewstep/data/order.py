"""The order in which prepared pictures are shown: a function of (seed, batch number), so that resuming needs no state.

Every bucket is one endless row of its own pictures, shuffled anew each time round, and a batch takes the next ``batch_size`` of one of them. The
buckets take turns so that after e epochs ⌊e·Nᵦ / batch_size⌋ batches of the bucket with Nᵦ pictures were shown: no picture comes again before all
others of its bucket have come, all come equally often, and where the batch size divides every Nᵦ an epoch is the whole set once.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TURNS, ROWS = 0, 1  # what a draw is for


@dataclass(frozen=True)
class Order:
    """The order of ``counts`` pictures in each bucket, in batches of one bucket each."""

    counts: tuple[int, ...]  # all positive
    batch_size: int
    seed: tuple[int, ...]

    def batch(self, number: int) -> tuple[int, np.ndarray]:
        """(the bucket of batch ``number``, the rows in it: int64 [batch_size])."""
        epoch = bisect_right(range(number * self.batch_size // sum(self.counts) + len(self.counts) * self.batch_size + 2), number, key=self.before) - 1
        turns = _turns(self, epoch)
        slot = number - self.before(epoch)
        bucket = int(turns[slot])
        count = self.counts[bucket]
        ordinal = epoch * count // self.batch_size + int((turns[:slot] == bucket).sum())
        rounds, places = np.divmod(np.arange(self.batch_size) + ordinal * self.batch_size, count)
        return bucket, np.array([_shuffled(self.seed, bucket, int(turn), count)[place] for turn, place in zip(rounds, places, strict=True)], np.int64)

    def before(self, epoch: int) -> int:
        """How many batches there are before this epoch."""
        return sum(epoch * count // self.batch_size for count in self.counts)


@lru_cache(maxsize=4)
def _turns(order: Order, epoch: int) -> np.ndarray:
    """The bucket of each batch of an epoch."""
    shares = [(epoch + 1) * count // order.batch_size - epoch * count // order.batch_size for count in order.counts]
    turns = np.repeat(np.arange(len(shares)), shares)
    return np.random.default_rng((*order.seed, TURNS, epoch)).permutation(turns)


@lru_cache(maxsize=12)  # each bucket's round, and the next one where a batch reaches into it
def _shuffled(seed: tuple[int, ...], bucket: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng((*seed, ROWS, bucket, turn)).permutation(count).astype(np.int32)
