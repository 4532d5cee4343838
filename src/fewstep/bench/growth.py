"""How cost grows: with the size of the pictures, with how many are asked for at once, and with the number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fewstep.bench.clock import Series, interleave
from fewstep.bench.laps import Laps
from fewstep.bench.options import LARGEST_BATCH, Options
from fewstep.bench.sides import FULL, Question, Setting, Sides, ours
from fewstep.bench.table import Section
from fewstep.engine.request import Limits, RequestError


def growth(sides: Sides, options: Options, tell: Callable[[str], None]) -> list[Section]:
    """Three tables: "growth_size" and "growth_batch" at the engine's default number of steps, "growth_steps"; each in one race."""
    limits = sides.model.limits
    steps, side = limits.default_steps, limits.native
    races: dict[str, tuple[str, Mapping[int, Setting]]] = {
        "growth_size": ("side", {each: Setting(steps, 1, each) for each in sizes(limits)}),
        "growth_batch": ("batch", {each: Setting(steps, each, side) for each in batches()}),
        "growth_steps": ("steps", {each: Setting(each, 1, side) for each in limits.students}),
    }
    found = []
    for name, (column, settings) in races.items():
        tell(f"growth: with {column}")
        fixed = {"growth_size": f"batch 1, {steps} steps", "growth_batch": f"{side} px, {steps} steps", "growth_steps": f"{side} px, batch 1"}[name]
        found.append(Section(name, tuple(race(sides, options, column, settings)), (fixed,)))
    return found


def sizes(limits: Limits) -> list[int]:
    """Sides from a quarter of the native one to twice it, doubling, that the model can do."""
    there = []
    for side in (limits.native // 4, limits.native // 2, limits.native, 2 * limits.native):
        try:
            limits.check_size(side, side)
        except RequestError:
            continue
        there.append(side)
    return there


def batches() -> list[int]:
    """1, 2, 4 … 32."""
    return [2**power for power in range(LARGEST_BATCH.bit_length())]


def race(sides: Sides, options: Options, column: str, settings: Mapping[int, Setting]) -> list[dict[str, Any]]:
    """A row for each setting, in turn in every round: ``column`` tells them apart."""
    work = {str(value): ours(sides.engine(FULL), setting) for value, setting in settings.items()}
    laps = Laps()

    def give() -> dict[str, Question]:
        return {str(value): sides.questions(setting.batch) for value, setting in settings.items()}

    times = interleave(work, give, options.rounds, options.warmup, laps)
    rows = []
    for value, setting in settings.items():
        name = str(value)
        spent = {f"{stage}_ms": 1000 * laps.of(name, stage).median for stage in ("text", "denoise", "decode")}
        rows.append({column: value, **speed(times[name], setting.batch), **spent})
    return [{**row, "relative": row["pictures_per_second"] / rows[0]["pictures_per_second"]} for row in rows]


def speed(times: Series, batch: int) -> dict[str, Any]:
    """Milliseconds of the whole batch and of a picture, and pictures a second."""
    seconds = times.median
    return {"ms": 1000 * seconds, "p95_ms": 1000 * times.p95, "ms_a_picture": 1000 * seconds / batch, "pictures_per_second": batch / seconds}
