"""A way through noise is one way, however it was told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.engine.request import SEEDS, Limits, Request, RequestError
from fewstep.engine.variations import as_text, given_variations, parse_variations, way

LIMITS = Limits("emoji", factor=16, native=256, students=(1,), teacher=False, default_steps=1)
SHARES = st.just(0) | st.floats(0, 1)
WAYS = st.lists(st.tuples(st.integers(0, SEEDS - 1), SHARES), max_size=5)


@settings(max_examples=50, deadline=None)
@given(WAYS)
def test_where_the_first_is_told_apart_and_what_leads_nowhere_make_no_difference(whole: list[tuple[int, float]]) -> None:
    one = LIMITS.settle(Request("x", 1, variations=whole))
    apart = dict(zip(("variation_seed", "variation"), whole[0], strict=True)) if whole else {}
    assert LIMITS.settle(Request("x", 1, **apart, variations=whole[1:])) == one  # type: ignore[arg-type]
    assert way(one) == [(seed, share) for seed, share in whole if share]


@settings(max_examples=50, deadline=None)
@given(WAYS.filter(len))
def test_a_text_of_it_is_read_back(whole: list[tuple[int, float]]) -> None:
    assert parse_variations(as_text(whole).split(";")) == tuple(whole)


def test_a_share_alone_is_the_first_wherever_it_is_given() -> None:
    assert given_variations(["9:0.3", "0.5", "12:1"]) == {"variation": 0.5, "variations": ((9, 0.3), (12, 1.0))}
    assert given_variations([]) == {}


@pytest.mark.parametrize("text", ["9:", ":0.5", "9:0.5:1", "-9:0.5", "9.0:0.5", "²:0.5", f"{10**19}:0.5", "9"])
def test_what_is_no_seed_and_share_is_a_sentence(text: str) -> None:
    with pytest.raises(RequestError, match="SEED:SHARE"):
        parse_variations([text])
