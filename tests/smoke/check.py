"""What the smoke run must have left behind. Each check is a function; the first argument names it."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image


def run(folder: str, killed_at: str) -> None:
    """Every update is logged once and in order, losses are numbers, there are three stages and a student of each."""
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) > int(killed_at), f"{len(lines)} updates in all, {killed_at} before the kill: nothing was resumed"
    updates: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        updates[line["phase"]].append(line["update"])
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float)), line
    for phase, numbers in updates.items():
        assert numbers == list(range(1, len(numbers) + 1)), f"{phase}: updates {numbers} are not each there once"
    stages = list(dict.fromkeys(phase.split("/")[0] for phase in updates))
    assert len(stages) >= 3, f"fewer than three stages: {stages}"
    state = json.loads((Path(folder) / "state.json").read_text())
    missing = set(updates) - set(state["done"])
    assert not missing, f"phases that are not done: {missing}"
    assert not list(Path(folder).rglob("*.tmp")), "a temporary file was left behind"
    students = sorted((Path(folder) / "model" / "students").glob("*.safetensors"))
    assert students, "no student"
    print(f"{len(lines)} updates in {len(updates)} phases of {len(stages)} stages, {len(students)} students")


def film(folder: str) -> None:
    """The run's page holds a film with a column for each number of steps, and each has pictures from before training and after."""
    page = (Path(folder) / "report.html").read_text(encoding="utf8")
    data = json.loads(page.partition('id="film-frames">')[2].partition("</script>")[0])
    assert list(data["columns"]) == ["8", "4", "2", "1"], list(data["columns"])
    assert all(len(frames) >= 2 and frames[0][0] == 0 for frames in data["columns"].values())
    students = sorted(path.name.split("-")[0] for path in (Path(folder) / "model" / "students").glob("*.safetensors"))
    assert students == ["1", "2", "4", "8"], students
    print(f"{len(page) / 1e6:.1f} MB, {len(data['moments'])} moments")


def picture(file: str) -> None:
    """A PNG that decodes, is RGB, and is not one flat colour."""
    with Image.open(file, formats=("PNG",)) as image:
        image.load()
        pixels = np.asarray(image)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, (pixels.dtype, pixels.shape)
    assert pixels.std() > 0, "one flat colour"
    print(f"{Path(file).name}: {pixels.shape[1]}x{pixels.shape[0]}")


def same(folder: str, prompt: str, steps: str, seed: str, file: str) -> None:
    """The exported folder in diffusers' own pipeline makes the same picture, within 2/255."""
    import torch
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    ours = np.asarray(Image.open(file)).astype(int)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt,
        num_inference_steps=int(steps),
        guidance_scale=0.0,
        height=ours.shape[0],
        width=ours.shape[1],
        generator=torch.Generator("cpu").manual_seed(int(seed)),
    ).images[0]
    difference = int(np.abs(np.asarray(theirs).astype(int) - ours).max())
    assert difference <= 2, f"diffusers' picture differs by up to {difference}/255"
    print(f"the same picture in diffusers within {difference}/255")


if __name__ == "__main__":
    {"run": run, "film": film, "picture": picture, "same": same}[sys.argv[1]](*sys.argv[2:])
