"""What a weights file says of itself: a stamp in its safetensors metadata, so that the step count travels with the weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from fewstep.schedule import CLEAN, TRAIN_TIMESTEPS, PredictionType, leading_timesteps, pairs, start_scale, trailing_timesteps

KEY = "fewstep"  # of the JSON record in the metadata
LATER = ("anywhere",)  # fields that stamps written before do not have
KINDS = ("teacher", "unet", "lora")
SPACINGS = {"trailing": trailing_timesteps, "leading": leading_timesteps}


SPARE = 0.1  # of a stride: by so much the last one of a walk from anywhere may be longer, rather than have another follow it


def entrance(strength: float, steps: int) -> tuple[int, int] | None:
    """(evaluations passed over, the timestep to begin at) of a walk from an image by a student of so many ``steps`` that begins anywhere; None from
    noise alone. They follow from the timestep, so that the strength that is recorded, :func:`strength_of` it, leads to the same walk.
    """
    entry = max(round(strength * TRAIN_TIMESTEPS), 1) - 1
    return None if entry >= TRAIN_TIMESTEPS - 1 else (steps - max(1, math.ceil(strength_of(entry) * steps - SPARE)), entry)


def strength_of(entry: int) -> float:
    """The strength of an image that is begun from at the timestep ``entry``."""
    return (entry + 1) / TRAIN_TIMESTEPS


class StepMismatch(ValueError):
    """A step count that these weights were not trained for."""


@dataclass(frozen=True)
class Stamp:
    """How a set of UNet weights is to be sampled, and where it came from."""

    kind: Literal["teacher", "unet", "lora"]
    steps: int
    prediction_type: PredictionType = "epsilon"
    timesteps: tuple[int, ...] = ()  # the network evaluations; empty: ``steps`` of them by ``spacing``
    start_scale: float = dataclasses.field(default_factory=start_scale)
    fresh: float | tuple[float, ...] = 0.0  # share of the noise drawn anew between steps, or one for each evaluation, of which the last leads to the end
    end: int = CLEAN  # where the last evaluation leads: 0 for families whose scheduler stops at the lowest noise
    boundary: float = 0.0  # scaling of t in a consistency model's boundary condition; 0: it has none
    spacing: Literal["trailing", "leading"] = "trailing"
    anywhere: bool = False  # whether it was trained to begin at any noise level, as image-to-image of any strength does
    guidance_scale: float = 0.0  # classifier-free guidance to use; 0: none, as for every student
    base: str = ""  # hash of the weights that a LoRA applies to, and that a student was distilled from
    alpha: float = 0.0  # of a LoRA
    recipe: str = ""  # hash of the recipe
    stage: str = ""
    phases: tuple[str, ...] = ()
    pictures: int = 0  # seen in training, over all phases, with those of the students that it came from

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r} is none of {', '.join(KINDS)}")
        if self.prediction_type not in get_args(PredictionType):
            raise ValueError(f"prediction_type = {self.prediction_type!r} is none of {', '.join(get_args(PredictionType))}")
        if self.spacing not in SPACINGS:
            raise ValueError(f"spacing = {self.spacing!r} is none of {', '.join(SPACINGS)}")
        shares = self.fresh if isinstance(self.fresh, tuple) else (self.fresh,)
        numbers = [(name, getattr(self, name)) for name in ("start_scale", "guidance_scale", "alpha", "boundary")]
        for name, value in numbers + [("fresh", share) for share in shares]:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} = {value!r} is no number from 0 up")
        if any(share > 1 for share in shares):
            raise ValueError(f"fresh = {self.fresh}: it is a share, between 0 and 1")
        if type(self.steps) is not int or any(type(t) is not int or not 0 <= t < TRAIN_TIMESTEPS for t in self.timesteps):
            raise ValueError(f"steps = {self.steps!r}, timesteps = {self.timesteps!r}: steps are a whole number, timesteps lie from 0 to 999")
        if list(self.timesteps) != sorted(set(self.timesteps), reverse=True):
            raise ValueError(f"timesteps = {self.timesteps!r}: they fall from one evaluation to the next")
        if not self.timesteps:
            object.__setattr__(self, "timesteps", tuple(SPACINGS[self.spacing](self.steps)))
        if len(self.timesteps) != self.steps:
            raise ValueError(f"{self.steps} steps, but {len(self.timesteps)} timesteps")
        if isinstance(self.fresh, tuple) and len(self.fresh) != self.steps:
            raise ValueError(f"{self.steps} steps, but {len(self.fresh)} shares of fresh noise")
        if type(self.end) is not int or not CLEAN <= self.end < self.timesteps[-1]:
            raise ValueError(f"end = {self.end!r}: it lies below the last timestep, {self.timesteps[-1]}")

    def evaluations(self, start: int = 0, entry: int | None = None) -> tuple[int, ...]:
        """The timesteps of the network evaluations from number ``start`` on; as far apart, but from ``entry`` on, where that is given."""
        own = self.timesteps[start:]
        return own if entry is None else tuple(max(round(entry - k * TRAIN_TIMESTEPS / self.steps), 0) for k in range(len(own)))

    def walk(self, start: int = 0, entry: int | None = None) -> dict[str, Any]:
        """What ``fewstep.sampler.sample`` takes besides the network and the noise, from evaluation number ``start`` on.

        Where some are passed over, or the walk is begun at a level of its own, latents of that level stand in for the noise, and are not scaled.
        """
        return {
            "times": pairs(self.evaluations(start, entry), self.end),
            "prediction_type": self.prediction_type,
            "start_scale": 1.0 if start or entry is not None else self.start_scale,
            "fresh": self.fresh[start:] if isinstance(self.fresh, tuple) else self.fresh,
            "boundary": self.boundary,
        }

    @property
    def sampler(self) -> str:
        """The name that other tools know this walk by: Euler, Euler a, LCM, TCD or DDIM."""
        shares = self.fresh if isinstance(self.fresh, tuple) else (self.fresh,)
        if self.boundary or shares == (1.0,):
            return "LCM"
        if isinstance(self.fresh, tuple):
            return "Euler a" if self.end == CLEAN else "TCD"
        return "Euler" if self.end == CLEAN else "DDIM"

    def check(self, steps: int, name: str = "these weights") -> None:
        """Raises StepMismatch, naming the flag to use, unless ``steps`` is what the weights were trained for. A teacher takes any number."""
        if self.kind != "teacher" and steps != self.steps:
            raise StepMismatch(f"{name} were trained for {self.steps} steps and asked for {steps}: use --steps {self.steps}, or weights for {steps}")

    def to_metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file: all values are strings. What came later is left out where it says nothing: LoRAs know their base by
        its file's hash, so the same weights have to make the same file.
        """
        record = {key: value for key, value in dataclasses.asdict(self).items() if value or key not in LATER}
        return {"format": "pt", KEY: json.dumps(record, sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> Stamp | None:
        """The stamp in a safetensors file's metadata, None where there is none. Raises ValueError on one that cannot be read."""
        if not metadata or KEY not in metadata:
            return None
        try:
            record: dict[str, Any] = json.loads(metadata[KEY])
            if not isinstance(record, dict):
                raise ValueError("it is no record")
            known = {field.name for field in dataclasses.fields(cls)}
            fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if key in known}
            return cls(**fields)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"the stamp in this file cannot be read: {error}") from None


def file_hash(path: Path) -> str:
    """The first 12 digits of a file's SHA-256. A large file in the Hub's cache is a link to one that has it for its name."""
    if Path(path).is_symlink() and re.fullmatch(r"[0-9a-f]{64}", name := Path(path).resolve().name):
        return name[:12]
    about = Path(path).stat()
    return _digest(str(Path(path).absolute()), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=256)
def _digest(path: str, *_: int) -> str:
    """That of a file as it is by these signs of a change: SDXL's UNet takes seconds, and is asked for with each change of steps."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]
