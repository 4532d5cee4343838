"""The few-step sampler. Training, evaluation, the engine and export all sample through this function and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.schedule import CLEAN, PredictionType, add_noise, alpha_bar, boundary_scales, split


@dataclass(frozen=True)
class Frame:
    """Where the sampler stands after one network evaluation: latents at ``t`` and the picture they are heading for."""

    step: int  # 1 .. number of steps
    t: Any  # noise level of ``latents``; after the last step CLEAN, but where a family ends above it
    latents: Any  # [B, C, H/f, W/f]
    x0: Any  # [B, C, H/f, W/f], the prediction of the finished latents: a preview


def sample(
    denoise: Callable[[Any, Any], Any],
    noise: Any,
    times: Iterable[tuple[Any, Any]],
    *,
    prediction_type: PredictionType,
    start_scale: float,
    fresh: float | Sequence[float] = 0.0,
    boundary: float = 0.0,
    renoise: Callable[[int], Any] | None = None,
    level: Callable[[Any], Any] = alpha_bar,
    keep: Callable[[Any, Any], Any] = lambda x, t: x,
) -> Iterator[Frame]:
    """Walk ``noise`` [B, C, H/f, W/f] along ``times``, pairs (t, t_next), and yield a Frame after each evaluation.

    ``denoise(x, t)`` is the network, guidance included, and answers in ``prediction_type``. ``fresh`` is the share of the noise at
    t_next that is drawn anew, as ``renoise(step)``: 0 follows the deterministic flow (equation 5; Lightning and its kin), 1 draws all
    of it (LCM, DMD2), and a share for each evaluation is an ancestral sampler (Turbo, TCD). ``boundary`` is the scaling of t in a
    consistency model's boundary condition, 0 for models without one. ``level(t)`` is ᾱ_t: in training each sample has a t of its own,
    [B], and ``level`` shapes its ᾱ. ``keep(x, t)`` puts back into the latents at t what is not to change (inpainting). Nothing is
    synchronised between steps, so stopping early is just not asking for the next frame.
    """
    x = start_scale * noise
    for step, (t, t_next) in enumerate(times, start=1):
        x0, epsilon = split(x, denoise(x, t), level(t), prediction_type)
        if boundary:
            skip, out = boundary_scales(t, boundary)
            x0 = skip * x + out * x0
        share = fresh[step - 1] if isinstance(fresh, Sequence) else fresh
        if share and t_next != CLEAN:
            if renoise is None:
                raise ValueError("fresh noise is asked for, but renoise is not given")
            epsilon = (1 - share**2) ** 0.5 * epsilon + share * renoise(step)
        x = keep(add_noise(x0, epsilon, level(t_next)), t_next)
        yield Frame(step, t_next, x, x0)
