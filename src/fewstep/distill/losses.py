"""The losses of adversarial distillation, on logits: softplus keeps them finite where a logarithm of a sigmoid would not."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mse(output: Tensor, target: Tensor) -> Tensor:
    """E‖x̂ - x‖², for the first stage and the x0 conversion (equations 27 to 29)."""
    return F.mse_loss(output.float(), target.float())


def landing(made: Tensor, target: Tensor, reach: Tensor) -> Tensor:
    """E‖x̂ - x‖² / reach: halfway between counting errors where a jump lands and counting them in x0, which the former forgets at high noise."""
    return ((made.float() - target.float()).square() / reach).mean()


def student_loss(fake: Tensor) -> Tensor:
    """Equation 21, non-saturating: -log p̂ = softplus(-l̂), for logits [B]."""
    return F.softplus(-fake.float()).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Equation 20: -log p - log(1 - p̂) = softplus(-l) + softplus(l̂), for logits [B] of the teacher's and the student's latents."""
    return (F.softplus(-real.float()) + F.softplus(fake.float())).mean()


def relativistic(ahead: Tensor, behind: Tensor) -> Tensor:
    """softplus(-(l_a - l_b)) of pairs (R3GAN, arXiv 2501.05441, equation 2): the critic wants the teacher's ahead, the student its own; logits [B]."""
    return F.softplus(behind.float() - ahead.float()).mean()


def approximate_r1(real: Tensor, perturbed: Tensor) -> Tensor:
    """‖D(x) - D(x + σz)‖² (Seaweed-APT, arXiv 2501.08316): R1 without a second derivative, for logits [B]."""
    return (real.float() - perturbed.float()).square().mean()
