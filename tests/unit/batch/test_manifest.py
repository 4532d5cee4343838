"""Manifests: the same rows from every kind of file, by the line they stand in, and never all at once."""

from __future__ import annotations

import json
import math
import tracemalloc
from datetime import date
from decimal import Decimal
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "prompt\tseed\r\nBär, x\t7\r\n".encode("utf-16")),
        ("rows.csv", b"\xfe\xff" + "prompt;seed\nBär, x;7\n".encode("utf-16-be")),
        ("rows.yaml", "- {prompt: 'Bär, x', seed: '7'}".encode("utf-16")),
        ("rows.csv", "sep=;\r\nprompt;seed\r\nBär, x;7\r\n".encode("utf-8-sig")),
        ("rows.tsv", '"sep=|"\nprompt|seed\nBär, x|7\n'.encode()),
    ],
    ids=["Unicode text", "big-endian", "YAML", "a line for Excel", "the same in quotes"],
)
def test_what_excel_saves_is_read_as_it_means_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (row,) = open_manifest(tmp_path / name).rows()
    assert row.values == {"prompt": "Bär, x", "seed": "7"}


def test_lines_are_counted_with_the_one_that_names_the_separator(tmp_path: Path) -> None:
    rows = open_manifest(write(tmp_path / "rows.csv", "sep=;\nprompt;seed\na;1\nb;2;3\n")).rows()
    assert [(row.line, bool(row.problem)) for row in rows] == [(3, False), (4, True)]


def test_yaml_without_quotes_is_what_it_looks_like(tmp_path: Path) -> None:
    """The older YAML makes 969, 540.3, False, 7 and a date of the first five, and knows no last one."""
    texts = ["16:9", "9:0.3", "no", "007", "2026-01-02", "="]
    (row,) = open_manifest(write(tmp_path / "rows.yaml", f"- texts: [{', '.join(texts)}]\n  others: [7, -1.5, true, ~, .inf]\n")).rows()
    assert row.values == {"texts": texts, "others": [7, -1.5, True, None, "inf"]}


def test_parquet_may_hold_what_json_does_not(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "day": [date(2026, 1, 2)] * 3,
        "price": [Decimal("19.90")] * 3,
        "code": [b"x", b"\xff", b"y"],
        "size": [7.0, None, math.nan],
        "made": pyarrow.array([1000, 2000, 3001], pyarrow.timestamp("ns")),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    one, two, three = open_manifest(tmp_path / "rows.parquet").rows()
    assert one.values == {"day": "2026-01-02", "price": "19.90", "code": "x", "size": 7.0, "made": "1970-01-01T00:00:00.000001"}
    assert two.problem == "its code holds bytes that are no text: leave it out, or write it as text"
    assert "write the cell as text" in three.problem or three.values["made"].endswith("3001"), "pandas knows nanoseconds"


def test_parquet_that_is_damaged_inside_is_said_and_ends_nothing(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"prompt": [f"a fox of number {number}" for number in range(5000)]}), tmp_path / "rows.parquet")
    content = bytearray((tmp_path / "rows.parquet").read_bytes())
    content[100:1100] = b"\xff" * 1000
    (tmp_path / "rows.parquet").write_bytes(content)
    assert list(open_manifest(tmp_path / "rows.parquet").rows())[-1].problem == "the file is damaged from here on: write it again"


def test_a_text_file_is_prompts(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "prompts.txt", "a fox\n\n  an owl \n"))
    assert [(row.line, row.values) for row in manifest.rows()] == [(1, {"prompt": "a fox"}), (3, {"prompt": "an owl"})]


@pytest.mark.parametrize(
    ("name", "content", "problems"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": \n[1]\n{"prompt": "b"}\n', {2: "no JSON", 3: "no object"}),
        ("rows.csv", 'prompt,seed\na,1\nb,2,3\n"c"d,4\ne,5\n', {3: "3 cells for 2 columns", 4: "no row of a CSV"}),
        ("rows.yaml", "- prompt: a\n- 7\n- prompt: [b\n", {2: "no object", 4: "no YAML from here on"}),
        ("rows.yaml", "- prompt: a\n- seed: !!timestamp x\n- seed: !!python/name:os.system x\n", {2: "a tag or a value", 3: "a tag or a value"}),
        ("rows.yaml", "- prompt: a\n- sku: &own [*own]\n- sku: !!binary /w==\n", {2: "its sku is nested too deep", 3: "its sku holds bytes that are no text"}),
    ],
)
def test_what_is_wrong_with_a_row_is_said_by_its_line_and_ends_nothing(tmp_path: Path, name: str, content: str, problems: dict[int, str]) -> None:
    rows = list(open_manifest(write(tmp_path / name, content)).rows())
    found = {row.line: row.problem for row in rows if row.problem}
    assert found.keys() == problems.keys()
    for line, sentence in problems.items():
        assert sentence in found[line]
    assert [row.values["prompt"] for row in rows if not row.problem] == (["a"] if name.endswith("yaml") else ["a", "b" if "jsonl" in name else "e"])


@pytest.mark.parametrize("told", ["", "sep=,\n"])
def test_a_quote_that_is_not_closed_takes_no_row_but_its_own(tmp_path: Path, told: str) -> None:
    """Whether the file ends in it, another quote ends it at the wrong place, or a cell gets too long; a cell of several lines is still one."""
    for rest in ("", '"x"y,4\n', "a\n" * 100_000):
        content = f'{told}prompt,seed\na,1\n"b,2\nc,3\n"d\nd",5\n{rest}'
        rows = list(open_manifest(write(tmp_path / "rows.csv", content)).rows())
        first = 3 + bool(told)
        assert (rows[1].line, "no row of a CSV" in rows[1].problem) == (first, True)
        assert [(row.line - first, row.values) for row in rows[2:4]] == [(1, {"prompt": "c", "seed": "3"}), (2, {"prompt": "d\nd", "seed": "5"})]
        assert len(rows) == 4 + rest.count("\n")


def test_a_cell_of_several_lines_that_is_badly_closed_makes_no_rows_of_its_lines(tmp_path: Path) -> None:
    rows = list(open_manifest(write(tmp_path / "rows.csv", 'prompt,seed\n"a fox\nand an owl\non a hill" ,5\nb,6\n')).rows())
    assert [(row.line, bool(row.problem), row.values) for row in rows] == [(2, True, {}), (5, False, {"prompt": "b", "seed": "6"})]


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


def test_yaml_in_another_encoding_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_bytes("- prompt: ein Bär\n".encode("latin1"))
    with pytest.raises(RequestError, match="holds characters that YAML does not take: write it in UTF-8"):
        list(open_manifest(tmp_path / "rows.yaml").rows())
    (tmp_path / "rows.yaml").write_bytes(b"- prompt: a fox\n" * 999 + "- prompt: ein Bär\n".encode("latin1"))
    *rows, last = open_manifest(tmp_path / "rows.yaml").rows()
    assert {row.values["prompt"] for row in rows} == {"a fox"}
    assert last.problem.startswith("the file holds characters that YAML does not take")


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
