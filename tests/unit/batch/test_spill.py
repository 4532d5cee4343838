"""What a long job keeps on the disk: no memory, and a sentence when the disk is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.batch.fake import MAKER

from fewstep.batch import dry, spill
from fewstep.batch.expand import Wanted
from fewstep.batch.plan import groups, items
from fewstep.batch.spill import Spill, SpillError
from fewstep.cli import main
from fewstep.engine.request import Request

FEW, MANY = 1_000, 400_000
HELD = """
import resource
from fewstep.batch.spill import Spill
table = Spill("seen (key BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID")
for number in range({count}):
    table.execute("INSERT INTO seen VALUES (?, ?)", (number.to_bytes(16, "little"), number))
assert table.execute("SELECT row FROM seen WHERE key = ?", ((0).to_bytes(16, "little"),)).fetchone() == (0,)
assert table.execute("SELECT count(*) FROM seen").fetchone() == ({count},)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_table() -> None:
    peaks = [int(subprocess.run([sys.executable, "-c", HELD.format(count=count)], capture_output=True, check=True).stdout) for count in (FEW, MANY)]
    assert peaks[1] - peaks[0] < 6 << 10, f"{peaks} KiB"  # the table is 12 MB, of which two are held


def test_a_disk_without_room_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "PRAGMAS", (*spill.PRAGMAS, "PRAGMA max_page_count = 20"))
    table = Spill("seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
    with pytest.raises(SpillError, match="no room for a job's temporary files: make some, or set SQLITE_TMPDIR"):
        for number in range(100_000):
            table.execute("INSERT INTO seen VALUES (?)", (b"%020d" % number,))


def test_a_job_stops_with_that_sentence_and_goes_on(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("prompt,seed\n" + "".join(f"pizza,{seed}\n" for seed in range(300)))
    command = [
        "batch",
        str(tmp_path / "rows.csv"),
        "--out",
        str(tmp_path / "o"),
        "--model",
        str(tiny),
        "--steps",
        "1",
        "--set",
        "width=64",
        "--set",
        "height=64",
    ]

    def run() -> int:
        with pytest.raises(SystemExit) as left:
            main(command)
        return int(left.value.code or 0)

    with monkeypatch.context() as full:
        full.setattr(spill, "PRAGMAS", (*spill.PRAGMAS, "PRAGMA max_page_count = 3"))
        assert run() == 1
    assert "no room for a job's temporary files" in capsys.readouterr().err
    made = len(list((tmp_path / "o").glob("pictures/**/*.png")))
    assert 0 < made < 300
    assert run() == 0
    assert f"300 of 300 pictures: {300 - made} made" in capsys.readouterr().out


def test_a_dry_run_tells_so_many_kinds_apart_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every row is of a kind of its own, what is kept of them does not grow; none is lost."""
    monkeypatch.setattr(dry, "MOST_APART", 5)
    wanted = (Wanted(number, number + 1, number + 2, Request("a", 1, 4, 64, 64, guidance_scale=1 + number / 100), {}) for number in range(50))
    found = dry.survey(groups(items(wanted, MAKER), 8))
    assert len(found.loads) == 6 and found.pictures == 50
    assert sum(load.work for load in found.loads.values()) == 50 * 64 * 64 * 5
    assert dry.lines(dry.said(found, None))[0].startswith("50 pictures of more than 5 kinds;")
