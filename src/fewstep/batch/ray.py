"""A job on a Ray cluster: Ray Data streams its groups from a planner, through a pool of engines that grows and shrinks, to the books.

The planner and the books are on the machine that the command was given on; an engine makes a group, encodes its pictures and, where the
output is a bucket, puts them. What a machine that dies had in hand Ray has made again by another.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import pandas

from fewstep import __version__
from fewstep.batch.expand import Expansion
from fewstep.batch.limits import limits_of
from fewstep.batch.local import Outcome, Stopped, Task, tasks, there
from fewstep.batch.make import Encoded, Made, encode, make
from fewstep.batch.manifest import Manifest, open_manifest
from fewstep.batch.options import Options
from fewstep.batch.output import Place
from fewstep.batch.parts import load_engine, parts_of
from fewstep.batch.results import Results
from fewstep.batch.score import scorer
from fewstep.engine.cluster import Cluster, ClusterError, Pool, by_actors, frame_of, last_line, read_here, rows
from fewstep.engine.model import Model, open_model
from fewstep.engine.request import RequestError

AT_ONCE = 2  # groups of one engine: one is made, one is encoded
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


def carried_out(plan: Plan, cluster: Cluster) -> Iterator[list[Outcome]]:
    """The outcomes of each task, as they come. Raises Stopped or RequestError where the job cannot go on."""
    pool = Pool.of(plan.options.where, cluster)
    for one in streamed(partial(planned, plan), Worker, (plan, pool), pool, cluster):
        if isinstance(one, Trouble):
            raise one.error()
        yield one.outcomes


def streamed(source: Callable[[], Iterable[pandas.DataFrame]], worker: type, arguments: tuple[Any, ...], pool: Pool, cluster: Cluster) -> Iterator[Any]:
    """What a ``pool`` of ``worker`` makes of each frame of ``source``, which is read on this machine, as it comes. Raises Stopped."""
    try:
        yield from rows(by_actors(read_here(source, cluster), worker, arguments, pool, AT_ONCE))
    except ClusterError as error:
        raise Stopped(str(error)) from error


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


class Worker:
    """An engine on some machine of the cluster. One group is made while the one before it is encoded and put."""

    def __init__(self, plan: Plan, pool: Pool) -> None:
        self._plan, self._lock = plan, Lock()
        self._trouble: Trouble | None = None
        try:
            self._load(plan.options, pool)
        except Exception as error:  # raised here it would be tried again and again
            self._trouble = Trouble(f"an engine cannot be loaded on {socket.gethostname()}: {last_line(error)}", bad_input=True)

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
