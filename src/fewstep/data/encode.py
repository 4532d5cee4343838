"""Encoding kept pictures once: the mean of the autoencoder's posterior, and what both text encoders make of the caption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.engine.decode import ENCODED, to_values
from fewstep.models.bundle import Bundle, digest_weights
from fewstep.models.prompt import Prompt, cat, encode

CAPTIONS = 32  # encoded at once


def encoders_key(bundle: Bundle) -> str:
    """What encoded pictures depend on: the weights of the autoencoder and of both text encoders, and the tokenizers, in 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for network in (bundle.vae, bundle.text_encoder, bundle.text_encoder_2):
        digest_weights(digest, network)
    for tokenizer in (bundle.tokenizer, bundle.tokenizer_2):
        digest.update(json.dumps([tokenizer.model_max_length, tokenizer.get_vocab()], sort_keys=True).encode())
    return digest.hexdigest()[:12]


@torch.no_grad()
def encode_pictures(vae: Any, pictures: Sequence[np.ndarray]) -> Tensor:
    """The mean latents of ``pictures``, uint8 [H, W, 3] all of one size: bfloat16 [B, C, H/f, W/f], as the autoencoder has them, not scaled."""
    few = [pictures[first : first + ENCODED] for first in range(0, len(pictures), ENCODED)]
    inputs = (torch.from_numpy(np.concatenate([to_values(picture) for picture in part])) for part in few)
    return torch.cat([vae.encode(x.to(vae.device, vae.dtype)).latent_dist.mean.to(torch.bfloat16).cpu() for x in inputs])


@torch.no_grad()
def encode_captions(bundle: Bundle, captions: Sequence[str]) -> Prompt:
    """Both encoders' answers: bfloat16 [B, L, C1 + C2] and [B, P]."""
    few = [encode(bundle, captions[first : first + CAPTIONS]) for first in range(0, len(captions), CAPTIONS)]
    whole = cat(*few)
    return Prompt(whole.embeds.to(torch.bfloat16).cpu(), whole.pooled.to(torch.bfloat16).cpu())
