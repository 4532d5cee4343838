"""Answers come in order and are the same, here and in worker processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tests.unit.distill.test_trainer import make_phase

from fewstep.distill.state import Run
from fewstep.distill.trainer import train
from fewstep.distill.workers import each

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
