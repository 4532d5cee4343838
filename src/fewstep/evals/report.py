"""The project's own measure of quality: a table, as text, JSON and one page, over whatever paints pictures."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import numpy as np

from fewstep.data.emoji import World
from fewstep.engine.files import write_bytes
from fewstep.evals.frechet import frechet, patch_features
from fewstep.evals.judge import Judge, look
from fewstep.evals.measure import Answers, Backgrounds, Seen, diversity_of, psnr, rms
from fewstep.evals.page import Sample, page
from fewstep.evals.prompts import Question
from fewstep.evals.sharpness import gradient_energies
from fewstep.evals.table import COLUMNS, RECONSTRUCTION, RENDERS, TEACHER, Bar, Result, bars, called

Row = Callable[[Sequence[Question], Sequence[int]], tuple[np.ndarray, float]]  # questions, seeds -> uint8 [N, H, W, 3], ms a picture
Progress = Callable[[str, int, int], None]  # row, pictures done, pictures in all
ELSEWHERE = 1 << 30  # added to the seeds of the renders that all rows are compared with: the renders' own row then shows the floor


@dataclass(frozen=True)
class Report:
    """The table, what it is about, and a few pictures of each row."""

    results: tuple[Result, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    samples: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)

    def bars(self) -> list[Bar]:
        """The bars that apply to the rows there are."""
        return bars(self.results)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as plain values. A figure that is not finite becomes None."""
        rows = [{key: _finite(value) for key, value in dataclasses.asdict(result).items()} for result in self.results]
        found = [{"name": bar.name, "value": _finite(bar.value), "needed": bar.needed, "met": bar.met} for bar in self.bars()]
        return {"about": dict(self.about), "rows": rows, "bars": found}

    def to_html(self, path: Path) -> None:
        """Write the page, whole or not at all: one file, pictures included, that asks for nothing else."""
        write_bytes(Path(path), page(self.results, self.bars(), self.about, self.samples).encode())

    def print(self, stream: TextIO | None = None) -> None:
        """The table and the bars; in a file or a pipe without colour and nothing cut off."""
        from rich.console import Console  # here, because training imports this module and needs no terminal

        stream = stream or sys.stdout
        plain: dict[str, Any] = {} if stream.isatty() else {"width": 1000, "color_system": None}
        console = Console(file=stream, highlight=False, **plain)
        figures = [[called(result.name), *(column.cell(result) for column in COLUMNS)] for result in self.results]
        _print(console, ["row", *(column.heading for column in COLUMNS)], figures)
        verdicts = [[bar.name, f"{bar.value:.3f}", f"{bar.needed:.2f}", "met" if bar.met else "not met"] for bar in self.bars()]
        _print(console, ["bar", "value", "needed", ""], verdicts)


def evaluate(
    rows: Mapping[str, Row],
    questions: Sequence[Question],
    judge: Judge,
    world: World,
    *,
    ambiguous: Sequence[Question] = (),
    groups: int = 1,
    seed: int = 0,
    batch: int = 16,
    keep: int = 16,
    about: Mapping[str, str] | None = None,
    progress: Progress = lambda row, done, total: None,
) -> Report:
    """Ask every row the same ``questions`` with the same seeds, ``seed`` onwards, ``batch`` at a time, and measure the answers.

    ``ambiguous`` questions serve diversity alone, and are asked with ``groups`` groups of seeds whose figures are averaged: which subjects
    come up among a few pictures is largely chance. The first ``keep`` pictures of each kind stay in the report. Columns relative to the
    teacher apply to the rows after it. Raises ValueError without a row "renders" or two questions, or on a subject unknown to the judge.
    """
    if RENDERS not in rows or len(questions) < 2:
        raise ValueError(f"{len(rows)} rows and {len(questions)} prompts: give a row {RENDERS!r} to compare with, and at least two prompts")
    work = _Work(questions, ambiguous, groups, judge, world, seed, batch, keep, progress)
    work.look_at_reference(rows[RENDERS])
    for name, row in rows.items():
        work.measure(name, row)
    asked = {"prompts": len(questions), "ambiguous prompts": len({q.text for q in ambiguous}), "groups of seeds for them": groups, "seed": seed}
    return Report(tuple(work.results.values()), {**{key: str(value) for key, value in asked.items()}, **(about or {})}, work.samples)


class _Work:
    """What the rows share while they are measured one after another."""

    def __init__(
        self,
        questions: Sequence[Question],
        ambiguous: Sequence[Question],
        groups: int,
        judge: Judge,
        world: World,
        seed: int,
        batch: int,
        keep: int,
        progress: Progress,
    ) -> None:
        self.questions, self.ambiguous, self.groups, self.judge = questions, ambiguous, groups, judge
        self.seed, self.batch, self.keep, self.progress = seed, batch, keep, progress
        self.answers, self.ambiguous_answers = Answers.of(questions, judge, world), Answers.of(ambiguous, judge, world)
        self.results: dict[str, Result] = {}
        self.samples: dict[str, tuple[Sample, ...]] = {}
        self.painted: dict[str, np.ndarray] = {}  # pictures that later rows are compared with

    def look_at_reference(self, renders: Row) -> None:
        pictures, _ = self.ask(renders, self.questions, self.seed + ELSEWHERE, lambda done: None)
        self.features, self.patches = look(self.judge, pictures).numpy(), patch_features(self.judge, pictures, self.seed)
        self.gradient = float(gradient_energies(pictures).mean())

    def ask(self, row: Row, questions: Sequence[Question], seed: int, done: Callable[[int], None], before: int = 0) -> tuple[np.ndarray, float]:
        """All answers, uint8 [N, H, W, 3], and the median over batches of the milliseconds a picture: the first batch warms up.

        After each batch ``done`` hears of the pictures so far, ``before`` among them.
        """
        pictures, times = [], []
        for start in range(0, len(questions), self.batch):
            part = questions[start : start + self.batch]
            answer, milliseconds = row(part, range(seed + start, seed + start + len(part)))
            pictures.append(answer)
            times.append(milliseconds)
            done(before + start + len(part))
        return np.concatenate(pictures), float(np.median(times))

    def measure(self, name: str, row: Row) -> None:
        total = len(self.questions) + self.groups * len(self.ambiguous)
        pictures, milliseconds = self.ask(row, self.questions, self.seed, lambda done: self.progress(name, done, total))
        seen = Seen.by(self.judge, pictures)
        hits, background = seen.hits(self.answers), Backgrounds.of(pictures, self.questions, seen, self.answers)
        self.samples[name] = self._samples(pictures, self.questions, seen, hits)
        distinct, precision = self._diversity(name, row, lambda done: self.progress(name, len(self.questions) + done, total))
        against = TEACHER in self.painted and name not in (RENDERS, RECONSTRUCTION)
        most = self.results[TEACHER].distinct if against else None
        gradient = float(gradient_energies(pictures).mean())
        repainted = hits[[bool(question.scene.paint) for question in self.questions], 0]
        self.results[name] = Result(
            name=name,
            pictures=len(pictures),
            top1=float(hits[:, 0].mean()),
            top5=float(hits.any(axis=1).mean()),
            repainted=float(repainted.mean()) if len(repainted) else None,
            background=background.both,
            background_judge=background.judged,
            background_pixels=background.pixels,
            frechet=frechet(seen.features, self.features),
            patch_frechet=frechet(patch_features(self.judge, pictures, self.seed), self.patches),
            gradient=gradient,
            sharpness=gradient / max(self.gradient, 1e-12),
            distinct=distinct,
            diversity=distinct / most if distinct is not None and most else None,
            precision=precision,
            distance=rms(pictures, self.painted[TEACHER]) if against else None,
            psnr=psnr(pictures, self.painted[RENDERS]) if name == RECONSTRUCTION and RENDERS in self.painted else None,
            milliseconds=milliseconds,
        )
        if name in (RENDERS, TEACHER):
            self.painted[name] = pictures

    def _diversity(self, name: str, row: Row, done: Callable[[int], None]) -> tuple[float | None, float | None]:
        if not self.ambiguous:
            return None, None
        found = []
        for before in range(0, self.groups * len(self.ambiguous), len(self.ambiguous)):
            pictures, _ = self.ask(row, self.ambiguous, self.seed + before, done, before)
            seen = Seen.by(self.judge, pictures)
            if not before:
                self.samples[name] += self._samples(pictures, self.ambiguous, seen, seen.hits(self.ambiguous_answers))
            found.append(diversity_of(self.ambiguous, seen, self.ambiguous_answers))
        return fmean(one.distinct for one in found), fmean(one.precision for one in found)

    def _samples(self, pictures: np.ndarray, questions: Sequence[Question], seen: Seen, hits: np.ndarray) -> tuple[Sample, ...]:
        names = [self.judge.subjects[int(subject)] for subject in seen.subjects[: self.keep, 0]]
        return tuple(Sample(pictures[i].copy(), questions[i].text, name, bool(hits[i, 0])) for i, name in enumerate(names))


def _print(console: Any, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
