"""A few pictures at once, as they travel between the processes of a Ray cluster: enumerated in one, looked at in another. Loads no torch."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pandas

from fewstep.data.filters import Look, Rules, look
from fewstep.data.item import Item
from fewstep.data.sources import Todo, batches
from fewstep.data.workers import FEW
from fewstep.engine.cluster import frame_of
from fewstep.engine.request import RequestError


@dataclass(frozen=True)
class Trouble:
    """Why the preparation cannot go on, from another process."""

    sentence: str


@dataclass(frozen=True)
class Few:
    """Successive pictures, not opened yet."""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class Looked:
    """The same, looked at."""

    looks: tuple[Look, ...]


def planned(todo: Todo) -> Iterator[pandas.DataFrame]:
    """A few pictures of ``todo`` after the other, or the trouble there is with its source."""
    try:
        for few in batches(todo.items(), FEW):
            yield frame_of(Few(tuple(few)))
    except RequestError as error:
        yield frame_of(Trouble(str(error)))
    except OSError as error:
        yield frame_of(Trouble(f"{error.filename or todo.source.path} cannot be read ({error.strerror or error}): put that right and give the same command"))


def looked(rules: Rules, frame: pandas.DataFrame) -> pandas.DataFrame:
    """What one process found out about each few of ``frame``."""
    return frame_of(*(one if isinstance(one, Trouble) else _looked(rules, one.items) for one in frame["row"]))


def _looked(rules: Rules, items: tuple[Item, ...]) -> Looked | Trouble:
    """A file that this machine does not see is no picture that is damaged: dropping it would be wrong."""
    paths = dict.fromkeys(path for item in items if (path := getattr(item.place, "path", None)))
    if lost := next((path for path in paths if not path.exists()), None):
        return Trouble(f"{socket.gethostname()} has no {lost}: the source has to lie at the same path on every machine of the cluster")
    return Looked(tuple(look(item, rules) for item in items))
