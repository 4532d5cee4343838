"""Progressive adversarial distillation as one restartable run: a teacher in, a student for each stage out (paper, sections 3.2 to 3.7).

DIR/weights/<stage>-<phase>.safetensors   what each finished phase leaves
DIR/weights/<N>-step.safetensors          the whole student of each finished stage, stamped; <N>-step-best beside it (watch/evaluation.py)
DIR/model/                                the teacher's bundle with the students as they ship
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.distill import dist, steps
from fewstep.distill.ema import Ema
from fewstep.distill.feed import keep_to_model, open_feed
from fewstep.distill.latents import Cache, Samples, Text, stretch
from fewstep.distill.methods import method_of
from fewstep.distill.methods.method import Method
from fewstep.distill.optimizer import MomentlessAdam
from fewstep.distill.outline import outline_of
from fewstep.distill.plan import PHASES, DistillPlan, Stage
from fewstep.distill.pretrain import attention, complete, dtype
from fewstep.distill.recipe import read_recipe, recipe_hash
from fewstep.distill.schedules import constant, cosine
from fewstep.distill.ship import Shelf
from fewstep.distill.start import bring, bring_begun, check, check_knows, teacher
from fewstep.distill.state import Run
from fewstep.distill.steps import Task
from fewstep.distill.students import Students, students_of
from fewstep.distill.trainer import Losses, Phase, Routine
from fewstep.distill.watch.asked import open_evaluation
from fewstep.distill.watch.evaluation import Standing
from fewstep.distill.watch.probe import Probe, Walker
from fewstep.distill.watch.watch import Watch
from fewstep.models.bundle import Bundle, load_bundle, read_stamp, save_weights
from fewstep.models.counts import learn_counts, told
from fewstep.models.lora import adapters, add_lora, extract_lora, set_adapters
from fewstep.stamp import Stamp


def distill(path: Path, folder: Path, settings: Sequence[str] = ()) -> Path:
    """Carry out the recipe at ``path`` in the run ``folder`` and return the bundle with its students. Goes on where it was stopped.

    Raises RecipeError, WeightsError or ModelError on what cannot be used, NonFinite or Stopped if training diverges, Terminated, DiskFull.
    """
    dist.start()
    plan = read_recipe(path, DistillPlan, settings)
    method = method_of(plan, path)
    check(plan)
    run = Run.of(plan, folder)
    watch = Watch(run, outline_of(plan, method.passes), plan.health, plan.tracking, plan.evaluation)
    run.observers = watch.routines()
    bundle = load_bundle(teacher(plan, path, folder), dist.device())
    keep_to_model(run, bundle)
    for network in (bundle.vae, bundle.unet):
        network.set_attn_processor(attention())
        network.to(memory_format=torch.channels_last)
    if plan.data.shards:  # prompts have been encoded
        bundle.text_encoder.to("cpu")
        bundle.text_encoder_2.to("cpu")
    feed = open_feed(plan.data, run, bundle, dtype(plan.precision), plan.batch_size)
    walk = Walk(plan, method, run, bundle, feed.latents, feed.text, students_of(plan, bundle), watch.probes)
    walk.begin()
    walk.evaluations = watch.evaluations(open_evaluation(plan, run, bundle, feed))
    for stage in plan.stages:
        walk.stage(stage)
    if dist.rank() == 0:
        walk.shelf.ship()
    watch.finish()
    dist.wait()  # no rank says that the model is there before it is
    return folder / "model"


@dataclass
class Walk:
    """The walk through a plan's stages: it builds each phase and leaves the loop to the trainer."""

    plan: DistillPlan
    method: type[Method]
    run: Run
    bundle: Bundle
    latents: Cache
    text: Text
    students: Students
    probes: Callable[[Probe], list[Routine]] = lambda probe: []  # who looks at fixed prompts while a phase is trained
    evaluations: Callable[[Walker, Standing], list[Routine]] = lambda walker, standing: []  # and who measures what it makes
    _looking: tuple[Any, list[Routine]] | None = field(default=None, repr=False)

    def begin(self) -> None:
        """Keep the students of others that stages go on from. Begins the film. Raises RecipeError on a teacher that does not know the data."""
        stages, start = self.plan.stages, self.plan.start_steps if self.plan.start else 0
        if start:
            bring(self.plan, self.students, self.shelf.student(start))
        for stage in stages:
            if stage.begin and not self.shelf.student(stage.steps).is_file():
                bring_begun(stage, self.bundle, self.shelf.begun(stage))
        if self.plan.health.every:
            first = self._network(start)
            teacher = Walker(first, stages[0].teacher_steps, guidance_scale=self.plan.guidance_of(stages[0]))
            probe = Probe(self.bundle, self.latents, self.text, Walker(first, stages[0].steps), teacher, dtype(self.plan.precision))
            if self.plan.health.stop and not (self.run.state.phase or self.run.state.done):
                check_knows(self.plan, probe.misses())
            probe.opening(self.run, [stage.steps for stage in stages])

    def stage(self, stage: Stage) -> None:
        """Carry out one stage. Its student lies in DIR/weights."""
        path = self.shelf.student(stage.steps)
        if not path.is_file():
            student = self.students.follow(self.shelf.before(stage))
            task = self._task(stage, self._network(stage.teacher_steps))
            student = (self._mse if stage.kind == "mse" else self._adversarial)(stage, task, student)
            for steps in stage.counts:  # the fewest last: its file says that the stage is done
                self.students.keep(student, self.stamp(stage, steps), self.shelf.student(steps), self._place(stage, steps))
        self._looking = None  # nor is a student kept for whoever looked at it
        if stage.adapter and not self.shelf.adapter(stage.steps).is_file():
            adapted = self._adapter(stage, self.shelf.shipped(stage, stage.steps)[0])
            if dist.rank() == 0:
                save_weights(adapters(adapted), self.shelf.adapter(stage.steps), {"format": "pt"})
            dist.wait()

    @property
    def shelf(self) -> Shelf:
        """The students that this run has finished."""
        return Shelf(self.run.folder, self.plan, self.students, self.stamp)

    def stamp(self, stage: Stage, steps: int) -> Stamp:
        """What a stage's student of so many ``steps`` says of itself; it may have several step counts."""
        phases = tuple(name.split("/")[1] for name in self.run.state.done if name.startswith(f"{stage.name}/"))
        before = self.shelf.before(stage)
        earlier = read_stamp(before) if before else None
        seen = sum(getattr(stage, phase) for phase in phases if phase in PHASES) * self.plan.batch_size
        return Stamp(
            kind=self.students.kind,
            steps=steps,
            prediction_type=stage.prediction_type,
            base=self.bundle.hash,
            recipe=recipe_hash(self.plan),
            stage=stage.name,
            phases=phases,
            pictures=seen + (earlier.pictures if earlier else 0),
            fresh=self._fresh(stage),
            anywhere=stage.anywhere > 0,
        )

    def _standing(self, stage: Stage, student: Any) -> tuple[dict[str, torch.Tensor], Stamp]:
        """What would be kept of a stage's ``student`` now, in the midst of a phase."""
        stamp, state = self.stamp(stage, stage.steps), self.run.state
        phases, pictures = (*stamp.phases, state.phase.split("/")[1]), stamp.pictures + state.samples
        return self.students.tensors(student, self._place(stage, stage.steps)), replace(stamp, phases=phases, pictures=pictures)

    def _place(self, stage: Stage, steps: int) -> int | None:
        """Where a step count stands among those of a stage's student; None where it has only one."""
        return stage.counts.index(steps) if stage.also else None

    def _fresh(self, stage: Stage) -> float:
        return self.method.fresh if stage.full else 0.0

    def _network(self, steps: int) -> Any:
        """The frozen student of ``steps`` steps that this run made; the teacher if it made none."""
        path = self.shelf.student(steps)
        return self.students.read(path) if path.is_file() else self.bundle.unet

    def _task(self, stage: Stage, teacher: Any) -> Task:
        return Task(
            text=self.text,
            teacher=teacher,
            teacher_steps=stage.teacher_steps,
            n=stage.n,
            levels=stage.starts(),
            counts=stage.counts if stage.also else (),
            anywhere=stage.anywhere,
            masked=stage.masked,
            guidance_scale=self.plan.guidance_of(stage),
            prediction_type=stage.prediction_type,
            renoise_t=stage.renoise_t,
            renoise_weights=stage.renoise_weights,
            r1_weight=self.plan.r1_weight,
            r1_sigma=self.plan.r1_sigma,
            relativistic=self.plan.relativistic,
            noisy=self.plan.critic_noise == "every",
            walks={} if self.plan.reuse > 1 else None,
        )

    def _mse(self, stage: Stage, task: Task, student: Any) -> Any:
        return self._learn(stage, "mse", task, student, partial(steps.mse_losses, task, student))

    def _adversarial(self, stage: Stage, task: Task, student: Any) -> Any:
        """Section 3.2 to 3.4: from the x0 conversion on to what the method does, with a LoRA, which is merged, and with the whole UNet."""
        if stage.also:
            learn_counts(student, len(stage.counts))
        if stage.convert:
            student = self._convert(stage, task, student)
        if stage.warm:
            student = self._learn(stage, "warm", task, student, partial(steps.landing_losses, task, student))
            if task.walks is not None:
                task.walks.clear()  # other batches follow
        method, low_rank = self.method(self.bundle, self.plan, stage), [name for name in self.method.phases if name != "full" and getattr(stage, name)]
        if low_rank or self.plan.lora_only:
            self.students.adapt(student, self.plan.seed + stage.steps)
            for name in low_rank:
                student = self._contest(stage, name, task, student, method)
            self.students.merge(student)
        if self.plan.lora_only or not stage.full:
            return student
        if stage.late_weights:
            task = replace(task, renoise_weights=stage.late_weights)
        return self._contest(stage, "full", task, student, method)

    def _convert(self, stage: Stage, task: Task, student: Any) -> Any:
        frozen, task = copy.deepcopy(student).eval().requires_grad_(False), replace(task, walks=None)  # its batches never come again
        return self._learn(stage, "convert", task, student, partial(steps.convert_losses, task, student, frozen))

    def _adapter(self, stage: Stage, whole: Any) -> Any:
        """The teacher with the adapters that ship: the SVD of the whole student's change, taught what the low rank leaves out."""
        painter = self._network(stage.teacher_steps) if stage.masked else None  # all that a teacher does here is to paint beside what is kept
        adapted, task = self.students.follow(None), replace(self._task(stage, painter), walks=None)
        extracted, _ = extract_lora(adapted, whole, self.plan.ship_rank)
        add_lora(adapted, self.plan.ship_rank, self.plan.ship_rank)
        set_adapters(adapted, extracted)
        beside = replace(task, teacher=whole, teacher_steps=stage.steps, guidance_scale=0.0)  # whom it is looked at beside
        return self._learn(stage, "adapter", beside, adapted, partial(steps.adapter_losses, task, adapted, whole))

    def _complete(self, phase: Phase, name: str, routines: Sequence[Routine]) -> None:
        """Carry a phase out; a forecast only counts what it would cost."""
        complete(self.run, phase, name, routines, self.plan.save_seconds)

    def _looks(self, stage: Stage, task: Task, student: Any) -> list[Routine]:
        """Whoever looks at ``student`` beside the task's teacher, the same while it stays the same."""
        if self._looking is None or self._looking[0] is not student:
            place = self._place(stage, stage.steps)
            asked = {} if place is None else told(torch.tensor([place], device=self.bundle.device), len(stage.counts))
            learner = Walker(student, stage.steps, task.prediction_type, fresh=self._fresh(stage), asked=asked)
            fresh = learner.fresh if task.teacher_steps == stage.steps else 0.0  # an adapter is seen beside the whole student, which walks as it does
            teacher = Walker(task.teacher, task.teacher_steps, guidance_scale=task.guidance_scale, fresh=fresh)
            probe = Probe(self.bundle, self.latents, self.text, learner, teacher, dtype(self.plan.precision))
            self._looking = student, [*self.probes(probe), *self.evaluations(learner, partial(self._standing, stage, student))]
        return self._looking[1]

    def _learn(self, stage: Stage, name: str, task: Task, student: Any, losses: Callable[[Samples], Losses]) -> Any:
        """Have the student learn by MSE, and return it as that leaves it."""
        self.students.spread(student)
        saved, parameters = self.students.learnt(student), learning(student)
        rate, fused = stage.mse_learning_rate or self.plan.mse_learning_rate, self.plan.optimizer == "fused"
        optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.999), weight_decay=0.0, fused=fused or None)
        period = self._period(stage, name) if name in ("mse", "warm") else None
        phase = self._phase(stage, name, {"student": saved}, {"student": optimizer}, lambda turn, samples: losses(samples), period)
        phase.averages = {"student": Ema(saved, self.plan.ema)}
        phase.learning_rate = lambda update: cosine(update, phase.updates, warmup=10)
        return self._carry_out(phase, stage, name, task, student)

    def _contest(self, stage: Stage, name: str, task: Task, student: Any, method: Method) -> Any:
        """Have the method's networks and the student learn in turn, and return the student. A turn's gradients reach only the weights whose turn it is."""
        networks = {**method.networks(name), "student": student}
        for network in networks.values():
            self.students.spread(network)
        task = task if method.reuses else replace(task, walks=None)  # batches that never come again are not to be remembered
        learnt = {key: learning(network) for key, network in networks.items()}
        own = self.plan.full_learning_rate if name == "full" else self.plan.lora_learning_rate
        rates = {**dict.fromkeys(networks, self.plan.critic_learning_rate or own), "student": own}
        optimizers = {key: MomentlessAdam(learnt[key], rates[key], beta2=0.99) for key in networks}
        others = [(key, parameter) for key in networks if key != "student" for parameter in learnt[key]]

        def losses(turn: str, samples: Any) -> Losses:
            for key, parameter in others:
                parameter.requires_grad_(turn == key)
            return method.losses(turn, task, student, samples)

        period = self._period(stage, name) if method.reuses else None
        saved = {key: self.students.learnt(network) for key, network in networks.items()}
        phase = self._phase(stage, name, saved, optimizers, losses, period)
        phase.turns = method.turns
        if name == "full" or (self.plan.lora_only and name == "unconditional"):
            phase.averages = {"student": Ema(saved["student"], self.plan.ema)}
        student = self._carry_out(phase, stage, name, task, student)
        for _, parameter in others:
            parameter.requires_grad_(True)
        return student

    def _carry_out(self, phase: Phase, stage: Stage, name: str, task: Task, student: Any) -> Any:
        self._complete(phase, f"{stage.name}-{name}", self._looks(stage, task, student))
        return self.students.gathered(student)

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


def learning(network: nn.Module) -> list[nn.Parameter]:
    """The weights of ``network`` that learn."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
