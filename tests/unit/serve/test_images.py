"""Images over the wire: in JSON, and kept in a live session."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from tests.unit.serve.fake import LIMITS, FakeEngine, run, settled
from tests.unit.serve.test_app import LIVE, events, problem, serving, unpack, until

from fewstep.engine.files import KEY
from fewstep.engine.request import Request, RequestError, Settled
from fewstep.serve import live
from fewstep.serve.kept import LONGEST_HEADER, Kept, smaller
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.session import Session
from fewstep.serve.shares import Shares


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving() as (client, _):
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


def file(width: int = 64, height: int = 64, kind: str = "PNG", colour: Any = (200, 10, 20)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(stream, kind)
    return stream.getvalue()


def text(*size: int, kind: str = "PNG") -> str:
    return base64.b64encode(file(*size, kind=kind)).decode()


def binary(header: object, content: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(packed)) + packed + content


@pytest.mark.parametrize("given_", [text(), f"data:image/png;base64,{text()}", text(kind="JPEG"), f"data:image/webp;base64,{text(kind='WEBP')}"])
def test_a_picture_from_an_image(client: TestClient, given_: str) -> None:
    answer = client.post("/v1/generate", json={"prompt": "x", "image": given_, "strength": 0.3, "mask": text()})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-fewstep-strength"] == "0.25"
    record = json.loads(Image.open(io.BytesIO(answer.content)).info[KEY])
    assert (record["strength"], len(record["image"]), len(record["mask"])) == (0.25, 64, 64)


def test_what_is_varied_and_told(client: TestClient) -> None:
    wanted = {"prompt": "x", "blend": "y", "blend_weight": 0.5, "variation": 0.5, "transparent": True, "format": "webp", "stream": True, "count": 2}
    told = [data for name, data in events(client.post("/v1/generate", json=wanted).text) if name == "picture"]
    assert [(one["strength"], type(one["variation_seed"])) for one in told] == [(1.0, int)] * 2
    assert Image.open(io.BytesIO(base64.b64decode(told[0]["image"]))).mode == "RGBA"
    assert client.post("/v1/generate", json={"prompt": "x"}).headers["x-fewstep-strength"] == "1"
    further = {"variation": 0.5, "variation_seed": 3, "variations": [{"seed": 4, "share": 0.25}, {"seed": 5, "share": 1}]}
    record = json.loads(Image.open(io.BytesIO(client.post("/v1/generate", json={"prompt": "x", **further}).content)).info[KEY])
    assert (record["variation_seed"], record["variation"], record["variations"]) == (3, 0.5, [[4, 0.25], [5, 1.0]])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"strength": 0.5}, "strength was given without image"),
        ({"strength": "0.5"}, "strength: input should be a valid number"),
        ({"image": 7}, "image: input should be a valid string"),
        ({"image": True}, "image: input should be a valid string"),
        ({"image": ""}, "the image is no PNG"),
        ({"image": "http://127.0.0.1/a.png"}, "this server fetches nothing"),
        ({"image": "file:///etc/passwd"}, "this server fetches nothing"),
        ({"image": "%%%"}, "the image is no Base64"),
        ({"image": "data:image/png;base64"}, "the image is no Base64"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "the image is no PNG, WebP or JPEG"),
        ({"image": base64.b64encode(file()[:40]).decode()}, "the image is a damaged picture"),
        ({"image": text(5000, 4000)}, "the image says it is 5000x4000 pixels"),
        ({"image": text(), "mask": text(32, 64)}, "the mask has 32x64 pixels and the image 64x64"),
        ({"image": text(), "steps": 1}, "use steps = 4"),
        ({"image": text(), "outpaint": [16, 0, 0]}, "outpaint: list should have at least 4 items"),
        ({"image": text(), "outpaint": [16, 0, 0, -1]}, "outpaint = (16, 0, 0, -1)"),
        ({"image": text(), "outpaint": [640, 0, 0, 0]}, "size 704x64"),
        ({"transparent": True, "format": "jpeg"}, "a JPEG has no transparent background"),
        ({"blend": "x" * 5000}, "the blend has 5000 characters"),
        ({"variation_seed": -1, "variation": 0.5}, "variation_seed = -1"),
        ({"variations": [[9, 0.5]]}, "variations.0: input should be"),
        ({"variations": [{"seed": 9}]}, "variations.0.share: field required"),
        ({"variations": [{"seed": 9, "share": 2}]}, "the share of variations[0] = 2.0: give a number from 0 to 1"),
        ({"variations": [{"seed": 9, "share": 0.5}] * 33}, "variations: list should have at most 32 items"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(client: TestClient, body: dict[str, object], said: str) -> None:
    assert said in problem(client.post("/v1/generate", json={"prompt": "x", **body}), 400)["message"]


def test_base64_in_lines_is_taken(client: TestClient) -> None:
    broken = "\r\n".join(textwrap.wrap(text(), 76))
    assert client.post("/v1/generate", json={"prompt": "x", "image": broken}).status_code == 200


def test_a_session_keeps_what_it_was_sent(client: TestClient) -> None:
    with client.websocket_connect(LIVE) as socket:
        number = 0

        def ask(**wanted: object) -> dict[str, Any]:
            nonlocal number
            number += 1
            socket.send_json({"prompt": "x", "seed": 1, "steps": 4, "generation": number, **wanted})
            while True:
                message = socket.receive()
                if message.get("text"):
                    return dict(json.loads(message["text"]))
                header, picture = unpack(message["bytes"])
                assert (header["format"], header["generation"]) == (picture.format.lower() if picture.format else "", number)
                if header["final"]:
                    return header

        refused = ask(image=True)
        assert (refused["generation"], refused["error"]["message"]) == (1, "image = true: this session was sent no image, send it as a binary message first")
        socket.send_bytes(binary({"image": "camera"}, file(128, 96, "JPEG")))
        header = ask(image=True, strength=0.5)
        assert (header["width"], header["height"], header["strength"], header["steps"]) == (128, 96, 0.5, 4)
        assert ask(image=True, strength=0.25)["strength"] == 0.25, "it is still there"
        socket.send_bytes(binary({"mask": "brush"}, file(64, 64)))
        assert "the mask has 64x64 pixels and the image 128x96" in ask(image=True, mask=True)["error"]["message"]
        socket.send_bytes(binary({"image": "camera"}, file(64, 64)))
        header = ask(image=True, mask=True, strength=0.75)
        assert (header["width"], header["strength"]) == (64, 0.75)
        assert ask(image=text(96, 64), strength=0.5)["width"] == 96
        assert ask(image=False, mask=None)["strength"] == 1
        assert ask(transparent=True)["format"] == "webp"
        varied = ask(variation=0.5, variations=[{"seed": 4, "share": 0.25}])
        assert isinstance(varied["variation_seed"], int)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0\0\0",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 100) + b"{}",
        binary(b"\xff\xfe"),
        binary({}),
        binary([]),
        binary("image"),
        binary({"image": 7}, file()),
        binary({"picture": "x"}, file()),
        binary({"image": "a", "mask": "b"}, file()),
        binary(b"[" * 4000),
        binary({"image": "x" * LONGEST_HEADER}, file()),
        binary({"image": "x"}),
        binary({"image": "x"}, b"GIF89a"),
        binary({"image": "x"}, file(5000, 4000)),
    ],
)
def test_a_binary_message_that_is_none_is_answered_in_words(client: TestClient, message: bytes) -> None:
    with client.websocket_connect(LIVE) as socket:
        socket.send_bytes(message)
        error = json.loads(socket.receive_text())["error"]
        assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
        socket.send_json({"prompt": "pizza", "generation": 1})
        assert unpack(socket.receive_bytes())[0]["generation"] == 1


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_kept_or_refused(message: bytes) -> None:
    kept = Kept(64, Shares(1 << 20), "me")
    for content in (message, struct.pack(">I", 14) + b'{"image": "x"}' + message):
        with pytest.raises(RequestError):
            asyncio.run(kept.take(content))


def test_a_mask_in_a_message_is_decoded_beside_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    loops = []
    real = live.settle
    monkeypatch.setattr(live, "settle", lambda *given: loops.append(asyncio._get_running_loop()) or real(*given))
    with client.websocket_connect(LIVE) as socket:
        socket.send_json({"prompt": "x", "generation": 1, "mask": text()})
        assert "mask was given without image" in socket.receive_text()
    assert loops == [None]


def test_large_images_are_made_smaller_alike() -> None:
    image, mask = (smaller(Image.new(mode, (1333, 777)), 256**2) for mode in ("RGB", "L"))
    assert image.size == mask.size
    assert image.width * image.height == pytest.approx(256**2, rel=0.01)
    assert smaller(image, 256**2 + 10**4) is image


def test_pictures_that_begin_elsewhere_are_not_made_together() -> None:
    async def main() -> None:
        engine = FakeEngine()
        async with Scheduler(engine) as scheduler:
            image = Image.new("RGB", (64, 64))

            def begun(name: str, strength: float) -> Settled:
                return LIMITS.settle(Request(name, 1, 4, image=image, strength=strength))

            async for _ in scheduler.submit([begun("how long it takes", 0.5)], "me"):
                pass
            engine.held = True
            scheduler.submit([settled("runs")], "me")
            await engine.reach()
            orders = [scheduler.submit([begun(name, strength)], name) for name, strength in (("a", 0.5), ("b", 0.75), ("c", 0.5))]
            engine.release()
            for order in orders:
                async for _ in order:
                    pass
            assert [prompts for prompts, _ in engine.walks] == [["how long it takes"], ["runs"], ["a", "c"], ["b"]]

    run(main())


def test_a_session_takes_what_is_settled() -> None:
    async def main() -> None:
        async with Scheduler(FakeEngine()) as scheduler:
            session = Session(scheduler, pause=0.01)
            one = LIMITS.settle(Request("x", 1, 4, image=Image.new("RGB", (64, 64)), strength=0.5))
            assert session.want(one) == 1
            async for shown in session:
                if shown.final:
                    assert shown.picture is not None and shown.picture.strength == 0.5
                    break

    run(main())
