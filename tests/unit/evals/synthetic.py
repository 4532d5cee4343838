"""A world of eight drawn shapes that needs no file, for the tests of evals."""

from collections.abc import Callable

import numpy as np

from fewstep.data.emoji import Dials, World
from fewstep.data.subjects import SIDE, Subject

INKS = ((0.9, 0.1, 0.1), (0.1, 0.7, 0.2), (0.15, 0.25, 0.9), (0.95, 0.85, 0.1))
DIALS = Dials(held_out=0.3, shift=0.05)


def _shape(round_: bool, ink: tuple[float, float, float]) -> Callable[[], np.ndarray]:
    def draw() -> np.ndarray:
        v, u = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) * 2 - 1
        inside = (u**2 + v**2 < 0.8) if round_ else (np.abs(u) + np.abs(v) < 0.9)
        dot = u**2 + v**2 < 0.08
        colour = np.where(dot[..., None], 0.0, np.float32(ink))
        return np.concatenate([colour * inside[..., None], inside[..., None]], axis=-1).astype(np.float32)

    return draw


SUBJECTS = tuple(
    Subject(f"{form} {number}", "Shapes", ("shape", form, f"own{form}{number}"), _shape(form == "disc", ink))
    for form in ("disc", "rhomb")
    for number, ink in enumerate(INKS)
)
WORLD = World(SUBJECTS, DIALS, seed=3)
