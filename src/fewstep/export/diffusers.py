"""A student as a folder that diffusers' own StableDiffusionXLPipeline opens and samples as this project does."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from fewstep.engine.model import Model
from fewstep.engine.request import RequestError
from fewstep.export.card import write_card
from fewstep.models.bundle import SCHEDULER, Bundle, load_bundle, save_bundle
from fewstep.models.single_file import read_single_file
from fewstep.models.students import Wardrobe
from fewstep.schedule import CLEAN, start_scale
from fewstep.stamp import SPACINGS, Stamp


def write_folder(model: Model, steps: int, out: Path) -> Path:
    """Write ``model`` to ``out`` with the student for ``steps`` in its UNet's place, or its teacher. Returns ``out``.

    All of it lies under a temporary name until it is complete. Raises RequestError on a student that diffusers' Euler scheduler cannot
    sample, WeightsError on weights that cannot be used, OSError where ``out`` cannot be written.
    """
    check_euler(model.stamp(steps))
    bundle = opened(model, steps, torch.float16)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        written = Path(temporary) / out.name
        save_bundle(bundle, written)
        scheduler = {**SCHEDULER, "prediction_type": bundle.stamp.prediction_type, "timestep_spacing": bundle.stamp.spacing}
        (written / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=1))
        write_card(model, bundle.stamp, out.name, written / "README.md")
        written.replace(out)
    return out


def opened(model: Model, steps: int, dtype: torch.dtype = torch.float32) -> Bundle:
    """``model`` with the UNet for ``steps`` in place, and the stamp of what that UNet is now: whole, whatever it was made from.

    Raises WeightsError on weights that cannot be used.
    """
    bundle = loaded(model, dtype)
    stamp, path = model.stamp(steps), model.students.get(steps)
    if path is not None and path != model.unet:
        Wardrobe(bundle.unet, bundle).wear(path, lambda: stamp)
    bundle.stamp = dataclasses.replace(stamp, kind="unet", alpha=0.0) if stamp.kind == "lora" else stamp
    return bundle


def loaded(model: Model, dtype: torch.dtype) -> Bundle:
    """``model`` with its own UNet. What is written in float16 is read so, and is in memory once. Raises WeightsError as above."""
    return read_single_file(model.file, model.folder, dtype=dtype) if model.file else load_bundle(model.folder, dtype=dtype)


def check_euler(stamp: Stamp) -> None:
    """Raises RequestError unless EulerDiscreteScheduler, with the timesteps that ``stamp`` spaces, walks as it says."""
    scale = start_scale() if stamp.spacing == "trailing" else 1.0
    odd = [
        what
        for what, differs in (
            ("draws noise anew between steps", stamp.fresh != 0),
            (f"ends at timestep {stamp.end}", stamp.end != CLEAN),
            ("has a consistency model's boundary condition", stamp.boundary != 0),
            (f"evaluates at {list(stamp.timesteps)}", list(stamp.timesteps) != SPACINGS[stamp.spacing](stamp.steps)),
            (f"starts from noise scaled by {stamp.start_scale:g}", abs(stamp.start_scale - scale) > 1e-6),
        )
        if differs
    ]
    if odd:
        raise RequestError(
            f"the {stamp.steps}-step student {' and '.join(odd)}, which diffusers' EulerDiscreteScheduler cannot do: use it with fewstep, or --to unet"
        )
