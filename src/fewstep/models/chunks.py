"""From a text with weights to rows of tokens, and from the encoders' answers to one prompt. Pure: NumPy here, any array with arithmetic there.

Weights up to 1 say how much of a word is there: w is the share of a mean in which the encoders see the word, 1 - w that in which they see
the text without it. Weights above 1 move the word's own positions on, away from the empty prompt: z + (w - 1)·(z - empty).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-4  # a weight that is not 0: they have four decimals
MOST_LEVELS = 8  # different weights below 1 in a prompt: each is a pass through the encoders


class Piece(NamedTuple):
    """Words of one weight, 0 or more."""

    text: str
    weight: float


@dataclass(frozen=True)
class Words:
    """A text as an encoder reads it. Each part begins a chunk of its own; ``cut`` is that what exceeds the first is left out."""

    parts: tuple[tuple[Piece, ...], ...] = ()
    cut: bool = False

    @property
    def levels(self) -> set[float]:
        """The weights below 1 that occur."""
        return {piece.weight for part in self.parts for piece in part if piece.weight < 1}

    def above(self, level: float) -> Words:
        """What is left of it of the pieces whose weight is at least ``level``."""
        kept = (tuple(piece for piece in part if piece.weight >= level) for part in self.parts)
        return Words(tuple(part for part in kept if any(piece.text.strip() for piece in part)), self.cut)


class Tokenizer(Protocol):
    """What of a CLIP tokenizer is needed here; the first three are ids."""

    @property
    def start(self) -> int:
        """What a row begins with."""

    @property
    def end(self) -> int:
        """What stands after the text."""

    @property
    def pad(self) -> int:
        """What stands behind that."""

    @property
    def length(self) -> int:
        """Of a row, start and end included."""

    def ids(self, text: str) -> list[int]:
        """The tokens of ``text`` alone, however many."""


@dataclass(frozen=True)
class Script:
    """What both encoders are given for one prompt: rows of tokens [N, L] each, the same number of rows."""

    tokens: tuple[NDArray[np.int64], NDArray[np.int64]]
    weights: tuple[NDArray[np.float32], NDArray[np.float32]]  # [levels, chunks·L] each, at least 1
    shares: tuple[float, ...]  # of each level in the mean; 1 in all
    null: tuple[bool, ...]  # levels at which no word is left: the null prompt
    chunks: int

    @property
    def raised(self) -> bool:
        """Whether a weight is above 1; then the last row is the empty prompt."""
        return any(bool((weights > 1).any()) for weights in self.weights)


def count(words: Words, tokenizer: Tokenizer) -> int:
    """How many chunks ``words`` take, without those of weight 0."""
    return max(len(_chunks(words.above(SMALLEST), tokenizer)), 1)


def script(words: Sequence[Words], tokenizers: Sequence[Tokenizer], least: int = 1) -> Script:
    """The rows for a prompt whose ``words`` the first and the second encoder read, in ``least`` chunks or more."""
    edges = sorted({0.0, 1.0} | words[0].levels | words[1].levels)
    spans = list(zip(edges, edges[1:], strict=False))
    shown = [[own.above(high) for own in words] for _, high in spans]
    cut = [[_chunks(own, tokenizer) for own, tokenizer in zip(pair, tokenizers, strict=True)] for pair in shown]
    chunks = max(least, *(len(rows) for pair in cut for rows in pair))
    made = [[_filled(pair[side], tokenizers[side], chunks) for pair in cut] for side in (0, 1)]
    weights = [np.array([level[1] for level in side], np.float32) for side in made]
    rows = [[row for level in side for row in level[0]] for side in made]
    if any(bool((side > 1).any()) for side in weights):
        for side, tokenizer in zip(rows, tokenizers, strict=True):
            side.append(_row([], tokenizer))
    tokens = [np.array(side, np.int64) for side in rows]
    null = tuple(not any(own.parts for own in pair) for pair in shown)
    return Script((tokens[0], tokens[1]), (weights[0], weights[1]), tuple(high - low for low, high in spans), null, chunks)


def join(plan: Script, embeds: Any, pooled: Any, width: int, array: Callable[[NDArray[np.float32]], Any]) -> tuple[Any, Any]:
    """(embeds [1, chunks·L, C], pooled [1, P]) from the encoders' answers to the rows of ``plan``, embeds [N, L, C] and pooled [N, P].

    ``width`` is how many channels of C are the first encoder's; ``array`` brings weights to where the answers are. The pooled text is
    the first chunk's, as diffusers and AUTOMATIC1111 have it.
    """
    levels, chunks, length, channels = len(plan.shares), plan.chunks, embeds.shape[1], embeds.shape[2]
    many = levels * chunks
    shown = embeds[:many].reshape(levels, chunks * length, channels)
    if plan.raised:
        empty = embeds[many:].reshape(1, 1, length, channels)
        away = (embeds[:many].reshape(levels, chunks, length, channels) - empty).reshape(levels, chunks * length, channels)
        more = [np.repeat(side[..., None] - 1, count, axis=-1) for side, count in zip(plan.weights, (width, channels - width), strict=True)]
        shown = shown + array(np.concatenate(more, axis=-1)) * away
    texts = pooled[:many].reshape(levels, chunks, -1)[:, 0]
    if levels == 1 and not plan.null[0]:
        return shown, texts
    shares = [0.0 if null else share for share, null in zip(plan.shares, plan.null, strict=True)]
    return sum(share * shown[i : i + 1] for i, share in enumerate(shares)), sum(share * texts[i : i + 1] for i, share in enumerate(shares))


def _chunks(words: Words, tokenizer: Tokenizer) -> list[list[tuple[int, float]]]:
    """(token, weight) of each chunk, without start and end."""
    room, chunks = tokenizer.length - 2, list[list[tuple[int, float]]]()
    for part in words.parts:
        row = [(token, max(piece.weight, 1.0)) for piece in part for token in tokenizer.ids(piece.text)]
        chunks += [row[first : first + room] for first in range(0, len(row), room)] or [[]]
    return chunks[:1] if words.cut else chunks


def _filled(chunks: Sequence[list[tuple[int, float]]], tokenizer: Tokenizer, count: int) -> tuple[list[list[int]], list[float]]:
    """(``count`` rows of tokens, the weights of all their positions): what is missing are empty chunks."""
    padded = [*chunks, *([[]] * (count - len(chunks)))]
    rows = [_row([token for token, _ in chunk], tokenizer) for chunk in padded]
    weights = [[1.0, *(weight for _, weight in chunk), *[1.0] * (tokenizer.length - 1 - len(chunk))] for chunk in padded]
    return rows, [weight for row in weights for weight in row]


def _row(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """Start, ``tokens``, end, padding."""
    return [tokenizer.start, *tokens, tokenizer.end, *[tokenizer.pad] * (tokenizer.length - 2 - len(tokens))]
