"""A job on this machine: group after group is made, while one thread beside it writes what was made before."""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from fewstep.batch.expand import Bad
from fewstep.batch.make import Encoded, Made, Score, encode, looked_at
from fewstep.batch.plan import Group, Item
from fewstep.batch.progress import Report, Tally
from fewstep.batch.results import Results
from fewstep.batch.store import Store
from fewstep.engine.files import DEFAULT
from fewstep.engine.request import RequestError
from fewstep.engine.run import beside

FULL = (errno.ENOSPC, errno.EDQUOT)


class Stopped(RuntimeError):
    """The job cannot go on; what was finished stays. The message says why and what to do."""


@dataclass(frozen=True)
class There:
    """A picture that was there before, and its line in the results."""

    line: dict[str, Any]


Outcome = Made | Encoded | There | Bad
Make = Callable[[Group], Iterable[Made | Bad]]  # of each of the group's items; whichever machine it runs on


def there(results: Results, store: Store, item: Item) -> There | None:
    """``item`` if it is in its place, whole. Raises RequestError if something else stands there."""
    line = results.of(item.index)
    if line is None or "error" in line:
        return None
    if line.get("key") != item.key:
        changed = "an image, a LoRA or the model has changed since the job began"
        raise RequestError(f"row {item.row} (line {item.line}) is not what its picture was made of: {changed}; give another --out")
    return There(line) if store.has(line) else None


@dataclass
class Books:
    """What a job has of its pictures and tells of them: the one place that writes."""

    results: Results
    store: Store
    tally: Tally
    report: Report
    fail: Callable[[Bad], None]
    strict: bool = False
    format: str = DEFAULT
    score: Score | None = None
    kept_of: set[str] = field(default_factory=set)  # the backends that computed what was there
    made_of: set[str] = field(default_factory=set)  # and those of what is made now
    _stopped: bool = False  # nothing is appended to half a line

    def there(self, item: Item) -> There | None:
        """See :func:`there`."""
        return there(self.results, self.store, item)

    def enter(self, outcomes: list[Outcome]) -> None:
        """Write and count what has become of some pictures. Raises Stopped where nothing can be written, or at a failure of a strict job."""
        if self._stopped:
            return
        try:
            for outcome in outcomes:
                self._enter(outcome)
        except OSError as error:
            self._stopped = True
            place = error.filename or self.results.path.parent
            reason = "the disk is full" if error.errno in FULL else f"{place} cannot be written ({error.strerror or error})"
            done = f"{self.tally.done} of {self.tally.total} pictures are finished"
            raise Stopped(f"{reason}; {done}: {'make room' if error.errno in FULL else 'put that right'} and give the same command again") from None

    def _enter(self, outcome: Outcome) -> None:
        tally = self.tally
        if isinstance(outcome, Bad):
            error = outcome.error.encode(errors="backslashreplace").decode()  # it may name what is not Unicode
            self.results.add({"index": outcome.index, "row": outcome.row, "line": outcome.line, "error": error, "pictures": outcome.count})
            self.store.settled(outcome.index, None, outcome.count)
            tally.failed += outcome.count
            self.fail(outcome)
        elif isinstance(outcome, There):
            tally.kept += 1
            line = self._scored(outcome.line)
            self.kept_of.add(line.get("backend", ""))
            self.store.settled(line["index"], line)
        else:
            one = encode(outcome, self.store, self.format, self.score) if isinstance(outcome, Made) else outcome
            if one.content is not None:
                self.store.write(one.line, one.content)
            line = one.line
            self.results.add(line)
            tally.made += 1
            self.made_of.add(line["backend"])
            tally.bytes += line["bytes"]
            self.store.settled(line["index"], line)
        self.report(tally, False)
        if self.strict and isinstance(outcome, Bad):
            self._stopped = True
            raise Stopped(f"stopped at the first failure, for --strict; {tally.done} of {tally.total} pictures are finished")

    def _scored(self, line: dict[str, Any]) -> dict[str, Any]:
        """The line of a picture that was there, with the score that is asked for now and was not when it was made."""
        content = None if self.score is None or "score" in line else self.store.read(line)
        if self.score is None or content is None:
            return line
        line = {**line, "score": looked_at(content, line["prompt"], self.score)}
        self.store.retell(line, content)
        self.results.add(line)
        return line


def run(parts: Iterable[Group | Bad], makes: Sequence[Make], books: Books) -> None:
    """Make what is not there yet of ``parts``, on as many devices as there are ``makes``, and write it.

    Of a group of which anything is missing all is made again, for kernels differ by the size of the batch; what is there stays as it is.
    Raises Stopped, and what the manifest or the books raise.
    """
    beside(books.enter, carried_out(tasks(parts, books.there), makes))


@dataclass(frozen=True)
class Task:
    """A group to make, if anything of it is missing, and what is known without it. All that another way to carry out jobs has to take."""

    known: tuple[Outcome, ...]
    group: Group | None = None
    missing: frozenset[int] = frozenset()  # the indices of its items that are not there

    def outcomes(self, made: Iterable[Made | Bad]) -> list[Outcome]:
        """What has become of all, once its group is ``made``."""
        return [*self.known, *(one for one in made if (one.item.index if isinstance(one, Made) else one.index) in self.missing)]


def tasks(parts: Iterable[Group | Bad], there: Callable[[Item], There | None]) -> Iterator[Task]:
    """What there is to do for each part."""
    for part in parts:
        if isinstance(part, Bad):
            yield Task((part,))
            continue
        found = {item.index: there(item) for item in part.items}
        known = tuple(one for one in found.values() if one is not None)
        missing = frozenset(index for index, one in found.items() if one is None)
        yield Task(known, part if missing else None, missing)


def carried_out(todo: Iterable[Task], makes: Sequence[Make]) -> Iterator[list[Outcome]]:
    """The outcomes of each task, in their order: in this thread, or in a thread for each of several ``makes``.

    Of what is made, at most two for each of them wait for one before it.
    """
    if len(makes) == 1:
        for task in todo:
            yield task.outcomes(makes[0](task.group) if task.group else ())
        return
    idle: SimpleQueue[Make] = SimpleQueue()
    for make in makes:
        idle.put(make)

    own = threading.local()

    def begin() -> None:
        own.make = idle.get()  # for good: CUDA's graphs belong to the thread that captured them

    def work(task: Task) -> list[Outcome]:
        return task.outcomes(own.make(task.group) if task.group else ())

    with ThreadPoolExecutor(len(makes), "fewstep-device", begin) as pool:
        pending: deque[Future[list[Outcome]]] = deque()
        for task in todo:
            pending.append(pool.submit(work, task))
            while pending and (pending[0].done() or len(pending) > 2 * len(makes)):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
