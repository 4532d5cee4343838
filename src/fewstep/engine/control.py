"""What a picture's composition follows: images, each made into a hint that a ControlNet reads. Loads no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fewstep.engine.model import read_config
from fewstep.engine.request import HINTS, MOST_PIXELS, RequestError
from fewstep.models.control_layout import ALSO_SAID, read_layout
from fewstep.models.weights import FILE, WeightsError, find_weights, read_header
from fewstep.stamp import file_hash
from fewstep.zoo.hub import REPO, command, snapshot
from fewstep.zoo.recognise import recognise
from fewstep.zoo.registry import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from fewstep.engine.model import Model

OWN = "controlnet"  # in a model's folder: its own, which reads edges
MOST_CONTROLS, MOST_WEIGHT = 4, 10
REMEMBERED = 16  # files whose headers and hashes are kept


@dataclass(frozen=True)
class Control:
    """An image that the composition follows."""

    image: Image = field(repr=False)
    hint: str = "given"  # what it is made into: "canny", "lineart", "scribble", "depth", or "given", the hint itself
    weight: float = 1.0  # of what the ControlNet says, 0 to 10
    net: str | Path | None = None  # a ControlNet's folder, .safetensors file or id on the Hub; None: the model's own, for edges
    start: float = 0.0  # the share of the steps that pass before it acts
    end: float = 1.0  # the share of the steps after which it acts no more


@dataclass(frozen=True)
class Net:
    """A ControlNet that fits the model."""

    name: str  # what people call it
    path: Path  # of its weights
    hash: str  # of those
    config: Mapping[str, Any] = field(compare=False, repr=False)  # of diffusers' ControlNetModel


class Told(NamedTuple):
    """What a record says of one control."""

    net: str  # the ControlNet's name
    net_hash: str
    hint: str  # what the image was made into
    hash: str  # SHA-256 of the hint's pixels
    weight: float
    start: float
    end: float

    def setting(self) -> str:
        """As AUTOMATIC1111's extension writes it."""
        module = "none" if self.hint == "given" else self.hint
        shares = f"Guidance Start: {self.start:g}, Guidance End: {self.end:g}"
        return f"Module: {module}, Model: {self.net} [{self.net_hash[:8]}], Weight: {self.weight:g}, {shares}"


def told(controls: Sequence[Any]) -> tuple[Told, ...]:
    """The controls of a record as JSON has them. Raises ValueError on anything else."""
    found = []
    for one in controls:
        numbers = one[4:] if isinstance(one, list) and len(one) == len(Told._fields) else ()
        finite = len(numbers) == 3 and all(type(value) in (int, float) and math.isfinite(value) for value in numbers)
        if not finite or not all(isinstance(value, str) for value in one[:4]) or one[2] not in HINTS:
            raise ValueError(f"'control' holds {one!r:.60}")
        found.append(Told(*one[:4], *map(float, numbers)))
    return tuple(found)


def followed(controls: Sequence[Told]) -> str:
    """In a sentence: what a picture followed."""
    named = [f"{one.hint} hint {one.hash[:12]} read by {one.net} ({one.net_hash})" for one in controls]
    return f"followed {' and '.join(named)}" if named else "followed no control image"


@dataclass(frozen=True, eq=False)
class Hint:
    """A control that is settled: its hint in the picture's size, and who reads it."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    hash: str  # SHA-256 of the pixels
    kind: str  # what it was made into
    net: Net
    weight: float
    start: float
    end: float

    @property
    def group(self) -> tuple[Net, float, float, float]:
        """What pictures that are made together share."""
        return self.net, self.weight, self.start, self.end

    def told(self) -> Told:
        """As a record has it."""
        return Told(self.net.name, self.net.hash, self.kind, self.hash, self.weight, self.start, self.end)


Controls = tuple[Hint, ...]


def acts(start: float, end: float, steps: int) -> list[bool]:
    """In which of ``steps`` evaluations a ControlNet acts: those that lie whole between ``start`` and ``end``, as diffusers has it."""
    return [step / steps >= start and (step + 1) / steps <= end for step in range(steps)]


def check_controls(controls: Any) -> None:
    """Raises RequestError unless these are a few controls, each good for itself."""
    from PIL.Image import Image

    if not isinstance(controls, tuple | list) or not all(isinstance(one, Control) for one in controls):
        raise RequestError(f"control = {controls!r:.60}: give a list of Control(image, …)")
    if len(controls) > MOST_CONTROLS:
        raise RequestError(f"{len(controls)} control images were given: give at most {MOST_CONTROLS}")
    for one in controls:
        if not isinstance(one.image, Image):
            raise RequestError(f"the control image is {one.image!r:.60}: give a PIL image")
        if not 0 < one.image.width * one.image.height <= MOST_PIXELS:
            size = f"{one.image.width}x{one.image.height}"
            raise RequestError(f"the control image has {size} pixels: give one of at most {MOST_PIXELS / 1e6:.1f} megapixels")
        if one.hint not in HINTS:
            raise RequestError(f"hint = {one.hint!r:.60}: give one of {', '.join(HINTS)}")
        for name, most in (("weight", MOST_WEIGHT), ("start", 1), ("end", 1)):
            value = getattr(one, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise RequestError(f"the {name} of a ControlNet is {value!r:.40}: give a number from 0 to {most}")
        if one.net is not None and not isinstance(one.net, str | Path):
            raise RequestError(f"net = {one.net!r:.60}: give a ControlNet's folder or .safetensors file")


def parse_net(text: str) -> tuple[str | None, float, float, float]:
    """(ControlNet or None for the model's own, weight, start, end) from "FILE", "FILE:0.8" or "FILE:0.8:0-0.5"; "own" is the model's own.

    Raises RequestError on numbers that are none.
    """
    match = re.fullmatch(r"(.+?)(?::([0-9.]+))?(?::([0-9.]+)-([0-9.]+))?", text)
    try:
        name, weight, start, end = match.groups() if match else ("", "?", None, None)
        return None if name == "own" else name, float(weight or 1), float(start or 0), float(end or 1)
    except ValueError:
        raise RequestError(f"controlnet {text!r:.200}: write it as FILE, FILE:WEIGHT or FILE:WEIGHT:START-END, for instance own:0.8:0-0.5") from None


def given_controls(images: Sequence[Image], nets: Sequence[str], hints: Sequence[str]) -> list[Control]:
    """The controls that a command line names: a ControlNet for each image, or none for the model's own; a hint for each, or one for all.

    Raises RequestError on numbers of them that do not go together.
    """
    for option, given, few in (("--controlnet", nets, ()), ("--hint", hints, (1,))):
        if given and len(given) != len(images) and (not images or len(given) not in few):
            raise RequestError(f"{len(images)} --control and {len(given)} {option} were given: give as many of both, in the same order")
    kinds = hints if len(hints) == len(images) else [*hints, "given"][:1] * len(images)
    read_by = [parse_net(text) for text in nets] or [(None, 1.0, 0.0, 1.0)] * len(images)
    return [Control(image, kind, weight, net, start, end) for image, kind, (net, weight, start, end) in zip(images, kinds, read_by, strict=True)]


def same_controls(controls: Sequence[Told], images: Sequence[Image], nets: Sequence[str]) -> list[Control]:
    """The controls of a picture that is made again: its record says all but the images, and the ControlNets where they are not the model's own.

    Raises RequestError unless as many are given as it followed.
    """
    if len(images) != len(controls) or (nets and len(nets) != len(controls)):
        raise RequestError(
            f"the picture {followed(controls)}: give {len(controls) or 'no'} --control and, unless all are the model's own, "
            f"as many --controlnet in the same order, each a FILE or own"
        )
    files = [parse_net(text)[0] for text in nets] or [None] * len(controls)
    return [Control(image, one.hint, one.weight, net, one.start, one.end) for image, one, net in zip(images, controls, files, strict=True)]


def settle_controls(model: Model, controls: Sequence[Control], width: int, height: int, steps: int) -> Controls:
    """The hints of ``controls`` for a picture of this size that takes so many evaluations. What has no weight is left out.

    Raises RequestError on a ControlNet that does not fit ``model``, or that would act in no step.
    """
    from fewstep.engine.hints import make_hint
    from fewstep.engine.source import digest

    found = []
    for one in controls:
        if not one.weight:
            continue
        if not any(acts(one.start, one.end, steps)):
            raise RequestError(f"the ControlNet is to act from {one.start:g} to {one.end:g} of {steps} step{'s' * (steps > 1)}, and no step lies within")
        net = find_net(one.net, model)
        pixels = make_hint(one.image, one.hint, width, height)
        found.append(Hint(pixels, digest(pixels), one.hint, net, float(one.weight), float(one.start), float(one.end)))
    return tuple(found)


def is_there(path: Path) -> bool:
    """Whether a file or folder lies at ``path``. A name that is too long for one is no error."""
    try:
        return path.exists()
    except OSError:
        return False


def find_net(given: str | Path | None, model: Model) -> Net:
    """The ControlNet ``given``: a folder, a file or an id of the Hub that is in its cache; or else the model's own. Reads configurations and the header.

    Raises RequestError on one that is not there or was made for another model.
    """
    place = model.folder / OWN if given is None else Path(given)
    repo = str(given) if given is not None and not is_there(place) and REPO.fullmatch(str(given)) else None
    place = (repo and snapshot(repo)) or place
    if not is_there(place):
        fetch = f"; one of the Hub's is fetched with: {command(repo, ('config.json', FILE))}" if repo else ""
        lacking = f"{model.limits.name} has no ControlNet of its own" if given is None else f"{place!s:.200}: there is no such ControlNet"
        raise RequestError(f"{lacking}: give one with --controlnet, a folder of diffusers' or a .safetensors file{fetch}")
    path = find_weights(place) if place.is_dir() else place
    called = Path(repo).name if repo else path.parent.name if path.name.startswith(Path(FILE).stem) else path.stem
    try:
        read_header(path)  # says what is wrong
        state = path.stat()
        own, config = _read(path, state.st_mtime_ns, state.st_size, model.folder, model.limits.name, model.limits.factor)
        return Net(called, path, own, config)
    except (WeightsError, ModelError, OSError) as error:
        raise RequestError(str(error)) from None


@lru_cache(REMEMBERED)
def _read(path: Path, changed: int, size: int, folder: Path, name: str, factor: int) -> tuple[str, dict[str, Any]]:
    """(hash, configuration) of a ControlNet's file for the model in ``folder``."""
    found, unet = recognise(path), read_config(folder / "unet" / "config.json")
    width = unet.get("cross_attention_dim")
    if found.kind != "ControlNet":
        raise ModelError(f"{path} is no ControlNet, but {found.sentence()}: give a ControlNet that was made for {name}")
    if found.model and width != found.width:
        raise ModelError(f"{path} is a ControlNet for {found.model}, and {name} is another model: give one that was made for {name}")
    if found.names != "diffusers' names":
        raise ModelError(f"{path} is a ControlNet in {found.names}: give it in diffusers' names, as its folder on the Hub has it")
    beside = path.with_name("config.json")
    said = read_config(beside) if path.name.startswith(Path(FILE).stem) and beside.is_file() else {}
    config = read_layout(path, unet, factor) | {key: said[key] for key in ALSO_SAID if key in said}
    return file_hash(path), config
