"""From words to what the UNet is conditioned on, as SDXL has it: two text encoders, penultimate states, pooled text and time ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewstep.models.chunks import Words, join, script

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


@dataclass(frozen=True)
class Spoken:
    """A tokenizer of transformers as :mod:`fewstep.models.chunks` takes one."""

    tokenizer: Any

    @property
    def start(self) -> int:
        """What a row begins with."""
        return int(self.tokenizer.bos_token_id)

    @property
    def end(self) -> int:
        """What stands after the text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad(self) -> int:
        """What stands behind that."""
        return int(self.tokenizer.pad_token_id)

    @property
    def length(self) -> int:
        """Of a row."""
        return int(self.tokenizer.model_max_length)

    def ids(self, text: str) -> list[int]:
        """The tokens of ``text`` alone, however many they are."""
        return list(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def encode_words(bundle: Bundle, words: Sequence[Words], least: int = 1) -> Prompt:
    """Encode one prompt, whose ``words`` the first and the second encoder read, in ``least`` chunks or more; see fewstep.models.chunks.

    Without weights and in one chunk it is what :func:`encode` makes of the text, to the bit. Without words it is the null prompt.
    """
    plan = script(words, [Spoken(tokenizer) for tokenizer in (bundle.tokenizer, bundle.tokenizer_2)], least)
    answer = encode_tokens((bundle.text_encoder, bundle.text_encoder_2), [torch.from_numpy(rows).to(bundle.device) for rows in plan.tokens])
    width = int(bundle.text_encoder.config.hidden_size)
    return Prompt(*join(plan, answer.embeds, answer.pooled, width, lambda values: torch.from_numpy(values).to(answer.embeds)))


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
