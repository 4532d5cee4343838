"""The command line as a process: interrupted, in a terminal, in a pipe."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from fewstep.__main__ import main

SOURCE = Path(__file__).parents[2] / "src"
COMMAND = [sys.executable, "-m", "fewstep"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "TERM": "xterm-256color"}


def _hears_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores them, and so would what it starts


def test_an_interrupt_while_the_command_line_is_loaded_has_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "fewstep.cli", Loading("fewstep.cli"))
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130


@pytest.mark.slow
def test_an_interrupt_leaves_whole_pictures_and_says_how_many(tiny: Path, tmp_path: Path) -> None:
    arguments = [
        "generate",
        "pizza",
        "--count",
        "500",
        "--model",
        str(tiny),
        "--steps",
        "1",
        "--size",
        "64x64",
        "--out",
        str(tmp_path / "o"),
    ]
    process = subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_hears_interrupts)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    files = sorted((tmp_path / "o").iterdir())
    assert 1 <= len(files) < 500
    assert {path.suffix for path in files} == {".png"}, "no half-written file is left"
    for path in files:
        with Image.open(path) as picture:
            picture.load()
    assert errors.splitlines()[-1].endswith(f"{len(files)} of 500 pictures are finished")
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_terminal_gets_a_preview_or_a_bar_and_its_cursor_back(tiny: Path, tmp_path: Path, count: int) -> None:
    parent, child = pty.openpty()
    arguments = ["generate", "pizza", "--count", str(count), "--model", str(tiny), "--steps", "2", "--size", "64x64", "--seed", "1"]
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "NO_COLOR"}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, cwd=tmp_path, stdin=child, stdout=child, stderr=child)
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(parent)
    assert process.wait(timeout=60) == 0
    shown = seen.decode()
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l"), "a hidden cursor is shown again"
    assert ("▀" in shown) == (count == 1)
    assert ("fewstep generate pizza --model" in shown) == (count == 1)
    assert shown.count("  seed ") == count


@pytest.mark.slow
def test_a_pipe_that_closes_is_no_traceback(tiny: Path, tmp_path: Path) -> None:
    arguments = ["generate", "pizza", "--count", "20", "--model", str(tiny), "--steps", "1", "--size", "64x64", "--json"]
    process = subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) != 0
    assert b"Traceback" not in errors
