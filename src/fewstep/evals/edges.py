"""How well pictures follow edges: Canny's of what was made against the hint, with and without the ControlNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from fewstep.data.emoji import World
from fewstep.engine.control import Control
from fewstep.engine.engine import Engine
from fewstep.engine.hints import edges
from fewstep.engine.request import Request
from fewstep.evals.prompts import held_out
from fewstep.evals.rows import Renders

TOLERANCE = 2  # pixels, along each axis
Lines = NDArray[np.bool_]


@dataclass(frozen=True)
class Followed:
    """The means over the pictures of one step count, 0 to 1."""

    steps: int
    pictures: int
    without: float  # F1 of the prompt alone
    with_hint: float  # and with the ControlNet

    def line(self) -> str:
        """For people."""
        return f"{self.steps} steps: F1 of edges {self.without:.3f} without the ControlNet, {self.with_hint:.3f} with it ({self.pictures} pictures)"


def f1(found: Lines, wanted: Lines, tolerance: int = TOLERANCE) -> float:
    """The harmonic mean of precision, the share of ``found`` [H, W] that lies near ``wanted`` [H, W], and of recall, the share of ``wanted`` that
    lies near ``found``. Near is up to ``tolerance`` pixels away along each axis. 1 where both are empty.
    """
    if not found.any() or not wanted.any():
        return float(not found.any() and not wanted.any())
    precision, recall = _near(found, wanted, tolerance), _near(wanted, found, tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(lines: Lines, others: Lines, tolerance: int) -> float:
    """The share of ``lines`` that has some of ``others`` near it."""
    grown = functional.max_pool2d(torch.from_numpy(others)[None, None].float(), 2 * tolerance + 1, 1, tolerance)[0, 0].numpy() > 0
    return float(grown[lines].mean())


def follow(engine: Engine, world: World, steps: Sequence[int], count: int, net: Any = None, weight: float = 1.0) -> list[Followed]:
    """For each of ``steps``: ``count`` held-out scenes are painted, and asked for by their captions with the edges as the hint and without.

    ``net`` is a ControlNet's folder or file, None the model's own. One seed a scene, the same in every row.
    """
    side = engine.limits.native
    questions = held_out(world, count)
    renders, _ = Renders(world, side)(questions, range(count))
    hints = [edges(picture) for picture in renders]
    controls = [[Control(Image.fromarray(hint.astype(np.uint8) * 255), net=net, weight=weight)] for hint in hints]
    rows = []
    for number in steps:
        found = []
        for control in ([()] * count, controls):
            requests = [Request(question.text, i, number, side, side, control=one) for i, (question, one) in enumerate(zip(questions, control, strict=True))]
            pictures = (np.asarray(picture.image) for picture in engine.generate_many(requests))
            found.append(float(np.mean([f1(edges(picture), hint) for picture, hint in zip(pictures, hints, strict=True)])))
        rows.append(Followed(number, count, *found))
    return rows


def as_json(rows: Sequence[Followed]) -> list[dict[str, Any]]:
    """Rows for a file."""
    return [asdict(row) for row in rows]
