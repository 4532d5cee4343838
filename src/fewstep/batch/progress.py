"""How far a job is: on a terminal's bar, as lines of JSON, and in a file that Prometheus' node exporter reads."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from fewstep.batch.expand import Bad
from fewstep.engine import output

JSON_SECONDS, METRICS_SECONDS, PLAIN_SECONDS = 1.0, 5.0, 60.0  # between two reports


@dataclass
class Tally:
    """What has become of the ``total`` pictures of a job so far."""

    total: int
    made: int = 0  # now
    kept: int = 0  # that were there before
    failed: int = 0
    bytes: int = 0  # of what was made now
    began: float = field(default_factory=time.perf_counter)

    @property
    def done(self) -> int:
        """Pictures that are there."""
        return self.made + self.kept

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.began

    @property
    def rate(self) -> float:
        """Pictures made in a second."""
        return self.made / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds until the end at this rate, None before anything is known."""
        todo = self.total - self.done - self.failed
        return todo / self.rate if self.made else None if todo else 0.0

    def restart(self) -> None:
        """Begin to count the time now."""
        self.began = time.perf_counter()

    def said(self) -> dict[str, Any]:
        """All of it as plain values."""
        whole = {"total": self.total, "done": self.done, "made": self.made, "kept": self.kept, "failed": self.failed, "bytes": self.bytes}
        return {**whole, "seconds": round(self.seconds, 3), "pictures_per_second": round(self.rate, 3), "seconds_left": self.left and round(self.left, 1)}


Report = Callable[[Tally, bool], None]  # called whenever something changes; True: for the last time


def now_and_then(report: Callable[[Tally], None], seconds: float) -> Report:
    """``report`` at most every so many seconds, and for the last time in any case."""
    due = 0.0

    def maybe(tally: Tally, last: bool) -> None:
        nonlocal due
        if last or time.perf_counter() >= due:
            due = time.perf_counter() + seconds
            report(tally)

    return maybe


def json_line(event: str, said: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print one object on one line; None is stdout."""
    output.say(json.dumps({"event": event, **said}), stream)


def metrics_to(path: Path) -> Callable[[Tally], None]:
    """What writes ``path`` anew, whole, in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    total = Gauge("fewstep_batch_pictures_wanted", "Pictures of the job.", registry=registry)
    pictures = Gauge("fewstep_batch_pictures", "Pictures by what became of them.", ["end"], registry=registry)
    size = Gauge("fewstep_batch_written_bytes", "Bytes of the pictures that were made now.", registry=registry)
    rate = Gauge("fewstep_batch_pictures_per_second", "Pictures made in a second, since this run began.", registry=registry)
    left = Gauge("fewstep_batch_left_seconds", "Seconds until the end, as it looks.", registry=registry)

    def write(tally: Tally) -> None:
        total.set(tally.total)
        for end in ("made", "kept", "failed"):
            pictures.labels(end).set(getattr(tally, end))
        size.set(tally.bytes)
        rate.set(tally.rate)
        left.set(tally.left if tally.left is not None else float("nan"))
        write_to_textfile(str(path), registry)

    return write


@contextmanager
def reports(as_json: bool, metrics: Path | None) -> Iterator[tuple[Report, Callable[[Bad], None]]]:
    """Yields (what to call when a tally has changed, what tells of a failure): on stdout as JSON, or else on stderr, where a bar is not spoilt."""
    told: list[Report] = []
    stdout = sys.stdout  # what it is now: a cluster's own messages are kept off it later
    with ExitStack() as stack:
        say: Callable[[str], None] = _say
        if as_json:
            told.append(now_and_then(lambda tally: json_line("progress", tally.said(), stdout), JSON_SECONDS))
        elif sys.stderr.isatty():
            bar, say = stack.enter_context(_bar())
            told.append(bar)
        else:
            told.append(now_and_then(_plainly(say), PLAIN_SECONDS))
        if metrics is not None:
            told.append(now_and_then(metrics_to(metrics), METRICS_SECONDS))

        def fail(bad: Bad) -> None:
            if as_json:
                json_line("failed", {"line": bad.line, "row": bad.row, "pictures": bad.count, "error": bad.error}, stdout)
            else:
                say(f"fewstep: line {bad.line}: {bad.error}")

        yield _all(told), fail


def _say(sentence: str) -> None:
    output.say(sentence, sys.stderr)


def _all(told: Sequence[Report]) -> Report:
    def tell(tally: Tally, last: bool) -> None:
        for report in told:
            report(tally, last)

    return tell


def _plainly(say: Callable[[str], None]) -> Callable[[Tally], None]:
    """A line now and then, for a log; none at the beginning."""

    def tell(tally: Tally) -> None:
        if tally.seconds >= PLAIN_SECONDS:
            say(f"{tally.done + tally.failed} of {tally.total}  {tally.rate:.2f} pictures/s  {tally.failed} failed  {duration(tally.left)} left")

    return tell


@contextmanager
def _bar() -> Iterator[tuple[Report, Callable[[str], None]]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"))
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False, transient=True) as progress:
        task = progress.add_task("pictures", total=None, more="")

        def tell(tally: Tally, last: bool) -> None:
            failed = f"  {tally.failed} failed" if tally.failed else ""
            more = f"{tally.rate:.2f} pictures/s  {duration(tally.left)} left{failed}"
            progress.update(task, total=tally.total, completed=tally.done + tally.failed, more=more)

        yield tell, lambda sentence: progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float | None) -> str:
    """ "1 h 02 min", "3 min 05 s", "12 s" or "?"."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """ "12 kB", "3.4 MB", "1.2 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1e3:.0f} kB"
