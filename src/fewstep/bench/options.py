"""What a benchmark is to measure, checked before anything is loaded. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from fewstep.engine.device import cores
from fewstep.engine.model import Model, check_choice, open_model
from fewstep.engine.output import check_writable
from fewstep.engine.request import BACKENDS, RequestError, listed

SECTIONS = ("compare", "memory", "standard", "stages", "growth", "startup")
ARCHITECTURES = ("sdxl",)
STEPS, BATCHES = (1, 2, 4, 8), (1, 4, 8)
ROUNDS, QUICK_ROUNDS = 7, 3
LARGEST_BATCH = 32  # requests at once; the engine takes them in batches of its own
TEACHER_STEPS = 50  # what few-step models are compared with, guided


@dataclass(frozen=True)
class Options:
    """A checked choice."""

    model: str = "emoji"
    architecture: str | None = None
    only: tuple[str, ...] = SECTIONS
    steps: tuple[int, ...] = ()  # of the students; empty: those of ``STEPS`` that there are
    batch: tuple[int, ...] = BATCHES
    sizes: tuple[int, ...] = ()  # pixels a side, measured in this order; empty: the model's own
    threads: int = 1
    rounds: int = ROUNDS
    warmup: int = 2
    backend: str = "auto"
    quick: bool = False
    json: Path | None = None


def settle(
    model: str = "emoji",
    architecture: str | None = None,
    only: str | None = None,
    steps: str | None = None,
    batch: str | None = None,
    sizes: str | None = None,
    threads: int | None = None,
    rounds: int | None = None,
    backend: str = "auto",
    quick: bool = False,
    json: Path | None = None,
) -> Options:
    """The options of a command line, lists as "1,2,4". Raises RequestError, one sentence, on what cannot be meant or measured here."""
    check_installed()
    if architecture is not None and architecture not in ARCHITECTURES:
        raise RequestError(f"--architecture {architecture!r}: there is {listed(ARCHITECTURES)}; leave it out to measure --model")
    check_choice("backend", backend, BACKENDS)
    chosen = SECTIONS if only is None else tuple(dict.fromkeys(part.strip() for part in only.split(",")))
    if unknown := [part for part in chosen if part not in SECTIONS]:
        raise RequestError(f"--only {unknown[0]!r}: there is {listed(SECTIONS)}, separated by commas")
    there = cores()
    if threads is not None and not 1 <= threads <= there:
        raise RequestError(f"--threads {threads}: give 1 to {there}: this process may use no more cores (affinity, quota, OMP_NUM_THREADS)")
    if rounds is not None and not 1 <= rounds <= 1000:
        raise RequestError(f"--rounds {rounds}: give 1 to 1000")
    check_writable("--json", json / "results.json" if json and json.is_dir() else json)
    return Options(
        model=model,
        architecture=architecture,
        only=chosen,
        steps=() if steps is None else tuple(sorted(numbers("--steps", steps, 1, 1000))),
        batch=BATCHES if batch is None else tuple(sorted(numbers("--batch", batch, 1, LARGEST_BATCH))),
        sizes=() if sizes is None else numbers("--size", sizes, 64, 2048),
        threads=threads or there,
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
        warmup=1 if quick else 2,
        backend=backend,
        quick=quick,
        json=json,
    )


def numbers(option: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """The whole numbers of "1,2,4", each once. Raises RequestError on anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and len(part) < 6 and least <= int(part) <= most for part in parts):
        raise RequestError(f"{option} {text!r}: give whole numbers from {least} to {most}, separated by commas")
    return tuple(dict.fromkeys(map(int, parts)))


def check_installed() -> None:
    """Raises RequestError unless there is what the benchmark compares with."""
    if missing := [package for package in ("torch", "diffusers") if find_spec(package) is None]:
        raise RequestError(f"bench compares with diffusers, and {listed(missing)} is not installed: python -m pip install 'fewstep[sdxl]'")


def open_checked(options: Options) -> tuple[Model, Options]:
    """(the model that ``options`` name, the options with what it decides filled in).

    Raises RequestError if it cannot be compared or lacks one of the step counts or sizes, ModelError if it is not there.
    """
    opened = open_model(options.model)
    limits = opened.limits
    if Path(options.model).is_file():
        raise RequestError(f"{options.model} is one file of weights: give --model the folder of its model, which diffusers can open too")
    if not limits.students:
        raise RequestError(f"{limits.name} has no few-step weights, so there is nothing to measure: give --model one that has")
    if missing := [steps for steps in options.steps if steps not in limits.students]:
        raise RequestError(f"--steps {missing[0]}: {limits.name} has weights for {listed(limits.students)} steps; its teacher is part of 'standard'")
    for side in options.sizes:
        limits.check_size(side, side)
    steps = options.steps or tuple(steps for steps in STEPS if steps in limits.students) or limits.students
    return opened, replace(options, steps=steps, sizes=options.sizes or (limits.native,))
