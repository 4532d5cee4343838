"""One call of ``fewstep generate``, after its words were understood: check, load, make, write, tell."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from fewstep import __version__
from fewstep.engine.adapters import find_stack
from fewstep.engine.control import settle_controls
from fewstep.engine.files import check_format, format_of, read_record
from fewstep.engine.matte import opaque
from fewstep.engine.memory import MEMORY
from fewstep.engine.model import check_choice, check_tiled, open_model
from fewstep.engine.options import notes
from fewstep.engine.output import Output, open_output
from fewstep.engine.preview import can_show, half_blocks
from fewstep.engine.record import ANEW, Record
from fewstep.engine.request import Picture, Request, RequestError
from fewstep.engine.sheet import check_sheet, write_sheet
from fewstep.engine.summary import as_json, as_line, next_step
from fewstep.engine.words import hints, read_words
from fewstep.zoo.known import KNOWN

if TYPE_CHECKING:
    from PIL.Image import Image

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
MOST_PENDING = 2  # pictures that are made and not yet written
T = TypeVar("T")


def again(source: Path, out: Path | None, kind: str | None, model: str | None) -> tuple[Record, str | None]:
    """(the record of the picture ``source``, the format to make it in again: that of ``out``, ``kind`` or else its own).

    Raises RequestError on a file without a usable record, or one of an unknown model unless ``model`` says where that is.
    """
    record = read_record(source)
    if model is None and record.model not in KNOWN:  # a file from elsewhere does not say which folder is opened
        raise RequestError(f"{source} was made with '{record.model}', which is no known name: give --model with what it was made with")
    if record.version != __version__:
        print(f"note: {source} was made by fewstep {record.version}, and this is {__version__}: its last bits may come out otherwise", file=sys.stderr)
    return record, kind or (format_of(source) if out is None or format_of(out) is None else None)


def generate(
    model: str,
    requests: Sequence[Request],
    record: Record | None,
    places: tuple[Path | None, str | None, Path | None],
    json: bool,
    steps: int | None,
    backend: str,
    decoder: str,
    device: str | None,
    base: str | None = None,
    few_step: str | None = None,
    memory: str = "auto",
    precision: str = "auto",
) -> int:
    """Check all that can be checked before the weights are loaded, say what is odd, and ``run``.

    ``requests`` differ in prompts and seeds alone; ``record`` is that of the only one, if it is made again. ``places`` are where the
    pictures go, their format, and where the sheet of all goes. Raises RequestError and what opening a model raises.
    """
    opened = open_model(model, steps, base, few_step)
    limits = dataclasses.replace(opened.limits, stack=partial(find_stack, opened, ()), guides=partial(settle_controls, opened))
    settled = limits.settle(requests[0])
    check_choice("--memory", memory, MEMORY)
    check_tiled(decoder, requests[0].tile)
    out, kind, sheet = places
    output = open_output(out, len(requests), kind)
    check_format(output.format, requests[0].transparent)
    if sheet is not None:
        if format_of(sheet) != "png":
            raise RequestError(f"--sheet {sheet}: a sheet is a PNG: give a name that ends in .png")
        if output.file and sheet.absolute() == (output.folder / output.file).absolute():
            raise RequestError(f"--sheet {sheet} is the picture's own name: give it another")
        open_output(sheet, 1)
        check_sheet(sheet, len(requests), settled.width, settled.height)
    words = read_words(opened.folder)
    texts = dict.fromkeys(text for one in requests for text in (one.prompt, one.blend, one.prompt_2) if text is not None)
    for note in [hint for text in texts for hint in hints(text, words, opened.limits.name)] + notes(requests[0], limits):
        print(f"note: {note}", file=sys.stderr)
    loading: dict[str, Any] = {"backend": backend, "decoder": decoder, "device": device, "precision": precision}
    if record:
        loading = {"backend": record.backend, "device": record.device, "decoder": record.decoder, "precision": record.precision or "auto"}
        loading["threads"] = min(record.threads, os.cpu_count() or 1)
    loading |= {"base": base, "few_step": few_step, "memory": memory, "controlnets": [one.net for one in requests[0].control if one.weight]}
    return run(model, steps, requests, record, output, json, sheet, **loading)


def run(
    model: str, steps: int | None, requests: Sequence[Request], record: Record | None, output: Output, json: bool, sheet: Path | None = None, **loading: Any
) -> int:
    """Make the pictures of ``requests``, or the one of ``record`` again, and print a line each. Returns the exit code.

    ``loading`` is what ``Engine.load`` takes besides: decoder, backend, device. What was written is packed into ``sheet`` at the end.

    A picture is written while the next one is made. One that cannot be written is counted and named; the others are made all the same.
    After Ctrl-C those that are finished stay.
    """
    finished = failed = 0
    last: Picture | None = None
    sprites: list[tuple[str, Image]] = []
    made: set[Path] = set()
    uncut: list[Path] = []
    total = len(requests)
    try:
        with waiting(f"loading {model}"):
            from fewstep.engine.backends import BackendError
            from fewstep.engine.engine import Engine

            try:
                engine = Engine.load(model, steps, **loading)
            except BackendError as error:
                if record is None:
                    raise
                raise RequestError(f"the picture was made by {record.backend} on {record.device}, which cannot be had here ({error}): {ANEW}") from None
        first = requests[0]
        repeated = (engine.repeat(record, first.image, first.mask, first.loras or (), first.control) for record in [record] if record)
        pictures = repeated if record else engine.generate_many(requests)
        with progress(total) as tell:

            def write(picture: Picture) -> None:
                nonlocal finished, failed, last
                try:
                    path = output.save(picture)
                except OSError as error:
                    failed += 1
                    tell(f"fewstep: {error.filename or output.folder / (output.file or '')} was not written: {error.strerror or error}", sys.stderr)
                    return
                finished, last = finished + 1, picture
                if picture.record.transparent and opaque(picture.image):
                    uncut.append(path)
                if sheet is not None:
                    sprites.append((path.stem, picture.image))
                    made.add(path.absolute())
                tell(as_json(picture, path) if json else as_line(picture, path), sys.stdout)

            beside(write, pictures)
        if uncut:
            print(f"note: {len(uncut)} of {finished} have no background of one colour to cut out and are opaque, the first {uncut[0]}", file=sys.stderr)
        if sheet is not None and sprites:
            if sheet.absolute() in made:
                raise RequestError(f"--sheet {sheet} is the name of a picture that was made now: it stays, and there is no sheet")
            print(f"the sheet is {sheet}, its atlas {write_sheet(sprites, sheet)}", file=sys.stderr)
        if last and finished == 1 and not json and can_show(sys.stdout):
            usual = all(value in (None, "auto", "full", []) for value in loading.values())
            more = next_step(last, first, engine.limits, model) if usual else []
            print(half_blocks(last.image), *more, sep="\n")
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
