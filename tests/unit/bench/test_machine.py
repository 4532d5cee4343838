"""The machine: its name for a file, its cores, and what others use of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewstep.bench import machine
from fewstep.bench.machine import Others, describe, kind, pinned


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-64-core-processor"),
        ("Intel(R) Core(TM) i7-12700", "intel-core-i7-12700"),
        ("NVIDIA H200", "nvidia-h200"),
        ("", "unknown"),
    ],
)
def test_a_name_becomes_one_for_files(name: str, expected: str) -> None:
    assert kind(name) == expected


def test_the_kind_tells_apart_what_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_name", lambda: "AMD EPYC")
    assert [describe("cpu", *rest)["kind"] for rest in ((1,), (2,), (1, "sdxl"))] == ["amd-epyc-1-core", "amd-epyc-2-cores", "amd-epyc-1-core-sdxl"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_this_process_its_children_and_torch_get_the_same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pinned(1):
        code = "import os; print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert (len(os.sched_getaffinity(0)), torch.get_num_threads(), child) == (1, 1, "1 1\n")
    assert (os.sched_getaffinity(0), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (before, threads, "7")


def test_others_are_all_that_is_not_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten seconds the machine was busy for fifteen, and eight of them were ours."""
    states = {"now": 100.0, "busy": 1000.0, "own": 50.0}
    monkeypatch.setattr(machine.time, "monotonic", lambda: states["now"])
    monkeypatch.setattr(machine, "_busy", lambda: states["busy"])
    monkeypatch.setattr(machine, "_own", lambda: states["own"])
    others = Others()
    states.update(now=110.0, busy=1015.0, own=58.0)
    assert others.cores() == pytest.approx(0.7)


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="this system does not say")
def test_half_a_second_of_a_childs_work_is_half_a_second() -> None:
    """In both accounts: the machine's, and ours once the child has ended."""
    busy, own = machine._busy(), machine._own()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    after = machine._busy()
    assert busy is not None
    assert after is not None
    assert after - busy >= 0.45
    assert 0.45 <= machine._own() - own < 5
