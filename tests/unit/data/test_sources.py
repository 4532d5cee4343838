"""The same pictures out of every kind of source, and what is no source is a sentence."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fewstep.data.sources import open_source
from fewstep.engine.request import RequestError

PICTURES = {f"{name}.png": name.encode() * 9 for name in ("a", "b", "c")}  # a source does not look into them
SAID = {"a.png": "a red apple", "b.png": "a green pear", "c.png": "two plums"}
Told = list[tuple[str | None, bytes]]


def told(source: Path | str) -> Told:
    """(caption, bytes) of every picture that can be read."""
    return [(item.caption, item.place.read()) for item in open_source(str(source)).items()]


def wanted() -> Told:
    return [(SAID[name], content) for name, content in PICTURES.items()]


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for name, content in PICTURES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("encoding", ["utf8", "utf-8-sig", "utf-16"])
def test_text_beside_the_picture(tmp_path: Path, encoding: str) -> None:
    folder = pictures(tmp_path / "in")
    for name, caption in SAID.items():
        (folder / name).with_suffix(".txt").write_text(caption, encoding=encoding)
    assert told(folder) == wanted()


@pytest.mark.parametrize(("name", "file", "caption"), [("captions.jsonl", "file", "caption"), ("metadata.jsonl", "file_name", "text")])
def test_lines_of_json(tmp_path: Path, name: str, file: str, caption: str) -> None:
    folder = pictures(tmp_path / "in")
    (folder / name).write_text("".join(json.dumps({file: of, caption: said, "aesthetic": "6.5"}) + "\n" for of, said in SAID.items()))
    assert told(folder) == wanted()
    assert [item.score for item in open_source(str(folder)).items()] == [6.5] * 3


@pytest.mark.parametrize("encoding", ["utf8", "utf-8-sig", "utf-16"])
def test_a_csv(tmp_path: Path, encoding: str) -> None:
    folder = pictures(tmp_path / "in")
    (folder / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},{caption}\n" for name, caption in SAID.items()), encoding=encoding)
    assert told(folder) == wanted()


def test_nothing_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    """A row without its file, a damaged row, one that leads out, a picture without a row and a link to nothing: each is an item that says so."""
    folder = pictures(tmp_path / "in")
    (tmp_path / "secret.png").write_bytes(b"secret")
    rows = [json.dumps({"file": name, "caption": "x"}) for name in ("a.png", "gone.png", "../secret.png")]
    (folder / "captions.jsonl").write_text("\n".join([*rows, "{", ""]))
    (folder / "old.gif").write_bytes(b"GIF")
    (folder / "z.png").symlink_to(tmp_path / "gone.png")
    items = list(open_source(str(folder)).items())
    assert [item.name for item in items] == ["a.png", "gone.png", "../secret.png", "captions.jsonl, line 4", "b.png", "c.png", "old.gif", "z.png"]
    for item in (*items[1:4], items[7]):
        with pytest.raises(RequestError):
            item.place.read()
    assert [item.caption for item in items[4:]] == [None] * 4


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_webdataset(tmp_path: Path) -> None:
    """Of a sample the caption is in .txt or in .json; samples go over several tars."""
    members = [("x/b.png", PICTURES["b.png"])]
    tar(tmp_path / "1.tar", [("c.txt", SAID["c.png"].encode()), ("c.seg.png", PICTURES["c.png"]), ("d.txt", b"no picture")])
    tar(tmp_path / "0.tar", [("x/a.png", PICTURES["a.png"]), ("x/a.txt", b"a red apple"), ("x/b.json", b'{"caption": "a green pear", "score": 3}'), *members])
    items = list(open_source(str(tmp_path)).items())
    assert [(item.caption, item.place.read()) for item in items[:3]] == wanted()
    assert [item.name for item in items] == ["0.tar/x/a", "0.tar/x/b", "1.tar/c", "1.tar/d"]
    assert items[1].score == 3
    with pytest.raises(RequestError, match="no picture"):
        items[3].place.read()


@pytest.mark.parametrize("length", [4000, 4608, 5000, 9000, 9216])
def test_a_tar_that_breaks_off_is_named(tmp_path: Path, length: int) -> None:
    """In a picture, between two samples, in a header, in the last picture, and behind it."""
    path = tar(tmp_path / "0.tar", [("a.png", bytes(4000)), ("b.png", bytes(4000))])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RequestError, match=r"0\.tar is no tar, or it is cut short"):
        list(open_source(str(path)).items())


@pytest.mark.parametrize("layout", ["bytes", "struct"])
def test_parquet(tmp_path: Path, layout: str) -> None:
    """Bare bytes, and the Hub's {"bytes", "path"}; over several row groups."""
    cells = [content if layout == "bytes" else {"bytes": content, "path": name} for name, content in PICTURES.items()]
    table = pyarrow.table({"image": cells, "text": list(SAID.values()), "aesthetic_score": [5.0, None, 7.0]})
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "data" / "train-0.parquet", row_group_size=2)
    assert told(tmp_path) == wanted()
    assert [item.score for item in open_source(str(tmp_path)).items()] == [5.0, None, 7.0]


def test_parquet_of_addresses_is_a_sentence(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"url": ["http://x.y/a.png"], "caption": ["a red apple"]}), tmp_path / "0.parquet")
    with pytest.raises(RequestError, match="no column with the bytes of pictures, but url, caption"):
        list(open_source(str(tmp_path)).items())


def test_a_data_set_of_the_hub_is_taken_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match="hf download --repo-type dataset some/fruit"):
        open_source("some/fruit")
    folder = tmp_path / "datasets--some--fruit"
    (folder / "snapshots").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c0ffee")
    source = pictures(folder / "snapshots" / "c0ffee")
    (source / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},{caption}\n" for name, caption in SAID.items()))
    for number, path in enumerate(sorted(source.iterdir())):  # as the Hub's cache has them: links to files named by their hash
        blob = folder / "blobs" / f"{number:064x}"
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(Path("..", "..", "blobs", blob.name))
    assert told("some/fruit") == wanted()


def test_a_table_is_for_the_folder_that_it_lies_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As data sets of the Hub have one in train/ and one in test/."""
    for split in ("train", "test"):
        (tmp_path / "in").mkdir(exist_ok=True)
        folder = pictures(tmp_path / "in" / split)
        rows = [{"file_name": name, "text": f"{caption}, {split}"} for name, caption in SAID.items()]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"file_name": "../../a.png", "text": "x"}]))
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    items = list(open_source("../in").items())
    assert [item.name for item in items] == [f"{split}/{name}" for split in ("test", "train") for name in (*SAID, "../../a.png")]
    assert items[0].caption == "a red apple, test"
    with pytest.raises(RequestError, match="leads out of the folder"):
        items[3].place.read()


@pytest.mark.parametrize(("name", "sentence"), [("none", "there is no source"), ("notes.txt", "is no source"), ("packed", "unpack it with gunzip")])
def test_what_is_no_source_is_a_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "0.tar.gz").write_bytes(b"")
    with pytest.raises(RequestError, match=sentence):
        open_source(str(tmp_path / name))
