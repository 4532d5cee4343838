"""results.jsonl: one line a picture, whatever was appended and however it was cut off."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.batch.results import NAME, Results


def failure(index: int, **more: object) -> dict[str, object]:
    """The least that a line has."""
    return {"index": index, "row": 1, "error": "it would not", **more}


def text(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@given(st.lists(st.integers(0, 9), max_size=40))
def test_the_last_line_of_each_counts_in_the_manifests_order(tmp_path_factory: pytest.TempPathFactory, indices: list[int]) -> None:
    folder = tmp_path_factory.mktemp("results")
    results = Results(folder / NAME)
    for number, index in enumerate(indices):
        results.add(failure(index, number=number, prompt="ein Bär"))
    last = {index: number for number, index in enumerate(indices)}
    (folder / "scratch").mkdir()
    results.finish(folder / "scratch")
    results.close()
    assert [(line["index"], line["number"]) for line in text(folder / NAME)] == sorted(last.items())
    again = Results(folder / NAME)
    assert {index: (again.of(index) or {}).get("number") for index in last} == last
    again.close()


@pytest.mark.parametrize("cut", range(1, 30))
def test_half_a_line_is_cut_off_and_what_follows_is_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / NAME
    whole = b'{"index": 0}\n{"index": 1, "a": 2}\n'
    path.write_bytes(whole[:-cut])
    results = Results(path)
    results.add({"index": 2})
    results.close()
    left = whole[:-cut].count(b"\n")
    assert [line["index"] for line in text(path)] == [*range(left), 2]


def test_numbers_that_json_does_not_know_are_not_written_and_nothing_where_they_were(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps(failure(0, labels={"price": math.nan})) + "\n")
    results = Results(tmp_path / NAME)
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.add({"index": 1, "labels": {"price": math.inf}})
    (tmp_path / "scratch").mkdir()
    results.finish(tmp_path / "scratch")
    results.close()
    assert (tmp_path / NAME).read_text() == json.dumps(failure(0, labels={"price": None})) + "\n"


def test_a_damaged_line_is_no_line(tmp_path: Path) -> None:
    """Nor is one that lacks what the job goes on by, or says it otherwise: its picture is made again."""
    made = {"index": 3, "row": 1, "prompt": "a", "key": "k", "path": "pictures/a.png", "sha256": "s", "bytes": 1}
    spoilt = [{key: value for key, value in made.items() if key != name} for name in made] + [{**made, "bytes": "1"}, {**made, "path": "shards/0.tar"}]
    broken = [b'\x00\xff{"ind', b"[1]", *(json.dumps(one).encode() for one in [*spoilt, failure("1"), failure(2**70), failure(-1)])]  # type: ignore[arg-type]
    whole = [json.dumps(one).encode() for one in (failure(0), failure(2), {**made, "index": 4})]
    (tmp_path / NAME).write_bytes(b"\n".join([whole[0], *broken, *whole[1:], b""]))
    results = Results(tmp_path / NAME)
    assert [line["index"] for line in results.lines()] == [0, 2, 4]
    assert results.of(1) is None
    results.close()
