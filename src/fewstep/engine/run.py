"""One call of ``fewstep generate``, after its input was checked: load, make, write, tell."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO, TypeVar

from fewstep.engine.output import Output
from fewstep.engine.preview import can_show, half_blocks
from fewstep.engine.record import Record
from fewstep.engine.request import Picture, Request
from fewstep.engine.summary import as_json, as_line, next_step

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
MOST_PENDING = 2  # pictures that are made and not yet written
T = TypeVar("T")


def run(model: str, steps: int | None, requests: Sequence[Request], record: Record | None, output: Output, json: bool, **loading: Any) -> int:
    """Make the pictures of ``requests``, or the one of ``record`` again, and print a line each. Returns the exit code.

    ``loading`` is what ``Engine.load`` takes besides: decoder, backend, device.

    A picture is written while the next one is made. One that cannot be written is counted and named; the others are made all the same.
    After Ctrl-C those that are finished stay.
    """
    finished = failed = 0
    last: Picture | None = None
    total = len(requests)
    try:
        with waiting(f"loading {model}"):
            from fewstep.engine.engine import Engine

            engine = Engine.load(model, steps, **loading)
        pictures = iter([engine.repeat(record)]) if record else engine.generate_many(requests)
        with progress(total) as tell:

            def write(picture: Picture) -> None:
                nonlocal finished, failed, last
                try:
                    path = output.save(picture)
                except OSError as error:
                    failed += 1
                    tell(f"fewstep: {error.filename or output.folder} was not written: {error.strerror or error}", sys.stderr)
                    return
                finished, last = finished + 1, picture
                tell(as_json(picture, path) if json else as_line(picture, path), sys.stdout)

            beside(write, pictures)
        if last and finished == 1 and not json and can_show(sys.stdout):
            print(half_blocks(last.image), next_step(last, engine.limits, model), sep="\n")
    except KeyboardInterrupt:
        print(f"fewstep: interrupted; {finished} of {total} pictures are finished", file=sys.stderr)
        return INTERRUPTED
    return DONE if not failed else SOME_FAILED if finished else BAD_INPUT


def beside(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Have one thread do ``work`` on each of ``items``, in their order, while the next is made. Raises what either raises.

    Of what is made at most two wait or are worked on before another is asked for. Whatever ends it, they are done with first.
    """
    with ThreadPoolExecutor(1, "fewstep-writer") as worker:
        pending: deque[Future[None]] = deque()
        for item in items:
            pending.append(worker.submit(work, item))
            while pending and (pending[0].done() or len(pending) > MOST_PENDING):
                pending.popleft().result()
        for one in pending:
            one.result()


def waiting(what: str) -> Any:
    """A spinner on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


@contextmanager
def progress(total: int) -> Iterator[Callable[[str, TextIO], None]]:
    """Yields ``tell(line, stream)``, which prints a line and counts one picture: on a bar if there are several and a terminal."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda line, stream: print(line, file=stream, flush=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False, transient=True)
    task = bar.add_task("pictures", total=total)

    def tell(line: str, stream: TextIO) -> None:
        bar.stop()  # the bar would fold a long line
        print(line, file=stream, flush=True)
        bar.advance(task)
        bar.start()

    with bar:
        yield tell
