"""Peaks: the best of several tries, and what must hold of any machine."""

from __future__ import annotations

import pytest

from fewstep.bench import peaks
from fewstep.bench.peaks import Peaks, best


def test_the_best_try_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((0.0, 0.1, 1.0, 4.0, 5.0, 7.0, 10.0, 15.0))  # tries of 0.1, 3, 2 and 5 seconds
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: next(ticks))
    waited: list[None] = []
    assert best(lambda: None, lambda: waited.append(None), 3) == 2.0
    assert len(waited) == 8, "what an accelerator still has to do belongs to the try before"


def test_of_two_measurements_the_greater_is_the_peak() -> None:
    assert Peaks(10.0, 7.0).better(Peaks(9.0, 8.0)) == Peaks(10.0, 8.0)


def test_a_peak_is_no_less_than_any_product_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations over seconds, with times that are known: 2·side³ in the least time of each side."""
    monkeypatch.setitem(peaks.SIDES, "cpu", (8, 16))
    monkeypatch.setitem(peaks.BUFFER, "cpu", 1024)
    seconds = iter((1.0, 2.0, 0.5))
    monkeypatch.setattr(peaks, "best", lambda work, wait, tries: next(seconds))
    assert peaks.measure() == Peaks(flops=max(2 * 8**3 / 1.0, 2 * 16**3 / 2.0), bandwidth=2 * 1024 / 0.5)
