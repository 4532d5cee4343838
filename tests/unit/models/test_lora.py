"""Adapters: no change at first, what is merged is what was trained, and an exact extraction where the change is low-rank."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.tiny import SHAPE

from fewstep.models.bundle import save_weights
from fewstep.models.guidance import denoiser
from fewstep.models.lora import Worn, adapters, add_lora, extract_lora, fuse_lora, merged, set_adapters, shapes_of, shared, targets
from fewstep.models.miniature import build_unet
from fewstep.models.prompt import Prompt, time_ids
from fewstep.models.stack import Lora, changes_of
from fewstep.models.weights import WeightsError


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_unet(SHAPE).eval().requires_grad_(False)


def randomised(unet: torch.nn.Module, rank: int) -> torch.nn.Module:
    """A copy whose adapters are no longer zero."""
    tuned = copy.deepcopy(unet)
    with torch.no_grad():
        for parameter in add_lora(tuned, rank, alpha=rank):
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    return tuned


def test_the_papers_layers_are_the_targets(unet: torch.nn.Module) -> None:
    names = set(targets(unet))
    assert not {"conv_in", "conv_out", "time_embedding.linear_1", "add_embedding.linear_1"} & names
    for part in ("to_q", "to_out.0", "ff.net.2", "conv1", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "proj_in"):
        assert any(name.endswith(part) for name in names), part


def output(unet: torch.nn.Module) -> torch.Tensor:
    """What the network answers to fixed latents and a fixed prompt."""
    config = cast(Any, unet).config
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.in_channels, 4, 8, generator=generator)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    prompt = Prompt(torch.randn(2, 7, config.cross_attention_dim, generator=generator), torch.randn(2, pooled, generator=generator))
    with torch.no_grad():
        return denoiser(unet, prompt, time_ids(2, 32, 64))(x, torch.tensor([499, 999]))


def test_an_adapter_starts_as_no_change_and_trains_alone(unet: torch.nn.Module) -> None:
    tuned = copy.deepcopy(unet)
    added = add_lora(tuned, rank=4, alpha=4)
    assert {id(p) for p in tuned.parameters() if p.requires_grad} == {id(p) for p in added}
    assert torch.equal(output(tuned), output(unet))


def test_fusing_keeps_the_answers_and_the_names(unet: torch.nn.Module) -> None:
    tuned = randomised(unet, rank=4)
    before = output(tuned)
    assert not torch.allclose(before, output(unet), atol=1e-2)
    fuse_lora(tuned)
    assert set(tuned.state_dict()) == set(unet.state_dict())
    torch.testing.assert_close(output(tuned), before, atol=1e-4, rtol=1e-3)
    add_lora(tuned, rank=4, alpha=4)
    torch.testing.assert_close(output(tuned), before, atol=1e-4, rtol=1e-3)  # nothing of the first adapters is left


def test_networks_that_share_their_weights_have_adapters_of_their_own(unet: torch.nn.Module) -> None:
    before = output(unet)
    one, other = shared(unet), shared(unet)
    places = {id(p) for p in unet.parameters()}
    for copied, seed in ((one, 1), (other, 2)):
        assert {id(p) for p in copied.parameters()} == places
        for parameter in add_lora(copied, 4, 4.0, seed):
            torch.nn.init.normal_(parameter, std=0.05)
    assert torch.equal(output(unet), before)
    assert not torch.allclose(output(one), output(other), atol=1e-2)


def test_a_low_rank_change_is_extracted_exactly_and_merges_back(unet: torch.nn.Module, tmp_path: Path) -> None:
    tuned = randomised(unet, rank=4)
    fuse_lora(tuned)
    tensors, residual = extract_lora(unet, tuned, rank=4)
    assert residual < 1e-3
    save_weights(tensors, tmp_path / "lora.safetensors", {"format": "pt"})
    merged, own = copy.deepcopy(unet), {"unet": shapes_of(unet)}
    stack = (Lora("a", 1.0, tmp_path / "lora.safetensors", ("unet",)),)
    Worn(merged).wear("a", lambda: changes_of(stack, "unet", own))
    for name, one in tuned.state_dict().items():  # fusing may have changed their order
        torch.testing.assert_close(one, merged.state_dict()[name], atol=1e-4, rtol=1e-3)


def test_the_residual_falls_with_the_rank(unet: torch.nn.Module) -> None:
    tuned = randomised(unet, rank=8)
    fuse_lora(tuned)
    residuals = [extract_lora(unet, tuned, rank)[1] for rank in (1, 2, 4, 8)]
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[0] > 0.5 > residuals[-1]


def test_what_is_worn_is_taken_off_to_the_bit(unet: torch.nn.Module, tmp_path: Path) -> None:
    """Through other stacks, in the same tensors; and a file that cannot be used changes nothing."""
    network, own, path = copy.deepcopy(unet), {"unet": shapes_of(unet)}, tmp_path / "lora.safetensors"
    tuned = randomised(unet, rank=4)
    fuse_lora(tuned)
    tensors, _ = extract_lora(unet, tuned, rank=4)
    save_weights(tensors, path, {"format": "pt"})
    half = dict(list(tensors.items())[: len(tensors) // 6 * 3])
    save_weights(half, tmp_path / "half.safetensors", {"format": "pt"})
    stacks = {key: (Lora(key, weight, file, ("unet",)),) for key, weight, file in (("a", 1.0, path), ("b", -0.5, tmp_path / "half.safetensors"))}
    worn, places, seen = Worn(network), [weight.data_ptr() for weight in network.parameters()], {}
    for key in ("a", "b", "a", "", "b", "a", ""):
        worn.wear(key or (), partial(changes_of, stacks.get(key, ()), "unet", own))
        state = {name: value.clone() for name, value in network.state_dict().items()}
        for name, value in seen.setdefault(key, state).items():
            assert torch.equal(state[name], value), (key, name)
    assert all(torch.equal(value, seen[""][name]) for name, value in unet.state_dict().items())
    assert any(not torch.equal(value, seen["b"][name]) for name, value in unet.state_dict().items())
    assert [weight.data_ptr() for weight in network.parameters()] == places
    bad = (Lora("c", 1.0, tmp_path / "none.safetensors", ("unet",)),)
    with pytest.raises(WeightsError, match="there is no such file"):
        worn.wear("c", lambda: changes_of(bad, "unet", own))
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in network.state_dict().items())


def test_adapters_set_from_an_extraction_give_its_tensors_back(unet: torch.nn.Module) -> None:
    tuned = randomised(unet, rank=4)
    fuse_lora(tuned)
    tensors, _ = extract_lora(unet, tuned, rank=4)
    adapted = copy.deepcopy(unet)
    add_lora(adapted, rank=4, alpha=1)
    set_adapters(adapted, tensors)
    held = adapters(adapted)
    assert set(held) == set(tensors)
    assert all(torch.equal(held[key], tensors[key]) for key in tensors)
    torch.testing.assert_close(output(adapted), output(tuned), atol=1e-4, rtol=1e-3)


def test_merged_weights_are_those_that_fusing_makes(unet: torch.nn.Module) -> None:
    tuned = randomised(unet, 4)
    found = merged(tuned, tuned.state_dict())
    fuse_lora(tuned)
    assert found.keys() == unet.state_dict().keys()
    assert all(torch.equal(value, found[name]) for name, value in tuned.state_dict().items())
