"""The most memory that each side takes: a process of its own that loads the model, makes one batch and ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fewstep
from fewstep.bench.options import Options
from fewstep.bench.process import ChildError, run_child
from fewstep.bench.sides import FULL, Sides
from fewstep.bench.table import Section

# Each prints the peak of the accelerator's memory in bytes, 0 without one.
_PEAK = """
torch = sys.modules.get("torch")
print(torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else 0)
"""
OURS = f"""
import json, sys
from fewstep import Engine, Request
ask = json.loads(sys.argv[1])
engine = Engine.load(ask["model"], decoder=ask["decoder"], backend=ask["backend"], threads=ask["threads"])
requests = [Request(f"a red apple, number {{seed}}", seed, ask["steps"], ask["side"], ask["side"]) for seed in range(ask["batch"])]
for picture in engine.generate_many(requests):
    if ask["out"]:
        picture.save(ask["out"])
{_PEAK}"""
DIFFUSERS = f"""
import json, sys, torch
from diffusers import StableDiffusionXLPipeline
ask = json.loads(sys.argv[1])
pipe = StableDiffusionXLPipeline.from_pretrained(ask["model"], dtype=getattr(torch, ask["dtype"]), add_watermarker=False).to(ask["device"])
pipe.set_progress_bar_config(disable=True)
generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(ask["batch"])]
prompts = [f"a red apple, number {{seed}}" for seed in range(ask["batch"])]
made = pipe(prompts, width=ask["side"], height=ask["side"], num_inference_steps=ask["steps"], guidance_scale=0, generator=generators)
for image in made.images:
    if ask["out"]:
        image.save(ask["out"])
{_PEAK}"""


def asked(sides: Sides, model: Path | str, steps: int, side: int, batch: int = 1, decoder: str = FULL, out: Path | str = "") -> str:
    """What the programs above take as their argument: one picture of each seed, written to ``out`` if given."""
    what = {"model": str(model), "steps": steps, "side": side, "batch": batch, "decoder": decoder, "out": str(out)}
    return json.dumps({**what, "backend": sides.backend, "threads": sides.threads, "device": sides.device, "dtype": str(sides.dtype).removeprefix("torch.")})


def environment(**more: str) -> dict[str, str]:
    """For a program that is to import this very package."""
    paths = [str(Path(fewstep.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", **more}


def memory(sides: Sides, options: Options, tell: Callable[[str], None]) -> Iterator[Section]:
    """The table "memory" at the fewest steps and the largest size: how many steps there are makes no difference."""
    steps, side = options.steps[0], max(options.sizes)
    decoders, notes = sides.decoders(side)
    rows: list[dict[str, Any]] = []
    for batch in options.batch:
        tell(f"memory: batch {batch}")
        base = measure(DIFFUSERS, asked(sides, sides.exported(steps), steps, side, batch))
        for decoder in decoders:
            row = {"batch": batch, "what": f"ours, {decoder} decoder", **measure(OURS, asked(sides, sides.name, steps, side, batch, decoder))}
            both = not (row.get("failed") or base.get("failed"))
            rows.append({**row, "ratio": row["megabytes"] / base["megabytes"] if both else None})
        rows.append({"batch": batch, "what": "diffusers", **base})
    yield Section("memory", tuple(rows), tuple(notes))


def measure(program: str, argument: str) -> Mapping[str, Any]:
    """The columns ``megabytes`` and ``accelerator_megabytes`` of a run of ``program``, or ``failed``."""
    try:
        done = run_child([sys.executable, "-c", program, argument], environment())
    except ChildError as error:
        return {"failed": str(error)}
    accelerator = int(done.output.split()[-1])
    return {"megabytes": done.peak / 1e6, "accelerator_megabytes": accelerator / 1e6 if accelerator else None}
