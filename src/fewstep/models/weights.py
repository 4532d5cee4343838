"""Reading safetensors with or without torch: the checks that every weights file goes through. Loads no torch."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewstep.stamp import file_hash

GRAPHS = "graphs"  # in a model's folder: its graphs without weights
INDEX = "weights.json"  # among them: {graph: {name of a weight: its shape}}
FILE = "diffusion_pytorch_model.safetensors"
TINY = "decoder_tiny"  # in a model's folder: its reduced decoder
TINY_KEY = "fewstep-decoder"  # of the JSON record in that decoder's metadata


class WeightsError(ValueError):
    """Weights that cannot be used; the message says which file, what is wrong and what to do."""


def read_weights(path: Path, framework: Literal["pt", "numpy"] = "pt") -> dict[str, Any]:
    """The tensors of a safetensors file, torch's or NumPy's. Raises WeightsError if it is missing, truncated, no safetensors file, or holds a NaN."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: only safetensors files are read; a pickle (.ckpt, .pt, .bin) can run code when it is opened")
    try:
        with safe_open(path, framework=framework) as file:
            keys = list(file.keys())
            brief = {key for key in keys if framework == "numpy" and file.get_slice(key).get_dtype() == "BF16"}
            tensors = {key: file.get_tensor(key) for key in keys if key not in brief} | _widened(path, brief)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:  # AttributeError: a type that NumPy lacks
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); it may be truncated: fetch it again") from None
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


def low_rank_changes(path: Path, tensors: dict[str, Any], shapes: dict[str, tuple[int, ...]], strength: float = 1.0) -> dict[str, Any]:
    """What a LoRA's ``tensors``, under kohya's names, add to weights of these ``shapes``: strength · (alpha / rank) · B A by the weight's name.

    Works on torch's tensors and NumPy's alike. Raises WeightsError, naming the first three, on adapters that do not fit.
    """
    named = {
        "lora_unet_" + name.removesuffix(".weight").replace(".", "_"): name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 1
    }
    keys = sorted({key.rsplit(".lora_", 1)[0].removesuffix(".alpha") for key in tensors})
    wrong, changes = [], {}
    for key in keys:
        down, up, name = tensors.get(f"{key}.lora_down.weight"), tensors.get(f"{key}.lora_up.weight"), named.get(key)
        if name is None or down is None or up is None:
            wrong.append(f"'{key}' is not known" if name is None else f"'{key}' lacks its up or down weight")
            continue
        shape, rank, scale = shapes[name], down.shape[0] if down.ndim else 0, tensors.get(f"{key}.alpha")
        fits = rank > 0 and up.ndim > 0 and up.shape[0] == shape[0] and prod(down.shape[1:]) == prod(shape[1:]) and prod(up.shape[1:]) == rank
        if not fits or (scale is not None and prod(scale.shape) != 1):
            wrong.append(f"'{key}' has shapes {list(up.shape)} and {list(down.shape)} for a weight {list(shape)}")
            continue
        alpha = rank if scale is None else float(scale.reshape(-1)[0])
        single = np.float32 if isinstance(up, np.ndarray) else None
        b, a = (part.astype(single) if single else part.float() for part in (up.reshape(shape[0], rank), down.reshape(rank, -1)))
        changes[name] = (strength * alpha / rank * (b @ a)).reshape(shape)
    if wrong:
        raise WeightsError(f"{path}: this LoRA is not for this model: {'; '.join(wrong[:3])}")
    return changes


def check_decoder(folder: Path) -> None:
    """Raises WeightsError unless the model in ``folder`` has a reduced decoder that was made for its autoencoder."""
    from safetensors import SafetensorError, safe_open

    path = folder / TINY / FILE
    if not path.is_file():
        raise WeightsError(f"{folder} has no reduced decoder ({TINY}): use the full one, or make it with fewstep distill recipes/emoji-decoder.toml")
    try:
        with safe_open(path, framework="numpy") as file:
            made_for = str(json.loads((file.metadata() or {})[TINY_KEY])["vae"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: it does not say which autoencoder it was made for ({error}): fetch it again") from None
    there = file_hash(folder / "vae" / FILE)
    if made_for != there:
        raise WeightsError(f"{path}: this decoder was made for another autoencoder ({made_for}, not {there}): use the full one, or distil it anew")
