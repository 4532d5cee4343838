"""Arithmetic of rows: percent of the roofline, what evaluations allow, and how cost grows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fewstep.bench.clock import Series, ratio
from fewstep.bench.floors import Cost
from fewstep.bench.growth import batches, sizes, speed
from fewstep.bench.laps import Laps
from fewstep.bench.peaks import Peaks
from fewstep.bench.stages import peaks_section, row
from fewstep.bench.standard import predicted
from fewstep.engine.request import Limits


def test_of_the_roofline_is_the_floor_over_the_median() -> None:
    """20 GFLOP at a peak of 100 GFLOP/s and 4 GB at 10 GB/s: memory binds at 0.4 s, and 0.8 s were taken."""
    peaks = Peaks(flops=100e9, bandwidth=10e9)
    found = row({"stage": "text"}, Series((0.8, 0.7, 0.9)), Cost(20_000_000_000, 4_000_000_000), peaks)
    assert (found["gflop"], found["megabytes"], found["bound"]) == (20.0, 4000.0, "memory")
    assert [found[key] for key in ("ms", "gflops", "of_peak", "floor_ms", "of_floor")] == pytest.approx([800.0, 25.0, 0.25, 400.0, 0.5])


def test_a_stage_that_cannot_be_counted_has_no_floor() -> None:
    assert row({"stage": "decode tiny"}, Series((0.5,)), None, Peaks(1.0, 1.0)) == {"stage": "decode tiny", "ms": 500.0, "p95_ms": 500.0}


def test_peaks_are_shown_in_billions() -> None:
    assert [dict(line) for line in peaks_section(Peaks(9e10, 1.2e10)).rows] == [
        {"what": "matrix product", "gflops": 90.0},
        {"what": "copy", "gigabytes": 12.0},
    ]


def test_what_evaluations_allow() -> None:
    """100 evaluations of 10 ms, 5 ms of text and 45 of decoding: four evaluations take 90 ms, and 1050 / 90 is what they allow."""
    least = predicted(Series((0.005,)), Series((1.0,)), Series((0.045,)), 4)
    assert least.seconds == pytest.approx((0.09,))
    assert ratio(Series((1.05,)), least) == pytest.approx(1.05 / 0.09)


def test_laps_are_those_of_the_whole_batch_in_rounds_that_count() -> None:
    def picture(**timings: float) -> SimpleNamespace:
        return SimpleNamespace(timings={"text": 1.0, "denoise": 2.0, "decode": 3.0, **timings})

    laps = Laps()
    laps(False, {}, {"a": [picture(denoise=1000.0)], "other": [object()]})
    laps(True, {}, {"a": [picture(), picture(denoise=4.0)], "other": [object()]})
    laps(True, {}, {"a": [picture(), picture()], "other": [object()]})
    assert laps.of("a", "denoise").seconds == pytest.approx((0.006, 0.004))
    assert laps.of("a", "decode").seconds == pytest.approx((0.006, 0.006))


def test_speed_is_that_of_the_whole_batch() -> None:
    assert speed(Series((2.0, 1.0, 4.0)), 8) == pytest.approx({"ms": 2000.0, "p95_ms": 3800.0, "ms_a_picture": 250.0, "pictures_per_second": 4.0})


def test_sizes_double_as_far_as_the_model_goes() -> None:
    def limits(factor: int, native: int) -> Limits:
        return Limits("a model", factor, native, (1, 4), True, 4)

    assert sizes(limits(16, 256)) == [64, 128, 256, 512]
    assert sizes(limits(8, 1024)) == [256, 512, 1024, 2048]
    assert sizes(limits(16, 96)) == [96, 192], "under 64 pixels, and off the grid, it makes none"
    assert batches() == [1, 2, 4, 8, 16, 32]
