"""The noise of a seed is torch's, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.engine.noise import Noise
from fewstep.engine.request import SEEDS

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def check(seed: int, *shapes: tuple[int, ...]) -> None:
    """Draws in ``shapes``, one after another, against torch's."""
    noise, generator = Noise(seed), torch.Generator("cpu").manual_seed(seed)
    for shape in shapes:
        drawn, expected = noise.draw(shape), torch.randn(shape, generator=generator).numpy()
        assert (drawn.dtype, drawn.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(drawn, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, SEEDS - 1), st.lists(SHAPES, min_size=1, max_size=5))
def test_draws_in_a_row_are_torchs(seed: int, shapes: list[tuple[int, ...]]) -> None:
    check(seed, *shapes)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**32 + 7, SEEDS - 1])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (1, 4, 21, 12), (1, 4, 128, 128), (16,), (17,), (31,), (15,), (1,), (0,), ()])
def test_seeds_and_sizes_at_the_edges(seed: int, shape: tuple[int, ...]) -> None:
    check(seed, shape, shape)


def test_a_single_draw_keeps_its_second_number_beyond_a_large_one() -> None:
    check(3, (1,), (64,), (1,), (2,), (100,), (3,))


def test_only_the_low_half_of_a_seed_counts_as_in_torch() -> None:
    assert np.array_equal(Noise(5).draw((64,)), Noise(5 + 2**32).draw((64,)))


def test_it_is_standard_normal() -> None:
    drawn = Noise(0).draw((1 << 18,)).astype(np.float64)
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 4 / math.sqrt(drawn.size)
    assert abs(drawn.std() - 1) < 4 / math.sqrt(2 * drawn.size)
