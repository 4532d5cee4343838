"""Reading safetensors with or without torch: the checks that every weights file goes through. Loads no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.models.header import Header, parse_header
from fewstep.stamp import file_hash

GRAPHS = "graphs"  # in a model's folder: its graphs without weights
INDEX = "weights.json"  # among them: {graph: {name of a weight: its shape}}
FILE = "diffusion_pytorch_model.safetensors"
TINY = "decoder_tiny"  # in a model's folder: its reduced decoder
TINY_KEY = "fewstep-decoder"  # of the JSON record in that decoder's metadata


class WeightsError(ValueError):
    """Weights that cannot be used; the message says which file, what is wrong and what to do."""


def find_weights(part: Path, name: str = FILE) -> Path:
    """The weights in a network's folder: ``name``, or its float16 variant where that alone is there, as diffusers' ``variant="fp16"`` takes it."""
    whole, half = part / name, part / name.replace(".safetensors", ".fp16.safetensors")
    return half if half.is_file() and not whole.is_file() else whole


def read_header(path: Path) -> Header:
    """What a safetensors file says of its tensors and of itself. Raises WeightsError if there is no such file or it is not a whole one."""
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: only safetensors files are read; a pickle (.ckpt, .pt, .bin) can run code when it is opened")
    try:
        with path.open("rb") as stream:
            return parse_header(stream, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{path}: not a readable safetensors file ({reason}): fetch it again") from None


class LoraError(WeightsError):
    """A LoRA whose values cannot be used. The message has its file's name and no folder: it is for a server's clients as well."""


def read_weights(path: Path, framework: Literal["pt", "numpy"] = "pt", only: Collection[str] | None = None) -> dict[str, Any]:
    """The tensors of a safetensors file, torch's or NumPy's; ``only`` some of them, by name, where that is given.

    Raises WeightsError if it is missing, truncated, no safetensors file, or holds a NaN or
    weights that are whole numbers.
    """
    from safetensors import SafetensorError, safe_open

    stored = read_header(path).tensors
    keys = [key for key in stored if only is None or key in only]
    whole = [key for key in keys if key.endswith("weight") and stored[key].dtype.startswith(("I", "U", "BOOL"))]
    if whole:
        raise WeightsError(f"{path}: '{whole[0]}' has whole numbers ({stored[whole[0]].dtype}), and weights are fractions: give the file as it was trained")
    brief = {key for key in keys if framework == "numpy" and stored[key].dtype == "BF16"}
    try:
        with safe_open(path, framework=framework) as file:
            tensors = {key: file.get_tensor(key) for key in keys if key not in brief} | _widened(path, brief)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:  # AttributeError: a type that NumPy lacks
        raise WeightsError(f"{path}: not a readable safetensors file ({error}): fetch it again") from None
    for key, value in tensors.items():
        finite = np.isfinite(value).all() if isinstance(value, np.ndarray) else (value if value.itemsize > 1 else value.float()).isfinite().all()
        if not bool(finite):
            raise WeightsError(f"{path}: '{key}' holds a value that is not finite; the file is damaged or its training diverged")
    return tensors


def _widened(path: Path, keys: set[str]) -> dict[str, Any]:
    """Tensors of bfloat16, which NumPy lacks, as float32: they are the upper halves of such numbers."""
    from safetensors import deserialize

    parts: list[tuple[str, Any]] = deserialize(path.read_bytes()) if keys else []  # type: ignore[no-untyped-call]
    halves = {key: (np.frombuffer(part["data"], np.uint16), part["shape"]) for key, part in parts if key in keys}
    return {key: (half.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape) for key, (half, shape) in halves.items()}


def check_fit(path: Path, tensors: dict[str, Any], own: dict[str, tuple[int, ...]], optional: frozenset[str] = frozenset()) -> None:
    """Raises WeightsError, naming the first three misfits, unless ``tensors`` have the names and shapes of ``own``, all but ``optional``."""
    wrong = [f"'{key}' is missing" for key in own if key not in tensors and key not in optional]
    wrong += [f"'{key}' is not known" for key in tensors if key not in own]
    wrong += [f"'{key}' has shape {list(v.shape)}, not {list(own[key])}" for key, v in tensors.items() if key in own and own[key] != tuple(v.shape)]
    if wrong:
        raise WeightsError(f"{path}: these are not the weights of this model: {'; '.join(wrong[:3])}" + (f"; and {len(wrong) - 3} more" * (len(wrong) > 3)))


def check_decoder(folder: Path) -> None:
    """Raises WeightsError unless the model in ``folder`` has a reduced decoder that was made for its autoencoder."""
    path = folder / TINY / FILE
    if not path.is_file():
        raise WeightsError(f"{folder} has no reduced decoder ({TINY}): use the full one, or make it with fewstep distill recipes/emoji-decoder.toml")
    try:
        made_for = str(json.loads(read_header(path).metadata[TINY_KEY])["vae"])
    except WeightsError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: it does not say which autoencoder it was made for ({error}): fetch it again") from None
    there = file_hash(folder / "vae" / FILE)
    if made_for != there:
        raise WeightsError(f"{path}: this decoder was made for another autoencoder ({made_for}, not {there}): use the full one, or distil it anew")
