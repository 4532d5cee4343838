"""Which replica a request is for, and what replicas have in common. No Ray is needed for either."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from fewstep.serve.board import HOLD, SILENT, Board, text_of
from fewstep.serve.metrics import Metrics
from fewstep.serve.sticky import client_in, home_of, name_in, prefix_of, seat_of
from fewstep.serve.tickets import LINGER, Tickets

TAGS = ("l5zajgq0", "oufrkc0h", "x1")


def scope(path: str, query: str = "", kind: str = "http", key: str = "", client: str = "192.0.2.7") -> dict[str, Any]:
    headers = [(b"authorization", key.encode())] if key else []
    return {"type": kind, "path": path, "query_string": query.encode(), "headers": headers, "client": (client, 1)}


def test_names_lead_to_who_gave_them_out() -> None:
    tickets = Tickets(prefix=prefix_of("l5zajgq0"))
    for _ in range(50):  # whatever characters are drawn
        ticket = tickets.open("me", None)
        name, token = ticket.outlet.name, ticket.token
        asked = [scope(f"/out/{name}"), scope(f"/out/{name}.mjpeg"), scope("/v1/live", f"x=1&token={token}", "websocket"), scope(f"/v1/pictures/{name}.png")]
        assert {home_of(name_in(one)) for one in asked} == {"l5zajgq0"}
    assert name_in(scope("/v1/live", kind="websocket")) == name_in(scope("/v1/generate", f"token={token}")) == name_in(scope("/")) == ""


def test_what_a_client_has_under_way_is_asked_in_one_place() -> None:
    """A1111's progress and interrupt are about the client's own requests; every client has a place, and keeps it when another replica goes."""
    assert client_in(scope("/sdapi/v1/progress")) == "192.0.2.7"
    given = ["Bearer a", "bearer  a", f"Basic {b64encode(b'me:a').decode()}", f"Basic {b64encode(b'you:a').decode()}"]  # as guard.key_in reads it
    asked = [("txt2img", "192.0.2.7"), ("interrupt", "192.0.2.8")]
    assert {client_in(scope(f"/sdapi/v1/{path}", key=key, client=client)) for key in given for path, client in asked} == {"a"}
    assert {client_in(scope("/sdapi/v1/progress", key=key)) for key in ("Basic !", "Digest a", "")} == {"192.0.2.7"}
    assert client_in(scope("/v1/generate", key="Bearer a")) == ""
    before = {f"client {number}": seat_of(f"client {number}", TAGS) for number in range(3000)}
    assert all(900 < count < 1100 for count in Counter(before.values()).values())
    left = TAGS[1:]
    assert all(seat_of(client, left) == seat for client, seat in before.items() if seat in left)


def test_the_board_knows_where_a_session_went() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    assert board.tell("a", {"a-1": "me", "a-2": "you"}, {"a-1"}, []) == (False, [])
    assert board.home("a-1") == "a" and board.home("a-3") == ""
    now[0] = HOLD + 1
    assert board.claim("a-1", "you", "b") == board.claim("a-3", "me", "b") == "" and board.home("a-1") == "a"
    assert board.claim("a-1", "me", "b") == board.home("a-1") == "b"
    now[0] = LINGER - 1
    board.tell("b", {"a-1": "me"}, {"a-1"}, [])
    now[0] = LINGER + 1
    board.tell("b", {}, (), [])
    assert board.home("a-1") == "b" and board.home("a-2") == "" and board.claim("a-2", "you", "b") == ""  # it is over
    board.close()
    assert board.tell("b", {}, (), []) == (True, [])


def test_a_session_is_at_one_replica() -> None:
    """Whoever has it keeps it while somebody is connected there; of those who claim it then the first has it; the one it was at is told."""
    now = [0.0]
    board, mine = Board(lambda: now[0]), {"a-1": "me"}
    for second in range(20):
        now[0] = float(second)
        board.tell("a", mine, mine, [])
        assert board.claim("a-1", "me", "b") == "a", "it lives, and only the way there was not known"
    for second in range(20, 24):  # the connection is lost; a is being taken away, tells on, and cannot be reached any more
        board.tell("a", mine, (), [])
        now[0] = float(second)
    assert [board.claim("a-1", "me", replica) for replica in "bcb"] == ["b", "b", "b"]
    assert board.tell("a", mine, mine, []) == (False, ["a-1"]) and board.home("a-1") == "b", "who tells takes nothing back"
    assert board.tell("b", mine, mine, []) == (False, [])
    now[0] += HOLD + 0.5
    assert board.claim("a-1", "me", "c") == "c" and board.tell("b", mine, mine, []) == (False, ["a-1"]), "b was not heard of, and may be gone"
    now[0] += LINGER + 1
    assert board.claim("a-1", "me", "a") == "", "over, though nobody has told since"
    assert board.tell("a", mine, mine, []) == (False, []) and board.home("a-1") == "a"


def test_a_session_that_goes_on_elsewhere_is_over_here() -> None:
    tickets = Tickets(prefix="a-")
    lost, kept = tickets.open("me", None), tickets.open("you", None)
    with tickets.connected(lost) as outlet:
        assert tickets.busy() == {lost.outlet.name}
        tickets.lose([lost.outlet.name, "a-unknown"])
        assert outlet.closed and not tickets.has(lost.outlet.name) and tickets.redeem(lost.token, None) is None and tickets.busy() == set()
    assert tickets.owners() == {kept.outlet.name: "you"} and tickets.redeem(kept.token, None) is kept


def test_figures_of_all_replicas_say_whose_they_are() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    for tag, count in (("a", 2), ("b", 3)):
        metrics = Metrics()
        metrics.answers.labels("/v1/models", "200").inc(count)
        board.tell(tag, {}, (), list(metrics.registry.collect()))
    families = {family.name: family for family in text_string_to_metric_families(text_of(board.figures()).decode())}
    found = {sample.labels["replica"]: sample.value for sample in families["fewstep_requests"].samples if sample.name.endswith("_total")}
    assert found == {"a": 2.0, "b": 3.0}
    assert families["fewstep_wait_seconds"].type == "histogram"
    now[0] = SILENT + 1
    board.tell("b", {}, (), [])
    assert list(board.figures()) == ["b"]


def test_a_session_that_is_adopted_keeps_its_name() -> None:
    now = [0.0]
    tickets = Tickets(lambda: now[0], prefix="b-")
    assert not tickets.has("a-1")
    tickets.adopt("a-1", "me")
    ticket = tickets.open("me", None, "a-1")
    assert ticket.outlet.name == "a-1" and ticket.token.startswith("b-") and tickets.owners() == {"a-1": "me"}
    tickets.adopt("a-1", "you")
    assert tickets.owners() == {"a-1": "me"}  # it is here already, and stays what it was
    now[0] = LINGER + 1
    assert not tickets.has("a-1") and tickets.owners() == {}
