"""A tokenizer of our own behaves as CLIP's does, and survives its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from fewstep.models.tokenizer import END, START, make_tokenizer, save_tokenizer, train_vocabulary

CAPTIONS = ["a red apple on a blue background", "a fox in the snow", "an owl to the left of a pizza"] * 4
VOCAB, MERGES = train_vocabulary(CAPTIONS, 700)
TOKENIZER = make_tokenizer(VOCAB, MERGES, END, 20)


def ids(text: str, tokenizer: CLIPTokenizer = TOKENIZER) -> list[int]:
    return tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True).input_ids  # type: ignore[no-any-return]


def test_vocabulary_is_laid_out_as_clips() -> None:
    assert sorted(VOCAB.values()) == list(range(len(VOCAB))) and len(VOCAB) <= 700
    assert VOCAB["!"] == 0 and VOCAB[START] == len(VOCAB) - 2 and VOCAB[END] == len(VOCAB) - 1
    assert all("".join(merge) in VOCAB and set(merge) <= set(VOCAB) for merge in MERGES)


def test_the_end_token_is_the_largest() -> None:
    """CLIP's text model pools at the end token; with the highest id both ways of finding it agree."""
    assert max(VOCAB, key=VOCAB.__getitem__) == END


def test_words_of_the_captions_are_single_tokens() -> None:
    assert {"apple</w>", "background</w>", "snow</w>", "fox</w>"} <= set(VOCAB)
    assert ids("a red apple") == [VOCAB[START], VOCAB["a</w>"], VOCAB["red</w>"], VOCAB["apple</w>"], *[VOCAB[END]] * 16]


def test_padding_is_the_end_token_or_an_exclamation_mark() -> None:
    second = make_tokenizer(VOCAB, MERGES, "!", 20)
    assert ids("fox", second)[2:] == [VOCAB[END], *[0] * 17]
    assert ids("fox", second)[:3] == ids("fox")[:3]


def test_case_and_white_space_do_not_matter() -> None:
    assert ids("  A Red\n\tAPPLE ") == ids("a red apple")


def test_what_is_too_long_is_cut_and_still_ends() -> None:
    long = ids("a fox " * 50)
    assert len(long) == 20 and long[0] == VOCAB[START] and long[-1] == VOCAB[END] and long.count(VOCAB[END]) == 1


@settings(max_examples=60)
@given(st.text(max_size=20))
def test_any_text_is_encoded(text: str) -> None:
    """Byte-level: there is no text without a code, and none that leaves the vocabulary."""
    got = ids(text)
    assert len(got) == 20 and got[0] == VOCAB[START] and VOCAB[END] in got and all(0 <= token < len(VOCAB) for token in got)


@pytest.mark.parametrize("pad", [END, "!"])
def test_files_round_trip(tmp_path: Path, pad: str) -> None:
    tokenizer = make_tokenizer(VOCAB, MERGES, pad, 20)
    save_tokenizer(tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"}
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf8")) == VOCAB
    assert (tmp_path / "merges.txt").read_text(encoding="utf8").splitlines()[1:] == [" ".join(merge) for merge in MERGES]
    again = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("", "a red apple", "Owl, to the LEFT!", "žluťoučký 🦊", "a fox " * 50):
        assert ids(text, again) == ids(text, tokenizer)


def test_training_is_deterministic() -> None:
    """A run that is resumed, or repeated by somebody else, must read captions as the first one did."""
    for _ in range(20):
        assert train_vocabulary(CAPTIONS, 700) == (VOCAB, MERGES)
