"""The phases of a run in order, and how much work each is: what progress, status and a forecast count by. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.distill.plan import PHASES, DistillPlan, Stage

OUTLINE = "outline.json"
Passes = Callable[[DistillPlan, Stage, str], float]  # of the UNet for one sample of an update in a stage's phase
ENCODER = 0.5  # of a UNet's work is done up to its mid-block, about: the critic's share


@dataclass(frozen=True)
class Part:
    """One phase of a run."""

    name: str  # "stage/phase", as in metrics.jsonl
    updates: int
    batch_size: int
    work: float  # of the phase, in pictures through the UNet once; comparable with other parts of the same ``network``
    network: str  # whose work it is

    @property
    def pictures(self) -> int:
        """Samples that the phase draws."""
        return self.updates * self.batch_size


def outline_of(plan: DistillPlan, passes: Passes | None = None) -> tuple[Part, ...]:
    """The phases that ``fewstep distill`` walks through, those without updates left out; ``passes`` are the method's, by default the paper's."""
    count = passes or paper_passes
    parts = []
    for stage in plan.stages:
        for phase in (*PHASES, "adapter"):
            if updates := getattr(stage, phase):
                work = updates * plan.batch_size * count(plan, stage, phase)
                parts.append(Part(f"{stage.name}/{phase}", updates, plan.batch_size, work, "unet"))
    return tuple(parts)


def paper_passes(plan: DistillPlan, stage: Stage, phase: str) -> float:
    """Forward passes of the UNet for one sample of an update, on average over both turns; a backward pass counts as two.

    The teacher walks n steps, each with guidance twice; where batches come again (``reuse``), its walk is remembered. Where a stage keeps
    pictures in part, it paints beside them first.
    """
    guided = 2 if plan.guidance_of(stage) > 1 else 1
    teacher, learn, painted = stage.n * guided, 3.0, stage.painted
    if phase in ("mse", "warm"):
        return (teacher + painted) / plan.reuse + learn
    if phase in ("convert", "adapter"):
        return painted + 1 + learn
    sides = 2 * ENCODER if phase == "conditional" else ENCODER  # a conditional critic looks at the jump's start as well
    shown = 3 if plan.r1_weight else 2
    critics = teacher + 1 + shown * sides * learn
    students = 1 + 2 + sides * learn + ((teacher + sides * learn) if plan.relativistic else 0)
    return (critics + students) / 2 + painted


def plain(network: str, *phases: tuple[str, int, int]) -> tuple[Part, ...]:
    """The outline of a run that trains one ``network``, from (name, updates, batch size)."""
    return tuple(Part(name, updates, size, float(updates * size), f"{network}/{name}") for name, updates, size in phases if updates)


def write_outline(parts: Iterable[Part]) -> str:
    """The content of DIR/outline.json."""
    return json.dumps([asdict(part) for part in parts], indent=1)


def read_outline(folder: Path) -> tuple[Part, ...]:
    """What :func:`write_outline` left in a run's folder; empty where there is none."""
    path = folder / OUTLINE
    return tuple(Part(**part) for part in json.loads(path.read_text())) if path.is_file() else ()


def seconds_left(parts: Sequence[Part], spent: Mapping[str, float], done: Sequence[str], phase: str, update: int) -> float | None:
    """Seconds until the last part's end, from the pace of what is ``done`` and of ``phase`` so far; None before there is any.

    A phase that has not begun takes its work at the pace of those with the same network; None as well while one has no such pace.
    """
    carried: dict[str, list[float]] = {}  # network: [work, seconds]
    left: list[tuple[Part, float]] = []
    for part in parts:
        share = 1.0 if part.name in done else update / part.updates if part.name == phase else 0.0
        if share and part.name in spent:
            sums = carried.setdefault(part.network, [0.0, 0.0])
            sums[0], sums[1] = sums[0] + share * part.work, sums[1] + spent[part.name]
        left.append((part, 1 - share))
    total = 0.0
    for part, share in left:
        if part.name == phase and spent.get(phase) and update:
            total += share * spent[phase] * part.updates / update
        elif share:
            work, seconds = carried.get(part.network, [0.0, 0.0])
            if not work:
                return None
            total += share * part.work * seconds / work
    return total


def about(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The parts as plain values for JSON."""
    return [{**asdict(part), "pictures": part.pictures} for part in parts]
