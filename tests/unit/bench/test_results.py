"""Results as JSON: they come back as they went, and what is no number is none."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest

from fewstep.bench.results import Bar, Results, noisy, print_end, read, summary
from fewstep.bench.table import Section

MACHINE = {
    "kind": "some-cpu-1-core",
    "processor": "Some CPU",
    "accelerator": "",
    "device": "cpu",
    "cores": 2,
    "threads": 1,
    "versions": {"fewstep": "0.1.0", "torch": "2.13.0"},
    "others": 0.02,
}
SETTINGS = {"date": "2026-11-24", "model": "emoji", "rounds": 7, "warmup": 2, "quick": False}
ROW = {"what": "python alone", "seconds": 0.123456789, "runs": 3}
RESULTS = Results(MACHINE, SETTINGS, (Section("startup", (ROW,), ("a note",)),), (Bar("speed", 2.5, 2.0), Bar("seconds", 2.5, 2.0, at_most=True)))


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = RESULTS.to_json(tmp_path)
    assert path == tmp_path / "some-cpu-1-core.json", "into a folder it goes under the machine's kind"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    again = read(path)
    assert (again.machine, again.settings, again.bars, again.complete) == (MACHINE, SETTINGS, RESULTS.bars, True)
    assert again.sections[0].rows == ({**ROW, "seconds": 0.123457},)
    assert again.to_dict() == RESULTS.to_dict()


def test_a_file_of_a_name_is_that_file(tmp_path: Path) -> None:
    assert RESULTS.to_json(tmp_path / "mine.json") == tmp_path / "mine.json"
    assert json.loads((tmp_path / "mine.json").read_text())["bars"] == [
        {"name": "speed", "value": 2.5, "needed": 2.0, "at_most": False, "met": True},
        {"name": "seconds", "value": 2.5, "needed": 2.0, "at_most": True, "met": False},
    ]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    results = Results(MACHINE, SETTINGS, (Section("compare", ({"psnr": math.inf, "ratio": math.nan},)),))
    assert read(results.to_json(tmp_path)).sections[0].rows == ({"psnr": None, "ratio": None},)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="measure again"):
        read(tmp_path / "old.json")


def test_the_end_says_what_was_reached_and_what_failed() -> None:
    failed = Section("compare", ({"side": 64, "batch": 1, "steps": 1, "decoder": "full", "failed": "its pictures differ"},))
    stream = io.StringIO()
    print_end(Results(MACHINE, SETTINGS, (failed,), RESULTS.bars), stream)
    assert stream.getvalue() == (
        "What must be reached\n"
        "figure   value  needed\n"
        "speed      2.5  at least 2  met\n"
        "seconds    2.5  at most 2   not met\n"
        "\n"
        "FAILED: compare, 64 px, batch 1, steps 1, decoder full: its pictures differ\n"
        "Some CPU, 1 of 2 cores; fewstep 0.1.0, torch 2.13.0; 7 rounds after 2 that do not count; 2026-11-24\n"
    )


def test_a_machine_that_others_used_is_called_so() -> None:
    busy = Results({**MACHINE, "others": 1.5}, SETTINGS, ())
    assert noisy(busy)
    assert summary(busy).endswith("NOT QUIET: others used 1.5 cores meanwhile")
    assert not noisy(RESULTS)
    assert not noisy(Results({**MACHINE, "others": None}, SETTINGS, ())), "where the system does not say, nothing is claimed"
