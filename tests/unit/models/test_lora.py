"""Adapters: no change at first, what is merged is what was trained, and an exact extraction where the change is low-rank."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.tiny import SHAPE

from fewstep.models.bundle import save_weights
from fewstep.models.lora import Worn, adapters, add_lora, extract_lora, fuse_lora, set_adapters, shapes_of, targets
from fewstep.models.miniature import build_unet
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


def test_an_adapter_starts_as_no_change_and_trains_alone(unet: torch.nn.Module) -> None:
    tuned = copy.deepcopy(unet)
    added = add_lora(tuned, rank=4, alpha=4)
    assert {id(p) for p in tuned.parameters() if p.requires_grad} == {id(p) for p in added}
    for (name, layer), other in zip(targets(unet).items(), targets(tuned).values(), strict=True):
        assert torch.equal(layer.weight, other.weight), name


def test_fusing_keeps_the_adapted_weights_and_the_names(unet: torch.nn.Module) -> None:
    tuned = randomised(unet, rank=4)
    adapted = {name: layer.weight.detach().clone() for name, layer in targets(tuned).items()}
    fuse_lora(tuned)
    assert set(tuned.state_dict()) == set(unet.state_dict())
    for name, layer in targets(tuned).items():
        assert torch.equal(layer.weight, adapted[name])


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
    for (name, layer), other in zip(targets(adapted).items(), targets(tuned).values(), strict=True):
        torch.testing.assert_close(layer.weight, other.weight, atol=1e-4, rtol=1e-3, msg=name)
