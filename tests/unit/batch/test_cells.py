"""Cells of a list: whatever its format holds, they are values of JSON or a sentence."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.batch.cells import is_unicode, plain

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.dates(), st.datetimes(), st.times(), st.timedeltas(), st.decimals(allow_nan=False)
)
NESTED = st.recursive(
    ODD, lambda below: st.lists(below) | st.dictionaries(st.text() | st.integers() | st.dates(), below) | st.sets(ODD) | st.tuples(below, below)
)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (time(3, 4), "03:04:00"),
        (timedelta(days=1), "1 day, 0:00:00"),
        (Decimal("19.90"), "19.90"),
        (Decimal("1E+3"), "1000"),
        ("Bär".encode(), "Bär"),
        (float("nan"), None),
        (float("-inf"), "-inf"),
        ({"a": [float("nan"), date(2026, 1, 2)], 7: (b"x", True)}, {"a": [None, "2026-01-02"], "7": ["x", True]}),
        ({"b", "a"}, ["a", "b"]),
    ],
)
def test_what_json_does_not_know_is_text_or_nothing(value: Any, meant: Any) -> None:
    assert plain(value) == meant


@given(NESTED)
def test_a_plain_cell_comes_back_from_json_as_it_is(value: Any) -> None:
    cell = plain(value)
    assert json.loads(json.dumps(cell, allow_nan=False)) == cell
    assert plain(cell) == cell


def test_bytes_that_are_no_text_and_what_holds_itself_are_refused() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        plain({"a": [b"\xff"]})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        plain(endless)


@pytest.mark.parametrize("value", ["\ud800", ["a", "\udcff"], {"a": {"b": ["\udfff"]}}, {"\ud800": 1}])
def test_half_a_surrogate_is_found_wherever_it_is(value: Any) -> None:
    assert not is_unicode(value)
    assert is_unicode("🦊") and is_unicode({"ä": ["🦊", 7, None]})
