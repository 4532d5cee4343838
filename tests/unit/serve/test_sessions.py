"""Tokens for live sessions, and what a session shows to whoever knows its name."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
import time
from typing import Any

import httpx2
import pytest
from PIL import Image
from tests.unit.serve.fake import PATIENCE, FakeEngine, run
from tests.unit.serve.listening import listening
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fewstep.engine.request import RequestError
from fewstep.serve import out, tickets
from fewstep.serve.guard import Access
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.tickets import LINGER, TOKEN, Full, Outlet, Tickets

KEYED = Access(keys=("secret", "other"), origins=("https://studio.example",))
BEARER = {"authorization": "Bearer secret"}


def opened(url: str, body: Any = None, **headers: str) -> dict[str, Any]:
    answer = httpx2.post(f"{url}/v1/sessions", json=body, headers={**BEARER, **headers})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def join(url: str, live: str, **options: Any) -> ClientConnection:
    return connect(url.replace("http", "ws") + live, **options)


def refused(url: str, live: str, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as problem:
        join(url, live, **options)
    return problem.value.response.status_code


def show(socket: ClientConnection, prompt: str, generation: int) -> None:
    """Ask for a picture and wait for its full look."""
    socket.send(json.dumps({"prompt": prompt, "steps": 1, "generation": generation}))
    final = False
    while not final:
        frame = socket.recv(timeout=PATIENCE)
        assert isinstance(frame, bytes)
        header = json.loads(frame[4 : 4 + struct.unpack(">I", frame[:4])[0]])
        final = header["final"] and header["generation"] == generation


def test_a_token_opens_a_session_for_its_origin_only() -> None:
    with listening(access=KEYED) as (url, _):
        page = opened(url, origin=url)
        with join(url, page["live"], origin=url) as socket:
            show(socket, "pizza", 1)
        assert refused(url, page["live"]) == 401, "no page at all"
        assert refused(url, page["live"], origin="https://studio.example") == 401, "another page, which may open its own"
        assert refused(url, page["live"], origin="https://evil.example") == 403
        assert refused(url, "/v1/live", origin=url) == 401, "no token"
        assert refused(url, "/v1/live?token=guess", origin=url) == 401
        elsewhere = opened(url, origin="https://studio.example")
        with join(url, elsewhere["live"], origin="https://studio.example") as socket:
            show(socket, "pizza", 1)
        program = opened(url)
        with join(url, program["live"]) as socket:
            show(socket, "pizza", 1)
        assert httpx2.post(f"{url}/v1/sessions", json={}).status_code == 401, "a token takes a key"


def test_a_session_goes_on_under_its_name() -> None:
    with listening(access=KEYED) as (url, _):
        first = opened(url)
        again = opened(url, {"out": first["out"]})
        assert (again["out"], again["token"] != first["token"]) == (first["out"], True)
        assert refused(url, first["live"]) == 401, "the old token is replaced"
        stolen = httpx2.post(f"{url}/v1/sessions", json={"out": first["out"]}, headers={"authorization": "Bearer other"})
        assert (stolen.status_code, "somebody else's" in stolen.json()["error"]["message"]) == (400, True)


def test_a_bare_page_shows_the_pictures_without_a_key_to_whoever_knows_its_name() -> None:
    with listening(access=KEYED) as (url, _):
        told = opened(url)
        page = httpx2.get(url + told["page"])
        assert (page.status_code, told["mjpeg"] in page.text, "script" in page.text) == (200, True, False)
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert httpx2.get(f"{url}/out/guess").status_code == httpx2.get(f"{url}/out/guess.mjpeg").status_code == 404
        with join(url, told["live"]) as socket, httpx2.stream("GET", url + told["mjpeg"], timeout=PATIENCE) as stream:
            assert stream.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
            content, pieces = b"", stream.iter_bytes()
            for generation in (1, 2):
                show(socket, "pizza", generation)
                while len(re.findall(rb"\r\n--frame\r\n", content)) < generation:
                    content += next(pieces)
        header, _, rest = content.removeprefix(b"--frame\r\n").partition(b"\r\n\r\n")
        length = int(re.search(rb"Content-Length: (\d+)", header)[1])  # type: ignore[index]
        assert Image.open(io.BytesIO(rest[:length])).size == (64, 64)
        assert rest[length:].startswith(b"\r\n--frame\r\n")


def test_names_of_sessions_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "fewstep.serve"), listening() as (url, _):
        told = opened(url)
        httpx2.get(url + told["page"])
        with join(url, told["live"]):
            pass
    assert told["out"] not in caplog.text and told["token"] not in caplog.text
    assert "GET /out/… 200" in caplog.text


def test_a_ticket_is_over_when_its_time_is() -> None:
    now = [0.0]
    known = Tickets(lambda: now[0])
    ticket = known.open("me", None)
    now[0] = TOKEN - 1
    assert known.redeem(ticket.token, None) is ticket
    with known.connected(ticket):
        now[0] = 10 * LINGER
        assert known.redeem(ticket.token, None) is None
        assert known.outlet(ticket.outlet.name) is ticket.outlet, "as long as somebody is connected"
    now[0] += LINGER - 1
    assert known.outlet(ticket.outlet.name) is ticket.outlet
    now[0] += 2
    assert known.outlet(ticket.outlet.name) is None
    assert ticket.outlet.closed
    with pytest.raises(RequestError, match="leave it out"):
        known.open("me", None, ticket.outlet.name)


def test_sessions_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MOST_OUTLETS", 4)
    known = Tickets()
    for _ in range(2):
        known.open("me", None)
    with pytest.raises(Full):
        known.open("me", None)
    known.open("you", None)
    with pytest.raises(Full):
        known.open("me", None)  # what is left is for who comes new
    monkeypatch.setattr(tickets, "MOST_OUTLETS", 0)
    with listening() as (url, _):
        answer = httpx2.post(f"{url}/v1/sessions")
        assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (429, "sessions_full", "10")


def test_viewers_have_a_limit_and_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MOST_VIEWERS", 1)
    monkeypatch.setattr(out, "LOOK", 0.02)
    with listening() as (url, _):
        told = opened(url)
        with httpx2.stream("GET", url + told["mjpeg"]) as stream:
            pieces = stream.iter_bytes()
            assert next(pieces) == b"--frame\r\n"
            assert httpx2.get(url + told["mjpeg"]).status_code == 429
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with httpx2.stream("GET", url + told["mjpeg"]) as stream:
                if stream.status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError("the viewer that left still counts")


def test_viewers_who_come_at_once_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MOST_VIEWERS", 2)
    monkeypatch.setattr(out, "LOOK", 0.01)

    async def main() -> None:
        async with Scheduler(FakeEngine()) as scheduler:
            outlet, statuses = Outlet("me", 0, "name"), list[int]()

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                    await asyncio.sleep(0.01)

            async def receive() -> Any:
                await asyncio.Event().wait()

            scope = {"type": "http", "method": "GET", "path": "/out/x.mjpeg", "headers": []}
            looking = [asyncio.create_task(out.View(outlet, scheduler)(dict(scope), receive, send)) for _ in range(5)]
            await asyncio.sleep(0.1)
            assert (sorted(statuses), outlet.viewers) == ([200, 200, 429, 429, 429], 2)
            outlet.close()
            await asyncio.gather(*looking)
            assert outlet.viewers == 0

    run(main())


def test_a_viewer_gets_the_newest_and_never_one_twice() -> None:
    async def main() -> None:
        outlet = Outlet("me", 0, "name")
        assert not await outlet.newer(0, 0.01)
        for picture in (b"1", b"2", b"3"):
            outlet.show(picture)
        assert await outlet.newer(0, 0.01)
        assert (outlet.jpeg, outlet.number) == (b"3", 3)
        waiting = asyncio.create_task(outlet.newer(3, PATIENCE))
        await asyncio.sleep(0)
        outlet.show(b"4")
        assert await waiting
        waiting = asyncio.create_task(outlet.newer(4, PATIENCE))
        await asyncio.sleep(0)
        outlet.close()
        assert not await waiting

    run(main())


def test_a_picture_that_none_follows_is_sent_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser shows a picture when the next one begins."""
    monkeypatch.setattr(out, "LOOK", PATIENCE)

    async def main() -> None:
        async with Scheduler(FakeEngine()) as scheduler:
            outlet = Outlet("me", 0, "name")
            outlet.show(b"first")
            stream = out.parts(outlet, scheduler)
            sent = [await anext(stream) for _ in range(3)]
            assert sent[0] == b"--frame\r\n" and sent[1] == sent[2] and b"first" in sent[1]
            third = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.3)
            assert not third.done(), "and then it rests"
            outlet.show(b"second")
            assert b"second" in await third
            outlet.show(b"third")
            assert b"third" in await anext(stream)

    run(main())
