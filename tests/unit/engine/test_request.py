"""What can be asked for, and the sentence for what cannot."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewstep.data.buckets import BUCKETS
from fewstep.engine.options import parse_size, prompts_of, requests_of
from fewstep.engine.request import ASPECTS, SEEDS, Limits, Request, RequestError, listed, seeds_from
from fewstep.stamp import Stamp

EMOJI = Limits("emoji", factor=16, native=256, students=(1, 2, 4, 8), teacher=True, default_steps=4)
IMAGE = Image.new("RGB", (64, 64))
SDXL = Limits("sdxl", factor=8, native=1024, students=(4,), teacher=False, default_steps=4)


def test_what_is_left_open_is_filled_in() -> None:
    settled = EMOJI.settle(Request("a cat", seed=5))
    assert (settled.prompt, settled.seed, settled.steps, settled.width, settled.height) == ("a cat", 5, 4, 256, 256)


def test_random_seeds_differ() -> None:
    assert len({EMOJI.settle(Request("a cat")).seed for _ in range(20)}) > 15


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 32, 1000])
def test_steps_that_the_model_has(steps: int) -> None:
    assert EMOJI.settle(Request("a cat", steps=steps)).steps == steps


@pytest.mark.parametrize(("steps", "nearest"), [(0, 1), (-4, 1), (3, 2), (7, 8), (15, 16), (1001, 1000), (12, 8)])
def test_other_steps_are_refused_with_those_there_are(steps: int, nearest: int) -> None:
    with pytest.raises(RequestError, match=rf"^{steps} steps .* 1, 2, 4 and 8 steps and its teacher for 16 .*: use --steps {nearest}$"):
        EMOJI.settle(Request("a cat", steps=steps))


def test_a_model_without_a_teacher_takes_no_teacher_steps() -> None:
    with pytest.raises(RequestError, match="use --steps 4"):
        SDXL.settle(Request("a cat", steps=32))


@pytest.mark.parametrize(
    ("size", "nearest"),
    [("250x256", "256x256"), ("256x0", "256x64"), ("16x256", "64x256"), ("2048x256", "512x256"), ("265x271", "272x272")],
)
def test_a_size_that_does_not_fit_names_what_was_given_and_the_nearest(size: str, nearest: str) -> None:
    with pytest.raises(RequestError, match=rf"^size {size}: .* multiples of 16 from 64 to 512; the nearest is {nearest}$"):
        EMOJI.settle(Request("a cat", None, None, *parse_size(size)))


def test_numbers_of_other_libraries_are_numbers() -> None:
    """They become Python's, which JSON can write."""
    request = Request("", np.int64(7), np.uint8(4), np.int32(256), 256, blend="x", blend_weight=np.float32(0.5), guidance_scale=Fraction(3, 2))
    assert [type(value) for value in (request.seed, request.steps, request.width, request.blend_weight, request.guidance_scale)] == [int] * 3 + [float] * 2
    assert request == Request("", 7, 4, 256, 256, blend="x", blend_weight=0.5, guidance_scale=1.5)
    with pytest.raises(RequestError, match=r"^seed = 7.0: give a whole number"):
        Request("", np.float32(7))


@given(st.integers(-100, 5000), st.integers(-100, 5000))
def test_the_nearest_size_is_one_that_works(width: int, height: int) -> None:
    try:
        EMOJI.settle(Request("", 0, 4, width, height))
    except RequestError as error:
        nearest = str(error).rpartition(" ")[2]
        EMOJI.settle(Request("", 0, 4, *parse_size(nearest)))
    else:
        assert width % 16 == height % 16 == 0
        assert 64 <= min(width, height) <= max(width, height) <= 512


def test_aspects_are_the_sizes_that_the_model_was_trained_on() -> None:
    assert {EMOJI.size_of(aspect) for aspect in ASPECTS} == set(BUCKETS)


WIDE = (  # the sizes that SDXL was trained on (arXiv 2307.01952, appendix I), and the same upright
    *((width, 512) for width in (2048, 1984, 1920, 1856)),
    *((width, 576) for width in (1792, 1728, 1664)),
    *((1600, 640), (1536, 640), (1472, 704), (1408, 704), (1344, 704), (1344, 768), (1280, 768)),
    *((1216, 832), (1152, 832), (1152, 896), (1088, 896), (1088, 960), (1024, 960)),
)
TRAINED = {(1024, 1024), *WIDE, *(size[::-1] for size in WIDE)}


def test_every_size_that_sdxl_was_trained_on_is_made() -> None:
    """By --size all of them, and --aspect names none other."""
    for width, height in TRAINED:
        settled = SDXL.settle(Request("a cat", 0, 4, width, height))
        assert (settled.width, settled.height) == (width, height)
    assert {SDXL.size_of(aspect) for aspect in ASPECTS} <= TRAINED


@pytest.mark.parametrize("limits", [EMOJI, SDXL])
@pytest.mark.parametrize("aspect", ASPECTS)
def test_an_aspect_keeps_area_and_shape(limits: Limits, aspect: str) -> None:
    width, height = limits.size_of(aspect)
    across, down = ASPECTS[aspect]
    assert width * height == pytest.approx(limits.native**2, rel=0.06)
    assert width / height == pytest.approx(across / down, rel=0.06)
    limits.check_size(width, height)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"seed": SEEDS},
        {"seed": 1.5},
        {"seed": True},
        {"steps": "4"},
        {"width": 2.0},
        {"aspect": "2:1"},
        {"aspect": "1:1", "width": 256},
        {"prompt": 7},
        {"prompt": "\udcff"},
        {"prompt": "x" * 4001},
        {"blend": 7},
        {"blend": "\udcff"},
        {"blend": "x" * 4001},
        {"blend_weight": 0.5},
        {"blend": "x", "blend_weight": 1.1},
        {"blend": "x", "blend_weight": float("nan")},
        {"blend": "x", "blend_weight": "1"},
        {"variation": -0.1},
        {"variation": True},
        {"variation_seed": 3},
        {"variation": 0.5, "variation_seed": SEEDS},
        {"variation": 0.5, "variation_seed": 0.5},
        {"variations": None},
        {"variations": [9]},
        {"variations": [(9, 0.5, 1)]},
        {"variations": [("9", 0.5)]},
        {"variations": [(SEEDS, 0.5)]},
        {"variations": [(9, 1.5)]},
        {"variations": [(9, float("nan"))]},
        {"variations": [(9, 0.5)] * 33},
        {"strength": 0.5},
        {"mask": IMAGE},
        {"outpaint": (16, 0, 0, 0)},
        {"image": "apple.png"},
        {"image": Image.new("1", (10**5, 10**4))},
        {"image": IMAGE, "strength": 2},
        {"image": IMAGE, "mask": b""},
        {"image": IMAGE, "mask": IMAGE.resize((8, 8))},
        {"image": IMAGE, "outpaint": (16, 0, 0)},
        {"image": IMAGE, "outpaint": (0, 0, 0, 0)},
        {"image": IMAGE, "outpaint": (-16, 0, 0, 0)},
        {"image": IMAGE, "outpaint": (1.5, 0, 0, 0)},
        {"transparent": 1},
    ],
)
def test_what_no_model_can_do_is_refused_in_one_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError) as caught:
        Request(**{"prompt": "a cat", **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "256", "256x", "x256", "-256x256", "256x256x3", "2e2x256", "1234567x1"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(RequestError, match="WIDTHxHEIGHT"):
        parse_size(text)


def test_a_list_of_prompts_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbffox\r\n\r\nowl\r\n")
    assert prompts_of(None, tmp_path / "p.txt") == ["fox", "owl"]


def test_listed() -> None:
    assert [listed(values) for values in ([1], [1, 2], [1, 2, 4, 8])] == ["1", "1 and 2", "1, 2, 4 and 8"]


@pytest.mark.parametrize(
    ("steps", "strength", "run", "entry"),
    [(4, 0.3, 2, 299), (4, 0.5, 2, 499), (4, 0.51, 2, 509), (4, 0.99, 4, 989), (2, 0.04, 1, 39), (1, 0.6, 1, 599), (4, 1.0, 4, None), (4, 0.28, 2, 279)],
)
def test_a_student_of_all_noise_levels_begins_at_any_strength(steps: int, strength: float, run: int, entry: int | None) -> None:
    limits = dataclasses.replace(EMOJI, anywhere=frozenset({1, 2, 4}))
    settled = limits.settle(Request("", 0, steps, image=IMAGE, strength=strength))
    assert (settled.steps - settled.start, settled.entry, settled.strength) == (run, entry, strength)
    assert limits.settle(Request("", 0, 8, image=IMAGE, strength=strength)).entry is None
    for asked in (strength, 0.2751954, 0.55025, 0.77519, 0.0001):  # what is recorded leads to the same walk
        first = limits.settle(Request("", 0, steps, image=IMAGE, strength=asked))
        again = limits.settle(Request("", 0, steps, image=IMAGE, strength=first.strength))
        assert (again.start, again.entry) == (first.start, first.entry)
    times = Stamp("unet", steps).evaluations(settled.start, settled.entry)
    assert len(times) == run
    assert all(before - after == 1000 // steps for before, after in pairwise(times))
    if entry is not None:
        walk = Stamp("unet", steps).walk(settled.start, settled.entry)
        assert (walk["times"][0][0], walk["times"][-1][1], walk["start_scale"]) == (entry, -1, 1.0)


@settings(deadline=None)
@given(st.sampled_from([2, 4, 8, 16, 40]), st.floats(0, 1), st.booleans())
def test_a_strength_is_a_whole_number_of_steps_and_the_nearest_there_is(steps: int, strength: float, painted: bool) -> None:
    settled = EMOJI.settle(Request("", 0, steps, image=IMAGE, strength=strength, mask=IMAGE.convert("L") if painted else None))
    run = steps - settled.start
    assert 1 <= run <= steps
    assert settled.strength == run / steps
    assert abs(settled.strength - strength) <= (0.5 / steps + 1e-9 if strength * steps >= 0.5 else 1 / steps)
    assert (settled.source is not None) == (painted or run < steps)


@pytest.mark.parametrize(
    ("size", "frame"),
    [
        ((256, 256), (256, 256)),
        ((96, 512), (96, 512)),
        ((1024, 1024), (256, 256)),
        ((3000, 2000), (320, 208)),
        ((10, 10), (256, 256)),
        ((100, 5000), (64, 512)),
    ],
)
def test_a_picture_has_the_shape_of_its_image(size: tuple[int, int], frame: tuple[int, int]) -> None:
    settled = EMOJI.settle(Request("", image=Image.new("L", size), strength=0.5))
    assert (settled.width, settled.height) == frame
    assert settled.source is not None and settled.source.pixels.shape == (frame[1], frame[0], 3)
    EMOJI.check_size(*frame)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"aspect": "16:9"}, (336, 192)),
        ({"width": 128, "height": 64}, (128, 64)),
        ({"width": 128}, (128, 256)),
        ({"height": 128}, (64, 128)),
        ({"width": 160, "outpaint": (16, 0, 16, 64)}, (160, 320)),
        ({"width": 512}, (512, 512)),
    ],
)
def test_a_size_that_is_asked_for_counts_more_than_the_images(asked: dict[str, Any], size: tuple[int, int]) -> None:
    settled = EMOJI.settle(Request("", image=Image.new("L", (100, 200)), **asked))
    assert (settled.width, settled.height) == size


def test_an_extended_frame_is_so_much_larger() -> None:
    settled = EMOJI.settle(Request("", image=IMAGE, outpaint=(16, 32, 0, 64)))
    assert (settled.width, settled.height, settled.start) == (80, 160, 0)
    for margins, said in (((8, 0, 0, 0), "size 72x64: .*multiples of 16"), ((512, 0, 0, 0), "size 576x64")):
        with pytest.raises(RequestError, match=said):
            EMOJI.settle(Request("", image=IMAGE, outpaint=margins))


def test_a_model_that_cannot_begin_from_an_image_says_so() -> None:
    blind = dataclasses.replace(EMOJI, no_images="it has no eyes: give it some")
    assert blind.settle(Request("a cat")).source is None
    with pytest.raises(RequestError, match=r"^it has no eyes"):
        blind.settle(Request("a cat", image=IMAGE))


@pytest.mark.parametrize(("first", "seeds"), [(7, [7, 8, 9]), (SEEDS - 2, [SEEDS - 2, SEEDS - 1, 0])])
def test_seeds_count_up_and_after_the_largest_comes_nought(first: int, seeds: list[int]) -> None:
    assert seeds_from(first, 3) == seeds
    assert [request.seed for request in requests_of(["a"], 3, seed=first)] == seeds
    assert all(Request("a", seed) for seed in seeds)
