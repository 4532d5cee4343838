"""Measure a batch job against its engine: python bench/batch.py

Three contestants make as many pictures of new prompts in turn, A B C A B C: the engine alone, in batches of eight that nobody writes; a
job, from rows of a CSV to checked files; and a loop that calls ``generate`` and saves each picture. Prints the medians of the rounds' own
ratios, and writes them as JSON to bench/results/batch/KIND.json, or where --json says. --quick proves only that the program works, and
writes nothing unless told where. Exit code 1 if a bar is missed. The last steps of a job, its page and its contact sheet, are timed apart:
they take as long for a hundred pictures as for a million.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from load import TEXTS
from verdict import close

from fewstep import Engine, Request
from fewstep.batch.expand import Expansion
from fewstep.batch.local import Books, run
from fewstep.batch.make import make
from fewstep.batch.manifest import open_manifest
from fewstep.batch.plan import Maker, groups, items
from fewstep.batch.progress import Tally
from fewstep.batch.results import NAME, Results
from fewstep.batch.store import Folders
from fewstep.bench.clock import Series, interleave, ratio
from fewstep.bench.machine import Others, describe
from fewstep.bench.results import Bar
from fewstep.engine.files import FORMATS
from fewstep.engine.request import MOST_BATCH

RESULTS = Path(__file__).parent / "results" / "batch"
OF_ENGINE, OF_LOOP = 0.9, 1.8  # the bars; the second on an accelerator, where a batch is worth something


def prompts(count: int) -> Iterator[list[str]]:
    """``count`` prompts that nobody has encoded, again and again."""
    number = 0
    while True:
        yield [f"{TEXTS[(number + one) % len(TEXTS)]} {number + one}" for one in range(count)]
        number += count


def alone(engine: Engine, steps: int, said: list[str]) -> None:
    """The engine's own pictures, in its best batches."""
    settled = [engine.limits.settle(Request(prompt, 1, steps)) for prompt in said]
    for first in range(0, len(settled), MOST_BATCH):
        for _ in engine.walk(settled[first : first + MOST_BATCH]):
            pass


def job(engine: Engine, steps: int, kind: str, said: list[str]) -> None:
    """A job, up to the last picture that is written."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "rows.csv").write_text("prompt\n" + "".join(f"{prompt}\n" for prompt in said))
        (out / ".tmp").mkdir()
        results = Results(out / NAME)
        manifest, expansion = open_manifest(out / "rows.csv"), Expansion(given={"steps": steps, "seed": 1})
        maker = Maker(engine.limits, cache(engine.model.hash), engine.decoder, kind)
        parts = groups(items(expansion.wanted(manifest), maker), MOST_BATCH)
        books = Books(results, Folders(out, out / ".tmp", kind), Tally(len(said)), lambda tally, last: None, lambda bad: sys.exit(bad.error), format=kind)
        run(parts, [partial(make, engine)], books)
        results.close()
        if books.tally.made != len(said):
            sys.exit(f"{books.tally.made} of {len(said)} pictures were made")


def loop(engine: Engine, steps: int, kind: str, said: list[str]) -> None:
    """What one would write in Python."""
    with tempfile.TemporaryDirectory() as folder:
        for number, prompt in enumerate(said):
            engine.generate(Request(prompt, 1, steps)).save(Path(folder) / f"{number}{FORMATS[kind].suffixes[0]}")


def measure(engine: Engine, steps: int, kind: str, count: int, rounds: int) -> dict[str, Series]:
    """The seconds of each contestant."""
    contestants: dict[str, Callable[[list[str]], None]] = {
        "engine": partial(alone, engine, steps),
        "job": partial(job, engine, steps, kind),
        "loop": partial(loop, engine, steps, kind),
    }
    fresh = prompts(count)
    return interleave(contestants, lambda: {name: next(fresh) for name in contestants}, rounds)


def end(engine: Engine, steps: int, count: int) -> float:
    """Seconds that the page and the contact sheet of ``count`` pictures take."""
    from fewstep.batch import gallery

    pictures = list(engine.generate_many([Request("a fox", seed, steps) for seed in range(min(count, MOST_BATCH))]))
    with tempfile.TemporaryDirectory() as folder:
        content = pictures[0].save(Path(folder) / "one.png").read_bytes()
    lines = [{"index": one, "row": one + 1, "path": "one.png", "prompt": "a fox", "width": pictures[0].width} for one in range(count)]
    began = time.perf_counter()
    gallery.page(gallery.spread(lines, count, gallery.MOST), "end", count, lambda line: content)
    gallery.contact_sheet(gallery.spread(lines, count, gallery.SHEET_PICTURES), lambda line: content)
    return time.perf_counter() - began


def main(arguments: list[str]) -> int:
    """Run what was asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures: to see that it works")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--steps", default="1,4", help="step counts, with commas between")
    parser.add_argument("--decoders", default="full,tiny")
    parser.add_argument("--format", default="png", choices=list(FORMATS), help="of the files that a job and a loop write")
    parser.add_argument("--pictures", type=int, default=64, help="of each contestant in a round; a multiple of eight")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path, default=None, help="where the figures go")
    options = parser.parse_args(arguments)
    count, rounds = (MOST_BATCH, 1) if options.quick else (options.pictures, options.rounds)
    others, rows, bars = Others(), list[dict[str, Any]](), list[Bar]()
    device, threads = "cpu", os.cpu_count() or 1
    for decoder in options.decoders.split(","):
        engine = Engine.load(options.model, decoder=decoder, device=options.device)
        device, threads = engine.backend.device, engine.backend.threads
        for steps in map(int, options.steps.split(",")):
            taken = measure(engine, steps, options.format, count, rounds)
            of_engine, of_loop = ratio(taken["engine"], taken["job"]), ratio(taken["loop"], taken["job"])
            a_second = {name: round(count / series.median, 3) for name, series in taken.items()}
            rows.append({"decoder": decoder, "steps": steps, "pictures_a_second": a_second, "of_engine": round(of_engine, 4), "of_loop": round(of_loop, 4)})
            print(
                f"{decoder} decoder, {steps} steps: {a_second['job']:.2f} pictures/s, {of_engine:.3f} of the engine's own, {of_loop:.3f} of a loop's",
                flush=True,
            )
            bars.append(Bar(f"{decoder}, {steps} steps: of the engine's own", of_engine, OF_ENGINE))
            bars += [Bar(f"{decoder}, {steps} steps: of a loop's", of_loop, OF_LOOP)] if device != "cpu" else []
    finish = end(engine, 1, gallery_pictures := 100 if options.quick else 2000)
    machine = describe(device, threads) | {"others": others.cores()}
    settings = {
        "date": datetime.now(UTC).date().isoformat(),
        "model": options.model,
        "quick": options.quick,
        "format": options.format,
        "pictures": count,
        "rounds": rounds,
    }
    told = [{"name": bar.name, "value": round(bar.value, 4), "needed": bar.needed, "met": bar.met} for bar in bars]
    content = {
        "format": 1,
        "machine": machine,
        "settings": settings,
        "rows": rows,
        "end": {"pictures": gallery_pictures, "seconds": round(finish, 3)},
        "bars": told,
    }
    file = options.json or (None if options.quick else RESULTS / f"{machine['kind']}.json")
    return close(content, bars, file, machine["others"], f"the end of a job takes {finish:.1f} s; ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
