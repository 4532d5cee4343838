"""The sampler on data whose flow is known: for Gaussian data the perfect denoiser is linear and the flow has a closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fewstep.sampler import Frame, sample
from fewstep.schedule import (
    CLEAN,
    add_noise,
    alpha_bar,
    alphas_cumprod,
    ancestral_shares,
    boundary_scales,
    epsilon_from_x0,
    pairs,
    start_scale,
    trailing_timesteps,
    trajectory_shares,
    v_from,
)

MEAN, SPREAD = 1.5, 0.4


def perfect(prediction_type: str = "epsilon") -> Callable[[Any, int], Any]:
    """E[x0 | x_t] for data N(MEAN, SPREAD²), as the network of this prediction type would say it."""

    def denoise(x: Any, t: int) -> Any:
        a = alpha_bar(t)
        x0 = MEAN + a**0.5 * SPREAD**2 / (a * SPREAD**2 + 1 - a) * (x - a**0.5 * MEAN)
        epsilon = epsilon_from_x0(x, x0, a)
        return {"epsilon": epsilon, "sample": x0, "v_prediction": v_from(x0, epsilon, a)}[prediction_type]

    return denoise


def flow(x: Any, t: int, t_next: int) -> Any:
    """The exact flow of N(MEAN, SPREAD²): the standardised x_t is constant."""
    a, b = alpha_bar(t), alpha_bar(t_next)
    return b**0.5 * MEAN + ((b * SPREAD**2 + 1 - b) / (a * SPREAD**2 + 1 - a)) ** 0.5 * (x - a**0.5 * MEAN)


def walk(denoise: Callable[[Any, int], Any], noise: Any, times: list[tuple[int, int]], **settings: Any) -> list[Frame]:
    settings = {"prediction_type": "epsilon", "start_scale": start_scale(), **settings}
    return list(sample(denoise, noise, times, **settings))


def along(levels: list[int]) -> list[tuple[int, int]]:
    return list(zip(levels, levels[1:], strict=False))


NOISE = np.random.default_rng(0).standard_normal(64)


def test_many_steps_reach_the_end_of_the_flow() -> None:
    end = flow(start_scale() * NOISE, 999, CLEAN)
    few, many = (np.abs(walk(perfect(), NOISE, pairs(trailing_timesteps(steps)))[-1].latents - end).max() for steps in (250, 1000))
    assert many < 0.007 < 0.018 < few


def test_error_falls_with_the_first_power_of_the_step() -> None:
    """Euler's method in σ: half the step, half the error. On t = 999 .. 99, where the schedule is smooth and every grid is exact."""

    def error(stride: int) -> float:
        levels = list(range(999, 98, -stride))
        return float(np.abs(walk(perfect(), NOISE, along(levels))[-1].latents - flow(start_scale() * NOISE, 999, 99)).max())

    errors = [error(stride) for stride in (20, 10, 5)]
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.1)


def test_noise_becomes_the_data() -> None:
    """Mean and spread of what is sampled are the data's, but for what starting without a trace of the mean leaves out."""
    noise = np.random.default_rng(1).standard_normal(20_000)
    frames = sample(perfect(), noise, pairs(trailing_timesteps(1000)), prediction_type="epsilon", start_scale=start_scale())
    *_, last = (frame.latents for frame in frames)
    start_mean = flow(0.0, 999, CLEAN)
    assert start_mean == pytest.approx(MEAN, abs=0.05)
    assert last.mean() == pytest.approx(start_mean, abs=4 * SPREAD / 20_000**0.5)
    assert last.std() == pytest.approx(SPREAD, rel=0.02)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 32])
def test_prediction_types_give_the_same_trajectory(steps: int) -> None:
    trajectories = [walk(perfect(kind), NOISE, pairs(trailing_timesteps(steps)), prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")]
    for frames in zip(*trajectories, strict=True):
        for frame in frames[1:]:
            np.testing.assert_allclose(frame.latents, frames[0].latents, atol=1e-12)
            np.testing.assert_allclose(frame.x0, frames[0].x0, atol=1e-12)


def test_one_step_is_the_prediction_itself() -> None:
    seen: list[tuple[Any, int]] = []

    def denoise(x: Any, t: int) -> Any:
        seen.append((x, t))
        return 3 * x

    (frame,) = walk(denoise, NOISE, pairs([999]), prediction_type="sample")
    assert frame.step == 1 and frame.t == CLEAN and seen[0][1] == 999
    np.testing.assert_array_equal(seen[0][0], start_scale() * NOISE)
    np.testing.assert_array_equal(frame.latents, 3 * (start_scale() * NOISE))
    np.testing.assert_array_equal(frame.x0, frame.latents)


def test_frames_say_where_they_are() -> None:
    frames = walk(perfect(), NOISE, pairs([999, 749, 499, 249]))
    assert [frame.step for frame in frames] == [1, 2, 3, 4]
    assert [frame.t for frame in frames] == [749, 499, 249, CLEAN]
    np.testing.assert_array_equal(frames[-1].latents, frames[-1].x0)
    for frame, (t, _) in zip(frames[1:], along([749, 499, 249, CLEAN]), strict=True):
        before = frames[frame.step - 2].latents
        np.testing.assert_allclose(add_noise(frame.x0, epsilon_from_x0(before, frame.x0, alpha_bar(t)), alpha_bar(t)), before, atol=1e-12)


def test_stopping_early_calls_the_network_no_more() -> None:
    calls: list[int] = []

    def denoise(x: Any, t: int) -> Any:
        calls.append(t)
        return x

    frames = sample(denoise, NOISE, pairs(trailing_timesteps(8)), prediction_type="epsilon", start_scale=1.0)
    assert calls == []  # nothing happens before the first frame is asked for
    for frame in frames:
        if frame.step == 2:
            break
    frames.close()  # type: ignore[attr-defined]
    assert calls == [999, 874]


def test_all_fresh_noise_keeps_nothing_of_the_old() -> None:
    """fresh = 1: the next latents are x0 noised anew, with exactly renoise(step)."""
    drawn = {step: np.random.default_rng(step).standard_normal(64) for step in (1, 2, 3)}
    frames = walk(perfect(), NOISE, pairs([999, 749, 499, 249]), fresh=1.0, renoise=drawn.__getitem__)
    for frame in frames[:-1]:
        np.testing.assert_allclose(frame.latents, add_noise(frame.x0, drawn[frame.step], alpha_bar(frame.t)), atol=1e-12)
    np.testing.assert_array_equal(frames[-1].latents, frames[-1].x0)


@pytest.mark.parametrize("fresh", [0.3, 0.7, 1.0])
def test_fresh_noise_keeps_the_noise_level(fresh: float) -> None:
    """Whatever share is drawn anew, the noise in the latents has variance 1 - ᾱ and correlates √(1 - fresh²) with the old one."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal(200_000)
    # a network that knows the one picture, 0: x0 = 0, ε = x / √(1 - ᾱ), so latents at t_next are noise alone
    (frame, *_) = walk(lambda x, t: x / (1 - alpha_bar(t)) ** 0.5, noise, pairs([999, 499]), fresh=fresh, renoise=lambda step: rng.standard_normal(200_000))
    assert frame.latents.var() == pytest.approx(1 - float(alphas_cumprod()[499]), rel=0.01)
    assert np.corrcoef(frame.latents, noise)[0, 1] == pytest.approx((1 - fresh**2) ** 0.5, abs=0.01)


def test_an_ancestral_walk_is_k_diffusions() -> None:
    """Euler's ancestral step as it is written down in σ, y = x / √ᾱ: down to σ_down along the slope, then σ_up of new noise."""
    times = trailing_timesteps(4)
    sigmas = [((1 - alpha_bar(t)) / alpha_bar(t)) ** 0.5 for t in times] + [0.0]
    drawn = {step: np.random.default_rng(step).standard_normal(64) for step in (1, 2, 3)}
    y = sigmas[0] * NOISE
    for step, (t, sigma, after) in enumerate(zip(times, sigmas, sigmas[1:], strict=False), start=1):
        up = (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5
        down = (after**2 - up**2) ** 0.5
        epsilon = perfect()(y / (sigma**2 + 1) ** 0.5, t)
        y = y + (down - sigma) * epsilon + (up * drawn[step] if after else 0)
    frames = walk(perfect(), NOISE, pairs(times), fresh=ancestral_shares(times), renoise=drawn.__getitem__)
    np.testing.assert_allclose(frames[-1].latents, y, atol=1e-12)


@pytest.mark.parametrize("shares", [ancestral_shares([999, 499, 249]), trajectory_shares([999, 499, 249], 0.3), trajectory_shares([999, 499, 249], 1.0)])
def test_shares_are_shares_and_the_last_is_none(shares: tuple[float, ...]) -> None:
    assert len(shares) == 3 and all(0 < share <= 1 for share in shares[:-1]) and shares[-1] == 0


def test_tcd_without_gamma_draws_nothing() -> None:
    assert trajectory_shares([999, 499, 249], 0.0) == (0.0, 0.0, 0.0)


def test_a_consistency_model_keeps_its_boundary() -> None:
    """f(x, 0) = x, and far from it the network has all the say."""
    assert boundary_scales(0, 10.0) == (1.0, 0.0)
    skip, out = boundary_scales(999, 10.0)
    assert skip < 1e-8 and out == pytest.approx(1, abs=1e-8)
    (frame,) = walk(lambda x, t: 0 * x, NOISE, [(1, CLEAN)], prediction_type="sample", boundary=1.0)
    np.testing.assert_allclose(frame.x0, 0.2 * start_scale() * NOISE)  # 0.25 / (1 + 0.25) of the input


def test_a_walk_may_end_above_the_clean_picture() -> None:
    (frame,) = walk(perfect(), NOISE, pairs([999], end=0))
    assert frame.t == 0
    np.testing.assert_allclose(frame.latents, add_noise(frame.x0, epsilon_from_x0(start_scale() * NOISE, frame.x0, alpha_bar(999)), alpha_bar(0)))


def test_fresh_noise_without_a_source_is_refused() -> None:
    with pytest.raises(ValueError, match="renoise"):
        walk(perfect(), NOISE, pairs([999, 499]), fresh=1.0)


def test_deterministic_sampling_asks_for_no_noise() -> None:
    def renoise(step: int) -> Any:
        raise AssertionError("fresh = 0 draws nothing")

    walk(perfect(), NOISE, pairs([999, 499]), fresh=0.0, renoise=renoise)


def test_torch_and_numpy_agree() -> None:
    import torch

    ours = walk(perfect(), NOISE, pairs(trailing_timesteps(4)))[-1].latents
    theirs = walk(perfect(), torch.from_numpy(NOISE), pairs(trailing_timesteps(4)))[-1].latents
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-12)
