"""What can be written in a prompt besides words: weights, BREAK, and choices that the seed makes. No text is an error. Loads no torch.

(word:1.2) has weight 1.2, (word) 1.1 and [word] 1/1.1; they nest, and what is left open ends with the text, as AUTOMATIC1111 has it. A
bracket that closes none, or not the last one, is a character.
BREAK begins a new chunk of tokens. {red|blue} is one of the two. A backslash before one of ( ) [ ] { } | \\ or BREAK means that itself.
"""

from __future__ import annotations

import hashlib
import re

from fewstep.models.chunks import MOST_LEVELS, Piece, Words

ROUND, SQUARE = 1.1, 1 / 1.1
HEAVIEST = 10.0  # a weight beyond is this one, and one below 0 is 0
# No mark can begin amid spaces, or a long run of them would be searched again from each.
MARKS = re.compile(r"\\[()\[\]{}|\\]|\\BREAK\b|(?:(?<!\s)\s+)?\bBREAK\b\s*|:\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*\)|[()\[\]]")
CHOICES = re.compile(r"\\[{}|\\]|[{}|]")


def draw(template: str, seed: int) -> str:
    """``template`` with one option of each {a|b|c} in place of it; drawn again, what was drawn stays as it is.

    Groups are numbered as they open in the template, from 0; of n options group k takes the one of number h mod n, from 0, where h is the
    first eight bytes, big-endian, of the SHA-256 of "SEED:K". A brace without its partner is a character.
    """
    opened: list[tuple[int, list[int]]] = []  # where a group opens, and where its options end
    groups: dict[int, tuple[int, list[int]]] = {}  # of each brace that has a partner: where that is, and where the options end
    for match in CHOICES.finditer(template):
        mark, at = match[0], match.start()
        if mark == "{":
            opened.append((at, []))
        elif mark == "|" and opened:
            opened[-1][1].append(at)
        elif mark == "}" and opened:
            first, bars = opened.pop()
            groups[first] = (at, bars)
    drawn, todo = [], [(0, len(template))]
    numbers = {first: number for number, first in enumerate(sorted(groups))}
    while todo:  # what is to be copied, the next last
        start, end = todo.pop()
        first = next((brace for brace in range(start, end) if brace in groups), end)
        if first == end:
            drawn.append(template[start:end])
            continue
        last, bars = groups[first]
        edges = [first, *bars, last]
        chosen = _number(seed, numbers[first]) % (len(edges) - 1)
        drawn.append(template[start:first])
        todo += [(last + 1, end), (edges[chosen] + 1, edges[chosen + 1])]
    return "".join(drawn)


def read(text: str, literal: bool = False) -> Words:
    """``text`` as words with weights. ``literal``: every character is a character, and what exceeds the encoders' length is cut off."""
    if literal:
        return Words(((Piece(text, 1.0),),) if text.strip() else (), cut=True)
    parts: list[list[Piece]] = [[]]
    for piece in _pieces(text):
        if piece is None:
            parts.append([])
        elif parts[-1] and parts[-1][-1].weight == piece.weight:
            parts[-1][-1] = Piece(parts[-1][-1].text + piece.text, piece.weight)
        else:
            parts[-1].append(piece)
    return Words(tuple(tuple(part) for part in parts if any(piece.text.strip() for piece in part)))


def escape(text: str) -> str:
    """``text`` so that :func:`read` and :func:`draw` take every character of it for itself."""
    return re.sub(r"([()\[\]{}|\\])|(\bBREAK\b)", r"\\\1\2", text)


def bare(text: str) -> str:
    """The words of ``text`` alone, without what is said about them; of choices all options."""
    return " ".join(CHOICES.sub(" ", piece.text) for part in read(text).parts for piece in part).strip()


def too_many_levels(words: Words) -> str:
    """What ``words`` have too much of; empty if they can be encoded."""
    found = len(words.levels)
    return f"{found} different weights below 1: give at most {MOST_LEVELS}" if found > MOST_LEVELS else ""


def _number(seed: int, group: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8], "big")


def _pieces(text: str) -> list[Piece | None]:
    """Texts and their weights, None for a BREAK."""
    marks = list(MARKS.finditer(text))
    closed = _closed(marks)
    pieces: list[Piece | None] = []
    weights, at = [1.0], 0  # of the brackets that are open, the innermost last
    for index, match in enumerate(marks):
        pieces.append(Piece(text[at : match.start()], weights[-1]))
        mark, at = match[0], match.end()
        if mark in ("(", "["):
            usual = ROUND if mark == "(" else SQUARE
            weights.append(round(min(weights[-1] * closed.get(index, usual), HEAVIEST), 4))
        elif index in closed:
            weights.pop()
        elif mark.strip() == "BREAK":
            pieces.append(None)
        else:
            pieces.append(Piece(mark[mark.startswith("\\") :], weights[-1]))
    pieces.append(Piece(text[at:], weights[-1]))
    return [piece for piece in pieces if piece is None or piece.text]


def _closed(marks: list[re.Match[str]]) -> dict[int, float]:
    """The brackets among ``marks`` that have a partner, both of each pair, and what weights are multiplied with between them."""
    opened, closed = list[int](), dict[int, float]()
    for index, match in enumerate(marks):
        mark = match[0]
        if mark in ("(", "["):
            opened.append(index)
        elif mark.endswith(("]", ")")) and not mark.startswith("\\") and opened and marks[opened[-1]][0] == ("[" if mark == "]" else "("):
            factor = SQUARE if mark == "]" else ROUND if match[1] is None else min(max(float(match[1]), 0.0), HEAVIEST)
            closed[opened.pop()] = closed[index] = factor
    return closed
