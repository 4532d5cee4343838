"""Decoding: no black pictures in half precision, in parts nearly what it is whole, and in parts where memory is short."""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import build

from fewstep.engine.backends import BackendError
from fewstep.engine.backends.decoder import Decoder
from fewstep.engine.backends.eager import Eager
from fewstep.engine.decode import decode
from fewstep.engine.engine import Engine
from fewstep.engine.model import open_model
from fewstep.engine.request import Request, RequestError
from fewstep.models.weights import WeightsError
from fewstep.zoo.registry import embedded

LARGE = 2e5  # times weights of up to a sixth: less than float16's 65504, and sums of many of them more


@pytest.fixture(scope="module")
def overflowing() -> Any:
    """An autoencoder whose decoder exceeds float16 within, as SDXL's own does, and ends with values of a picture, for it is normalised."""
    vae = copy.deepcopy(build().vae)
    vae.decoder.conv_in.weight.mul_(LARGE)
    return vae


def latents(seed: int, side: int = 8) -> torch.Tensor:
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed))


def test_an_overflow_in_float16_is_decoded_again_in_float32_and_said_once(overflowing: Any, caplog: pytest.LogCaptureFixture) -> None:
    half = copy.deepcopy(overflowing).half()
    assert not half.decode(latents(0).half(), return_dict=False)[0].isfinite().all(), "else there is nothing to mend"
    decoder = Decoder(half)
    with caplog.at_level(logging.WARNING, "fewstep"), torch.inference_mode():
        pictures = [decode(half, latents(seed), decoder) for seed in (0, 1)]
        wanted = [decode(overflowing, latents(seed)) for seed in (0, 1)]
    assert [record.message for record in caplog.records] == ["fewstep: the decoder exceeds what float16 can hold; such pictures are decoded again in float32"]
    for made, true in zip(pictures, wanted, strict=True):
        assert np.abs(made.astype(int) - true).max() <= 2
        assert made.std() > 1
    assert half.dtype == torch.float16


def test_what_fits_into_float16_stays_in_it(caplog: pytest.LogCaptureFixture) -> None:
    half = build().vae.half()
    with torch.inference_mode():
        assert np.array_equal(decode(half, latents(0), Decoder(half)), decode(half, latents(0)))
    assert not caplog.records


def test_latents_that_are_not_finite_are_no_overflow() -> None:
    half = build().vae.half()
    with pytest.raises(WeightsError, match="not finite"):
        decode(half, latents(0) * torch.nan, Decoder(half))


@pytest.fixture(scope="module")
def eager() -> Engine:
    return Engine.load("emoji", backend="eager")


@pytest.mark.skipif(not (embedded("emoji") / "vae").is_dir(), reason="the embedded model is not in this checkout")
def test_in_parts_a_picture_is_nearly_what_it_is_whole(eager: Engine) -> None:
    request = Request("a ghost on a purple background", 3, 4, 320, 512)
    whole, parts = (Engine(eager.model, eager.backend, decoder).generate(request) for decoder in ("full", "tiled"))
    distance = np.abs(np.asarray(whole.image, int) - np.asarray(parts.image, int))
    assert 0 < distance.mean() < 3, "of 255; docs/models.md states it"
    assert (whole.record.decoder, parts.record.decoder) == ("full", "tiled")
    small = Request("a ghost", 3, 1)
    one, other = (np.asarray(Engine(eager.model, eager.backend, decoder).generate(small).image) for decoder in ("full", "tiled"))
    assert np.array_equal(one, other), "a picture of one part is decoded whole"


def test_where_memory_is_short_a_picture_is_decoded_in_parts(tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine.load(str(tiny), backend="eager")
    needed = engine.backend._decoding(320, 256)  # type: ignore[attr-defined]
    for there, decoder in ((needed, "full"), (needed - 1, "tiled")):
        monkeypatch.setattr("fewstep.engine.backends.eager.free", lambda device, there=there: there)
        assert engine.generate(Request("x", 1, 1, 320, 256)).record.decoder == decoder
    assert engine.generate(Request("x", 1, 1, 320, 256, tile="x")).record.decoder == "full"
    whole = engine.generate(Request("x", 1, 1, 256, 256))
    assert whole.record.decoder == "full", "of one part there is nothing to save"
    with pytest.raises(RequestError, match="too little memory is free now"):
        engine.repeat(dataclasses.replace(whole.record, width=320))
    assert [record.message for record in caplog.records] == [
        "fewstep: a whole picture of 320x256 pixels does not fit what memory is free: it is decoded in parts"
    ]


def test_parts_do_not_go_with_tiles_or_graphs(tiny: Path) -> None:
    with pytest.raises(RequestError, match="a tile is decoded whole"):
        Engine.load(str(tiny), decoder="tiled", backend="eager").generate(Request("x", 1, 1, tile="x"))
    with pytest.raises(BackendError, match="decodes pictures whole"):
        Engine.load("emoji", decoder="tiled", backend="onnxruntime").generate(Request("x", 1, 1))


def test_as_many_pictures_are_decoded_at_once_as_there_is_room_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Eager(open_model(str(tiny)), "cpu", 1)
    backend.device = "cuda"
    one = backend._decoding(256, 128)
    for there, count in ((0, 1), (one - 1, 1), (3 * one, 3), (100 * one, 8)):
        monkeypatch.setattr("fewstep.engine.backends.eager.free", lambda device, there=there: there)
        assert backend._at_once((8, 16)) == count
