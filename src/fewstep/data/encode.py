"""Encoding kept pictures once: the mean of the autoencoder's posterior, and what both text encoders make of the caption."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.engine.decode import to_values
from fewstep.models.bundle import Bundle, digest_weights
from fewstep.models.prompt import Prompt, encode


def encoders_key(bundle: Bundle) -> str:
    """What encoded pictures depend on: the weights of the autoencoder and of both text encoders, and the tokenizers, in 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for network in (bundle.vae, bundle.text_encoder, bundle.text_encoder_2):
        digest_weights(digest, network)
    for tokenizer in (bundle.tokenizer, bundle.tokenizer_2):
        digest.update(json.dumps([tokenizer.model_max_length, tokenizer.get_vocab()], sort_keys=True).encode())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Encoded:
    """One picture and its caption, encoded."""

    latents: Tensor  # bfloat16 [1, C, H/f, W/f], as the autoencoder has them, not scaled
    prompt: Prompt  # bfloat16 [1, L, C1 + C2] and [1, P]


@torch.no_grad()
def encode_picture(bundle: Bundle, pixels: np.ndarray, caption: str) -> Encoded:
    """The mean latents of ``pixels``, uint8 [H, W, 3], and both encoders' answers to ``caption``.

    Each is encoded by itself, for kernels differ by the size of a batch: what it becomes does not hang on what was beside it, nor on who did it.
    """
    inputs = torch.from_numpy(to_values(pixels)).to(bundle.vae.device, bundle.vae.dtype)
    latents = bundle.vae.encode(inputs).latent_dist.mean.to(torch.bfloat16).cpu()
    prompt = encode(bundle, [caption])
    return Encoded(latents, Prompt(prompt.embeds.to(torch.bfloat16).cpu(), prompt.pooled.to(torch.bfloat16).cpu()))
