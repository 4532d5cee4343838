"""What is measured on a machine and kept: who is faster, and how many pictures are best made at once."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.engine import batching
from fewstep.engine.backends import BackendError, able, fastest, graphs
from fewstep.engine.backends.names import check_backend, stages_of
from fewstep.engine.decode import rounded, to_bytes
from fewstep.engine.engine import Engine
from fewstep.engine.many import in_order
from fewstep.engine.measured import Momentary, cache, remembered
from fewstep.engine.model import open_model
from fewstep.engine.request import MOST_BATCH, Request, RequestError
from fewstep.engine.source import prepare
from fewstep.zoo.registry import embedded

pytestmark = pytest.mark.skipif(not (embedded("emoji") / "graphs").is_dir(), reason="the embedded model is not in this checkout")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fewstep" / "measured"


def test_what_was_measured_is_measured_once_for_each_set_of_conditions(kept: Path) -> None:
    asked = []

    def measure() -> int:
        asked.append(1)
        return len(asked)

    assert [remembered({"threads": 1}, measure), remembered({"threads": 1}, measure), remembered({"threads": 2}, measure)] == [1, 1, 2]
    for file in kept.iterdir():
        file.write_text("{")
    assert remembered({"threads": 1}, measure) == 3, "a damaged file is measured again"


def test_a_disk_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered({}, lambda: 5) == 5
    assert cache("openvino") is None


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's home; the temporary directory in which this user's own folder would be."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"fewstep-{os.getuid()}"


def test_without_a_home_it_is_kept_among_the_temporary_files(homeless: Path) -> None:
    """In a folder that nobody else can write into: what is compiled there is run."""
    assert cache("openvino") == homeless / "openvino"
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert [remembered({}, lambda: 5), remembered({}, lambda: 6)] == [5, 5]


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file"])
def test_where_that_folder_is_not_this_users_alone_nothing_is_kept(trap: str, homeless: Path) -> None:
    if trap == "a link":
        homeless.symlink_to(homeless.parent, target_is_directory=True)
    elif trap == "a file":
        homeless.write_text("")
    else:
        homeless.mkdir()
        homeless.chmod(0o777)
    assert cache("openvino") is None
    assert [remembered({}, lambda: 5), remembered({}, lambda: 6)] == [5, 6]
    engine = Engine.load("emoji", backend="onnxruntime")
    assert engine.best_batch(engine.limits.settle(Request("a pizza", 1, 1, 64, 64))) in batching.BATCHES


def test_what_was_measured_while_something_failed_is_measured_again(kept: Path) -> None:
    assert [remembered({}, lambda: Momentary(5)), remembered({}, lambda: 6), remembered({}, lambda: 7)] == [5, 6, 6]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((1.0, 1.0, 1.0), "onnxruntime"),
        ((0.95, 0.95, 0.95), "onnxruntime"),
        ((0.5, 0.5, 0.5), "openvino"),
        ((2.0, 1.1, 0.5), "onnxruntime+onnxruntime+openvino"),
        ((2.0, 0.8, 2.0), "onnxruntime+openvino+onnxruntime"),
    ],
)
def test_each_stage_goes_to_the_runtime_that_is_clearly_faster(other: tuple[float, ...], expected: str) -> None:
    one = dict.fromkeys(("text", "denoise", "decode"), 1.0)
    assert fastest.choose({"onnxruntime": one, "openvino": dict(zip(one, other, strict=True))}) == expected
    assert fastest.choose({"openvino": one}) == "openvino", "the other does not work here"
    assert fastest.choose({}) == "onnxruntime"


def test_it_is_measured_with_the_model_itself_and_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The runtime that every install has stands for both."""
    monkeypatch.setenv(fastest.VARIABLE, "onnxruntime,openvino")
    monkeypatch.setattr(fastest, "find_spec", lambda name: object())
    model, opened = open_model("emoji"), []

    def make(name: str) -> Any:
        opened.append(name)
        return graphs.Graphs(model, 1, "onnxruntime")

    monkeypatch.setattr(fastest, "least", lambda work, device, threads: (work(), 1.0)[1])
    with caplog.at_level(logging.WARNING, "fewstep"):
        assert fastest.fastest(model, 1, make) == "onnxruntime"
        assert fastest.fastest(model, 1, make) == "onnxruntime"
        assert fastest.fastest(open_model("emoji", 1), 1, make) == "onnxruntime", "another step count is no other question"
    assert opened == ["onnxruntime", "openvino"]
    assert caplog.text.count("measuring once which of onnxruntime and openvino is faster") == 1
    assert fastest.fastest(model, 2, make) == "onnxruntime"
    assert len(opened) == 4, "another number of threads is another question"


def test_a_runtime_that_does_not_work_is_said_and_passed_over(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kept: Path) -> None:
    monkeypatch.setenv(fastest.VARIABLE, "onnxruntime,openvino")
    monkeypatch.setattr(fastest, "find_spec", lambda name: object())
    model = open_model("emoji")

    def make(name: str) -> Any:
        if name == "openvino":
            raise BackendError("it has no such instructions")
        return graphs.Graphs(model, 1, name)

    assert fastest.fastest(model, 1, make) == "onnxruntime"
    assert "openvino cannot be used here (it has no such instructions)" in caplog.text
    assert len(list(kept.iterdir())) == 1, "it will have none the next time either"


@pytest.mark.parametrize("after", [0, 5], ids=["at first", "in a later round"])
def test_a_runtime_that_fails_for_now_is_measured_again_the_next_time(monkeypatch: pytest.MonkeyPatch, kept: Path, after: int) -> None:
    monkeypatch.setenv(fastest.VARIABLE, "onnxruntime,openvino")
    monkeypatch.setattr(fastest, "find_spec", lambda name: object())
    model, calls = open_model("emoji"), []

    def make(name: str) -> Any:
        backend: Any = graphs.Graphs(model, 1, "onnxruntime")
        decode = backend.decode

        def fails(latents: Any, decoder: str) -> Any:
            calls.append(name)
            if len(calls) > after:
                raise MemoryError
            return decode(latents, decoder)

        backend.decode = decode if name == "onnxruntime" else fails
        return backend

    assert fastest.fastest(model, 1, make) == "onnxruntime"
    assert len(calls) == after + 1
    assert not list(kept.iterdir())


def test_a_batch_job_does_not_depend_on_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "fastest", lambda *_: "onnxruntime+openvino+openvino")
    assert Engine.load("emoji", measure=False).backend.name == "onnxruntime"


def test_names_of_backends_are_one_or_one_for_each_stage() -> None:
    check_backend("onnxruntime+openvino+onnxruntime")
    assert stages_of("openvino") == ("openvino",) * 3
    for name in ("onnxruntime+openvino", "onnxruntime+eager+eager", "", "+"):
        with pytest.raises(RequestError, match="there is auto, onnxruntime, openvino"):
            check_backend(name)


def test_who_cannot_compute_in_a_precision_is_not_tried() -> None:
    assert able("cpu", "auto") == able("cpu", "float32") == ("onnxruntime", "eager")
    assert able("cpu", "int8") == ("eager",)
    assert able("cpu", "bfloat16") == ("onnxruntime",), "with OpenVINO's decoder"
    assert able("cuda:1", "int8") == ("compiled", "eager")


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for asked in ({"backend": "openvino"}, {"precision": "bfloat16"}):
        with pytest.raises(ModuleNotFoundError, match="openvino"):
            Engine.load("emoji", **asked)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 0.4, 2: 0.3, 4: 0.2, 8: 0.1}, 8),
        ({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.105}, 8),
        ({1: 0.3, 2: 0.1, 4: 0.2, 8: 0.2}, 2),
        ({1: 0.4, 2: 0.2}, 2),
        ({1: 30.0}, 1),
        ({}, 1),
    ],
)
def test_the_largest_batch_is_taken_unless_a_smaller_one_is_clearly_faster(seconds: dict[int, float], expected: int) -> None:
    assert batching.choose(seconds) == expected


def test_pictures_are_made_in_the_measured_batch(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    engine = Engine.load("emoji", backend="onnxruntime")
    requests = [Request("a pizza", seed, 1, 64, 64) for seed in range(5)]
    assert engine.best_batch(engine.limits.settle(requests[0])) in batching.BATCHES
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setattr(batching, "least", lambda *_: math.nan)
    fresh = Engine(engine.model, engine.backend)
    assert fresh.best_batch(fresh.limits.settle(requests[0])) == engine.best_batch(engine.limits.settle(requests[0])), "read, not measured"
    fresh._batching._best = dict.fromkeys(fresh._batching._best, 2)
    assert [picture.record.batch for picture in fresh.generate_many(requests)] == [2, 2, 2, 2, 1]


def test_a_batch_that_memory_does_not_hold_is_not_tried_further(kept: Path) -> None:
    def denoiser(steps: int, prompts: list[Any], steering: Any) -> Any:
        if len(prompts) > 2:
            raise MemoryError
        return lambda x, t: x

    backend: Any = SimpleNamespace(
        name="eager", device="cpu", precision="auto", threads=2, encode=lambda words, chunks: None, array=lambda x: x, denoiser=denoiser, wait=lambda: None
    )
    engine = Engine.load("emoji", backend="onnxruntime")
    settled = engine.limits.settle(Request("x", 0, 1))
    found, failed = batching.Batching(engine.model)._seconds(settled, backend)
    assert set(found) == {1, 2} and failed
    assert batching.Batching(engine.model).best(settled, backend) in (1, 2)
    assert not kept.exists() or not list(kept.iterdir()), "memory may be free the next time"


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_failure_in_a_later_round_is_no_error(monkeypatch: pytest.MonkeyPatch, kept: Path, error: type[Exception]) -> None:
    tries = []

    def least(*_: object) -> float:
        tries.append(1)
        if len(tries) > len(batching.BATCHES) + 1:
            raise error
        return 0.1 * len(tries)

    monkeypatch.setattr(batching, "least", least)
    engine = Engine.load("emoji", backend="onnxruntime")
    assert engine.best_batch(engine.limits.settle(Request("a pizza", 1, 1, 64, 64))) in batching.BATCHES
    assert not list(kept.iterdir())


def test_other_work_is_measured_for_itself(monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    """Each of these has other networks in it, or another graph."""
    asked: list[Any] = []
    engine = Engine.load("emoji", backend="onnxruntime")
    denoiser = engine.backend.denoiser
    monkeypatch.setattr(batching, "least", lambda *_: 0.1)
    monkeypatch.setattr(engine.backend, "denoiser", lambda steps, prompts, steering: asked.append(steering) or denoiser(steps, prompts, steering))
    plain = Request("a pizza", 1, 1, 64, 64)
    others = [{"negative": "snow"}, {"tile": "xy"}, {"guidance_scale": 3.0}, {"negative": "snow", "guidance_scale": 3.0}]
    for request in [plain, *(dataclasses.replace(plain, **other) for other in others)]:
        engine.best_batch(engine.limits.settle(request))
    assert len(list(kept.iterdir())) == 5
    assert [(s.attends, s.tile, s.guidance_scale, len(s.negatives or ())) for s in asked[3::4]] == [
        (False, None, 0.0, 0),
        (True, None, 0.0, 8),
        (False, "xy", 0.0, 0),
        (False, None, 3.0, 0),
        (False, None, 3.0, 8),
    ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("Unable to allocate 24.0 MiB"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:359 Failed to allocate memory for requested buffer of size 8388608"),
    ],
)
def test_too_large_a_batch_is_halved_until_it_fits(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tried = Engine.load("emoji", backend="onnxruntime"), []
    denoiser = engine.backend.denoiser
    monkeypatch.setattr(engine, "best_batch", lambda settled: MOST_BATCH)

    def refuse(inputs: Any) -> Any:
        raise error

    def cramped(steps: int, prompts: list[Any], steering: Any) -> Any:
        tried.append(len(prompts))
        if len(prompts) > room:
            refuse({}) if isinstance(error, torch.OutOfMemoryError) else engine.backend._run(refuse, {})  # type: ignore[attr-defined]
        return denoiser(steps, prompts, steering)

    monkeypatch.setattr(engine.backend, "denoiser", cramped)
    requests = [Request("a pizza", seed, 1, 64, 64) for seed in range(10)]
    room = 3
    pictures = list(engine.generate_many(requests))
    assert [picture.seed for picture in pictures] == list(range(10))
    assert [picture.record.batch for picture in pictures] == [2] * 10
    assert tried == [8, 4, 2, 2, 2, 2, 2], "what does not fit once is not tried again"
    room = 0
    with pytest.raises((MemoryError, torch.OutOfMemoryError)):
        list(engine.generate_many(requests))


def test_an_image_that_many_begin_from_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, images, made = Engine.load("emoji", backend="onnxruntime"), [Image.new("RGB", (80, 64), colour) for colour in ("red", "blue")], []
    monkeypatch.setattr("fewstep.engine.engine.prepare", lambda *given: made.append(given[0]) or prepare(*given))
    monkeypatch.setattr("fewstep.engine.engine.in_order", lambda settled, *_: iter(settled))
    requests = [Request("a fox", seed, 4, image=images[seed % 2], strength=0.5) for seed in range(20)]
    settled: list[Any] = list(engine.generate_many(requests))
    assert [image.getpixel((0, 0)) for image in made] == [(255, 0, 0), (0, 0, 255)]
    assert settled[0].source is settled[2].source is not settled[1].source


def test_a_long_list_is_gone_through_once() -> None:
    asked = []

    class One:
        def __init__(self, number: int) -> None:
            self.number = number

        @property
        def kind(self) -> int:
            asked.append(self.number)
            return self.number % 3

    ones: list[Any] = [One(number) for number in range(5000)]
    batches: list[list[int]] = []
    made = list(in_order(ones, lambda one: 8, lambda batch: batches.append([one.number for one in batch]) or list(batch)))  # type: ignore[arg-type,func-returns-value]
    assert made == ones
    assert batches[0] == list(range(0, 24, 3)) and all(len(batch) == 8 for batch in batches[:-3])
    assert len(asked) <= 2 * len(ones)


def test_a_card_would_round_pixels_as_the_processor_does() -> None:
    """The card's arithmetic, carried out here: every tie and every border of a byte, and what lies outside."""
    halves = (np.arange(-4, 516, dtype=np.float32) / 2 / 255 - 0.5) * 2
    values = np.stack([halves, np.nextafter(halves, 2), np.nextafter(halves, -2)])[None, :, :, None].astype(np.float32)
    made, finite = rounded(torch.from_numpy(values))
    assert bool(finite)
    assert (made.numpy() == to_bytes(values)).all()
    assert not bool(rounded(torch.tensor([0.0, np.nan]).view(1, 1, 2, 1))[1])
