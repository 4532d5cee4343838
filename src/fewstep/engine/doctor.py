"""What this machine can run, with the numbers behind it: the first thing to look at when something is slow or does not start. Loads torch only
where there may be a card.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterator
from typing import Any

from fewstep import __version__
from fewstep.engine.device import CGROUPS, allowed, best_device, cores, free, instructions, memory, processor
from fewstep.engine.memory import MEMORY, SDXL_CONTROLNET, Need, choose, need, sdxl
from fewstep.engine.model import open_model
from fewstep.engine.request import RequestError, listed
from fewstep.engine.software import NAMES, compiler, installed
from fewstep.models.weights import WeightsError
from fewstep.zoo.registry import Entry, ModelError, entries

PACKAGES = ("onnxruntime", "tokenizers", "safetensors", "numpy", "pillow")
EXTRAS = {  # {package: (the extra that brings it, what that is good for)}
    "torch": ("sdxl", "SDXL and its few-step models, the eager backend, training and evaluation"),
    "diffusers": ("sdxl", "SDXL and its few-step models"),
    "transformers": ("sdxl", "SDXL and its few-step models"),
    "peft": ("sdxl", "SDXL and its few-step models"),
    "accelerate": ("sdxl", "models that are larger than the card"),
    "huggingface_hub": ("sdxl", "fetching models, and fewstep export --push"),
    "skimage": ("controlnet", "edges for ControlNets"),
    "onnx": ("onnx", "exporting to ONNX"),
    "onnxscript": ("onnx", "exporting to ONNX"),
    "openvino": ("openvino", "the openvino backend, and half precision on processors that have it"),
    "torchao": ("quantize", "eight bits: --precision int8 and float8"),
    "pyarrow": ("parquet", "lists of prompts in parquet"),
}
GB = 1e9


def facts() -> dict[str, Any]:
    """Everything that :func:`report` says, as plain values."""
    total, available = memory()
    return {
        "fewstep": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": {"name": processor(), "cores": os.cpu_count(), "threads": cores(), "instructions": instructions()},
        "compiler": shlex.join(command) if (command := compiler()) else None,
        "memory": {"bytes": total, "available": available, "container": allowed(CGROUPS)},
        "accelerator": accelerator(),
        "packages": {package: installed(package) for package in (*PACKAGES, *EXTRAS)},
        "models": models(),
    }


def report(found: dict[str, Any] | None = None) -> Iterator[tuple[str, str]]:
    """(what, how it is), line by line, of what was ``found``, or of this machine."""
    found = found or facts()
    yield "fewstep", found["fewstep"]
    yield "python", f"{found['python']} on {found['system']}"
    own, room = found["processor"], found["memory"]
    yield "processor", f"{own['name']}, {', '.join(own['instructions']) or 'no vector instructions that are looked for'}"
    yield "threads", f"{own['threads']} of {own['cores']} cores (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})"
    yield (
        "compiler",
        f"{found['compiler']}, which networks are compiled with for this processor"
        if found["compiler"]
        else "none: with gcc or clang a picture takes about half of the time",
    )
    inside = f"; this container allows {room['container'] / GB:.1f} GB more" if room["container"] is not None else ""
    yield "memory", f"{room['available'] / GB:.1f} of {room['bytes'] / GB:.1f} GB free{inside}" if room["bytes"] else "not known on this system"
    card = found["accelerator"]
    if "error" in card:
        yield "device", card["error"]
    else:
        of = f", {card['name']}, {card['free'] / GB:.1f} of {card['bytes'] / GB:.1f} GB free" if "name" in card else ""
        yield "device", f"{card['device']}{of}; numbers are {card['dtype']}"
    for package, there in found["packages"].items():
        if package in EXTRAS and there is None:
            extra, good = EXTRAS[package]
            yield NAMES.get(package, package), f"not installed; the extra fewstep[{extra}] brings it, for {good}"
        else:
            yield NAMES.get(package, package), there or "not installed: install fewstep again"
    if there := installed("torchvision"):
        yield "torchvision", f"{there}: beside a CPU build of torch it breaks transformers and diffusers; uninstall it if imports fail"
    for one in found["models"]:
        yield f"model {one['name']}", one["says"]


def accelerator() -> dict[str, Any]:
    """The device that pictures are made on, its memory and what it computes with; or the error of a torch that cannot be used."""
    try:
        device = best_device()
        if device != "cuda":
            return {"device": device, "dtype": "float32"}
        import torch

        from fewstep.engine.backends.compiled import half

        there, total = torch.cuda.mem_get_info()
        dtype = str(half(device)).removeprefix("torch.")
        return {"device": device, "name": torch.cuda.get_device_name(), "bytes": int(total), "free": int(there), "dtype": dtype}
    except (ImportError, RuntimeError, OSError) as error:
        return {"error": f"torch cannot be used: {str(error).splitlines()[0] if str(error) else type(error).__name__}"}


def models() -> list[dict[str, Any]]:
    """The known models on this disk: what each needs, whether that fits, and the setting for it; and SDXL, whether or not it is here."""
    found = []
    try:
        for one in entries():
            here = one.state != "not here" or not one.known.repo
            if here or one.known.name == "sdxl":
                found.append({"name": one.known.name, "state": one.state, "folder": str(one.folder) if one.folder else None, **fits(one)})
    except ModelError as error:
        found.append({"name": "models", "says": str(error)})
    return found


def fits(one: Entry) -> dict[str, Any]:
    """What a model needs for a picture of its own size, what is free for it, and what to type."""
    try:
        device, size = best_device(), 4
    except (ImportError, RuntimeError, OSError):
        device, size = "cpu", 4
    size = 2 if device == "cuda" else size
    steps = f", students for {listed(one.steps)} steps" if one.steps else ""
    size_here = f"{one.megabytes:.1f} MB" if one.megabytes else ""
    where = f"{size_here}{steps}, {one.state}".removeprefix(", ") + (f" ({one.folder})" if one.folder else "")
    try:
        model = open_model(one.known.name) if one.state == "here" else None
        side = 0 if model is None else model.limits.native
        wanted = sdxl(size) if model is None else need(model, side, side, size, model.limits.teacher, ())
        nets = (SDXL_CONTROLNET,) if one.known.repo else None  # the embedded model has one of its own, or none
        guided = sdxl(size, 1) if model is None else need(model, side, side, size, model.limits.teacher, nets)
    except (ModelError, RequestError, WeightsError) as error:
        return {"says": f"{where}; {error}"}
    there = free(device)
    setting, verdict = advice(wanted, there, device)
    says = f"{where}; needs {wanted.of('full') / GB:.2g} GB on {device}: {verdict}"
    found: dict[str, Any] = {"needs": _ways(wanted), "free": there, "setting": setting, "says": says}
    if guided.nets:
        more, verdict = advice(guided, there, device)
        says += f"; {guided.of('full') / GB:.2g} GB with a ControlNet: {verdict}"
        found |= {"says": says, "controlnet": {"needs": _ways(guided), "setting": more}}
    return found


def _ways(wanted: Need) -> dict[str, int]:
    return {way: wanted.of(way) for way in MEMORY[1:]}


def advice(wanted: Need, there: int | None, device: str) -> tuple[str | None, str]:
    """(What to add to the command, None where it does not fit; what to say) for so much memory on ``device``."""
    if there is None:
        return "", "how much is free is not known"
    if wanted.of("full") <= there:
        return "", "fits"
    if not device.startswith("cuda"):
        return None, f"does not fit the {there / GB:.1f} GB that are free"
    way = choose(wanted, there)
    return f"--memory {way}", f"more than the {there / GB:.1f} GB that are free, and {wanted.of(way) / GB:.2g} GB with --memory {way}"
