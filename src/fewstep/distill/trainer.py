"""The training loop. It knows data order, saving and logging, and no algorithm: a phase says what its losses are."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fewstep.data.shards import ShardsError
from fewstep.distill import dist
from fewstep.distill.ema import Ema
from fewstep.distill.sharding import whole
from fewstep.distill.state import DiskFull, Run
from fewstep.distill.workers import WorkerDied, each, minding


@dataclass(frozen=True)
class Figure:
    """A figure of a whole batch that is no mean over its samples, such as a deviation: ``read`` makes it of ``means``, which are.

    The means are averaged over parts and ranks before they are read: the figure is the same however a batch is worked off.
    """

    means: Tensor  # [K]
    read: Callable[[Tensor], Tensor]

    def __float__(self) -> float:
        """Of these samples alone."""
        return float(self.read(self.means))


Losses = Mapping[str, Tensor | Figure]  # "loss", a tensor, is minimised, the others are logged beside it


@dataclass
class Phase:
    """One optimisation problem: what is trained, on which samples, for how long.

    ``batch(indices)`` makes the samples with these global indices; ``losses(turn, batch)`` gives the losses of the optimizer
    whose turn it is. Both are functions of their arguments and the models alone: that is what makes a run repeatable.
    """

    name: str  # "stage/phase"
    updates: int
    batch_size: int
    models: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    batch: Callable[[range], Any]
    losses: Callable[[str, Any], Losses]
    turns: Sequence[str] = ("student",)
    learning_rate: Callable[[int], float] = lambda update: 1.0  # factor on each optimizer's own rate
    averages: Mapping[str, Ema] = field(default_factory=dict)  # by the name of the model they follow
    clip: float = 0.0  # largest gradient norm; 0: no limit
    precision: torch.dtype = torch.float32
    workers: int = 0  # processes that make batches ahead of time; ``batch`` must then leave the accelerator alone
    accumulate: int = 1  # parts that a rank's share of a batch is worked off in; their gradients add up to those of the whole


@dataclass(frozen=True)
class Routine:
    """Something to do every ``every`` updates or ``seconds`` seconds, and where the phase ends or is stopped if ``last``."""

    act: Callable[[Phase, Run], None]
    every: int = 0
    seconds: float = 0.0
    last: bool = False
    alone: bool = False  # whether it asks nothing of other ranks, which may be no more


class NonFinite(RuntimeError):
    """A loss or its gradient is no longer a number; the message names the batch's position."""


class Stopped(RuntimeError):
    """A rule of health ended the run; its state is saved, and the message says which rule and what to do."""


class Unread(ShardsError):
    """Samples of an update cannot be read; the state before it is saved, and the message says which file and what to do."""


class Terminated(RuntimeError):
    """The run was asked to end by SIGTERM; its state is saved, and the same command goes on."""


def train(run: Run, phase: Phase, routines: Sequence[Routine] = (), save_seconds: float = 120.0) -> None:
    """Run ``phase`` to its end, from wherever its last checkpoint stands. A phase that is done is passed over.

    Raises NonFinite, before any weight is touched, if a loss or a gradient is not finite, Unread if samples cannot be read, what a routine put into
    ``run.stopping``, and Terminated on SIGTERM: all of them with the state saved. Raises DiskFull, WorkerDied, ShardsError where it cannot be.
    """
    if phase.name in run.state.done:
        return
    if run.begin(phase.name):
        run.load(phase.models, phase.optimizers, phase.averages)
    try:
        with _heeding_sigterm(run), minding():
            _updates(run, phase, routines, save_seconds)
    except (NonFinite, Stopped, Terminated, Unread) as error:
        run.stopping, run.state.stopped = error, str(error)
        run.save(phase.models, phase.optimizers, phase.averages)
        _act_last(run, phase, routines)
        raise
    except (DiskFull, WorkerDied, ShardsError) as error:  # in the midst of anything, and perhaps on this rank alone
        run.stopping = error
        with suppress(DiskFull):
            _act_last(run, phase, [routine for routine in routines if routine.alone])
        raise


def _updates(run: Run, phase: Phase, routines: Sequence[Routine], save_seconds: float) -> None:
    state, rates = run.state, {name: [group["lr"] for group in opt.param_groups] for name, opt in phase.optimizers.items()}
    saved = began = time.monotonic()
    due = {id(routine): began for routine in routines}
    left = [range(n * phase.batch_size, (n + 1) * phase.batch_size) for n in range(state.update, phase.updates)]
    if phase.updates and not left and state.ended != phase.name:  # a signal came before the end could be looked at
        _look_at_end(run, phase, routines)
    batches = each(phase.batch, [dist.share(indices)[part :: phase.accumulate] for indices in left for part in range(phase.accumulate)], phase.workers)
    for indices in left:
        # ---- one update ----
        turn = phase.turns[state.update % len(phase.turns)]
        losses = update(phase, turn, _taken(batches, phase.accumulate), indices, phase.learning_rate(state.update), rates[turn])
        if turn == "student":  # in another's its weights stand still
            for name, average in phase.averages.items():
                average.update(phase.models[name])
        now = time.monotonic()
        state.update, state.samples, state.seconds = state.update + 1, indices.stop, state.seconds + now - began
        state.spent[phase.name], began = state.spent.get(phase.name, 0.0) + now - began, now
        run.log({"phase": phase.name, "turn": turn, "update": state.update, "samples": state.samples, **losses})
        # ---- whatever is due ----
        end = state.update == phase.updates
        for routine in routines:
            timely = routine.seconds and now - due[id(routine)] >= routine.seconds
            if timely or (routine.every and state.update % routine.every == 0) or (routine.last and end):
                due[id(routine)] = now
                routine.act(phase, run)
        _heed(run)
        if end:
            state.ended = phase.name
        if end or dist.agreed(now - saved >= save_seconds):
            run.save(phase.models, phase.optimizers, phase.averages)
            saved = now
    _heed(run)  # what came during the last save


def _taken(batches: Iterator[Any], parts: int) -> list[Any]:
    """The next of ``batches``, in its ``parts``. What one rank cannot read ends the run on all of them: Unread."""
    taken, error = [], ""
    try:
        taken = [next(batches) for _ in range(parts)]
    except ShardsError as found:
        error = str(found)
    if dist.agreed(bool(error)):
        raise Unread(dist.first(error))
    return taken


def _act_last(run: Run, phase: Phase, routines: Sequence[Routine]) -> None:
    for routine in routines:
        if routine.last:
            routine.act(phase, run)


def _heed(run: Run) -> None:
    """End the run on every rank if any of them has been asked to."""
    if dist.agreed(run.stopping is not None):
        raise run.stopping or Terminated("another rank was asked to end; the same command goes on")


def _look_at_end(run: Run, phase: Phase, routines: Sequence[Routine]) -> None:
    _act_last(run, phase, routines)
    _heed(run)
    run.state.ended = phase.name
    run.save(phase.models, phase.optimizers, phase.averages)


def update(phase: Phase, turn: str, parts: Sequence[Any], indices: range, factor: float, rates: Sequence[float]) -> dict[str, float]:
    """One step of the optimizer whose turn it is, on ``parts``, this rank's share of the samples ``indices``. Leaves no gradient behind. Returns the losses."""
    optimizer = phase.optimizers[turn]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    sums: dict[str, Tensor] = {}
    for batch in parts:
        with torch.autocast(parameters[0].device.type, dtype=torch.bfloat16, enabled=phase.precision == torch.bfloat16):
            losses = phase.losses(turn, batch)
        found = {name: dist.mean(_means(value)) for name, value in losses.items()}
        _finite(phase, turn, "loss", indices, found, optimizer)
        sums = {name: value if name not in sums else sums[name] + value for name, value in found.items()}
        (minimised(losses) / len(parts)).backward()  # type: ignore[no-untyped-call]
    values = {name: _read(losses[name], value / len(parts)) for name, value in sums.items()}
    dist.average(parameters)
    values["grad_norm"] = float(whole(nn.utils.clip_grad_norm_(parameters, phase.clip or math.inf)))
    _finite(phase, turn, "gradient", indices, {"grad_norm": torch.tensor(values["grad_norm"])}, optimizer)  # a loss may be a number and its slope none
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return values


def minimised(losses: Losses) -> Tensor:
    """The loss that the optimizer whose turn it is goes down."""
    loss = losses["loss"]
    assert isinstance(loss, Tensor), "a figure has no gradient"
    return loss


def _means(value: Tensor | Figure) -> Tensor:
    """What of a loss or figure is averaged over parts and ranks: float64 [K]."""
    return (value.means if isinstance(value, Figure) else value.reshape(1)).detach().double()


def _read(value: Tensor | Figure, means: Tensor) -> float:
    return float(Figure(means, value.read)) if isinstance(value, Figure) else float(means)


def _finite(phase: Phase, turn: str, what: str, indices: range, values: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    """Raise NonFinite, with no gradient left behind, unless all ``values`` are numbers."""
    if not all(bool(value.isfinite().all()) for value in values.values()):
        optimizer.zero_grad(set_to_none=True)
        told = {name: value.tolist() if value.numel() > 1 else value.item() for name, value in values.items()}
        raise NonFinite(f"{phase.name}: the {turn}'s {what} is not finite at samples {indices.start} to {indices.stop - 1}: {told}")


@contextmanager
def _heeding_sigterm(run: Run) -> Iterator[None]:
    """SIGTERM asks the run to end after the update in progress. Only a process's main thread can hear it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_: Any) -> None:
        run.stopping = Terminated("stopped by SIGTERM; the state is saved, and the same command goes on")

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
