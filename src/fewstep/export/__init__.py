"""One student, written for other tools. Loads no torch until there is something to write."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fewstep.engine.model import Model, open_model
from fewstep.engine.request import RequestError, listed

FILES = {"unet": "-unet", "lora": "-lora", "single-file": ""}  # formats that are one file, and what the names of such files end in
FORMATS = ("diffusers", *FILES, "onnx", "graphs")
SUFFIX = ".safetensors"
RANK = 64  # of a LoRA that is extracted, as SDXL-Lightning's


def write(model: Model | Path | str, steps: int, to: str, out: Path, rank: int = RANK) -> Path:
    """Write the ``steps``-step student of ``model``, a known name, a folder, a file or what those were found to be, as ``to`` has it, whole or
    not at all. Returns where it lies.

    "diffusers" makes a folder that a plain ``from_pretrained`` opens, "unet" a file of the UNet alone, "lora" a file in kohya's layout,
    extracted at ``rank`` where the student is a whole UNet, "single-file" the whole model in SDXL's original layout; ``out`` is a
    .safetensors file, or a folder to put one in, and its card lies beside a file. "onnx" makes a folder of ONNX files, "graphs" the same
    without weights, for the model's own folder. Raises RequestError where there is something at ``out`` already or the student cannot be
    had in this form, what open_model raises on a model that is not there, WeightsError on weights that cannot be used, and OSError where
    ``out`` cannot be written.
    """
    found, out = model if isinstance(model, Model) else open_model(str(model), steps), Path(out).resolve()
    if to in FILES:
        return _write_file(found, steps, to, out, rank)
    if to not in FORMATS:
        raise RequestError(f"to = {to!r}: there is {listed(FORMATS)}")
    check_free(out)
    if to == "diffusers":
        from fewstep.export.diffusers import write_folder

        return write_folder(found, steps, out)
    from fewstep.export import onnx

    return (onnx.write_onnx if to == "onnx" else onnx.write_weightless)(found, steps, out)


def about(path: Path, to: str) -> list[str]:
    """What is to be said of what :func:`write` has written at ``path``, in lines: of ONNX files how large each is and how near its pictures come."""
    if to != "onnx":
        return []
    record = json.loads((path / "model.json").read_text(encoding="utf8"))
    sizes = [f"{name}  {size / 1e6:.1f} MB" for name, size in record["bytes"].items()]
    return [*sizes, f"a picture in each of three shapes differs from torch's by at most {record['largest_difference_of_255']} of 255"]


def _write_file(model: Model, steps: int, to: str, out: Path, rank: int) -> Path:
    """The weights, and then their card."""
    target = out if out.suffix == SUFFIX else out / f"{plain(model.limits.name)}-{steps}-step{FILES[to]}{SUFFIX}"
    for path in (target, card_path(target)):
        check_free(path)
    note = ""
    if to == "lora":
        from fewstep.export.lora import write_lora

        stamp, note = write_lora(model, steps, target, rank)
    else:
        from fewstep.export import single_file

        stamp = (single_file.write_unet if to == "unet" else single_file.write_single_file)(model, steps, target)
    from fewstep.export.card import write_card

    write_card(model, stamp, target.name, card_path(target), to, note)
    return target


def card_path(file: Path) -> Path:
    """Where the card of an exported ``file`` lies."""
    return file.with_suffix(".md")


def plain(name: str) -> str:
    """A model's name as a part of a file's: "lcm-lora on me/mine" is "lcm-lora-on-me-mine"."""
    return re.sub(r"[^\w.-]+", "-", name)


def check_free(out: Path) -> None:
    """Raises RequestError if there is a file or a non-empty folder at ``out``: an export overwrites nothing."""
    if out.is_dir():
        if any(out.iterdir()):
            raise RequestError(f"{out} exists and is not empty: give --out a folder that is not there yet")
    elif out.exists():
        raise RequestError(f"{out} is there already: give --out another name, or take it away")
