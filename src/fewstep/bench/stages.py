"""Every stage of a picture against its floor: what its operations and bytes allow on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fewstep.bench.clock import Series, interleave
from fewstep.bench.floors import Cost, Networks
from fewstep.bench.laps import Laps
from fewstep.bench.options import Options
from fewstep.bench.peaks import Peaks, measure
from fewstep.bench.sides import FULL, TINY, Question, Setting, Sides, ours
from fewstep.bench.table import Section


def measure_stages(sides: Sides, options: Options, tell: Callable[[str], None]) -> Iterator[Section]:
    """Two tables: "peaks", what the machine does at most, and "stages", a row for each stage, size, batch and number of steps.

    Interrupted, they have what was finished.
    """
    tell("stages: what this machine can do")
    peaks = measure(sides.device, sides.dtype)
    networks = Networks.of(sides.model.folder, sides.dtype)
    decoders, notes = sides.decoders(options.sizes[0])
    found = []
    try:
        for side in options.sizes:
            for batch in options.batch:
                tell(f"stages: {side} px, batch {batch}")
                found += timed(sides, options, decoders, side, batch)
        peaks = peaks.better(measure(sides.device, sides.dtype))
    finally:
        if networks.tiny is None and TINY in decoders:
            notes.append("the tiny decoder's operations cannot be counted, and its row has no floor")
        yield peaks_section(peaks)
        yield Section("stages", tuple(row(part, times, cost_of(networks, part), peaks) for part, times in found), tuple(notes))


def timed(sides: Sides, options: Options, decoders: list[str], side: int, batch: int) -> list[tuple[dict[str, Any], Series]]:
    """(what, its seconds) of each stage: text and decoders once, the UNet at each number of steps."""
    work: dict[str, Callable[[Question], Any]] = {str(steps): ours(sides.engine(FULL), Setting(steps, batch, side)) for steps in options.steps}
    first = str(options.steps[0])
    if TINY in decoders:
        work[TINY] = ours(sides.engine(TINY), Setting(options.steps[0], batch, side))
    laps = Laps()
    interleave(work, lambda: {name: sides.questions(batch) for name in work}, options.rounds, options.warmup, laps)

    def part(stage: str, name: str, **more: Any) -> tuple[dict[str, Any], Series]:
        return {"stage": stage, "side": side, "batch": batch, **more}, laps.of(name, stage.split()[0])

    found = [part("text", first), *(part("denoise", str(steps), steps=steps) for steps in options.steps), part("decode full", first)]
    return found + ([part("decode tiny", TINY)] if TINY in decoders else [])


def cost_of(networks: Networks, part: dict[str, Any]) -> Cost | None:
    """What the networks of one part do, None where that cannot be counted."""
    batch, side = part["batch"], part["side"]
    if part["stage"] == "text":
        return networks.encode(batch)
    if part["stage"] == "denoise":
        return networks.denoise(batch, side) * int(part["steps"])
    decoder = part["stage"].split()[1]
    return None if decoder == TINY and networks.tiny is None else networks.decode(batch, side, decoder)


def row(part: dict[str, Any], times: Series, cost: Cost | None, peaks: Peaks) -> dict[str, Any]:
    """A row of the table "stages". Of the roofline is the floor over the median."""
    found = {**part, "ms": 1000 * times.median, "p95_ms": 1000 * times.p95}
    if cost is None:
        return found
    reached, floor = cost.flops / times.median, cost.floor(peaks)
    return {
        **found,
        "gflop": cost.flops / 1e9,
        "megabytes": cost.bytes / 1e6,
        "gflops": reached / 1e9,
        "of_peak": reached / peaks.flops,
        "floor_ms": 1000 * floor,
        "of_floor": floor / times.median,
        "bound": cost.bound(peaks),
    }


def peaks_section(peaks: Peaks) -> Section:
    """The table "peaks"."""
    return Section("peaks", ({"what": "matrix product", "gflops": peaks.flops / 1e9}, {"what": "copy", "gigabytes": peaks.bandwidth / 1e9}))
