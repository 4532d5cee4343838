"""A student as a LoRA in one file that kohya's tools, ComfyUI, A1111 and diffusers' ``load_lora_weights`` read."""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path

import torch
from torch import Tensor

from fewstep.engine.model import Model
from fewstep.engine.request import RequestError
from fewstep.export.diffusers import loaded
from fewstep.export.modelspec import modelspec
from fewstep.models.bundle import save_weights
from fewstep.models.lora import extract_lora
from fewstep.models.students import Wardrobe
from fewstep.models.weights import read_weights
from fewstep.stamp import Stamp

PARTS = (".lora_down.weight", ".lora_up.weight", ".alpha")
MOST_RANK = 1024
log = logging.getLogger("fewstep")


def write_lora(model: Model, steps: int, target: Path, rank: int) -> tuple[Stamp, str]:
    """Write the LoRA for ``steps`` to ``target``; of a student that is a whole UNet the best of this ``rank`` that makes it of its base, by SVD.

    Its metadata are the stamp and what other tools ask for. Returns the stamp and, of one that was extracted, a note on what it leaves out,
    which is logged and part of its description. Raises RequestError if there is no such student, WeightsError on a file that cannot be
    used, OSError where it cannot be written.
    """
    path, stamp = _student(model, steps), model.stamp(steps)
    if not 1 <= rank <= MOST_RANK:
        raise RequestError(f"rank = {rank}: give a rank from 1 to {MOST_RANK}")
    note = ""
    if stamp.kind == "lora":
        tensors = _kohya(path)
    else:
        tensors, stamp, left = _extracted(model, steps, stamp, rank)
        note = f"Extracted at rank {rank} from a whole UNet: it leaves out {left:.1%} of what that changes."
        log.warning("fewstep: %s: a LoRA of rank %d leaves out %.1f %% of what the whole UNet changes; --rank takes more", target.name, rank, 100 * left)
    ranks = {value.shape[0] for key, value in tensors.items() if key.endswith(PARTS[0])}
    said = {**stamp.to_metadata(), **modelspec(model.folder, stamp, "lora", model.limits.name, note), **network(ranks, stamp)}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, target, said)
    return stamp, note


def _student(model: Model, steps: int) -> Path:
    """The file of the student for ``steps``. Raises RequestError where there is none beside a base that it could be put on."""
    path, name = model.students.get(steps), model.limits.name
    if path is None:
        raise RequestError(f"{name} has no student for {steps} steps, and a LoRA is a student's: {_instead(model)}")
    if path == model.unet:
        raise RequestError(f"{name} is a student without the base that it was made from, which a LoRA would be put on: use --to unet")
    return path


def _instead(model: Model) -> str:
    there = [count for count, path in model.students.items() if path != model.unet]
    return f"use --steps {' or '.join(map(str, there))}" if there else "use --to unet"


def _kohya(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA's file, as they are. Raises RequestError on names that other tools may not know."""
    tensors = read_weights(path)
    foreign = next((key for key in tensors if not key.startswith("lora_") or not key.endswith(PARTS)), None)
    if foreign is not None:
        raise RequestError(f"{path} is a LoRA in other names than kohya's ('{foreign:.100}'): give that file itself to tools that read it")
    return tensors


def _extracted(model: Model, steps: int, stamp: Stamp, rank: int) -> tuple[dict[str, Tensor], Stamp, float]:
    """(its tensors in float16, its stamp, the share of the change that it leaves out)."""
    bundle = loaded(model, torch.float16)
    tuned = copy.deepcopy(bundle.unet)
    Wardrobe(tuned, bundle).wear(model.students[steps], lambda: stamp)
    tensors, left = extract_lora(bundle.unet, tuned, rank)
    half = {name: value.half() for name, value in tensors.items()}
    return half, dataclasses.replace(stamp, kind="lora", base=bundle.hash, alpha=float(rank)), left


def network(ranks: set[int], stamp: Stamp) -> dict[str, str]:
    """What kohya's tools call the network of this file."""
    rank = str(next(iter(ranks))) if len(ranks) == 1 else "Dynamic"
    return {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": f"{stamp.alpha:g}"}
