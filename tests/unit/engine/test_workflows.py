"""Images, masks, blends and variations: each end of a scale is a picture that is known already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.alike import difference

from fewstep.engine.engine import Engine
from fewstep.engine.files import picture_bytes, read_record
from fewstep.engine.request import Picture, Request, RequestError

BOUND = 2  # of 255
SIZE = (96, 64)
APPLE, PIZZA = "a red apple on a blue background", "pizza"


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), backend="eager")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """Black on the left, white on the right, grey between."""
    return Image.fromarray(np.tile(np.clip(np.arange(96) * 8.0 - 256, 0, 255).astype(np.uint8), (64, 1)))


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(picture.image, dtype=int)


def base(prompt: str = APPLE, seed: int = 7, **more: object) -> Request:
    return Request(prompt, seed, 4, *SIZE, **more)  # type: ignore[arg-type]


NOTHING: list[dict[str, object]] = [{"blend": PIZZA, "blend_weight": 0}, {"variation": 0.0, "variation_seed": 9}, {"variation": 0}, {"variations": [(9, 0)]}]


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_weight_of_nothing_changes_no_byte(engine: Engine, nothing: dict[str, object]) -> None:
    plain, same = engine.generate(base()), engine.generate(base(**nothing))
    assert same.record == plain.record
    assert picture_bytes(same.image, same.record) == picture_bytes(plain.image, plain.record)


def test_all_of_a_blend_is_its_prompt_and_all_of_a_variation_its_seed(engine: Engine) -> None:
    assert difference(engine.generate(base(blend=PIZZA, blend_weight=1)), engine.generate(base(PIZZA))) == 0
    assert difference(engine.generate(base(variation_seed=8, variation=1)), engine.generate(base(seed=8))) == 0


def test_between_the_ends_lies_another_picture(engine: Engine) -> None:
    varied = engine.generate(base(variation_seed=8, variation=0.5))
    assert all(difference(varied, engine.generate(base(seed=seed))) > BOUND for seed in (7, 8))
    first, second = engine.encodings.text((APPLE,)), engine.encodings.text((PIZZA,))
    blended = engine.encodings.prompt(engine.limits.settle(base(blend=PIZZA, blend_weight=0.25)))
    for name in ("embeds", "pooled"):
        torch.testing.assert_close(getattr(blended, name), 0.75 * getattr(first, name) + 0.25 * getattr(second, name))
    assert engine.generate(base(blend=PIZZA)).record.blend_weight == 0.5


def test_a_random_variation_is_in_the_record(engine: Engine) -> None:
    varied = engine.generate(base(variation=0.3))
    assert varied.record.variation_seed is not None
    assert difference(varied, engine.generate(base(variation=0.3, variation_seed=varied.record.variation_seed))) == 0


def test_what_is_further_varied_is_repeated_and_says_its_first_variation_apart(engine: Engine, tmp_path: Path) -> None:
    made = engine.generate(base(variation_seed=8, variation=0.2, variations=[(9, 0.3), (10, 0)]))
    assert (made.record.variation_seed, made.record.variation, made.record.variations) == (8, 0.2, ((9, 0.3),))
    alike = engine.generate(base(variations=((11, 0), (8, 0.2), (9, 0.3))))
    assert alike.record == made.record and difference(alike, made) == 0
    again = engine.repeat(read_record(made.save(tmp_path / "a.png")))
    assert picture_bytes(again.image, again.record) == (tmp_path / "a.png").read_bytes()
    assert difference(made, engine.generate(base(variation_seed=8, variation=0.2))) > BOUND


def test_all_of_an_image_made_anew_is_text_to_image(engine: Engine, image: Image.Image) -> None:
    whole = engine.generate(base(image=image, strength=1))
    assert whole.record == engine.generate(base()).record
    assert whole.strength == 1


@pytest.mark.parametrize(("asked", "used"), [(0.0, 0.25), (0.1, 0.25), (0.3, 0.25), (0.5, 0.5), (None, 0.5), (0.7, 0.75)])
def test_a_strength_is_the_nearest_that_was_trained(engine: Engine, image: Image.Image, asked: float | None, used: float) -> None:
    picture = engine.generate(base(image=image, strength=asked))
    assert picture.strength == picture.record.strength == used
    assert set(picture.timings) == {"text", "encode", "denoise", "decode"}


def test_a_student_of_all_noise_levels_has_every_strength(engine: Engine, image: Image.Image, mask: Image.Image, tmp_path: Path) -> None:
    """As asked, and again from its record; begun at a level of the steps it is the picture that it was."""
    able = replace(engine.model, limits=replace(engine.model.limits, anywhere=frozenset({4})))
    free = Engine(able, engine.backend, engine.decoder)
    made = free.generate(base(image=image, strength=0.3))
    assert made.strength == made.record.strength == 0.3
    again = free.repeat(read_record(made.save(tmp_path / "a.png")), image)
    assert picture_bytes(again.image, again.record) == (tmp_path / "a.png").read_bytes()
    assert difference(free.generate(base(image=image, strength=0.5)), engine.generate(base(image=image, strength=0.5))) <= BOUND
    assert difference(made, engine.generate(base(image=image, strength=0.25))) > BOUND
    painted = free.generate(base(image=image, mask=mask, strength=0.7))
    assert painted.strength == 0.7
    assert (pixels(painted)[np.asarray(mask) == 0] == np.asarray(image, int)[np.asarray(mask) == 0]).all()


def test_less_strength_leaves_more_of_the_image(engine: Engine, image: Image.Image) -> None:
    """The decoder's and the encoder's weights are random, so the latents are what is compared."""
    own = engine.backend.encode_image(np.asarray(image))
    ends = []
    for strength in (0.25, 0.5, 0.75):
        _, first, _ = next(engine._walk([engine.limits.settle(base(image=image, strength=strength))], "full"))
        ends.append(float(np.square(np.asarray(first) - own).mean()))
    assert len({round(end, 4) for end in ends}) == 3


@pytest.mark.parametrize("strength", [None, 0.5, 1.0])
def test_what_the_mask_leaves_black_stays_to_the_bit(engine: Engine, image: Image.Image, mask: Image.Image, strength: float | None) -> None:
    painted = engine.generate(base(image=image, mask=mask, strength=strength))
    black, white = (np.asarray(mask) == value for value in (0, 255))
    before = np.asarray(image, int)
    assert (pixels(painted)[black] == before[black]).all()
    assert (pixels(painted)[white] != before[white]).any(-1).mean() > 0.9
    assert painted.strength == (strength or 1.0)


def test_previews_show_what_stays(engine: Engine, image: Image.Image, mask: Image.Image) -> None:
    frames = list(engine.stream(base(image=image, mask=mask, strength=0.75)))
    assert [(frame.step, frame.steps) for frame in frames] == [(2, 4), (3, 4), (4, 4)]
    black = np.asarray(mask) == 0
    for frame in frames:
        assert (np.asarray(frame.image)[black] == np.asarray(image)[black]).all()


def test_an_extended_frame_keeps_the_image(engine: Engine, image: Image.Image) -> None:
    wider = engine.generate(Request(PIZZA, 7, 2, image=image, outpaint=(32, 0, 16, 16)))
    assert wider.image.size == (144, 80)
    assert np.array_equal(pixels(wider)[:64, 32:128], np.asarray(image, int))


def test_one_step_leaves_nothing_of_an_image_and_says_what_does(engine: Engine, image: Image.Image, mask: Image.Image) -> None:
    for strength in (None, 0.4):
        with pytest.raises(RequestError, match=r"^strength = 0\.\d: 1 step leaves nothing of an image, .* strengths 1/N, 2/N to 1: use --steps 4$"):
            engine.generate(Request(PIZZA, 1, 1, *SIZE, image=image, strength=strength))
    assert engine.generate(Request(PIZZA, 1, 1, *SIZE, image=image, strength=1.0)).strength == 1
    assert engine.generate(Request(PIZZA, 1, 1, *SIZE, image=image, mask=mask, strength=0.4)).strength == 1


def test_the_teacher_begins_anywhere(engine: Engine, image: Image.Image) -> None:
    assert engine.generate(Request(PIZZA, 1, 16, *SIZE, image=image, strength=0.1)).strength == 2 / 16


def test_a_picture_alone_is_the_one_of_a_batch(engine: Engine, image: Image.Image, mask: Image.Image) -> None:
    """Those with an image are made with those without where they begin at the same noise level."""
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    requests = [
        base(),
        base(PIZZA, 8, image=image, mask=mask),
        base(blend=PIZZA, image=image, strength=0.5),
        base(PIZZA, variation=0.5, variation_seed=3, variations=[(4, 0.5)]),
        base(seed=9, image=flipped, mask=mask, strength=0.5),
        base(seed=10, image=flipped, strength=0.25),
    ]
    together = list(engine.generate_many(requests))
    assert [picture.record.batch for picture in together] == [3, 3, 2, 3, 2, 1]
    for request, picture in zip(requests, together, strict=True):
        assert difference(picture, engine.generate(request)) <= BOUND


def test_images_are_encoded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    encode = engine.backend.encode_image
    monkeypatch.setattr(engine.backend, "encode_image", lambda pixels, tile: asked.append(pixels.shape) or encode(pixels, tile))
    image = Image.new("RGB", SIZE, (1, 2, 3))
    for prompt in (APPLE, PIZZA):
        engine.generate(base(prompt, image=image, strength=0.25))
    assert asked == [(64, 96, 3)]


def test_a_transparent_picture_is_cut_out_and_no_jpeg(engine: Engine, tmp_path: Path) -> None:
    picture = engine.generate(base(transparent=True))
    assert picture.image.mode == "RGBA"
    picture.image.putpixel((0, 0), (0, 0, 0, 0))  # WebP leaves out an α that says nothing
    for name in ("a.png", "a.webp"):
        assert read_record(picture.save(tmp_path / name)) == picture.record
        with Image.open(tmp_path / name) as opened:
            assert opened.mode == "RGBA"
    with pytest.raises(RequestError, match="a JPEG has no transparent background: give png or webp"):
        picture.save(tmp_path / "a.jpg")


def test_what_was_blended_and_varied_is_repeated_to_the_byte(engine: Engine, tmp_path: Path) -> None:
    made = engine.generate(base(blend=PIZZA, blend_weight=0.3, variation_seed=8, variation=0.2, transparent=True))
    again = engine.repeat(read_record(made.save(tmp_path / "a.png")))
    assert again.record == made.record
    assert picture_bytes(again.image, again.record) == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("more", [{}, {"outpaint": (16, 0, 0, 16)}])
def test_what_was_begun_from_an_image_is_repeated_with_it(engine: Engine, image: Image.Image, mask: Image.Image, more: dict[str, object]) -> None:
    made = engine.generate(Request(PIZZA, 7, 4, image=image, mask=mask, strength=0.5, **more))  # type: ignore[arg-type]
    assert difference(made, engine.repeat(made.record, image, mask)) == 0
    with pytest.raises(RequestError, match="made from an image: give that one with --image FILE"):
        engine.repeat(made.record)
    other = image.transpose(Image.Transpose.ROTATE_180)
    for wrong, name in (((other, mask), "image"), ((image, mask.transpose(Image.Transpose.ROTATE_180)), "mask")):
        with pytest.raises(RequestError, match=f"the {name} is not the one that the picture was made from: give that file with --{name}"):
            engine.repeat(made.record, *wrong)
    with pytest.raises(RequestError, match="made from noise alone: leave --image"):
        engine.repeat(engine.generate(base()).record, image)
