"""This engine against diffusers' pipeline: the same weights, noise, scheduler, type and threads, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fewstep.bench.check import Check
from fewstep.bench.clock import interleave, ratio
from fewstep.bench.options import Options
from fewstep.bench.pixels import FLAT, psnr
from fewstep.bench.sides import FULL, TINY, Question, Setting, Sides, images, ours, theirs
from fewstep.bench.table import Section

Tell = Callable[[str], None]


def compare(sides: Sides, options: Options, tell: Tell) -> Iterator[Section]:
    """The table "compare": a row for each size, batch, number of steps and decoder. Interrupted, it has those that were finished."""
    decoders, notes = sides.decoders(options.sizes[0])
    settings = [Setting(steps, batch, side) for batch in options.batch for side in options.sizes for steps in options.steps]
    rows: list[dict[str, Any]] = []
    flattest = FLAT
    try:
        for setting in settings:
            tell(f"compare: {setting.side} px, batch {setting.batch}, {setting.steps} steps")
            found, contrast = compare_one(sides, setting, decoders, options)
            rows += found
            flattest = min(flattest, contrast)
    finally:
        if flattest < FLAT:
            notes.append(f"some pictures are nearly flat (a standard deviation of {flattest:.1f} of 255), and their comparison says little")
        if rows:
            yield Section("compare", tuple(rows), tuple(notes))


def compare_one(sides: Sides, setting: Setting, decoders: list[str], options: Options) -> tuple[list[dict[str, Any]], float]:
    """(a row for each decoder, the least standard deviation of diffusers' pictures) for one setting."""
    work: dict[str, Callable[[Question], Any]] = {FULL: ours(sides.engine(FULL), setting), "diffusers": theirs(sides.pipeline(setting.steps), setting)}
    work["cached full"] = work[FULL]
    if TINY in decoders:
        work[TINY] = work["cached tiny"] = ours(sides.engine(TINY), setting)
    check = Check(sides.dtype, options.threads if sides.device == "cpu" else None)
    fidelity: list[float] = []
    backends: dict[str, str] = {}

    def look(counted: bool, given: Mapping[str, Question], made: dict[str, Any]) -> None:
        check.see(FULL, made[FULL], made["diffusers"])
        check.see(FULL, made["cached full"], made["diffusers"])
        backends.update({decoder: made[decoder][0].record.backend for decoder in decoders})
        if TINY in made and counted:
            fidelity.append(psnr(images(made[TINY]), made["diffusers"]))
        elif TINY in made:  # as slow as eager torch is, once is enough
            right = sides.eagerly(setting)(given[TINY])
            for name in (TINY, "cached tiny"):
                check.see(TINY, made[name], right)

    times = interleave(work, lambda: dict.fromkeys(work, sides.questions(setting.batch)), options.rounds, options.warmup, look)
    base = times["diffusers"]
    rows = []
    for decoder in decoders:
        own, cached, failed = times[decoder], times[f"cached {decoder}"], check.failure(decoder)
        rows.append(
            {
                "side": setting.side,
                "batch": setting.batch,
                "steps": setting.steps,
                "decoder": decoder,
                "backend": backends[decoder],
                "ours_ms": 1000 * own.median,
                "ours_p95_ms": 1000 * own.p95,
                "cached_ms": 1000 * cached.median,
                "diffusers_ms": 1000 * base.median,
                "diffusers_p95_ms": 1000 * base.p95,
                "ratio": None if failed else ratio(base, own),
                "psnr": float(np.median(fidelity)) if decoder == TINY else None,
                **check.row(decoder),
            }
        )
    return rows, check.contrast
