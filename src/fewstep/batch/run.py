"""One call of ``fewstep batch``: check, load, make what is missing, and leave a folder that can be looked at."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.batch import dry, gallery
from fewstep.batch.expand import COMBINE, Bad, Expansion
from fewstep.batch.fields import parse_settings
from fewstep.batch.job import job_folder
from fewstep.batch.local import Books, Stopped
from fewstep.batch.local import run as run_here
from fewstep.batch.make import make
from fewstep.batch.manifest import Manifest, open_manifest
from fewstep.batch.multiply import parse_aspects, parse_seeds, sizes_of
from fewstep.batch.plan import Group, Maker, groups, items
from fewstep.batch.progress import Tally, duration, json_line, reports, size
from fewstep.batch.results import NAME, Results
from fewstep.batch.score import SCORES, judged
from fewstep.batch.store import Folders, Store, Tars, put
from fewstep.engine.files import DEFAULT, FORMATS, write_bytes
from fewstep.engine.model import check_choice, open_model
from fewstep.engine.request import MOST_BATCH, Limits, RequestError
from fewstep.engine.run import DONE, INTERRUPTED, SOME_FAILED, waiting

if TYPE_CHECKING:
    from fewstep.engine.engine import Engine

STDOUT = Path("-")
PROMPTS = 1024  # whose embeddings are kept: the same words come back row after row


@dataclass(frozen=True)
class Options:
    """What was asked for. ``tars`` is the number of pictures in one, None for folders; ``json`` "-" is lines on stdout."""

    manifest: Path
    out: Path
    model: str = "emoji"
    base: str | None = None
    few_step: str | None = None
    steps: int | None = None
    backend: str = "auto"
    decoder: str = "full"
    device: str | None = None
    template: str | None = None
    combine: str = "zip"
    aspects: str | None = None
    seeds: str | None = None
    settings: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    format: str = DEFAULT
    batch: int = MOST_BATCH
    tars: int | None = None
    score: str | None = None
    parquet: bool = False
    strict: bool = False
    dry_run: bool = False
    json: Path | None = None
    metrics: Path | None = None

    def __post_init__(self) -> None:
        """Raises RequestError on what no manifest could be made with."""
        if re.match(r"[a-z0-9]+:/", str(self.out)):
            raise RequestError(f"--out {self.out}: a job writes to a folder of this machine; copy it from there when it is done")
        check_choice("--format", self.format, tuple(FORMATS))
        check_choice("--combine", self.combine, COMBINE)
        if self.score is not None:
            check_choice("--score", self.score, SCORES)
        if not 1 <= self.batch <= MOST_BATCH:
            raise RequestError(f"--batch {self.batch}: give a number from 1 to {MOST_BATCH}")
        if self.tars is not None and self.tars < 1:
            raise RequestError(f"--tars {self.tars}: give the number of pictures in one, such as 1000")
        for option, path in (("--json", self.json), ("--metrics", self.metrics)):
            if path is not None and path != STDOUT and not path.absolute().parent.is_dir():
                raise RequestError(f"{option} {path}: there is no folder {path.absolute().parent}; make it, or name another file")

    def identity(self, manifest: Manifest) -> dict[str, Any]:
        """All that the pictures of the job and their places depend on."""
        names = ("template", "combine", "aspects", "seeds", "settings", "keep", "model", "base", "few_step", "steps", "decoder", "format", "batch", "tars")
        return {"manifest": manifest.hash(), **{name: value for name, value in asdict(self).items() if name in names}}


def run(options: Options) -> int:
    """Do what ``options`` ask for. Returns the exit code. Raises RequestError and what opening a model raises, before anything is made."""
    manifest = open_manifest(options.manifest)
    limits = open_model(options.model, options.steps, options.base, options.few_step).limits
    expansion = expansion_of(options, limits)
    if manifest.columns is not None:
        expansion.check(manifest.columns)
    if options.parquet:
        import pyarrow  # noqa: F401 - whoever lacks it hears so before anything is made
    total = expansion.count(manifest)
    if not total:
        raise RequestError(f"{manifest.path} holds no rows: give at least one")
    try:
        return _estimate(options, manifest, expansion) if options.dry_run else _work(options, manifest, expansion, total)
    except Stopped as stopped:
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


def parts_of(options: Options, manifest: Manifest, expansion: Expansion, engine: Engine) -> Iterator[Group | Bad]:
    """The groups of a job, one after another: a function of the manifest, the model and the options."""
    maker = Maker(engine.limits, cache(engine.model.hash), engine.decoder, options.format)
    return groups(items(expansion.wanted(manifest), maker), options.batch)


def load(options: Options) -> list[Engine]:
    """An engine for each device. Raises what Engine.load raises."""
    from fewstep.engine.engine import Engine

    names = ("model", "steps", "decoder", "backend", "base", "few_step")
    devices = options.device.split(",") if options.device else [None]
    with waiting(f"loading {options.model}"):
        engines = [Engine.load(device=device, **{name: getattr(options, name) for name in names}) for device in devices]
    for engine in engines:
        engine.remembered = PROMPTS
    return engines


def _estimate(options: Options, manifest: Manifest, expansion: Expansion) -> int:
    engine = load(options)[0]
    found = dry.survey(parts_of(options, manifest, expansion, engine))
    for bad in found.failed:
        print(f"fewstep: line {bad.line}: {bad.error}", file=sys.stderr)
    told = dry.said(dry.measure(engine, found, options.format), options.out)
    if options.json == STDOUT:
        json_line("estimate", told)
    else:
        print(*dry.lines(told), sep="\n")
        _write_json(options.json, told)
    return SOME_FAILED if found.failures else DONE


def _work(options: Options, manifest: Manifest, expansion: Expansion, total: int) -> int:
    with job_folder(options.out, manifest.path, options.identity(manifest)) as scratch:
        results = Results(options.out / NAME)
        tally = Tally(total)
        try:
            engines = load(options)
            score = judged(engines[0].model.folder) if options.score else None
            store = store_of(options, scratch, total)
            tally = Tally(total)
            with reports(options.json == STDOUT, options.metrics) as (report, fail):
                books = Books(results, store, tally, report, fail, options.strict, options.format, score)
                try:
                    run_here(parts_of(options, manifest, expansion, engines[0]), [partial(make, engine) for engine in engines], books)
                finally:
                    report(tally, True)
            _finish(options, results, store, scratch, total)
        except KeyboardInterrupt:
            print(f"fewstep: interrupted; {tally.done} of {total} pictures are finished, and the same command goes on", file=sys.stderr)
            return INTERRUPTED
        finally:
            results.close()
    _tell(options, tally)
    return SOME_FAILED if tally.failed else DONE


def store_of(options: Options, scratch: Path, total: int) -> Store:
    """Folders, or tars where they were asked for."""
    if options.tars is None:
        return Folders(options.out, scratch, options.format)
    return Tars(options.out, scratch, options.format, options.tars, total)


def _finish(options: Options, results: Results, store: Store, scratch: Path, total: int) -> None:
    """What is left when all is made: the results in their order, the page, the sheet, the table. Raises Stopped where there is no room."""
    out = options.out
    try:
        results.finish(scratch)
        count = sum(1 for _ in results.lines())
        shown = gallery.spread(results.lines(), count, gallery.MOST)
        put(scratch, out / gallery.PAGE, gallery.page(shown, gallery.named(out), count, store.read).encode())
        sheet = gallery.contact_sheet(gallery.spread(results.lines(), count, gallery.SHEET_PICTURES), store.read)
        if sheet is not None:
            put(scratch, out / gallery.SHEET, sheet)
        if options.parquet:
            from fewstep.batch.table import NAME as TABLE
            from fewstep.batch.table import write_table

            write_table(results.lines(), out / TABLE, scratch)
    except OSError as error:
        raise Stopped(f"the pictures are finished, and {out} cannot be written ({error.strerror or error}): put that right and give the same command") from None


def _tell(options: Options, tally: Tally) -> None:
    """The end in one line, or as JSON."""
    told = tally.said()
    if options.json == STDOUT:
        return json_line("summary", {"out": str(options.out), **told})
    before = f", {tally.kept} were there" if tally.kept else ""
    failed = f", {tally.failed} failed" if tally.failed else ""
    made = f"{tally.made} made in {duration(tally.seconds)} ({tally.rate:.2f}/s, {size(tally.bytes)})"
    print(f"{options.out}  {tally.done} of {tally.total} pictures: {made}{before}{failed}")
    _write_json(options.json, {"out": str(options.out), **told})


def _write_json(path: Path | None, said: dict[str, Any]) -> None:
    if path is not None:
        write_bytes(path, (json.dumps(said, indent=1) + "\n").encode())
