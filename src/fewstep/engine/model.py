"""A model as it lies on disk: what it can do, read from headers and configurations before anything is loaded. Loads no torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.engine.request import TEACHER_STEPS, Limits, RequestError, listed
from fewstep.models.weights import FILE, TINY
from fewstep.stamp import Stamp, file_hash
from fewstep.zoo.registry import INDEX, KNOWN, ModelError, base_of, find, peek, students

DEFAULT_STEPS = 4
UNET = Path("unet") / FILE


@dataclass(frozen=True)
class Model:
    """Where the parts are. ``students`` are files by step count; ``base`` is the stamp of the folder's own UNet."""

    folder: Path
    students: dict[int, Path]
    base: Stamp
    limits: Limits
    channels: int  # of its latents

    def stamp(self, steps: int) -> Stamp:
        """How the weights for ``steps`` steps are sampled; a teacher's are the same for every number of steps."""
        path = self.students.get(steps)
        if path is None:
            return dataclasses.replace(self.base, steps=steps, timesteps=())
        return (None if path == self.folder / UNET else peek(path)) or self.base

    def decoders(self) -> tuple[str, ...]:
        """What turns its latents into pictures: "full", and "tiny" where it has a reduced decoder."""
        return ("full", "tiny") if (self.folder / TINY / FILE).is_file() else ("full",)

    def hash(self, steps: int) -> str:
        """The hash of the weights that denoise in ``steps`` steps."""
        return file_hash(self.students.get(steps, self.folder / UNET))


def open_model(model: str = "emoji", steps: int | None = None) -> Model:
    """Find ``model`` (a known name, a diffusers folder, a stamped .safetensors file) and read what it can do.

    ``steps`` is what requests get that do not say; None is 4 where the model has that. Raises ModelError on files that cannot be
    used, StepMismatch where a single file is asked for other steps than its own, RequestError on a step count that is not there.
    """
    path = find(model)
    name = model if model in KNOWN else path.stem if path.is_file() else path.name
    single = path if path.is_file() else None
    folder = base_of(path) if single else path
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder} is no model: it holds no {INDEX}; give a diffusers folder, or one of {', '.join(KNOWN)}")
    base = (peek(folder / UNET) if (folder / UNET).is_file() else None) or Stamp(kind="teacher", steps=32, guidance_scale=5.0)
    if single:
        stamp = peek(single)
        if stamp is None:
            raise ModelError(f"{single} does not say how many steps it was trained for: give a file that fewstep wrote, or a diffusers folder")
        if steps is not None:
            stamp.check(steps, str(single))
        if stamp.kind == "teacher":
            raise ModelError(f"{single} is a teacher's UNet alone: give the diffusers folder it belongs to")
        files, teacher = {stamp.steps: single}, False
    elif base.kind != "teacher":  # a folder that was exported for one step count
        if steps is not None:
            base.check(steps, name)
        files, teacher = {base.steps: folder / UNET}, False
    else:
        files, teacher = students(folder), True
    channels, factor, native = _geometry(folder)
    default = steps if steps is not None else _default(tuple(files))
    limits = Limits(name, factor, native, tuple(files), teacher, default)
    limits.check_steps(default)
    return Model(folder, files, base, limits, channels)


def _default(has: tuple[int, ...]) -> int:
    """4 steps, else the most that the students have, else a teacher's 32."""
    return DEFAULT_STEPS if DEFAULT_STEPS in has else max(has, default=2 * TEACHER_STEPS.start)


def _geometry(folder: Path) -> tuple[int, int, int]:
    """(channels of the latents, pixels a side of one latent position, pixels a side of the pictures the model was trained on)."""
    unet, vae = (_config(folder / part / "config.json") for part in ("unet", "vae"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        side, channels = int(unet["sample_size"]), int(unet["in_channels"])
        if not (1 <= channels <= 256 and 1 <= factor <= 64 and 1 <= side <= 1024):
            raise ValueError(f"a side of {side} latents of {channels} channels at factor {factor}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder}: its configurations do not say the size of its pictures ({error}): give a diffusers folder of an SDXL-style model"
        ) from None
    return channels, factor, side * factor


def _config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): fetch the model again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no configuration: fetch the model again")
    return content


def check_choice(what: str, given: str, choices: tuple[str, ...]) -> None:
    """Raises RequestError, naming the choices, unless ``given`` is one of them."""
    if given not in choices:
        raise RequestError(f"{what} = {given!r}: there is {listed(choices)}")
