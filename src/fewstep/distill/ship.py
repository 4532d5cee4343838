"""What a run leaves for others, DIR/model: the teacher's bundle with its students as they ship. It reads files and trains nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.state import write_text
from fewstep.distill.students import Students
from fewstep.distill.watch.evaluation import best_path
from fewstep.models.bundle import read_stamp, save_bundle, save_weights
from fewstep.models.lora import adapters, extract_lora
from fewstep.models.weights import read_weights
from fewstep.stamp import Stamp


@dataclass(frozen=True)
class Shelf:
    """The finished students of the run in ``folder``; ``stamp`` says what a stage's last one of so many steps is."""

    folder: Path
    plan: DistillPlan
    students: Students
    stamp: Callable[[Stage, int], Stamp]

    def student(self, steps: int) -> Path:
        """Where the student of ``steps`` steps lies, which the next stage goes on from."""
        return self.folder / "weights" / f"{steps}-step.safetensors"

    def begun(self, stage: Stage) -> Path:
        """Where the student lies that a stage begins as, where its recipe names one."""
        return self.folder / "weights" / f"{stage.name}-begin.safetensors"

    def before(self, stage: Stage) -> Path | None:
        """Where the student lies that a stage goes on from; None where that is the teacher."""
        if stage.begin:
            return self.begun(stage)
        at = self.plan.stages.index(stage)
        steps = self.plan.stages[at - 1].steps if at else self.plan.start_steps if self.plan.start else 0
        return self.student(steps) if steps else None

    def adapter(self, steps: int) -> Path:
        """Where the LoRA lies that has been taught to stand for it, if any has."""
        return self.folder / "weights" / f"{steps}-step-lora.safetensors"

    def shipped(self, stage: Stage, steps: int) -> tuple[Any, Stamp]:
        """(network, stamp) of the student of so many ``steps`` that a stage ships: its last, or its best where the recipe wants that and there is one."""
        path = best_path(self.folder, steps)
        if self.plan.evaluation.ship == "last" or (stamp := read_stamp(path) if path.is_file() else None) is None:
            path, stamp = self.student(steps), self.stamp(stage, steps)
        return self.students.follow(path).eval().requires_grad_(False), stamp

    def ship(self) -> None:
        """Write DIR/model, once: the teacher, each adversarial student as a LoRA, but whole where it predicts x0."""
        model = self.folder / "model"
        if (model / "students.json").is_file():
            return
        bundle = replace(self.students.bundle, unet=self.students.base())
        save_bundle(bundle, model)
        (model / "students").mkdir(exist_ok=True)
        report = {}
        shipping = [stage for stage in self.plan.stages if stage.kind != "mse" or stage.adapter]
        for stage, steps in ((one, steps) for one in shipping for steps in one.counts):
            student, stamp = self.shipped(stage, steps)
            kind: Literal["unet", "lora"] = "unet" if stage.prediction_type == "sample" else "lora"
            tensors, residual, alpha = dict(student.state_dict()), 0.0, 0.0
            if self.plan.lora_only:
                tensors, alpha = adapters(student), self.plan.alpha
            elif kind == "lora":
                (tensors, residual), alpha = extract_lora(bundle.unet, student, self.plan.ship_rank), float(self.plan.ship_rank)
            if stage.adapter:
                tensors = dict(read_weights(self.adapter(steps)))
            seen = stamp.pictures + stage.adapter * self.plan.batch_size
            metadata = replace(stamp, kind=kind, base=bundle.hash, alpha=alpha, pictures=seen)
            file = model / "students" / f"{steps}-step-{kind}.safetensors"
            save_weights({key: value.half().contiguous() for key, value in tensors.items()}, file, metadata.to_metadata())
            report[str(steps)] = {"file": file.name, "residual": residual}
        write_text(model / "students.json", json.dumps(report, indent=1))
