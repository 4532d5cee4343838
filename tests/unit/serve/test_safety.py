"""What makes the server safe to leave on: rates, bounds, a checker, and no patience without end."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL.Image import Image
from tests.unit.serve.fake import PATIENCE, FakeEngine, run, settled
from tests.unit.serve.listening import listening
from websockets.sync.client import connect

from fewstep.engine.control import Hint, Net
from fewstep.engine.request import RequestError
from fewstep.serve import guard, patience, rate
from fewstep.serve.checker import Checker, load_checker
from fewstep.serve.guard import DEFAULT_RATE, Access
from fewstep.serve.orders import Refused
from fewstep.serve.rate import Buckets, Rate
from fewstep.serve.scheduler import Scheduler
from fewstep.serve.shelf import Shelf
from fewstep.serve.studio import POLICY, files_of


def test_a_bucket_gives_its_rate_and_no_more() -> None:
    now = [0.0]
    buckets = Buckets(Rate(3, 60), lambda: now[0])
    assert [buckets.take("me") for _ in range(4)] == [0, 0, 0, 20]
    assert buckets.take("you") == 0, "each has a bucket of its own"
    now[0] = 19.0
    assert buckets.take("me") == 1
    now[0] = 20.0
    assert [buckets.take("me"), buckets.take("me")] == [0, 20]
    now[0] = 1e6
    assert [buckets.take("me") for _ in range(4)] == [0, 0, 0, 20], "a bucket holds no more than its size"


def test_a_network_of_version_6_is_one_client() -> None:
    buckets = Buckets(Rate(1, 60))
    assert [buckets.take(address) > 0 for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "10.0.0.1", "10.0.0.2")] == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MOST_CLIENTS", 2)
    buckets = Buckets(Rate(1, 60))
    for client in "abc":
        buckets.take(client)
    assert len(buckets._buckets) == 2
    assert buckets.take("c") > 0


@pytest.mark.parametrize(("text", "rate"), [("60/minute", Rate(60, 60)), ("1/second", Rate(1, 1)), ("5/hour", Rate(5, 3600)), ("off", None)])
def test_rates(text: str, rate: Rate | None) -> None:
    assert Access(rate=text).limit == rate


@pytest.mark.parametrize("text", ["", "60", "0/minute", "x/minute", "6/day", "-1/second"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="60/minute"):
        Access(rate=text)


def test_only_a_loopback_address_has_no_rate_of_its_own() -> None:
    assert Access().limit is None
    assert Access("0.0.0.0", no_auth=True).limit == DEFAULT_RATE
    assert Access("0.0.0.0", no_auth=True, rate="off").limit is None


def test_too_many_requests_are_told_so_in_every_shape() -> None:
    with listening(access=Access(rate="1/hour")) as (url, _):
        assert httpx2.post(f"{url}/v1/images/generations", json={"prompt": "pizza"}).status_code == 200
        for path, shape in (("/v1/images/generations", ["error"]), ("/sdapi/v1/txt2img", ["error", "detail", "body", "errors"]), ("/models/fake", ["error"])):
            answer = httpx2.post(url + path, json={"prompt": "pizza"})
            assert (answer.status_code, list(answer.json()), int(answer.headers["retry-after"]) > 3000) == (429, shape, True)
        assert httpx2.get(f"{url}/v1/models").status_code == httpx2.post(f"{url}/sdapi/v1/interrupt").status_code == 200, "these make no pictures"


def test_a_shelf_forgets_by_time_and_by_bytes() -> None:
    now = [0.0]
    shelf = Shelf(10, 100, lambda: now[0])
    first = shelf.put(b"x" * 60, "image/png")
    now[0] = 5.0
    second = shelf.put(b"y" * 40, "image/jpeg")
    assert (shelf.get(first) is not None, shelf.get(second) is not None, second.endswith(".jpeg"), shelf.bytes) == (True, True, True, 100)
    third = shelf.put(b"z", "image/png")
    assert (shelf.get(first), shelf.bytes) == (None, 41)
    now[0] = 15.0
    assert shelf.get(second) is None and shelf.get(third) is None and shelf.bytes == 0
    assert shelf.get(shelf.put(b"x" * 101, "image/png")) is None


def against(prompt: str, picture: Image | None) -> str | None:
    """A checker for the tests."""
    if prompt == "broken":
        raise ZeroDivisionError
    return "no bad words" if prompt == "bad" else "too red" if picture is not None and picture.getpixel((0, 0))[0] == 200 else None  # type: ignore[index]


def test_nothing_that_is_refused_is_made_or_shown() -> None:
    async def main() -> None:
        engine = FakeEngine()
        async with Scheduler(engine, checker=against) as scheduler:
            orders = [scheduler.submit([settled(prompt, seed)], prompt) for prompt, seed in (("bad", 1), ("fine", 1), ("red", 200), ("broken", 1))]
            assert [update.picture is not None async for update in orders[1] if update.step == 1][-1]
            for order, kind in ((orders[0], Refused), (orders[2], Refused), (orders[3], ZeroDivisionError)):
                with pytest.raises(kind):
                    assert [update async for update in order if update.image is not None] == []
        assert all("bad" not in prompts and "broken" not in prompts for prompts, _ in engine.walks)

    run(main())


def test_previews_are_checked_too() -> None:
    async def main() -> None:
        async with Scheduler(FakeEngine(), checker=against) as scheduler:
            order = scheduler.submit([settled("red", 200, steps=4)], "me", previews=True)
            seen = []
            with pytest.raises(Refused, match="too red"):
                async for update in order:
                    seen.append(update)
            assert seen == []

    run(main())


def test_what_a_picture_would_follow_is_checked_before_it_is_drawn() -> None:
    async def main() -> None:
        engine = FakeEngine()
        hint = Hint(np.full((64, 64, 3), 200, np.uint8), "0", "given", Net("net", Path(), "0", {}), 1.0, 0.0, 1.0)
        async with Scheduler(engine, checker=against) as scheduler:
            with pytest.raises(Refused, match="too red"):
                assert [update async for update in scheduler.submit([replace(settled("fine", 1), control=(hint,))], "me")] == []
        assert engine.walks == []

    run(main())


def test_a_live_session_goes_on_after_a_refusal() -> None:
    with listening(checker=against) as (url, _), connect(url.replace("http", "ws") + "/v1/live") as live:
        live.send('{"prompt": "bad", "generation": 1}')
        assert '"no bad words"' in live.recv(timeout=PATIENCE)  # type: ignore[operator]
        live.send('{"prompt": "fine", "seed": 1, "generation": 2}')
        assert isinstance(live.recv(timeout=PATIENCE), bytes)


def test_a_refusal_says_which_message_it_is_of() -> None:
    engine = FakeEngine(held=True)
    check: Checker = lambda prompt, picture: "no" if prompt == "bad" and picture is not None else None  # noqa: E731
    with listening(engine, checker=check) as (url, _), connect(url.replace("http", "ws") + "/v1/live") as live:
        live.send('{"prompt": "bad", "generation": 1, "steps": 1}')
        assert engine._reached.get(timeout=PATIENCE) == (["bad"], 1)
        for _ in range(2):
            live.send('{"prompt": "fine", "generation": 2, "steps": 1}')
        assert "the last was 2" in live.recv(timeout=PATIENCE)  # type: ignore[operator]
        engine.release()
        assert '"generation": 1' in live.recv(timeout=PATIENCE)  # type: ignore[operator]
        assert isinstance(live.recv(timeout=PATIENCE), bytes)


def test_a_checker_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules_of_mine.py").write_text("value = 3\ndef check(prompt, picture):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_checker("rules_of_mine:check")("x", None) is None
    for name, said in (
        ("rules_of_mine", "module:function"),
        ("rules_of_mine:value", "no function"),
        ("rules_of_mine:other", "cannot be imported"),
        ("nowhere_at:all", "No module"),
    ):
        with pytest.raises(RequestError, match=said):
            load_checker(name)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_who_does_not_speak_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.3)
    monkeypatch.setattr(guard, "PATIENCE", 0.3)
    with listening() as (url, _):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        begun = (b"", b"\r\n", b"POST /v1/gen", b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        for content in begun:
            with socket.create_connection(address, PATIENCE) as quiet:
                quiet.sendall(content)
                assert everything(quiet) == b""
        with socket.create_connection(address, PATIENCE) as slow:
            slow.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
            assert everything(slow).startswith(b"HTTP/1.1 408")
        with connect(url.replace("http", "ws") + "/v1/live") as live:
            time.sleep(0.5)
            live.send('{"prompt": "pizza", "generation": 1}')
            assert live.recv(timeout=PATIENCE), "a WebSocket may be silent"


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    content = b""
    try:
        while piece := connection.recv(65536):
            content += piece
    except ConnectionResetError:
        pass
    return content


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has this")
@pytest.mark.parametrize("piece", [b"x" * 9000, b"X: y\r\n" * 1500], ids=["one header", "many"])
def test_a_head_without_end_is_not_read_to_it(piece: bytes) -> None:
    with listening() as (address, _):
        where = ("127.0.0.1", int(address.rpartition(":")[2]))
        with socket.create_connection(where, PATIENCE) as endless:
            endless.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: ")
            sent, answer = 0, b""
            endless.settimeout(0.2)
            while not answer and sent < 4_000_000:
                sent += endless.send(piece)
                with suppress(TimeoutError):
                    answer = endless.recv(1000)
            assert answer.startswith(b"HTTP/1.1 400") and b"longer than 64 KiB" in answer
            assert sent < 200_000
        for size in (1000, 60_000):  # and a long one is a request like any other, over one connection
            with httpx2.Client() as client:
                assert [client.get(f"{address}/health", headers={"A": "x" * size}).status_code for _ in range(3)] == [200] * 3


def test_tcp_gives_up_on_who_does_not_read() -> None:
    with (
        patience.patient(socket.create_server(("127.0.0.1", 0))) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * patience.READING
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_who_vanishes_leaves_nothing_behind() -> None:
    with listening() as (url, scheduler):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        httpx2.get(f"{url}/healthz")
        before = descriptors()
        for number in range(60):
            with socket.create_connection(address, PATIENCE) as gone:
                path = ("/v1/generate", "/v1/images/generations", "/sdapi/v1/txt2img")[number % 3]
                body = b'{"prompt": "pizza", "stream": true}' if number % 2 else b'{"prompt": "pizza"}'
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                gone.sendall(head.encode() + body[: len(body) - number % 5])
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a farewell
        deadline = time.monotonic() + PATIENCE
        while (descriptors() > before or scheduler.queued or scheduler.running) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (descriptors() <= before, scheduler.queued, scheduler.running) == (True, 0, 0)
        assert httpx2.post(f"{url}/v1/generate", json={"prompt": "pizza"}).status_code == 200


def test_the_studio_needs_no_key_and_runs_no_script_of_others() -> None:
    files = files_of()
    with listening(access=Access(keys=("secret",))) as (url, _), httpx2.Client() as client:
        for address, path in files.items():
            answer = client.get(url + address)
            assert (answer.status_code, answer.content) == (200, path.read_bytes())
            assert (answer.headers["content-security-policy"], answer.headers["x-content-type-options"]) == (POLICY, "nosniff")
            again = client.get(url + address, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for path in ("/web/", "/web/../app.py", "/web/%2e%2e/app.py", "/web//etc/passwd"):
            assert httpx2.get(url + path).status_code == 401
    assert "unsafe" not in POLICY and "script-src 'self'" in POLICY


def test_files_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert files_of(tmp_path / "none") == {}
    (tmp_path / "index.html").write_text("x")
    (tmp_path / "notes.py").write_text("x")
    assert list(files_of(tmp_path)) == ["/"]
