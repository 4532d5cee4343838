"""Manifests: the same rows from every kind of file, by the line they stand in, and never all at once."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from fewstep.batch.manifest import open_manifest
from fewstep.engine.request import RequestError

ROWS = [{"prompt": "a fox, red", "seed": 1}, {"prompt": 'an "owl"\nat night', "seed": 2}, {"prompt": "ein Bär"}]
CSV = '\ufeffprompt,seed\n"a fox, red",1\n\n"an ""owl""\nat night",2\nein Bär,\n'
YAML = '- prompt: a fox, red\n  seed: 1\n- {prompt: "an \\"owl\\"\\nat night", seed: 2}\n# the last\n- prompt: ein Bär\n  seed:\n'


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf8", newline="")
    return path


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"prompt": [row["prompt"] for row in ROWS], "seed": pyarrow.array([1, 2, None], pyarrow.int64())})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    files = {
        write(tmp_path / "rows.csv", CSV): [2, 4, 6],
        write(tmp_path / "semicolons.csv", 'prompt;seed\r\na fox, red;1\r\n"an ""owl""\nat night";2\r\nein Bär\r\n'): [2, 3, 5],
        write(tmp_path / "rows.tsv", 'prompt\tseed\na fox, red\t1\n"an ""owl""\nat night"\t2\nein Bär\t\n'): [2, 3, 5],
        write(tmp_path / "rows.jsonl", "\n".join(json.dumps(row) for row in ROWS)): [1, 2, 3],
        write(tmp_path / "rows.yaml", YAML): [1, 3, 5],
        tmp_path / "rows.parquet": [1, 2, 3],
    }
    for path, lines in files.items():
        rows = list(open_manifest(path).rows())
        texts = [{name: str(value) for name, value in row.values.items()} for row in rows]
        assert texts == [{name: str(value) for name, value in row.items()} for row in ROWS], path.name
        assert [row.line for row in rows] == lines, path.name


def test_a_text_file_is_prompts(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "prompts.txt", "a fox\n\n  an owl \n"))
    assert [(row.line, row.values) for row in manifest.rows()] == [(1, {"prompt": "a fox"}), (3, {"prompt": "an owl"})]


@pytest.mark.parametrize(
    ("name", "content", "problems"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": \n[1]\n{"prompt": "b"}\n', {2: "no JSON", 3: "no object"}),
        ("rows.csv", 'prompt,seed\na,1\nb,2,3\n"c"d,4\ne,5\n', {3: "3 cells for 2 columns", 4: "no row of a CSV"}),
        ("rows.yaml", "- prompt: a\n- 7\n- prompt: [b\n", {2: "no object", 4: "no YAML from here on"}),
    ],
)
def test_what_is_wrong_with_a_row_is_said_by_its_line_and_ends_nothing(tmp_path: Path, name: str, content: str, problems: dict[int, str]) -> None:
    rows = list(open_manifest(write(tmp_path / name, content)).rows())
    found = {row.line: row.problem for row in rows if row.problem}
    assert found.keys() == problems.keys()
    for line, sentence in problems.items():
        assert sentence in found[line]
    assert [row.values["prompt"] for row in rows if not row.problem] == (["a"] if name.endswith("yaml") else ["a", "b" if "jsonl" in name else "e"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.xlsx", "", "no manifest: give a file that ends in .csv"),
        ("none.csv", None, "cannot be read"),
        ("rows.csv", "", "is empty: its first line names the columns"),
        ("rows.csv", "prompt,seed,prompt\n", "two columns are called 'prompt'"),
        ("rows.csv", "prompt,,seed\n", "a column has no name"),
        ("rows.parquet", "PAR1", "no parquet file"),
    ],
)
def test_what_is_no_manifest_is_a_sentence(tmp_path: Path, name: str, content: str | None, sentence: str) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(RequestError, match=sentence):
        open_manifest(tmp_path / name)


@pytest.mark.parametrize("content", ["prompt: a fox\n", "", "just text\n"])
def test_yaml_that_is_no_list_is_a_sentence(tmp_path: Path, content: str) -> None:
    with pytest.raises(RequestError, match="a YAML manifest is a list"):
        list(open_manifest(write(tmp_path / "rows.yaml", content)).rows())


@pytest.mark.parametrize(
    ("name", "first", "row", "count"), [("rows.csv", "prompt,seed\n", "a fox,{}\n", 50_000), ("rows.yaml", "", "- {{prompt: a fox, seed: {}}}\n", 2_000)]
)
def test_a_long_file_is_never_held(tmp_path: Path, name: str, first: str, row: str, count: int) -> None:
    """Reading takes the same memory for few rows and for many."""
    peaks = []
    for rows in (count // 10, count):
        path = write(tmp_path / name, first + "".join(row.format(number) for number in range(rows)))
        tracemalloc.start()
        assert sum(1 for _ in open_manifest(path).rows()) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000
