"""A run's film: the same prompts and seeds at every look, one column for each number of steps, under a slider of training time. Loads no torch.

DIR/film/film.json        the prompts, and how many steps the teacher takes
DIR/film/teacher.jpg      the teacher's pictures, one above the other
DIR/film/start-N.jpg      what N steps make before anything is learnt
DIR/film/PHASE-U.jpg      what the student makes after U updates of a phase
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewstep.distill.kept import read_record
from fewstep.distill.state import write_text
from fewstep.distill.watch.curves import read_lines
from fewstep.distill.watch.status import duration
from fewstep.engine.files import write_bytes

FOLDER, INDEX, TEACHER = "film", "film.json", "teacher"
SIDE = 128  # pixels, of a picture's longer side
MOST = 24  # frames of a column that the page holds

STYLE = """
.film { display: grid; grid-template-columns: minmax(4.6rem, 9rem) repeat(var(--columns), minmax(3.2rem, 8rem)); gap: .4rem; overflow-x: auto; }
.film figure { display: grid; grid-template-rows: auto 1fr; }
.film figcaption { font-size: .8rem; white-space: nowrap; margin: 0 0 .3rem; color: var(--ink); border-bottom: 2px solid transparent; }
.film .now figcaption { border-color: var(--good); }
.film ol { list-style: none; margin: 1.7rem 0 0; padding: 0; display: grid; grid-auto-rows: 1fr; height: 0; min-height: calc(100% - 1.7rem); }
.film li { display: flex; align-items: center; min-height: 0; overflow: hidden; color: var(--soft); font-size: clamp(.62rem, 2.2vw, .8rem); line-height: 1.15; }
.film img { border-radius: 4px; }
.reel { display: flex; flex-wrap: wrap; align-items: center; gap: .8rem; margin: .8rem 0; }
.reel input { flex: 1 1 16rem; accent-color: var(--good); }
.reel output { flex: 1 1 18rem; font-variant-numeric: tabular-nums; color: var(--soft); }
.reel button { font: inherit; color: inherit; background: none; border: 1px solid var(--soft); border-radius: 6px; padding: .25rem .8rem; }
"""

SCRIPT = """
{
  const film = JSON.parse(document.getElementById("film-frames").textContent);
  const slider = document.getElementById("film-time"), said = document.getElementById("film-said"), play = document.getElementById("film-play");
  const show = () => {
    const at = Number(slider.value), moment = film.moments[at];
    said.textContent = slider.ariaValueText = moment.said;
    for (const [steps, frames] of Object.entries(film.columns)) {
      const figure = document.getElementById("film-" + steps);
      figure.querySelector("img").src = frames.filter(([since]) => since <= at).at(-1)[1];
      figure.classList.toggle("now", steps === moment.steps);
    }
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  const step = () => { if (Number(slider.value) >= Number(slider.max)) return stop(); slider.value = Number(slider.value) + 1; show(); };
  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    show();
    timer = setInterval(step, 250);
    play.textContent = "Pause";
  });
  show();
}
"""


@dataclass(frozen=True)
class Frame:
    """The pictures of one column from a moment on."""

    seconds: float  # of training before it
    steps: int
    said: str
    path: Path


def write_index(folder: Path, prompts: Sequence[str], teacher_steps: int) -> None:
    """Begin the film of the run in ``folder``."""
    (folder / FOLDER).mkdir(exist_ok=True)
    write_text(folder / FOLDER / INDEX, json.dumps({"prompts": list(prompts), "teacher_steps": teacher_steps}))


def frame_path(folder: Path, name: str, update: int | None = None) -> Path:
    """Where a frame lies: of a phase after ``update`` updates, or one that has none."""
    return folder / FOLDER / (f"{name}.jpg" if update is None else f"{name.replace('/', '-')}-{update}.jpg")


def write_frame(pictures: np.ndarray, path: Path) -> None:
    """Pictures [P, H, W, 3], one above the other, as a JPEG file; nothing where the film has no index."""
    if not (path.parent / INDEX).is_file():
        return
    write_bytes(path, stacked(pictures))


def stacked(pictures: np.ndarray, side: int = SIDE) -> bytes:
    """Pictures, uint8 [P, H, W, 3], one above the other with so many pixels on their longer ``side``: a JPEG file's content."""
    height, width = pictures.shape[1:3]
    size = round(width * side / max(height, width)), round(height * side / max(height, width))
    column = np.concatenate([np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)) for picture in pictures])
    stream = io.BytesIO()
    Image.fromarray(column).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def frames(folder: Path) -> list[Frame]:
    """The frames that the run in ``folder`` has, by time: those before training first."""
    found = [(int(path.stem.partition("-")[2]), path) for path in (folder / FOLDER).glob("start-*.jpg")]
    shown = [Frame(0.0, steps, "before training", path) for steps, path in sorted(found, reverse=True)]
    for line in read_lines(folder / "health.jsonl"):
        path = frame_path(folder, line["phase"], line["update"])
        if path.is_file() and "seconds" in line:
            stage, _, phase = line["phase"].partition("/")
            before, _, steps = stage.partition("to")
            shown.append(Frame(line["seconds"], int(steps), f"{before} to {steps} steps, {phase}, update {line['update']}", path))
    return shown


def film(folder: Path) -> str:
    """The film as HTML with all it needs inside; empty where the run has none."""
    about = read_record(folder / FOLDER / INDEX)
    shown = frames(folder) if about else []
    if not about or not shown:
        return ""
    columns: dict[int, list[Frame]] = {}
    for frame in shown:
        columns.setdefault(frame.steps, []).append(frame)
    columns = {steps: _thinned(of) for steps, of in sorted(columns.items(), reverse=True)}
    moments = sorted((frame for of in columns.values() for frame in of if frame.seconds), key=lambda frame: frame.seconds)
    told = [{"said": "before training", "steps": ""}]
    told += [{"said": f"{duration(frame.seconds)}: {frame.said}", "steps": str(frame.steps)} for frame in moments]
    place = {frame.path: number for number, frame in enumerate(moments, start=1)}
    data = {"moments": told, "columns": {str(steps): [[place.get(frame.path, 0), source(frame.path)] for frame in of] for steps, of in columns.items()}}
    return _document(about, columns, data, len(told) - 1)


def _document(about: Mapping[str, Any], columns: Mapping[int, Sequence[Frame]], data: Mapping[str, Any], last: int) -> str:
    shot = next(iter(columns.values()))[0].path.with_name(f"{TEACHER}.jpg")
    teacher = column(TEACHER, "teacher", f"by the teacher in {about['teacher_steps']} steps", source(shot))
    names = {steps: f"{steps} step{'s' * (steps > 1)}" for steps in columns}
    students = [column(str(steps), names[steps], f"in {names[steps]}", source(of[-1].path)) for steps, of in columns.items()]
    prompts = "".join(f"<li>{escape(prompt)}</li>" for prompt in about["prompts"])
    # "<" could end the element that the data stands in
    content = json.dumps(data).replace("<", "\\u003c")
    return (
        f"<style>{STYLE}</style>\n<h2>The film, the same prompts and seeds</h2>\n"
        f'<div class="film" style="--columns:{len(columns) + 1}"><ol>{prompts}</ol>{teacher}{"".join(students)}</div>\n'
        f'<div class="reel"><button type="button" id="film-play">Play</button>'
        f'<input type="range" id="film-time" aria-label="training time" min="0" max="{last}" value="{last}" step="1"><output id="film-said"></output></div>\n'
        f'<script type="application/json" id="film-frames">{content}</script>\n<script>{SCRIPT}</script>'
    )


def column(name: str, heading: str, made: str, shot: str) -> str:
    """A column of the film as HTML, whose pictures were ``made`` in that way; ``shot`` is what :func:`source` gives."""
    return f'<figure id="film-{name}" title="{made}"><figcaption>{heading}</figcaption><img alt="pictures made {made}" src="{shot}"></figure>'


def source(path: Path) -> str:
    """A JPEG file as the address of an image in a page; empty where there is none."""
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""


def _thinned(of: Sequence[Frame]) -> list[Frame]:
    """At most MOST frames, evenly over the column's, the first and the last among them."""
    if len(of) <= MOST:
        return list(of)
    return [of[round(number * (len(of) - 1) / (MOST - 1))] for number in range(MOST)]
