"""A server follows control images with its own ControlNet, in the native API and as AUTOMATIC1111's extension is spoken to."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests import nets

from fewstep.engine.control import OWN, Control
from fewstep.engine.engine import Engine
from fewstep.engine.request import HINTS, Request, RequestError
from fewstep.models.bundle import load_bundle
from fewstep.serve.app import open_app
from fewstep.serve.controls import controls_in
from fewstep.serve.guard import Access
from fewstep.serve.wire import Ask

HERE = "http://127.0.0.1:7860"
PROMPT = "a red apple"


@pytest.fixture(scope="module")
def engine(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("model") / "tiny")
    nets.build(load_bundle(tiny), 1).save_pretrained(folder / OWN)
    return Engine.load(str(folder), 1, backend="eager")


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    app, _ = open_app(engine, ("full",), Access())
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def image() -> Image.Image:
    return Image.effect_mandelbrot((128, 128), (-2, -1, 1, 1), 50).convert("RGB")


def text() -> str:
    stream = io.BytesIO()
    image().save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def pixels(content: bytes) -> bytes:
    return Image.open(io.BytesIO(content)).convert("RGB").tobytes()


def test_both_apis_make_the_engines_picture(client: TestClient, engine: Engine) -> None:
    expected = engine.generate(Request(PROMPT, 3, 1, 256, 256, control=[Control(image(), "lineart", 0.8)])).image.tobytes()
    control = [{"image": f"data:image/png;base64,{text()}", "hint": "lineart", "weight": 0.8}]
    made = client.post("/v1/generate", json={"prompt": PROMPT, "seed": 3, "width": 256, "height": 256, "control": control})
    assert (made.status_code, pixels(made.content)) == (200, expected)
    units = [{"image": text(), "module": "lineart_standard", "weight": 0.8, "model": "None", "pixel_perfect": True}, {"enabled": False}]
    said = {"prompt": PROMPT, "seed": 3, "steps": 1, "width": 256, "height": 256, "alwayson_scripts": {"ControlNet": {"args": units}}}
    answer = client.post("/sdapi/v1/txt2img", json=said).json()
    assert pixels(base64.b64decode(answer["images"][0])) == expected
    assert "ControlNet 0" in answer["info"] and text() not in str(answer["parameters"])


def test_a_server_may_be_started_with_a_controlnet_and_says_what_it_follows(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nets.build(load_bundle(tiny), 2).save_pretrained(tmp_path / "lines")
    engine, net = Engine.load(str(tiny), 1, backend="eager"), str(tmp_path / "lines")
    given = [{"image": text(), "hint": "scribble"}]
    wanted = {"prompt": PROMPT, "seed": 3, "control": given}

    def opened(controlnet: str | None) -> TestClient:
        return TestClient(open_app(engine, ("full",), Access(), controlnet=controlnet)[0], base_url=HERE)

    with opened(net) as client:
        assert client.get("/v1/models").json()["data"][0]["control"] == list(HINTS)
        expected = engine.generate(Request(PROMPT, 3, control=[Control(image(), "scribble", net=net)])).image.tobytes()
        assert pixels(client.post("/v1/generate", json=wanted).content) == expected
    with opened(None) as client:
        assert client.get("/v1/models").json()["data"][0]["control"] == []
        answer = client.post("/v1/generate", json=wanted)
        assert answer.status_code == 400 and "has no ControlNet of its own" in answer.json()["error"]["message"]
    monkeypatch.setattr("fewstep.serve.controls.find_spec", lambda name: None)
    with opened(net) as client:
        assert client.get("/v1/models").json()["data"][0]["control"] == ["given", "scribble", "depth"]


def test_a_live_session_may_follow_an_image_too() -> None:
    asked = Ask.model_validate({"prompt": PROMPT, "generation": 1, "control": [{"image": text(), "hint": "scribble", "end": 0.5}]})
    (request,) = asked.requests_with(None, None)
    (control,) = request.control
    assert (control.hint, control.end, control.net, control.image.tobytes()) == ("scribble", 0.5, None, image().tobytes())


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ([{"image": "http://127.0.0.1/x.png"}], "this server fetches nothing"),
        ([{"image": "AAAA"}], "the control image is no PNG"),
        ([{"image": "AAAA", "net": "/etc/passwd"}], "there is no such field"),
        ([{"image": "AAAA", "hint": "pose"}], "control.0.hint"),
        ([{"image": "AAAA"}] * 5, "control"),
    ],
)
def test_what_cannot_be_followed_is_a_sentence(client: TestClient, control: Any, said: str) -> None:
    answer = client.post("/v1/generate", json={"prompt": PROMPT, "control": control})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("scripts", "status", "said"),
    [
        ({"ADetailer": {"args": []}}, 422, "always on script ADetailer not found"),
        ({"controlnet": {"args": [{"image": "AAAA", "module": "openpose"}]}}, 400, "give one of none, canny"),
        ({"controlnet": {"args": [{"image": "AAAA", "model": "../../net"}]}}, 400, "this server has one ControlNet"),
        ({"controlnet": {"args": [{"module": "canny"}]}}, 400, "a ControlNet unit has no image"),
        ({"controlnet": {"args": [{"image": "AAAA", "weight": "much"}]}}, 400, "0.weight"),
        ({"controlnet": 7}, 400, "alwayson_scripts.controlnet.args"),
    ],
)
def test_a_unit_that_cannot_be_followed_is_a_sentence(client: TestClient, scripts: Any, status: int, said: str) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": PROMPT, "alwayson_scripts": scripts})
    assert answer.status_code == status and said in answer.json()["detail"]


def test_too_many_units_are_refused_before_any_image_is_opened() -> None:
    units = [{"image": "no picture at all"}] * 5
    with pytest.raises(RequestError, match="5 ControlNet units are enabled: give at most 4"):
        controls_in({"controlnet": {"args": units}})
