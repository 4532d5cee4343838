"""One student, written for other tools. Loads no torch until there is something to write."""

from __future__ import annotations

from pathlib import Path

from fewstep.engine.request import RequestError, listed

FORMATS = ("diffusers", "unet", "lora", "single-file", "onnx", "graphs")


def write(folder: Path, steps: int, to: str, out: Path) -> Path:
    """Write the ``steps``-step student of the model in ``folder`` as ``to`` has it, whole or not at all. Returns where it lies.

    "diffusers" makes a folder that a plain ``from_pretrained`` opens, "unet" a file of the UNet alone, "lora" a file in kohya's layout,
    "single-file" the whole model in SDXL's original layout, "onnx" a folder of ONNX files, "graphs" the same without weights, for the
    model's own folder. Raises RequestError where there is something at ``out`` already or the student cannot be had in this form,
    WeightsError on weights that cannot be used, and OSError where ``out`` cannot be written.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if to == "diffusers":
        check_free(out)
        from fewstep.export.diffusers import write_folder

        return write_folder(folder, steps, out)
    if to == "lora":
        from fewstep.export.lora import write_lora

        return write_lora(folder, steps, out)
    if to in ("unet", "single-file"):
        from fewstep.export import single_file

        return (single_file.write_unet if to == "unet" else single_file.write_single_file)(folder, steps, out)
    if to in ("onnx", "graphs"):
        check_free(out)
        from fewstep.export import onnx

        return (onnx.write_onnx if to == "onnx" else onnx.write_weightless)(folder, steps, out)
    raise RequestError(f"to = {to!r}: there is {listed(FORMATS)}")


def card_of(folder: Path, to: str, out: Path) -> str:
    """The model card of ``out``, a file that was exported ``to`` "unet", "lora" or "single-file" from the model in ``folder``."""
    from fewstep.engine.model import open_model
    from fewstep.engine.words import read_words
    from fewstep.export.card import card
    from fewstep.models.weights import read_header
    from fewstep.stamp import Stamp

    stamp = Stamp.from_metadata(read_header(out).metadata)
    assert stamp is not None, "every export has one"
    return card(folder, stamp, open_model(str(folder)).limits.native, out.name, read_words(folder).get("subjects", []), to)


def check_free(out: Path) -> None:
    """Raises RequestError if there is a file or a non-empty folder at ``out``: an export overwrites nothing."""
    if out.is_dir():
        if any(out.iterdir()):
            raise RequestError(f"{out} exists and is not empty: give --out a folder that is not there yet")
    elif out.exists():
        raise RequestError(f"{out} is there already: give --out another name, or take it away")
