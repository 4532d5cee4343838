"""What is installed here and how it is set up: the first thing to look at when something is slow or does not start."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from fewstep import __version__
from fewstep.engine.device import best_device, cores
from fewstep.engine.request import listed
from fewstep.zoo.registry import ModelError, entries

PACKAGES = ("onnxruntime", "tokenizers", "safetensors", "numpy", "pillow")
EXTRAS = {"torch": "sdxl", "diffusers": "sdxl", "transformers": "sdxl", "peft": "sdxl", "accelerate": "sdxl", "onnx": "onnx", "onnxscript": "onnx"}


def report() -> Iterator[tuple[str, str]]:
    """(what, how it is), line by line."""
    yield "fewstep", __version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in PACKAGES:
        yield package, installed(package) or "not installed: install fewstep again"
    for package, extra in EXTRAS.items():
        yield package, installed(package) or f"not installed; the extra fewstep[{extra}] brings it"
    if found := installed("torchvision"):
        yield "torchvision", f"{found}: beside a CPU build of torch it breaks transformers and diffusers; uninstall it if imports fail"
    try:
        yield "device", best_device()
    except (ImportError, RuntimeError, OSError) as error:
        yield "device", f"torch cannot be used: {error}"
    yield "threads", f"{cores()} of {os.cpu_count()} cores (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})"
    try:
        for one in entries():
            if one.state != "not here" or not one.known.repo:
                steps = f", students for {listed(one.steps)} steps" if one.steps else ""
                yield f"model {one.known.name}", f"{one.megabytes:.1f} MB{steps}, {one.state}{f' ({one.folder})' if one.folder else ''}"
    except ModelError as error:
        yield "models", str(error)


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
