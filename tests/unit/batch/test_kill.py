"""A job that is killed, again and again, at moments nobody chose: nothing is missing, twice or half-written, and no byte differs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.batch.fake import files

from fewstep.batch.results import NAME, read_lines
from fewstep.cli import main

SOURCE = Path(__file__).parents[3] / "src"
ROWS = 80
PATIENCE = 60  # seconds
KILLS = 5
FLEETING = ("timings_ms", "labels")


def arguments(manifest: Path, out: Path, more: tuple[str, ...]) -> list[str]:
    return ["batch", str(manifest), "--out", str(out), "--decoder", "tiny", "--steps", "1", "--set", "width=64", *more]


def killed(command: list[str], results: Path, more_lines: int, wait: float) -> bool:
    """Start it, and kill it so many lines and seconds later. Returns whether it was still running."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    before = lines(results)
    with subprocess.Popen([sys.executable, "-m", "fewstep", *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + PATIENCE
        while process.poll() is None and lines(results) < before + more_lines and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(wait)
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
    return alive


def lines(results: Path) -> int:
    return results.read_bytes().count(b"\n") if results.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("more", "pattern"), [((), "pictures/**/*"), (("--tars", "15"), "shards/*")], ids=["folders", "tars"])
def test_a_job_that_is_killed_ends_as_one_that_was_not(tmp_path: Path, more: tuple[str, ...], pattern: str) -> None:
    manifest = tmp_path / "rows.csv"
    heights = [64 + 16 * (number % 3) for number in range(ROWS)]  # three kinds, so that groups and rows go different ways
    manifest.write_text("prompt,height\n" + "".join(f"pizza {number},{height}\n" for number, height in enumerate(heights)))
    with pytest.raises(SystemExit) as done:
        main(arguments(manifest, tmp_path / "whole", more))
    assert not done.value.code
    chance, out, alive = random.Random(len(more)), tmp_path / "out", 0
    for _ in range(KILLS):
        alive += killed(arguments(manifest, out, more), out / NAME, chance.randrange(1, ROWS // KILLS), chance.uniform(0, 0.02))
    assert alive, "it was killed while it worked"
    with pytest.raises(SystemExit) as done:
        main(arguments(manifest, out, more))
    assert not done.value.code
    assert files(out, pattern) == files(tmp_path / "whole", pattern)
    for folder in (out, tmp_path / "whole"):
        assert [line["index"] for line in read_lines(folder / NAME)] == list(range(ROWS))
    ended, whole = ([{key: line[key] for key in line if key not in FLEETING} for line in read_lines(folder / NAME)] for folder in (out, tmp_path / "whole"))
    assert ended == whole
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}, "nothing else is left"


def _hears_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores them, and so would what it starts


@pytest.mark.slow
def test_an_interrupt_says_how_far_it_came(tmp_path: Path) -> None:
    manifest, out = tmp_path / "rows.txt", tmp_path / "out"
    manifest.write_text("".join(f"pizza {number}\n" for number in range(3000)))
    command = [sys.executable, "-m", "fewstep", *arguments(manifest, out, ())]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=_hears_interrupts)
    until = time.monotonic() + PATIENCE
    while lines(out / NAME) < 10 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors == f"fewstep: interrupted; {len(files(out))} of 3000 pictures are finished, and the same command goes on\n"
    assert lines(out / NAME) == len(files(out))
