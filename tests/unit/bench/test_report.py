"""docs/performance.md comes from bench/results and from nowhere else."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.bench.test_results import MACHINE, RESULTS, SETTINGS

from fewstep.bench.results import Bar, Results
from fewstep.bench.table import Section
from fewstep.cli import app

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def report() -> Any:
    spec = importlib.util.spec_from_file_location("bench_report", ROOT / "bench" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_document_is_what_the_results_give(report: Any) -> None:
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf8") == report.document(), "run python bench/report.py"
    assert (ROOT / "README.md").read_text(encoding="utf8") == report.readme(), "run python bench/report.py"


def test_every_figure_of_a_run_is_in_the_document(report: Any, tmp_path: Path) -> None:
    RESULTS.to_json(tmp_path)
    text = report.document(tmp_path)
    assert "| [some-cpu-1-core](../bench/results/some-cpu-1-core.json) | emoji | – | 2026-11-24 | 1 of 2 | 0 |" in text
    assert "\n## some-cpu-1-core\n\nSome CPU, 1 of 2 cores; fewstep 0.1.0, torch 2.13.0; 7 rounds after 2 that do not count; 2026-11-24.\n" in text
    assert "| speed | 2.5 | at least 2 | met |\n| seconds | 2.5 | at most 2 | not met |" in text
    assert "| python alone | 0.12 | 3 |" in text
    assert report.ACCELERATOR in text
    assert "not to be quoted" not in text


def test_what_makes_a_run_worth_less_is_said(report: Any, tmp_path: Path) -> None:
    failed = Section("compare", ({"side": 64, "batch": 1, "steps": 1, "decoder": "full", "failed": "its pictures differ"},))
    machine = {**MACHINE, "others": 1.5, "accelerator": "Some GPU"}
    Results(machine, {**SETTINGS, "quick": True}, (failed,), (Bar("speed", 1.0, 2.0),)).to_json(tmp_path)
    text = report.document(tmp_path)
    assert "**Other processes used the machine meanwhile: these figures are not to be quoted.**" in text
    assert "**A quick or unfinished run" in text
    assert "- FAILED: compare, 64 px, batch 1, steps 1, decoder full: its pictures differ" in text
    assert report.ACCELERATOR not in text


def test_check_says_what_to_do(report: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(report, "DOCUMENT", tmp_path / "performance.md")
    assert report.main(["--check"]) == 1
    assert "run python bench/report.py" in capsys.readouterr().out
    assert report.main([]) == 0
    assert report.main(["--check"]) == 0


def test_the_accelerators_script_asks_for_options_that_there_are() -> None:
    script = ROOT / "bench" / "gpu.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = re.findall(r"^ +measure [0-9].*$", script.read_text(), re.MULTILINE) + re.findall(r"-m fewstep bench .*", script.read_text())
    used = {option for line in lines for option in re.findall(r" (--[a-z]+)", line)}
    (command,) = (command.callback for command in app.registered_commands if command.callback and command.callback.__name__ == "bench")
    assert {"--architecture", "--json", "--size"} <= used <= {f"--{name}" for name in inspect.signature(command).parameters}
