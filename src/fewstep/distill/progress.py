"""What a run says of itself while it goes."""

from __future__ import annotations

from fewstep.distill import dist
from fewstep.distill.state import Run
from fewstep.distill.trainer import Phase, Routine


def reporter(seconds: float = 10.0) -> Routine:
    """A line every ``seconds`` seconds and at a phase's end: phase, updates, pictures, time so far."""

    def report(phase: Phase, run: Run) -> None:
        if dist.rank() == 0:
            state = run.state
            print(f"{phase.name}  {state.update}/{phase.updates} updates  {state.samples} pictures  {state.seconds:.0f} s", flush=True)

    return Routine(report, seconds=seconds, last=True)
