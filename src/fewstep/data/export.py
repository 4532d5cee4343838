"""Scenes as files: PNG pictures and one captions.jsonl, for those who want to look at the data or train something else on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from fewstep.data.buckets import bucket
from fewstep.data.emoji import Dials, World
from fewstep.data.files import write_text
from fewstep.data.subjects import choose, read_subjects

SETTINGS, CAPTIONS = "scenes.json", "captions.jsonl"


def write_scenes(source: Path, out: Path, count: int = 1000, subjects: int | str = 120, seed: int = 0, dials: Dials | None = None) -> int:
    """Render ``count`` scenes of emoji from ``source`` into ``out``, by default on plain colours. Returns how many pictures were drawn now.

    Scene i is a function of (seed, i), so the same call goes on where an interrupted one stopped, and a larger ``count`` adds to what
    is there. captions.jsonl, one {"file", "caption", "subject", "background"} a line, comes last and says that the folder is whole.
    Raises ValueError if ``out`` holds scenes of other settings or ``count`` is not positive, FileNotFoundError on an unknown source.
    """
    if count < 1:
        raise ValueError(f"count = {count}: give a positive number")
    world = World(tuple(choose(read_subjects(source), subjects)), dials or Dials(), seed)
    out.mkdir(parents=True, exist_ok=True)
    _same_settings(out / SETTINGS, {"subjects": [subject.name for subject in world.subjects], "seed": seed, "dials": vars(world.dials)})
    lines, drawn = [], 0
    for index in range(count):
        rng = world.rng(index)
        width, height = bucket(rng.random())
        scene = world.scene(rng)
        path = out / f"{index:06d}.png"
        caption = {
            "file": path.name,
            "caption": world.caption(scene, rng),
            "subject": world.subjects[scene.subject].name,
            "background": scene.background,
        }
        lines.append(json.dumps(caption, ensure_ascii=False))
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            Image.fromarray(world.render(scene, width, height)).save(temporary, "PNG")
            temporary.replace(path)
            drawn += 1
    write_text(out / CAPTIONS, "".join(f"{line}\n" for line in lines))
    return drawn


def _same_settings(path: Path, settings: dict[str, Any]) -> None:
    """Note the settings in a new folder; in one that has them, raise ValueError unless they are these."""
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        return write_text(path, json.dumps(settings, indent=1, ensure_ascii=False))
    try:
        there = json.loads(path.read_text(encoding="utf8"))
    except ValueError:
        there = None
    if there != settings:
        raise ValueError(f"{path.parent} holds scenes of other settings ({path.name}): give an empty folder")
