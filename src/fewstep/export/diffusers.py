"""A student as a folder that diffusers' own StableDiffusionXLPipeline opens and samples as this project does."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

from fewstep.engine.model import open_model
from fewstep.engine.request import RequestError
from fewstep.export.card import card
from fewstep.models.bundle import SCHEDULER, Bundle, load_bundle, save_bundle
from fewstep.models.students import read_student
from fewstep.schedule import CLEAN, start_scale, trailing_timesteps
from fewstep.stamp import Stamp


def write_folder(folder: Path, steps: int, out: Path) -> Path:
    """Write the model in ``folder`` to ``out`` with the student for ``steps`` in its UNet's place, or its teacher. Returns ``out``.

    All of it lies under a temporary name until it is complete. Raises RequestError on a student that diffusers' Euler scheduler cannot
    sample, WeightsError on weights that cannot be used, OSError where ``out`` cannot be written.
    """
    bundle, stamp = opened(folder, steps)
    check_euler(stamp)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        written = Path(temporary) / out.name
        save_bundle(bundle, written)
        scheduler = {**SCHEDULER, "prediction_type": stamp.prediction_type}
        (written / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=1))
        size = int(bundle.unet.config.sample_size) * bundle.factor
        (written / "README.md").write_text(card(folder, stamp, size, out.name, bundle.words.get("subjects", [])), encoding="utf8")
        written.replace(out)
    return out


def opened(folder: Path, steps: int) -> tuple[Bundle, Stamp]:
    """The model in ``folder`` with the UNet for ``steps`` in place, and what that UNet is now: whole, whatever it was made from.

    Weights are found as the engine finds them. Raises RequestError or StepMismatch on a step count that is not there, WeightsError.
    """
    model = open_model(str(folder), steps)
    bundle, stamp = load_bundle(folder), model.base
    path = model.students.get(steps)
    if path is None:
        stamp = dataclasses.replace(stamp, steps=steps, timesteps=())
    elif path != model.unet:
        bundle.unet, stamp = read_student(bundle, path)
    if stamp.kind == "lora":
        stamp = dataclasses.replace(stamp, kind="unet", alpha=0.0)
    bundle.stamp = stamp
    return bundle, stamp


def check_euler(stamp: Stamp) -> None:
    """Raises RequestError unless EulerDiscreteScheduler with trailing timesteps walks as ``stamp`` says."""
    odd = [
        what
        for what, differs in (
            ("draws noise anew between steps", stamp.fresh != 0),
            (f"ends at timestep {stamp.end}", stamp.end != CLEAN),
            ("has a consistency model's boundary condition", stamp.boundary != 0),
            (f"evaluates at {list(stamp.timesteps)}", list(stamp.timesteps) != trailing_timesteps(stamp.steps)),
            (f"starts from noise scaled by {stamp.start_scale:g}", abs(stamp.start_scale - start_scale()) > 1e-6),
        )
        if differs
    ]
    if odd:
        raise RequestError(f"the {stamp.steps}-step student {' and '.join(odd)}, which diffusers' EulerDiscreteScheduler cannot do: use it with fewstep")
