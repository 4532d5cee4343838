"""What this machine can do at most, measured in the same run: multiplications and copies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

SIDES = {"cpu": (384, 512, 768, 1024, 1536), "accelerator": (2048, 4096, 8192)}  # of square matrices
BUFFER = {"cpu": 1 << 28, "accelerator": 1 << 30}  # bytes, more than any cache holds
TRIES = 8


@dataclass(frozen=True)
class Peaks:
    """The most that was reached."""

    flops: float  # floating-point operations a second in a matrix product; a multiply-add is two
    bandwidth: float  # bytes a second, read and written, in a copy

    def better(self, other: Peaks) -> Peaks:
        """The greater of each: a peak is a peak, whenever it was reached."""
        return Peaks(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))


def measure(device: str = "cpu", dtype: torch.dtype = torch.float32, tries: int = TRIES) -> Peaks:
    """The best of ``tries`` over several sizes, with torch's number of threads as it is set."""
    kind = "cpu" if device == "cpu" else "accelerator"
    waits: dict[str, Callable[[], Any]] = {"cuda": partial(torch.cuda.synchronize, device), "mps": torch.mps.synchronize}
    wait = waits.get(device.split(":")[0], lambda: None)
    return Peaks(
        flops=max(2 * side**3 / best(_product(side, device, dtype), wait, tries) for side in SIDES[kind]),
        bandwidth=2 * BUFFER[kind] / best(_copy(BUFFER[kind], device), wait, tries),
    )


def best(work: Callable[[], Any], wait: Callable[[], Any], tries: int) -> float:
    """The least seconds that ``work`` takes, after one call that does not count."""
    times = []
    for _ in range(tries + 1):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _product(side: int, device: str, dtype: torch.dtype) -> Callable[[], Any]:
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(one)
    return lambda: torch.mm(one, other, out=out)


def _copy(size: int, device: str) -> Callable[[], Any]:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
