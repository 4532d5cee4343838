"""The noise of a seed is torch's, number by number."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.engine.noise import Draws, Noise, drawing, slerp
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


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_between_two_noises_lies_noise_as_large(share: float) -> None:
    first, second = Noise(1).draw((1, 16, 16, 16)), Noise(2).draw((1, 16, 16, 16))
    between = slerp(first, second, share)
    assert between.dtype == np.float32
    assert between.std() == pytest.approx(1, abs=0.03), "on a straight line it would be 0.71 in the middle"

    def angle(one: np.ndarray, other: np.ndarray) -> float:
        return math.acos((one * other).sum() / math.sqrt((one * one).sum() * (other * other).sum()))

    assert angle(first, between) == pytest.approx(share * angle(first, second), abs=0.03)


def test_the_ends_of_the_way_are_exact_and_the_same_noise_goes_nowhere() -> None:
    first, second = Noise(1).draw((4, 9)), Noise(2).draw((4, 9))
    assert np.array_equal(slerp(first, second, 0), first) and np.array_equal(slerp(first, second, 1), second)
    np.testing.assert_allclose(slerp(first, first, 0.3), first, atol=1e-6)
    assert np.isfinite(slerp(first, -first, 0.5)).all()


def test_every_draw_lies_between_those_of_both_seeds() -> None:
    draw, far = drawing(1, [(2, 1.0)]), Noise(2)
    for shape in ((4, 5), (3, 7)):
        assert np.array_equal(draw(shape), far.draw(shape))


def test_variations_lead_on_from_where_the_last_one_led() -> None:
    shape = (1, 4, 16, 16)
    first, second, third = (Noise(seed).draw(shape) for seed in (1, 2, 3))
    assert np.array_equal(drawing(1, [(2, 0.3), (3, 0.6)])(shape), slerp(slerp(first, second, 0.3), third, 0.6))
    assert np.array_equal(drawing(1, [(2, 0.3), (3, 1.0)])(shape), third), "all of the way leaves nothing of what was before"
    assert np.array_equal(drawing(1, [(2, 0.0), (3, 0.0)])(shape), drawing(1)(shape)) and np.array_equal(drawing(1)(shape), first)


def test_variations_stay_as_large_as_noise_and_near_to_the_last_of_them() -> None:
    shape, way = (1, 4, 64, 64), [(seed, 0.3) for seed in range(2, 12)]
    begun, before, last = (drawing(1, way[:count])(shape) for count in (0, 9, 10))
    assert last.std() == pytest.approx(1, abs=0.03)
    correlation = [float((last * one).mean()) for one in (before, begun)]
    assert correlation == pytest.approx([math.cos(0.15 * math.pi), math.cos(0.15 * math.pi) ** 10], abs=0.03), "0.3 of a right angle each"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_the_kth_draw_is_the_kth_whatever_was_asked_before(order: list[int]) -> None:
    """Each picture's draws are those of its own torch generator, in the order that a pipeline of diffusers draws them."""
    shape, seeds = (1, 4, 6, 5), (7, 8)
    draws = Draws([partial(drawing, seed) for seed in seeds], shape)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    expected = [torch.cat([torch.randn(shape, generator=generator) for generator in generators]).numpy() for _ in range(5)]
    for k in order:
        np.testing.assert_allclose(draws(k), expected[k], atol=1e-5, rtol=1e-5)
