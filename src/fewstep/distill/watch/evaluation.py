"""Evaluation inside a run: each student beside the teacher, from the same prompts and seeds; the best of each stage is kept.

DIR/evaluation/asked.json                what is asked, of which teacher; asked otherwise, evaluation begins anew
DIR/evaluation/teacher-N.png             the teacher's pictures, drawn once
DIR/evaluation/PHASE-U.{json,jpg,html}   figures and pictures after U updates of a phase, and the page as it was then
DIR/weights/N-step-best.safetensors      the student of a stage with the best figure, whole and stamped
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewstep.distill import dist
from fewstep.distill.kept import read_record
from fewstep.distill.latents import Samples
from fewstep.distill.sharding import in_shares
from fewstep.distill.state import Run, write_text
from fewstep.distill.trainer import Phase
from fewstep.distill.watch.evaluation_page import FOLDER, INDEX, page, read
from fewstep.distill.watch.film import stacked
from fewstep.distill.watch.probe import Walker
from fewstep.engine.decode import decode
from fewstep.engine.files import write_bytes
from fewstep.evals.figures import FIGURES, PREFERRED
from fewstep.evals.scorers import Asked, Scorer, scorers
from fewstep.models.bundle import Bundle, save_weights
from fewstep.stamp import Stamp

SHOWN = 192  # pixels, of a picture's longer side in the page
Standing = Callable[[], tuple[dict[str, Tensor], Stamp]]  # what would be kept of a student as it stands


def best_path(folder: Path, steps: int) -> Path:
    """Where the best student of so many ``steps`` lies in a run's ``folder``."""
    return folder / "weights" / f"{steps}-step-best.safetensors"


@dataclass
class Evaluation:
    """Measures the students of ``run`` beside its teacher. Only rank 0 does; the others wait for it at their next update."""

    run: Run
    bundle: Bundle
    draw: Callable[[Walker, Samples], Tensor]  # finished latents
    parts: Sequence[Samples]  # what is asked, a few at a time
    asked: Asked
    figure: str = "auto"  # that says which student is best; after begin() empty where nothing does
    left_out: list[str] = field(default_factory=list)  # a sentence for each figure that cannot be had here
    seconds: list[float] = field(default_factory=list)  # that each evaluation took
    _scorers: Sequence[Scorer] = ()

    def begin(self, teacher: Walker, inception: str = "") -> None:
        """Have the teacher's pictures, now or from an earlier start of the run, and what measures by them (``inception`` as in scorers). Raises DiskFull."""
        pictures = self._teachers(teacher)
        self._scorers, left = scorers(self.asked, pictures, inception)
        self.left_out += left
        self.seconds = [line["seconds"] for line in read(self.run.folder)]
        figures = self._figures(pictures)
        if self.figure == "auto":
            self.figure = next((name for name in PREFERRED if name in figures), "")
            self.left_out += [] if self.figure else ["no best student is kept: that takes adherence or the CLIP score, or evaluation.figure names another"]
        elif self.figure not in figures:
            self.left_out.append(f"no best student is kept: evaluation.figure = '{self.figure}' cannot be measured here")
            self.figure = ""
        apart = {"fid", "patch_fid", "distance", "sharpness"}  # from itself it is none
        own = {name: value for name, value in figures.items() if name not in apart}
        content = {**self._index(teacher), "figures": own, "left_out": self.left_out}
        self._write_text(INDEX, json.dumps(content, indent=1))

    def measure(self, walker: Walker, standing: Standing, phase: Phase, at: int) -> dict[str, Any] | None:
        """Measure the ``walker`` of ``phase``, with averaged weights where the phase has any, ``at`` so many updates of the run. Trains nothing.

        Ranks that have a share of its network draw with rank 0. None where there is nothing to say: on other ranks than that, and in a run that
        is asked to end. Raises DiskFull.
        """
        began, average, together = time.monotonic(), phase.averages.get("student"), in_shares(walker.unet)
        if dist.rank() and not together:
            return None
        with torch.random.fork_rng(devices=[]), average.worn(phase.models["student"]) if average else nullcontext():
            pictures = self._pictures(walker, together)
            if pictures is None:
                return None
            line: dict[str, Any] = {"phase": phase.name, "update": self.run.state.update, "at": at, "steps": walker.steps}
            line["figures"] = {} if dist.rank() else self._figures(pictures)
            line["best"] = self._is_best(line)
            if dist.agreed(line["best"]) if together else line["best"]:
                self._keep(line, *standing())
        if dist.rank():
            return None
        self.seconds.append(round(time.monotonic() - began, 2))
        line["seconds"] = self.seconds[-1]
        name = f"{phase.name.replace('/', '-')}-{self.run.state.update}"
        with self.run.room(pictures.nbytes // 8):
            write_bytes(self.run.folder / FOLDER / f"{name}.jpg", stacked(pictures, SHOWN))
        self._write_text(f"{name}.json", json.dumps(line, indent=1))
        self._write_text(f"{name}.html", page(self.run.folder, at))
        return line

    def about(self) -> dict[str, Any]:
        """For status.json: what evaluation costs, what says which student is best, and what is left out."""
        return {"count": len(self.seconds), "seconds": round(sum(self.seconds), 1), "figure": self.figure, "left_out": self.left_out}

    def _is_best(self, line: Mapping[str, Any]) -> bool:
        """Whether a student is the best of its stage so far; of equals the later. An adapter only stands in for one, and is not kept."""
        value, before = line["figures"].get(self.figure, math.nan), self.run.state.best.get(str(line["steps"]), {})
        if not math.isfinite(value) or line["phase"].endswith("/adapter"):
            return False
        return bool(before.get("figure") != self.figure or FIGURES[self.figure].better * (value - before["value"]) >= 0)

    def _keep(self, line: Mapping[str, Any], tensors: dict[str, Tensor], stamp: Stamp) -> None:
        """Keep a student, and say so in the run's state."""
        if dist.rank():
            return
        path = best_path(self.run.folder, line["steps"])
        with self.run.room(sum(tensor.nbytes for tensor in tensors.values())):
            save_weights(tensors, path, stamp.to_metadata())
        found = {"file": path.name, "figure": self.figure, "value": line["figures"][self.figure], "phase": line["phase"], "update": line["update"]}
        self.run.state.best[str(line["steps"])] = found

    def _pictures(self, walker: Walker, together: bool = False) -> np.ndarray | None:
        """uint8 [N, H, W, 3]; None if the run is asked to end meanwhile, which all ranks agree on where they draw ``together``."""
        drawn = []
        for part in self.parts:
            ends = self.run.stopping is not None
            if dist.agreed(ends) if together else ends:
                return None
            with torch.no_grad():
                drawn.append(decode(self.bundle.vae, self.draw(walker, part).nan_to_num(), most=1))  # beside a training there is little room
        return np.concatenate(drawn)

    def _figures(self, pictures: np.ndarray) -> dict[str, float]:
        found = {name: value for scorer in self._scorers for name, value in scorer(pictures).items()}
        return {name: float(f"{found[name]:.6g}") for name in FIGURES if name in found}

    def _teachers(self, teacher: Walker) -> np.ndarray:
        """The teacher's pictures, which no later start of the run draws again."""
        folder, index = self.run.folder / FOLDER, self._index(teacher)
        files = [folder / f"teacher-{number}.png" for number in range(len(self.asked.prompts))]
        folder.mkdir(exist_ok=True)
        there = read_record(folder / INDEX) or {}
        if all(there.get(key) == value for key, value in index.items()):
            return np.stack([np.asarray(Image.open(file)) for file in files])
        for stale in folder.iterdir():
            stale.unlink()
        self.run.state.best.clear()
        pictures = self._pictures(teacher)
        assert pictures is not None, "nobody has asked the run to end yet"
        with self.run.room(pictures.nbytes):
            for picture, file in zip(pictures, files, strict=True):
                Image.fromarray(picture).save(file)
            write_bytes(folder / "teacher.jpg", stacked(pictures, SHOWN))
        return pictures

    def _index(self, teacher: Walker) -> dict[str, Any]:
        """What was asked of whom."""
        size = list(self.parts[0].latents.shape[2:])
        walk = {"teacher_steps": teacher.steps, "guidance_scale": teacher.guidance_scale, "teacher": self.bundle.hash}
        return {"prompts": list(self.asked.prompts), "seed": self.parts[0].seed, "latents": size, **walk}

    def _write_text(self, name: str, text: str) -> None:
        with self.run.room(len(text)):
            write_text(self.run.folder / FOLDER / name, text)
