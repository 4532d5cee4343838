"""What a run is forecast for: machines, the memory of each rank, and the rates that networks are trained at. Loads torch to look at cards that are here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fewstep.distill.recipe import RecipeError

GIB = 1 << 30
SHARE = 0.3  # of a card's peak: what published SDXL without a compiler reaches, 33 % on an RTX 4090 and 29 % on an H100 (docs/training.md)
CORE = 70e9  # operations a second of one core with AVX2 in convolutions and their gradients, about: where a network is too large to try


@dataclass(frozen=True)
class Machine:
    """A kind of machine. Bytes are of one rank; rates are operations a second of one rank, by precision."""

    name: str
    about: str
    ranks: int
    memory: float
    reserved: float  # bytes that are no tensors: the interpreter with its libraries, or a card's context and what its allocator cannot use
    rates: dict[str, float]
    accelerator: bool = True
    least: float = 0.0  # seconds of an update, however small: it launches some thousands of kernels, at about 10 µs each


def machine(name: str) -> Machine:
    """The machine that a command names; "cpu" is this one, "here" too, but for its card where it has one. Raises RecipeError on another name."""
    if name == "here":
        return _here() or machine("cpu")
    if name == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = min(cores, int(os.environ.get("OMP_NUM_THREADS", cores)))
        rates, ranks = {"float32": cores * CORE, "bfloat16": cores * CORE}, _ranks()
        share = available() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return Machine("cpu", f"this machine, {cores} thread{'s' * (cores > 1)}", ranks, share, 0.7e9, rates, accelerator=False)
    cards = {  # the memory that a program can have, and dense peaks: NVIDIA's data sheets
        "24gb": ("RTX 4090", 23.5 * GIB, {"float32": 82.6e12, "bfloat16": 165e12}),
        "80gb": ("H100 SXM", 79.1 * GIB, {"float32": 66.9e12, "bfloat16": 989e12}),
    }
    found = re.fullmatch(r"(\d+)x(24gb|80gb)", name)
    if not found or not 1 <= int(found[1]) <= 1024:
        raise RecipeError(f"--on {name}: give here, cpu, or a number of cards of 24 or 80 GB, such as 1x24gb, 1x80gb or 8x80gb")
    card, memory, peaks = cards[found[2]]
    rates = {precision: SHARE * peak for precision, peak in peaks.items()}
    return Machine(name, f"{found[1]} {card}", int(found[1]), memory, 0.6e9 + 0.05 * memory, rates, least=0.03)


def _ranks() -> int:
    """As torchrun says it; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _here() -> Machine | None:
    """This machine with the card that this rank computes on; None where it has none."""
    import torch

    if not torch.cuda.is_available():
        return None
    card = int(os.environ.get("LOCAL_RANK", "0"))
    about, free = torch.cuda.get_device_properties(card), float(torch.cuda.mem_get_info(card)[0])
    # a card that no table has: as an RTX 4090, by its multiprocessors
    rates = {precision: SHARE * peak * about.multi_processor_count / 128 for precision, peak in {"float32": 82.6e12, "bfloat16": 165e12}.items()}
    ranks = _ranks()
    return Machine("here", f"{ranks} {about.name}", ranks, free, 0.6e9 + 0.05 * free, rates, least=0.03)


def available() -> float:
    """Bytes of main memory that a new program can have here: what is free, within the limit of its group; infinite where nobody says."""
    found = []
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        found += [float(int(match[1]) << 10)] if match else []
    except OSError:
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        found += [float(int(limit) - int(used))] if limit.isdecimal() else []
    except (OSError, ValueError):
        pass
    return min(found, default=float("inf"))
