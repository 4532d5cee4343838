"""A run rehearsed on tensors without content: its own code builds its phases, and each is asked what an update would cost.

What is counted is therefore what is there: networks that a stage keeps without need, a method's own, whatever it is called.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from fewstep.distill.forecast.blank import BlankLatents, BlankText, hollow
from fewstep.distill.forecast.ledger import Gauge, Ledger
from fewstep.distill.latents import Cache, Samples, Text
from fewstep.distill.methods import find_method
from fewstep.distill.plan import PHASES, DistillPlan, Stage
from fewstep.distill.sharding import units
from fewstep.distill.state import Run
from fewstep.distill.students import students_of
from fewstep.distill.trainer import Losses, Phase, Routine, minimised
from fewstep.distill.walk import Walk
from fewstep.distill.world import DataRecipe
from fewstep.models.critic import Backbone

REPEATED = (UNet2DConditionModel, Backbone, Transformer2DModel, BasicTransformerBlock, ResnetBlock2D)  # what deep networks have many times, from the outside in
REMEMBERED = 16_384  # prompts that FrozenText keeps
DENOISE = "teacher/denoise"  # the phase at whose rate a UNet is trained, in whatever phase
VOLATILE = ("steps", "teacher_steps", "begin", "levels", "anywhere", "mse_learning_rate", "renoise_weights", "late_weights")  # of a stage: they cost nothing


@dataclass(frozen=True)
class Cost:
    """What a phase takes of one rank. Bytes, and operations of one update."""

    name: str  # "stage/phase"
    updates: int
    batch_size: int
    network: str  # whose rate its time is taken at
    flops: float  # an update's, on average over turns and over batches that come again
    learnt: float  # weights that an optimizer moves
    frozen: float  # other weights that are there: teachers, the base, earlier students
    gradients: float
    optimizer: float
    averages: float
    activations: float  # and gradients of activations, at the worst moment
    file: float  # bytes that it leaves on the disk
    checkpoint: float
    remembered: float = 0.0  # prompts, and latents where they lie in the same memory
    walks: float = 0.0  # the teacher's landing points, where batches come again

    @property
    def memory(self) -> float:
        """Bytes in all."""
        return self.learnt + self.frozen + self.gradients + self.optimizer + self.averages + self.activations + self.remembered + self.walks

    @property
    def pictures(self) -> int:
        """Samples that the phase draws, on all ranks."""
        return self.updates * self.batch_size


@dataclass(frozen=True)
class Setting:
    """Where a run is rehearsed for."""

    ranks: int = 1
    accelerator: bool = False
    reuse: int = 1
    precision: torch.dtype = torch.float32
    accumulate: int = 1
    sharded: bool = False

    def part(self, batch_size: int) -> int:
        """Samples of a batch that a rank works off at once."""
        return math.ceil(math.ceil(batch_size / self.ranks) / self.accumulate)


def cost(ledger: Ledger, phase: Phase, batch: Any, setting: Setting, network: str) -> Cost:
    """What an update of ``phase`` costs on one part of a ``batch``, as :func:`fewstep.distill.trainer.update` carries it out."""
    gc.collect()  # networks that went before lie in circles, and would be freed in the midst of a count
    groups = {turn: [p for group in optimizer.param_groups for p in group["params"]] for turn, optimizer in phase.optimizers.items()}
    learnt = sum(_bytes(parameters) for parameters in groups.values())
    averages = sum(_bytes(average.weights.values()) for average in phase.averages.values())
    states = {turn: _state(optimizer) * _bytes(groups[turn]) for turn, optimizer in phase.optimizers.items()}
    resident = ledger.live
    flops, peaks, gradients = {}, {}, {}
    for turn in dict.fromkeys(phase.turns):
        ledger.mark()
        ledger.flops = 0.0
        losses = _losses(phase, turn, batch, setting)
        forward, forward_peak = ledger.flops, ledger.peak - resident
        minimised(losses).backward()  # type: ignore[no-untyped-call]
        del losses
        whole, peak = ledger.flops, ledger.peak - resident
        gradients[turn] = _bytes(ledger.gradients) + _bytes(p.grad for p in groups[turn] if p.grad is not None)
        again = 0.0
        if setting.reuse > 1:  # the first sight of a batch has the teacher walk, the others remember where it led
            ledger.flops = 0.0
            _losses(phase, turn, batch, setting)
            again = forward - ledger.flops
        flops[turn] = setting.accumulate * (whole - again * (1 - 1 / setting.reuse))
        # once gradients are there: the message between ranks, then what AdamW's step makes over all of its weights at once
        whole_step = setting.accelerator and isinstance(phase.optimizers[turn], torch.optim.AdamW) and not phase.optimizers[turn].defaults["fused"]
        copies = max(_bytes(groups[turn]) if whole_step else 0, gradients[turn] if setting.ranks > 1 and not setting.sharded else 0)
        beside = forward_peak + gradients[turn] if setting.accumulate > 1 else 0.0  # the part before has left its gradients
        peaks[turn] = max(peak, beside, gradients[turn] + copies)
        ledger.gradients.clear()
        for parameter in groups[turn]:
            parameter.grad = None
    worst = max(peaks, key=lambda turn: peaks[turn])
    file = sum(_bytes(model.state_dict(keep_vars=True).values()) for model in phase.models.values())
    found = Cost(
        name=phase.name,
        updates=phase.updates,
        batch_size=phase.batch_size,
        network=network,
        flops=sum(flops[turn] for turn in phase.turns) / len(phase.turns),
        learnt=learnt,
        frozen=resident - learnt - averages,
        gradients=gradients[worst],
        optimizer=sum(states.values()),
        averages=averages,
        activations=peaks[worst] - gradients[worst],
        file=file,
        checkpoint=file + averages + sum(states.values()),
    )
    return _in_shares(found, phase, setting) if setting.sharded and setting.ranks > 1 else found


def _in_shares(counted: Cost, phase: Phase, setting: Setting) -> Cost:
    """The same where each rank holds its share of a phase's networks, and beside it two blocks whole: the one that computes and the next."""
    unlearnt = sum(_bytes(model.parameters()) for model in phase.models.values()) - counted.learnt
    blocks = max((_bytes(block.parameters()) for model in phase.models.values() for block in units(model)), default=0.0)
    width = setting.precision.itemsize / 4
    return dataclasses.replace(
        counted,
        learnt=counted.learnt / setting.ranks,
        frozen=counted.frozen - unlearnt * (1 - 1 / setting.ranks),
        gradients=counted.gradients / setting.ranks,
        optimizer=counted.optimizer / setting.ranks,
        averages=counted.averages / setting.ranks,
        activations=counted.activations + 2 * width * blocks,
    )


def _losses(phase: Phase, turn: str, batch: Any, setting: Setting) -> Losses:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=setting.precision == torch.bfloat16):
        return phase.losses(turn, batch)


@dataclass
class Rehearsal(Walk):
    """A walk of which every phase is counted instead of carried out."""

    setting: Setting = field(default_factory=Setting)
    ledger: Ledger = field(default_factory=Ledger)
    costs: list[Cost] = field(default_factory=list)
    _made: set[int] = field(default_factory=set)
    _seen: dict[Any, list[Cost]] = field(default_factory=dict)

    def stage(self, stage: Stage) -> None:
        """As the walk does it, but nothing is kept on a disk, and of stages that are alike one is rehearsed."""
        key = self._kind(stage)
        if key not in self._seen:
            self._seen[key], counted = [], self.costs
            self.costs = self._seen[key]
            self._rehearse(stage)
            self.costs = counted
        self.costs += [self._named(counted, stage) for counted in self._seen[key]]
        self._made.update(stage.counts)

    def _rehearse(self, stage: Stage) -> None:
        task = self._task(stage, self._network(stage.teacher_steps))
        student = (self._mse if stage.kind == "mse" else self._adversarial)(stage, task, self.students.follow(None))
        self._looking = None
        if stage.adapter:
            self._adapter(stage, student.eval().requires_grad_(False))

    def _kind(self, stage: Stage) -> Any:
        """What a stage's cost depends on, but for how many updates it has."""
        phases = {phase: bool(getattr(stage, phase)) for phase in (*PHASES, "adapter")}
        values = {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage) if f.name not in (*VOLATILE, *phases)}
        values["renoise_t"] = bool(stage.renoise_t)
        values["walks"] = (stage.teacher_steps, stage.starts()) if stage.masked or stage.also else ()
        return str(values), str(phases), stage.teacher_steps in self._made, self.shelf.before(stage) is not None

    def _named(self, counted: Cost, stage: Stage) -> Cost:
        phase = counted.name.split("/")[1]
        updates = int(getattr(stage, phase))
        walks = counted.walks / counted.updates * updates
        return dataclasses.replace(counted, name=f"{stage.name}/{phase}", updates=updates, walks=walks)

    def _network(self, steps: int) -> Any:
        return self.students.read(Path()) if steps in self._made else self.bundle.unet

    def _complete(self, phase: Phase, name: str, routines: Sequence[Routine]) -> None:
        self.run.state.done += (phase.name,)
        if not phase.updates:
            return
        batch = phase.batch(range(self.setting.part(phase.batch_size)))
        counted = cost(self.ledger, phase, batch, self.setting, DENOISE)
        self.costs.append(
            dataclasses.replace(
                counted, remembered=remembered(self.plan.data, self.bundle.unet.config, self.text, self.setting), walks=self._walks(phase, batch)
            )
        )

    def _walks(self, phase: Phase, batch: Samples) -> float:
        """Where the teacher led from each batch that comes again."""
        kind = phase.name.split("/")[1]
        if self.plan.reuse == 1 or not (kind in ("mse", "warm") or (self.method.reuses and kind == "full")):
            return 0.0
        stage = next(stage for stage in self.plan.stages if phase.name.startswith(f"{stage.name}/"))
        return math.ceil(phase.updates / self.plan.reuse) * self.setting.accumulate * float(batch.latents.nbytes) * (1 + stage.masked)


def remembered(data: DataRecipe, unet: Any, text: Any, setting: Setting) -> float:
    """Bytes of prompts, of which FrozenText keeps so many, and of latents, where they lie in the memory that counts. Shards stay on the disk."""
    if data.shards:
        return 0.0
    latents = 0 if setting.accelerator else 2 * data.pictures * unet.in_channels * unet.sample_size**2
    return min(data.pictures, REMEMBERED) * cast(BlankText, text).bytes + latents


@contextmanager
def counting() -> Iterator[Ledger]:
    """A context of tensors without content whose cost is counted, deep networks block by block."""
    gc.freeze()  # so that looking for circles among what is counted is quick
    on = gc.isenabled()
    gc.disable()  # and is done only where nothing is being counted
    try:
        with warnings.catch_warnings(), Ledger() as ledger, Gauge(ledger).covering(*REPEATED):
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            yield ledger
    finally:
        gc.unfreeze()
        if on:
            gc.enable()


def rehearse(plan: DistillPlan, where: Path, configs: Mapping[str, Any], setting: Setting, sizes: Mapping[str, int]) -> list[Cost]:
    """The costs of a plan's phases, in order. ``configs`` are the teacher's unet's and vae's, ``sizes`` the bytes of its text encoders.

    ``where`` is the recipe's folder, for a method of one's own. Raises RecipeError.
    """
    method = find_method(plan.method, where)
    with TemporaryDirectory() as folder, counting() as ledger:
        bundle = hollow(configs, sizes if not plan.data.shards else dict.fromkeys(sizes, 0), setting.accelerator)
        text = BlankText(bundle.unet, int(configs.get("text_length", 77)))
        latents = cast(Cache, BlankLatents(bundle.unet))
        students = students_of(plan, bundle)
        students.bare = True
        walk = Rehearsal(plan, method, Run(Path(folder), ""), bundle, latents, cast(Text, text), students, setting=setting, ledger=ledger)
        walk._made.update([plan.start_steps] if plan.start else [])
        for stage in plan.stages:
            walk.stage(stage)
        return walk.costs


def _bytes(tensors: Any) -> float:
    return float(sum(tensor.untyped_storage().nbytes() for tensor in tensors))


def _state(optimizer: Any) -> float:
    """Bytes of an optimizer's own over those of the weights that it moves, tried on a few."""
    weight = nn.Parameter(torch.zeros(4096))
    trial = type(optimizer)([weight])
    trial.param_groups[0].update(optimizer.defaults)
    weight.grad = torch.zeros_like(weight)
    trial.step()
    return _bytes(value for value in trial.state[weight].values() if isinstance(value, Tensor) and value.ndim) / _bytes([weight])


def encoding(configs: Mapping[str, Any]) -> float:
    """Operations of encoding one square picture."""
    with counting() as ledger, torch.no_grad():
        vae = AutoencoderKL.from_config(configs["vae"])
        side = int(configs["unet"]["sample_size"]) * 2 ** (len(vae.config.block_out_channels) - 1)
        vae.encode(torch.zeros(1, 3, side, side))
        return ledger.flops
