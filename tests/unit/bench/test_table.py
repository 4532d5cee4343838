"""What a table shows: in a pipe, in Markdown, and of a row that failed."""

from __future__ import annotations

import io

import pytest

from fewstep.bench.table import LAYOUTS, Section, label, markdown, print_section

GOOD = {"side": 256, "batch": 1, "steps": 4, "decoder": "full", "ours_ms": 100.0, "diffusers_ms": 250.04, "ratio": 2.5, "difference": 1, "failed": None}
BAD = {**GOOD, "decoder": "tiny", "ratio": None, "difference": 37, "failed": "its pictures differ by 37 of 255, and 2 are allowed"}
SECTION = Section("compare", (GOOD, BAD), ("a note [with] brackets",))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_pipe_it_is_plain_text_in_columns() -> None:
    stream = io.StringIO()
    print_section(SECTION, stream)
    assert stream.getvalue() == (
        "fewstep against diffusers\n"
        " px  batch  steps  decoder  ours, ms  diffusers, ms  times faster  differs by\n"
        "256      1      4  full        100.0          250.0          2.50           1\n"
        "256      1      4  tiny        100.0          250.0        FAILED          37\n"
        "note: a note [with] brackets\n\n"
    )


def test_on_a_terminal_nothing_is_lost_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    print_section(SECTION, stream)
    shown = stream.getvalue()
    for part in ("fewstep against diffusers", "times faster", "250.0", "FAILED", "a note [with] brackets"):
        assert part in shown


def test_in_a_document_it_is_a_markdown_table() -> None:
    title, about, table, notes = markdown(SECTION).split("\n\n")
    assert (title, about) == ("### fewstep against diffusers", LAYOUTS["compare"].about)
    assert table.splitlines() == [
        "| px | batch | steps | decoder | ours, ms | diffusers, ms | times faster | differs by |",
        "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
        "| 256 | 1 | 4 | full | 100.0 | 250.0 | 2.50 | 1 |",
        "| 256 | 1 | 4 | tiny | 100.0 | 250.0 | FAILED | 37 |",
    ]
    assert notes == "- a note [with] brackets"


def test_a_row_that_failed_is_named() -> None:
    assert SECTION.failed == ["compare, 256 px, batch 1, steps 4, decoder tiny: its pictures differ by 37 of 255, and 2 are allowed"]
    assert label(Section("startup", ()), {"what": "python alone"}) == "python alone"


def test_a_table_without_rows_says_why() -> None:
    stream = io.StringIO()
    print_section(Section("method", (), ("left out: no teacher",)), stream)
    assert stream.getvalue() == "Against the standard way: the method alone\nnote: left out: no teacher\n\n"


def test_the_first_columns_of_every_table_tell_its_rows_apart() -> None:
    for name, layout in LAYOUTS.items():
        fields = [column.field for column in layout.columns]
        assert 1 <= layout.keys < len(fields), name
        assert len(set(fields)) == len(fields), name
