"""Answers come in order and are the same, here and in worker processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from tests.unit.distill.test_trainer import equal, everything, make_phase

from fewstep.distill.state import Run
from fewstep.distill.trainer import train
from fewstep.distill.workers import WorkerDied, each, minding

ITEMS = [range(n, n + 3) for n in range(0, 30, 3)]


def squares(indices: range) -> tuple[list[int], int]:
    return [index**2 for index in indices], os.getpid()


def test_answers_come_in_order_from_other_processes() -> None:
    here, there = list(each(squares, ITEMS, 0)), list(each(squares, ITEMS, 2))
    assert [answer for answer, _ in here] == [answer for answer, _ in there]
    assert {process for _, process in here} == {os.getpid()}
    assert os.getpid() not in {process for _, process in there}


def test_a_run_is_the_same_with_workers_and_without(tmp_path: Path) -> None:
    ends = []
    for workers in (0, 2):
        phase = make_phase()
        phase.workers = workers
        train(Run(tmp_path / str(workers), "recipe"), phase)
        ends.append((phase.models["student"].state_dict()["weight"], (tmp_path / str(workers) / "metrics.jsonl").read_text()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def dies(indices: range) -> range:
    if indices.start == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return indices


def test_a_dead_worker_is_a_sentence() -> None:
    """As one that the system kills for its memory; what it had answered before has come."""
    with pytest.raises(WorkerDied, match="a worker process died, of too little memory perhaps: the same command goes on"):
        list(each(dies, ITEMS, 2))


def test_other_errors_of_a_worker_are_their_own() -> None:
    with pytest.raises(RuntimeError, match="its own") as caught, minding():
        raise RuntimeError("its own")
    assert not isinstance(caught.value, WorkerDied)


def test_a_run_goes_on_after_a_worker_died(tmp_path: Path) -> None:
    """From its last checkpoint, to the same bits."""
    whole, broken, resumed = make_phase(), make_phase(), make_phase()
    train(Run(tmp_path / "whole", "r"), whole)
    broken.workers, make = 2, broken.batch

    def batch(indices: range) -> torch.Tensor:
        if indices.start >= 24:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(indices)

    broken.batch = batch
    with pytest.raises(WorkerDied):
        train(Run(tmp_path / "run", "r"), broken, save_seconds=0.0)
    train(Run(tmp_path / "run", "r"), resumed)
    assert equal(everything(resumed), everything(whole))
