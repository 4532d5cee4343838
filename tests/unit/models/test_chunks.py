"""Rows of tokens for a text of any length, and weights that take words out or bring them forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.chunks import Piece, Script, Words, count, join, script
from fewstep.models.clip_tokens import ClipTokens
from fewstep.models.prompt import Prompt, Spoken, encode, encode_words
from fewstep.zoo.registry import embedded

ROOM = 75


def words(*parts: list[tuple[str, float]] | str) -> Words:
    pieces = [[(part, 1.0)] if isinstance(part, str) else part for part in parts]
    return Words(tuple(tuple(Piece(*piece) for piece in part) for part in pieces))


@pytest.fixture(scope="module")
def tokens() -> ClipTokens:
    return ClipTokens.open(embedded("emoji") / "tokenizer_2")


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return load_bundle(tiny)


def plan(own: Words, tokens: ClipTokens, least: int = 1) -> Script:
    return script((own, own), (tokens, tokens), least)


def test_a_short_text_is_the_tokenizers_own_row(tokens: ClipTokens) -> None:
    made = plan(words("a red apple"), tokens)
    assert made.tokens[0].tolist() == made.tokens[1].tolist() == [tokens.tokens("a red apple").tolist()]
    assert (made.shares, made.null, made.chunks, made.raised) == ((1.0,), (False,), 1, False)


@pytest.mark.parametrize(("fruits", "chunks"), [(0, 1), (1, 1), (ROOM, 1), (ROOM + 1, 2), (2 * ROOM, 2), (3 * ROOM - 1, 3)])
def test_each_row_holds_75_tokens_between_start_and_end(tokens: ClipTokens, fruits: int, chunks: int) -> None:
    own = words("apple " * fruits) if fruits else Words()
    made = plan(own, tokens)
    (apple,) = tokens.ids("apple")
    assert count(own, tokens) == made.chunks == len(made.tokens[0]) == chunks
    assert (made.tokens[0][:, 0] == tokens.start).all()
    assert int((made.tokens[0] == apple).sum()) == fruits
    for row in made.tokens[0]:
        used = int((row == apple).sum())
        assert row[used + 1] == tokens.end and (row[used + 2 :] == tokens.pad).all()


def test_a_part_begins_a_row_and_a_cut_text_has_one(tokens: ClipTokens) -> None:
    made = plan(words("a fox", "a pizza"), tokens)
    assert made.tokens[0].tolist() == tokens.tokens(["a fox", "a pizza"]).tolist()
    long = Words(((Piece("fox " * 100, 1.0),),), cut=True)
    assert plan(long, tokens).tokens[0].tolist() == [tokens.tokens("fox " * 100).tolist()]
    assert count(long, tokens) == 1


def test_both_encoders_get_as_many_rows_and_no_fewer_than_asked_for(tokens: ClipTokens) -> None:
    made = script((words("fox"), words("apple " * 100)), (tokens, tokens), 1)
    assert [side.shape for side in made.tokens] == [(2, 77), (2, 77)]
    assert plan(words("fox"), tokens, 3).tokens[0].tolist() == tokens.tokens(["fox", "", ""]).tolist()


def test_pieces_have_the_tokens_of_the_whole(tokens: ClipTokens) -> None:
    made = plan(words([("a ", 1.0), ("red", 1.5), (" apple", 1.2)]), tokens)
    assert made.tokens[0][0].tolist() == tokens.tokens("a red apple").tolist()
    assert made.tokens[0][-1].tolist() == tokens.tokens("").tolist(), "the empty prompt, to move away from"
    assert made.weights[0][0, :5].tolist() == pytest.approx([1, 1, 1.5, 1.2, 1])


@given(st.lists(st.tuples(st.sampled_from(["blue", " red ", "", "apple"]), st.floats(0, 3)), max_size=6))
def test_shares_are_a_mean_and_a_word_is_in_as_much_of_it_as_it_weighs(pieces: list[tuple[str, float]]) -> None:
    tokens = ClipTokens.open(embedded("emoji") / "tokenizer")
    own = words([(text, round(weight, 4)) for text, weight in pieces])
    made = plan(own, tokens)
    assert sum(made.shares) == pytest.approx(1)
    for word in ("blue", "red", "apple"):
        (token,) = tokens.ids(word)
        seen = sum(share * int((made.tokens[0][level] == token).sum()) for level, share in enumerate(made.shares))
        assert seen == pytest.approx(sum(min(round(weight, 4), 1) for text, weight in pieces if text.strip() == word))


def test_the_mean_and_the_way_from_the_empty_prompt() -> None:
    """Each level's rows times its share; z + (w - 1)(z - empty) at the raised positions, of each encoder's own channels."""
    made = Script(
        (np.zeros((3, 2), np.int64),) * 2, (np.array([[1, 3], [1, 1]], np.float32), np.array([[2, 1], [1, 1]], np.float32)), (0.25, 0.75), (False, True), 1
    )
    embeds = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2) ** 2
    pooled = np.array([[4.0], [8.0], [100.0]])
    joined, text = join(made, embeds, pooled, 1, lambda values: values)
    z, empty = embeds[0], embeds[2]
    expected = [[z[0, 0], 2 * z[0, 1] - empty[0, 1]], [3 * z[1, 0] - 2 * empty[1, 0], z[1, 1]]]
    np.testing.assert_allclose(joined, 0.25 * np.array([expected]))
    np.testing.assert_allclose(text, [[1.0]])


def same(one: Prompt, other: Prompt) -> bool:
    return torch.equal(one.embeds, other.embeds) and torch.equal(one.pooled, other.pooled)


@torch.no_grad()
def test_the_network_hears_what_the_weights_say(bundle: Bundle) -> None:
    def said(*parts: list[tuple[str, float]] | str) -> Prompt:
        return encode_words(bundle, (words(*parts),) * 2)

    whole, without = (encode(bundle, [text]) for text in ("a red apple", "a  apple"))
    assert same(said("a red apple"), whole)
    assert same(said([("a ", 1.0), ("red", 1.0), (" apple", 1.0)]), whole), "weights of 1 change no bit"
    assert same(said([("a ", 1.0), ("red", 0.0), (" apple", 1.0)]), without), "a word of weight 0 is not there"
    half = said([("a ", 1.0), ("red", 0.5), (" apple", 1.0)])
    torch.testing.assert_close(half.embeds, (whole.embeds + without.embeds) / 2)
    torch.testing.assert_close(half.pooled, (whole.pooled + without.pooled) / 2)
    assert not said([("a red apple", 0.0)]).embeds.any() and not said().pooled.any(), "the null prompt"
    raised = said([("a ", 1.0), ("red", 1.5), (" apple", 1.0)])
    moved = ((raised.embeds - whole.embeds).abs() > 1e-4).any(dim=-1)[0].nonzero().flatten().tolist()
    assert moved == [2], "start, 'a', and then 'red'"
    torch.testing.assert_close(raised.pooled, whole.pooled)


@torch.no_grad()
def test_a_long_text_is_its_chunks_side_by_side_and_the_first_ones_pooled_text(bundle: Bundle) -> None:
    two = encode_words(bundle, (words("a red apple", "a pizza"),) * 2)
    apart = encode(bundle, ["a red apple", "a pizza"])
    torch.testing.assert_close(two.embeds, apart.embeds.reshape(1, -1, apart.embeds.shape[-1]))
    torch.testing.assert_close(two.pooled, apart.pooled[:1])


@torch.no_grad()
def test_each_encoder_reads_its_own_text(bundle: Bundle) -> None:
    one, other = (encode(bundle, [text]) for text in ("a red apple", "a pizza"))
    mixed = encode_words(bundle, (words("a red apple"), words("a pizza")))
    width = bundle.text_encoder.config.hidden_size
    assert torch.equal(mixed.embeds, torch.cat([one.embeds[..., :width], other.embeds[..., width:]], dim=-1))
    assert torch.equal(mixed.pooled, other.pooled)


def test_transformers_tokenizer_says_the_same(bundle: Bundle) -> None:
    assert bundle.folder is not None
    for name, theirs in (("tokenizer", bundle.tokenizer), ("tokenizer_2", bundle.tokenizer_2)):
        ours, spoken = ClipTokens.open(bundle.folder / name), Spoken(theirs)
        assert (ours.start, ours.end, ours.pad, ours.length) == (spoken.start, spoken.end, spoken.pad, spoken.length)
        assert ours.ids("a fox " * 99) == spoken.ids("a fox " * 99)
