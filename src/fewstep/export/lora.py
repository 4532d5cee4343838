"""A student's LoRA as one file that kohya's tools, ComfyUI, A1111 and diffusers' ``load_lora_weights`` read."""

from __future__ import annotations

from pathlib import Path

from fewstep.engine.request import RequestError, listed
from fewstep.export import check_free
from fewstep.export.modelspec import modelspec
from fewstep.models.bundle import save_weights
from fewstep.models.weights import read_weights
from fewstep.stamp import Stamp
from fewstep.zoo.registry import peek, students

SUFFIX = ".safetensors"
PARTS = (".lora_down.weight", ".lora_up.weight", ".alpha")


def write_lora(folder: Path, steps: int, out: Path) -> Path:
    """Copy the LoRA for ``steps`` to ``out``, a .safetensors file or a folder to put one in. Returns the file.

    Its metadata are the stamp and what other tools ask for. Raises RequestError if there is such a file already or if this student is
    no LoRA, WeightsError on a file that cannot be used, OSError where it cannot be written.
    """
    target = out if out.suffix == SUFFIX else out / f"{folder.name}-{steps}-step-lora{SUFFIX}"
    check_free(target)
    path, stamp = find_lora(folder, steps)
    tensors = read_weights(path)
    foreign = [key for key in tensors if not key.startswith("lora_unet_") or not key.endswith(PARTS)]
    if foreign:
        raise RequestError(f"{path} holds '{foreign[0]}', which is not of a LoRA's: fetch it again")
    ranks = {value.shape[0] for key, value in tensors.items() if key.endswith(PARTS[0])}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, target, {**stamp.to_metadata(), **modelspec(folder, stamp, "lora"), **network(ranks, stamp)})
    return target


def find_lora(folder: Path, steps: int) -> tuple[Path, Stamp]:
    """(file, stamp) of the LoRA for ``steps`` steps. Raises RequestError, naming the step counts that have one, if there is none."""
    stamps = {count: (path, stamp) for count, path in students(folder).items() if (stamp := peek(path)) is not None}
    if steps in stamps and stamps[steps][1].kind == "lora":
        return stamps[steps]
    what = f"{steps} steps of {folder.name} are a whole UNet" if steps in stamps else f"{folder.name} has no student for {steps} steps"
    have = [count for count, (_, stamp) in stamps.items() if stamp.kind == "lora"]
    instead = f"use --steps {listed(have).replace(' and ', ' or ')}, or --to diffusers" if have else "use --to diffusers"
    raise RequestError(f"{what}, not a LoRA: {instead}")


def network(ranks: set[int], stamp: Stamp) -> dict[str, str]:
    """What kohya's tools call the network of this file."""
    rank = str(next(iter(ranks))) if len(ranks) == 1 else "Dynamic"
    return {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": f"{stamp.alpha:g}"}
