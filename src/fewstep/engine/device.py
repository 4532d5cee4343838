"""Which device, what its processor can do and how many cores of it are ours. Loads torch only where there may be an accelerator."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from importlib.util import find_spec
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bfloat16", "amx_tile": "AMX", "asimd": "NEON", "sve": "SVE"}


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


def memory() -> tuple[int, int]:
    """Bytes of main memory (all, available); (0, 0) where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
        total, available = (int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) << 10 for name in ("MemTotal", "MemAvailable"))  # type: ignore[index]
        return total, available
    except (OSError, TypeError):
        return 0, 0


def allowed(root: Path) -> int | None:
    """The bytes of memory that a container still allows; None where there is no limit. Reads cgroup v2, then v1.

    What it holds of files that were read counts as used there, and is given back when it is wanted: here it is free.
    """
    v1 = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"
    for most, used, stat, cached in (("memory.max", "memory.current", "memory.stat", "inactive_file"), v1):
        try:
            given, taken = ((root / name).read_text().strip() for name in (most, used))
        except OSError:
            continue
        if given.isdecimal() and taken.isdecimal() and int(given) < 1 << 60:  # v1 writes a huge number for none
            return max(0, int(given) - int(taken) + _said(root / stat, cached))
    return None


def _said(path: Path, name: str) -> int:
    """The number after ``name`` in a file of such lines, 0 where it does not say."""
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def free(device: str) -> int | None:
    """Bytes that are free on ``device`` for a model, what torch keeps for itself included; None where that is not known."""
    if device.startswith("cuda"):
        import torch

        there, _ = torch.cuda.mem_get_info(device)
        return int(there + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device != "cpu":
        return None
    known = [given for given in (memory()[1] or None, allowed(CGROUPS)) if given is not None]
    return min(known, default=None)


def card(device: str) -> tuple[str, int] | None:
    """(name, bytes of memory) of the card ``device``; None where that is none."""
    if not device.startswith("cuda"):
        return None
    import torch

    found = torch.cuda.get_device_properties(torch.device(device))
    return str(found.name), int(found.total_memory)


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


def processor() -> str:
    """The processor's name as it gives it itself."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def instructions() -> list[str]:
    """The vector and matrix instructions that the processor has, of those that runtimes gain by."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return [name for flag, name in INSTRUCTIONS.items() if flag in flags]


def features() -> list[str]:
    """All that the processor says of itself and its instructions, each once."""
    named = r"^(?:model name|flags|Features|CPU (?:implementer|architecture|variant|part))\s*:.+$"
    return sorted({" ".join(line.split()) for line in re.findall(named, _cpuinfo(), re.MULTILINE)}) or [processor()]


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
