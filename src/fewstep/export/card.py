"""The model card of an exported folder: what it is and the lines that make a picture with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewstep.stamp import Stamp
from fewstep.zoo.registry import embedded

PROMPT = "a red apple on a blue background"
LICENCE = """
## Licence

Apache-2.0. The weights were trained on Noto Emoji drawings (Apache-2.0; fonts made from them OFL-1.1) and on Unicode's names and keywords
(Unicode License v3); none of these works is part of this folder.
"""


def card(folder: Path, stamp: Stamp, size: int, name: str, subjects: Sequence[str] = ()) -> str:
    """README.md of the folder ``name``, exported from the model in ``folder`` with square pictures of ``size`` pixels a side."""
    ours = folder.resolve() == embedded("emoji").resolve()
    guidance = f"{stamp.guidance_scale:g}"
    what = "undistilled teacher" if stamp.kind == "teacher" else "student"
    prompt = PROMPT if ours or not subjects else f"a {subjects[0]} on a blue background"
    times = ", ".join(map(str, stamp.timesteps[:8])) + " …" * (stamp.steps > 8)
    plural = "s" * (stamp.steps != 1)
    matter = ["library_name: diffusers", "pipeline_tag: text-to-image"] + ["license: apache-2.0"] * ours
    front = "\n".join(["---", *matter, "---"])
    rule = (
        f"It takes any number of steps from 16; {stamp.steps} and guidance_scale={guidance} are what its students were distilled from."
        if stamp.kind == "teacher"
        else f"It was trained for {stamp.steps} step{plural} without guidance: other step counts and guidance scales give worse pictures."
    )
    return f"""{front}

# {name}

The {stamp.steps}-step {what} of {folder.name}, {size}×{size} pixels, exported by fewstep. {rule}

```python
import torch
from diffusers import StableDiffusionXLPipeline

pipe = StableDiffusionXLPipeline.from_pretrained("{name}")  # this folder
seed = torch.Generator("cpu").manual_seed(0)
image = pipe("{prompt}", num_inference_steps={stamp.steps}, guidance_scale={guidance}, generator=seed).images[0]
image.save("picture.png")
```

The scheduler lies in the folder: EulerDiscreteScheduler, timestep_spacing="trailing", prediction_type="{stamp.prediction_type}".
It evaluates the network at {times}.
Another scheduler, or this one with other settings, needs both of these.
{LICENCE if ours else ""}"""
