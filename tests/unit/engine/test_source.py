"""Images that are begun from: opened with care, brought to size, extended and put back."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewstep.engine.request import RequestError
from fewstep.engine.source import LONGEST_TEXTS, Source, open_image, outpaint, prepare, to_gray, to_rgb


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, channels), np.uint8))


def file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says so, and whose pixels are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_what_fits_is_kept_to_the_bit() -> None:
    image, mask = noise(96, 64), Image.new("L", (96, 64), 128)
    source = prepare(image, mask, None, 96, 64, 16)
    assert np.array_equal(source.pixels, np.asarray(image))
    assert np.array_equal(source.mask, np.asarray(mask))
    assert source.image_hash == prepare(image.copy(), None, None, 96, 64, 16).image_hash != prepare(noise(97, 64), None, None, 96, 64, 16).image_hash


@pytest.mark.parametrize(("size", "strip"), [((200, 100), "x"), ((100, 300), "y")])
def test_what_has_another_size_covers_the_frame_and_is_cut_at_the_middle(size: tuple[int, int], strip: str) -> None:
    image = Image.new("RGB", size, (255, 0, 0))
    middle = (50, 0, 150, 100) if strip == "x" else (0, 100, 100, 200)
    image.paste((0, 0, 255), middle)
    source = prepare(image, to_gray(image), None, 64, 64, 16)
    assert np.abs(source.pixels.astype(int) - (0, 0, 255)).max() <= 16, "a filter sees a little of what is cut off"
    assert source.mask is not None and source.mask.shape == (64, 64)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (4000, 2)])
def test_any_shape_can_be_brought_to_size(size: tuple[int, int]) -> None:
    assert prepare(noise(*size), None, None, 64, 80, 16).pixels.shape == (80, 64, 3)


def test_extending_keeps_the_image_and_paints_the_rest() -> None:
    image = noise(32, 16)
    wider, mask = outpaint(image, (16, 0, 32, 16))
    assert wider.size == mask.size == (80, 32)
    assert np.array_equal(np.asarray(wider)[:16, 16:48], np.asarray(image))
    white = np.asarray(mask) == 255
    assert white.sum() == 80 * 32 - 32 * 16
    assert not white[:16, 16:48].any()
    assert np.array_equal(np.asarray(wider)[20, 0], np.asarray(image)[15, 0]), "the nearest pixel is repeated"
    both = outpaint(image, (16, 0, 0, 0), Image.new("L", (32, 16), 100))[1]
    assert set(np.unique(np.asarray(both))) == {100, 255}


@pytest.mark.parametrize(("margins", "said"), [((8, 0, 0, 0), "multiples of 16"), ((64, 0, 0, 0), "leaves no room"), ((48, 0, 16, 0), "leaves no room")])
def test_margins_that_cannot_be(margins: tuple[int, int, int, int], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        prepare(noise(64, 64), None, margins, 64, 64, 16)


def test_pixels_are_put_back_as_the_mask_says() -> None:
    before, made = noise(16, 16), np.zeros((16, 16, 3), np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    mask[:, 8] = 51
    source = Source(np.asarray(before), mask, "", "")
    pasted = source.paste(made)
    assert np.array_equal(pasted[:, :8], np.asarray(before)[:, :8])
    assert not pasted[:, 9:].any()
    assert np.array_equal(pasted[:, 8], np.rint(np.asarray(before)[:, 8] * np.float32(0.8)).astype(np.uint8))
    assert source.latent_mask(8).tolist() == [[[[0, pytest.approx((7 + 0.2) / 8)]] * 2]]


def test_colours_without_transparency() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert to_gray(Image.new("RGBA", (4, 4), (255, 255, 255, 0))).getpixel((0, 0)) == 0
    assert to_rgb(Image.new("L", (4, 4), 9)).getpixel((0, 0)) == (9, 9, 9)
    assert to_rgb(Image.new("CMYK", (4, 4))).mode == to_rgb(Image.new("P", (4, 4))).mode == to_rgb(Image.new("1", (4, 4))).mode == "RGB"
    for deep in ("F", "I"):
        with pytest.raises(RequestError, match=r"image has .* 8 or 16 bits a colour"):
            prepare(Image.new(deep, (64, 64)), None, None, 64, 64, 8)
        with pytest.raises(RequestError, match=r"mask has .* 8 or 16 bits a colour"):
            prepare(Image.new("RGB", (64, 64)), Image.new(deep, (64, 64)), None, 64, 64, 8)


@pytest.mark.parametrize("order", ["<", ">"])
def test_grey_of_16_bits_is_scaled_down(order: str) -> None:
    depth = Image.fromarray(np.array([[0, 0x7FFF, 0x8000, 0xFFFF]], order + "u2"))
    assert np.asarray(to_gray(depth)).tolist() == [[0, 127, 128, 255]]
    assert to_rgb(open_image(file(Image.fromarray(np.full((4, 4), 0x8000, np.uint16)), "PNG"))).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_files_are_opened_and_turned_as_they_say(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert open_image(file(noise(40, 20), kind)).size == (40, 20)
    assert open_image(file(noise(40, 20), kind, exif=exif.tobytes())).size == (20, 40)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no PNG, WebP or JPEG"),
        (b"GIF89a", "is no PNG"),
        (b"%PDF-1.4", "is no PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no PNG"),
        (png_of(20000, 20000), "says it is 20000x20000 pixels"),
        (png_of(2**31 - 1, 2**31 - 1), "says it is 2147483647x2147483647 pixels"),
        (png_of(64, 64), "damaged"),
        (file(noise(64, 64))[:-300], "damaged"),
        (file(noise(64, 64), "JPEG")[:200], "damaged"),
        (file(noise(64, 64), "WEBP")[:100], "damaged"),
        (file(noise(8, 8), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8))]), "an animation"),
    ],
)
def test_what_is_no_picture_is_a_sentence(content: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=f"^the mask .*{said}"):
        open_image(content, "mask")


@pytest.mark.parametrize("size", [(64, 64), (64, 32)])
@pytest.mark.parametrize("masked", [False, True])
def test_what_cannot_be_decoded_is_a_sentence_in_any_size(size: tuple[int, int], masked: bool) -> None:
    image, closed = Image.open(io.BytesIO(file(noise(64, 64))[:-300])), noise(64, 64)
    closed.close()
    for bad in (image, closed):
        with pytest.raises(RequestError, match="is damaged"):
            prepare(noise(64, 64) if masked else bad, bad if masked else None, None, *size, 16)
    with pytest.raises(RequestError, match="has pixels of kind 'LAB'"):
        prepare(Image.new("LAB", (64, 64)), None, None, *size, 16)


def test_of_long_texts_the_first_are_kept() -> None:
    texts = PngInfo()
    for name, length in (("parameters", 9), ("large", LONGEST_TEXTS - 9), ("more", 1)):
        texts.add_text(name, "x" * length, zip=True)
    content = file(noise(8, 8), "PNG", pnginfo=texts)
    assert {name: len(value) for name, value in open_image(content).info.items()} == {"parameters": 9, "large": LONGEST_TEXTS - 9}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "WEBP", "JPEG"]), st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_a_picture_or_a_sentence(kind: str, place: int, noise_: bytes) -> None:
    content = file(Image.new("RGB", (24, 24), (10, 200, 30)), kind)
    at = place % len(content)
    damaged = content[:at] + noise_ + content[at + len(noise_) :]
    try:
        prepare(open_image(damaged), None, None, 64, 64, 16)
    except RequestError as error:
        assert "\n" not in str(error)
