"""Which of several replicas a request is for: the one that keeps what it is about, if any does. Loads no Ray.

A name that a replica gives out begins with the replica's own: the token of a live session, what looks at one, a finished picture. What one
client has under way is known where that client's requests to A1111's API go. Everything else may go anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers

from fewstep.serve.guard import key_in
from fewstep.serve.shapes import A1111, SECRET

MARK = "-"  # ends the name of a replica, which has letters and digits alone


def prefix_of(replica: str) -> str:
    """What the names begin with that ``replica`` gives out."""
    return f"{replica}{MARK}"


def home_of(name: str) -> str:
    """The replica that has given out ``name``."""
    return name.partition(MARK)[0]


def name_in(scope: dict[str, Any]) -> str:
    """The name of what a request is about, from its path or its token; empty where it is about nothing that is kept."""
    path: str = scope["path"]
    for known in SECRET:
        if path.startswith(known):
            return path.removeprefix(known).partition(".")[0]
    if scope["type"] == "websocket":
        return parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
    return ""


def client_in(scope: dict[str, Any]) -> str:
    """Whose work under way a request may be about: its key, however it is given, or else its address. Empty where it is about none."""
    if not scope["path"].startswith(A1111):
        return ""
    return key_in(Headers(scope=scope).get("authorization", "")).decode("latin-1") or str((scope.get("client") or ("",))[0])


def seat_of(client: str, replicas: Collection[str]) -> str:
    """The replica of ``client``: where one comes or goes, only the clients move that were or will be there (rendezvous hashing)."""
    return max(replicas, key=lambda replica: hashlib.sha256(f"{replica}{MARK}{client}".encode()).digest())
