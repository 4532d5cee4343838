"""The page of an evaluation: students and teacher side by side, a table, and curves over the run so far. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fewstep.distill.kept import read_kept, read_record
from fewstep.distill.outline import read_outline
from fewstep.distill.watch.chart import chart
from fewstep.distill.watch.film import STYLE, column, source
from fewstep.evals.figures import FIGURES
from fewstep.evals.page import document, table
from fewstep.evals.table import called

FOLDER, INDEX = "evaluation", "asked.json"
Line = Mapping[str, Any]  # of one evaluation: phase, update, at (updates of the run), steps, figures, best, seconds


def read(folder: Path, until: int | None = None) -> list[Line]:
    """The evaluations of the run in ``folder``, in order, those after its update ``until`` left out: a run that goes on may have lost them."""
    lines = [read_record(path) for path in (folder / FOLDER).glob("*.json") if path.name != INDEX]
    return sorted((line for line in lines if line and (until is None or line["at"] <= until)), key=lambda line: line["at"])


def page(folder: Path, until: int) -> str:
    """One page of HTML that asks for nothing else: the evaluations of the run in ``folder`` up to its update ``until``."""
    asked, lines = read_kept(folder / FOLDER / INDEX), read(folder, until)
    latest = lines[-1]
    about = {
        "evaluated": f"{latest['phase']}, update {latest['update']}",
        "took": f"{latest['seconds']:.1f} s",
        "prompts": str(len(asked["prompts"])),
        "teacher": f"{asked['teacher_steps']} steps, guidance {asked['guidance_scale']:g}",
    }
    notes = "".join(f"<p>{escape(sentence)}</p>" for sentence in asked["left_out"])
    names = [name for name in FIGURES if name in latest["figures"]]
    said = "".join(f"<li><b>{escape(FIGURES[name].heading)}</b>: {escape(FIGURES[name].note)}</li>" for name in names)
    body = [_table(asked, lines), notes, _pictures(folder, asked, lines), f"<ul>{said}</ul>", *_curves(folder, names, lines)]
    return document("fewstep: evaluation", f"{folder.resolve().name}: students beside their teacher", about, "\n".join(body))


def section(folder: Path) -> str:
    """The same in short, for the run's own page; empty where nothing has been evaluated yet."""
    lines, asked = read(folder), read_record(folder / FOLDER / INDEX)
    if not lines or not asked:
        return ""
    link = f"{FOLDER}/{_stem(lines[-1])}.html"
    return f'<h2>Evaluation</h2>\n{_table(asked, lines)}\n<p><a href="{escape(link)}">{len(asked["prompts"])} prompts, picture by picture</a></p>'


def _stem(line: Line) -> str:
    return f"{line['phase'].replace('/', '-')}-{line['update']}"


def _pictures(folder: Path, asked: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """A column for the teacher and one for the latest of each step count, prompts beside them."""
    latest = {line["steps"]: line for line in lines}
    made = f"by the teacher in {asked['teacher_steps']} steps"
    columns = [column("teacher", "teacher", made, source(folder / FOLDER / "teacher.jpg"))]
    for steps, line in sorted(latest.items(), reverse=True):
        name = called(str(steps))
        columns.append(column(str(steps), name, f"in {name}", source(folder / FOLDER / f"{_stem(line)}.jpg")))
    prompts = "".join(f"<li>{escape(prompt)}</li>" for prompt in asked["prompts"])
    return f'<style>{STYLE}</style>\n<div class="film" style="--columns:{len(columns)}"><ol>{prompts}</ol>{"".join(columns)}</div>'


def _table(asked: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """The teacher, each phase as last evaluated, and each step count's best."""
    names = [name for name in FIGURES if any(name in line["figures"] for line in lines)]
    best = {line["steps"]: _stem(line) for line in lines if line["best"]}  # the last that was found better than all before
    shown = {line["phase"]: line for line in lines}
    kept = [line for line in lines if best.get(line["steps"]) == _stem(line) or shown[line["phase"]] is line]
    rows = [["teacher", *_cells(asked["figures"], names), ""]]
    for line in sorted(kept, key=lambda line: (-line["steps"], line["at"])):
        mark = ", best" if best.get(line["steps"]) == _stem(line) else ""
        rows.append([f"{called(str(line['steps']))}: {line['phase']}, {line['update']}{mark}", *_cells(line["figures"], names), f"{line['seconds']:.1f}"])
    return table(["student: phase, update", *(FIGURES[name].heading for name in names), "seconds"], rows)


def _cells(figures: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [format(figures[name], FIGURES[name].format) if name in figures else "–" for name in names]


def _curves(folder: Path, names: Sequence[str], lines: Sequence[Line]) -> list[str]:
    spans = {part.name: float(part.updates) for part in read_outline(folder)}
    drawn = []
    for name in names:
        points: dict[str, list[list[float]]] = {}
        for line in lines:
            if name in line["figures"] and line["phase"] in spans:
                points.setdefault(line["phase"], []).append([line["update"] / spans[line["phase"]], line["figures"][name]])
        drawn.append(f"<h2>{escape(FIGURES[name].heading)}</h2>\n{chart(FIGURES[name].heading, spans, _joined(points), {})}")
    return drawn


def _joined(points: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[list[float]]]:
    """Curves by phase that begin where the phase of the same stage before ended, so that one evaluation a phase makes a line too."""
    curves: dict[str, list[list[float]]] = {}
    last: dict[str, float] = {}
    for phase, found in points.items():
        stage = phase.split("/")[0]
        begin = [[0.0, last[stage]]] if stage in last else []
        curves[phase] = [*begin, *(list(point) for point in found)]
        last[stage] = found[-1][1]
    return curves
