"""What a request can say beside its prompt, from the request to the picture, in either backend."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tests.alike import difference

from fewstep.engine.backends import BackendError
from fewstep.engine.engine import Engine
from fewstep.engine.files import picture_bytes, read_record, write_picture
from fewstep.engine.record import Record
from fewstep.engine.request import Limits, Request, RequestError
from fewstep.engine.steering import NAG_SCALE
from fewstep.engine.texts import MOST_CHUNKS
from fewstep.models.chunks import MOST_LEVELS

BOUND = 2  # of 255, between backends and between batches
PROMPT = "a fish on a green background"
LONG = "a fish on a green background, " * 14  # two chunks
SAYINGS: dict[str, dict[str, Any]] = {
    "weights": {"prompt": "a (fish:1.4) on a [green] (blue:0.3) background"},
    "long": {"prompt": LONG},
    "parts": {"prompt": "a fish BREAK on a green background BREAK (blue:0.5)"},
    "second": {"prompt": PROMPT, "prompt_2": "a fox on a red background"},
    "blend": {"prompt": PROMPT, "blend": LONG, "blend_weight": 0.5},
    "negative": {"prompt": PROMPT, "negative": "shark"},
    "long negative": {"prompt": PROMPT, "negative": LONG, "nag_scale": 3.0},
    "guidance": {"prompt": PROMPT, "guidance_scale": 3.0},
    "negative with guidance": {"prompt": PROMPT, "negative": "a shark", "guidance_scale": 3.0},
    "long negative with guidance": {"prompt": PROMPT, "negative": LONG, "guidance_scale": 3.0},
    "both": {"prompt": PROMPT, "negative": "a shark", "guidance_scale": 2.0, "nag_scale": 2.0},
    "sizes": {"prompt": PROMPT, "original_size": (96, 64), "crop": (0, 60), "target_size": (200, 100)},
}


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    return Engine.load("emoji", backend="onnxruntime", decoder="tiny"), Engine.load("emoji", backend="eager", decoder="tiny")


def request(saying: str, seed: int = 3, steps: int = 2) -> Request:
    return Request(seed=seed, steps=steps, width=128, height=128, **SAYINGS[saying])


@pytest.mark.parametrize("saying", SAYINGS)
def test_both_backends_make_the_same_picture_and_it_is_not_the_plain_one(engines: tuple[Engine, Engine], saying: str) -> None:
    quick, reference = (engine.generate(request(saying)) for engine in engines)
    assert difference(quick, reference) <= BOUND
    plain = engines[0].generate(Request(PROMPT, 3, 2, 128, 128))
    assert difference(quick, plain) > BOUND


@pytest.mark.parametrize("saying", SAYINGS)
def test_its_file_says_how_to_make_it_again_from_any_place_in_a_batch(engines: tuple[Engine, Engine], saying: str, tmp_path: Any) -> None:
    engine = engines[0]
    others = [Request("a pizza", 1, 2, 128, 128), Request("a fox", 2, 2, 128, 128, negative="snow")]
    batch = list(engine.generate_many([*others, request(saying, 5), request(saying)]))
    made = batch[-1]
    assert difference(made, engine.generate(request(saying))) <= BOUND, "alone as in a batch"
    path = write_picture(made.image, made.record, tmp_path / "a.png")
    again = engine.repeat(read_record(path))
    assert picture_bytes(again.image, again.record) == path.read_bytes()


def test_what_changes_nothing_costs_nothing_and_changes_no_bit(engines: tuple[Engine, Engine]) -> None:
    plain = [engine.generate(Request(PROMPT, 3, 2, 128, 128)) for engine in engines]
    for nothing in (
        {"negative": ""},
        {"negative": " (:1.5) "},
        {"negative": "a shark", "nag_scale": 1},
        {"prompt_2": PROMPT},
        {"guidance_scale": 1},
        {"original_size": (128, 128), "crop": (0, 0)},
        {"prompt": f"({PROMPT}:1)"},
        {"literal": True},
        {"prompt": f"{{{PROMPT}}}"},
    ):
        for engine, picture in zip(engines, plain, strict=True):
            same = engine.generate(dataclasses.replace(Request(PROMPT, 3, 2, 128, 128), **nothing))  # type: ignore[arg-type]
            assert difference(same, picture) == 0, nothing
            assert (same.record.negative, same.record.nag_scale, same.record.prompt_2) == (None, None, None)


def test_a_negative_prompt_that_is_the_prompt_leads_nowhere(engines: tuple[Engine, Engine]) -> None:
    plain, led = (engines[0].generate(Request(PROMPT, 3, 2, 128, 128, negative=negative)) for negative in (None, PROMPT))
    assert led.record.nag_scale == NAG_SCALE
    assert difference(plain, led) <= 1


@pytest.mark.parametrize(
    ("steps", "asked", "used"),
    [
        (4, {}, (0.0, NAG_SCALE)),
        (4, {"nag_scale": 3}, (0.0, 3.0)),
        (4, {"guidance_scale": 1}, (1.0, NAG_SCALE)),
        (4, {"guidance_scale": 2}, (2.0, None)),
        (16, {}, (4.0, None)),
        (16, {"guidance_scale": 0}, (0.0, NAG_SCALE)),
        (16, {"nag_scale": 3}, (4.0, 3.0)),
    ],
)
def test_attention_is_used_where_there_is_no_guidance_or_it_is_asked_for(
    engines: tuple[Engine, Engine], steps: int, asked: dict[str, Any], used: tuple[float, float | None]
) -> None:
    record = engines[0].generate(Request(PROMPT, 3, steps, 64, 64, negative="a shark", **asked)).record
    assert (record.guidance_scale, record.nag_scale, record.negative) == (*used, "a shark")
    said = record.parameters().splitlines()
    assert said[1] == "Negative prompt: a shark"
    assert ("NAG scale" in said[2]) == (used[1] is not None)


@pytest.mark.parametrize(
    ("prompt", "unwanted", "others"),
    [("a bird on a green background", "duck", {"penguin", "owl"}), ("an insect on a green background", "butterfly", {"lady beetle", "honeybee"})],
)
def test_what_is_not_wanted_becomes_another_of_its_kind(engines: tuple[Engine, Engine], prompt: str, unwanted: str, others: set[str]) -> None:
    """The claim of docs/prompts.md, on a few seeds: what the model draws of a kind, until it is told to draw none."""
    judge = pytest.importorskip("fewstep.evals.judge")
    from fewstep.zoo.registry import find

    own = judge.load_judge(find("emoji") / judge.JUDGE)

    def count(**asked: Any) -> int:
        pictures = list(engines[0].generate_many([Request(prompt, seed, 4, **asked) for seed in range(8)]))
        logits, _ = own.classify(judge.look(own, np.stack([np.asarray(picture.image) for picture in pictures])))
        names = [own.subjects[index] for index in logits.argmax(dim=1)]
        assert set(names) <= {unwanted, *others}, names
        return names.count(unwanted)

    assert 2 <= count() >= 2 * count(negative=unwanted)


def test_a_prompt_is_drawn_by_its_seed_and_both_are_recorded(engines: tuple[Engine, Engine]) -> None:
    template = "a {fox|pizza|ghost} on a {red|blue} background"
    pictures = list(engines[0].generate_many([Request(template, seed, 1, 64, 64) for seed in range(12)]))
    assert {picture.record.template for picture in pictures} == {template}
    assert 4 <= len({picture.record.prompt for picture in pictures}) <= 6
    for picture in pictures[:3]:
        plain = engines[0].generate(Request(picture.record.prompt, picture.seed, 1, 64, 64))
        assert difference(picture, plain) <= BOUND
        assert plain.record.template is None


def test_a_record_from_before_brackets_meant_anything_is_read_as_it_was_meant(engines: tuple[Engine, Engine]) -> None:
    engine, words = engines[0], "a (fish:1.4) {on|in} BREAK " + LONG
    literal = engine.generate(Request(words, 3, 2, 128, 128, literal=True))
    old = dataclasses.replace(literal.record, wording=False)
    assert old == literal.record
    again = engine.repeat(old)
    assert difference(again, literal) == 0 and again.record == old
    assert difference(literal, engine.generate(Request(words, 3, 2, 128, 128))) > BOUND


def test_a_backend_without_the_graph_says_how_to_make_it_or_is_left(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request("negative")
    for backend in ("onnxruntime", "auto"):
        engine = Engine.load("emoji", backend=backend, device="cpu", decoder="tiny")
        monkeypatch.delitem(engine.backend._shapes, "unet_negative")  # type: ignore[attr-defined]
        engine.generate(Request(PROMPT, 3, 2, 128, 128))
        if backend == "auto":
            picture = engine.generate(wanted)
            assert picture.record.backend == "eager"
            assert difference(picture, engines[1].generate(wanted)) == 0
        else:
            with pytest.raises(BackendError, match=r"has no unet_negative\.onnx: take the folder away and make its graphs with fewstep export"):
                engine.generate(wanted)


LIMITS = Limits("fake", 16, 64, (1, 2, 4), False, 4, count=lambda words: sum(len(part) for part in words.parts))


def test_pictures_of_other_lengths_and_other_guidance_are_made_apart() -> None:
    kinds = [
        LIMITS.settle(Request(*asked, **more)).kind  # type: ignore[arg-type]
        for asked, more in (
            (("fox",), {}),
            (("fox BREAK fox",), {}),
            (("fox",), {"negative": "owl"}),
            (("fox",), {"negative": "owl BREAK owl"}),
            (("fox",), {"negative": "owl", "nag_scale": 3}),
            (("fox",), {"guidance_scale": 2}),
        )
    ]
    assert len(set(kinds)) == len(kinds)
    assert LIMITS.settle(Request("fox", blend="owl BREAK owl")).kind == kinds[1] == LIMITS.settle(Request("owl", prompt_2="owl BREAK owl")).kind


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"negative": 7}, "the negative is 7: give a text"),
        ({"prompt_2": "x" * 4001}, "the prompt_2 has 4001 characters: give at most 4000"),
        ({"negative": "\ud800"}, "the negative is not valid Unicode: give it in UTF-8"),
        ({"nag_scale": 2}, "nag_scale was given without negative: give both, or neither"),
        ({"negative": "x", "nag_scale": 0.5}, "nag_scale = 0.5: give a number from 1 to 100"),
        ({"guidance_scale": float("nan")}, "guidance_scale = nan: give a number from 0 to 100"),
        ({"guidance_scale": True}, "guidance_scale = True: give a number from 0 to 100"),
        ({"literal": 1}, "literal = 1: give true or false"),
        ({"crop": (1, -1)}, "crop = (1, -1): give two whole numbers of pixels from 0 to 65536, left and top"),
        ({"original_size": (0, 5)}, "original_size = (0, 5): give two whole numbers of pixels from 1 to 65536, width and height"),
        ({"target_size": (5, 5.0)}, "target_size = (5, 5.0): give two whole numbers of pixels from 1 to 65536, width and height"),
    ],
)
def test_what_is_wrong_is_a_sentence(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        Request("fox", **asked)
    assert str(caught.value) == sentence


def test_too_much_of_a_prompt_is_a_sentence() -> None:
    with pytest.raises(RequestError, match=rf"the negative takes {MOST_CHUNKS + 1} chunks of 75 tokens: give at most {MOST_CHUNKS}"):
        LIMITS.settle(Request("fox", negative=" BREAK ".join(["fox"] * (MOST_CHUNKS + 1))))
    with pytest.raises(RequestError, match=rf"the prompt has {MOST_LEVELS + 1} different weights below 1: give at most {MOST_LEVELS}"):
        LIMITS.settle(Request(" ".join(f"(fox:0.{level})" for level in range(1, MOST_LEVELS + 2))))


def test_a_record_keeps_what_was_said(tmp_path: Any) -> None:
    settled = LIMITS.settle(Request("{fox|owl}", 3, negative="snow", prompt_2="owl", original_size=(96, 64), crop=(1, 2), target_size=(3, 4)))
    made = {"model": "fake", "hash": "0" * 12, "version": "0", "backend": "fake", "device": "cpu", "threads": 1}
    record = Record.of(settled, **made, guidance_scale=0.0, nag_scale=2.0)  # type: ignore[arg-type]
    asked = record.request
    assert (asked.original_size, asked.crop, asked.target_size, asked.negative, asked.nag_scale) == ((96, 64), (1, 2), (3, 4), "snow", 2.0)
    assert (record.template, asked.prompt) == ("{fox|owl}", settled.prompt)
    again = dataclasses.replace(LIMITS.settle(asked), template=record.template)
    assert Record.of(again, **made, guidance_scale=0.0, nag_scale=2.0) == record  # type: ignore[arg-type]
