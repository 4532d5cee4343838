"""A recipe for distillation: stages from many steps to one, each with its phases (paper, sections 3.2 to 3.7)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from fewstep.distill.ranges import Amount, Count, Decay, Factor, Seed, Share, Steps, Timestep, Weight
from fewstep.distill.recipe import ASIDE
from fewstep.distill.world import DataRecipe

PHASES = ("mse", "convert", "warm", "conditional", "unconditional", "full")  # of a stage, in order; then the adapter, which no next stage sees


@dataclass(frozen=True)
class Stage:
    """From a teacher of ``teacher_steps`` steps to a student of ``steps``. Updates count both turns, student's and critic's."""

    steps: Steps
    teacher_steps: Steps  # the run's own student of that many steps, or its teacher in the first stage
    n: Steps  # teacher steps that one step of the student covers, at most; a jump ends at the clean picture
    levels: tuple[Steps, ...] = ()  # where jumps start on the teacher's grid; empty: the student's own timesteps
    also: tuple[Steps, ...] = ()  # other step counts of the same student, which is told which it is asked for; each has its own timesteps
    anywhere: Share = 0.0  # share of jumps that start at any noise level, as image-to-image does
    masked: Share = 0.0  # share of samples of which a part is kept, as in inpainting
    kind: Literal["mse", "adversarial"] = "adversarial"
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    begin: str = ""  # a whole student to begin as, of as many steps: a model's, a run's, or a file; empty: as the one of the stage before
    convert: Amount = 0  # updates of the MSE conversion to x0-prediction
    mse: Amount = 0
    mse_learning_rate: Weight = 0.0  # this stage's own; 0: the plan's
    warm: Amount = 0  # MSE before the contest, for small budgets: what adversarial updates would spend on getting near
    conditional: Amount = 0  # LoRA, conditional critic
    unconditional: Amount = 0  # the same LoRA, unconditional critic
    full: Amount = 0  # the merged UNet, unconditional critic
    adapter: Amount = 0  # the LoRA that ships, from the SVD of the change on, against the whole student; 0: the SVD as it is
    renoise_t: tuple[Timestep, ...] = ()  # the critic's timesteps for clean latents
    renoise_weights: tuple[Weight, ...] = ()
    late_weights: tuple[Weight, ...] = ()  # the weights of the last phase, once it is stable; empty: the same

    def __post_init__(self) -> None:
        if self.teacher_steps % self.steps or self.n > self.teacher_steps:
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: the teacher's steps must be a multiple of the student's")
        for weights in (self.renoise_weights, self.late_weights):
            if weights and len(weights) != len(self.renoise_t):
                raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: {len(self.renoise_t)} renoise_t, but {len(weights)} weights")
            if weights and not any(weights):
                raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: of the weights of renoise_t one is above 0")
        if self.renoise_t and not self.renoise_weights:
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: renoise_t needs renoise_weights")
        if bool(self.convert) != (self.prediction_type == "sample" and not self.begin):
            wanted = "convert goes with prediction_type 'sample'" if not self.begin else "what it begins as is not converted, leave convert out"
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: {wanted}")
        if (self.kind == "mse") != bool(self.mse):
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: kind 'mse' and only that has mse updates")
        if self.kind == "mse" and (others := [phase for phase in PHASES[1:] if getattr(self, phase)]):
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: an MSE stage has no {others[0]} updates")
        if self.kind == "mse" and self.prediction_type == "sample":
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: an MSE stage predicts ε, leave prediction_type out")
        if self.adapter and self.prediction_type == "sample":
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: a student that predicts x0 ships whole, it has no adapter")
        if self.kind == "mse" and (self.also or self.masked):
            raise ValueError(f"stage {self.name}: an MSE stage has one step count and whole pictures, leave also and masked out")
        if self.also:
            self._check_counts()
        if any(not 1 <= level <= self.teacher_steps for level in self.levels):
            raise ValueError(f"stage {self.teacher_steps} -> {self.steps}: levels lie between 1 and {self.teacher_steps}")

    def _check_counts(self) -> None:
        if min(self.also) <= self.steps or len(set(self.also)) < len(self.also):
            raise ValueError(f"stage {self.name}: also = {list(self.also)}: other step counts than steps = {self.steps}, which is the fewest")
        if any(self.teacher_steps % steps for steps in self.also):
            raise ValueError(f"stage {self.name}: also = {list(self.also)}: the teacher's steps must be a multiple of each")
        if self.prediction_type != "sample":
            raise ValueError(f"stage {self.name}: a student of several step counts predicts x0, give prediction_type 'sample'")
        if self.levels or self.masked or self.n != self.teacher_steps // self.steps:
            wanted = f"n = {self.teacher_steps // self.steps}"
            raise ValueError(f"stage {self.name}: with also, each step count has its own timesteps: leave levels and masked out, and give {wanted}")

    @property
    def counts(self) -> tuple[int, ...]:
        """All step counts of its student, the most first."""
        return tuple(sorted((self.steps, *self.also), reverse=True))

    @property
    def painted(self) -> float:
        """The teacher's steps of a sample, on average, that lead to where a picture is kept in part: all of them as far as the lowest level."""
        return self.masked * (self.teacher_steps - min(self.starts()))

    @property
    def name(self) -> str:
        """As it stands in metrics and file names."""
        return f"{self.teacher_steps}to{self.steps}"

    def scaled(self, by: float) -> Stage:
        """The same stage with ``by`` times the updates in every phase that has any, at least one turn of each side."""
        counts = {phase: getattr(self, phase) for phase in (*PHASES, "adapter")}
        return replace(self, **{phase: max(round(count * by), 2) for phase, count in counts.items() if count})

    def starts(self) -> tuple[int, ...]:
        """The levels where jumps start."""
        stride = self.teacher_steps // self.steps
        return self.levels or tuple(range(stride, self.teacher_steps + 1, stride))


@dataclass(frozen=True)
class HealthRecipe:
    """How a run watches itself (health.py)."""

    every: Amount = 100  # updates between looks at fixed prompts; 0: none
    stop: bool = True  # end the run where a rule says that going on is a waste


@dataclass(frozen=True)
class EvaluationRecipe:
    """How a run measures its students beside the teacher (watch/evaluation.py), at each phase's end; which of each stage's students ships."""

    every: Amount = 0  # updates between evaluations within a phase; 0: at its end alone
    prompts: Amount = 16  # held-out ones, where the data are scenes; 0: no evaluation
    seeds: Count = 1  # pictures of each
    figure: Literal["auto", "adherence", "clip", "frechet", "fid", "distance"] = "auto"  # that says which student is best; auto: of the first two what there is
    inception: str = ""  # a safetensors file of pytorch-fid's weights, instead of the one in the Hub's cache
    ship: Literal["last", "best"] = "last"  # of each stage's students; the next stage always goes on from the last

    def __post_init__(self) -> None:
        if self.prompts and self.prompts * self.seeds < 2:
            raise ValueError("prompts = 1, seeds = 1: one picture has no spread to compare, give at least two pictures, or prompts = 0")
        if self.ship == "best" and not self.prompts:
            raise ValueError("ship = 'best', but prompts = 0: without evaluation nothing says which is best; give prompts, or ship = 'last'")

    @property
    def decides(self) -> bool:
        """Whether it has a say in what a run makes: it is part of the recipe's identity then."""
        return self.ship == "best"


@dataclass(frozen=True)
class TrackingRecipe:
    """Where metrics go beside metrics.jsonl. Both need the extra "trackers"."""

    tensorboard: bool = False  # event files in DIR/tensorboard
    wandb: str = ""  # a project of Weights & Biases, which the run then sends its metrics to


@dataclass(frozen=True)
class DistillPlan:
    """A recipe for ``fewstep distill``."""

    teacher: str  # a model's folder, "emoji", or a teacher's recipe (.toml beside this one), which is carried out first
    stages: tuple[Stage, ...]
    method: str = "paper"  # of the phases that follow convert and warm: a name in distill/methods, or the path of a .py file beside this one
    start: str = ""  # "WHERE:STEPS", a run's folder or a model and the step count of a student in it: stages down to it are left out; empty: all
    scale: Factor = 1.0  # factor on all updates, to try a recipe out: 0.1 is a tenth of its length
    seed: Seed = 0  # of LoRAs and critics as they begin; noise and the order of pictures hang on data.seed
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    guidance_scale: Weight = 4.0  # of the teacher in the first stage; no later stage has any
    batch_size: Count = 32
    reuse: Count = 1  # how often the phases that follow the teacher by MSE see each batch: its walk is the dearest part of them
    rank: Count = 16
    alpha: Factor = 16.0
    ship_rank: Count = 16  # of the LoRAs that ship: the change from teacher to student, by SVD
    ema: Decay = 0.99  # of the student in the phases that train the whole UNet
    mse_learning_rate: Factor = 3e-4
    lora_learning_rate: Factor = 1e-4
    full_learning_rate: Factor = 3e-5
    critic_learning_rate: Weight = 3e-5  # of whatever learns beside the student; 0: the student's of the same phase, as in the paper
    r1_weight: Weight = 0.0
    r1_sigma: Factor = 0.05
    relativistic: bool = False  # the critic compares the teacher's and the student's from the same start, instead of judging each
    critic_heads: Literal["mid", "every"] = "mid"  # where the critic's heads sit: after the mid-block, or after each level too
    critic_noise: Literal["landing", "every"] = "landing"  # what it sees: landing points as they are (or by renoise_t), or at any higher noise level
    critic_rank: Amount = 0  # of a LoRA by which the critic's backbone learns, beside its heads; 0: all of it does, as in the paper
    lora_only: bool = False  # students are LoRAs of that rank on the teacher's weights, of which there is one copy: no phase "full", no x0
    frozen: Literal["float32", "bfloat16"] = "float32"  # what weights that do not learn are held in
    optimizer: Literal["adamw", "fused"] = "adamw"  # where the student learns by MSE; fused: one kernel for all weights
    data: DataRecipe = field(default_factory=DataRecipe)
    accumulate: Count = field(default=1, metadata=ASIDE)  # parts that a batch is worked off in, where memory holds no whole one
    checkpointing: bool = field(default=False, metadata=ASIDE)  # compute activations again going backwards instead of keeping them
    sharded: bool = field(default=False, metadata=ASIDE)  # each rank holds its share of what learns, by FSDP; else all of it
    check_memory: bool = field(default=True, metadata=ASIDE)  # do not begin where by the forecast memory does not suffice
    save_seconds: Weight = field(default=120.0, metadata=ASIDE)  # between checkpoints
    trains: Literal["students"] = "students"  # what such a recipe makes
    on: str = field(default="", metadata=ASIDE)  # the machine that it is meant for: what "fewstep distill plan" takes without --on
    health: HealthRecipe = field(default_factory=HealthRecipe, metadata=ASIDE)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe, metadata=ASIDE)
    tracking: TrackingRecipe = field(default_factory=TrackingRecipe, metadata=ASIDE)

    def __post_init__(self) -> None:
        # from here on stages say what is carried out, and nobody else has to know of the two
        object.__setattr__(self, "stages", tuple(stage.scaled(self.scale) if self.scale != 1 else stage for stage in self.stages))
        object.__setattr__(self, "scale", 1.0)
        if self.start:
            object.__setattr__(self, "stages", tuple(stage for stage in self.stages if stage.steps < self.start_steps))
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate = {self.accumulate}: it divides batch_size = {self.batch_size}")
        if self.frozen == "bfloat16" and self.precision == "float32":
            raise ValueError('frozen = "bfloat16" goes with precision = "bfloat16" or "auto", not with "float32"')
        if self.lora_only:
            self._check_lora_only()
        self._check_stages()
        if self.critic_noise == "every" and any(stage.renoise_t for stage in self.stages):
            raise ValueError('critic_noise = "every": the critic sees all levels then, leave renoise_t and its weights out')
        if not self.stages:
            raise ValueError(f"start = {self.start!r}: no stage leads on from there" if self.start else "stages: a plan has at least one")

    def _check_stages(self) -> None:
        """Each stage needs a teacher that predicts ε, and each step count is one stage's to make."""
        known, made, last = {self.start_steps} if self.start else set[int](), dict[int, Stage](), len(self.stages) - 1
        for index, stage in enumerate(self.stages):
            if (index or self.start) and stage.teacher_steps not in known:
                raise ValueError(f"stage {stage.teacher_steps} -> {stage.steps}: no earlier stage makes a {stage.teacher_steps}-step student")
            if stage.teacher_steps in made and made[stage.teacher_steps].prediction_type == "sample":
                raise ValueError(
                    f"stage {stage.name}: the {stage.teacher_steps}-step student of {made[stage.teacher_steps].name} predicts x0, and teaches nobody"
                )
            if index and not stage.begin and self.stages[index - 1].prediction_type == "sample":
                raise ValueError(
                    f"stage {stage.name}: it goes on from the student of {self.stages[index - 1].name}, which predicts x0: give begin, or another order"
                )
            if twice := [steps for steps in stage.counts if steps in made or (steps in known and index < last)]:
                raise ValueError(f"stage {stage.name}: there is a {twice[0]}-step student already, and each has one file: leave one of the two out")
            if stage.also and (self.sharded or self.evaluation.ship == "best"):
                other = "sharded, but it" if self.sharded else "evaluation.ship = 'best', but one network"
                raise ValueError(f"stage {stage.name}: {other} of several step counts is kept whole, as it is at last: leave also out, or that")
            known.update(stage.counts)
            made.update(dict.fromkeys(stage.counts, stage))

    def _check_lora_only(self) -> None:
        if self.sharded:
            raise ValueError("sharded: with lora_only there is nothing to share out, each rank has the base and the few weights that learn")
        for stage in self.stages:
            if stage.begin:
                raise ValueError(f"stage {stage.name}: lora_only, and begin = {stage.begin!r} is a whole student's: leave it out, or lora_only")
            if stage.prediction_type == "sample":
                raise ValueError(f"stage {stage.name}: lora_only, but a student that predicts x0 ships whole: leave the stage out, or lora_only")
            if stage.late_weights:
                raise ValueError(f"stage {stage.name}: lora_only, and late_weights are those of 'full', which it does without: leave them out")
            if stage.full or stage.adapter:
                raise ValueError(f"stage {stage.name}: lora_only, but it has updates of '{'full' if stage.full else 'adapter'}': leave them out")

    def guidance_of(self, stage: Stage) -> float:
        """Of a stage's teacher: the run's own, which teaches the first stage, is guided; its students have guidance in them (section 3.6)."""
        return self.guidance_scale if not self.start and stage.name == self.stages[0].name else 0.0

    @property
    def start_steps(self) -> int:
        """The step count of the student that the plan starts from. Raises ValueError on a ``start`` that names none."""
        where, _, steps = self.start.rpartition(":")
        if not where or not steps.isdecimal() or int(steps) < 1:
            raise ValueError(f"start = {self.start!r}: give a run or model and a step count, such as emoji:8 or runs/first:8")
        return int(steps)
