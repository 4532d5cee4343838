"""Normalized Attention Guidance: its formula, and where it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fewstep.models.attention import ALPHA, TAU, Negatable, normalized_guidance, take_negatives
from fewstep.models.bundle import load_bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import Prompt, conditioning, encode, time_ids


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_formula_by_hand() -> None:
    """φ = 2: Z~ = 2·(1, -1) - (3, 1) = (-1, -3), of norm 4 where Z+ has 2; under τ it stays, and half of it is taken. φ = 5 is cut down to τ."""
    positive, negative = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[3.0, 1.0]]])
    assert normalized_guidance(positive, negative, 2).tolist() == [[[0.0, -2.0]]]
    cut = torch.tensor([-7.0, -9.0]) * (TAU * 2 / 16)
    torch.testing.assert_close(normalized_guidance(positive, negative, 5)[0, 0], ALPHA * cut + (1 - ALPHA) * positive[0, 0])


@given(st.integers(0, 99), st.floats(1, 50))
def test_no_position_grows_beyond_its_bound(seed: int, scale: float) -> None:
    """‖Z‖₁ ≤ (ατ + 1 - α)·‖Z+‖₁, whatever there is to lead away from."""
    positive, negative = drawn(seed, 2, 5, 8), 10 * drawn(seed + 100, 2, 5, 8)
    norms = [values.abs().sum(dim=-1) for values in (normalized_guidance(positive, negative, scale), positive)]
    assert (norms[0] <= (ALPHA * TAU + 1 - ALPHA) * norms[1] * (1 + 1e-9)).all()


def test_a_scale_of_one_the_same_prompt_and_nothing_at_all_change_nothing() -> None:
    positive, negative = drawn(0, 2, 5, 8), drawn(1, 2, 5, 8)
    torch.testing.assert_close(normalized_guidance(positive, negative, 1), positive)
    torch.testing.assert_close(normalized_guidance(positive, positive, 9), positive)
    nothing = torch.zeros_like(positive)
    assert torch.equal(normalized_guidance(nothing, nothing, 9), nothing), "the null prompt's attention has no norm"


@torch.no_grad()
def test_a_unet_without_a_negative_prompt_is_as_before_to_the_bit(tiny: Path) -> None:
    bundle = load_bundle(tiny)
    conditions = conditioning(encode(bundle, ["a red apple"]), time_ids(1, 256, 256))
    x = drawn(0, 1, 4, 16, 16).float()
    before = bundle.unet(x, 999, **conditions, return_dict=False)[0]
    take_negatives(take_negatives(bundle.unet))
    assert all(isinstance(one, Negatable) and not isinstance(one.inner, Negatable) for one in bundle.unet.attn_processors.values()), "once"
    assert torch.equal(bundle.unet(x, 999, **conditions, return_dict=False)[0], before)


@torch.no_grad()
def test_only_cross_attention_is_led_away_and_by_its_own_formula(tiny: Path) -> None:
    """One layer against its parts: to_out of the formula over what its plain processor gives for each prompt without to_out."""
    bundle = load_bundle(tiny)
    take_negatives(bundle.unet)
    layer = bundle.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    x, states, against = drawn(0, 1, 9, 64).float(), drawn(1, 1, 77, 64).float(), drawn(2, 1, 154, 64).float()
    projection = layer.to_out[0]
    layer.to_out[0] = torch.nn.Identity()
    positive, negative = (layer(x, encoder_hidden_states=text) for text in (states, against))
    layer.to_out[0] = projection
    led = layer(x, encoder_hidden_states=states, negative_states=against, nag_scale=torch.tensor(3.0))
    torch.testing.assert_close(led, projection(normalized_guidance(positive, negative, 3.0)))
    own = bundle.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    assert torch.equal(own(x, negative_states=against, nag_scale=torch.tensor(3.0)), own(x))


@pytest.mark.parametrize("guidance", [0.0, 4.0])
@torch.no_grad()
def test_the_denoiser_leads_the_real_prompt_away_and_not_the_null_one(tiny: Path, guidance: float) -> None:
    bundle = load_bundle(tiny)
    prompt, against, ids = encode(bundle, ["a red apple", "pizza"]), encode(bundle, ["a ghost", "a rocket"]), time_ids(2, 256, 256)
    x = drawn(0, 2, 4, 16, 16).float()
    plain = denoiser(bundle.unet, prompt, ids, guidance)(x, 999)
    led = denoiser(bundle.unet, prompt, ids, guidance, negative=against, nag_scale=3.0)(x, 999)
    assert (led - plain).abs().max() > 1e-3
    for same in ({"nag_scale": 1.0, "negative": against}, {"nag_scale": 9.0, "negative": prompt}):
        torch.testing.assert_close(denoiser(bundle.unet, prompt, ids, guidance, **same)(x, 999), plain, atol=1e-5, rtol=1e-4)  # type: ignore[arg-type]
    if guidance > 1:
        real = denoiser(bundle.unet, prompt, ids, negative=against, nag_scale=3.0)(x, 999)
        null = denoiser(bundle.unet, prompt.null(), ids)(x, 999)
        torch.testing.assert_close(led, null + guidance * (real - null), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_negative_prompt_takes_the_nulls_place_whatever_its_length(tiny: Path) -> None:
    """û = û_negative + w·(û - û_negative), in one batch where the lengths agree and in two where they do not."""
    bundle = load_bundle(tiny)
    prompt, other, ids = encode(bundle, ["a red apple"]), encode(bundle, ["a ghost"]), time_ids(1, 256, 256)
    x = drawn(0, 1, 4, 16, 16).float()
    for null in (other, Prompt(torch.cat([other.embeds, other.embeds], dim=1), other.pooled)):
        guided = denoiser(bundle.unet, prompt, ids, 3.0, null)(x, torch.tensor([999]))
        away, real = (denoiser(bundle.unet, one, ids)(x, 999) for one in (null, prompt))
        torch.testing.assert_close(guided, away + 3.0 * (real - away), atol=1e-5, rtol=1e-4)
