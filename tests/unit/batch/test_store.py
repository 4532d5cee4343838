"""Where pictures lie: whole or not there, and tars that are the same bytes however often they were begun."""

from __future__ import annotations

import json
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.unit.batch.fake import Breaks, FakeEngine, csv_of, files, job, redness

from fewstep.batch.local import Stopped
from fewstep.batch.results import NAME, read_lines
from fewstep.batch.store import Folders, Tars, put

PROMPTS = [f"a fox of number {number}" for number in range(10)]


def tars(out: Path, each: int = 4, total: int = len(PROMPTS)) -> Tars:
    return Tars(out, out / ".tmp", "png", each, total)


def test_a_tar_holds_pictures_in_order_with_what_is_said_of_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    job(out, csv_of(tmp_path / "rows.csv", PROMPTS), store=tars(out), total=10)
    shards = sorted((out / "shards").iterdir())
    assert [path.name for path in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    lines = list(read_lines(out / NAME))
    seen = []
    for path in shards:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert [name.rpartition(".")[2] for name in names] == ["png", "txt", "json"] * (len(names) // 3)
            for name in names[2::3]:
                said = json.load(tar.extractfile(name) or pytest.fail(name))
                text = tar.extractfile(name.replace("json", "txt"))
                assert text is not None
                assert said["prompt"] == text.read().decode()
                seen.append(said["prompt"])
    assert seen == PROMPTS
    assert [line["path"] for line in lines] == ["shards/000000.tar"] * 4 + ["shards/000001.tar"] * 4 + ["shards/000002.tar"] * 2
    assert not (out / ".staged").exists()


@pytest.mark.parametrize("each", [1, 3, 4, 100])
def test_tars_that_were_interrupted_are_the_same_bytes(tmp_path: Path, each: int) -> None:
    manifest = csv_of(tmp_path / "rows.csv", PROMPTS)
    job(tmp_path / "whole", manifest, store=tars(tmp_path / "whole", each), total=10)
    out = tmp_path / "broken"
    for after in (0, 1, 1, 0):
        with pytest.raises(KeyboardInterrupt):
            job(out, manifest, Breaks(after), tars(out, each), 10)
    job(out, manifest, store=tars(out, each), total=10)
    assert files(out, "shards/*") == files(tmp_path / "whole", "shards/*")


def test_a_damaged_tar_is_written_again(tmp_path: Path) -> None:
    out, manifest = tmp_path / "out", csv_of(tmp_path / "rows.csv", PROMPTS)
    job(out, manifest, store=tars(out), total=10)
    before = files(out, "shards/*")
    (out / "shards" / "000001.tar").write_bytes(before["shards/000001.tar"][:3000])
    tally, _ = job(out, manifest, store=tars(out), total=10)
    assert files(out, "shards/*") == before
    assert 0 < tally.made <= 4


def test_a_failed_row_is_put_into_its_tar_when_it_is_made(tmp_path: Path) -> None:
    manifest = csv_of(tmp_path / "rows.csv", PROMPTS)
    out = tmp_path / "out"
    tally, _ = job(out, manifest, FakeEngine([PROMPTS[5]]), tars(out), 10)
    assert (tally.made, tally.failed) == (9, 1)
    tally, _ = job(out, manifest, store=tars(out), total=10)
    assert (tally.made, tally.kept, tally.failed) == (1, 9, 0)
    with tarfile.open(out / "shards" / "000001.tar") as tar:
        assert len(tar.getnames()) == 12


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_score_that_is_asked_for_later_is_told_in_the_tars_too(tmp_path: Path, after: int) -> None:
    manifest = csv_of(tmp_path / "rows.csv", PROMPTS)
    job(tmp_path / "whole", manifest, store=tars(tmp_path / "whole"), total=10, score=redness)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt) if after < 3 else nullcontext():
        job(out, manifest, Breaks(after), tars(out), 10)
    job(out, manifest, store=tars(out), total=10, score=redness)
    assert files(out, "shards/*") == files(tmp_path / "whole", "shards/*")
    assert not (out / ".staged").exists()


def test_nothing_half_written_takes_a_files_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, tmp_path / "a" / "x.png", b"old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path, tmp_path / "a" / "x.png", b"new")
    assert (tmp_path / "a" / "x.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_while_a_tar_is_written_stops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, manifest = tmp_path / "out", csv_of(tmp_path / "rows.csv", PROMPTS)
    job(tmp_path / "whole", manifest, store=tars(tmp_path / "whole"), total=10)
    with monkeypatch.context() as patched:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(Stopped, match="the disk is full; 4 of 10 pictures are finished: make room"):
            job(out, manifest, store=tars(out), total=10)
    assert not list((out / "shards").iterdir())
    assert not list((out / ".tmp").iterdir())
    job(out, manifest, store=tars(out), total=10)
    assert files(out, "shards/*") == files(tmp_path / "whole", "shards/*")


def test_a_picture_with_another_checksum_is_not_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    job(out, csv_of(tmp_path / "rows.csv", PROMPTS))
    store = Folders(out, out / ".tmp", "png")
    line = next(read_lines(out / NAME))
    assert store.read(line) is not None
    path = out / line["path"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert store.read(line) is None
