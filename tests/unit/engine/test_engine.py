"""The engine: a picture is a function of its request, whatever it is made with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.alike import difference

from fewstep.engine.encodings import REMEMBERED
from fewstep.engine.engine import Engine
from fewstep.engine.files import picture_bytes
from fewstep.engine.request import Request, RequestError
from fewstep.models.bundle import load_bundle, load_weights
from fewstep.models.chunks import Words
from fewstep.models.prompt import conditioning, encode, time_ids
from fewstep.sampler import sample
from fewstep.schedule import pairs, start_scale, trailing_timesteps

BOUND = 2  # of 255: kernels differ by batch size


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Engine:
    return Engine.load(str(tiny), backend="eager")


@pytest.mark.parametrize("decoder", ["tiny", "full"])
def test_a_picture_opens_no_file_once_the_first_is_made(decoder: str) -> None:
    """Headers and hashes took 12 ms of 42, every time."""
    engine, opened = Engine.load("emoji", backend="onnxruntime", decoder=decoder), list[str]()
    engine.generate(Request("a red apple", 0, 1))
    listening = True
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if listening and event == "open" else None)  # a hook stays
    engine.generate(Request("a ghost on a blue background", 1, 1))
    listening = False
    assert not opened


def test_the_same_request_gives_the_same_picture(engine: Engine, tiny: Path) -> None:
    request = Request("a red apple", seed=7)
    first, again = engine.generate(request), engine.generate(request)
    fresh = Engine.load(str(tiny), backend="eager").generate(request)
    assert difference(first, again) == difference(first, fresh) == 0
    assert (first.seed, first.steps, first.width, first.height, first.model) == (7, 4, 256, 256, "tiny")
    assert first.image.size == (256, 256)
    assert first.image.mode == "RGB"


@pytest.mark.parametrize("change", [{"prompt": "pizza"}, {"seed": 8}, {"steps": 2}])
def test_every_part_of_a_request_matters(engine: Engine, change: dict[str, object]) -> None:
    request = {"prompt": "a red apple", "seed": 7, "steps": 4}
    one, other = (engine.generate(Request(**part)) for part in (request, {**request, **change}))  # type: ignore[arg-type]
    assert difference(one, other) > BOUND


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_alone_and_in_a_batch_of_eight_are_the_same(engine: Engine, steps: int) -> None:
    requests = [Request(f"a {subject}", seed=seed, steps=steps) for seed, subject in enumerate(["pizza", "ghost", "", "cat"] * 2)]
    together = list(engine.generate_many(requests))
    assert {picture.record.batch for picture in together} == {8}
    assert max(difference(picture, engine.generate(request)) for picture, request in zip(together, requests, strict=True)) <= BOUND


def test_order_is_kept_and_the_like_are_made_together(engine: Engine) -> None:
    kinds = [(1, 64, 64), (2, 64, 64), (1, 96, 64)]
    requests = [Request("pizza", seed, *kinds[seed % 3]) for seed in range(30)]
    pictures = list(engine.generate_many(requests))
    assert [(p.seed, p.steps, p.width, p.height) for p in pictures] == [(r.seed, r.steps, r.width, r.height) for r in requests]
    assert [p.image.size for p in pictures] == [(r.width, r.height) for r in requests]
    assert sorted({p.record.batch for p in pictures}) == [2, 8]


def test_all_requests_are_checked_before_the_first_is_made(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"'pizza' is no request: give Request\(prompt\)"):
        engine.generate("pizza")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="3 steps"):
        engine.generate_many([Request("pizza"), Request("pizza", steps=3)])


def test_no_requests_is_an_error(engine: Engine) -> None:
    with pytest.raises(RequestError, match="empty"):
        engine.generate_many([])


@pytest.mark.parametrize("steps", [1, 4])
def test_a_stream_shows_every_step_and_ends_with_the_picture(engine: Engine, steps: int) -> None:
    request = Request("pizza", seed=3, steps=steps)
    frames = list(engine.stream(request))
    assert [frame.step for frame in frames] == list(range(1, steps + 1))
    assert all(frame.image.size == (256, 256) for frame in frames)
    assert [frame.picture is None for frame in frames] == [True] * (steps - 1) + [False]
    assert frames[-1].picture is not None
    assert difference(frames[-1].picture, engine.generate(request)) == 0


def test_a_walk_shows_each_of_a_batch_at_every_step_and_decodes_at_the_end(engine: Engine) -> None:
    requests = [Request(prompt, seed, 2) for seed, prompt in enumerate(["pizza", "cat", "ghost"])]
    walk = list(engine.walk([engine.limits.settle(request) for request in requests]))
    assert [[(frame.step, frame.steps, frame.picture is None) for frame in frames] for frames in walk] == [
        [(1, 2, True)] * 3,
        [(2, 2, True)] * 3,
        [(2, 2, False)] * 3,
    ]
    for row, request in enumerate(requests):
        alone = list(engine.stream(request))
        preview = [np.asarray(frame.image, dtype=int) for frame in (walk[0][row], alone[0])]
        assert np.abs(preview[0] - preview[1]).max() <= BOUND
        picture = walk[-1][row].picture
        assert picture is not None
        assert alone[-1].picture is not None
        assert (picture.record.batch, picture.record.row, picture.seed) == (3, row, request.seed)
        assert difference(picture, alone[-1].picture) <= BOUND


def test_a_walk_that_is_left_before_its_end_decodes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(engine.backend, "decode", lambda latents, decoder, tile: decoded.append(decoder))
    walk = engine.walk([engine.limits.settle(Request("pizza", seed=1, steps=1))])
    assert next(walk)[0].picture is None
    del walk
    assert decoded == []


def test_a_walk_takes_a_decoder_of_its_own(engine: Engine) -> None:
    settled = engine.limits.settle(Request("pizza", seed=1, steps=1))
    (frame,) = list(engine.walk([settled], "full"))[-1]
    assert frame.picture is not None
    assert frame.picture.record.decoder == "full"
    with pytest.raises(RequestError, match="the decoder of tiny = 'tiny': there is full"):
        next(engine.walk([settled], "tiny"))


def test_a_stream_leaves_no_mode_behind(engine: Engine) -> None:
    next(engine.stream(Request("pizza", seed=3)))
    assert not torch.is_inference_mode_enabled()


def test_the_picture_is_the_samplers_own(engine: Engine, tiny: Path) -> None:
    """The same by hand: CPU noise of the seed, the student of that step count, the sampler, the autoencoder, rounding."""
    bundle = load_bundle(tiny)
    load_weights(bundle.unet, tiny / "students" / "2-step.safetensors")
    with torch.inference_mode():
        noise = torch.randn((1, 4, 16, 16), generator=torch.Generator("cpu").manual_seed(11))
        conditions = conditioning(encode(bundle, ["pizza"]), time_ids(1, 256, 256))
        times = pairs(trailing_timesteps(2))
        walk = sample(lambda x, t: bundle.unet(x, t, **conditions).sample, noise, times, prediction_type="epsilon", start_scale=start_scale())
        latents = [frame.latents for frame in walk][-1]
        pixels = bundle.vae.decode(latents / bundle.vae.config.scaling_factor).sample[0]
    expected = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    made = np.asarray(engine.generate(Request("pizza", seed=11, steps=2)).image)
    assert np.abs(made - expected).max() <= 1


def test_the_teacher_answers_from_sixteen_steps_with_its_guidance(engine: Engine, tiny: Path) -> None:
    picture = engine.generate(Request("pizza", seed=1, steps=16, width=64, height=64))
    assert (picture.steps, picture.record.guidance_scale, picture.record.hash) == (16, 5.0, load_bundle(tiny).hash)
    assert "CFG scale: 5.0" in picture.record.parameters()


def test_prompts_are_encoded_once_and_only_so_many_are_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode_one = engine.backend.encode

    def counted(words: tuple[Words, Words], chunks: int) -> object:
        asked.append(words[0].parts[0][0].text)
        return encode_one(words, chunks)

    monkeypatch.setattr(engine.backend, "encode", counted)
    for _ in range(2):
        engine.generate(Request("never asked before", steps=1, width=64, height=64))
    assert asked == ["never asked before"]
    for number in range(REMEMBERED + 1):
        engine.encodings.text((str(number),))
    assert len(engine.encodings._prompts) == REMEMBERED
    engine.generate(Request("never asked before", steps=1, width=64, height=64))
    assert asked.count("never asked before") == 2, "it was forgotten"


def test_timings_name_the_stages(engine: Engine) -> None:
    timings = engine.generate(Request("pizza")).timings
    assert list(timings) == ["text", "denoise", "decode"]
    assert min(timings.values()) >= 0


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_picture_is_repeated_to_the_byte_from_its_record(engine: Engine, count: int) -> None:
    pictures = list(engine.generate_many([Request("pizza", seed=seed, steps=2) for seed in range(count)]))
    for picture in {0: pictures[0], count // 2: pictures[count // 2]}.values():
        again = engine.repeat(picture.record)
        assert again.record == picture.record
        assert picture_bytes(again.image, again.record) == picture_bytes(picture.image, picture.record)


def test_a_record_of_other_weights_is_not_repeated(engine: Engine) -> None:
    record = engine.generate(Request("pizza", steps=1, width=64, height=64)).record
    with pytest.raises(RequestError, match="weights 000000000000 of 'tiny'"):
        engine.repeat(type(record)(**{**vars(record), "hash": "0" * 12}))


def test_threads_are_as_before_after_a_repeat(engine: Engine) -> None:
    before = torch.get_num_threads()
    engine.repeat(engine.generate(Request("pizza", steps=1, width=64, height=64)).record)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("decoder", "none", "^decoder = 'none': there is full, tiny and tiled$"),
        ("decoder", "tiny", "^decoder = 'tiny': tiny has no reduced decoder; leave --decoder at full$"),
        ("backend", "cray", "^backend = 'cray': there is auto, onnxruntime, openvino, native, compiled, eager and offloaded$"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(tiny: Path, what: str, value: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Engine.load(str(tiny), **{"backend": "eager", what: value})


def test_three_lines(tiny: Path, tmp_path: Path) -> None:
    from fewstep import Engine, Request

    path = Engine.load(str(tiny), steps=2).generate(Request("a red apple on a blue background", seed=7)).save(tmp_path / "apple.png")
    assert path.stat().st_size > 1000
