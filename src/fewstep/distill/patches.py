"""A contest between a decoder and a critic of patches: what L1 leaves blurred, because it could be in several places, becomes sharp.

The critic is pix2pix's (arXiv 1611.07004), the weight of the contest VQGAN's (arXiv 2012.09841, equation 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.distill import losses
from fewstep.distill.ema import Ema
from fewstep.distill.ranges import Amount, Factor, Weight
from fewstep.distill.schedules import constant
from fewstep.distill.trainer import Figure, Losses, Phase, minimised
from fewstep.distill.workers import spare

TURNS = ("critic", "student")
BETAS = (0.5, 0.99)  # of Adam, for both


class PatchCritic(nn.Module):
    """Tells true pictures from a decoder's, patch by patch: strided convolutions down to an eighth of the side."""

    def __init__(self, channels: Sequence[int] = (32, 64, 96)) -> None:
        super().__init__()
        widths = (3, *channels)
        self.levels = nn.ModuleList(nn.Conv2d(before, width, 4, 2, 1) for before, width in zip(widths, widths[1:], strict=False))
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(logits [B, 1, H/8, W/8], the features of each level) of pictures [B, 3, H, W]."""
        features = []
        for level in self.levels:
            pictures = F.leaky_relu(level(pictures), 0.2)
            features.append(pictures)
        return self.head(pictures), features


@dataclass(frozen=True)
class Contest:
    """How much each part of it counts beside L1 and edges."""

    turns: Amount = 0  # of critic and decoder together
    learning_rate: Factor = 1e-4  # the decoder's; the critic's is twice that
    features: Weight = 0.1  # weight of the distance in the critic's features, relative to their size
    adversary: Weight = 0.5  # the contest's gradient at the decoder's last layer, as a share of the other losses'

    def phase(
        self,
        kind: str,
        network: nn.Module,
        last: Tensor,
        draw: Callable[[Any], tuple[Tensor, Tensor]],
        batch: Callable[[range], Any],
        batch_size: int,
        ema: float,
        precision: torch.dtype,
    ) -> Phase:
        """The phase "KIND/sharpen": what of ``network`` takes gradients against a new critic, in turn.

        ``draw`` makes (true pictures, the decoder's) of a batch; ``last`` are the weights of the decoder's last layer.
        """
        critic = PatchCritic().to(last.device)
        moving = [parameter for parameter in network.parameters() if parameter.requires_grad]

        def contest(turn: str, samples: Any) -> Losses:
            with torch.set_grad_enabled(turn == "student"):
                true, drawn = draw(samples)
            return self.critic_losses(critic, true, drawn) if turn == "critic" else self.decoder_losses(critic, true, drawn, last)

        return Phase(
            name=f"{kind}/sharpen",
            updates=self.turns,
            batch_size=batch_size,
            models={kind: network, "critic": critic},
            optimizers=self.optimizers(critic, moving),
            batch=batch,
            losses=contest,
            turns=TURNS,
            learning_rate=lambda update: constant(update, warmup=50),
            averages={kind: Ema(network, ema)},
            clip=1.0,
            precision=precision,
            workers=spare(),
        )

    def optimizers(self, critic: PatchCritic, drawn: Sequence[nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
        """One for each turn; ``drawn`` are the decoder's parameters that move."""
        return {
            "critic": torch.optim.AdamW(critic.parameters(), lr=2 * self.learning_rate, betas=BETAS, weight_decay=0.0),
            "student": torch.optim.AdamW(drawn, lr=self.learning_rate, betas=BETAS, weight_decay=0.0),
        }

    def critic_losses(self, critic: PatchCritic, true: Tensor, drawn: Tensor) -> Losses:
        """The critic's turn, on pictures [B, 3, H, W] of which ``drawn`` carries no gradient."""
        critic.requires_grad_(True)
        real, fake = critic(true)[0], critic(drawn)[0]
        return {"loss": losses.critic_loss(real, fake), "right": 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())}

    def decoder_losses(self, critic: PatchCritic, true: Tensor, drawn: Tensor, last: Tensor) -> Losses:
        """The decoder's turn; ``last`` are the weights of its last layer."""
        critic.requires_grad_(False)
        fake, features = critic(drawn)
        with torch.no_grad():
            wanted = critic(true)[1]
        apart = torch.stack([(one - other).abs().mean() / other.abs().mean() for one, other in zip(features, wanted, strict=True)]).sum()
        known = picture_losses(drawn, true)
        rest, fooled = minimised(known) + self.features * apart, losses.student_loss(fake)
        pull, push = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rest, fooled))
        weight = self.adversary * (pull / push.clamp(min=1e-6)).clamp(max=1.0).detach()
        return {**known, "features": apart, "fooled": fooled, "loss": rest + weight * fooled}


def picture_losses(drawn: Tensor, true: Tensor, edges: float = 1.0) -> Losses:
    """L1 and ``edges`` times the edge loss between pictures [B, 3, H, W] in [-1, 1], and how near they are in dB."""
    l1, edge = F.l1_loss(drawn, true), edge_loss(drawn, true)
    near = Figure(F.mse_loss(drawn, true).reshape(1), lambda means: -10 * (means / 4).clamp(min=1e-10).log10())  # values span 2
    return {"loss": l1 + edges * edge, "l1": l1, "edges": edge, "psnr": near}


def edge_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 between horizontal and between vertical differences: an emoji's outlines are what a viewer judges. Inputs [B, 3, H, W]."""
    difference = output - target
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
