"""A job in an object storage, which here is fsspec's in memory: the same bytes as in a folder, whatever was lost on the way."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tests.unit.batch.fake import Breaks, FakeEngine, csv_of, files, job, kept, redness

from fewstep.batch.bucket import SEGMENTS, Bucket, Objects, Sent, job_bucket
from fewstep.batch.local import Stopped
from fewstep.batch.make import Score
from fewstep.batch.results import NAME
from fewstep.engine.request import RequestError

PROMPTS = [f"a fox of number {number}" for number in range(11)]
SETTINGS = {"manifest": "abc", "seeds": "1-8"}


@pytest.fixture
def url() -> Iterator[str]:
    yield (root := f"memory://bucket-{uuid.uuid4().hex}/run1")
    if objects(root):
        fsspec.filesystem("memory").rm(root.removeprefix("memory:/"), recursive=True)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return csv_of(tmp_path / "rows.csv", PROMPTS)


def objects(url: str) -> dict[str, bytes]:
    storage, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(root).lstrip("/"): storage.cat_file(path) for path in storage.find(root)}


def carry_out(url: str, manifest: Path, engine: FakeEngine | None = None, score: Score | None = None) -> tuple[int, int]:
    """(made, kept) of a job in the bucket, to its end."""
    with job_bucket(url, manifest, SETTINGS) as output:
        tally = kept(output.results, Objects(Bucket(url), "png"), manifest, engine, score)
        output.results.finish(output.scratch)
    return tally.made, tally.kept


def test_a_bucket_holds_what_a_folder_would(url: str, manifest: Path, tmp_path: Path) -> None:
    job(tmp_path / "folder", manifest)
    assert carry_out(url, manifest) == (11, 0)
    found = objects(url)
    assert {name: content for name, content in found.items() if name.startswith("pictures/")} == files(tmp_path / "folder")
    assert found[NAME] == (tmp_path / "folder" / NAME).read_bytes()
    assert set(found) - set(files(tmp_path / "folder")) == {"job.json", NAME}
    assert carry_out(url, manifest) == (0, 11)
    assert objects(url) == found


def test_an_interrupted_job_goes_on_from_the_lines_that_were_sent(url: str, manifest: Path, tmp_path: Path) -> None:
    job(tmp_path / "folder", manifest)
    with pytest.raises(KeyboardInterrupt):
        carry_out(url, manifest, Breaks(2))
    assert [name for name in objects(url) if name.startswith(SEGMENTS)]
    assert carry_out(url, manifest) == (3, 8)
    assert {name: content for name, content in objects(url).items() if name.startswith("pictures/")} == files(tmp_path / "folder")
    assert objects(url)[NAME] == (tmp_path / "folder" / NAME).read_bytes()
    assert not [name for name in objects(url) if name.startswith(SEGMENTS)]


def test_lines_that_were_lost_with_their_machine_cost_their_groups_and_no_more(
    url: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(tmp_path / "folder", manifest)
    with monkeypatch.context() as patched:
        patched.setattr(Sent, "_send", lambda self: None)  # as if it had been killed before
        with pytest.raises(KeyboardInterrupt):
            carry_out(url, manifest, Breaks(2))
    assert set(objects(url)) == {"job.json", *list(files(tmp_path / "folder"))[:8]}
    assert carry_out(url, manifest) == (11, 0)
    assert {name: content for name, content in objects(url).items() if name.startswith("pictures/")} == files(tmp_path / "folder")


def test_a_score_that_is_asked_for_later_is_in_the_results(url: str, manifest: Path, tmp_path: Path) -> None:
    job(tmp_path / "folder", manifest, score=redness)
    carry_out(url, manifest)
    before = objects(url)
    assert carry_out(url, manifest, score=redness) == (0, 11)
    after = objects(url)
    assert after.pop(NAME) == (tmp_path / "folder" / NAME).read_bytes()
    assert after == {name: content for name, content in before.items() if name != NAME}


def test_an_object_that_is_gone_or_cut_short_is_made_again(url: str, manifest: Path) -> None:
    carry_out(url, manifest)
    before = objects(url)
    gone, short = [name for name in before if name.startswith("pictures/")][4:6]
    Bucket(url).drop(gone)
    Bucket(url).put(short, before[short][:-1])
    assert carry_out(url, manifest) == (2, 9)
    assert objects(url) == before


def test_the_bucket_of_another_job_is_a_sentence(url: str, manifest: Path) -> None:
    carry_out(url, manifest)
    before = objects(url)
    with pytest.raises(RequestError, match="belongs to another job: its seeds is"), job_bucket(url, manifest, {**SETTINGS, "seeds": "1-9"}):
        pass
    with pytest.raises(RequestError, match="is not what it was when the job in"), job_bucket(url, manifest, {**SETTINGS, "manifest": "abd"}):
        pass
    assert objects(url) == before


def test_other_objects_are_left_alone(url: str, manifest: Path) -> None:
    Bucket(url).put("notes.txt", b"mine")
    with pytest.raises(RequestError, match="holds other objects"), job_bucket(url, manifest, SETTINGS):
        pass
    assert objects(url) == {"notes.txt": b"mine"}


def test_a_storage_that_cannot_be_used_is_a_sentence(manifest: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="nowhere://bucket/run cannot be written here"), job_bucket("nowhere://bucket/run", manifest, SETTINGS):
        pass
    with pytest.raises(RequestError, match="name the bucket"):
        Bucket("memory:///")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Access Denied")

    with monkeypatch.context() as patched:
        patched.setattr(fsspec.get_filesystem_class("memory"), "ls", refused)
        with pytest.raises(RequestError, match=r"cannot be used \(Access Denied\): see that the bucket is there and that credentials"):
            carry_out(url, manifest)
    with monkeypatch.context() as patched:
        patched.setattr(Objects, "write", lambda *_: Bucket(url)._try("pictures/x", refused))
        with pytest.raises(Stopped, match=r"/pictures/x cannot be written \(Access Denied\); 0 of 11 pictures are finished: put that right"):
            carry_out(url, manifest)


def test_pictures_alone_belong_to_the_job_that_put_them(url: str, manifest: Path) -> None:
    with job_bucket(url, manifest, SETTINGS) as output:
        output.put("pictures/00000/a.png", b"a")
    with pytest.raises(RequestError, match="another job"), job_bucket(url, manifest, {**SETTINGS, "seeds": "1-9"}):
        pass
