"""Another program's time and memory are its own."""

from __future__ import annotations

import os
import sys

import pytest

from fewstep.bench.process import ChildError, run_child


def run(code: str, **environment: str):  # type: ignore[no-untyped-def]
    return run_child([sys.executable, "-c", code], {**os.environ, **environment})


def test_memory_is_the_childs_and_not_the_parents() -> None:
    """A child that is forked from a large process inherits its high-water mark; this one must not."""
    ballast = bytearray(os.urandom(1 << 16)) * (3 << 12)  # 800 MB, touched
    small, large = run("pass"), run("x = bytearray(200_000_000)")
    assert len(ballast) > 800e6
    assert small.peak < 100e6
    assert 190e6 < large.peak - small.peak < 220e6


def test_time_runs_from_start_to_end_and_output_comes_back() -> None:
    done = run("import os, time; time.sleep(0.3); print(os.environ['SAID'])", SAID="a word")
    assert done.output == "a word\n"
    assert 0.3 <= done.seconds < 30


def test_a_program_that_fails_says_its_last_line() -> None:
    with pytest.raises(ChildError, match=r"ended with exit code 1: RuntimeError: no such thing$"):
        run("raise RuntimeError('no such thing')")
