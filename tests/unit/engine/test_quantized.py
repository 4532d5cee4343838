"""Eight bits through torchao: which layers, what it costs, and that students are exchanged under it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep.engine.backends import BackendError
from fewstep.engine.engine import Engine
from fewstep.engine.request import Picture, Request, RequestError

pytest.importorskip("torchao", reason="needs fewstep[quantize]")

BOUND = 24  # of 255, of a picture in int8 from the same in float32; 18 at most was seen


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(picture.image, dtype=int)


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    return Engine.load("emoji", precision="int8"), Engine.load("emoji", backend="eager")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pictures_in_int8_are_nearly_those_in_float32(engines: tuple[Engine, Engine]) -> None:
    quick, reference = engines
    for steps in (1, 2, 4, 8, 16):
        request = Request("a ghost on a purple background", 3, steps)
        made, right = quick.generate(request), reference.generate(request)
        assert (made.record.backend, made.record.precision) == ("eager", "int8")
        assert 0 < np.abs(pixels(made) - pixels(right)).max() <= BOUND
        assert np.abs(pixels(made) - pixels(right)).mean() < 1


def test_after_other_students_the_same_picture_comes_again(engines: tuple[Engine, Engine]) -> None:
    quick, reference = engines
    first = quick.generate(Request("a pizza", 3, 1, 64, 64))
    quick.generate(Request("a pizza", 3, 16, 64, 64))
    quick.generate(Request("a pizza", 3, 2, 64, 64))
    assert (pixels(quick.generate(Request("a pizza", 3, 1, 64, 64))) == pixels(first)).all()
    assert (pixels(reference.repeat(first.record)) == pixels(first)).all(), "a record brings its precision back"


def test_the_large_layers_are_in_eight_bits_and_no_others(engines: tuple[Engine, Engine]) -> None:
    unet = engines[0].backend._unet(1)  # type: ignore[attr-defined]
    kinds = {name: type(part.weight).__name__ for name, part in unet.named_modules() if isinstance(part, torch.nn.Linear)}
    assert {name for name, kind in kinds.items() if kind != "Parameter"} == {name for name in kinds if ".attentions." in name}
    assert type(unet.conv_in.weight) is torch.nn.Parameter


def test_one_network_that_wears_every_student_is_in_eight_bits_after_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.models import students

    request = [Request("a pizza", 3, steps, 64, 64) for steps in (1, 2, 1)]
    apart = [pixels(picture) for picture in map(Engine.load("emoji", precision="int8").generate, request)]
    monkeypatch.setattr(students, "ROOM", 0)
    single = Engine.load("emoji", precision="int8")
    assert single.backend._unets.single  # type: ignore[attr-defined]
    assert all((pixels(single.generate(one)) == right).all() for one, right in zip(request, apart, strict=True))


def test_what_there_is_no_hardware_for_is_a_sentence() -> None:
    with pytest.raises(BackendError, match=r"there is no float8 on cpu, .*give --precision int8"):
        Engine.load("emoji", backend="eager", precision="float8")
    with pytest.raises(BackendError, match=r"computes in float32, not in int8: leave --backend or --precision at auto"):
        Engine.load("emoji", backend="onnxruntime", precision="int8")
    with pytest.raises(RequestError, match=r"precision = 'fp4': there is auto, float32"):
        Engine.load("emoji", precision="fp4")
