"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fewstep.distill.sharding import share


class Ema:
    """A float32 shadow of a model's trainable weights, w̄ <- d·w̄ + (1 - d)·w, with d = min(decay, (1 + n) / (10 + n)) after n updates.

    The warm-up keeps a short run's average from remembering its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: p.detach().clone().float() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter.detach().float(), 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights with the averaged ones."""
        for name, parameter in model.named_parameters():
            if name in self.weights:
                parameter.copy_(self.weights[name])

    @contextmanager
    def worn(self, model: nn.Module) -> Iterator[None]:
        """A context in which the model has the averaged weights; its own are back, to the bit, afterwards."""
        own = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in self.weights}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in own:
                        parameter.copy_(own[name])

    def state(self) -> dict[str, Tensor]:
        """The shadow and its age, as tensors."""
        return {**self.weights, "__updates__": torch.tensor(self.updates)}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` gave."""
        self.updates = int(state["__updates__"])
        for name, weight in self.weights.items():
            weight.copy_(share(state[name], weight))
