"""Why a picture is dropped, and what is told of one that is kept: sizes, crops and sharpness by their closed forms."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fewstep.data.buckets import buckets, nearest
from fewstep.data.filters import REASONS, Rules, crop, look, sharpness
from fewstep.data.item import Item, Lost
from fewstep.engine.request import RequestError

RULES = Rules(side=256)


@dataclass(frozen=True)
class Bytes:
    content: bytes

    def read(self) -> bytes:
        return self.content


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def png(image: Image.Image) -> Bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return Bytes(stream.getvalue())


def bomb() -> Bytes:
    """A PNG of a hundred bytes that says it is 60,000 pixels a side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return Bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b""))


BAD = {
    "no caption": Item("x", png(noise(256, 256)), "  "),
    "no words": Item("x", png(noise(256, 256)), "🍎 http://x.y"),
    "short caption": Item("x", png(noise(256, 256)), "apple"),
    "unreadable": Item("x", Bytes(png(noise(256, 256)).content[:5000]), "a red apple"),
    "too large": Item("x", bomb(), "a red apple"),
    "too small": Item("x", png(noise(255, 256)), "a red apple"),
    "blurred": Item("x", png(noise(256, 256).filter(ImageFilter.GaussianBlur(4))), "a red apple"),
}


@pytest.mark.parametrize("reason", BAD)
def test_each_reason_has_its_picture(reason: str) -> None:
    found = look(BAD[reason], RULES)
    assert (found.reason, found.pixels) == (reason, None)
    assert reason in REASONS


@pytest.mark.parametrize("place", [Lost("there is no such file"), Bytes(b""), Bytes(b"GIF89a" + bytes(20)), Bytes(b"<html>")])
def test_what_is_no_picture_is_unreadable_and_says_so(place: Bytes) -> None:
    found = look(Item("x", place, "a red apple"), RULES)
    assert found.reason == "unreadable"
    assert found.detail


def test_a_picture_is_cut_to_the_nearest_bucket_and_says_what_was_cut() -> None:
    """1000x520 covers 336x192 when scaled by 192/520: 369 pixels wide, of which 16 go on the left."""
    image = noise(1000, 520)
    found = look(Item("x", png(image), "a red apple"), Rules(side=256, min_sharpness=0))
    assert found.size == nearest(1000, 520) == (336, 192)
    assert found.time_ids == (520, 1000, 0, (369 - 336) // 2, 192, 336)
    assert (found.reason, found.score) == ("", None)


def test_what_has_a_buckets_size_is_left_as_it_is() -> None:
    image = noise(224, 288)
    cut, top, left = crop(image, 224, 288)
    assert (cut.tobytes(), top, left) == (image.tobytes(), 0, 0)
    found = look(Item("x", png(image), "a red apple"), RULES)
    assert found.time_ids == (288, 224, 0, 0, 288, 224)
    assert found.pixels is not None
    assert (found.pixels == np.asarray(image)).all()


def test_of_a_long_strip_only_the_middle_is_scaled() -> None:
    """Scaled whole it would be of 4.9 gigapixels."""
    cut, top, left = crop(Image.new("RGB", (10, 500_000), "red"), 192, 336)
    assert (cut.size, top, left) == ((192, 336), (500_000 * 192 // 10 - 336) // 2, 0)
    wide = noise(1000, 520)
    scaled = wide.resize((369, 192), Image.Resampling.LANCZOS).crop((16, 0, 352, 192))
    cut, _, _ = crop(wide, 336, 192)
    assert np.abs(np.asarray(cut, np.int16) - np.asarray(scaled, np.int16)).mean() < 3, "cut first and scaled is scaled and cut"


@pytest.mark.parametrize("side", [256, 1024])
def test_every_bucket_is_its_own_nearest(side: int) -> None:
    for width, height in buckets(side):
        assert nearest(3 * width, 3 * height, side) == (width, height)


def test_a_side_that_is_asked_for_replaces_the_rule_that_nothing_is_enlarged() -> None:
    small = Item("x", png(noise(200, 200)), "a red apple")
    assert look(small, Rules(side=256, min_side=201)).reason == "too small"
    assert look(small, Rules(side=256, min_side=200, min_sharpness=0)).size == (256, 256)


def test_the_same_pixels_have_the_same_digest_in_any_file() -> None:
    image, stream = noise(256, 256), io.BytesIO()
    image.save(stream, "WEBP", lossless=True)
    one, other = look(Item("x", png(image), "an apple"), RULES), look(Item("y", Bytes(stream.getvalue()), "an apple"), RULES)
    assert one.digest == other.digest != look(Item("z", png(noise(256, 256, 1)), "an apple"), RULES).digest


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    """A checkerboard of 0 and 255: ∇² is ±4·255, of variance (4·255)²; a plain ground and an even slope have none."""
    board = np.indices((258, 258)).sum(0) % 2 * 255
    assert sharpness(Image.fromarray(board.astype(np.uint8))) == pytest.approx((4 * 255) ** 2)
    assert sharpness(Image.new("RGB", (256, 256), "red")) == 0
    slope = np.broadcast_to(np.arange(256, dtype=np.uint8), (256, 256))
    assert sharpness(Image.fromarray(slope.copy())) == 0


def test_a_sharp_subject_on_a_plain_ground_is_sharp() -> None:
    plain = Image.new("RGB", (256, 256), "white")
    plain.paste(noise(48, 48), (8, 8))
    assert look(Item("x", png(plain), "a red apple"), RULES).reason == ""


@pytest.mark.parametrize("rule", ["min_side", "min_sharpness", "min_words", "same_caption", "min_score"])
def test_a_rule_below_zero_is_a_sentence(rule: str) -> None:
    with pytest.raises(RequestError, match=f"--{rule.replace('_', '-')} -1: give a number from 0 on"):
        Rules(side=256, **{rule: -1})
