"""From words to what the UNet is conditioned on, as SDXL has it: two text encoders, penultimate states, pooled text and time ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fewstep.models.bundle import Bundle


@dataclass(frozen=True)
class Prompt:
    """Encoded prompts."""

    embeds: Tensor  # [B, L, C1 + C2]
    pooled: Tensor  # [B, P]

    def __getitem__(self, rows: Any) -> Prompt:
        return Prompt(self.embeds[rows], self.pooled[rows])

    def null(self) -> Prompt:
        """The null prompt in the same shape: zeros, as ``force_zeros_for_empty_prompt`` has it, and what dropout trains."""
        return Prompt(torch.zeros_like(self.embeds), torch.zeros_like(self.pooled))

    def dropped(self, drop: Tensor) -> Prompt:
        """The same prompts with those where ``drop`` [B] is true replaced by the null prompt."""
        keep = (~drop).to(self.embeds.dtype)
        return Prompt(self.embeds * keep[:, None, None], self.pooled * keep[:, None])


def cat(*prompts: Prompt) -> Prompt:
    """Prompts one after another along the batch."""
    return Prompt(torch.cat([p.embeds for p in prompts]), torch.cat([p.pooled for p in prompts]))


def encode(bundle: Bundle, prompts: Sequence[str]) -> Prompt:
    """Encode ``prompts`` as StableDiffusionXLPipeline does: the last hidden state but one of both encoders side by side, and the second's pooled text.

    An empty prompt becomes the null prompt, zeros. What exceeds the tokenizers' length is cut off.
    """
    tokenizers = (bundle.tokenizer, bundle.tokenizer_2)
    tokens = [
        t(list(prompts), padding="max_length", max_length=t.model_max_length, truncation=True, return_tensors="pt").input_ids.to(bundle.device)
        for t in tokenizers
    ]
    prompt = encode_tokens((bundle.text_encoder, bundle.text_encoder_2), tokens)
    empty = torch.tensor([not text.strip() for text in prompts], device=bundle.device)
    return prompt.dropped(empty) if bool(empty.any()) else prompt


def encode_tokens(encoders: Sequence[Any], tokens: Sequence[Tensor]) -> Prompt:
    """Both encoders' answers to their tokenizers' ids [B, L]: the last hidden states but one side by side, and the second's pooled text."""
    outputs = [encoder(ids, output_hidden_states=True) for encoder, ids in zip(encoders, tokens, strict=True)]
    return Prompt(torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), outputs[-1][0])


def time_ids(count: int, width: int, height: int, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """SDXL's micro-conditioning for uncropped pictures of this size: (original h, w, crop top, left, target h, w), [count, 6]."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=dtype, device=device).expand(count, -1)


def conditioning(prompt: Prompt, ids: Tensor) -> dict[str, Any]:
    """The keyword arguments of a ``UNet2DConditionModel`` for these prompts and time ids [B, 6]."""
    return {"encoder_hidden_states": prompt.embeds, "added_cond_kwargs": {"text_embeds": prompt.pooled, "time_ids": ids}}
