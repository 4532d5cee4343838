"""A model as it lies on disk: what it can do, read from headers and configurations before anything is loaded. Loads no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fewstep.engine.parts import find_parts
from fewstep.engine.request import TEACHER_STEPS, TILED, Limits, RequestError, listed
from fewstep.models.weights import FILE, TINY, find_weights
from fewstep.stamp import Stamp, file_hash
from fewstep.zoo.registry import ModelError, peek

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
    rows: dict[int, Stamp] = field(default_factory=dict)  # how students are sampled whose files do not say
    file: Path | None = None  # that all its weights are in, where that is one; then the folder has its configurations and tokenizers

    @property
    def unet(self) -> Path:
        """The weights of its own UNet, or the file that they are in."""
        return self.file or find_weights(self.folder / "unet")

    def weights(self, steps: int) -> Path:
        """The file whose weights denoise in ``steps`` steps."""
        return self.students.get(steps, self.unet)

    def stamp(self, steps: int) -> Stamp:
        """How the weights for ``steps`` steps are sampled; a teacher's are the same for every number of steps."""
        return self._stamps.get(steps) or dataclasses.replace(self.base, steps=steps, timesteps=())

    @cached_property
    def _stamps(self) -> dict[int, Stamp]:
        """Of the students. Read once: a header takes milliseconds, and every picture asks twice."""
        return {steps: self.rows.get(steps) or (None if path == self.unet else peek(path)) or self.base for steps, path in self.students.items()}

    def decoders(self) -> tuple[str, ...]:
        """What turns its latents into pictures: "full", and "tiny" where it has a reduced decoder."""
        return ("full", "tiny") if self.file is None and (self.folder / TINY / FILE).is_file() else ("full",)

    def hash(self, steps: int) -> str:
        """The hash of the weights that denoise in ``steps`` steps; of a LoRA that does not say what it applies to, with its base's."""
        own, stamp = file_hash(self.weights(steps)), self.stamp(steps)
        if stamp.kind != "lora" or stamp.base:
            return own
        return hashlib.sha256(f"{own} on {file_hash(self.unet)}".encode()).hexdigest()[:12]


def open_model(model: str = "emoji", steps: int | None = None, base: str | None = None, few_step: str | None = None) -> Model:
    """Find ``model`` (a known name, a diffusers folder, few-step weights in a .safetensors file, an id on the Hub) and read what it can do.

    ``steps`` is what requests get that do not say; None is 4 where the model has that. ``base`` is what few-step weights are put on instead
    of their own, ``few_step`` the weights to put on it ("lightning-lora:4", or a file). Raises ModelError on files that are not there or
    cannot be used, StepMismatch on a step count that weights were not made for, RequestError on one that is not there.
    """
    if steps is not None and type(steps) is not int:
        raise RequestError(f"steps = {steps!r:.40}: give a whole number")
    parts = find_parts(model, steps, base, few_step)
    channels, factor, native, stride = _geometry(parts.folder)
    default = steps if steps is not None else parts.default_steps or _default(tuple(parts.students), parts.base)
    limits = Limits(parts.name, factor, native, tuple(sorted(parts.students)), parts.teacher, default, stride)
    limits.check_steps(default)
    opened = Model(parts.folder, parts.students, parts.base, limits, channels, parts.rows, parts.file)
    anywhere = frozenset(steps for steps in limits.students if opened.stamp(steps).anywhere)
    return dataclasses.replace(opened, limits=dataclasses.replace(limits, anywhere=anywhere))


def _default(has: tuple[int, ...], base: Stamp) -> int:
    """4 steps, else the most that the students have, else the teacher's own, 32 where it takes no such number."""
    own = base.steps if base.steps in TEACHER_STEPS else 2 * TEACHER_STEPS.start
    return DEFAULT_STEPS if DEFAULT_STEPS in has else max(has, default=own)


def _geometry(folder: Path) -> tuple[int, int, int, int]:
    """(channels of the latents, pixels a side of one latent position, pixels a side of the pictures the model was trained on, latent positions a
    side that become one in the middle of its UNet).
    """
    unet, vae = (read_config(folder / part / "config.json") for part in ("unet", "vae"))
    try:
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        side, channels = int(unet["sample_size"]), int(unet["in_channels"])
        stride = 2 ** (len(unet["block_out_channels"]) - 1)
        if not (1 <= channels <= 256 and 1 <= max(factor, stride) <= 64 and 1 <= side <= 1024):
            raise ValueError(f"a side of {side} latents of {channels} channels at factor {factor}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder}: its configurations do not say the size of its pictures ({error}): give a diffusers folder of an SDXL-style model"
        ) from None
    return channels, factor, side * factor, stride


def read_config(path: Path) -> dict[str, Any]:
    """A network's configuration. Raises ModelError on a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): fetch the model again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no configuration: fetch the model again")
    return content


def check_tiled(decoder: str, tile: str | None) -> None:
    """Raises RequestError where a picture that wraps around is to be decoded in parts: they see nothing beyond their borders."""
    if decoder == TILED and tile is not None:
        raise RequestError(f"decoder = '{TILED}': a tile is decoded whole: leave --decoder at full or tiny")


def check_choice(what: str, given: str, choices: tuple[str, ...]) -> None:
    """Raises RequestError, naming the choices, unless ``given`` is one of them."""
    if given not in choices:
        raise RequestError(f"{what} = {given!r}: there is {listed(choices)}")
