"""One call of ``fewstep batch``: check, load, make what is missing, and leave a folder that can be looked at."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.batch import dry, gallery
from fewstep.batch.expand import Expansion
from fewstep.batch.fields import parse_settings
from fewstep.batch.local import Books, Stopped
from fewstep.batch.local import run as run_here
from fewstep.batch.make import make
from fewstep.batch.manifest import Manifest, open_manifest
from fewstep.batch.multiply import parse_aspects, parse_seeds, sizes_of
from fewstep.batch.options import Options
from fewstep.batch.output import Output, Place, is_bucket, opened
from fewstep.batch.parts import load_engine, parts_of
from fewstep.batch.progress import Tally, duration, json_line, reports, size
from fewstep.batch.score import later, scorer
from fewstep.batch.spill import SpillError
from fewstep.batch.store import Store
from fewstep.engine.model import open_model
from fewstep.engine.output import STDOUT, put_json
from fewstep.engine.request import Limits, RequestError
from fewstep.engine.run import DONE, INTERRUPTED, SOME_FAILED, beside, waiting
from fewstep.engine.where import HERE

if TYPE_CHECKING:
    from fewstep.engine.engine import Engine


def run(options: Options) -> int:
    """Do what ``options`` ask for. Returns the exit code. Raises RequestError and what opening a model raises, before anything is made."""
    manifest = open_manifest(options.manifest)
    limits = open_model(options.model, options.steps, options.base, options.few_step).limits
    expansion = expansion_of(options, limits)
    if manifest.columns is not None:
        expansion.check(manifest.columns)
    if options.parquet:
        import pyarrow  # noqa: F401 - whoever lacks it hears so before anything is made
    if options.on != HERE:
        from fewstep.engine.cluster import reach

        reach(options.on)
    total = expansion.count(manifest)
    if not total:
        raise RequestError(f"{manifest.path} holds no rows: give at least one")
    try:
        return _estimate(options, manifest, expansion) if options.dry_run else _work(options, manifest, expansion, total)
    except (Stopped, SpillError) as stopped:
        print(f"fewstep: {stopped}", file=sys.stderr)
        return SOME_FAILED


def expansion_of(options: Options, limits: Limits) -> Expansion:
    """How the rows become requests. Says on stderr which shapes are one size to this model."""
    sizes = sizes_of(parse_aspects(options.aspects), limits)
    for (width, height), aspects in sizes.items():
        if " and " in aspects:
            print(f"note: {aspects} are one size to {limits.name}, {width}x{height}: it is made once", file=sys.stderr)
    given = parse_settings(list(options.settings))
    return Expansion(options.template, options.combine, tuple(sizes), parse_seeds(options.seeds), given, options.keep)


def load(options: Options) -> list[Engine]:
    """An engine for each device. Raises what Engine.load raises."""
    devices = options.device.split(",") if options.device else [None]
    with waiting(f"loading {options.model}"):
        return [load_engine(options, device=device) for device in devices]


def _estimate(options: Options, manifest: Manifest, expansion: Expansion) -> int:
    engine = load(options)[0]
    found = dry.survey(parts_of(options, manifest, expansion, engine.limits, engine.model))
    for bad in found.failed:
        print(f"fewstep: line {bad.line}: {bad.error}", file=sys.stderr)
    told = dry.said(dry.measure(engine, found, options.format), None if is_bucket(options.out) else Path(options.out))
    if options.json == STDOUT:
        json_line("estimate", told)
    else:
        print(*dry.lines(told), sep="\n")
        if options.json is not None:
            put_json(told, options.json)
    return SOME_FAILED if found.failures else DONE


def _work(options: Options, manifest: Manifest, expansion: Expansion, total: int) -> int:
    with opened(options.out, manifest.path, options.identity(manifest)) as output:
        tally = Tally(total)
        place = Place(options.out, options.format, options.tars, total)
        try:
            with reports(options.json == STDOUT, options.metrics) as (report, fail):
                books = Books(output.results, place.store(output.scratch), tally, report, fail, options.strict, options.format)
                try:
                    carry_out = _here if options.on == HERE else _on_ray
                    carry_out(options, manifest, expansion, place, books)
                finally:
                    report(tally, True)
            _note_who(books)
            _finish(options, output, books.store, total)
        except KeyboardInterrupt:
            print(f"fewstep: interrupted; {tally.done} of {total} pictures are finished, and the same command goes on", file=sys.stderr)
            return INTERRUPTED
    _tell(options, tally)
    return SOME_FAILED if tally.failed else DONE


def _here(options: Options, manifest: Manifest, expansion: Expansion, place: Place, books: Books) -> None:
    """Make what is missing on this machine."""
    engines = load(options)
    books.score = scorer(options.score, engines[0].model.folder)
    books.tally.restart()
    run_here(parts_of(options, manifest, expansion, engines[0].limits, engines[0].model), [partial(make, engine) for engine in engines], books)


def _note_who(books: Books) -> None:
    """Say on stderr where others computed what was there than what is new: a compiler for C has come or gone, for one."""
    others = sorted(books.kept_of - books.made_of - {""})
    if others and books.made_of:
        news = ", ".join(sorted(books.made_of))
        print(f"note: pictures that were there were computed by {', '.join(others)}, the new ones by {news}: they may differ in the last bits", file=sys.stderr)


def _on_ray(options: Options, manifest: Manifest, expansion: Expansion, place: Place, books: Books) -> None:
    """Make what is missing on a Ray cluster. This process keeps the books."""
    from fewstep.batch.ray import Plan, carried_out
    from fewstep.engine.cluster import connected

    plan = Plan.of(options, manifest, expansion, place, books.results.path)
    books.score = later(options.score, open_model(options.model, options.steps, options.base, options.few_step).folder)  # of what was there before
    with connected(options.on) as cluster:
        books.tally.restart()
        beside(books.enter, carried_out(plan, cluster))


def _finish(options: Options, output: Output, store: Store, total: int) -> None:
    """What is left when all is made: the results in their order, the page, the sheet, the table. Raises Stopped where there is no room."""
    results, out = output.results, output.name
    try:
        results.finish(output.scratch)
        count = sum(1 for _ in results.lines())
        shown = gallery.spread(results.lines(), count, gallery.MOST)
        output.put(gallery.PAGE, gallery.page(shown, gallery.named(out), count, store.read).encode())
        sheet = gallery.contact_sheet(gallery.spread(results.lines(), count, gallery.SHEET_PICTURES), store.read)
        if sheet is not None:
            output.put(gallery.SHEET, sheet)
        if options.parquet:
            from fewstep.batch.table import NAME as TABLE
            from fewstep.batch.table import write_table

            output.take(TABLE, write_table(results.lines(), output.scratch / TABLE))
    except OSError as error:
        raise Stopped(f"the pictures are finished, and {out} cannot be written ({error.strerror or error}): put that right and give the same command") from None


def _tell(options: Options, tally: Tally) -> None:
    """The end in one line, or as JSON."""
    told = tally.said()
    if options.json == STDOUT:
        return json_line("summary", {"out": options.out, **told})
    before = f", {tally.kept} were there" if tally.kept else ""
    failed = f", {tally.failed} failed" if tally.failed else ""
    made = f"{tally.made} made in {duration(tally.seconds)} ({tally.rate:.2f}/s, {size(tally.bytes)})"
    print(f"{options.out}  {tally.done} of {tally.total} pictures: {made}{before}{failed}")
    if options.json is not None:
        put_json({"out": options.out, **told}, options.json)
