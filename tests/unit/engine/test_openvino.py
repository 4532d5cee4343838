"""OpenVINO makes eager torch's pictures, alone and stage by stage beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.alike import BOUND, EVERY, difference, named

from fewstep.engine.backends import BackendError
from fewstep.engine.engine import Engine
from fewstep.engine.request import Request
from fewstep.zoo.registry import embedded

openvino = pytest.importorskip("openvino", reason="needs fewstep[openvino]")

HALF_BOUND = 8  # of 255, with a decoder in bfloat16
EMOJI = embedded("emoji")
pytestmark = [
    pytest.mark.skipif(not (EMOJI / "graphs").is_dir(), reason="the embedded model is not in this checkout"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where compiled networks are kept for this module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def engines(cache: Path) -> tuple[Engine, Engine]:
    return Engine.load("emoji", backend="openvino"), Engine.load("emoji", backend="eager")


@pytest.mark.parametrize("request_", EVERY, ids=named)
def test_openvino_makes_the_picture_of_eager_torch(engines: tuple[Engine, Engine], request_: Request) -> None:
    quick, reference = (engine.generate(request_) for engine in engines)
    assert (quick.record.backend, reference.record.backend) == ("openvino", "eager")
    assert difference(quick, reference) <= BOUND
    assert np.asarray(reference.image).std() > 5, "a flat picture would hide any difference"


def test_what_else_a_picture_can_be_is_the_same_too(engines: tuple[Engine, Engine]) -> None:
    image = Image.linear_gradient("L").convert("RGB").resize((128, 128))
    asked = [Request("a pizza", 3, 1, 128, 128, negative="snow"), Request("a pizza", 3, 4, image=image, strength=0.5), Request("a pizza", 3, 1, tile="xy")]
    for request in asked:
        quick, reference = (engine.generate(request) for engine in engines)
        assert difference(quick, reference) <= BOUND, request
    tiny = [Engine(engine.model, engine.backend, "tiny").generate(Request("a pizza", 3, 1)) for engine in engines]
    assert difference(*tiny) <= BOUND


def test_each_stage_has_its_own_runtime_and_a_record_brings_them_back(engines: tuple[Engine, Engine], cache: Path) -> None:
    request = Request("a ghost on a purple background", 3, 2, 128, 128)
    mixed = Engine.load("emoji", backend="onnxruntime+onnxruntime+openvino").generate(request)
    assert mixed.record.backend == "onnxruntime+onnxruntime+openvino"
    assert difference(mixed, engines[1].generate(request)) <= BOUND
    assert difference(mixed, engines[0].repeat(mixed.record)) == 0


def test_what_was_compiled_is_kept_for_the_next_process(engines: tuple[Engine, Engine], cache: Path) -> None:
    engines[0].generate(Request("x", 0, 1, 64, 64))
    kept = set((cache / "fewstep" / "openvino").iterdir())
    assert kept
    Engine.load("emoji", backend="openvino").generate(Request("x", 0, 1, 64, 64))
    assert set((cache / "fewstep" / "openvino").iterdir()) == kept


def test_bfloat16_is_the_decoders_or_a_sentence_where_the_processor_has_none(engines: tuple[Engine, Engine], cache: Path) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BackendError, match="does not compute in bfloat16 on this processor: leave --precision at auto"):
            Engine.load("emoji", precision="bfloat16")
        return
    engine = Engine.load("emoji", precision="bfloat16")
    for steps in (1, 2, 4, 8):
        request = Request("a ghost on a purple background", 3, steps)
        made = engine.generate(request)
        assert (made.record.backend, made.record.precision) == ("onnxruntime+onnxruntime+openvino", "bfloat16")
        assert 0 < difference(made, engines[1].generate(request)) <= HALF_BOUND
