"""The model card of an export: what it is, how each tool makes a picture with it, its licence, where it came from and what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fewstep.engine.files import write_bytes
from fewstep.engine.model import Model
from fewstep.engine.words import read_words
from fewstep.evals.table import COLUMNS, TEACHER, markdown, student_of
from fewstep.export.modelspec import is_sdxl
from fewstep.export.tools import SAMPLERS, arguments, comfy, forge, settings
from fewstep.models.weights import find_weights
from fewstep.stamp import Stamp, file_hash
from fewstep.zoo.hub import repo_of
from fewstep.zoo.known import KNOWN, Known
from fewstep.zoo.registry import embedded

PROMPT = "a red apple on a blue background"
EVALUATION = "evaluation.json"  # in a model's folder: what fewstep evaluate MODEL --json wrote
SHOWN = ("top1", "top5", "repainted", "background", "frechet", "diversity", "precision", "sharpness", "distance")
LICENCE = """Apache-2.0. The weights were trained on Noto Emoji drawings (Apache-2.0; fonts made from them OFL-1.1) and on Unicode's names and keywords
(Unicode License v3); none of these works is part of this export.
"""
TAGS = {"Apache-2.0": "apache-2.0", "OpenRAIL++-M": "openrail++"}  # the Hub's names of licences


def write_card(model: Model, stamp: Stamp, name: str, path: Path, to: str = "diffusers", note: str = "") -> None:
    """Write the card of the export ``name``, a folder or a file, of ``model`` to ``path``. Raises OSError where it cannot be written."""
    own, subjects = model.limits, read_words(model.folder).get("subjects", [])
    write_bytes(path, card(model.folder, stamp, own.native, name, subjects, to, own.name, note, model.weights(stamp.steps)).encode())


def card(
    folder: Path,
    stamp: Stamp,
    size: int,
    name: str,
    subjects: Sequence[str] = (),
    to: str = "diffusers",
    model: str = "",
    note: str = "",
    weights: Path | None = None,
) -> str:
    """The card of the export ``name``, a folder or a file, from the model in ``folder`` with square pictures of ``size`` pixels a side.

    ``model`` is what it is called, if not as its folder; ``note`` how the export is not what was evaluated, ``weights`` the file that it was made of.
    """
    called, what = model or folder.name, "undistilled teacher" if stamp.kind == "teacher" else "student"
    ours, known = called == "emoji" and folder.resolve() == embedded("emoji").resolve(), KNOWN.get(model)
    licence = "Apache-2.0" if ours else known.licence if known else ""
    matter = ["library_name: diffusers", "pipeline_tag: text-to-image"] + [f"license: {TAGS.get(licence, 'other')}"] * bool(licence)
    front = "\n".join(["---", *matter, "---"])
    prompt = PROMPT if ours or not subjects else f"a {subjects[0]} on a blue background"
    return f"""{front}

# {Path(name).stem if to != "diffusers" else name}

The {stamp.steps}-step {what} of {called}, {size}×{size} pixels, exported by fewstep. {_rule(stamp)}{f" {note}" * bool(note)}

## diffusers

```python
{PROGRAMS[to](name, _base(folder), prompt, stamp)}image.save("picture.png")
```

{_scheduler(stamp, to)}
{_tools(folder, stamp)}{_licence(licence, ours, known)}{_training(stamp, ours)}{_evaluation(folder, stamp, weights) if weights and not note else ""}"""


def _base(folder: Path) -> str:
    """What to open with diffusers to have the model in ``folder``: an id of the Hub where it lies in its cache, else the folder."""
    return repo_of(folder) or folder.name


def _licence(licence: str, ours: bool, known: Known | None) -> str:
    """What is known of it: whoever gave other weights says under which."""
    if not licence:
        return ""
    page = f"https://huggingface.co/{known.repo}" if known else ""
    given = f"{licence}, as {page} has it: what it asks of copies is asked of this one.\n"
    return f"\n## Licence\n\n{LICENCE if ours else given}"


def _rule(stamp: Stamp) -> str:
    if stamp.kind == "teacher":
        return f"It takes any number of steps from 16; {stamp.steps} and guidance_scale={stamp.guidance_scale:g} are what its students were distilled from."
    return f"It was trained for {stamp.steps} step{'s' * (stamp.steps != 1)} without guidance: other step counts and guidance scales give worse pictures."


def _scheduler(stamp: Stamp, to: str) -> str:
    times = ", ".join(map(str, stamp.timesteps[:8])) + " …" * (stamp.steps > 8)
    where = "The scheduler lies in the folder" if to == "diffusers" else "The scheduler is"
    facts = f"{SAMPLERS[stamp.sampler].scheduler}, {settings(stamp)}"
    return f"{where}: {facts}.\nIt evaluates the network at {times}.\nAnother scheduler, or this one with other settings, needs both of these."


def _program(prompt: str, stamp: Stamp, *load: str, others: str = "") -> str:
    """A program that makes a picture, where these lines open the pipeline."""
    scheduler = SAMPLERS[stamp.sampler].scheduler
    chosen = f"pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config, {settings(stamp)})\n"
    lines = "".join(f"{line}\n" for line in load)
    return (
        f"import torch\nfrom diffusers import {scheduler}, StableDiffusionXLPipeline\n{others}\n{lines}{chosen}"
        f'seed = torch.Generator("cpu").manual_seed(0)\nimage = pipe("{prompt}", {arguments(stamp)}, generator=seed).images[0]\n'
    )


def _of_folder(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    load = f'pipe = StableDiffusionXLPipeline.from_pretrained("{name}")  # this folder\n'
    made = f'seed = torch.Generator("cpu").manual_seed(0)\nimage = pipe("{prompt}", {arguments(stamp)}, generator=seed).images[0]\n'
    return f"import torch\nfrom diffusers import StableDiffusionXLPipeline\n\n{load}{made}"


def _of_unet(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    load = f'pipe = StableDiffusionXLPipeline.from_pretrained("{base}")  # the model that the student is of'
    return _program(prompt, stamp, load, f'pipe.unet.load_state_dict(load_file("{name}"))', others="from safetensors.torch import load_file\n")


def _of_lora(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    load = f'pipe = StableDiffusionXLPipeline.from_pretrained("{base}")  # the model that it applies to, or a fine-tune'
    return _program(prompt, stamp, load, f'pipe.load_lora_weights("{name}")')


def _of_file(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    return _program(
        prompt, stamp, f'pipe = StableDiffusionXLPipeline.from_single_file("{name}", config="{base}")  # configurations and tokenizers: the model\'s folder'
    )


PROGRAMS: dict[str, Callable[[str, str, str, Stamp], str]] = {"diffusers": _of_folder, "unet": _of_unet, "lora": _of_lora, "single-file": _of_file}


def _tools(folder: Path, stamp: Stamp) -> str:
    """The samplers of the tools that know SDXL's architecture alone."""
    if not is_sdxl(folder):
        return "\nComfyUI, A1111 and Forge know SDXL's own widths alone, and this network has others: use it with diffusers or fewstep.\n"
    return f"\n## ComfyUI\n\n{comfy(stamp)}.\n\n## A1111 and Forge\n\n{forge(stamp)}.\n"


def _training(stamp: Stamp, ours: bool) -> str:
    """Where the weights came from, as far as their stamp says."""
    said = [
        f"distilled from weights {stamp.base}" if stamp.base else "",
        f"in the phases {', '.join(stamp.phases)}" if stamp.phases else "",
        f"of the stage {stamp.stage}" if stamp.stage else "",
        f"over {stamp.pictures:,} pictures" if stamp.pictures else "",
        f"by a recipe with the hash {stamp.recipe}" if stamp.recipe else "",
    ]
    words = " ".join(word for word in said if word)
    where = " The recipes are fewstep's own, recipes/emoji-teacher.toml and recipes/emoji.toml; docs/training.md tells how it went." if ours else ""
    return f"\n## Training\n\n{words[:1].upper()}{words[1:]}.{where}\n" if words or where else ""


def _evaluation(folder: Path, stamp: Stamp, weights: Path) -> str:
    """What fewstep evaluate measured of the student in ``weights`` and its teacher, if it was of these."""
    try:
        found: dict[str, Any] = json.loads((folder / EVALUATION).read_text(encoding="utf8"))
        about = found["about"]
        if about["teacher"] != file_hash(find_weights(folder / "unet")):
            return ""
        if about["teacher" if stamp.kind == "teacher" else student_of(stamp.steps)] != file_hash(weights):
            return ""
        rows = {row["name"]: row for row in found["rows"]}
        wanted = [TEACHER] if stamp.kind == "teacher" else [TEACHER, str(stamp.steps)]
        table = markdown([rows[name] for name in wanted if name in rows], SHOWN)
        notes = "; ".join(f"{column.heading}: {column.note}" for column in COLUMNS if column.field in SHOWN)
        return f"\n## Evaluation\n\n`fewstep evaluate`, {about['prompts']} held-out prompts.\n\n{table}\n\n{notes}.\n"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
