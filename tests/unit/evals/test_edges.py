"""How well edges agree: closed forms."""

from __future__ import annotations

import numpy as np

from fewstep.evals.edges import f1


def lines(*columns: int) -> np.ndarray:
    found = np.zeros((20, 40), bool)
    found[:, list(columns)] = True
    return found


def test_what_lies_within_the_tolerance_agrees() -> None:
    assert f1(lines(10), lines(10)) == f1(lines(12), lines(10)) == f1(lines(8), lines(10)) == 1.0
    assert f1(lines(13), lines(10)) == 0.0
    assert f1(lines(13), lines(10), tolerance=3) == 1.0


def test_it_is_the_harmonic_mean_of_precision_and_recall() -> None:
    assert f1(lines(10, 20, 30), lines(10)) == 2 * (1 / 3) / (1 / 3 + 1)
    assert f1(lines(10), lines(10, 20, 30)) == f1(lines(10, 20, 30), lines(10))
    assert (f1(lines(), lines()), f1(lines(), lines(3)), f1(lines(3), lines())) == (1.0, 0.0, 0.0)
