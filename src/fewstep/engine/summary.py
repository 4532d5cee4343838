"""What the command line says about a picture: one line for people, one JSON object for programs, and what to try next."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewstep.engine.request import Limits, Picture, Request

DEFAULT = "emoji"
TOLD = ("prompt", "seed", "steps", "width", "height", "aspect")  # what the next command says of a request


def as_line(picture: Picture, path: Path) -> str:
    """Path, seed, steps, the strength where there is one, size and the milliseconds of each stage."""
    stages = ", ".join(f"{stage} {milliseconds:.0f} ms" for stage, milliseconds in picture.timings.items())
    steps = f"{picture.steps} step{'s' * (picture.steps != 1)}"
    begun = f"  strength {picture.strength:g}" * (picture.record.image is not None)
    return f"{path}  seed {picture.seed}  {steps}{begun}  {picture.width}x{picture.height}  {stages}"


def as_json(picture: Picture, path: Path) -> str:
    """One JSON object on one line."""
    return json.dumps(
        {
            "path": str(path),
            "prompt": picture.record.prompt,
            "seed": picture.seed,
            "steps": picture.steps,
            "width": picture.width,
            "height": picture.height,
            **({"strength": picture.strength} if picture.record.image is not None else {}),
            **({"negative": picture.record.negative} if picture.record.negative is not None else {}),
            **({"template": picture.record.template} if picture.record.template is not None else {}),
            **({"tile": picture.record.tile} if picture.record.tile is not None else {}),
            "model": picture.model,
            **({"loras": [{"name": name, "weight": weight, "hash": own} for name, weight, own in picture.record.loras]} if picture.record.loras else {}),
            **({"control": [one._asdict() for one in picture.record.control]} if picture.record.control else {}),
            "timings_ms": picture.timings,
        }
    )


def next_step(picture: Picture, request: Request, limits: Limits, model: str = DEFAULT) -> list[str]:
    """A command to try after this picture of ``request``, if that has a prompt and a size alone: fewer steps if there are, else more pictures of
    the same prompt.
    """
    fields = [field for field in dataclasses.fields(request) if field.name not in TOLD]
    prompt = picture.record.prompt
    if prompt != request.prompt or not prompt.isprintable() or any(getattr(request, field.name) not in (field.default, [], ()) for field in fields):
        return []
    size = "" if (picture.width, picture.height) == (limits.native, limits.native) else f" --size {picture.width}x{picture.height}"
    command = f"fewstep generate {shlex.quote(prompt)}" + (f" --model {shlex.quote(model)}" if model != DEFAULT else "") + size
    fewer = [steps for steps in limits.students if steps < picture.steps]
    if fewer:
        return [f"the same in fewer steps: {command} --seed {picture.seed} --steps {fewer[-1]}"]
    return [f"four more: {command} --count 4"]
