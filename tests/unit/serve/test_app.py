"""The doors of the server: what comes in is checked, what goes out has one shape, and no page elsewhere gets in."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from tests.unit.serve.fake import PATIENCE, TIMINGS, FakeEngine, run, settled

from fewstep.engine.request import LONGEST_PROMPT, RequestError
from fewstep.serve import live
from fewstep.serve.app import open_app
from fewstep.serve.guard import Access
from fewstep.serve.native import events as streamed
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shapes import limit_of
from fewstep.serve.wire import LARGEST_BODY, LARGEST_UPLOAD, MOST_COUNT

KEYED = Access(keys=("first-key", "second-key"))
OPEN = Access()
HERE = "http://127.0.0.1:7860"
LIVE = "ws://127.0.0.1:7860/v1/live"


@contextmanager
def serving(engine: FakeEngine | None = None, access: Access = OPEN, decoders: tuple[str, ...] = ("full", "tiny")) -> Iterator[tuple[TestClient, Scheduler]]:
    engine = engine or FakeEngine()
    app, scheduler = open_app(engine, decoders, access)
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        try:
            yield client, scheduler
        finally:
            engine.release()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving() as (client, _):
        until(lambda: client.get("/readyz").status_code == 200)
        yield client


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer, which has the one shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert isinstance(body["error"]["message"], str)
    return dict(body["error"])


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def unpack(frame: bytes) -> tuple[dict[str, Any], Image.Image]:
    """As docs/serving.md has it."""
    (length,) = struct.unpack(">I", frame[:4])
    return json.loads(frame[4 : 4 + length]), Image.open(io.BytesIO(frame[4 + length :]))


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_a_picture_of_a_prompt(client: TestClient, kind: str) -> None:
    answer = client.post("/v1/generate", json={"prompt": "pizza", "seed": 7, "steps": 2, "width": 96, "format": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{kind}")
    made = Image.open(io.BytesIO(answer.content))
    assert (made.format, made.size) == (kind.upper(), (96, 64))
    assert (answer.headers["x-fewstep-seed"], answer.headers["x-fewstep-steps"]) == ("7", "2")
    assert answer.headers["server-timing"] == ", ".join(f"{stage};dur={ms}" for stage, ms in TIMINGS.items())
    assert len(answer.headers["x-request-id"]) == 16


def test_what_is_left_out_is_chosen(client: TestClient) -> None:
    answers = [client.post("/v1/generate", json={"prompt": ""}) for _ in range(2)]
    assert {answer.headers["x-fewstep-steps"] for answer in answers} == {"4"}
    assert len({answer.headers["x-fewstep-seed"] for answer in answers}) == 2


def test_a_stream_tells_of_every_step_and_brings_the_pictures(client: TestClient) -> None:
    wanted = {"prompt": "pizza", "seed": 7, "steps": 4, "count": 3, "stream": True, "previews": True, "format": "jpeg"}
    answer = client.post("/v1/generate", json=wanted)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert told[-1] == ("done", {"count": 3})
    pictures = sorted((data for name, data in told if name == "picture"), key=lambda data: data["index"])
    assert [(one["index"], one["seed"], one["steps"], one["model"], one["format"]) for one in pictures] == [(n, 7 + n, 4, "fake", "jpeg") for n in range(3)]
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]["image"]))).size == (64, 64)
    steps = [(data["step"], data["steps"], data["image"] is not None) for name, data in told if name == "progress" and data["index"] == 0]
    assert steps == sorted(steps)
    assert all(total == 4 and has == (step < 4) for step, total, has in steps)


def test_a_stream_with_nothing_to_say_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.serve.waiting.PING", 0.01)

    async def main() -> None:
        engine = FakeEngine(held=True)
        async with Scheduler(engine) as scheduler:
            order = scheduler.submit([settled("slow")], "me")
            told = streamed(order, 1, "png")
            assert await anext(told) == await anext(told) == b": ping\n\n"
            engine.release()
            assert [name for name, _ in events("".join([block.decode() async for block in told if block.startswith(b"event")]))][-2:] == ["picture", "done"]

    run(main())


def test_a_stream_that_the_shutdown_cuts_off_ends_with_the_reason() -> None:
    async def main() -> None:
        engine = FakeEngine(held=True)
        async with Scheduler(engine) as scheduler:
            scheduler.submit([settled("runs")], "other")
            await engine.reach()
            order = scheduler.submit([settled("waits", steps=2)], "me")
            closing = asyncio.create_task(scheduler.close())
            ((name, data),) = events("".join([block.decode() async for block in streamed(order, 1, "png")]))
            assert (name, data["error"]["code"]) == ("error", "shutting_down")
            engine.release()
            await closing

    run(main())


def test_what_there_is(client: TestClient) -> None:
    model = client.get("/v1/models").json()["data"][0]
    assert (model["id"], model["steps"], model["teacher_steps"], model["sizes"]["1:1"], model["decoders"]) == (
        "fake",
        [1, 2, 4, 8],
        [16, 64],
        [64, 64],
        ["full", "tiny"],
    )
    assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}
    assert {"/v1/generate", "/v1/models"} <= set(client.get("/openapi.json").json()["paths"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "prompt: field required"),
        ({"prompt": 3}, "prompt: input should be a valid string"),
        ({"prompt": "x", "seed": "3"}, "seed: input should be a valid integer"),
        ({"prompt": "x", "seed": -1}, "seed = -1"),
        ({"prompt": "x", "seed": True}, "seed"),
        ({"prompt": "x", "steps": 3}, "use steps = 2"),
        ({"prompt": "x", "steps": 100}, "at most 64"),
        ({"prompt": "x", "width": 60}, "size 60x64"),
        ({"prompt": "x", "width": 10**30}, "size"),
        ({"prompt": "x", "width": 64, "aspect": "1:1"}, "give one of them"),
        ({"prompt": "x", "aspect": "2:1"}, "aspect = '2:1'"),
        ({"prompt": "x", "format": "gif"}, "format: input should be 'png', 'webp' or 'jpeg'"),
        ({"prompt": "x", "decoder": "none"}, "decoder: input should be 'full' or 'tiny'"),
        ({"prompt": "x", "count": 2}, "give stream = true"),
        ({"prompt": "x", "previews": True}, "give stream = true"),
        ({"prompt": "x", "count": MOST_COUNT + 1, "stream": True}, "count: input should be less than or equal to 16"),
        ({"prompt": "x", "count": 16, "width": 128, "stream": True}, "16 pictures of 128x64"),
        ({"prompt": "x", "guidance": 7}, "'guidance': there is no such field"),
        ({"prompt": "x" * (LONGEST_PROMPT + 1)}, f"at most {LONGEST_PROMPT}"),
        ([], "the body is no JSON object: send one, with the header Content-Type: application/json"),
    ],
)
def test_what_cannot_be_had_is_refused_in_a_sentence(client: TestClient, body: Any, said: str) -> None:
    error = problem(client.post("/v1/generate", json=body), 400)
    assert said in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'"', b"[" * 30000, b'{"prompt": "\\ud800"}', b'{"prompt": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1, "prompt": ""}']
)
def test_malformed_bodies(client: TestClient, content: bytes) -> None:
    problem(client.post("/v1/generate", content=content, headers={"content-type": "application/json"}), 400)


def test_a_form_is_not_taken_for_json(client: TestClient) -> None:
    """A page elsewhere can send one without being asked for permission."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        problem(client.post("/v1/generate", content=b'{"prompt": "x"}', headers={"content-type": kind}), 400)


@pytest.mark.parametrize(("path", "limit"), [("/v1/generate", LARGEST_UPLOAD), ("/v1/images/generations", LARGEST_BODY), ("/v1/sessions", LARGEST_BODY)])
def test_a_body_has_a_limit_said_or_not(client: TestClient, path: str, limit: int) -> None:
    large = b'{"prompt": "' + b"x" * limit + b'"}'
    for content in (large, iter([large[:1000], large[1000:]])):
        error = problem(client.post(path, content=content, headers={"content-type": "application/json"}), 413)
        assert f"at most {limit} bytes" in error["message"]


def test_the_guard_and_the_routes_agree_on_what_a_body_may_have() -> None:
    guard, _ = open_app(FakeEngine(), ("full",), Access())
    posts = [route for route in guard.app.routes if "POST" in getattr(route, "methods", ())]  # type: ignore[attr-defined]
    assert len(posts) > 10
    assert [(route.path, route.max_body_size) for route in posts] == [(route.path, limit_of(route.path)) for route in posts]


def test_no_address_or_method_but_those_there_are(client: TestClient) -> None:
    for path in ("/web/../app.py", "/docs", "/../etc/passwd", "/v1/generate/..%2f..%2fetc%2fpasswd", "/static/x"):
        problem(client.get(path), 404)
    problem(client.delete("/v1/generate"), 405)


def test_a_key_opens_and_nothing_else_does() -> None:
    with serving(access=KEYED) as (client, _):
        for wrong in ({}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer first"}, {"authorization": "Basic first-key"}):
            answer = client.post("/v1/generate", json={"prompt": "x"}, headers=wrong)
            assert problem(answer, 401)["type"] == "authentication_error"
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in KEYED.keys:
            assert client.post("/v1/generate", json={"prompt": "x"}, headers={"authorization": f"Bearer {key}"}).status_code == 200
        for path in ("/metrics", "/v1/models", "/openapi.json"):
            problem(client.get(path), 401)
        assert client.get("/healthz").status_code == 200
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(LIVE):
            pass
        assert getattr(refused.value, "status_code", None) == 401
        with client.websocket_connect(LIVE, headers={"authorization": "bearer second-key"}):
            pass


@pytest.mark.parametrize(
    ("origin", "allowed"), [(HERE, True), (None, True), ("http://evil.example", False), ("null", False), ("", False), ("http://127.0.0.1:1", False)]
)
def test_a_page_elsewhere_cannot_drive_the_server(client: TestClient, origin: str | None, allowed: bool) -> None:
    headers = {} if origin is None else {"origin": origin}
    answer = client.post("/v1/generate", json={"prompt": "x", "steps": 1}, headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    assert "access-control-allow-origin" not in answer.headers
    if allowed:
        with client.websocket_connect(LIVE, headers=headers):
            pass
    else:
        assert problem(answer, 403)["code"] == "wrong_origin"
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(LIVE, headers=headers):
            pass


def test_a_page_that_was_let_in_is_let_in() -> None:
    with serving(access=Access(keys=("key",), origins=("https://studio.example",))) as (client, _):
        asked = {"origin": "https://studio.example", "access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
        before = client.options("/v1/generate", headers=asked)
        assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, "https://studio.example")
        answer = client.post("/v1/generate", json={"prompt": "x"}, headers={"origin": "https://studio.example", "authorization": "Bearer key"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://studio.example")
        shown = answer.headers["access-control-expose-headers"].split(", ")
        assert {"X-Fewstep-Seed", "X-Fewstep-Steps", "Server-Timing", "Retry-After"} <= set(shown), "what fewstep.js reads of an answer"
        problem(client.options("/v1/generate", headers={**asked, "origin": "https://evil.example"}), 403)


def test_a_page_that_was_let_in_can_read_why_it_is_refused() -> None:
    page = {"origin": "https://studio.example"}
    keyed = {**page, "authorization": "Bearer key"}
    with serving(access=Access(keys=("key",), origins=("https://studio.example",), rate="2/hour")) as (client, _):
        until(lambda: client.get("/readyz").status_code == 200)
        refused = {
            401: client.get("/v1/models", headers=page),
            413: client.post("/v1/generate", content=b"x" * (LARGEST_UPLOAD + 1), headers=keyed),
            404: client.get("/v1/pictures/none", headers=keyed),
            400: client.post("/v1/generate", json={"prompt": 7}, headers=keyed),
            429: client.post("/v1/generate", json={"prompt": "x"}, headers=keyed),
        }
        for status, answer in refused.items():
            problem(answer, status)
            assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == ("https://studio.example", "Origin")
        evil = client.get("/v1/models", headers={**keyed, "origin": "https://evil.example"})
        assert problem(evil, 403) and "access-control-allow-origin" not in evil.headers


def test_a_page_that_was_let_in_may_use_openais_client() -> None:
    sent = "authorization,content-type,idempotency-key,openai-organization,openai-project,x-stainless-arch,x-stainless-lang,x-stainless-os"
    sent += ",x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
    asked = {"origin": "https://studio.example", "access-control-request-method": "POST", "access-control-request-headers": sent}
    with serving(access=Access(keys=("key",), origins=("https://studio.example",))) as (client, _):
        before = client.options("/v1/images/generations", headers=asked)
        assert before.status_code == 200
        assert set(sent.split(",")) <= set(re.split(r",\s*", before.headers["access-control-allow-headers"].lower()))


@pytest.mark.parametrize(
    ("bound", "host", "known"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "localhost:7860", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "evil.example:7860", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "10.0.0.1:7860", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[", False),
        ("0.0.0.0", "10.0.0.1:7860", True),
        ("0.0.0.0", "evil.example:7860", False),
        ("0.0.0.0", "studio.example", True),
        ("box.example", "box.example:7860", True),
    ],
)
def test_the_host_header_is_one_of_ours(bound: str, host: str, known: bool) -> None:
    assert Access(bound, no_auth=True, hosts=("studio.example",)).knows(host) == known


@pytest.mark.parametrize("given", ["https://Studio.example", "https://studio.example/", "https://studio.example:443"])
def test_an_origin_is_known_however_it_is_written(given: str) -> None:
    assert Access(origins=(given,)).trusts("https://studio.example", "localhost:7860")
    assert not Access(origins=(given,)).trusts("http://studio.example", "localhost:7860")


@pytest.mark.parametrize("given", [{"origins": (origin,)} for origin in ("studio.example", "https://", "https://a.example/page", "*", "https://*.example")])
def test_an_origin_that_no_page_has_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"--allow-origin .*such as https://name"):
        Access(**given)


def test_a_host_may_be_an_address() -> None:
    assert Access(hosts=("fd00::5",)).knows("[fd00::5]:7860")


@pytest.mark.parametrize("name", ["", "http://studio.example", "studio.example:7860"])
def test_a_host_that_no_header_names_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"--allow-host .*a name alone"):
        Access(hosts=(name,))


def test_a_request_by_another_name_is_refused(client: TestClient) -> None:
    assert problem(client.get("/healthz", headers={"host": "evil.example"}), 421)["code"] == "wrong_host"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 lets other machines in: give --api-key, or --no-auth if everybody may"),
        ({"host": "box.example"}, "lets other machines in"),
        ({"keys": ("",)}, "--api-key is empty"),
        ({"keys": ("x",), "no_auth": True}, "do not go together"),
    ],
)
def test_what_must_not_be_left_on_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Access(**given)
    for good in ({"host": "localhost"}, {"host": "::1"}, {"host": "0.0.0.0", "keys": ("x",)}, {"host": "0.0.0.0", "no_auth": True}):
        Access(**good)  # type: ignore[arg-type]


def test_a_full_queue_answers_429_and_a_closed_one_503() -> None:
    engine = FakeEngine(held=True)
    with serving(engine) as (client, scheduler):
        until(lambda: client.get("/readyz").status_code == 200)
        scheduler.most_waiting = 0
        answer = client.post("/v1/generate", json={"prompt": "x"})
        assert problem(answer, 429)["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1
        scheduler.closed = True
        assert problem(client.post("/v1/generate", json={"prompt": "x"}), 503)["code"] == "shutting_down"
        problem(client.get("/readyz"), 503)
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(LIVE):
            pass
        assert getattr(refused.value, "status_code", None) == 503


def test_a_picture_that_fails_is_a_500_that_says_nothing_of_it() -> None:
    with serving(FakeEngine(broken="secret")) as (client, _):
        error = problem(client.post("/v1/generate", json={"prompt": "secret"}), 500)
        assert "secret" not in str(error)
        assert "broken" not in str(error)
        told = events(client.post("/v1/generate", json={"prompt": "secret", "stream": True}).text)
        assert [name for name, _ in told] == ["error"]
        assert client.post("/v1/generate", json={"prompt": "fine"}).status_code == 200


def test_a_model_without_a_reduced_decoder_says_so() -> None:
    with serving(decoders=("full",)) as (client, _):
        assert "no reduced decoder" in problem(client.post("/v1/generate", json={"prompt": "x", "decoder": "tiny"}), 400)["message"]


def test_metrics_count_what_happened() -> None:
    with serving() as (client, _):
        client.post("/v1/generate", json={"prompt": "x"})
        client.post("/v1/generate", json={})
        with client.websocket_connect(LIVE):
            text = client.get("/metrics").text
        assert 'fewstep_requests_total{route="/v1/generate",status="200"} 1.0' in text
        assert 'fewstep_requests_total{route="/v1/generate",status="400"} 1.0' in text
        assert 'fewstep_pictures_total{end="done"} 1.0' in text
        assert 'fewstep_stage_seconds_count{stage="denoise"} 1.0' in text
        assert 'fewstep_batch_size_bucket{le="1.0"} 1.0' in text
        assert "fewstep_sessions 1.0" in text
        assert "process_resident_memory_bytes" in text


def test_live_frames_follow_the_newest_and_end_with_the_full_picture(client: TestClient) -> None:
    with client.websocket_connect(LIVE) as socket:
        for generation in range(1, 6):
            socket.send_json({"prompt": "pizza"[:generation], "seed": 3, "steps": 1, "generation": generation})
        headers = []
        while not headers or not (headers[-1]["final"] and headers[-1]["generation"] == 5):
            header, image = unpack(socket.receive_bytes())
            assert (image.format, image.size) == ("JPEG", (64, 64))
            headers.append(header)
    assert [one["generation"] for one in headers] == sorted(one["generation"] for one in headers)
    last = headers[-1]
    assert (last["decoder"], last["step"], last["steps"], last["seed"], last["width"], last["preview"]) == ("full", 1, 1, 3, 64, False)
    assert set(last["timings_ms"]) == {"text", "denoise", "decode", "total"}
    assert last["shown"] == len(headers)
    assert len({one["generation"] for one in headers}) + last["replaced"] == 5


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("{", "not valid JSON"),
        ('{"prompt": "x"}', "generation: field required"),
        ('{"prompt": "x", "generation": 0}', "generation: "),
        ('{"prompt": "x", "generation": 1e99}', "generation: "),
        ('{"prompt": "x", "generation": 1, "stream": true}', "'stream': there is no such field"),
        ('{"prompt": "x", "generation": 1, "steps": 3}', "3 steps"),
        ('{"prompt": "x", "generation": 1, "steps": 32}', "at most 8"),
        ('{"prompt": "\\ud800", "generation": 1}', ""),
        (b"\x00\x01", "a binary message is"),
    ],
)
def test_a_bad_message_is_answered_in_words_and_the_session_goes_on(client: TestClient, message: str | bytes, said: str) -> None:
    with client.websocket_connect(LIVE) as socket:
        if isinstance(message, bytes):
            socket.send_bytes(message)
        else:
            socket.send_text(message)
        assert said in json.loads(socket.receive_text())["error"]["message"]
        socket.send_json({"prompt": "pizza", "generation": 1})
        assert unpack(socket.receive_bytes())[0]["generation"] == 1


@pytest.mark.parametrize(("wrong", "number"), [({"stream": True}, 7), ({"steps": 3}, 7), ({"prompt": 7}, 7), ({"generation": 0}, None)])
def test_a_bad_message_is_answered_by_its_number_where_it_has_one(client: TestClient, wrong: dict[str, Any], number: int | None) -> None:
    with client.websocket_connect(LIVE) as socket:
        socket.send_json({"prompt": "x", "generation": 7, **wrong})
        assert json.loads(socket.receive_text()).get("generation") == number


def test_a_session_whose_picture_fails_is_told_and_closed() -> None:
    with serving(FakeEngine(broken="secret")) as (client, _), client.websocket_connect(LIVE) as socket:
        socket.send_json({"prompt": "secret", "generation": 1})
        assert json.loads(socket.receive_text())["error"]["type"] == "server_error"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_bytes()
        assert closed.value.code == live.FAILED


def test_sessions_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_SESSIONS", 1)
    with serving() as (client, _), client.websocket_connect(LIVE):
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(LIVE):
            pass
        assert getattr(refused.value, "status_code", None) == 429


def test_when_a_person_leaves_their_work_stops_within_a_step() -> None:
    engine = FakeEngine(held=True)
    with serving(engine) as (client, scheduler):
        with client.websocket_connect(LIVE) as socket:
            socket.send_json({"prompt": "long", "steps": 8, "generation": 1})
            assert engine._reached.get(timeout=PATIENCE) == (["long"], 1)
        until(lambda: scheduler.counts.cancelled == 1)
        engine.go()
        until(lambda: engine.abandoned == [["long"]])
        assert engine.steps == 1


@pytest.mark.parametrize("stream", [False, True])
def test_when_a_client_hangs_up_its_work_stops_within_a_step(stream: bool) -> None:
    """As the ASGI server tells it: the body, and while the second step runs, that nobody is there any more."""

    async def main() -> None:
        engine = FakeEngine(held=True)
        app, scheduler = open_app(engine, ("full", "tiny"), OPEN)
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps({"prompt": "long", "steps": 8, "stream": stream}).encode(), "more_body": False}]

        async def receive() -> Any:
            if not messages:
                await gone.wait()
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None: ...

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/generate", "raw_path": b"/v1/generate", "query_string": b"", "headers": headers}
        async with scheduler:
            request = asyncio.create_task(app({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}, "client": ("127.0.0.1", 1)}, receive, send))
            await engine.reach()
            engine.go()
            assert await engine.reach() == (["long"], 2)
            gone.set()
            await request
            scheduler.submit([settled("next")], "other")
            engine.go()
            assert await engine.reach() == (["next"], 1)
            assert (engine.steps, engine.abandoned, scheduler.counts.cancelled) == (2, [["long"]], 1)
            engine.release()

    run(main())
