"""Buckets have one area, sizes the model can have, and the shares that are written beside them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.data.buckets import BUCKETS, SQUARE_SHARE, bucket


@pytest.mark.parametrize(("width", "height"), BUCKETS)
def test_sizes(width: int, height: int) -> None:
    assert width % 16 == 0 and height % 16 == 0
    assert width * height == pytest.approx(256 * 256, rel=0.02)
    assert (height, width) in BUCKETS  # every landscape has its portrait


def test_shares() -> None:
    draws = 100_000
    counts = Counter(bucket((index + 0.5) / draws) for index in range(draws))
    assert counts[256, 256] / draws == pytest.approx(SQUARE_SHARE, abs=1e-4)
    for size in BUCKETS[1:]:
        assert counts[size] / draws == pytest.approx((1 - SQUARE_SHARE) / (len(BUCKETS) - 1), abs=1e-4)


@given(st.floats(0, 1, exclude_max=True))
def test_every_draw_falls_into_a_bucket(draw: float) -> None:
    assert bucket(draw) in BUCKETS
