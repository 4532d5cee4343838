"""A cache of the Hub with tiny models in it, under the names and in the layout of the released ones: nothing is downloaded anywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tests.tiny import SHAPE, tiny_bundle

from fewstep.models.lora import targets
from fewstep.models.miniature import build_unet
from fewstep.stamp import Stamp
from fewstep.zoo.known import KNOWN, Known, Weights

SCHEDULER = {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULER |= {"num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 1, "timestep_spacing": "leading", "set_alpha_to_one": False}


def publish(cache: Path, repo: str, files: dict[str, Path]) -> Path:
    """Put files into ``cache`` as huggingface_hub does: the content by its hash, and links to it by commit. Returns the snapshot."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    commit = hashlib.sha1(repo.encode()).hexdigest()
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    for name, source in files.items():
        blob, link = folder / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest(), folder / "snapshots" / commit / name
        shutil.copy(source, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(Path(*[".."] * (len(Path(name).parts) + 1)) / "blobs" / blob.name)
    return folder / "snapshots" / commit


def plain(folder: Path, seed: int = 0, variant: str = ".fp16") -> Path:
    """A whole tiny model as others publish theirs: no stamp, no students, float16 variants, SDXL's scheduler. Returns ``folder``."""
    tiny_bundle(folder, students=(), seed=seed)
    shutil.rmtree(folder / "students")
    (folder / "words.json").unlink()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    for path in sorted(folder.glob("*/*.safetensors")):
        tensors = load_file(path)
        path.unlink()
        save_file(tensors, path.with_name(path.name.replace(".safetensors", f"{variant}.safetensors")), metadata={"format": "pt"})
    return folder


def make(weights: Weights, path: Path) -> Path:
    """Random weights of the tiny UNet's shape, the same for the same name: a whole UNet, or a LoRA under kohya's names. Returns ``path``."""
    torch.manual_seed(sum(weights.file.encode()))
    unet = build_unet(SHAPE)
    if weights.row.kind == "unet":
        tensors = {key: value.half().contiguous() for key, value in unet.state_dict().items()}
    else:
        tensors = {}
        for name, layer in targets(unet).items():
            weight, key = layer.weight, f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, *weight.shape[1:]).half()  # type: ignore[union-attr]
            tensors[f"{key}.lora_up.weight"] = (0.03 * torch.randn(len(weight), 2, *(1,) * (weight.ndim - 2))).half()  # type: ignore[union-attr, arg-type]
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def fill(cache: Path, scratch: Path) -> dict[str, Path]:
    """Put a tiny one of every known model into ``cache``. Returns the folder that stands for each whole one."""
    folders = {}
    for seed, known in enumerate(known for known in KNOWN.values() if known.repo):
        if known.weights:
            publish(cache, known.repo, {one.file: made(known, one, scratch) for one in known.weights})
        else:
            folder = folders[known.name] = plain(scratch / known.name, seed)
            publish(cache, known.repo, {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()})
    return folders


def made(known: Known, weights: Weights, scratch: Path) -> Path:
    """The file that stands for ``weights``."""
    path = scratch / known.name / weights.file
    return path if path.is_file() else make(weights, path)


def stamped(base: Path, source: Path, row: Stamp, folder: Path) -> Path:
    """The same model as fewstep would write it: ``base`` with ``source`` among its students, and the row in its stamp. Returns ``folder``."""
    shutil.copytree(base, folder)
    (folder / "students").mkdir()
    save_file(load_file(source), folder / "students" / "one.safetensors", metadata=row.to_metadata())
    return folder
