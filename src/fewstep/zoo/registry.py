"""The models that are known by name, and where they lie. Reads headers only: loads no torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fewstep.stamp import Stamp

KNOWN = {"emoji": "256-pixel scenes of emoji; ships inside the package, trained and distilled by this project"}
INDEX = "model_index.json"
LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")


class ModelError(ValueError):
    """A model that is not there or whose files cannot be read; the message says what to give instead."""


@dataclass(frozen=True)
class Entry:
    """A model as a list shows it."""

    name: str
    about: str
    folder: Path
    present: bool
    steps: tuple[int, ...]  # of its students, ascending
    megabytes: float


def names() -> list[str]:
    """The names that ``find`` knows."""
    return list(KNOWN)


def embedded(name: str) -> Path:
    """Where the model ``name`` lies inside the package, whether or not it is there."""
    return Path(str(files("fewstep.zoo"))) / name


def find(model: str) -> Path:
    """The folder, or the .safetensors file, that ``model`` means: a known name first, then a path.

    Raises ModelError, naming what can be given, if there is no such thing.
    """
    if model in KNOWN:
        folder = embedded(model)
        if not (folder / INDEX).is_file():
            raise ModelError(f"the embedded model '{model}' is not in this installation ({folder}): install fewstep again, or give --model a folder")
        return folder
    path = Path(model)
    if path.suffix in PICKLES:
        raise ModelError(f"{model}: only safetensors are read, for a pickle ({', '.join(PICKLES)}) can run code when it is opened: convert it first")
    if path.is_dir() or (path.is_file() and path.suffix == ".safetensors"):
        return path.resolve()
    if path.is_file():
        raise ModelError(f"{model} is no model: give a diffusers folder or a .safetensors file, or one of {', '.join(KNOWN)}")
    raise ModelError(f"there is no model '{model}': give one of {', '.join(KNOWN)}, a diffusers folder or a .safetensors file")


def base_of(path: Path) -> Path:
    """The folder that a weights file belongs to: the diffusers folder around it, else the embedded model."""
    around = path.parent.parent
    return around if (around / INDEX).is_file() else find(next(iter(KNOWN)))


def students(folder: Path) -> dict[int, Path]:
    """The few-step weights of a model's folder by their step count, ascending. Raises ModelError on a file that cannot be read."""
    found: dict[int, Path] = {}
    for path in sorted((folder / "students").glob("*.safetensors")):
        stamp = peek(path)
        if stamp is not None and stamp.kind != "teacher":
            found.setdefault(stamp.steps, path)
    return dict(sorted(found.items()))


def peek(path: Path) -> Stamp | None:
    """The stamp in a safetensors header, None where there is none. Raises ModelError on a file that is no whole safetensors file."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(LONGEST_HEADER, path.stat().st_size):
                raise ValueError("it may be truncated")
            return Stamp.from_metadata(json.loads(stream.read(length)).get("__metadata__"))
    except (OSError, struct.error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}): fetch it again, or take it away") from None


def entries() -> list[Entry]:
    """The known models and what is there of each."""
    listed = []
    for name, about in KNOWN.items():
        folder = embedded(name)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        listed.append(Entry(name, about, folder, (folder / INDEX).is_file(), tuple(students(folder)), size))
    return listed
