"""Training from shards that ``fewstep data prepare`` made: each picture as often as any other, its caption encoded long since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fewstep.data.order import Order
from fewstep.data.shards import Shards
from fewstep.distill.latents import Samples, stretch
from fewstep.models.prompt import Prompt

ORDER = 4  # what the seed is drawn on for; a phase's number follows it


@dataclass(frozen=True)
class Prepared:
    """The :class:`fewstep.distill.latents.Cache` of a prepared set."""

    shards: Shards
    seed: int
    scaling_factor: float  # of the autoencoder that encoded them

    @property
    def counts(self) -> dict[tuple[int, int], int]:
        """Pictures in each bucket (width, height)."""
        return self.shards.counts

    @property
    def spread(self) -> float:
        """The deviation that the autoencoder's own scaling_factor stands for: the model goes on from it."""
        return 1 / self.scaling_factor

    def batch(self, indices: range, batch_size: int, scale: float, device: torch.device) -> Samples:
        """The samples with these global indices. Every phase, a stretch of indices, begins an epoch of its own. Raises ShardsError."""
        phase, first = divmod(indices[0] // batch_size * batch_size, stretch(batch_size))
        order = Order(tuple(self.counts.values()), batch_size, (self.seed, ORDER, phase))
        bucket, rows = order.batch(first // batch_size)
        chosen = [int(rows[index % batch_size]) for index in indices]
        return self.rows(list(self.counts)[bucket], chosen, indices, scale, device)

    def rows(self, size: tuple[int, int], rows: Sequence[int], indices: range, scale: float, device: torch.device) -> Samples:
        """The pictures ``rows`` of the bucket ``size``, modulo how many it holds, as samples with these global indices. Raises ShardsError."""
        found = self.shards.read(size, [row % self.counts[size] for row in rows])
        return Samples(
            latents=found.latents.float().mul(scale).to(device),
            captions=found.captions,
            time_ids=found.time_ids.float().to(device),
            indices=list(indices),
            seed=self.seed,
            prompt=Prompt(found.prompt.embeds.float().to(device), found.prompt.pooled.float().to(device)),
        )


def prepared_text(samples: Samples) -> Prompt:
    """What the samples' captions were encoded to: the :data:`fewstep.distill.latents.Text` of a prepared set."""
    assert samples.prompt is not None
    return samples.prompt
