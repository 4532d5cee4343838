"""What a small model knows: which words of a prompt it was never taught, and what to say about it. Loads no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from fewstep.engine.request import listed
from fewstep.engine.wording import bare
from fewstep.zoo.known import KNOWN

Vocabulary = Mapping[str, Sequence[str]]  # words.json: subjects, keywords, colours, places, words
GLUE = frozenset("a an the and on in at of to by with left right above below small large background".split())
MOST_NAMED, MOST_LISTED = 3, 12  # unknown words with what is near them, and without


def read_words(folder: Path) -> dict[str, list[str]]:
    """words.json of a model's folder, empty where there is none or it cannot be read. What is no list of words is passed over."""
    try:
        content = json.loads((folder / "words.json").read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    lists = content.items() if isinstance(content, dict) else ()
    return {name: [word for word in words if isinstance(word, str)] for name, words in lists if isinstance(words, list)}


def split(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"[^\W_]+(?:[-'’][^\W_]+)*", text.lower())


def unknown(prompt: str, vocabulary: Vocabulary) -> dict[str, str | None]:
    """Each word of ``prompt`` that no caption had, with the nearest that one had, or None where nothing is near."""
    known = sorted({word for text in vocabulary.get("words", ()) for word in split(text)})
    if not known:
        return {}
    strange = [word for word in dict.fromkeys(split(prompt)) if word not in set(known) and not word.isdigit()]
    return {word: nearest(word, known) for word in strange}


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word with the fewest slips in it, None if they are more than two in five letters; as the studio has it (studio/words.js)."""
    near = [(slips(word, name), name) for name in known if len(name) > 2 and abs(len(name) - len(word)) <= max(1, len(word) * 2 // 5)]
    least, best = min(near, default=(len(word), None), key=lambda one: one[0])
    return best if least <= max(1, len(word) * 2 // 5) else None


def slips(one: str, other: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours from ``one`` to ``other``."""
    rows = [list(range(len(other) + 1))]
    for i in range(1, len(one) + 1):
        rows.append([i])
        for j in range(1, len(other) + 1):
            found = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                found = min(found, rows[i - 2][j - 2] + 1)
            rows[i].append(found)
    return rows[-1][-1]


def has_subject(prompt: str, vocabulary: Vocabulary) -> bool:
    """Whether a word of ``prompt`` stands for something to draw: taught, and neither a colour, a place nor glue."""
    taught = {word for text in (*vocabulary.get("words", ()), *vocabulary.get("subjects", ())) for word in split(text)}
    setting = {word for text in (*vocabulary.get("colours", ()), *vocabulary.get("places", ())) for word in split(text)}
    names = " ".join(split(prompt))
    named = any(f" {' '.join(split(name))} " in f" {names} " for name in vocabulary.get("subjects", ()))
    return named or any(word in taught - setting - GLUE for word in names.split())


def hints(prompt: str, vocabulary: Vocabulary, model: str) -> list[str]:
    """Sentences for whoever typed ``prompt``: words that are not known, and what to type instead."""
    prompt = bare(prompt)
    if not prompt:
        return ["the prompt is empty: the picture is of nothing in particular (the null prompt)"]
    if not vocabulary.get("words"):
        return []
    said = []
    strange = unknown(prompt, vocabulary)
    for word, near in list(strange.items())[:MOST_NAMED]:
        said.append(f"{model} does not know the word '{word}'" + (f"; the nearest it knows is '{near}'" if near else ""))
    if len(strange) > MOST_NAMED:
        others = list(strange)[MOST_NAMED:]
        more = f", nor {len(others) - MOST_LISTED} more" if len(others) > MOST_LISTED else ""
        said.append(f"{model} does not know {listed(others[:MOST_LISTED])} either{more}")
    subjects = list(vocabulary.get("subjects", ()))
    meant = " ".join(strange.get(word) or word for word in split(prompt))
    if subjects and not has_subject(meant, vocabulary):
        close = get_close_matches(meant, [name.lower() for name in subjects], 3, 0.5) or subjects[:3]
        more = f", or see 'fewstep models {model} --subjects'" if model in KNOWN else ""
        said.append(f"nothing in this prompt is a subject that {model} can draw: try {listed(close)}{more}")
    return said
