"""Ray Serve's way from its proxy to a replica, by ``serve.sticky``; between replicas that will do, to the one of two that has less to do."""

from __future__ import annotations

import random
from typing import Any

import ray
from ray import cloudpickle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from fewstep.serve.board import BOARD, NAMESPACE
from fewstep.serve.sticky import client_in, home_of, name_in, seat_of

CHOICES = 2


class Sticky(RequestRouter):  # type: ignore[misc]
    """The router of the deployment ``fewstep``, in each proxy and each replica."""

    async def choose_replicas(self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None) -> list[list[RunningReplica]]:
        """The replica that a request must go to, or two to choose from."""
        there = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        wanted = ""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            name, client = about(pending_request)
            wanted = home_of(name) if name else seat_of(client, there) if client and there else ""
            if name and wanted not in there:
                wanted = await self._moved(name)
        return [[there[wanted]]] if wanted in there else [random.sample(candidate_replicas, min(CHOICES, len(candidate_replicas)))]

    async def _moved(self, name: str) -> str:
        """Where ``name`` lives since the replica is gone that gave it out; empty if nowhere."""
        try:
            return str(await ray.get_actor(BOARD, namespace=NAMESPACE).home.remote(name))
        except (ValueError, ray.exceptions.RayError):
            return ""  # the server is being shut down


def about(request: PendingRequest) -> tuple[str, str]:
    """(name, client) that a request is about, one of them or both empty: of one that a proxy sends, or a call between replicas."""
    if not request.args or not isinstance(request.args[0], bytes):
        return str(request.kwargs.get("out", "")), ""
    scope: dict[str, Any] = cloudpickle.loads(request.args[0]).asgi_scope  # Ray's proxy, this very process, has just packed it
    return name_in(scope), client_in(scope)
