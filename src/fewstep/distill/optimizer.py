"""The optimizers of a run: AdamW where it remembers gradients, and the same without that memory in the contests (paper: β1 = 0)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 1 << 25  # numbers: what they need beside themselves is as much, 128 MB


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
            alike: dict[float, list[nn.Parameter]] = {}  # by how often they were updated
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if not state:
                    state.update(step=torch.tensor(0.0), exp_avg_sq=torch.zeros_like(parameter))
                state["step"] += 1
                alike.setdefault(float(state["step"]), []).append(parameter)
            for count, parameters in alike.items():
                some, numbers = list[nn.Parameter](), 0
                for parameter in parameters:
                    some.append(parameter)
                    numbers += parameter.numel()
                    if numbers >= AT_ONCE:
                        self._move(some, count, group)
                        some, numbers = [], 0
                if some:
                    self._move(some, count, group)

    def _move(self, parameters: list[nn.Parameter], count: float, group: dict[str, Any]) -> None:
        """One update of these, their ``count``-th, in few launches: on an accelerator a launch for each takes longer than a small network's weights."""
        weights: list[Tensor] = list(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        torch._foreach_mul_(squares, group["beta2"])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["beta2"])
        deviations = torch._foreach_sqrt(squares)
        torch._foreach_div_(deviations, (1 - group["beta2"] ** count) ** 0.5)
        torch._foreach_add_(deviations, group["eps"])
        torch._foreach_addcdiv_(weights, gradients, deviations, -group["lr"])
