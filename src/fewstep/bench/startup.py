"""Start-up: from the start of a process to a picture in a file, cold and warm, here and with diffusers; and what importing takes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.bench.clock import Series, quantile
from fewstep.bench.memory import DIFFUSERS, asked, environment
from fewstep.bench.options import Options
from fewstep.bench.process import Child, ChildError, run_child
from fewstep.bench.sides import Sides
from fewstep.bench.table import Section

COLD, WARM, OTHER = "fewstep generate, cold", "fewstep generate, warm", "diffusers, from_pretrained"
CACHES = ("XDG_CACHE_HOME",)  # where compiled artefacts would be kept
MOST_RUNS = 5


def startup(sides: Sides, options: Options, tell: Callable[[str], None]) -> list[Section]:
    """The table "startup": a row for each program, its median and p95 in seconds and its median peak of memory, in turn."""
    steps, side = options.steps[0], max(options.sizes)
    runs: dict[str, list[Child]] = {}
    failed: dict[str, str] = {}
    for turn in range(min(options.rounds, MOST_RUNS)):
        tell(f"startup: run {turn + 1}")
        with tempfile.TemporaryDirectory() as folder:
            caches = dict.fromkeys(CACHES, str(Path(folder) / "cache"))
            for name, command in programs(sides, steps, side, Path(folder)).items():
                try:
                    runs.setdefault(name, []).append(run_child(command, environment(**caches)))
                except ChildError as error:
                    failed[name] = str(error)
    rows = [row(name, done) for name, done in runs.items() if name not in failed]
    rows += [{"what": name, "failed": sentence} for name, sentence in failed.items()]
    return [Section("startup", tuple(rows))]


def programs(sides: Sides, steps: int, side: int, folder: Path) -> dict[str, list[str]]:
    """The command of each row. Cold comes before warm, which finds what it left behind."""
    python, command = [sys.executable], [sys.executable, "-m", "fewstep"]
    generate = [*command, "generate", "a red apple on a blue background", "--seed", "1", "--steps", str(steps), "--size", f"{side}x{side}"]
    generate += ["--model", sides.name, "--out", str(folder / "picture.png")]
    generate += ["--backend", sides.backend] if sides.backend != "auto" else []
    argument = asked(sides, sides.exported(steps), steps, side, out=folder / "other.png")
    return {
        COLD: generate,
        WARM: generate,
        OTHER: [*python, "-c", DIFFUSERS, argument],
        "fewstep --help": [*command, "--help"],
        "import fewstep": [*python, "-c", "import fewstep"],
        "python alone": [*python, "-c", ""],
    }


def row(name: str, done: list[Child]) -> dict[str, Any]:
    """A row of the table."""
    times = Series(tuple(child.seconds for child in done))
    peak = quantile([child.peak for child in done], 0.5)
    return {"what": name, "seconds": times.median, "p95_seconds": times.p95, "megabytes": peak / 1e6, "runs": len(done)}
