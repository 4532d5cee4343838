"""A run's report as one page of HTML, made from what lies in its folder: film, lights, samples and curves. Asks for nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fewstep.distill.outline import Part, read_outline
from fewstep.distill.watch.chart import chart
from fewstep.distill.watch.curves import curves, read_lines, reference
from fewstep.distill.watch.evaluation_page import section
from fewstep.distill.watch.film import film
from fewstep.distill.watch.status import duration, read_status
from fewstep.evals.page import document, table

REPORT = "report.html"


@dataclass(frozen=True)
class Panel:
    """A curve of the page."""

    key: str  # "turn/metric"
    title: str
    note: str
    log: bool = False
    shown: tuple[float, ...] = ()  # what the axis covers in any case


PANELS = (
    Panel("student/loss", "The student's loss", "by phase: mean squared errors, then softplus(-l̂), which is 0.69 where the critic can only guess", log=True),
    Panel("critic/distance", "Distance to the teacher", "rms, where a jump lands; what counts in the end is that this does not grow in a contest", log=True),
    Panel("critic/right", "The critic's accuracy", "share of right answers; 0.5 is guessing, near 1 it has won and teaches nothing", shown=(0.4, 1.0)),
    Panel("critic/loss", "The critic's loss", "guessing costs 1.39; 0.69 where it is relativistic, 2 by method add", shown=(1.0, 1.6)),
    Panel("contest/gradients", "The student's gradient norm over the critic's", "before clipping", log=True),
    Panel("critic/spread", "Deviation of the student's latents over the teacher's", "where a jump lands; 1 is the teacher's contrast", shown=(0.9, 1.1)),
    Panel("look/endpoint", "Distance of finished latents", "from the same prompts and seeds, over the teacher's deviation", log=True),
    Panel("look/diversity", "Diversity", "distance between seeds of a prompt, over the teacher's; much under 1, and all seeds draw the same", shown=(0.0, 1.1)),
    Panel("look/band1", "Power in the finest details", "of the latents' spectrum, over the teacher's; under 1 is blur, over 1 is grain", shown=(0.0, 1.1)),
    Panel("look/spread", "Deviation of finished latents", "over the teacher's", shown=(0.9, 1.1)),
)
MARKS = {"green": "met", "yellow": "", "red": "missed"}  # the classes that the evaluation's page has


def report(folder: Path) -> str:
    """The page of the run in ``folder``. Raises RecipeError where there is none."""
    status, parts = read_status(folder), read_outline(folder)
    metrics = list(read_lines(folder / "metrics.jsonl"))
    spans = _spans(parts, metrics)
    own = curves(metrics, read_lines(folder / "health.jsonl"), {name: int(span) for name, span in spans.items()})
    lights = status["lights"]
    body = [film(folder)]
    body += [_lights(lights)] if lights else []
    body += [section(folder)]
    body += [_samples(folder / "samples", list(spans))] if (folder / "samples").is_dir() else []
    body += [_panels(spans, own)]
    return document(f"fewstep: {folder.resolve().name}", f"How {folder.resolve().name} is doing", _about(status), "\n".join(body))


def _spans(parts: Sequence[Part], metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Updates of each phase: all that the run will have where its outline is known, else those that are there."""
    spans = {part.name: float(part.updates) for part in parts}
    for line in metrics:
        spans[line["phase"]] = max(spans.get(line["phase"], 0.0), float(line["update"]))
    return spans


def _about(status: Mapping[str, Any]) -> dict[str, str]:
    about = {"state": status["state"], "phase": status["phase"] or "all done", "time so far": duration(status["seconds"])}
    if status["phase"] and status["updates"]:
        about["updates"] = f"{status['update']} of {status['updates']}"
    if status.get("pictures_per_second"):
        about["pace"] = f"{status['pictures_per_second']:.1f} pictures/s"
    if status.get("seconds_left"):
        about["left"] = duration(status["seconds_left"])
    return about | ({"why": status["why"]} if status["why"] else {})


def _lights(lights: Sequence[Mapping[str, Any]]) -> str:
    rows = [[light["name"], light["colour"], f"{light['value']:.3g}", light["advice"]] for light in lights]
    return f"<h2>Lights</h2>\n{table(['what', 'light', 'value', 'advice'], rows, MARKS)}"


def _samples(folder: Path, phases: Sequence[str]) -> str:
    """Strips of the same prompts and seeds: in each stage its teacher's, then the student's after each phase."""
    shown: list[str] = []
    for stage in dict.fromkeys(name.split("/")[0] for name in phases):
        names = [f"{stage}-teacher", *(name.replace("/", "-") for name in phases if name.split("/")[0] == stage)]
        strips = [(name, folder / f"{name}.jpg") for name in names]
        shown += [_strip(name.removeprefix(f"{stage}-"), path, stage) for name, path in strips if path.is_file()]
    return f'<h2>Samples, the same prompts and seeds</h2>\n<div class="grid" style="--cell:18rem">{"".join(shown)}</div>' if shown else ""


def _strip(name: str, path: Path, stage: str) -> str:
    source = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
    said = escape(f"{stage}  {name}")
    return f'<figure><img alt="{said}" src="{source}"><figcaption>{said}</figcaption></figure>'


def _panels(spans: Mapping[str, float], own: Mapping[str, Mapping[str, Any]]) -> str:
    drawn = []
    for panel in PANELS:
        mine, behind = ({name: of[panel.key] for name, of in source.items() if panel.key in of} for source in (own, reference()))
        if mine:
            figure = chart(panel.title, spans, mine, behind, panel.log, panel.shown)
            drawn.append(f"<h2>{escape(panel.title)}</h2>\n<p>{escape(panel.note)}</p>\n{figure}")
    note = "<p>Pale: the run that made the embedded students, where it has a phase of the same name. A phase says its name under the pointer.</p>"
    return "\n".join([note, *drawn]) if drawn else ""
