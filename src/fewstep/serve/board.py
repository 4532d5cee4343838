"""What the replicas of a server have in common, in one actor: where live sessions went whose replica died, and the newest figures of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from fewstep.serve.tickets import LINGER

BOARD, NAMESPACE = "fewstep-board", "fewstep"
TELL = 1.0  # seconds between what a replica tells
HOLD = 3 * TELL  # in which nobody else has a session that somebody was connected to
SILENT = 10.0  # after which its figures are over


@dataclass
class Place:
    """Of a live session's name."""

    owner: str
    replica: str
    seen: float  # when it came here, or when somebody was last connected to it


class Board:
    """Lives as long as the command that serves. Forgets with it: what a name stands for is a picture a second old."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: dict[str, Place] = {}
        self._figures: dict[str, tuple[float, Sequence[Metric]]] = {}
        self._closing = False

    def tell(self, replica: str, owners: Mapping[str, str], busy: Collection[str], figures: Sequence[Metric]) -> tuple[bool, list[str]]:
        """Note what ``replica`` has: the owners of its sessions by their names, to which of them somebody is connected, and its figures.

        Returns whether all are to leave, and which of the sessions go on at another replica, so that this one lets them go.
        """
        now, lost = self._clock(), []
        self._places = {name: place for name, place in self._places.items() if now - place.seen <= LINGER}
        for name, owner in owners.items():
            place = self._places.setdefault(name, Place(owner, replica, now))
            if place.replica != replica:
                lost.append(name)
            elif name in busy:
                place.seen = now
        self._figures[replica] = now, figures
        self._figures = {name: told for name, told in self._figures.items() if now - told[0] <= SILENT}
        return self._closing, lost

    def home(self, name: str) -> str:
        """The replica that has the session ``name``, empty if none has."""
        place = self._places.get(name)
        return place.replica if place else ""

    def claim(self, name: str, owner: str, replica: str) -> str:
        """Have ``owner``'s session ``name`` go on at ``replica``, for the one it was at is gone as far as can be seen from there.

        Returns where it is now: at ``replica``; at another, for the first who claims it has it, and who has it keeps it while somebody is
        connected; or nowhere, which is empty: it is over, or not ``owner``'s.
        """
        place, now = self._places.get(name), self._clock()
        if place is None or place.owner != owner or now - place.seen > LINGER:
            return ""
        if place.replica == replica or now - place.seen > HOLD:
            self._places[name] = place = Place(owner, replica, now)
        return place.replica

    def figures(self) -> dict[str, Sequence[Metric]]:
        """The newest of every replica."""
        return {replica: figures for replica, (_, figures) in sorted(self._figures.items())}

    def close(self) -> None:
        """Have all replicas leave."""
        self._closing = True


class Merged(Collector):
    """The figures of several replicas as one: each with a label that says whose it is."""

    def __init__(self, figures: Mapping[str, Sequence[Metric]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        families: dict[str, Metric] = {}
        for replica, metrics in self._figures.items():
            for metric in metrics:
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [sample._replace(labels={**sample.labels, "replica": replica}) for sample in metric.samples]
        yield from families.values()


def text_of(figures: Mapping[str, Sequence[Metric]]) -> bytes:
    """The figures of several replicas in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Merged(figures))
    return generate_latest(registry)
