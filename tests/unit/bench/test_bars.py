"""Which figures are held against which bars."""

from __future__ import annotations

from fewstep.bench.bars import accelerator_bars, processor_bars
from fewstep.bench.results import Bar
from fewstep.bench.table import Section


def compared(side: int, batch: int, steps: int, decoder: str, ratio: float | None, cached_ms: float = 10.0) -> dict[str, object]:
    failed = None if ratio is not None else "wrong"
    return {"side": side, "batch": batch, "steps": steps, "decoder": decoder, "ratio": ratio, "cached_ms": cached_ms, "failed": failed}


def test_single_pictures_of_the_native_size_count() -> None:
    rows = (
        compared(256, 1, 1, "full", 2.1),
        compared(256, 8, 1, "full", 1.1),
        compared(128, 1, 1, "full", 1.2),
        compared(256, 1, 2, "full", 1.3),
        compared(256, 1, 4, "full", 1.6),
        compared(256, 1, 1, "tiny", 3.0),
    )
    found = processor_bars([Section("compare", rows)], 256)
    assert [(bar.value, bar.needed, bar.met) for bar in found] == [(2.1, 2.0, True), (1.6, 1.7, False), (3.0, 2.5, True)]


def test_a_row_that_failed_reaches_nothing() -> None:
    assert processor_bars([Section("compare", (compared(256, 1, 1, "full", None),))], 256) == []
    assert accelerator_bars([Section("compare", (compared(1024, 1, 1, "tiny", None),))]) == []


def test_the_worst_number_of_steps_is_held_against_the_denoising_bar() -> None:
    rows = [{"stage": "denoise", "side": 256, "batch": batch, "steps": steps, "of_peak": 0.1 * batch + 0.01 * steps} for batch in (1, 8) for steps in (1, 4)]
    rows.append({"stage": "decode full", "side": 256, "batch": 1, "of_peak": 0.55})
    found = processor_bars([Section("stages", tuple(rows))], 256)
    assert [(round(bar.value, 2), bar.needed) for bar in found] == [(0.11, 0.25), (0.81, 0.45), (0.55, 0.6)]


def test_start_up_and_latency_must_stay_under_theirs() -> None:
    startup = Section("startup", ({"what": "fewstep generate, warm", "seconds": 1.5, "megabytes": 401.0},))
    assert processor_bars([startup], 256) == [Bar("process start to file, warm: seconds", 1.5, 2.0, True), Bar("the same: MB", 401.0, 400.0, True)]
    assert [bar.met for bar in processor_bars([startup], 256)] == [True, False]
    found = accelerator_bars([Section("compare", (compared(1024, 1, 4, "full", 3.0, cached_ms=95.0), compared(512, 1, 4, "full", 3.0)))])
    assert [(bar.value, bar.needed, bar.met) for bar in found] == [(95.0, 90.0, False)]


def test_batches_of_eight_must_be_worth_it() -> None:
    rows = (compared(1024, 1, 4, "full", 3.0, cached_ms=80.0), compared(1024, 8, 4, "full", 3.0, cached_ms=320.0), compared(512, 8, 4, "full", 3.0))
    found = accelerator_bars([Section("compare", rows)])
    assert [(bar.value, bar.needed, bar.at_most) for bar in found] == [(80.0, 90.0, True), (2.0, 1.3, False)]
