"""CLIP score: the cosine between a picture and its prompt, as CLIP embeds both. Its weights are taken from the Hub's cache, never fetched."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL.Image import Resampling

from fewstep.models.clip_tokens import ClipTokens
from fewstep.models.weights import WeightsError
from fewstep.zoo.hub import cached, command

if TYPE_CHECKING:
    from PIL.Image import Image

REPO = "openai/clip-vit-large-patch14"
FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json")
MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)  # of the pictures that CLIP was trained on
DEVIATION = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)


def clip_score() -> Callable[[Image, str], float]:
    """``score(image, prompt)``: max(100 cos, 0), as Hessel et al. (arXiv 2104.08718) have it with w = 100 instead of 2.5; what is longer than
    CLIP reads is cut off. Raises WeightsError where the weights are not in the cache or cannot be used.
    """
    from safetensors import SafetensorError
    from transformers import CLIPModel

    found = [cached(REPO, name) for name in FILES]
    missing = [name for name, path in zip(FILES, found, strict=True) if path is None]
    if missing or found[0] is None:
        raise WeightsError(f"{REPO} is not in the Hub's cache: {command(REPO, FILES)}")
    folder = found[0].parent
    try:
        model, tokens = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval(), ClipTokens.open(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} cannot be used ({str(error).splitlines()[0]:.200}): {command(REPO, FILES)}") from None
    side = model.config.vision_config.image_size

    @torch.inference_mode()
    def score(image: Image, prompt: str) -> float:
        ids = [tokens.start, *tokens.ids(prompt)[: tokens.length - 2], tokens.end]
        seen = model(input_ids=torch.tensor([ids]), pixel_values=pixels(image, side))
        cosine = torch.nn.functional.cosine_similarity(seen.text_embeds, seen.image_embeds)
        return round(max(100 * float(cosine), 0.0), 4)

    return score


def pixels(image: Image, side: int) -> torch.Tensor:
    """``image`` as CLIP is shown it, [1, 3, side, side]: its shorter side scaled to ``side``, the middle cut out, normalised."""
    scale = side / min(image.size)
    image = image.convert("RGB").resize((max(round(image.width * scale), side), max(round(image.height * scale), side)), Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    values = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return torch.from_numpy((values - MEAN) / DEVIATION).permute(2, 0, 1)[None]
