"""A job on one machine: exactly once, whatever fails or stops it, and the same bytes as if nothing had."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.batch.fake import Breaks, FakeEngine, csv_of, files, job, parts, redness

from fewstep.batch.expand import Bad
from fewstep.batch.local import Stopped, carried_out, tasks
from fewstep.batch.make import Made, make
from fewstep.batch.plan import Group
from fewstep.batch.results import NAME, read_lines
from fewstep.batch.store import Folders
from fewstep.engine.files import read_record
from fewstep.engine.request import Frame, RequestError, Settled


class Forgetful(FakeEngine):
    """Keeps no note of what it made."""

    def walk(self, batch: Sequence[Settled], decoder: str | None = None) -> Iterator[list[Frame]]:
        self.batches.clear()
        return super().walk(batch, decoder)


PROMPTS = [f"a fox of number {number}" for number in range(11)]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return csv_of(tmp_path / "rows.csv", PROMPTS)


def test_every_row_is_a_picture_and_a_line(tmp_path: Path, manifest: Path) -> None:
    out, engine = tmp_path / "out", FakeEngine()
    tally, failed = job(out, manifest, engine)
    lines = list(read_lines(out / NAME))
    assert ([line["prompt"] for line in lines], failed) == (PROMPTS, [])
    assert {line["path"] for line in lines} == set(files(out))
    assert [len(batch) for batch in engine.batches] == [4, 4, 4], "the last is filled up"
    assert (tally.made, tally.bytes) == (11, sum(map(len, files(out).values())))
    record = read_record(out / lines[9]["path"])
    assert (record.prompt, record.batch, record.row) == (PROMPTS[9], 4, 1)


def test_a_finished_job_makes_nothing_more(tmp_path: Path, manifest: Path) -> None:
    out, engine = tmp_path / "out", FakeEngine()
    job(out, manifest)
    before = files(out, "**/*.*")
    tally, _ = job(out, manifest, engine)
    assert (tally.kept, tally.made, engine.batches) == (11, 0, [])
    assert files(out, "**/*.*") == before


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_pictures_that_were_made_without_a_score_have_it_once_it_is_asked_for(tmp_path: Path, manifest: Path, kind: str) -> None:
    """Whether the job was done or half done before: as if it had been asked for at once, and nothing is looked at twice."""
    looked: list[str] = []

    def score(image: Image.Image, prompt: str) -> float | None:
        looked.append(prompt)
        return redness(image, prompt)

    def scores(out: Path) -> list[tuple[object, object]]:
        return [(line["prompt"], line["score"]) for line in read_lines(out / NAME)]

    job(tmp_path / "whole", manifest, kind=kind, score=redness)
    job(tmp_path / "done", manifest, kind=kind)
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "half", manifest, Breaks(1), kind=kind)
    for out, (made, there) in {"done": (0, 11), "half": (7, 4)}.items():
        before = files(tmp_path / out, "pictures/**/*")
        looked.clear()
        tally, _ = job(tmp_path / out, manifest, kind=kind, score=score)
        assert (tally.made, tally.kept, sorted(looked)) == (made, there, sorted(PROMPTS))
        assert scores(tmp_path / out) == scores(tmp_path / "whole")
        assert before.items() <= files(tmp_path / out, "pictures/**/*").items()
        job(tmp_path / out, manifest, kind=kind, score=score)
        assert len(looked) == len(PROMPTS)
    assert dict(scores(tmp_path / "whole"))[PROMPTS[3]] is None


def test_an_error_about_a_folder_that_is_no_unicode_is_written_all_the_same(tmp_path: Path, manifest: Path) -> None:
    manifest.write_text("prompt,seed,image\na,1,b.png\n")
    (folder := tmp_path / "\udcff").mkdir()
    job(tmp_path / "out", manifest.rename(folder / "rows.csv"))
    assert "\\udcff/b.png cannot be read" in next(read_lines(tmp_path / "out" / NAME))["error"]


def test_what_is_missing_or_damaged_is_made_again_with_its_whole_group(tmp_path: Path, manifest: Path) -> None:
    """The pictures of the fake depend on the size of their batch, as an engine's do in their last bits."""
    out, engine = tmp_path / "out", FakeEngine()
    job(out, manifest)
    before = files(out)
    (missing, damaged) = [out / name for name in list(before)[5:7]]
    missing.unlink()
    damaged.write_bytes(b"")
    tally, _ = job(out, manifest, engine)
    assert files(out) == before
    assert (tally.made, tally.kept) == (2, 9)
    assert [[one.prompt for one in batch] for batch in engine.batches] == [PROMPTS[4:8]]
    assert len(list(read_lines(out / NAME))) == 11


def test_one_that_the_engine_fails_at_does_not_take_its_group_along(tmp_path: Path, manifest: Path) -> None:
    out = tmp_path / "out"
    tally, failed = job(out, manifest, FakeEngine([PROMPTS[5]]))
    assert [(bad.line, bad.error) for bad in failed] == [(7, f"no picture of {PROMPTS[5]}")]
    assert (tally.made, tally.failed) == (10, 1)
    lines = list(read_lines(out / NAME))
    assert [line["index"] for line in lines if "error" in line] == [5]
    tally, failed = job(out, manifest)
    assert (tally.made, tally.kept, failed) == (1, 10, [])
    assert not [line for line in read_lines(out / NAME) if "error" in line]


def test_a_bad_row_stops_nothing_but_a_strict_job(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.csv"
    manifest.write_text(
        "prompt,seed\n" + "".join(f"a{number},{number}\n" for number in range(4)) + "b,x\n" + "".join(f"c{number},{number}\n" for number in range(8))
    )
    tally, failed = job(tmp_path / "out", manifest)
    assert (tally.made, [bad.line for bad in failed]) == (12, [6])
    with pytest.raises(Stopped, match="--strict; 4 of"):
        job(tmp_path / "strict", manifest, strict=True)
    assert len(files(tmp_path / "strict")) == 4


@pytest.mark.parametrize("at", [0, 3, 4, 10])
def test_a_full_disk_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    out, written = tmp_path / "out", []
    job(tmp_path / "whole", manifest)
    with monkeypatch.context() as patched:
        write = Folders.write

        def full(self: Folders, line: dict[str, object], content: bytes) -> None:
            if len(written) == at:
                raise OSError(28, "No space left on device")
            written.append(line)
            write(self, line, content)

        patched.setattr(Folders, "write", full)
        with pytest.raises(Stopped, match=f"the disk is full; {at} of 11 pictures are finished: make room and give the same command again"):
            job(out, manifest, total=11)
    assert len(files(out)) == at
    tally, _ = job(out, manifest)
    assert (tally.kept, tally.made) == (at, 11 - at)
    assert files(out) == files(tmp_path / "whole")


def test_a_disk_that_fills_in_the_middle_of_a_line(tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    out, real, left = tmp_path / "out", os.write, [2000]

    def write(file: int, content: bytes) -> int:
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        count = real(file, content[: left[0]])
        left[0] -= count
        return count

    with monkeypatch.context() as patched:
        patched.setattr("fewstep.batch.results.os.write", write)
        with pytest.raises(Stopped, match="the disk is full"):
            job(out, manifest)
    assert not (out / NAME).read_bytes().endswith(b"\n")
    job(out, manifest)
    job(tmp_path / "whole", manifest)
    assert files(out) == files(tmp_path / "whole")
    assert [line["index"] for line in read_lines(out / NAME)] == list(range(11))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Folders, line: dict[str, object], content: bytes) -> None:
        raise PermissionError(13, "Permission denied", "pictures/00000")

    monkeypatch.setattr(Folders, "write", denied)
    with pytest.raises(Stopped, match=r"pictures/00000 cannot be written \(Permission denied\)"):
        job(tmp_path / "out", manifest)


def test_an_image_that_has_changed_since_is_a_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "base.png")
    manifest = tmp_path / "rows.csv"
    manifest.write_text("prompt,seed,image,strength,steps\na,1,base.png,0.5,4\n")
    job(tmp_path / "out", manifest)
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "base.png")
    with pytest.raises(RequestError, match=r"row 1 \(line 2\) is not what its picture was made of: an image"):
        job(tmp_path / "out", manifest)


def test_an_interrupt_leaves_what_was_made(tmp_path: Path, manifest: Path) -> None:
    class Interrupted(FakeEngine):
        def walk(self, batch, decoder=None):  # type: ignore[no-untyped-def]
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().walk(batch, decoder)

    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "out", manifest, Interrupted())
    assert len(files(tmp_path / "out")) == 8
    job(tmp_path / "out", manifest)
    job(tmp_path / "whole", manifest)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_several_devices_work_at_once_and_what_they_made_comes_in_order(manifest: Path) -> None:
    """Each waits for the other: one alone would not go on."""
    meet, by = threading.Barrier(2, timeout=20), dict[int, int]()

    def device(number: int) -> Callable[[Group], list[Made | Bad]]:
        def work(group: Group) -> list[Made | Bad]:
            by[group.number] = number
            if group.number < 2:
                meet.wait()
            return make(FakeEngine(), group)

        return work

    found = list(carried_out(tasks(parts(manifest), lambda item: None), [device(0), device(1)]))
    assert [one.item.index for outcomes in found for one in outcomes if isinstance(one, Made)] == list(range(11))
    assert by[0] != by[1]


def test_what_a_device_raises_is_raised(manifest: Path) -> None:
    def broken(group: Group) -> list[Made | Bad]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(carried_out(tasks(parts(manifest), lambda item: None), [broken, broken]))


def test_no_more_is_made_than_is_soon_written(manifest: Path) -> None:
    """The first takes long: the others wait for it, and nothing piles up behind."""
    held, begun = threading.Event(), list[int]()

    def device(group: Group) -> list[Made | Bad]:
        begun.append(group.number)
        if group.number == 0:
            assert held.wait(20)
        return []

    many = [Group(number, part.items, part.size) for part in list(parts(manifest))[:1] if isinstance(part, Group) for number in range(50)]
    threading.Timer(0.3, held.set).start()
    outcomes = carried_out(tasks(many, lambda item: None), [device, device])
    next(outcomes)
    assert len(begun) <= 2 * 2 + 2
    assert len(list(outcomes)) == 49


def test_memory_does_not_grow_with_the_job(tmp_path: Path) -> None:
    """From the file to the pictures: what ten million rows would take is what a few hundred do."""
    peaks = []
    for count in (200, 1_200):
        manifest = csv_of(tmp_path / f"{count}.csv", map(str, range(count)))
        tracemalloc.start()
        tally, _ = job(tmp_path / str(count), manifest, Forgetful(), total=count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert tally.made == count
    assert peaks[1] < peaks[0] + 150_000, "that is 150 bytes for each more"
