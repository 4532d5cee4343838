"""The bars of bench/serve.py in little: with an engine that costs nothing, so that what is measured is the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.load import KEYS, Answer, Typed, hammer, numbers, type_live
from tests.unit.serve.fake import run
from tests.unit.serve.listening import listening

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening() as (url, _):
        yield url


def test_waits_are_counted_from_the_key_to_its_own_frame_or_a_newer_one() -> None:
    def frame(at: float, generation: int) -> tuple[float, dict[str, object]]:
        return at, {"generation": generation, "final": True}

    typed = Typed(sent=[0.0, 1.0, 2.0, 3.0], frames=[frame(0.5, 1), frame(2.5, 3), frame(2.6, 3)])
    assert typed.waits == [0.5, 1.5, 0.5, float("inf")]
    assert (typed.stale, typed.complete, typed.share) == (0, False, 3)
    typed.frames += [frame(4.0, 4), frame(4.5, 2)]
    assert (typed.stale, typed.complete) == (1, False)


def test_who_types_sees_every_key_and_nothing_stale(url: str) -> None:
    typed: Typed = run(type_live(url, 2))
    assert len(typed.sent) >= 2 * KEYS - 2
    assert (typed.stale, typed.errors, typed.complete) == (0, [], True)
    assert sorted(typed.waits)[len(typed.waits) // 2] < 0.12


def test_a_crowd_gets_fair_shares(url: str) -> None:
    async def crowd() -> list[Typed]:
        import asyncio

        return await asyncio.gather(*(type_live(url, 2, first=one) for one in range(12)))

    typed = run(crowd())
    shares = [one.share for one in typed]
    assert min(shares) >= 0.8 * sum(shares) / len(shares)
    assert not any(one.errors or one.stale for one in typed) and all(one.complete for one in typed)


def test_many_requests_at_once_are_all_answered(url: str) -> None:
    bodies = [{"prompt": "pizza", "seed": seed, "steps": 1} for seed in range(200)]
    answers: list[Answer] = run(hammer(url, "/v1/images/generations", bodies, 16))
    assert [answer.status for answer in answers] == [200] * 200
    assert {json.loads(answer.content)["data"][0]["seed"] for answer in answers} == set(range(200))
    assert run(numbers(url))["fewstep_queue_depth"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_program_measures(tmp_path: Path) -> None:
    """With the embedded model and no bar: the machine that runs tests may be busy."""
    file = tmp_path / "serve.json"
    command = [sys.executable, "bench/serve.py", "--quick", "--only", "typing,stop", "--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    bars = {bar["name"]: bar["value"] for bar in json.loads(file.read_text())["bars"]}
    assert done.returncode in (0, 1), done.stderr
    assert bars["typing, frames older than one shown before"] == bars["typing, errors"] == bars["stop, exit code"] == bars["stop, answers that broke off"] == 0
    assert bars["stop, seconds to the exit"] < 5
    assert bars["typing, the last picture differs from the last text's, of 255"] < 4
