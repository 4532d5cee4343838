"""Pictures of a source on a Ray cluster: Ray Data has them decoded and filtered on processors, and encoded by a pool of actors.

They are enumerated, judged beside each other and written on the machine that the command was given on. A picture is encoded before it is known
whether an earlier one is its equal; what it is encoded to does not hang on what was beside it, so the shards are those of a machine alone.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas
import torch

from fewstep.data.encode import Encoded, encode_picture, encoders_key
from fewstep.data.few import Looked, Trouble, looked, planned
from fewstep.data.filters import Look, Rules
from fewstep.data.prepare import Candidate
from fewstep.data.score import load_scorer
from fewstep.data.sources import Todo
from fewstep.engine.cluster import ClusterError, Pool, by_actors, by_tasks, connected, frame_of, last_line, read_here, rows
from fewstep.engine.request import RequestError
from fewstep.engine.where import Where
from fewstep.models.bundle import load_bundle
from fewstep.zoo.registry import find


@dataclass(frozen=True)
class Plan:
    """What every process of a preparation is told."""

    model: str  # a name that every machine knows, or a whole path
    key: str  # of its encoders, as the machine has them that the command was given on
    rules: Rules
    scorer: str | None = None
    device: str | None = None

    @classmethod
    def of(cls, model: str, key: str, rules: Rules, scorer: str | None, device: str | None) -> Plan:
        """The plan, with whole paths: each process has a working directory of its own."""
        return cls(str(Path(model).absolute()) if Path(model).exists() else model, key, rules, scorer, device)


@dataclass(frozen=True)
class Made:
    """Successive pictures without their pixels; None where nothing was encoded, for the picture is not kept."""

    pictures: tuple[tuple[Look, Encoded | None], ...]


def candidates(plan: Plan, where: Where, todo: Todo) -> Generator[Candidate]:
    """The pictures of ``todo`` in their order. Raises RequestError where the preparation cannot go on."""
    with connected(where.on) as cluster:
        pool = Pool.of(where, cluster)
        if (least := pool.fewest * pool.cpus + 1) > cluster.cpus:
            print(f"the cluster has {cluster.cpus:.0f} processors, and {least} are needed, one of them to decode: waiting for more", file=sys.stderr)
        found = by_tasks(read_here(partial(planned, todo), cluster, ordered=True), partial(looked, plan.rules))
        try:
            for one in rows(by_actors(found, Encoder, (plan, pool), pool)):
                if isinstance(one, Trouble):
                    raise RequestError(one.sentence)
                for picture, encoded in one.pictures:
                    yield Candidate(picture, partial(_there, encoded))
        except ClusterError as error:
            raise RequestError(str(error)) from error


def _there(encoded: Encoded | None) -> Encoded:
    assert encoded is not None, "what may be kept is encoded"
    return encoded


class Encoder:
    """The autoencoder and the text encoders on some machine of the cluster, and the scorer if there is one."""

    def __init__(self, plan: Plan, pool: Pool) -> None:
        self._plan = plan
        self._trouble: Trouble | None = None
        try:
            torch.set_num_threads(pool.cpus)
            self._score = load_scorer(plan.scorer)
            self._bundle = load_bundle(find(plan.model), plan.device or ("cuda" if pool.gpus else "cpu"), unet=False)
            if encoders_key(self._bundle) != plan.key:
                self._trouble = Trouble(
                    f"the encoders of {plan.model} on {socket.gethostname()} are not those of the machine that the command was given on: put the same there"
                )
        except Exception as error:  # raised here it would be tried again and again
            self._trouble = Trouble(f"{plan.model} cannot be loaded on {socket.gethostname()}: {last_line(error)}")

    def __call__(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """What the pictures of ``frame`` are encoded to."""
        return frame_of(*map(self._made, frame["row"]))

    def _made(self, found: Looked | Trouble) -> Made | Trouble:
        if isinstance(found, Trouble):
            return found
        if self._trouble is not None:
            return self._trouble
        try:
            return Made(tuple(map(self._encoded, found.looks)))
        except RequestError as error:
            return Trouble(str(error))

    def _encoded(self, one: Look) -> tuple[Look, Encoded | None]:
        pixels, bare = one.pixels, one.without_pixels()
        if pixels is None:
            return bare, None
        if least := self._plan.rules.min_score:
            bare = replace(bare, score=self._score(one))
            if bare.score is None or bare.score < least:
                return bare, None
        return bare, encode_picture(self._bundle, pixels, one.caption)
