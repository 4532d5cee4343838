"""The programs that newcomers copy from run as they are, on the embedded model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep import Engine, Request

EXAMPLES = Path(__file__).parents[2] / "examples"


def carried_out(name: str, folder: Path) -> str:
    """What the example prints, run in ``folder``."""
    return subprocess.run([sys.executable, str(EXAMPLES / name)], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_two_steps(tmp_path: Path) -> None:
    printed = carried_out("two_steps.py", tmp_path)
    assert [line.split(":")[0] for line in printed.splitlines()] == ["1 steps", "2 steps", "4 steps", "8 steps"]
    alone, row = (np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("two_steps.png", "steps.png"))
    assert np.abs(row[:, 256:512] - alone).max() <= 2, "alone or in a batch, the same picture"


@pytest.mark.timeout(120)
def test_live(tmp_path: Path) -> None:
    printed = carried_out("live.py", tmp_path).splitlines()
    assert printed[-1].startswith("'a red apple on a blue background':") and "full decoder" in printed[-1]
    expected = Engine.load("emoji").generate(Request("a red apple on a blue background", 7, 1)).image
    shown = np.asarray(Image.open(tmp_path / "live.png").convert("RGB"), int)
    assert np.abs(shown - np.asarray(expected.convert("RGB"), int)).max() <= 2
