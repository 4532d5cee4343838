"""The LoRAs of a request: their files found, read by their headers, and held to the model and to each other. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from fewstep.engine.checks import check_loras
from fewstep.engine.model import Model
from fewstep.engine.request import Loras, RequestError
from fewstep.models.adapters import TEXT, UNET, Shapes, places
from fewstep.models.stack import Lora, Stack
from fewstep.models.weights import WeightsError, find_weights, read_header
from fewstep.stamp import Stamp, file_hash
from fewstep.zoo.registry import by_name

SUFFIX = ".safetensors"
T = TypeVar("T")
REMEMBERED = 256  # files whose headers and hashes are kept
GENERIC = "pytorch_lora_weights"  # a file's name that says nothing: diffusers writes all under it
# How files say that they make a model few-step. Words that subjects and styles are called by need a number of steps beside them.
FEW_STEP = re.compile(r"\b(lcm|dmd2|tcd|hyper-?sd(xl)?|sdxl-?turbo)\b|\b(lightning|hyper|flash|pcm|turbo|distill\w*)\b.*?\b\d{1,2}-?steps?\b")
TITLES = ("modelspec.title", "ss_output_name")  # what a file's metadata call it


@dataclass(frozen=True)
class File:
    """What a LoRA's header and bytes say, whatever model it is for."""

    hash: str
    stamp: Stamp | None
    few_step: str  # what it is called that makes it seem few-step; empty if nothing does


def given_loras(texts: Sequence[str]) -> Loras:
    """The LoRAs that a command line names; the weight is 1 where it is not said. Raises RequestError on what :func:`parse_lora` does not take."""
    return tuple((path, 1.0 if weight is None else weight) for path, weight in map(parse_lora, texts))


def parse_lora(text: str) -> tuple[str, float | None]:
    """(file, weight) from "FILE.safetensors:0.8"; no weight where it is not said. Raises RequestError on anything else.

    A colon may be part of the name: what follows the last one is a weight if the name ends before it.
    """
    name, colon, weight = text.rpartition(":")
    if text.endswith(SUFFIX):
        return text, None
    try:
        if not colon or not name.endswith(SUFFIX):
            raise ValueError
        return name, float(weight)
    except ValueError:
        raise RequestError(f"lora {text!r:.200}: write it as FILE{SUFFIX}, or FILE{SUFFIX}:WEIGHT, for instance style{SUFFIX}:0.8") from None


def find_stack(model: Model, own: Loras, loras: Loras | None, steps: int) -> Stack:
    """The stack that ``loras`` mean for pictures of so many ``steps``; None means the engine's ``own``. What has no weight is left out.

    Raises RequestError on a file that cannot be read, is no LoRA for ``model``, or makes few-step what already is.
    """
    given = own if loras is None else loras
    check_loras(given)
    files = [(Path(path), float(weight)) for path, weight in given if weight]
    try:
        stack = [Lora(read_file(path).hash, weight, path, _parts(path, model)) for path, weight in files]
    except (WeightsError, OSError) as error:
        raise RequestError(str(error)) from None
    _check_few_step(model, steps, [path for path, _ in files])
    return tuple(sorted(stack))


def find_again(made_with: Sequence[tuple[str, float, str]], given: Sequence[str], near: Sequence[Path]) -> Loras:
    """The LoRAs, (name, weight, hash), that a picture was ``made_with``: among the files ``given`` for it, and by their names in the folders ``near``.

    Raises RequestError on one that is not there, another file under its name, and files that it was made without.
    """
    files = {}
    for text in given:
        path, weight = parse_lora(text)
        if weight is not None:
            raise RequestError(f"lora {text!r:.200}: the picture says its weights itself: give the file alone")
        try:
            files[Path(path)] = read_file(Path(path)).hash
        except WeightsError as error:
            raise RequestError(str(error)) from None
    hashes = [own for _, _, own in made_with]
    foreign = [(path, own) for path, own in files.items() if own not in hashes]
    if foreign:
        named = ", ".join(f"{name} ({own})" for name, _, own in made_with)
        raise RequestError(f"{foreign[0][0]} ({foreign[0][1]}) is not what the picture was made with: {f'give {named}' if named else 'it had no LoRAs'}")
    return [(next((path for path, own in files.items() if own == wanted), None) or _near(name, wanted, near), weight) for name, weight, wanted in made_with]


def _near(name: str, wanted: str, folders: Sequence[Path]) -> Path:
    """The file of this name and hash in one of ``folders``. A name comes from a picture, and leads nowhere else."""
    there = [folder / f"{name}{SUFFIX}" for folder in folders if Path(name).name == name]
    for path in there:
        if path.is_file() and read_file(path).hash == wanted:
            return path
    other = next((path for path in there if path.is_file()), None)
    found = f", and {other} is another of that name" if other else ""
    raise RequestError(f"the picture was made with the LoRA {name!r:.100} ({wanted}){found}: give that file with --lora")


def weight_files(model: Model) -> dict[str, Path]:
    """The files of what LoRAs change, by the part of ``model``: its UNet and text encoders."""
    return {UNET: model.unet, **{part: find_weights(model.folder / part, "model.safetensors") for part in TEXT}}


def own_shapes(model: Model) -> Shapes:
    """The shapes of the weights that LoRAs may change, from the headers of ``model``. Raises WeightsError on a file that cannot be read."""
    return {part: _cached(_shapes, path) for part, path in weight_files(model).items()}


def read_file(path: Path) -> File:
    """What the LoRA in ``path`` says of itself; the last few files are remembered. Raises WeightsError on one that cannot be read."""
    return _cached(_read, path)


def _cached(read: Callable[[Path, int, int], T], path: Path) -> T:
    try:
        state = path.stat()
    except OSError:
        state = None
    except ValueError:
        raise WeightsError(f"{str(path)!r:.200}: no file can have this name: give the path of a {SUFFIX} file") from None
    if path.suffix != SUFFIX or state is None:
        read_header(path)  # says what is wrong
    return read(path, state.st_mtime_ns if state else 0, state.st_size if state else 0)


@lru_cache(REMEMBERED)
def _read(path: Path, changed: int, size: int) -> File:
    metadata = read_header(path).metadata
    try:
        stamp = Stamp.from_metadata(metadata)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    known = by_name(path)
    if stamp is not None:
        called = f"its stamp says {_steps(stamp.steps)}"
    elif known is not None and known.row.kind == "lora":
        called = f"{path.name} is for {_steps(known.row.steps)}"
    else:
        folders = "/".join(path.parts[-4:-1]) if path.stem == GENERIC else ""
        titles = [path.stem, folders, *(metadata[key] for key in TITLES if key in metadata)]
        found = next((title for title in titles if FEW_STEP.search(_plain(title))), "")
        called = f"it is called '{found[:80]}'" if found else ""
    return File(file_hash(path), stamp, called)


@lru_cache(REMEMBERED)
def _shapes(path: Path, changed: int, size: int) -> dict[str, tuple[int, ...]]:
    return read_header(path).shapes


def _parts(path: Path, model: Model) -> tuple[str, ...]:
    """The parts of ``model`` that a LoRA changes. Raises WeightsError unless it fits."""
    found = {place.part for place in places(path, own_shapes(model))}
    return tuple(part for part in (UNET, *TEXT) if part in found)


def _check_few_step(model: Model, steps: int, paths: Sequence[Path]) -> None:
    """Raises RequestError on few-step LoRAs over weights that are few-step already, or over a teacher's, which are sampled otherwise."""
    few = [(path, read_file(path)) for path in paths if read_file(path).few_step]
    if len(few) > 1:
        said = " and ".join(f"{path.name} ({file.few_step})" for path, file in few[:2])
        raise RequestError(f"two LoRAs that each make a model few-step spoil each other's pictures: give one of {said}")
    for path, file in few:
        if model.stamp(steps).kind == "teacher":
            raise RequestError(
                f"{path} makes a model few-step ({file.few_step}), and {steps} steps of {model.limits.name} are not: give it as --few-step {path}"
            )
        belongs = file.stamp is not None and file.stamp.base == model.hash(steps)
        if not belongs:
            raise RequestError(
                f"{path} makes a model few-step ({file.few_step}), and the weights of {model.limits.name} for {_steps(steps)} are so already, "
                "which gives black or burnt pictures: leave it out, or give it as --few-step to a model that is not"
            )


def _plain(title: str) -> str:
    """A title in lower case with its words apart, so that their borders show."""
    return re.sub(r"(?<=\d)(?=steps?)", "-", re.sub(r"[\s_./]+", " ", title.lower()))


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"
