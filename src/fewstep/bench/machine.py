"""The machine that figures come from: what it is, which of its cores are used, and what else ran on it meanwhile. Loads no torch."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.engine.device import memory
from fewstep.engine.device import processor as cpu_name
from fewstep.engine.software import installed

PACKAGES = ("fewstep", "torch", "diffusers", "transformers", "onnxruntime", "openvino", "numpy")
QUIET = 0.1  # cores that others may use before it is worth saying


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this process and its children to ``threads`` cores and torch to as many threads: both sides get the same, whoever asks."""
    variable, before = "OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS")
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    os.environ[variable] = str(threads)
    if affinity:
        os.sched_setaffinity(0, sorted(affinity)[:threads])
    import torch

    own = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(own)
        if affinity:
            os.sched_setaffinity(0, affinity)
        os.environ.pop(variable) if before is None else os.environ.update({variable: before})


def describe(device: str, threads: int, architecture: str | None = None) -> dict[str, Any]:
    """What a reader needs to place the figures, as plain values. ``kind`` names the machine, and what else than a model ran, for a file."""
    gpu = ""
    if device.startswith("cuda"):
        import torch

        gpu = str(torch.cuda.get_device_name(device))
    processor = cpu_name()
    name = kind(gpu) if gpu else f"{kind(processor)}-{threads}-core{'s' * (threads != 1)}"
    return {
        "kind": f"{name}-{architecture}" if architecture else name,
        "processor": processor,
        "accelerator": gpu,
        "device": device,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(memory()[0] / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := installed(package))},
    }


def kind(name: str) -> str:
    """A name for files: "AMD EPYC 7763 64-Core Processor" is amd-epyc-7763-64-core-processor."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-") or "unknown"


class Others:
    """How much of the machine others use from when this is made."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy(), _own()

    def cores(self) -> float | None:
        """Cores' worth of time that others used, None where the system does not say."""
        now, busy = time.monotonic(), _busy()
        if busy is None or self._busy is None or now <= self._began:
            return None
        return max(0.0, (busy - self._busy - (_own() - self._own)) / (now - self._began))


def _busy() -> float | None:
    """Seconds that all cores together were not idle."""
    try:
        fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # without idle and waiting for disks


def _own() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bytes_of_maxrss(value: int) -> int:
    """Bytes of getrusage's ``ru_maxrss``, which is in kilobytes everywhere but on macOS."""
    return value if sys.platform == "darwin" else value << 10
