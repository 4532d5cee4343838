"""The noise schedule and what follows from it: pure functions over float64 tables, no state.

Timesteps are diffusers' indices: 0 .. 999 are noise levels, ``CLEAN`` = -1 is the finished picture. The paper's t is one larger.
Coefficients are Python floats (or arrays that broadcast), latents any array with arithmetic: NumPy and torch alike.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

PredictionType = Literal["epsilon", "sample", "v_prediction"]
TRAIN_TIMESTEPS = 1000
CLEAN = -1
CONSISTENCY_STEPS = 50  # evaluations of the solver that consistency models were distilled over: their timesteps lie on its grid


@cache
def alphas_cumprod() -> np.ndarray:
    """SDXL's scaled-linear schedule: ᾱ_t for t = 0 .. 999, float64 [1000], falling from 0.99915 to 0.00466. Read-only."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, TRAIN_TIMESTEPS, dtype=np.float64) ** 2
    table = np.cumprod(1 - betas)
    table.flags.writeable = False
    return table


def alpha_bar(t: int) -> float:
    """ᾱ_t; 1 for ``CLEAN``."""
    return 1.0 if t == CLEAN else float(alphas_cumprod()[t])


def start_scale(t: int = TRAIN_TIMESTEPS - 1) -> float:
    """What unit noise is scaled by where sampling starts: √(1 - ᾱ_t), 0.9977 at T. No trace of a picture, as in diffusers' Euler."""
    return float((1 - alpha_bar(t)) ** 0.5)


def trailing_timesteps(steps: int) -> list[int]:
    """The timesteps of an N-step sampler that starts at T, as diffusers' ``timestep_spacing="trailing"``: 4 -> [999, 749, 499, 249].

    Raises ValueError unless 1 <= steps <= 1000.
    """
    if not 1 <= steps <= TRAIN_TIMESTEPS:
        raise ValueError(f"steps = {steps}: give a number from 1 to {TRAIN_TIMESTEPS}")
    stride = TRAIN_TIMESTEPS / steps
    return [int(t) - 1 for t in np.round(np.arange(TRAIN_TIMESTEPS, 0, -stride))[:steps]]


def leading_timesteps(steps: int) -> list[int]:
    """The timesteps of SDXL's own scheduler, diffusers' ``timestep_spacing="leading"`` with ``steps_offset=1``: 50 -> [981, 961, ... 1].

    Raises ValueError unless 1 <= steps <= 1000.
    """
    if not 1 <= steps <= TRAIN_TIMESTEPS:
        raise ValueError(f"steps = {steps}: give a number from 1 to {TRAIN_TIMESTEPS}")
    stride = TRAIN_TIMESTEPS // steps
    offset = min(1, TRAIN_TIMESTEPS - 1 - stride * (steps - 1))  # a thousand steps leave no room for one
    return [stride * i + offset for i in reversed(range(steps))]


def consistency_timesteps(steps: int) -> list[int]:
    """The timesteps of diffusers' LCM and TCD schedulers: evenly over the 50 of their solver, 4 -> [999, 759, 499, 259].

    Raises ValueError unless 1 <= steps <= 50.
    """
    if not 1 <= steps <= CONSISTENCY_STEPS:
        raise ValueError(f"steps = {steps}: give a number from 1 to {CONSISTENCY_STEPS}")
    stride = TRAIN_TIMESTEPS // CONSISTENCY_STEPS
    return [TRAIN_TIMESTEPS - 1 - stride * (i * CONSISTENCY_STEPS // steps) for i in range(steps)]


def pairs(timesteps: list[int] | tuple[int, ...], end: int = CLEAN) -> list[tuple[int, int]]:
    """(t, t_next) for each network evaluation; the last one leads to ``end``."""
    return list(zip(timesteps, [*timesteps[1:], end], strict=True))


def ancestral_shares(timesteps: list[int] | tuple[int, ...]) -> tuple[float, ...]:
    """The share of the noise that Euler's ancestral sampler draws anew after each evaluation; the last draws none.

    It splits σ'² = σ_down² + σ_up² with σ_up² = σ'²(σ² - σ'²)/σ² (k-diffusion, ``get_ancestral_step``), σ² = (1-ᾱ)/ᾱ. The share is
    σ_up/σ' = √(1 - (σ'/σ)²): scaling by √ᾱ' leads from its latents to ours and changes no proportion.
    """
    squares = [(1 - alpha_bar(t)) / alpha_bar(t) for t in timesteps]
    return (*((1 - after / before) ** 0.5 for before, after in zip(squares, squares[1:], strict=False)), 0.0)


def trajectory_shares(timesteps: list[int] | tuple[int, ...], eta: float) -> tuple[float, ...]:
    """The share of the noise that TCD's sampler (arXiv 2402.19159, gamma = ``eta``) draws anew after each evaluation; the last draws none.

    It goes down to s = ⌊(1-η)·t'⌋ along the flow and from there up to t' with new noise: √(1-ᾱ'/ᾱ_s) of √(1-ᾱ').
    """
    below = [(alpha_bar(t), alpha_bar(int((1 - eta) * t))) for t in timesteps[1:]]
    return (*(((1 - after / lower) / (1 - after)) ** 0.5 for after, lower in below), 0.0)


def boundary_scales(t: Any, scaling: float) -> tuple[Any, Any]:
    """(c_skip, c_out) that hold a consistency model to its boundary, f(x, 0) = x (arXiv 2310.04378): f = c_skip·x + c_out·x0.

    c_skip = d²/(s² + d²), c_out = s/√(s² + d²) with s = ``scaling``·t and d = 0.5, as in diffusers' LCMScheduler.
    """
    square = (scaling * t) ** 2 + 0.25
    return 0.25 / square, scaling * t / square**0.5


def add_noise(x0: Any, epsilon: Any, alpha_bar: Any) -> Any:
    """Forward process, equation 1: x_t = √ᾱ·x0 + √(1-ᾱ)·ε."""
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * epsilon


def x0_from_epsilon(x: Any, epsilon: Any, alpha_bar: Any) -> Any:
    """Equation 3: x0 = (x_t - √(1-ᾱ)·ε) / √ᾱ."""
    return (x - (1 - alpha_bar) ** 0.5 * epsilon) / alpha_bar**0.5


def epsilon_from_x0(x: Any, x0: Any, alpha_bar: Any) -> Any:
    """Equation 4: ε = (x_t - √ᾱ·x0) / √(1-ᾱ)."""
    return (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5


def v_from(x0: Any, epsilon: Any, alpha_bar: Any) -> Any:
    """Velocity: v = √ᾱ·ε - √(1-ᾱ)·x0."""
    return alpha_bar**0.5 * epsilon - (1 - alpha_bar) ** 0.5 * x0


def split(x: Any, output: Any, alpha_bar: Any, prediction_type: PredictionType) -> tuple[Any, Any]:
    """(x0, ε) that a network's output means for its input x_t. Raises ValueError on an unknown prediction type."""
    if prediction_type == "epsilon":
        return x0_from_epsilon(x, output, alpha_bar), output
    if prediction_type == "sample":
        return output, epsilon_from_x0(x, output, alpha_bar)
    if prediction_type == "v_prediction":
        return (alpha_bar**0.5 * x - (1 - alpha_bar) ** 0.5 * output), ((1 - alpha_bar) ** 0.5 * x + alpha_bar**0.5 * output)
    raise ValueError(f"prediction type {prediction_type!r} is none of epsilon, sample, v_prediction")


def move(x: Any, output: Any, alpha_bar: Any, alpha_bar_next: Any, prediction_type: PredictionType = "epsilon") -> Any:
    """Equation 5: follow the flow from one noise level to another in a straight line (DDIM with eta = 0, Euler in sigma)."""
    return add_noise(*split(x, output, alpha_bar, prediction_type), alpha_bar_next)
