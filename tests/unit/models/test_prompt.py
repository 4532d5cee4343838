"""Prompts are encoded as StableDiffusionXLPipeline does it, and nothing to say is zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.models.bundle import Bundle, load_bundle
from fewstep.models.prompt import Prompt, cat, conditioning, encode, time_ids

PROMPTS = ["a red apple on a blue background", "a ghost, pink background", "something that nobody taught it 🦊"]


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    return load_bundle(tiny)


def test_equals_diffusers(bundle: Bundle, tiny: Path) -> None:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny)
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=True)
    ours = encode(bundle, PROMPTS)
    assert torch.equal(ours.embeds, embeds) and torch.equal(ours.pooled, pooled)
    assert torch.equal(ours.null().embeds, negative) and torch.equal(ours.null().pooled, negative_pooled)  # force_zeros_for_empty_prompt
    expected = pipeline._get_add_time_ids((224, 288), (0, 0), (224, 288), torch.float32, ours.pooled.shape[1])
    assert torch.equal(time_ids(3, 288, 224), expected.expand(3, -1))


@pytest.mark.parametrize("empty", ["", "   ", "\n"])
def test_the_null_prompt_is_zeros(bundle: Bundle, empty: str) -> None:
    prompt = encode(bundle, [empty, PROMPTS[0]])
    assert not prompt.embeds[0].any() and not prompt.pooled[0].any()
    assert prompt.embeds[1].any() and prompt.pooled[1].any()


def test_a_prompt_does_not_depend_on_its_neighbours(bundle: Bundle) -> None:
    together, alone = encode(bundle, PROMPTS), encode(bundle, PROMPTS[1:2])
    torch.testing.assert_close(together[1:2].embeds, alone.embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1:2].pooled, alone.pooled, atol=1e-5, rtol=1e-5)


def test_case_and_white_space_do_not_matter(bundle: Bundle) -> None:
    assert torch.equal(encode(bundle, ["  A red\tAPPLE "]).embeds, encode(bundle, ["a red apple"]).embeds)


def test_what_is_too_long_is_cut_off(bundle: Bundle) -> None:
    long = encode(bundle, ["apple " * 500])
    assert long.embeds.shape == encode(bundle, ["apple"]).embeds.shape
    assert torch.equal(long.embeds, encode(bundle, ["apple " * 100]).embeds)


def test_dropping_gives_the_null_prompt_there_and_there_alone() -> None:
    prompt = Prompt(torch.randn(3, 5, 4), torch.randn(3, 2))
    dropped = prompt.dropped(torch.tensor([False, True, False]))
    assert torch.equal(dropped.embeds[1], torch.zeros(5, 4)) and torch.equal(dropped.pooled[1], torch.zeros(2))
    assert torch.equal(dropped.embeds[[0, 2]], prompt.embeds[[0, 2]]) and torch.equal(dropped.pooled[[0, 2]], prompt.pooled[[0, 2]])


def test_dropping_half_precision_keeps_its_type() -> None:
    dropped = Prompt(torch.randn(2, 5, 4).bfloat16(), torch.randn(2, 2).bfloat16()).dropped(torch.tensor([True, False]))
    assert dropped.embeds.dtype == dropped.pooled.dtype == torch.bfloat16


def test_cat_and_rows() -> None:
    first, second = Prompt(torch.randn(2, 5, 4), torch.randn(2, 2)), Prompt(torch.randn(1, 5, 4), torch.randn(1, 2))
    both = cat(first, second)
    assert torch.equal(both[:2].embeds, first.embeds) and torch.equal(both[2:].pooled, second.pooled)


def test_conditioning_reaches_the_unet(bundle: Bundle) -> None:
    """Every part of the conditioning changes the answer: text, pooled text, and size."""
    prompt, other, x = encode(bundle, PROMPTS[:1]), encode(bundle, PROMPTS[1:2]), torch.randn(1, 4, 16, 16)

    def answer(prompt: Prompt, ids: torch.Tensor) -> torch.Tensor:
        return bundle.unet(x, 500, **conditioning(prompt, ids)).sample  # type: ignore[no-any-return]

    plain = answer(prompt, time_ids(1, 256, 256))
    assert torch.equal(plain, answer(prompt, time_ids(1, 256, 256)))
    for changed in (Prompt(other.embeds, prompt.pooled), Prompt(prompt.embeds, other.pooled)):
        assert not torch.equal(plain, answer(changed, time_ids(1, 256, 256)))
    assert not torch.equal(plain, answer(prompt, time_ids(1, 336, 192)))
