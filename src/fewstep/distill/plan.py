"""Progressive adversarial distillation as one restartable run: a teacher in, a student for each stage out (paper, sections 3.2 to 3.7).

DIR/weights/<stage>-<phase>.safetensors   what each finished phase leaves
DIR/weights/<N>-step.safetensors          the whole student of each finished stage, stamped
DIR/model/                                the teacher's bundle with the students as they ship
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import AttnProcessor

from fewstep.distill import dist, steps
from fewstep.distill.ema import Ema
from fewstep.distill.latents import Latents, Samples, cache_key
from fewstep.distill.pretrain import complete, dtype, train_teacher
from fewstep.distill.recipe import read_recipe, recipe_hash
from fewstep.distill.schedules import constant
from fewstep.distill.state import Run, write_text
from fewstep.distill.steps import Task
from fewstep.distill.teacher import FrozenText
from fewstep.distill.trainer import Losses, Phase
from fewstep.distill.world import DataRecipe, open_world
from fewstep.models.bundle import Bundle, load_bundle, load_weights, save_bundle, save_weights
from fewstep.models.critic import Backbone, Critic
from fewstep.models.lora import adapters, add_lora, extract_lora, fuse_lora, set_adapters
from fewstep.stamp import Stamp

PHASES = ("mse", "convert", "warm", "conditional", "unconditional", "full")  # of a stage, in order; then the adapter, which no next stage sees


@dataclass(frozen=True)
class Stage:
    """From a teacher of ``teacher_steps`` steps to a student of ``steps``. Updates count both turns, student's and critic's."""

    steps: int
    teacher_steps: int  # the run's own student of that many steps, or its teacher in the first stage
    n: int  # teacher steps that one step of the student covers, at most; a jump ends at the clean picture
    levels: tuple[int, ...] = ()  # where jumps start on the teacher's grid; empty: the student's own timesteps
    kind: Literal["mse", "adversarial"] = "adversarial"
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    convert: int = 0  # updates of the MSE conversion to x0-prediction
    mse: int = 0
    warm: int = 0  # MSE before the contest, for small budgets: what adversarial updates would spend on getting near
    conditional: int = 0  # LoRA, conditional critic
    unconditional: int = 0  # the same LoRA, unconditional critic
    full: int = 0  # the merged UNet, unconditional critic
    adapter: int = 0  # the LoRA that ships, from the SVD of the change on, against the whole student; 0: the SVD as it is
    renoise_t: tuple[int, ...] = ()  # the critic's timesteps for clean latents
    renoise_weights: tuple[float, ...] = ()
    late_weights: tuple[float, ...] = ()  # the weights of the last phase, once it is stable; empty: the same

    def __post_init__(self) -> None:
        if self.teacher_steps % self.steps or self.n > self.teacher_steps:
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: the teacher's steps must be a multiple of the student's")
        for weights in (self.renoise_weights, self.late_weights):
            if weights and len(weights) != len(self.renoise_t):
                raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: {len(self.renoise_t)} renoise_t, but {len(weights)} weights")
        if self.renoise_t and not self.renoise_weights:
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: renoise_t needs renoise_weights")
        if bool(self.convert) != (self.prediction_type == "sample"):
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: convert goes with prediction_type 'sample'")
        if (self.kind == "mse") != bool(self.mse):
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: kind 'mse' and only that has mse updates")
        if self.kind == "mse" and (self.warm or self.adapter):
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: an MSE stage needs no warm updates and ships no adapter")
        if self.adapter and self.prediction_type == "sample":
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: a student that predicts x0 ships whole, it has no adapter")
        if any(not 1 <= level <= self.teacher_steps for level in self.levels):
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: levels lie between 1 and {self.teacher_steps}")

    @property
    def name(self) -> str:
        """As it stands in metrics and file names."""
        return f"{self.teacher_steps}to{self.steps}"

    def starts(self) -> tuple[int, ...]:
        """The levels where jumps start."""
        stride = self.teacher_steps // self.steps
        return self.levels or tuple(range(stride, self.teacher_steps + 1, stride))


@dataclass(frozen=True)
class DistillPlan:
    """A recipe for ``fewstep distill``."""

    teacher: str  # a model's folder, "emoji", or a teacher's recipe (.toml beside this one), which is carried out first
    stages: tuple[Stage, ...]
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    guidance_scale: float = 4.0  # of the teacher in the first stage; no later stage has any
    batch_size: int = 32
    reuse: int = 1  # how often the phases that follow the teacher by MSE see each batch: its walk is the dearest part of them
    rank: int = 16
    alpha: float = 16.0
    ship_rank: int = 16  # of the LoRAs that ship: the change from teacher to student, by SVD
    ema: float = 0.99  # of the student in the phases that train the whole UNet
    mse_learning_rate: float = 3e-4
    lora_learning_rate: float = 1e-4
    full_learning_rate: float = 3e-5
    critic_learning_rate: float = 3e-5
    r1_weight: float = 0.0
    r1_sigma: float = 0.05
    data: DataRecipe = field(default_factory=DataRecipe)

    def __post_init__(self) -> None:
        known: set[int] = set()
        if self.reuse < 1:
            raise ValueError(f"reuse = {self.reuse}: a batch is seen at least once")
        for index, stage in enumerate(self.stages):
            if index and stage.teacher_steps not in known:
                raise ValueError(f"stage {stage.teacher_steps} -> {stage.steps}: no earlier stage makes a {stage.teacher_steps}-step student")
            known.add(stage.steps)
        if not self.stages:
            raise ValueError("stages: a plan has at least one")


def distill(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the bundle with its students. Goes on where it was stopped.

    Raises RecipeError, WeightsError or ModelError on what cannot be used, NonFinite if training diverges.
    """
    dist.start()
    plan = read_recipe(path, DistillPlan, settings)
    run = Run(folder, recipe_hash(plan))
    bundle = load_bundle(_teacher(plan, path, folder), dist.device())
    for network in (bundle.vae, bundle.unet):
        network.set_attn_processor(AttnProcessor())
        network.to(memory_format=torch.channels_last)
    precision = dtype(plan.precision)
    latents = Latents(folder / "latents", open_world(plan.data), bundle.vae, plan.data.pictures, cache_key(plan.data, bundle.vae, precision), precision)
    walk = Walk(plan, run, bundle, latents, FrozenText(bundle))
    student: Any = bundle.unet
    for stage in plan.stages:
        student = walk.stage(stage, student)
    walk.ship()
    return folder / "model"


def _teacher(plan: DistillPlan, path: Path, folder: Path) -> Path:
    if plan.teacher.endswith(".toml"):
        return train_teacher(path.parent / plan.teacher, folder / "teacher")
    from fewstep.zoo.registry import find

    return find(plan.teacher)


@dataclass
class Walk:
    """The walk through a plan's stages: it builds each phase and leaves the loop to the trainer."""

    plan: DistillPlan
    run: Run
    bundle: Bundle
    latents: Latents
    text: FrozenText

    def stage(self, stage: Stage, previous: Any) -> Any:
        """Carry out one stage from the ``previous`` student; returns the new one, whole and frozen."""
        path = self.run.folder / "weights" / f"{stage.steps}-step.safetensors"
        student = copy.deepcopy(previous).train()
        if not path.is_file():
            student.requires_grad_(True)
            task = self._task(stage, self._network(stage.teacher_steps))
            (self._mse if stage.kind == "mse" else self._adversarial)(stage, task, student)
            if dist.rank() == 0:
                save_weights({key: value.contiguous() for key, value in student.state_dict().items()}, path, self.stamp(stage).to_metadata())
            dist.wait()
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
        )

    def ship(self) -> None:
        """Write DIR/model: the teacher, each adversarial student of more than one step as a LoRA, the one-step student whole."""
        folder = self.run.folder / "model"
        if dist.rank() != 0 or (folder / "students.json").is_file():
            return
        save_bundle(self.bundle, folder)
        (folder / "students").mkdir(exist_ok=True)
        report = {}
        for stage in self.plan.stages:
            if stage.kind == "mse":
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
            guidance_scale=self.plan.guidance_scale if stage.kind == "mse" else 0.0,
            prediction_type=stage.prediction_type,
            renoise_t=stage.renoise_t,
            renoise_weights=stage.renoise_weights,
            r1_weight=self.plan.r1_weight,
            r1_sigma=self.plan.r1_sigma,
            walks={} if self.plan.reuse > 1 else None,
        )

    def _mse(self, stage: Stage, task: Task, student: Any) -> None:
        complete(self.run, self._supervised(stage, "mse", student, lambda samples: steps.mse_losses(task, student, samples)), f"{stage.name}-mse")

    def _adversarial(self, stage: Stage, task: Task, student: Any) -> None:
        """Section 3.2 to 3.4: LoRA with the conditional critic, LoRA with the unconditional one, merge, then the whole UNet."""
        if stage.convert:
            frozen = copy.deepcopy(student).eval().requires_grad_(False)
            phase = self._supervised(stage, "convert", student, lambda samples: steps.convert_losses(task, student, frozen, samples))
            complete(self.run, phase, f"{stage.name}-convert")
        if stage.warm:
            phase = self._supervised(stage, "warm", student, lambda samples: steps.landing_losses(task, student, samples))
            complete(self.run, phase, f"{stage.name}-warm")
        low_rank = add_lora(student, self.plan.rank, self.plan.alpha, self.plan.seed + stage.steps)
        backbone = Backbone(self.bundle.unet)  # anew at each stage
        for name in ("conditional", "unconditional"):
            critic = Critic(backbone, conditional=name == "conditional", seed=self.plan.seed + stage.steps).to(self.bundle.device)
            optimizer = torch.optim.AdamW(low_rank, lr=self.plan.lora_learning_rate, betas=(0.0, 0.99), weight_decay=0.0)
            complete(self.run, self._contest(stage, name, task, student, critic, optimizer), f"{stage.name}-{name}")
        fuse_lora(student)
        student.requires_grad_(True)
        if stage.late_weights:
            task = Task(**{**vars(task), "renoise_weights": stage.late_weights})
        optimizer = torch.optim.AdamW(student.parameters(), lr=self.plan.full_learning_rate, betas=(0.0, 0.99), weight_decay=0.0)
        phase = self._contest(stage, "full", task, student, critic, optimizer)
        phase.averages = {"student": Ema(student, self.plan.ema)}
        complete(self.run, phase, f"{stage.name}-full")

    def _adapter(self, stage: Stage, task: Task, whole: Any) -> Any:
        """The teacher with the adapters that ship: the SVD of the whole student's change, taught what the low rank leaves out."""
        adapted = copy.deepcopy(self.bundle.unet).train()
        add_lora(adapted, self.plan.ship_rank, self.plan.ship_rank)
        set_adapters(adapted, extract_lora(self.bundle.unet, whole, self.plan.ship_rank)[0])
        phase = self._supervised(stage, "adapter", adapted, lambda samples: steps.adapter_losses(task, adapted, whole, samples))
        complete(self.run, phase, f"{stage.name}-adapter")
        return adapted

    def _supervised(self, stage: Stage, name: str, student: Any, losses: Any) -> Phase:
        learnt = [parameter for parameter in student.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=self.plan.mse_learning_rate, betas=(0.9, 0.999), weight_decay=0.0)
        period = -(-getattr(stage, name) // self.plan.reuse) * self.plan.batch_size if name in ("mse", "warm") else None
        phase = self._phase(stage, name, {"student": student}, {"student": optimizer}, lambda turn, samples: losses(samples), period)
        phase.averages = {"student": Ema(student, self.plan.ema)}
        return phase

    def _contest(self, stage: Stage, name: str, task: Task, student: Any, critic: Critic, optimizer: torch.optim.Optimizer) -> Phase:
        """Critic and student in turn. A turn's gradients reach only the weights whose turn it is."""
        optimizers = {
            "critic": torch.optim.AdamW(critic.parameters(), lr=self.plan.critic_learning_rate, betas=(0.0, 0.99), weight_decay=0.0),
            "student": optimizer,
        }

        def losses(turn: str, samples: Any) -> Losses:
            critic.requires_grad_(turn == "critic")
            if turn == "critic":
                return steps.critic_losses(task, student, critic, samples)
            return steps.student_losses(task, student, critic, samples)

        phase = self._phase(stage, name, {"student": student, "critic": critic}, optimizers, losses)
        phase.turns = ("critic", "student")
        return phase

    def _phase(self, stage: Stage, name: str, models: Any, optimizers: Any, losses: Any, period: int | None = None) -> Phase:
        plan, scale, device = self.plan, self.bundle.vae.config.scaling_factor, self.bundle.device
        # each phase has its own stretch of sample indices, so that no two phases draw the same noise
        offset = (1 + len(self.run.state.done)) * (10**9 // plan.batch_size) * plan.batch_size

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
        )
