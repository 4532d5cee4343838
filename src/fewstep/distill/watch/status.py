"""How a run stands, read from another terminal. Loads no torch and writes nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.distill.kept import read_kept
from fewstep.distill.recipe import RecipeError
from fewstep.evals.figures import told
from fewstep.evals.table import called

STATUS = "status.json"
SAID = ("state", "why", "phase", "update", "updates", "pictures", "seconds", "lights", "time", "process", "host")  # what it has in it at least


def read_status(folder: Path) -> dict[str, Any]:
    """What the run in ``folder`` last said of itself, and whether its process still lives.

    ``state`` is running, stopped (by a rule or a signal), gone (without a word) or done. Raises RecipeError on a folder without a run.
    """
    try:
        found = read_kept(folder / STATUS, SAID)
    except RecipeError:
        if not (folder / STATUS).is_file() and (folder / "teacher" / STATUS).is_file():  # the run begins with its teacher's own
            return read_status(folder / "teacher")
        if not (folder / "state.json").is_file() and (folder / "latents").is_dir():
            raise RecipeError(f"{folder} has not begun to learn: its pictures are being encoded, or were when it was stopped") from None
        if not (folder / "state.json").is_file():
            raise RecipeError(f"{folder} holds no run: give the folder of one, as --run named it") from None
        return _silent(folder)
    found["age"] = max(time.time() - found.pop("time"), 0.0)
    if found["state"] == "running" and found["host"] == socket.gethostname() and not _lives(found["process"]):
        found |= {"state": "gone", "why": "its process is no more: the same command goes on from the last checkpoint"}
    return found


def sentence(found: Mapping[str, Any]) -> str:
    """One line: phase, updates, pace, time left, and every light that is not green."""
    if found["state"] == "done":
        return f"done  {duration(found['seconds'])} in all"
    pace, left = found.get("pictures_per_second"), found.get("seconds_left")
    words = [f"{found['phase']}  {found['update']}/{found['updates'] or '?'} updates  {found['pictures']} pictures"]
    words += [f"{pace:.1f} pictures/s"] if pace else []
    words += [f"stage {found['stage']} of {found['stages']}"] if found.get("stages") else []
    words += [f"{duration(left)} left"] if left is not None else []
    words += [f"{light['colour'].upper()} {light['name']} {light['value']:.3g}" for light in found["lights"] if light["colour"] != "green"]
    return "  ".join(words)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The whole status for a person."""
    shown = [f"{found['state']}  {sentence(found)}" if found["state"] != "done" else sentence(found)]
    shown += [found["why"]] if found["why"] else []
    shown += [f"{light['colour']:<7} {light['name']:<20} {light['value']:<9.3g} {light['advice']}" for light in found["lights"]]
    shown += evaluated(found)
    return [*shown, f"said {duration(found['age'])} ago"] if "age" in found else shown


def evaluated(found: Mapping[str, Any]) -> list[str]:
    """What a distillation's evaluation came to: each stage's best student, what it cost, and what is left out."""
    about, best = found.get("evaluation"), found.get("best") or {}
    if about is None:
        return []
    shown = []
    for steps, kept in sorted(best.items(), key=lambda item: -int(item[0])):
        what = told({kept["figure"]: kept["value"]})[0]
        shown.append(f"best    {called(steps):<20} {what:<20} {kept['phase']}, update {kept['update']}: weights/{kept['file']}")
    if about == "off":
        return [*shown, "no best student is kept: evaluation is off, --set evaluation.prompts=16 turns it on"]
    shown += [f"evaluated {about['count']} times, in {duration(about['seconds'])}"] if about["count"] else []
    return [*shown, *about["left_out"]]


def duration(seconds: float) -> str:
    """In words of two units at most: 47 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _silent(folder: Path) -> dict[str, Any]:
    """What state.json alone says: of a run that has said nothing yet, or was begun before runs spoke."""
    state = read_kept(folder / "state.json", ("phase", "update", "samples", "seconds", "done"))
    phase = state["phase"] or (state["done"][-1] if state["done"] else "")
    return {
        "state": "silent",
        "why": f"it has no whole {STATUS}: only its last checkpoint is known",
        "phase": phase,
        "update": state["update"],
        "updates": None,
        "pictures": state["samples"],
        "seconds": state["seconds"],
        "done": state["done"],
        "lights": [],
    }


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
