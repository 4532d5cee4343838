"""Evaluating a model's folder: the drawings, the judge and the rows brought together. What ``fewstep evaluate`` calls."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from fewstep.data.emoji import Dials, World
from fewstep.data.subjects import read_subjects
from fewstep.engine.device import best_device
from fewstep.engine.model import open_model
from fewstep.engine.output import STDOUT, check_writable, put_json
from fewstep.evals.judge import JUDGE, load_judge
from fewstep.evals.prompts import GROUPS, ambiguous, held_out
from fewstep.evals.report import Report, evaluate
from fewstep.evals.rows import rows_for
from fewstep.evals.table import student_of
from fewstep.models.bundle import load_bundle
from fewstep.models.weights import WeightsError
from fewstep.stamp import file_hash

ASKED = {"places": ("place", 0.4), "paints": ("repaint", 0.2)}  # by what words.json has of a model that was taught it: the dial and its share of prompts


def world_of(words: dict[str, list[str]], source: Path, where: Path) -> World:
    """The world that a model is asked about: its subjects, by its words.json and drawn from ``source``; places and repainted subjects where it
    was taught any, in shares that do not depend on the recipe.

    Raises WeightsError if the model names no subjects, or one that the source does not draw.
    """
    drawn = {subject.name: subject for subject in read_subjects(source)}
    names = words.get("subjects", [])
    if not names:
        raise WeightsError(f"{where} does not say what it draws (no subjects in words.json): give a model that fewstep trained")
    missing = [name for name in names if name not in drawn]
    if missing:
        raise WeightsError(f"{source} does not draw {missing[0]!r} and {len(missing) - 1} more of the subjects: give another --source")
    return World(tuple(drawn[name] for name in names), Dials(**{dial: share for taught, (dial, share) in ASKED.items() if words.get(taught)}))


def run(folder: Path, source: Path | None = None, json: Path | None = None, html: Path | None = None, count: int = 500, precision: str = "auto") -> Report:
    """Measure the model in ``folder`` and all its students over ``count`` prompts, computed in ``precision``, print the table, and write it where asked.

    Raises FileNotFoundError or RequestError, before any work, if there are no drawings or an output cannot be written.
    """
    if source is None:
        raise FileNotFoundError("evaluate compares with real renders: give their drawings, --source FOLDER of googlefonts/noto-emoji")
    check_writable("--json", json)
    check_writable("--html", html)
    bundle, device = load_bundle(folder), best_device()
    world = world_of(bundle.words, source, folder)
    judge = load_judge(Path(folder) / JUDGE, device)
    about = {
        "model": Path(folder).name,
        "teacher": bundle.hash,
        **{student_of(steps): file_hash(path) for steps, path in sorted(open_model(str(folder)).students.items())},
        "judge": file_hash(Path(folder) / JUDGE),
        "precision": precision,
        "machine": f"{device}; {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
    }
    with Progress(console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(row: str, done: int, total: int) -> None:
            if row not in tasks:
                tasks[row] = bars.add_task(row, total=total)
            bars.update(tasks[row], completed=done)

        questions, more = held_out(world, count), ambiguous(world)
        rows = rows_for(folder, world, device, precision=precision)
        report = evaluate(rows, questions, judge, world, ambiguous=more, groups=GROUPS, about=about, progress=progress)
    report.print(sys.stderr if json == STDOUT else sys.stdout)
    if json:
        put_json(report.to_dict(), json)
    if html:
        report.to_html(html)
    return report
