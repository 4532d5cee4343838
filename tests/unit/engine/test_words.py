"""Hints about words that the model was never taught."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import words

from fewstep.engine.words import has_subject, hints, nearest, read_words, slips, unknown

TAUGHT = words()


def test_a_prompt_of_known_words_gets_no_hint() -> None:
    assert hints("A red apple, on a BLUE background", TAUGHT, "tiny") == []


def test_an_unknown_word_is_named_with_the_nearest() -> None:
    assert unknown("a red aple on a bleu background", TAUGHT) == {"aple": "apple", "bleu": "blue"}
    assert hints("a red aple on blue", TAUGHT, "tiny") == ["tiny does not know the word 'aple'; the nearest it knows is 'apple'"]


def test_neighbours_that_changed_places_are_one_slip_and_another_length_is_further_off() -> None:
    assert nearest("fxo", ["ufo", "fox", "ox"]) == "fox"
    assert nearest("threads", ["the", "bread"]) is None
    assert [slips(*pair) for pair in (("fxo", "fox"), ("owl", "owls"), ("aple", "apple"), ("cat", "dog"))] == [1, 1, 1, 3]


def test_a_word_that_is_near_nothing_has_no_neighbour() -> None:
    assert unknown("xylophonist", TAUGHT) == {"xylophonist": None}


@pytest.mark.parametrize(
    ("prompt", "there"),
    [("pizza", True), ("a small fruit", True), ("an apple", True), ("a blue background", False), ("in the snow", False)],
)
def test_a_subject_is_a_taught_word_that_is_no_colour_and_no_place(prompt: str, there: bool) -> None:
    assert has_subject(prompt, TAUGHT) is there


def test_a_prompt_without_a_subject_is_told_what_can_be_drawn() -> None:
    (hint,) = hints("a blue background", TAUGHT, "emoji")
    assert "red apple" in hint
    assert "fewstep models emoji --subjects" in hint


def test_the_empty_prompt_says_what_it_is() -> None:
    (hint,) = hints(" ", TAUGHT, "tiny")
    assert "null prompt" in hint


def test_many_unknown_words_take_few_lines() -> None:
    found = hints("pizza " + " ".join(f"qwzx{letter}" for letter in "abcdefghij"), TAUGHT, "tiny")
    assert len(found) == 4
    assert found[-1].endswith("and qwzxj either")
    assert hints("pizza " + " ".join(f"qwzx{letter}" for letter in "abcdefghijklmnopqr"), TAUGHT, "tiny")[-1].endswith("and qwzxo either, nor 3 more")


def test_a_model_that_says_nothing_gets_no_hints(tmp_path: Path) -> None:
    assert read_words(tmp_path) == {}
    assert hints("anything", {}, "sdxl") == []


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_words_that_cannot_be_read_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "words.json").write_bytes(content.encode("utf8", "surrogateescape"))
    assert read_words(tmp_path) == {}


@pytest.mark.parametrize("content", ["{", "[]", "7", '{"words": 5, "subjects": [1, "fox"]}', "[" * 100_000])
def test_a_damaged_vocabulary_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "words.json").write_text(content)
    assert read_words(tmp_path) in ({}, {"subjects": ["fox"]})
    assert isinstance(hints("a fox", read_words(tmp_path), "some"), list)
