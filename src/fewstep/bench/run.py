"""One call of ``fewstep bench``: what was asked for is measured in one process, shown, and written down. Loads no torch until then."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.bench.bars import accelerator_bars, processor_bars
from fewstep.bench.machine import Others, describe, pinned
from fewstep.bench.options import STEPS, Options, open_checked
from fewstep.bench.results import Bar, Results, print_end
from fewstep.bench.table import Section, print_section
from fewstep.engine.device import best_device
from fewstep.engine.model import open_model
from fewstep.engine.output import STDOUT, put_json
from fewstep.engine.run import DONE, INTERRUPTED, SOME_FAILED

if TYPE_CHECKING:
    from fewstep.bench.sides import Sides

Measure = Callable[["Sides", Options, Callable[[str], None]], Iterable[Section]]
ACCELERATOR_SIZES = (512, 768, 1024)  # of SDXL, in pixels


def run(options: Options) -> int:
    """Measure, print every table when it is there, and keep the file that was asked for up to date. Returns the exit code: 1 if a row failed.

    What is interrupted leaves a file that says it is not complete.
    """
    tell, sections, others = Teller(), list[Section](), Others()
    stream, file = (sys.stderr, None) if options.json == STDOUT else (sys.stdout, options.json)
    try:
        with pinned(options.threads), tempfile.TemporaryDirectory(prefix="fewstep-bench-") as folder:
            sides, options = prepare(options, Path(folder), tell)
            for section in measured(sides, options, tell):
                sections.append(section)
                tell.stop()
                print_section(section, stream)
                results = results_of(sides.device if sides else "cpu", options, sections, others, complete=False)
                if file:
                    results.to_json(file)
    except KeyboardInterrupt:
        print(f"fewstep: interrupted; {len(sections)} tables are finished" + f" and written to {file}" * bool(file), file=sys.stderr)
        return INTERRUPTED
    finally:
        tell.stop()
    results = replace(results, complete=True)
    print_end(results, stream)
    if file:
        print(results.to_json(file))
    elif options.json:
        put_json(results.to_dict(), options.json)
    return SOME_FAILED if results.failed else DONE


def results_of(device: str, options: Options, sections: Sequence[Section], others: Others, complete: bool) -> Results:
    """What was found so far."""
    machine = {**describe(device, options.threads, options.architecture), "others": others.cores()}
    return Results(machine, settings(options), tuple(sections), tuple(bars_of(device, options, sections)), complete)


def prepare(options: Options, folder: Path, tell: Teller) -> tuple[Sides | None, Options]:
    """(both sides, the options with every choice made); no sides where SDXL is to be measured on a processor, which has room for one network.

    Raises RequestError or ModelError on a model that cannot be measured.
    """
    if options.architecture is None:
        model, options = open_checked(options)
        from fewstep.bench.sides import Sides

        return Sides(model, options.backend, options.threads, folder), options
    if (device := best_device()) == "cpu":
        return None, options
    from fewstep.bench.sdxl import write_random
    from fewstep.bench.sides import Sides

    tell("SDXL: writing random weights")
    options = replace(options, steps=options.steps or STEPS, sizes=options.sizes or ACCELERATOR_SIZES)
    return Sides(open_model(str(write_random(folder / "sdxl", options.steps, device=device))), options.backend, options.threads, folder, whole=True), options


def measured(sides: Sides | None, options: Options, tell: Teller) -> Iterator[Section]:
    """The tables that were asked for, one after another as they are measured."""
    if sides is None:
        from fewstep.bench.sdxl import one_forward

        yield from one_forward(options, tell)
        return
    from fewstep.bench.compare import compare
    from fewstep.bench.growth import growth
    from fewstep.bench.memory import memory
    from fewstep.bench.stages import measure_stages
    from fewstep.bench.standard import standard
    from fewstep.bench.startup import startup

    measures: dict[str, Measure] = {"compare": compare, "memory": memory, "standard": standard, "stages": measure_stages, "growth": growth, "startup": startup}
    for name in options.only:
        yield from measures[name](sides, options, tell)


def bars_of(device: str, options: Options, sections: Sequence[Section]) -> list[Bar]:
    """The bars there are for what was measured."""
    if options.architecture:
        return [] if device == "cpu" else accelerator_bars(sections)
    return processor_bars(sections, max(options.sizes)) if device == "cpu" and options.model == "emoji" else []


def settings(options: Options) -> dict[str, Any]:
    """What the run was asked for, as plain values: no paths, for a file is passed on."""
    return {
        "date": date.today().isoformat(),
        "model": Path(options.model).name if options.architecture is None else f"{options.architecture}, random weights",
        "backend": options.backend,
        "only": list(options.only),
        "rounds": options.rounds,
        "warmup": options.warmup,
        "quick": options.quick,
    }


class Teller:
    """Says on a terminal what is being measured; says nothing elsewhere."""

    def __init__(self) -> None:
        self._status: Any = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")

    def __call__(self, what: str) -> None:
        """Say it until the next, or until ``stop``."""
        if self._status:
            self._status.update(what)
            self._status.start()

    def stop(self) -> None:
        """Clear the line, so that something can be printed."""
        if self._status:
            self._status.stop()
