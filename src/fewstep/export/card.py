"""The model card of an export: what it is, how each tool makes a picture with it, its licence, where it came from and what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fewstep.evals.table import COLUMNS, TEACHER
from fewstep.export.modelspec import is_sdxl
from fewstep.stamp import Stamp, file_hash
from fewstep.zoo.registry import embedded

PROMPT = "a red apple on a blue background"
EVALUATION = "evaluation.json"  # in a model's folder: what fewstep evaluate MODEL --json wrote
SHOWN = ("top1", "top5", "background", "frechet", "diversity", "precision", "sharpness", "distance")
LICENCE = """
## Licence

Apache-2.0. The weights were trained on Noto Emoji drawings (Apache-2.0; fonts made from them OFL-1.1) and on Unicode's names and keywords
(Unicode License v3); none of these works is part of this export.
"""
FACTS = 'EulerDiscreteScheduler, timestep_spacing="trailing", prediction_type="{prediction}"'


def card(folder: Path, stamp: Stamp, size: int, name: str, subjects: Sequence[str] = (), to: str = "diffusers") -> str:
    """README.md of the export ``name``, a folder or a file, from the model in ``folder`` with square pictures of ``size`` pixels a side."""
    ours = folder.resolve() == embedded("emoji").resolve()
    what = "undistilled teacher" if stamp.kind == "teacher" else "student"
    matter = ["library_name: diffusers", "pipeline_tag: text-to-image"] + ["license: apache-2.0"] * ours
    front = "\n".join(["---", *matter, "---"])
    prompt = PROMPT if ours or not subjects else f"a {subjects[0]} on a blue background"
    return f"""{front}

# {Path(name).stem if to != "diffusers" else name}

The {stamp.steps}-step {what} of {folder.name}, {size}×{size} pixels, exported by fewstep. {_rule(stamp)}

## diffusers

```python
{PROGRAMS[to](name, folder.name, prompt, stamp)}image.save("picture.png")
```

{_scheduler(stamp, to)}
{_tools(folder, stamp)}{LICENCE if ours else ""}{_training(stamp, ours)}{_evaluation(folder, stamp)}"""


def _rule(stamp: Stamp) -> str:
    if stamp.kind == "teacher":
        return f"It takes any number of steps from 16; {stamp.steps} and guidance_scale={stamp.guidance_scale:g} are what its students were distilled from."
    return f"It was trained for {stamp.steps} step{'s' * (stamp.steps != 1)} without guidance: other step counts and guidance scales give worse pictures."


def _scheduler(stamp: Stamp, to: str) -> str:
    times = ", ".join(map(str, stamp.timesteps[:8])) + " …" * (stamp.steps > 8)
    where = "The scheduler lies in the folder" if to == "diffusers" else "The scheduler is"
    facts = FACTS.format(prediction=stamp.prediction_type)
    return f"{where}: {facts}.\nIt evaluates the network at {times}.\nAnother scheduler, or this one with other settings, needs both of these."


def _call(prompt: str, stamp: Stamp) -> str:
    return (
        'seed = torch.Generator("cpu").manual_seed(0)\n'
        f'image = pipe("{prompt}", num_inference_steps={stamp.steps}, guidance_scale={stamp.guidance_scale:g}, generator=seed).images[0]\n'
    )


def _euler(stamp: Stamp) -> str:
    return (
        f'pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", prediction_type="{stamp.prediction_type}")\n'
    )


def _of_folder(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    load = f'pipe = StableDiffusionXLPipeline.from_pretrained("{name}")  # this folder\n'
    return f"import torch\nfrom diffusers import StableDiffusionXLPipeline\n\n{load}{_call(prompt, stamp)}"


def _of_unet(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    load = (
        f'pipe = StableDiffusionXLPipeline.from_pretrained("{base}")  # the folder of the model that the student is of\n'
        f'pipe.unet.load_state_dict(load_file("{name}"))\n'
    )
    imports = "import torch\nfrom diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline\nfrom safetensors.torch import load_file\n\n"
    return f"{imports}{load}{_euler(stamp)}{_call(prompt, stamp)}"


def _of_lora(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    load = (
        f'pipe = StableDiffusionXLPipeline.from_pretrained("{base}")  # the folder of the model that it applies to, or a fine-tune\n'
        f'pipe.load_lora_weights("{name}")\n'
    )
    return f"import torch\nfrom diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline\n\n{load}{_euler(stamp)}{_call(prompt, stamp)}"


def _of_file(name: str, base: str, prompt: str, stamp: Stamp) -> str:
    load = f'pipe = StableDiffusionXLPipeline.from_single_file("{name}", config="{base}")  # configurations and tokenizers: the model\'s folder\n'
    return f"import torch\nfrom diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline\n\n{load}{_euler(stamp)}{_call(prompt, stamp)}"


PROGRAMS: dict[str, Callable[[str, str, str, Stamp], str]] = {"diffusers": _of_folder, "unet": _of_unet, "lora": _of_lora, "single-file": _of_file}


def _tools(folder: Path, stamp: Stamp) -> str:
    """The samplers of the tools that know SDXL's architecture alone."""
    if not is_sdxl(folder):
        return "\nComfyUI, A1111 and Forge know SDXL's own widths alone, and this network has others: use it with diffusers or fewstep.\n"
    guidance = f"{max(stamp.guidance_scale, 1.0):g}"
    comfy = f"KSampler: steps {stamp.steps}, cfg {guidance}, sampler_name euler, scheduler sgm_uniform, denoise 1"
    other = f"Sampling method Euler, Schedule type SGM Uniform, Sampling steps {stamp.steps}, CFG scale {guidance}"
    if stamp.prediction_type == "sample":
        comfy += "; before it ModelSamplingDiscrete with sampling x0, for it predicts the picture"
        other = "it predicts the picture itself, which they cannot sample: take more steps there"
    return f"\n## ComfyUI\n\n{comfy}.\n\n## A1111 and Forge\n\n{other[:1].upper()}{other[1:]}.\n"


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


def _evaluation(folder: Path, stamp: Stamp) -> str:
    """What fewstep evaluate measured of this student and its teacher, if it was of these weights."""
    try:
        found: dict[str, Any] = json.loads((folder / EVALUATION).read_text(encoding="utf8"))
        if found["about"]["teacher"] != file_hash(folder / "unet" / "diffusion_pytorch_model.safetensors"):
            return ""
        rows = {row["name"]: row for row in found["rows"]}
        wanted = [TEACHER] if stamp.kind == "teacher" else [TEACHER, str(stamp.steps)]
        columns = [column for column in COLUMNS if column.field in SHOWN]
        lines = [["", *(column.heading for column in columns)], ["---"] * (len(columns) + 1)]
        for name in (name for name in wanted if name in rows):
            cells = ["–" if rows[name][column.field] is None else format(rows[name][column.field], column.format) for column in columns]
            lines.append([name if name == TEACHER else f"{name} step{'s' * (name != '1')}", *cells])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "; ".join(f"{column.heading}: {column.note}" for column in columns)
        return f"\n## Evaluation\n\n`fewstep evaluate`, {found['about']['prompts']} held-out prompts.\n\n{table}\n\n{notes}.\n"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
