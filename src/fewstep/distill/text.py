"""Pre-training the text encoders: contrast (render, caption) pairs, then freeze. As CLIP, on a small world."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.data.emoji import Dials, World
from fewstep.distill.ema import Ema
from fewstep.distill.latents import to_tensor
from fewstep.distill.ranges import Count, Decay, Factor
from fewstep.distill.schedules import cosine
from fewstep.distill.trainer import Losses, Phase
from fewstep.distill.workers import spare
from fewstep.models.bundle import Bundle


@dataclass(frozen=True)
class TextRecipe:
    """How the text encoders are trained."""

    updates: Count = 2500
    batch_size: Count = 96
    size: Count = 64  # pixels a side of the renders
    learning_rate: Factor = 1e-3
    ema: Decay = 0.995
    dials: Dials = field(default_factory=lambda: Dials(keyword=0.3, sized=0.2, place=0.3, repaint=0.15, pair=0.1, bare=0.05))


class ImageTower(nn.Module):
    """A small recogniser: pictures [B, 3, S, S] in [-1, 1] to features [B, 256], pooled from a last map of S/16 a side."""

    def __init__(self, width: int = 48, features: int = 256) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 3 * width, 4 * width]
        stages: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, 2, 1),
                    nn.GroupNorm(6, after),
                    nn.SiLU(),
                    nn.Conv2d(after, after, 3, 1, 1),
                    nn.GroupNorm(6, after),
                    nn.SiLU(),
                )
            )
        self.stages = nn.Sequential(*stages)
        self.out = nn.Linear(2 * widths[-1], features)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features, not normalised."""
        maps = self.stages(pictures)
        return self.out(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))


class TextTowers(nn.Module):
    """Both text encoders with the heads that only contrastive training needs."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.tokenizers = (bundle.tokenizer, bundle.tokenizer_2)
        self.text_encoder, self.text_encoder_2 = bundle.text_encoder, bundle.text_encoder_2
        self.image = ImageTower()
        self.heads = nn.ModuleList([nn.Linear(bundle.text_encoder.config.hidden_size, 256), nn.Linear(bundle.text_encoder_2.config.projection_dim, 256)])
        self.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale = nn.Parameter(torch.tensor(2.0))  # log of the inverse temperature

    def forward(self, pictures: Tensor, captions: list[str]) -> list[Tensor]:
        """Similarity of every picture to every caption, for each encoder: a list of logits [B, B]."""
        seen = F.normalize(self.image(pictures).float(), dim=-1)
        logits = []
        for tokenizer, encoder, head in zip(self.tokenizers, (self.text_encoder, self.text_encoder_2), self.heads, strict=True):
            ids = tokenizer(captions, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
            output = encoder(ids.to(seen.device))
            pooled = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
            logits.append(self.scale.exp().clamp(max=100) * seen @ F.normalize(head(pooled).float(), dim=-1).T)
        return logits


def text_phase(towers: TextTowers, world: World, recipe: TextRecipe, precision: torch.dtype) -> Phase:
    """Symmetric InfoNCE over a batch, summed over the two encoders."""
    optimizer = torch.optim.AdamW(towers.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)

    def batch(indices: range) -> tuple[Tensor, list[str]]:
        pictures, captions = [], []
        for index in indices:
            rng = world.rng(index)
            scene = world.scene(rng)
            captions.append(world.caption(scene, rng))
            pictures.append(world.render(scene, recipe.size, recipe.size))
        return to_tensor(np.stack(pictures)), captions

    def losses(turn: str, batch: tuple[Tensor, list[str]]) -> Losses:
        pictures, captions = batch[0].to(towers.scale.device), batch[1]
        target = torch.arange(len(captions), device=pictures.device)
        logits = towers(pictures, captions)
        loss = sum(F.cross_entropy(part, target) + F.cross_entropy(part.T, target) for part in logits) / 4
        right = sum((part.argmax(1) == target).float().mean() for part in logits) / 2
        return {"loss": loss, "right": right}

    return Phase(
        name="text/contrast",
        updates=recipe.updates,
        batch_size=recipe.batch_size,
        models={"towers": towers},
        optimizers={"student": optimizer},
        batch=batch,
        losses=losses,
        averages={"towers": Ema(towers, recipe.ema)},
        learning_rate=lambda update: cosine(update, recipe.updates, warmup=100),
        clip=1.0,
        precision=precision,
        workers=spare(),
    )
