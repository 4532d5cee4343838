"""Jumps land where the mathematics says."""

from __future__ import annotations

import pytest
import torch

from fewstep.distill.targets import Jump, grid, land, reach, renoise, start_jump, teacher_target
from fewstep.distill.teacher import alpha_bar_at
from fewstep.schedule import CLEAN, alpha_bar, start_scale, trailing_timesteps


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 32, 128])
def test_grid_is_trailing_spacing_from_the_other_end(steps: int) -> None:
    assert grid(steps)[0] == CLEAN
    assert grid(steps)[:0:-1] == trailing_timesteps(steps)


def test_a_jump_starts_from_noise_alone_at_T_and_ends_at_clean() -> None:
    x0, noise = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    jump = start_jump(x0, noise, torch.tensor([4, 3, 2, 1]), teacher_steps=4, n=2)
    torch.testing.assert_close(jump.x[0], start_scale() * noise[0])
    a = alpha_bar(749)
    torch.testing.assert_close(jump.x[1], a**0.5 * x0[1] + (1 - a) ** 0.5 * noise[1])
    assert jump.times.tolist() == [[999, 749, 499, 249], [749, 499, 249, CLEAN], [499, 249, CLEAN, CLEAN]]


def test_a_perfect_teacher_stays_on_the_line_from_picture_to_noise() -> None:
    x0, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    jump = start_jump(x0, noise, torch.tensor([3, 2, 1]), teacher_steps=4, n=2)
    end = alpha_bar_at(jump.t_end, x0)
    torch.testing.assert_close(teacher_target(lambda x, t: noise, jump), end**0.5 * x0 + (1 - end) ** 0.5 * noise, atol=1e-5, rtol=1e-5)


def test_both_predictions_of_the_same_picture_land_at_the_same_place() -> None:
    x0, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    t, t_end = torch.tensor([999, 749, 499]), torch.tensor([499, 249, CLEAN])
    a = alpha_bar_at(t, x0)
    x = a**0.5 * x0 + (1 - a) ** 0.5 * noise
    torch.testing.assert_close(land(x, x0, t, t_end, "sample"), land(x, noise, t, t_end), atol=1e-4, rtol=1e-4)
    assert torch.equal(land(x, x0, t, t_end, "sample")[2], x0[2])


def test_renoised_latents_have_the_noise_of_their_timestep() -> None:
    x, noise, t = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4), torch.tensor([9, 749])
    made = renoise(x, noise, t)
    for row, level in enumerate(t.tolist()):
        a = alpha_bar(level)
        torch.testing.assert_close(made[row], a**0.5 * x[row] + (1 - a) ** 0.5 * noise[row])


def test_an_error_in_the_picture_moves_the_landing_point_by_the_reach() -> None:
    x, x0, error = torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4), torch.randn(4, 2, 4, 4)
    jump = Jump(x, torch.tensor([[999, 749, 499, 124], [874, 499, 249, CLEAN]]))
    ends = [land(x, picture, jump.t, jump.t_end, "sample") for picture in (x0, x0 + error)]
    torch.testing.assert_close(ends[1] - ends[0], reach(jump) * error, atol=1e-4, rtol=1e-3)
    assert 0 < float(reach(jump)[0]) < 0.1
    assert float(reach(jump)[3]) == 1
