"""The schedule against closed forms in float64 and against diffusers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep import schedule
from fewstep.schedule import CLEAN, add_noise, alpha_bar, alphas_cumprod, move, pairs, split, start_scale, trailing_timesteps, v_from

TIMESTEPS = st.integers(0, 999)
VALUES = st.floats(-5, 5, allow_nan=False)
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def output_of(prediction_type: str, x0: float, epsilon: float, a: float) -> float:
    """What a perfect network answers."""
    return {"epsilon": epsilon, "sample": x0, "v_prediction": v_from(x0, epsilon, a)}[prediction_type]


def test_table_is_sdxls() -> None:
    table = alphas_cumprod()
    assert table.dtype == np.float64 and table.shape == (1000,)
    assert np.all(np.diff(table) < 0)
    assert table[0] == 1 - 0.00085
    log_sum = sum(math.log1p(-((math.sqrt(0.00085) + i / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2)) for i in range(1000))
    assert table[999] == pytest.approx(math.exp(log_sum), rel=1e-12)
    # what the method's notes list for the paper's timesteps 1000, 750, 500, 250 and 10
    assert [round(float(table[t]), 4) for t in (999, 749, 499, 249, 9)] == [0.0047, 0.0566, 0.2777, 0.6754, 0.9913]


def test_table_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        alphas_cumprod()[0] = 1.0


def test_clean_has_no_noise() -> None:
    assert alpha_bar(CLEAN) == 1.0
    assert add_noise(3.0, 100.0, alpha_bar(CLEAN)) == 3.0


def test_start_scale() -> None:
    assert start_scale() == pytest.approx(0.9977, abs=5e-5)
    assert start_scale() == pytest.approx(14.6146 / math.hypot(14.6146, 1), abs=1e-6)  # σ / √(1 + σ²), as diffusers' Euler starts
    assert start_scale(499) ** 2 + alpha_bar(499) == pytest.approx(1, abs=1e-15)


def test_trailing_timesteps_of_the_few_step_models() -> None:
    assert trailing_timesteps(1) == [999]
    assert trailing_timesteps(2) == [999, 499]
    assert trailing_timesteps(4) == [999, 749, 499, 249]
    assert trailing_timesteps(8) == [999, 874, 749, 624, 499, 374, 249, 124]


@given(st.integers(1, 1000))
def test_trailing_timesteps_start_at_T_and_fall(steps: int) -> None:
    times = trailing_timesteps(steps)
    assert len(times) == steps and times[0] == 999 and times[-1] >= 0
    assert all(later < earlier for earlier, later in zip(times, times[1:], strict=False))
    assert max(abs(t + 1 - 1000 * (steps - i) / steps) for i, t in enumerate(times)) <= 0.5 + 1e-9


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps = {steps}"):
        trailing_timesteps(steps)


def test_pairs_lead_to_clean() -> None:
    assert pairs([999, 749, 499, 249]) == [(999, 749), (749, 499), (499, 249), (249, CLEAN)]
    assert pairs((999,)) == [(999, CLEAN)]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 16, 25, 32, 50, 128])
def test_agrees_with_diffusers(steps: int) -> None:
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    euler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing")
    np.testing.assert_allclose(euler.alphas_cumprod.numpy(), alphas_cumprod(), rtol=2e-5)
    euler.set_timesteps(steps)
    assert euler.timesteps.tolist() == trailing_timesteps(steps)
    first_input = float(euler.init_noise_sigma) / math.sqrt(float(euler.sigmas[0]) ** 2 + 1)  # scale_model_input of unit noise
    assert first_input == pytest.approx(start_scale(), abs=1e-5)


@given(TIMESTEPS, VALUES, VALUES)
def test_every_prediction_type_splits_into_what_was_mixed(t: int, x0: float, epsilon: float) -> None:
    a = alpha_bar(t)
    x = add_noise(x0, epsilon, a)
    for prediction_type in PREDICTIONS:
        got = split(x, output_of(prediction_type, x0, epsilon, a), a, prediction_type)  # type: ignore[arg-type]
        assert got == pytest.approx((x0, epsilon), abs=1e-9)


@given(TIMESTEPS, VALUES, VALUES)
def test_round_trips_between_predictions(t: int, x: float, output: float) -> None:
    """Whatever the network answers, turning it into (x0, ε) and back loses nothing."""
    a = alpha_bar(t)
    for prediction_type in PREDICTIONS:
        x0, epsilon = split(x, output, a, prediction_type)  # type: ignore[arg-type]
        assert add_noise(x0, epsilon, a) == pytest.approx(x, abs=1e-9)
        assert output_of(prediction_type, x0, epsilon, a) == pytest.approx(output, abs=1e-9)
    assert schedule.x0_from_epsilon(x, schedule.epsilon_from_x0(x, output, a), a) == pytest.approx(output, abs=1e-9)


@given(TIMESTEPS, VALUES, VALUES)
def test_velocity_is_a_rotation(t: int, x0: float, epsilon: float) -> None:
    """(x_t, v) is (x0, ε) turned by an angle, so the length is kept."""
    a = alpha_bar(t)
    x, v = add_noise(x0, epsilon, a), v_from(x0, epsilon, a)
    assert x**2 + v**2 == pytest.approx(x0**2 + epsilon**2, abs=1e-9)


@given(TIMESTEPS, TIMESTEPS, TIMESTEPS, VALUES, VALUES)
def test_moves_along_one_line_compose(first: int, second: int, third: int, x0: float, epsilon: float) -> None:
    """Where the network answers the same ε, two moves are one move (equation 5)."""
    a, b, c = (alpha_bar(t) for t in (first, second, third))
    x = add_noise(x0, epsilon, a)
    assert move(move(x, epsilon, a, b), epsilon, b, c) == pytest.approx(move(x, epsilon, a, c), abs=1e-9)
    assert move(x, epsilon, a, b) == pytest.approx(add_noise(x0, epsilon, b), abs=1e-9)


@given(TIMESTEPS, TIMESTEPS, VALUES, VALUES)
def test_move_is_eulers_step_in_sigma(t: int, t_next: int, x: float, epsilon: float) -> None:
    """In y = x / √ᾱ and σ = √((1 - ᾱ) / ᾱ) the move is y + (σ' - σ)·ε."""
    a, b = alpha_bar(t), alpha_bar(t_next)
    sigma, sigma_next = math.sqrt((1 - a) / a), math.sqrt((1 - b) / b)
    assert move(x, epsilon, a, b) / math.sqrt(b) == pytest.approx(x / math.sqrt(a) + (sigma_next - sigma) * epsilon, abs=1e-8)


def test_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'noise' is none of"):
        split(0.0, 0.0, 0.5, "noise")  # type: ignore[arg-type]
