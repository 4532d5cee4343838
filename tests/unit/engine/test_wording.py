"""What brackets, braces and BREAK in a prompt mean. No text is an error."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fewstep.engine.wording import HEAVIEST, MARKS, bare, draw, escape, read
from fewstep.models.chunks import Piece, Words

MARKED = st.lists(st.sampled_from([*"()[]{}|\\: ", "fox", "red", ":1.2)", ":.5)", ":-1)", ":9999)", "BREAK", "\\BREAK", "\n", "é"]), max_size=30).map("".join)
TEXTS = MARKED | st.text(max_size=60)
MARKS_SAID_PLAINLY = re.compile(r"\\[()\[\]{}|\\]|\\BREAK\b|\s*\bBREAK\b\s*|:\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\)|[()\[\]]")
PLAIN = st.text(st.characters(exclude_characters="()[]{}|\\"), max_size=60).filter(lambda text: "BREAK" not in text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a red apple", [("a red apple", 1.0)]),
        ("a (red:1.3) apple", [("a ", 1.0), ("red", 1.3), (" apple", 1.0)]),
        ("a (red) apple", [("a ", 1.0), ("red", 1.1), (" apple", 1.0)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 0.9091)]),
        ("([red])", [("red", 1.0)]),
        ("(a (red:2):0.5)", [("a ", 0.5), ("red", 1.0)]),
        ("(red: .5 )", [("red", 0.5)]),
        ("(red:-2) (apple:1000)", [("red", 0.0), (" ", 1.0), ("apple", HEAVIEST)]),
        ("(a red:1) apple", [("a red apple", 1.0)]),
        (r"\(red\) \[x\] \\", [("(red) [x] \\", 1.0)]),
        ("red) apple] :1.2)", [("red) apple] :1.2)", 1.0)]),
        ("(red", [("red", 1.1)]),
        ("(a [b) c", [("a ", 1.1), ("b) c", 1.0)]),
        ("a:b (c:d)", [("a:b ", 1.0), ("c:d", 1.1)]),
        ("[red:1.5]", [("red:1.5", 0.9091)]),
    ],
)
def test_weights_are_automatic1111s(text: str, pieces: list[tuple[str, float]]) -> None:
    assert read(text).parts == (tuple(Piece(*piece) for piece in pieces),)


def test_break_begins_a_part_and_empty_ones_are_none() -> None:
    assert [[piece.text for piece in part] for part in read("a BREAK b\nBREAKfast BREAK \\BREAK BREAK ()").parts] == [["a"], ["b\nBREAKfast"], ["BREAK"]]
    assert read(" ").parts == read("BREAK").parts == read("").parts == ()


@given(TEXTS)
@example("(" * 4000)
@example("(a" * 1300 + ")" * 1400)
@example("[(" * 1300 + ":1.1)]" * 200)
def test_any_text_is_read(text: str) -> None:
    words = read(text)
    assert all(0 <= piece.weight <= HEAVIEST and piece.text for part in words.parts for piece in part)
    assert all(any(piece.text.strip() for piece in part) for part in words.parts)


@given(TEXTS)
@example("a  BREAK  \n BREAK b  BREAKfast")
@example("(a: 1. )(b:1.25  )(c:.5)(d:1.2.3)")
def test_marks_are_where_the_plain_pattern_has_them(text: str) -> None:
    assert [(mark.span(), mark[1]) for mark in MARKS.finditer(text)] == [(mark.span(), mark[1]) for mark in MARKS_SAID_PLAINLY.finditer(text)]


@pytest.mark.parametrize("text", [" " * 16_000, ":" + " " * 16_000, ":" + "1" * 16_000, "(a:1" + " " * 16_000])
def test_a_long_text_takes_no_more_than_its_length(text: str) -> None:
    """Quadratic in it, the same would take many seconds."""
    began = time.thread_time()
    read(text)
    assert time.thread_time() - began < 1


@given(PLAIN)
def test_text_without_marks_is_itself(text: str) -> None:
    assert read(text).parts == (((Piece(text, 1.0),),) if text.strip() else ())
    assert draw(text, 7) == text


@given(TEXTS)
def test_what_is_escaped_is_itself(text: str) -> None:
    kept = escape(text)
    assert draw(kept, 3) == kept
    assert read(kept).parts == (((Piece(text, 1.0),),) if text.strip() else ())


@given(TEXTS)
def test_literal_text_is_one_piece_that_is_cut(text: str) -> None:
    assert read(text, literal=True) == Words(((Piece(text, 1.0),),) if text.strip() else (), cut=True)


@given(TEXTS, st.integers(0, 2**63 - 1))
@example("{" * 2000 + "}" * 2000, 0)
@example("{a|" * 1300, 0)
def test_what_was_drawn_stays(text: str, seed: int) -> None:
    assert draw(draw(text, seed), seed + 1) == draw(text, seed) == draw(text, seed)


def test_choices_are_a_function_of_the_seed_as_it_is_written_down() -> None:
    """h mod n of SHA-256("SEED:K"): another implementation comes to the same."""
    assert [draw("{a|b|c} {d|e}", seed) for seed in range(6)] == ["b e", "a e", "a d", "c e", "b d", "a d"]


def test_options_nest_are_escaped_and_may_be_empty() -> None:
    drawn = Counter(draw("a {big |}{red|{dark|pale} blue} fox", seed) for seed in range(400))
    assert set(drawn) == {f"a {size}{colour} fox" for size in ("big ", "") for colour in ("red", "dark blue", "pale blue")}
    assert all(abs(drawn[f"a {size}red fox"] - 100) < 40 for size in ("big ", ""))
    assert {draw(r"{a\|b|c\}}", seed) for seed in range(20)} == {r"a\|b", r"c\}"}
    assert draw("a { b | c", 1) == "a { b | c"
    assert draw("} {a} {", 1) == "} a {"


def test_bare_words_are_what_hints_are_given_about() -> None:
    assert bare(r"a (red:1.3) {fox|{owl}} BREAK \(x\)").split() == ["a", "red", "fox", "owl", "(x)"]
    assert bare("(BREAK)") == bare(" ") == ""
