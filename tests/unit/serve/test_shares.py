"""What clients send is held in bounded memory: room is granted before it is read, and each leaves some for who comes new."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from contextlib import ExitStack

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.serve.fake import PATIENCE, FakeEngine
from tests.unit.serve.listening import listening, png
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fewstep.serve import guard, live
from fewstep.serve.guard import Access
from fewstep.serve.kept import Full, Kept
from fewstep.serve.shares import Shares

KEYED = Access(keys=("mine", "yours"))
MINE, YOURS = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer yours"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=30), st.integers(1, 100))
def test_nobody_has_more_than_what_is_left_and_all_comes_back(asked: list[tuple[str, int]], most: int) -> None:
    shares, own = Shares(most), Counter[str]()
    for owner, amount in asked:
        free = most - own.total()
        assert shares.take(owner, amount) == (own[owner] + amount <= free)
        if own[owner] + amount <= free:
            own[owner] += amount
        assert shares.taken == own.total() <= most
    for owner, amount in own.items():
        shares.give(owner, amount)
    assert shares.taken == 0 and not shares._own


def begun(url: str, length: int | None, headers: dict[str, str]) -> socket.socket:
    """A request for a picture that has sent its head and not its body."""
    raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), PATIENCE)
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    raw.sendall(f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\n{told}Content-Type: application/json\r\n{size}\r\n\r\n".encode())
    return raw


def answered(raw: socket.socket, seconds: float) -> bytes:
    """What was answered by then."""
    raw.settimeout(seconds)
    try:
        return raw.recv(1 << 16)
    except TimeoutError:
        return b""


@pytest.mark.parametrize("length", [1 << 20, None])
def test_room_for_a_large_body_is_granted_before_it_is_read(length: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_HELD", 4 * (length or 8 << 20))
    with listening(access=KEYED) as (url, _):
        mine = [begun(url, length, MINE) for _ in range(3)]
        refused = answered(mine[2], PATIENCE)
        assert refused.startswith(b"HTTP/1.1 429") and b"retry-after: 1" in refused.lower() and b"bodies_full" in refused
        assert [answered(raw, 0.1) for raw in mine[:2]] == [b"", b""], "these are granted, and waited for"
        yours = begun(url, length, YOURS)
        assert answered(yours, 0.1) == b"", "there is room for who comes new"
        assert httpx2.post(f"{url}/v1/generate", json={"prompt": "small"}, headers=MINE).status_code == 200, "a small body needs none"
        for raw in (*mine, yours):
            raw.close()
        body = json.dumps({"prompt": "x" + " " * (length or 1 << 20)})[: (length or 1 << 20) - 3] + '"}'
        deadline = time.monotonic() + PATIENCE
        while (answer := httpx2.post(f"{url}/v1/generate", content=body, headers={**MINE, "Content-Type": "application/json"})).status_code == 429:
            assert time.monotonic() < deadline, "what was hung up on still counts"
        assert answer.status_code == 400 and "characters" in answer.text


def test_a_body_that_trickles_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "WHOLE", 0.5)
    with listening() as (url, _), begun(url, 1 << 20, {}) as raw:
        started = time.monotonic()
        while not (told := answered(raw, 0.05)):
            raw.sendall(b" ")
            assert time.monotonic() - started < PATIENCE
        assert told.startswith(b"HTTP/1.1 408") and time.monotonic() - started > 0.4


def test_one_client_leaves_places_for_other_live_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_SESSIONS", 4)

    def opens(url: str, key: dict[str, str], stack: ExitStack) -> int:
        """The status of a session that is open until ``stack`` is closed, or was refused."""
        try:
            stack.enter_context(connect(url.replace("http", "ws") + "/v1/live", additional_headers=key, open_timeout=PATIENCE))
        except InvalidStatus as refused:
            assert refused.response.headers["Retry-After"] == "10"
            return refused.response.status_code
        return 101

    with listening(access=KEYED) as (url, _), ExitStack() as all_day:
        with ExitStack() as for_now:
            assert [opens(url, MINE, stack) for stack in (all_day, for_now, for_now)] == [101, 101, 429]
            assert opens(url, YOURS, all_day) == 101
        deadline = time.monotonic() + PATIENCE
        while opens(url, YOURS, all_day) != 101:
            assert time.monotonic() < deadline, "the session that was closed still counts"


def upload(what: str, picture: bytes) -> bytes:
    header = json.dumps({what: "a name"}).encode()
    return len(header).to_bytes(4, "big") + header + picture


def test_the_pictures_that_sessions_keep_have_a_bound_and_are_given_back() -> None:
    async def main() -> None:
        room = Shares(5 * 4 * 64 * 64)
        mine, yours = Kept(64, room, "me"), Kept(64, room, "you")
        await mine.take(upload("image", png()))
        await mine.take(upload("image", png()))
        assert room.taken == 4 * 64 * 64, "the newer one takes the older one's place"
        await mine.take(upload("mask", png(mode="L", colour=255)))
        assert room.taken == 5 * 64 * 64
        await yours.take(upload("image", png()))
        with pytest.raises(Full):
            await yours.take(upload("mask", png((128, 128))))
        assert yours.find("image", True) is not None
        mine.close()
        yours.close()
        assert room.taken == 0

    asyncio.run(main())


def test_a_session_is_told_what_is_not_kept_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_KEPT", 10_000)
    with listening() as (url, _), connect(url.replace("http", "ws") + "/v1/live", open_timeout=PATIENCE) as session:
        session.send(upload("image", png()))
        told = json.loads(session.recv(PATIENCE))["error"]
        assert (told["type"], told["code"]) == ("rate_limit_error", "memory_full")
        session.send(json.dumps({"prompt": "pizza", "generation": 1}))
        assert isinstance(session.recv(PATIENCE), bytes)


def test_wrong_keys_are_not_heard_for_long() -> None:
    with listening(FakeEngine(), access=KEYED) as (url, _):
        wrong = {"Authorization": "Bearer guess"}
        with httpx2.Client(headers=wrong) as guessing:
            tries = 0
            while (status := guessing.get(f"{url}/v1/models").status_code) == 401:
                tries += 1
        assert (status, guard.WRONG_KEYS.count <= tries < 2 * guard.WRONG_KEYS.count) == (429, True)
        answer = httpx2.get(f"{url}/v1/models", headers=MINE)
        assert (answer.status_code, int(answer.headers["retry-after"]) <= 3) == (429, True), "the right key is told nothing either"
        assert httpx2.get(f"{url}/v1/models").status_code == 401, "no key at all is no guess"
        assert httpx2.get(f"{url}/healthz", headers=wrong).status_code == 200
        time.sleep(int(answer.headers["retry-after"]))
        assert httpx2.get(f"{url}/v1/models", headers=MINE).status_code == 200
