"""Progressive adversarial distillation as one restartable run: a teacher in, a student for each stage out (paper, sections 3.2 to 3.7).

DIR/weights/<stage>-<phase>.safetensors   what each finished phase leaves
DIR/weights/<N>-step.safetensors          the whole student of each finished stage, stamped
DIR/model/                                the teacher's bundle with the students as they ship
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fewstep.distill import dist, steps
from fewstep.distill.described import check_teacher
from fewstep.distill.ema import Ema
from fewstep.distill.feed import open_feed
from fewstep.distill.latents import Cache, Samples, Text, stretch
from fewstep.distill.methods import method_of
from fewstep.distill.methods.method import Method
from fewstep.distill.outline import outline_of
from fewstep.distill.plan import PHASES, DistillPlan, Stage
from fewstep.distill.pretrain import attention, complete, dtype, train_teacher
from fewstep.distill.recipe import read_recipe, recipe_hash
from fewstep.distill.schedules import constant, cosine
from fewstep.distill.start import bring, keep
from fewstep.distill.state import Run, write_text
from fewstep.distill.steps import Task
from fewstep.distill.trainer import Losses, Phase, Routine
from fewstep.distill.watch.probe import Probe, Walker
from fewstep.distill.watch.watch import Watch
from fewstep.models.bundle import Bundle, load_bundle, load_weights, save_bundle, save_weights
from fewstep.models.lora import adapters, add_lora, extract_lora, fuse_lora, set_adapters
from fewstep.stamp import Stamp
from fewstep.zoo.registry import find


def distill(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the bundle with its students. Goes on where it was stopped.

    Raises RecipeError, WeightsError or ModelError on what cannot be used, NonFinite or Stopped if training diverges, Terminated, DiskFull.
    """
    dist.start()
    plan = read_recipe(path, DistillPlan, settings)
    method = method_of(plan, path)
    run = Run(folder, recipe_hash(plan))
    watch = Watch(run, outline_of(plan, method.passes), plan.health, plan.tracking)
    run.observers = watch.routines()
    bundle = load_bundle(_teacher(plan, path, folder), dist.device())
    for network in (bundle.vae, bundle.unet):
        network.set_attn_processor(attention())
        network.to(memory_format=torch.channels_last)
    feed = open_feed(plan.data, folder, bundle, dtype(plan.precision), plan.batch_size)
    walk = Walk(plan, method, run, bundle, feed.latents, feed.text, watch.probes)
    student = walk.begin()
    for stage in plan.stages:
        student = walk.stage(stage, student)
    walk.ship()
    watch.finish()
    dist.wait()  # no rank says that the model is there before it is
    return folder / "model"


def _teacher(plan: DistillPlan, path: Path, folder: Path) -> Path:
    if plan.teacher.endswith(".toml"):
        return train_teacher(path.parent / plan.teacher, folder / "teacher")
    folder = find(plan.teacher)
    check_teacher(plan.teacher, folder)
    return folder


@dataclass
class Walk:
    """The walk through a plan's stages: it builds each phase and leaves the loop to the trainer."""

    plan: DistillPlan
    method: type[Method]
    run: Run
    bundle: Bundle
    latents: Cache
    text: Text
    probes: Callable[[Probe], list[Routine]] = lambda probe: []  # who looks at fixed prompts while a phase is trained

    def begin(self) -> Any:
        """The student that the first stage goes on from: the teacher, or the one that the plan starts from. Begins the film."""
        first, stages = self.bundle.unet, self.plan.stages
        if self.plan.start:
            bring(self.plan, self.bundle, self.run.folder / "weights" / f"{self.plan.start_steps}-step.safetensors")
            first = self._network(self.plan.start_steps)
        if self.plan.health.every:
            teacher = Walker(first, stages[0].teacher_steps, guidance_scale=self._guidance(stages[0]))
            probe = Probe(self.bundle, self.latents, self.text, Walker(first, stages[0].steps), teacher, dtype(self.plan.precision))
            probe.opening(self.run, [stage.steps for stage in stages])
        return first

    def stage(self, stage: Stage, previous: Any) -> Any:
        """Carry out one stage from the ``previous`` student; returns the new one, whole and frozen."""
        path = self.run.folder / "weights" / f"{stage.steps}-step.safetensors"
        student = copy.deepcopy(previous).train()
        if not path.is_file():
            student.requires_grad_(True)
            self._spare_memory(student)
            task = self._task(stage, self._network(stage.teacher_steps))
            (self._mse if stage.kind == "mse" else self._adversarial)(stage, task, student)
            keep(student, self.stamp(stage), path)
        load_weights(student, path)
        student = student.eval().requires_grad_(False)
        if stage.adapter:
            self._adapter(stage, self._task(stage, None), student)
        return student

    def stamp(self, stage: Stage) -> Stamp:
        """What a stage's student says of itself."""
        phases = tuple(name.split("/")[1] for name in self.run.state.done if name.startswith(f"{stage.name}/"))
        seen = sum(getattr(stage, phase) for phase in PHASES) * self.plan.batch_size
        return Stamp(
            kind="unet",
            steps=stage.steps,
            prediction_type=stage.prediction_type,
            base=self.bundle.hash,
            recipe=recipe_hash(self.plan),
            stage=stage.name,
            phases=phases,
            pictures=seen,
            fresh=self._fresh(stage),
        )

    def _fresh(self, stage: Stage) -> float:
        return self.method.fresh if stage.full else 0.0

    def ship(self) -> None:
        """Write DIR/model: the teacher, each adversarial student of more than one step as a LoRA, the one-step student whole."""
        folder = self.run.folder / "model"
        if dist.rank() != 0 or (folder / "students.json").is_file():
            return
        save_bundle(self.bundle, folder)
        (folder / "students").mkdir(exist_ok=True)
        report = {}
        for stage in self.plan.stages:
            if stage.kind == "mse" and not stage.adapter:
                continue
            student, stamp = self._network(stage.steps), self.stamp(stage)
            kind: Literal["unet", "lora"] = "unet" if stage.prediction_type == "sample" else "lora"
            tensors, residual = (dict(student.state_dict()), 0.0)
            if kind == "lora":
                tensors, residual = extract_lora(self.bundle.unet, student, self.plan.ship_rank)
            if stage.adapter:
                tensors = adapters(self._adapter(stage, self._task(stage, None), student))
            alpha, seen = float(self.plan.ship_rank) if kind == "lora" else 0.0, stamp.pictures + stage.adapter * self.plan.batch_size
            metadata = Stamp(**{**vars(stamp), "kind": kind, "base": self.bundle.hash, "alpha": alpha, "pictures": seen})
            file = folder / "students" / f"{stage.steps}-step-{kind}.safetensors"
            save_weights({key: value.half().contiguous() for key, value in tensors.items()}, file, metadata.to_metadata())
            report[str(stage.steps)] = {"file": file.name, "residual": residual}
        write_text(folder / "students.json", json.dumps(report, indent=1))

    def _guidance(self, stage: Stage) -> float:
        return self.plan.guidance_scale if stage.kind == "mse" else 0.0

    def _network(self, student_steps: int) -> Any:
        """The frozen student of ``student_steps`` steps that this run made; the teacher if it made none."""
        path = self.run.folder / "weights" / f"{student_steps}-step.safetensors"
        if not path.is_file():
            return self.bundle.unet
        unet = copy.deepcopy(self.bundle.unet)
        load_weights(unet, path)
        return unet.eval().requires_grad_(False)

    def _task(self, stage: Stage, teacher: Any) -> Task:
        return Task(
            text=self.text,
            teacher=teacher,
            teacher_steps=stage.teacher_steps,
            n=stage.n,
            levels=stage.starts(),
            guidance_scale=self._guidance(stage),
            prediction_type=stage.prediction_type,
            renoise_t=stage.renoise_t,
            renoise_weights=stage.renoise_weights,
            r1_weight=self.plan.r1_weight,
            r1_sigma=self.plan.r1_sigma,
            relativistic=self.plan.relativistic,
            noisy=self.plan.critic_noise == "every",
            walks={} if self.plan.reuse > 1 else None,
        )

    def _mse(self, stage: Stage, task: Task, student: Any) -> None:
        phase = self._supervised(stage, "mse", student, lambda samples: steps.mse_losses(task, student, samples))
        self._complete(phase, f"{stage.name}-mse", self._looks(stage, task, student))

    def _adversarial(self, stage: Stage, task: Task, student: Any) -> None:
        """Section 3.2 to 3.4: from the x0 conversion on to what the method does, with a LoRA, which is merged, and with the whole UNet."""
        looks = self._looks(stage, task, student)
        if stage.convert:
            frozen = copy.deepcopy(student).eval().requires_grad_(False)
            phase = self._supervised(stage, "convert", student, lambda samples: steps.convert_losses(task, student, frozen, samples))
            self._complete(phase, f"{stage.name}-convert", looks)
        if stage.warm:
            phase = self._supervised(stage, "warm", student, lambda samples: steps.landing_losses(task, student, samples))
            self._complete(phase, f"{stage.name}-warm", looks)
        method, low_rank = self.method(self.bundle, self.plan, stage), [name for name in self.method.phases if name != "full"]
        if low_rank:
            learnt = add_lora(student, self.plan.rank, self.plan.alpha, self.plan.seed + stage.steps)
            for name in low_rank:
                optimizer = torch.optim.AdamW(learnt, lr=self.plan.lora_learning_rate, betas=(0.0, 0.99), weight_decay=0.0)
                self._complete(self._contest(stage, name, task, student, method, optimizer), f"{stage.name}-{name}", looks)
            fuse_lora(student)
            student.requires_grad_(True)
        if stage.late_weights:
            task = Task(**{**vars(task), "renoise_weights": stage.late_weights})
        optimizer = torch.optim.AdamW(student.parameters(), lr=self.plan.full_learning_rate, betas=(0.0, 0.99), weight_decay=0.0)
        phase = self._contest(stage, "full", task, student, method, optimizer)
        phase.averages = {"student": Ema(student, self.plan.ema)}
        self._complete(phase, f"{stage.name}-full", looks)

    def _adapter(self, stage: Stage, task: Task, whole: Any) -> Any:
        """The teacher with the adapters that ship: the SVD of the whole student's change, taught what the low rank leaves out."""
        adapted = copy.deepcopy(self.bundle.unet).train()
        self._spare_memory(adapted)
        add_lora(adapted, self.plan.ship_rank, self.plan.ship_rank)
        set_adapters(adapted, extract_lora(self.bundle.unet, whole, self.plan.ship_rank)[0])
        phase = self._supervised(stage, "adapter", adapted, lambda samples: steps.adapter_losses(task, adapted, whole, samples))
        looks = self._looks(stage, Task(**{**vars(task), "teacher": whole, "teacher_steps": stage.steps, "guidance_scale": 0.0}), adapted)
        self._complete(phase, f"{stage.name}-adapter", looks)
        return adapted

    def _complete(self, phase: Phase, name: str, routines: Sequence[Routine]) -> None:
        """Carry a phase out; a forecast only counts what it would cost."""
        complete(self.run, phase, name, routines)

    def _spare_memory(self, unet: Any) -> None:
        if self.plan.checkpointing:
            unet.enable_gradient_checkpointing()

    def _looks(self, stage: Stage, task: Task, student: Any) -> list[Routine]:
        """A probe of ``student`` beside the task's teacher."""
        learner = Walker(student, stage.steps, task.prediction_type, fresh=self._fresh(stage))
        fresh = learner.fresh if task.teacher_steps == stage.steps else 0.0  # an adapter is seen beside the whole student, which walks as it does
        teacher = Walker(task.teacher, task.teacher_steps, guidance_scale=task.guidance_scale, fresh=fresh)
        return self.probes(Probe(self.bundle, self.latents, self.text, learner, teacher, dtype(self.plan.precision)))

    def _supervised(self, stage: Stage, name: str, student: Any, losses: Any) -> Phase:
        learnt = [parameter for parameter in student.parameters() if parameter.requires_grad]
        rate = stage.mse_learning_rate or self.plan.mse_learning_rate
        optimizer = torch.optim.AdamW(learnt, lr=rate, betas=(0.9, 0.999), weight_decay=0.0)
        period = self._period(stage, name) if name in ("mse", "warm") else None
        phase = self._phase(stage, name, {"student": student}, {"student": optimizer}, lambda turn, samples: losses(samples), period)
        phase.averages = {"student": Ema(student, self.plan.ema)}
        phase.learning_rate = lambda update: cosine(update, phase.updates, warmup=10)
        return phase

    def _contest(self, stage: Stage, name: str, task: Task, student: Any, method: Method, optimizer: torch.optim.Optimizer) -> Phase:
        """The method's networks and the student in turn. A turn's gradients reach only the weights whose turn it is."""
        networks, rate = method.networks(name), self.plan.critic_learning_rate
        task = task if method.reuses else Task(**{**vars(task), "walks": None})  # batches that never come again are not to be remembered
        optimizers = {key: torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.0, 0.99), weight_decay=0.0) for key, net in networks.items()}

        def losses(turn: str, samples: Any) -> Losses:
            for key, network in networks.items():
                network.requires_grad_(turn == key)
            return method.losses(turn, task, student, samples)

        period = self._period(stage, name) if method.reuses else None
        phase = self._phase(stage, name, {"student": student, **networks}, {**optimizers, "student": optimizer}, losses, period)
        phase.turns = method.turns
        return phase

    def _period(self, stage: Stage, name: str) -> int:
        """After how many samples a phase's batches come again."""
        return -(-getattr(stage, name) // self.plan.reuse) * self.plan.batch_size

    def _phase(self, stage: Stage, name: str, models: Any, optimizers: Any, losses: Any, period: int | None = None) -> Phase:
        plan, scale, device = self.plan, self.bundle.vae.config.scaling_factor, self.bundle.device
        # each phase has its own stretch of sample indices, so that no two phases draw the same noise
        offset = (1 + len(self.run.state.done)) * stretch(plan.batch_size)

        def batch(indices: range) -> Samples:
            place = offset if period is None else offset - indices.start // period * period  # after a period the same samples come again
            return self.latents.batch(range(indices.start + place, indices.stop + place, indices.step), plan.batch_size, scale, device)

        return Phase(
            name=f"{stage.name}/{name}",
            updates=getattr(stage, name),
            batch_size=plan.batch_size,
            models=models,
            optimizers=optimizers,
            batch=batch,
            losses=losses,
            learning_rate=lambda update: constant(update, warmup=10),
            clip=1.0,
            precision=dtype(plan.precision),
            accumulate=plan.accumulate,
        )
