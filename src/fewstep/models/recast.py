"""Weights in another dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def recast(network: Any, dtype: torch.dtype) -> Any:
    """Hold the weights of ``network`` in ``dtype``, in place, and return it. Those that have it stay the tensors they are.

    Unlike ``to`` it works as well where a tensor has no content and its life is watched.
    """
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.dtype != dtype:
                setattr(module, name, nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad))
    return network
