"""CLIP score: the cosine that transformers computes itself, of pictures cut as CLIP's own processor cuts them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.hub import publish
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from fewstep.batch.score import scorer
from fewstep.engine.request import RequestError
from fewstep.evals.clip import FILES, REPO, clip_score, pixels

SIDE = 32
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The snapshot of a tiny random CLIP in a cache of the Hub, with the tiny model's tokenizer."""
    place, cache = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("cache")
    tokenizer = CLIPTokenizer.from_pretrained(tiny / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(
        text_config={**SMALL, **ends, "vocab_size": len(tokenizer)}, vision_config={**SMALL, "image_size": SIDE, "patch_size": 16}, projection_dim=16
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(place)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_HUB_CACHE", str(cache))
        yield publish(cache, REPO, {name: path if (path := place / name).exists() else tiny / "tokenizer" / name for name in FILES})


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_the_score_is_a_hundred_times_the_cosine(folder: Path) -> None:
    image, prompts = picture(48, 40), [f"a {word} apple" for word in ("red", "green", "blue", "small")] + ["apple " * 100]
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    score, expected = clip_score(), []
    for prompt in prompts:
        told = tokenizer(prompt, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            out = model(input_ids=told.input_ids, attention_mask=told.attention_mask, pixel_values=pixels(image, SIDE))
        expected.append(max(100 * float((out.image_embeds * out.text_embeds).sum()), 0))
    assert [score(image, prompt) for prompt in prompts] == pytest.approx(expected, abs=2e-4)
    assert len(set(expected)) > 1


@pytest.mark.parametrize("size", [(48, 40), (31, 64), (32, 32)])
def test_pictures_are_cut_in_the_middle_and_normalised(size: tuple[int, int]) -> None:
    white = pixels(Image.new("RGB", size, "white"), SIDE)
    assert white.shape == (1, 3, SIDE, SIDE)
    assert white[0, :, 5, 5].tolist() == pytest.approx([(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711])
    marked = Image.new("RGB", (3 * SIDE, SIDE), "white")
    marked.paste("black", (SIDE, 0, 2 * SIDE, SIDE))
    assert pixels(marked, SIDE)[0, 0, :, 3:-3].max() < -1, "only the middle third is left"


def test_weights_that_cannot_be_used_are_a_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad").write_text("{}")
    publish(tmp_path / "cache", REPO, dict.fromkeys(FILES, tmp_path / "bad"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RequestError, match=r"--score clip: .* cannot be used \(.*\): hf download openai/clip-vit-large-patch14"):
        scorer("clip", folder)
