"""The optimizers of a run: AdamW where it remembers gradients, and the same without that memory in the contests (paper: β1 = 0)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MomentlessAdam(torch.optim.Optimizer):
    """Adam with β1 = 0 and no weight decay: w <- w - lr·g / (√(v / (1 - β2ᵗ)) + ε), v <- β2·v + (1 - β2)·g².

    torch's own keeps a first moment even so, which is then the gradient: 4 bytes a weight on the card, 10 GB for SDXL, and as much in every checkpoint.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-3, beta2: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(parameters, {"lr": lr, "beta2": beta2, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if not state:
                    state.update(step=torch.tensor(0.0), exp_avg_sq=torch.zeros_like(parameter))
                state["step"] += 1
                state["exp_avg_sq"].lerp_(parameter.grad.square(), 1 - group["beta2"])
                deviation = (state["exp_avg_sq"] / (1 - group["beta2"] ** float(state["step"]))).sqrt_()
                parameter.addcdiv_(parameter.grad, deviation.add_(group["eps"]), value=-group["lr"])
