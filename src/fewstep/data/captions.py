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


def clean(caption: str) -> str:
    """``caption`` without markup, addresses, file names, emoji and control characters, its white space single; empty where nothing is left."""
    text = TAGS.sub(" ", html.unescape(caption))
    text = FILE_NAMES.sub(" ", ADDRESSES.sub(" ", text))
    kept = (" " if unicodedata.category(sign) in DROPPED or sign in VARIATIONS else sign for sign in text)
    return " ".join("".join(kept).split()).strip(EDGES)


def words(caption: str) -> int:
    """How many words ``caption`` has: numbers and signs are none."""
    return sum(len(word) if ord(word[0]) >= WITHOUT_SPACES else 1 for word in WORDS.findall(caption))
