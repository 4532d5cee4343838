"""Normalized Attention Guidance (arXiv 2505.21179): a negative prompt for models that run without classifier-free guidance.

Each cross-attention is computed with the prompt and with the negative one, Z+ and Z-, before its output projection. What is used is

    Z~ = φ·Z+ - (φ - 1)·Z-,    Z^ = Z~ · min(1, τ·‖Z+‖₁ / ‖Z~‖₁),    Z = α·Z^ + (1 - α)·Z+

with the L1 norms over the channels of each position. φ = 1 and Z- = Z+ change nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TAU, ALPHA = 2.5, 0.5  # the authors' values for SDXL; φ is the request's nag_scale
SMALLEST = 1e-12  # a norm: that of the null prompt's attention is 0


def normalized_guidance(positive: Tensor, negative: Tensor, scale: Tensor | float) -> Tensor:
    """Z of Z+ and Z- [B, N, C] at φ = ``scale``."""
    guided = positive + (scale - 1) * (positive - negative)
    norms = [values.abs().sum(dim=-1, keepdim=True) for values in (positive, guided)]
    guided = guided * (TAU * norms[0] / norms[1].clamp(min=SMALLEST)).clamp(max=1)
    return positive + ALPHA * (guided - positive)


class Negatable:
    """An attention processor that takes a negative prompt; without one it is ``inner``, to the bit, and so it is in self-attention."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        negative_states: Tensor | None = None,
        nag_scale: Tensor | None = None,
    ) -> Tensor:
        """``negative_states`` [B, L, C] are the negative prompts of ``encoder_hidden_states``; both come from ``cross_attention_kwargs``."""
        if negative_states is None or nag_scale is None or encoder_hidden_states is None:
            plain: Tensor = self.inner(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask)
            return plain
        query = _heads(attn, attn.to_q(hidden_states))
        positive, negative = (_attend(attn, query, states) for states in (encoder_hidden_states, negative_states))
        guided = normalized_guidance(positive, negative, nag_scale)
        output: Tensor = attn.to_out[1](attn.to_out[0](guided))
        return output


def take_negatives(unet: Any) -> Any:
    """``unet``, a ``UNet2DConditionModel`` whose attentions take a negative prompt from now on (:func:`negation`)."""
    processors = unet.attn_processors.items()
    unet.set_attn_processor({name: one if isinstance(one, Negatable) else Negatable(one) for name, one in processors})
    return unet


def negation(embeds: Tensor, scale: float | Tensor) -> dict[str, Any]:
    """The keyword arguments of such a UNet for negative prompts [B, L, C] at φ = ``scale``."""
    phi = scale if isinstance(scale, Tensor) else torch.tensor(scale, dtype=embeds.dtype, device=embeds.device)
    return {"cross_attention_kwargs": {"negative_states": embeds, "nag_scale": phi}}


def _heads(attn: Any, x: Tensor) -> Tensor:
    """[B, N, C] to [B, heads, N, C / heads]."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]


def _attend(attn: Any, query: Tensor, states: Tensor) -> Tensor:
    """Attention of ``query`` [B, heads, N, c] to text states [B, L, C]: [B, N, heads·c]."""
    key, value = (_heads(attn, project(states)) for project in (attn.to_k, attn.to_v))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
