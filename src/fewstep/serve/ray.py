"""``fewstep serve --on ray``: one address on the cluster's head, and behind it as many replicas of the server as there is work for."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Any, NoReturn

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, ControllerOptions, HTTPOptions, ProxyLocation, RequestRouterConfig
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fewstep.engine.cluster import Cluster, Pool, connected, last_line
from fewstep.engine.control import find_net
from fewstep.engine.model import open_model
from fewstep.engine.request import MOST_BATCH, RequestError
from fewstep.engine.where import Where
from fewstep.serve.board import BOARD, NAMESPACE, TELL, Board
from fewstep.serve.checker import load_checker
from fewstep.serve.rack import Rack
from fewstep.serve.replica import NAME, Plan, Server
from fewstep.serve.run import MOST_CONNECTIONS, bind, url
from fewstep.serve.scheduler import GRACE

LEAVE = 60.0  # seconds that live sessions have before a replica that is not needed any more is ended
DRAIN = 0.5  # seconds between looks whether all is answered, then
ANSWER = TELL + GRACE + 0.5  # seconds in which all replicas have heard that they are to leave, and answered whoever waits
HEAR = 5.0  # seconds that the board has to take word of it
SERVE = "serve"  # the namespace of Ray Serve's own actors
PROXY = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine's proxy is not begun anew
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "FORWARDED_ALLOW_IPS": "",  # a client is who connects, not who X-Forwarded-For says, which uvicorn would believe this machine's own programs
}


class Left(BaseException):
    """A signal asks this process to leave."""


def run(where: Where, port: int, plan: Plan) -> None:
    """Serve ``plan`` on the cluster ``where`` says until SIGINT or SIGTERM.

    Raises RequestError on a port, checker, folder or cluster that cannot be had, and what opening a model raises.
    """
    model = open_model(plan.model, None, plan.base, plan.few_step)
    Rack(plan.lora_dir)
    if plan.controlnet is not None:
        find_net(plan.controlnet, model)
    if plan.checker is not None:
        load_checker(plan.checker)
    stdout = sys.stdout
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with connected(where.on) as cluster:
        pool = roomy(where, cluster)
        if any(actor["namespace"] == SERVE for actor in list_named_actors(all_namespaces=True)):  # its proxy would keep its own address, open to whomever
            raise RequestError("Ray Serve runs on this cluster already: end it with serve shutdown, or name another cluster")
        with bind(plan.access.host, port) as listener:  # whether it can be had; the cluster's proxy will listen there
            address, port = url(listener), listener.getsockname()[1]
        here = NodeAffinitySchedulingStrategy(cluster.node, soft=False)  # it ends with this command, and with no other machine
        board = ray.remote(Board).options(name=BOARD, namespace=NAMESPACE, num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _leave)
            begin(deployed(replace(plan, device="cuda" if pool.gpus else "cpu", threads=pool.cpus), pool), plan.access.host, port)
            print(f"{model.limits.name} is served on {address}", file=stdout, flush=True)
            while True:
                time.sleep(3600)
        except Left:
            pass
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            try:
                with suppress(ray.exceptions.RayError):  # without the board the replicas leave by themselves
                    ray.get(board.close.remote(), timeout=HEAR)
                    time.sleep(ANSWER)
            finally:
                serve.shutdown()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise Left


def roomy(where: Where, cluster: Cluster) -> Pool:
    """The replicas that ``where`` asks for, as many as there is room for where it names no most. Raises RequestError where the fewest do not fit."""
    pool = Pool.of(where, cluster)
    room = sum(room_on(node["Resources"], pool) for node in ray.nodes() if node["Alive"])
    if room < pool.fewest:
        each = f"{pool.cpus} CPU{'s' * (pool.cpus != 1)}" + (f" and {pool.gpus:g} GPU" if pool.gpus else "")
        raise RequestError(f"the cluster has room for {room} replicas of {each}: give fewer with --replicas, or smaller ones with --cpus-per-replica")
    return replace(pool, most=room if pool.most is None else pool.most)


def room_on(there: Mapping[str, float], pool: Pool) -> int:
    """How many of ``pool`` a machine with the resources ``there`` has room for: each needs all of its own on one, and less than a GPU on one GPU."""
    cpus, gpus = int(there.get("CPU", 0) // pool.cpus), there.get("GPU", 0)
    if not pool.gpus:
        return cpus
    return min(cpus, int(gpus) * int(1 / pool.gpus) if pool.gpus < 1 else int(gpus // pool.gpus))


def deployed(plan: Plan, pool: Pool) -> Any:
    """The application as Ray Serve takes it."""
    more: dict[str, Any] = {"num_replicas": pool.fewest}
    if pool.most != pool.fewest:
        more = {"autoscaling_config": AutoscalingConfig(min_replicas=pool.fewest, max_replicas=pool.most, target_ongoing_requests=MOST_BATCH)}
    return serve.deployment(
        Server,
        name=NAME,
        ray_actor_options={"num_cpus": pool.cpus, "num_gpus": pool.gpus},
        max_ongoing_requests=MOST_CONNECTIONS,
        request_router_config=RequestRouterConfig(request_router_class="fewstep.serve.router.Sticky"),
        graceful_shutdown_timeout_s=LEAVE,
        graceful_shutdown_wait_loop_s=DRAIN,
        max_constructor_retry_count=1,
        **more,
    ).bind(plan)


def begin(application: Any, host: str, port: int) -> None:
    """Have the cluster serve ``application``. Raises RequestError where it cannot."""
    try:
        options = ControllerOptions(runtime_env={"env_vars": PROXY})
        serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=HTTPOptions(host=host, port=port), controller_options=options)
        serve.run(application, name=NAME, route_prefix="/")
    except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        raise RequestError(f"the cluster cannot serve this ({last_line(error)}): see its logs, and ray status") from None
