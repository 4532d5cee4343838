"""A job on a Ray cluster: Ray Data streams its groups from a planner, through a pool of engines that grows and shrinks, to the books.

The planner and the books are on the machine that the command was given on; an engine makes a group, encodes its pictures and, where the
output is a bucket, puts them. What a machine that dies had in hand Ray has made again by another.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import pandas
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fewstep import __version__
from fewstep.batch.expand import Expansion
from fewstep.batch.limits import limits_of
from fewstep.batch.local import Outcome, Stopped, Task, tasks, there
from fewstep.batch.make import Encoded, Made, encode, make
from fewstep.batch.manifest import Manifest, open_manifest
from fewstep.batch.options import RAY, Options
from fewstep.batch.output import Place
from fewstep.batch.parts import load_engine, parts_of
from fewstep.batch.results import Results
from fewstep.batch.score import scorer
from fewstep.engine.model import Model, open_model
from fewstep.engine.request import RequestError

PATIENCE = 10  # seconds for a cluster's head to answer
AT_ONCE = 2  # groups of one engine: one is made, one is encoded
IN_FLIGHT = 2 * AT_ONCE  # and as many on their way; with fewer the pool would not count itself busy, and would not grow
ROWS_A_LOAD, MOST_LOAD = 80_000, 16  # Ray keeps some kilobytes of every load that was: long jobs have fewer and larger ones
UNUSED = Path("/nonexistent")  # the scratch folder of a store that is only asked for places, or read


@dataclass(frozen=True)
class Plan:
    """A job as every process of it is told: with whole paths, for each has a working directory of its own."""

    options: Options
    expansion: Expansion
    place: Place
    results: Path  # on the machine that the command was given on

    @classmethod
    def of(cls, options: Options, manifest: Manifest, expansion: Expansion, place: Place, results: Path) -> Plan:
        """The plan of a job. LoRAs and models that are files have to lie at the same path on every machine."""
        whole: dict[str, Any] = {name: _whole(value) for name in ("model", "base", "few_step") if (value := getattr(options, name)) is not None}
        options = replace(options, manifest=manifest.path.absolute(), json=None, metrics=None, **whole)
        out = place.out if place.shared else str(Path(place.out).absolute())
        return cls(options, expansion, replace(place, out=out), results.absolute())


def _whole(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).exists() else name


@cache
def _opened(options: Options) -> Model:
    return open_model(options.model, options.steps, options.base, options.few_step)


@dataclass(frozen=True)
class Trouble:
    """Why the job cannot go on, from another process; ``bad_input`` if it is for the caller to give something else."""

    sentence: str
    bad_input: bool = False

    def error(self) -> Exception:
        """What is to be raised of it."""
        return RequestError(self.sentence) if self.bad_input else Stopped(self.sentence)


@dataclass(frozen=True)
class Load:
    """What an engine is sent at once."""

    tasks: tuple[Task, ...]
    weights: tuple[tuple[int, str], ...]  # for so many steps, by their hash, as the machine that plans has them


@dataclass(frozen=True)
class Finished:
    """What has become of the pictures of a load."""

    outcomes: list[Outcome]


@dataclass(frozen=True)
class Cluster:
    """The one this process is connected to."""

    node: str  # of this process
    gpus: float


@dataclass(frozen=True)
class Pool:
    """Actors: the fewest, the most (None: as many as there is room for), and what each has."""

    fewest: int
    most: int | None
    cpus: int
    gpus: float


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
        raise RequestError(f"no Ray cluster can be used at {address or 'this machine'} ({_line(error)}): see ray status there") from None
    try:
        yield Cluster(ray.get_runtime_context().get_node_id(), float(ray.cluster_resources().get("GPU", 0)))
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
        raise RequestError(f"no Ray cluster answers at {address} ({_line(error)}): begin one with ray start --head, or name another") from None
    return address


def carried_out(plan: Plan, cluster: Cluster) -> Iterator[list[Outcome]]:
    """The outcomes of each task, as they come. Raises Stopped or RequestError where the job cannot go on."""
    options = plan.options
    fewest, most = options.pool
    gpus = options.gpus_per_actor if options.gpus_per_actor is not None else float(cluster.gpus > 0)
    pool = Pool(fewest, most, options.cpus_per_actor or 1, gpus)
    for one in streamed(partial(planned, plan), Worker, (plan, pool), pool, cluster):
        if isinstance(one, Trouble):
            raise one.error()
        yield one.outcomes


def streamed(source: Callable[[], Iterable[pandas.DataFrame]], worker: type, arguments: tuple[Any, ...], pool: Pool, cluster: Cluster) -> Iterator[Any]:
    """What a ``pool`` of ``worker`` makes of each frame of ``source``, which is read on this machine, as it comes. Raises Stopped."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # byte: every row is a block, and goes as it comes; else the planner would fill 128 MB before the first left
    here = NodeAffinitySchedulingStrategy(cluster.node, soft=False)
    actors = ray.data.ActorPoolStrategy(
        min_size=pool.fewest,
        max_size=pool.most,
        max_tasks_in_flight_per_actor=IN_FLIGHT,
        max_concurrent_calls_per_actor=AT_ONCE,
        enable_true_multi_threading=True,
    )
    made = ray.data.read_datasource(Frames(source), override_num_blocks=1, num_cpus=0, scheduling_strategy=here).map_batches(
        worker, fn_constructor_args=arguments, batch_size=None, batch_format="pandas", compute=actors, num_cpus=pool.cpus, num_gpus=pool.gpus
    )
    try:
        for frame in made.iter_batches(batch_size=None, batch_format="pandas", prefetch_batches=1):
            yield from frame["row"]
    except ray.exceptions.RayError as error:
        raise Stopped(f"the Ray cluster failed ({_line(error)}): put that right and give the same command again") from error


def _line(error: Exception) -> str:
    """The last line of an error, which is the one that says what happened in another process."""
    lines = [line for line in str(getattr(error, "strerror", None) or error).splitlines() if line.strip()]
    return (lines[-1].strip() if lines else type(error).__name__)[:300]


class Frames(ray.data.Datasource):  # type: ignore[misc]
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


def planned(plan: Plan) -> Iterator[pandas.DataFrame]:
    """The loads of ``plan``, or the trouble there is with one. What was there before is asked of the results and the store, both only read."""
    try:
        model = _opened(plan.options)
        results = Results(plan.results, writes=False)
        manifest = open_manifest(plan.options.manifest)
        parts = parts_of(plan.options, manifest, plan.expansion, limits_of(model), model)
        weights = cache(model.hash)
        todo = tasks(parts, partial(there, results, plan.place.store(UNUSED)))
        while load := tuple(islice(todo, min(1 + plan.place.total // ROWS_A_LOAD, MOST_LOAD))):
            steps = {task.group.batch[0].steps for task in load if task.group}
            yield frame_of(Load(load, tuple((count, weights(count)) for count in sorted(steps))))
    except RequestError as error:
        yield frame_of(Trouble(str(error), bad_input=True))
    except OSError as error:
        yield frame_of(
            Trouble(f"{error.filename or plan.place.out} cannot be read ({error.strerror or error}): put that right and give the same command again")
        )


def frame_of(*rows: Any) -> pandas.DataFrame:
    """What travels between processes: a column of objects."""
    return pandas.DataFrame({"row": list(rows)})


class Worker:
    """An engine on some machine of the cluster. One group is made while the one before it is encoded and put."""

    def __init__(self, plan: Plan, pool: Pool) -> None:
        self._plan, self._lock = plan, Lock()
        self._trouble: Trouble | None = None
        try:
            self._load(plan.options, pool)
        except Exception as error:  # raised here it would be tried again and again
            self._trouble = Trouble(f"an engine cannot be loaded on {socket.gethostname()}: {_line(error)}", bad_input=True)

    def _load(self, options: Options, pool: Pool) -> None:
        device = options.device or ("cuda" if pool.gpus else "cpu")
        self._engine = load_engine(options, device=device, threads=pool.cpus)
        self._weights = cache(self._engine.model.hash)
        self._score = scorer(options.score, self._engine.model.folder)
        self._store = self._plan.place.store(UNUSED)

    def __call__(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """What has become of each load in ``frame``."""
        return frame_of(*map(self._finished, frame["row"]))

    def _finished(self, load: Load | Trouble) -> Finished | Trouble:
        if isinstance(load, Trouble):
            return load
        if self._trouble is not None:
            return self._trouble
        if any(self._weights(steps) != own for steps, own in load.weights):
            other = f"the weights of {self._plan.options.model} on {socket.gethostname()} are not those of the machine that the command was given on"
            return Trouble(f"{other}, with fewstep {__version__}: put the same there", bad_input=True)
        try:
            return Finished([outcome for task in load.tasks for outcome in self._outcomes(task)])
        except OSError as error:
            where = f"{error.filename or self._plan.place.out} cannot be written by {socket.gethostname()}"
            return Trouble(f"{where} ({error.strerror or error}): put that right and give the same command again")

    def _outcomes(self, task: Task) -> list[Outcome]:
        with self._lock:
            made = list(make(self._engine, task.group)) if task.group else []
        return [self._written(one) if isinstance(one, Made) else one for one in task.outcomes(made)]

    def _written(self, made: Made) -> Encoded:
        encoded = encode(made, self._store, self._plan.options.format, self._score)
        if self._plan.place.shared and encoded.content is not None:
            self._store.write(encoded.line, encoded.content)
            return Encoded(encoded.line, None)
        return encoded
