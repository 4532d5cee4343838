"""Which device, and how many cores of it are ours. Loads torch only where there may be an accelerator."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib.util import find_spec
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def best_device() -> str:
    """The first there is of cuda, mps and cpu. AMD's cards are "cuda" to torch."""
    if find_spec("torch") is None or not _accelerated():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _accelerated() -> bool:
    """Whether asking torch, which takes seconds to load, may say anything but "cpu"."""
    if platform.system() == "Darwin":
        return True
    for library in ("libcuda.so.1", "libamdhip64.so", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


def cores() -> int:
    """Threads to compute with: the cores that this process may use, by its affinity, its cgroup's quota and OMP_NUM_THREADS."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    limits = [available, quota(CGROUPS), int(asked) if asked.isdecimal() and int(asked) > 0 else None]
    return max(1, min(limit for limit in limits if limit is not None))


def quota(root: Path) -> int | None:
    """The cores that a container's quota allows, rounded up; None where there is none. Reads cgroup v2, then v1."""
    try:
        given, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            given, period = ((root / "cpu" / name).read_text().strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        except OSError:
            return None
    if not given.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return max(1, ceil(int(given) / int(period)))
