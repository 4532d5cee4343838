"""A Ray cluster: a connection to it, and a stream of rows that is read on this machine and goes through tasks and pools of actors.

What a machine that dies had in hand Ray has made again by another. Needs the extra "ray".
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pandas
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fewstep.engine.request import RequestError
from fewstep.engine.where import RAY, Where

PATIENCE = 10  # seconds for a cluster's head to answer
WAITING = 2  # calls under way for each that an actor carries out; with fewer the pool would not count itself busy, and would not grow
RETRIES = 5  # of a task whose process died: what kills every process that takes it ends the job, with a sentence


class ClusterError(RuntimeError):
    """The cluster failed in the middle of a job; the message says why and what to do."""


@dataclass(frozen=True)
class Cluster:
    """The one this process is connected to."""

    node: str  # of this process
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Pool:
    """Actors: the fewest, the most (None: as many as there is room for), and what each has."""

    fewest: int
    most: int | None
    cpus: int
    gpus: float

    @classmethod
    def of(cls, where: Where, cluster: Cluster) -> Pool:
        """What ``where`` asks of ``cluster``: one GPU an actor where it has any, if nothing else is said."""
        gpus = where.gpus_per_actor if where.gpus_per_actor is not None else float(cluster.gpus > 0)
        return cls(*where.count, where.cpus_per_actor or 1, gpus)


@contextmanager
def connected(on: str) -> Iterator[Cluster]:
    """A connection: "ray" is the cluster in RAY_ADDRESS, or else that of this machine, or one that is begun here. Raises RequestError."""
    address = reach(on)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what concerns the job is told in a sentence
    with redirect_stdout(sys.stderr):  # where Ray prints what it thinks of dead actors; stdout is for the job's lines
        yield from _connected(address)


def _connected(address: str | None) -> Iterator[Cluster]:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None if address else False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RequestError(f"no Ray cluster can be used at {address or 'this machine'} ({last_line(error)}): see ray status there") from None
    try:
        resources = ray.cluster_resources()
        yield Cluster(ray.get_runtime_context().get_node_id(), float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
    finally:
        ray.shutdown()


def reach(on: str) -> str | None:
    """The address that ``on`` means; None is for Ray to find. Raises RequestError unless something listens there: Ray would try for a minute."""
    address = os.environ.get("RAY_ADDRESS", "") if on == RAY else on
    if address in ("", "auto", "local"):
        return address or None
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():
        raise RequestError(f"a Ray cluster at {address}: give the HOST:PORT of its head, and the command on a machine of the cluster")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"no Ray cluster answers at {address} ({last_line(error)}): begin one with ray start --head, or name another") from None
    return address


def frame_of(*rows: Any) -> pandas.DataFrame:
    """What travels between processes: a column of objects."""
    return pandas.DataFrame({"row": list(rows)})


def read_here(source: Callable[[], Iterable[pandas.DataFrame]], cluster: Cluster, ordered: bool = False) -> Any:
    """The data set of the frames of ``source``, read on this machine, each as it comes; what is made of them comes out as they went in if ``ordered``."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # byte: every row is a block, and goes as it comes; else the reader would fill 128 MB before the first left
    context.execution_options.preserve_order = ordered
    here = NodeAffinitySchedulingStrategy(cluster.node, soft=False)
    return ray.data.read_datasource(_Frames(source), override_num_blocks=1, num_cpus=0, scheduling_strategy=here)


def by_tasks(dataset: Any, work: Callable[[pandas.DataFrame], pandas.DataFrame]) -> Any:
    """``work`` on every frame, in any process of the cluster, a processor each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # Ray 2.64 takes max_retries away, and has no other name for it yet
        return dataset.map_batches(work, batch_size=None, batch_format="pandas", num_cpus=1, max_retries=RETRIES)


def by_actors(dataset: Any, worker: type, arguments: tuple[Any, ...], pool: Pool, at_once: int = 1) -> Any:
    """A ``pool`` of ``worker(*arguments)`` called with every frame; each answers ``at_once`` calls, in threads."""
    actors = ray.data.ActorPoolStrategy(
        min_size=pool.fewest,
        max_size=pool.most,
        max_tasks_in_flight_per_actor=WAITING * at_once,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=at_once > 1,
    )
    given = {"fn_constructor_args": arguments, "compute": actors, "num_cpus": pool.cpus, "num_gpus": pool.gpus}
    return dataset.map_batches(worker, batch_size=None, batch_format="pandas", **given)


def rows(dataset: Any) -> Iterator[Any]:
    """What comes out, as it comes. Raises ClusterError."""
    try:
        for frame in dataset.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=1):
            yield from frame["row"]
    except ray.exceptions.RayError as error:
        raise ClusterError(f"the Ray cluster failed ({last_line(error)}): put that right and give the same command again") from error


def last_line(error: Exception) -> str:
    """The last line of an error, which is the one that says what happened in another process."""
    lines = [line for line in str(getattr(error, "strerror", None) or error).splitlines() if line.strip()]
    return (lines[-1].strip() if lines else type(error).__name__)[:300]


class _Frames(ray.data.Datasource):  # type: ignore[misc]
    """The frames of ``source`` in one stream, a block each."""

    def __init__(self, source: Callable[[], Iterable[pandas.DataFrame]]) -> None:
        super().__init__()
        self._source = source

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody knows before it is read."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
        """One, whatever ``parallelism`` is asked for."""
        return [ray.data.ReadTask(self._source, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))]
