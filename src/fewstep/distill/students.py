"""How a run holds its networks: each student with weights of its own, or all of them as adapters on one frozen base.

Students go on from files, DIR/weights/<N>-step.safetensors, so that what a stage begins with is the same whether the run was stopped before it or not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from fewstep.distill import dist, sharding
from fewstep.distill.plan import DistillPlan
from fewstep.distill.pretrain import dtype
from fewstep.models.bundle import WEIGHTS, Bundle, load_weights, save_weights
from fewstep.models.counts import settled
from fewstep.models.lora import adapted, adapters, add_lora, add_lora_like, fuse_lora, merged, set_adapters, shared
from fewstep.models.recast import recast
from fewstep.models.weights import WeightsError, find_weights, read_weights
from fewstep.stamp import Stamp


@dataclass
class Students:
    """Every network has weights of its own. With ``sharded`` in the recipe those that learn lie in shares on all ranks; those that teach are whole."""

    bundle: Bundle
    plan: DistillPlan
    bare: bool = False  # networks are made as they will be, but no file is read: for a forecast
    kind: ClassVar[Literal["unet", "lora"]] = "unet"  # of what is kept

    def base(self) -> Any:
        """The teacher's UNet, whole, in float32 and to the bit of its file."""
        unet = recast(copy.deepcopy(self.bundle.unet), torch.float32)
        if self.plan.frozen == "bfloat16" and not self.bare and self.bundle.folder:  # what is held in memory has been rounded
            load_weights(unet, find_weights(self.bundle.folder / "unet", WEIGHTS))
        return unet

    def follow(self, path: Path | None) -> Any:
        """A student, all of which learns, that goes on from the one at ``path``, or from the teacher."""
        student = self.base() if path is None else recast(copy.deepcopy(self.bundle.unet), torch.float32)
        if path is not None:
            self._load(student, path)
        return self._sparing(student.train().requires_grad_(True))

    def read(self, path: Path) -> Any:
        """The student at ``path``, frozen, to teach another."""
        student = copy.deepcopy(self.bundle.unet).requires_grad_(False)
        self._load(student, path)
        return student.eval()

    def keep(self, student: Any, stamp: Stamp, path: Path, place: int | None = None) -> None:
        """Leave a ``student`` at ``path``, where later stages and other runs find it. ``place`` as in :meth:`tensors`."""
        tensors = self.tensors(student, place)
        if dist.rank() == 0:  # one that began as a LoRA may be whole by now
            save_weights(tensors, path, replace(stamp, kind=self.kind).to_metadata())
        dist.wait()

    def tensors(self, student: Any, place: int | None = None) -> dict[str, torch.Tensor]:
        """What is kept of a ``student``, with what its adapters have learnt so far. Every rank that has a share of it asks.

        Of one with several step counts, what it is for the one at that ``place`` among them.
        """
        tensors = merged(student, sharding.gather(student.state_dict()))
        return {key: value.contiguous() for key, value in (tensors if place is None else settled(tensors, place)).items()}

    def adapt(self, student: Any, seed: int) -> None:
        """Have adapters alone learn from here on."""
        add_lora(student, self.plan.rank, self.plan.alpha, seed)

    def merge(self, student: Any) -> None:
        """Have all weights learn again, those that the adapters changed with what they added."""
        fuse_lora(student)
        student.requires_grad_(True)

    def spread(self, network: nn.Module) -> None:
        """Get a network ready to learn: from here on it may lie in shares."""
        if self.plan.sharded:
            sharding.spread(network, dtype(self.plan.precision))

    def learnt(self, network: nn.Module) -> nn.Module:
        """What of ``network`` is saved while it learns."""
        return network

    def gathered(self, student: Any) -> Any:
        """The ``student``, whole on every rank again."""

        def fresh() -> Any:
            another = self.follow(None)
            add_lora_like(another, student)
            return another

        return sharding.gathered(student, fresh)

    def _sparing(self, student: Any) -> Any:
        if self.plan.checkpointing:
            student.enable_gradient_checkpointing()
        return student

    def _load(self, student: Any, path: Path) -> None:
        if not self.bare:
            load_weights(student, path)


class OnBase(Students):
    """One copy of the weights, the teacher's, for all: a student is a LoRA on it, and learns as one from the first phase to the last."""

    kind = "lora"

    def follow(self, path: Path | None) -> Any:
        """A LoRA that goes on from the one at ``path``, or from no change."""
        student = self._worn(path).train()
        for adapter in adapted(student).values():
            adapter.requires_grad_(True)
        return self._sparing(student)

    def read(self, path: Path) -> Any:
        """The base under the LoRA at ``path``, frozen."""
        return self._worn(path).eval().requires_grad_(False)

    def tensors(self, student: Any, place: int | None = None) -> dict[str, torch.Tensor]:
        """The LoRA."""
        return adapters(student)

    def adapt(self, student: Any, seed: int) -> None:
        """It is adapters that learn anyway."""

    def merge(self, student: Any) -> None:
        """They are never merged."""

    def learnt(self, network: nn.Module) -> nn.Module:
        """What has weights of its own, the base left out."""
        return nn.ParameterDict({name.replace(".", "/"): p for name, p in network.named_parameters() if p.requires_grad})

    def _worn(self, path: Path | None) -> Any:
        student = shared(self.bundle.unet)
        add_lora(student, self.plan.rank, self.plan.alpha, self.plan.seed)
        if path is not None:
            self._load(student, path)
        return student

    def _load(self, student: Any, path: Path) -> None:
        if self.bare:
            return
        try:
            set_adapters(student, read_weights(path))
        except (KeyError, RuntimeError):
            raise WeightsError(f"{path} holds no LoRA of rank {self.plan.rank} on all layers of this base, which lora_only goes on from") from None


def students_of(plan: DistillPlan, bundle: Bundle) -> Students:
    """How the ``plan`` wants its students held; the teacher, from which they are told, is brought to the dtype of what is frozen."""
    recast(bundle.unet, getattr(torch, plan.frozen))
    return (OnBase if plan.lora_only else Students)(bundle, plan)
