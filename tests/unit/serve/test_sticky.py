"""Which replica a request is for, and what replicas have in common. No Ray is needed for either."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from fewstep.serve.board import SILENT, Board, text_of
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
    assert client_in(scope("/sdapi/v1/txt2img", key="Bearer a")) == client_in(scope("/sdapi/v1/interrupt", key="Bearer a", client="192.0.2.8")) == "Bearer a"
    assert client_in(scope("/v1/generate", key="Bearer a")) == ""
    before = {f"client {number}": seat_of(f"client {number}", TAGS) for number in range(3000)}
    assert all(900 < count < 1100 for count in Counter(before.values()).values())
    left = TAGS[1:]
    assert all(seat_of(client, left) == seat for client, seat in before.items() if seat in left)


def test_the_board_knows_where_a_session_went() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    assert board.tell("a", {"a-1": "me", "a-2": "you"}, []) is False
    assert board.home("a-1") == "a" and board.home("a-3") == ""
    assert not board.claim("a-1", "you", "b") and not board.claim("a-3", "me", "b") and board.home("a-1") == "a"
    assert board.claim("a-1", "me", "b") and board.home("a-1") == "b"
    now[0] = LINGER - 1
    board.tell("b", {"a-1": "me"}, [])
    now[0] = LINGER + 1
    board.tell("b", {}, [])
    assert board.home("a-1") == "b" and board.home("a-2") == "" and not board.claim("a-2", "you", "b")  # it is over
    board.close()
    assert board.tell("b", {}, []) is True


def test_figures_of_all_replicas_say_whose_they_are() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    for tag, count in (("a", 2), ("b", 3)):
        metrics = Metrics()
        metrics.answers.labels("/v1/models", "200").inc(count)
        board.tell(tag, {}, list(metrics.registry.collect()))
    families = {family.name: family for family in text_string_to_metric_families(text_of(board.figures()).decode())}
    found = {sample.labels["replica"]: sample.value for sample in families["fewstep_requests"].samples if sample.name.endswith("_total")}
    assert found == {"a": 2.0, "b": 3.0}
    assert families["fewstep_wait_seconds"].type == "histogram"
    now[0] = SILENT + 1
    board.tell("b", {}, [])
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
