"""A whole model in one file, in SDXL's original layout: what ComfyUI and A1111 load, and what most fine-tunes are published as."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fewstep.models.bundle import Bundle, assemble, released_names
from fewstep.models.keys import EXTRAS, LOGIT_SCALE, PARTS, POSITIONS, PREFIXES, UNET, V_PREDICTION, Entry, entries
from fewstep.models.weights import WeightsError, check_fit, read_header
from fewstep.stamp import Stamp

SCALE = 4.6052  # ln 100, at which CLIP's training holds its logit_scale


def to_original(networks: Mapping[str, Any], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The tensors of an all-in-one file of ``networks``: {"unet", "vae", "text_encoder", "text_encoder_2": module}."""
    tensors = {}
    for part in PARTS:
        state = networks[part].state_dict()
        own = {name: state[key] for name, key in released_names(networks[part]).items()}
        for entry in entries(part, {name: tuple(value.shape) for name, value in own.items()}):
            tensors[entry.name] = _joined(entry, own).to(dtype).contiguous()
    length = tensors[POSITIONS.replace("position_ids", "position_embedding.weight")].shape[0]
    return tensors | {POSITIONS: torch.arange(length)[None], LOGIT_SCALE: torch.tensor(SCALE, dtype=dtype)}


def _joined(entry: Entry, own: Mapping[str, Tensor]) -> Tensor:
    parts = [own[name] for name in entry.of]
    if entry.form == "transposed":
        return parts[0].T
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return whole[:, :, None, None] if entry.form == "convolution" else whole


def from_original(
    part: str, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor], only: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """(diffusers' name, tensor) of each weight of ``part``, or of ``only`` some: views of what ``read`` gives for a name of the all-in-one file."""
    for entry in entries(part, shapes):
        if only is not None and not set(entry.of) & set(only):
            continue
        value = read(entry.name)
        if entry.form == "transposed":
            yield entry.of[0], value.T
        elif entry.form == "convolution":
            yield entry.of[0], value[:, :, 0, 0]
        else:
            yield from zip(entry.of, value.chunk(len(entry.of)), strict=True)


def read_single_file(path: Path, like: Path, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> Bundle:
    """The model in the all-in-one file ``path``, with the configurations and tokenizers of the diffusers folder ``like``, whose weights are not read.

    Its tensors are brought to ``device`` and ``dtype`` one by one, so that no second copy of the file is in memory. Raises WeightsError on
    a file that cannot be read or holds a NaN, and, naming the first three that do not fit, on one that is not such a model.
    """
    header = read_header(path)
    left = {name for name in header.tensors if name not in (*EXTRAS, V_PREDICTION)}

    def fill(part: str, model: nn.Module) -> None:
        names, own = released_names(model), model.state_dict()
        shapes = {name: tuple(own[key].shape) for name, key in names.items()}
        wanted = {entry.name: entry.shape(shapes) for entry in entries(part, shapes)}
        with safe_open(path, framework="pt") as file:
            check_fit(path, {name: header.tensors[name] for name in left if name.startswith(PREFIXES[part])}, wanted)
            taken = {
                names[name]: _finite(path, value).to(device, dtype, copy=True, memory_format=torch.contiguous_format)
                for name, value in from_original(part, shapes, file.get_tensor)
            }
        model.load_state_dict(taken, strict=False, assign=True)
        left.difference_update(wanted)

    bundle = assemble(like, fill, lambda: Stamp.from_metadata(header.metadata), device)
    if left:
        unknown = "; ".join(f"'{name}' is not known" for name in sorted(left)[:3])
        raise WeightsError(f"{path}: these are not the weights of this model: {unknown}")
    bundle.file = path
    return bundle


def read_unet(path: Path, unet: nn.Module, only: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The weights of these names of the UNet in an all-in-one file: what a student or a LoRA that is taken off leaves behind it."""
    shapes = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    with safe_open(path, framework="pt") as file:
        yield from from_original(UNET, shapes, file.get_tensor, only)


def _finite(path: Path, value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise WeightsError(f"{path} holds a value that is not finite; the file is damaged or its training diverged")
    return value
