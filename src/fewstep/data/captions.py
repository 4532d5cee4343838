"""Cleaning captions: what a crawler leaves in them and no one would type into a prompt."""

from __future__ import annotations

import html
import re
import unicodedata

TAGS = re.compile(r"<[^<>]*>")
ADDRESSES = re.compile(r"\b(?:https?://|www\.)\S+|\b\S+@\S+\.\w+", re.IGNORECASE)
FILE_NAMES = re.compile(r"\b[\w-]+\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b", re.IGNORECASE)
EDGES = " \t-|,;:·•\"'“”*_/\\"
WORDS = re.compile(r"[^\W\d_]+")
WITHOUT_SPACES = 0x2E80  # from here on scripts put no spaces between words: each character counts as one
DROPPED = {"So", "Sk", "Cc", "Cs", "Co", "Cn"}  # Unicode's categories of pictographs, skin tones, control characters and nothing at all
VARIATIONS = {"\ufe0e", "\ufe0f"}  # "as text", "as an emoji"
PREFIXES = {*map(chr, range(0x600, 0x606)), "\u06dd", "\u070f", "\u08e2"}  # signs of that kind which are seen
JOINERS = {"\u200c", "\u200d"}  # which some scripts need within a word, and emoji between pictographs


def clean(caption: str) -> str:
    """``caption`` without markup, addresses, file names, emoji and what cannot be seen, its white space single; empty where nothing is left."""
    text = TAGS.sub(" ", html.unescape(caption))
    text = FILE_NAMES.sub(" ", ADDRESSES.sub(" ", text))
    kept = (" " if unicodedata.category(sign) in DROPPED or sign in VARIATIONS else sign for sign in text)
    return " ".join(_seen("".join(kept)).split()).strip(EDGES)


def _seen(text: str) -> str:
    """``text`` without byte order marks, soft hyphens and other signs that only say how to set it; joiners stay within words."""
    around = zip(text, f" {text}", f"{text[1:]} ", strict=False)
    return "".join(sign for sign, before, after in around if unicodedata.category(sign) != "Cf" or sign in PREFIXES or _joins(sign, before, after))


def _joins(sign: str, before: str, after: str) -> bool:
    return sign in JOINERS and _in_word(before) and _in_word(after)


def _in_word(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "LM"


def words(caption: str) -> int:
    """How many words ``caption`` has: numbers and signs are none."""
    return sum(len(word) if ord(word[0]) >= WITHOUT_SPACES else 1 for word in WORDS.findall(caption))
