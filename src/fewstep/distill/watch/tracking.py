"""Where metrics go beside metrics.jsonl: nowhere, to TensorBoard's event files, to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fewstep.distill.plan import TrackingRecipe


class Tracker(Protocol):
    """Takes figures in."""

    def log(self, values: Mapping[str, float], turn: str, step: int) -> None:
        """Figures of a ``turn`` (student, critic, look) at the run's update ``step``."""

    def close(self) -> None:
        """Write out what is still held."""


class Trackers:
    """Several as one; of none, the one that does nothing."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def log(self, values: Mapping[str, float], turn: str, step: int) -> None:
        """Hand the figures to each."""
        for tracker in self.trackers:
            tracker.log(values, turn, step)

    def close(self) -> None:
        """Close each."""
        for tracker in self.trackers:
            tracker.close()


class TensorBoard:
    """Event files in ``folder``. Raises ModuleNotFoundError where tensorboard is not installed."""

    def __init__(self, folder: Path) -> None:
        import tensorboard  # noqa: F401  by its own name, so that the error names what to install
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def log(self, values: Mapping[str, float], turn: str, step: int) -> None:
        """One scalar each, as "turn/name"."""
        for name, value in values.items():
            self.writer.add_scalar(f"{turn}/{name}", value, step)

    def close(self) -> None:
        """Flush the event files."""
        self.writer.close()


class Wandb:
    """A run of ``project``, under the folder's name; a run that goes on, goes on there. Raises ModuleNotFoundError where wandb is not installed."""

    def __init__(self, project: str, folder: Path, recipe: str) -> None:
        import wandb

        name = folder.resolve().name
        self.run: Any = wandb.init(project=project, name=name, id=f"{name}-{recipe}", dir=str(folder), resume="allow")

    def log(self, values: Mapping[str, float], turn: str, step: int) -> None:
        """All figures of the turn at once; ``update`` is a figure too, for a resumed run may go back a little."""
        self.run.log({"update": step, **{f"{turn}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        """Finish the upload."""
        self.run.finish()


def tracker(asked: TrackingRecipe, folder: Path, recipe: str) -> Tracker:
    """What is asked for, for the run in ``folder`` of the recipe with this hash."""
    found: list[Tracker] = [TensorBoard(folder / "tensorboard")] if asked.tensorboard else []
    found += [Wandb(asked.wandb, folder, recipe)] if asked.wandb else []
    return Trackers(found)
