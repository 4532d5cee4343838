"""What is left of a crawler's captions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.data.captions import clean, words


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("a red apple", "a red apple"),
        ("  a\tred \n apple ", "a red apple"),
        ("<b>a red</b> apple &amp; a pear", "a red apple & a pear"),
        ("a red apple https://shop.example/a?b=1 now", "a red apple now"),
        ("a red apple | www.shop.example", "a red apple"),
        ("IMG_0031.JPG a red apple", "a red apple"),
        ("write to me@shop.example", "write to"),
        ("a red apple 🍎👍🏽", "a red apple"),
        ("🍎🍎", ""),
        ("ein Äpfelchen, 3.5 €", "ein Äpfelchen, 3.5 €"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ('"a red apple"', "a red apple"),
        ("\ufeffa red\u200b ap\u00adple\u200e", "a red apple"),
        ("a family \U0001f468\u200d\U0001f469 here", "a family here"),
        ("\u200dمی\u200cخواهم \u200c", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("a\x00red\x1b[31m apple", "a red [31m apple"),
    ],
)
def test_what_no_one_would_type_is_taken_out(caption: str, left: str) -> None:
    assert clean(caption) == left


@given(st.text())
def test_cleaning_ends_and_leaves_single_spaces(caption: str) -> None:
    once = clean(caption)
    assert once == " ".join(once.split())
    assert not any(sign in once for sign in "\x00\x1b\ufe0f")


@pytest.mark.parametrize(("caption", "count"), [("a red apple", 3), ("3 + 4 = 7", 0), ("", 0), ("red-apple", 2), ("红苹果", 3), ("a 红苹果", 4)])
def test_words_are_counted_also_where_no_spaces_are(caption: str, count: int) -> None:
    assert words(caption) == count
