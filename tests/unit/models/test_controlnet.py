"""A ControlNet that has learnt nothing changes nothing, and a file's layout is told from its header, at any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file
from tests import nets
from tests.headers import sparse
from tests.tiny import build

from fewstep.bench.sdxl import random_bundle
from fewstep.models.bundle import Bundle
from fewstep.models.control_layout import read_layout
from fewstep.models.controlnet import Nets, Reader, build_controlnet, load_controlnet, read, residuals, together
from fewstep.models.prompt import conditioning, encode, time_ids
from fewstep.models.weights import WeightsError


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return build()


def shapes(net: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in net.state_dict().items()}


@torch.inference_mode()
def test_before_it_has_learnt_it_changes_nothing(bundle: Bundle) -> None:
    """And it is the encoder: with the hint's network at zero its skips are those of the UNet before the zero convolutions."""
    net = build_controlnet(bundle.unet, nets.EMBEDDING).eval()
    x, condition = torch.randn(2, 4, 8, 8), conditioning(encode(bundle, ["a pizza", "a ghost"]), time_ids(2, 128, 128))
    plain = bundle.unet(x, 500, **condition).sample
    answer = read(net, x, 500, condition, torch.rand(2, 3, 128, 128))
    assert torch.equal(bundle.unet(x, 500, **condition, **together([answer])).sample, plain)
    for block in net.controlnet_down_blocks:
        torch.nn.init.dirac_(block.weight)
    skips: list[torch.Tensor] = []
    hook = bundle.unet.up_blocks[0].register_forward_pre_hook(lambda _, args, kwargs: skips.extend(kwargs["res_hidden_states_tuple"]), with_kwargs=True)
    bundle.unet(x, 500, **condition)
    hook.remove()
    torch.testing.assert_close(read(net, x, 500, condition, torch.rand(2, 3, 128, 128))[0][-len(skips) :], skips)


def test_it_acts_at_its_timesteps_alone(bundle: Bundle) -> None:
    net = nets.build(bundle, 1)
    x, condition = torch.zeros(1, 4, 8, 8), conditioning(encode(bundle, ["a pizza"]), time_ids(1, 128, 128))
    added = residuals([Reader(net, torch.rand(1, 3, 128, 128), {999: 1.0, 499: 0.5})])
    assert added(x, 749, condition) == {}
    whole, half = (added(x, t, condition)["mid_block_additional_residual"] for t in (999, torch.tensor(499)))
    assert whole.abs().max() > 0 and half.abs().max() > 0


@pytest.mark.parametrize("attentions", [True, False], ids=["whole", "small"])
def test_the_layout_of_a_file_for_sdxl_is_told_from_its_header(tmp_path: Path, attentions: bool) -> None:
    unet = random_bundle(device="meta").unet
    less = {} if attentions else {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
    with torch.device("meta"):
        whole = ControlNetModel.from_config({**{key: unet.config[key] for key in unet.config if not key.startswith("_")}, **less})
    config = read_layout(sparse(tmp_path / "net.safetensors", shapes(whole)), dict(unet.config), 8)
    with torch.device("meta"):
        assert shapes(ControlNetModel(**config)) == shapes(whole)


def test_one_for_another_model_is_refused_by_the_first_three_misfits(bundle: Bundle, tmp_path: Path) -> None:
    tensors = {name: weight.contiguous() for name, weight in nets.build(bundle, 1).state_dict().items()}
    config = read_layout(_written(tensors, tmp_path), dict(bundle.unet.config), 16)
    assert shapes(load_controlnet(_written(tensors, tmp_path), config)) == {name: tuple(value.shape) for name, value in tensors.items()}
    union = tensors | {"task_embedding": torch.zeros(6, 32), "conv_in.weight": torch.zeros(32, 9, 3, 3)}
    del union["controlnet_mid_block.weight"]
    said = r"'controlnet_mid_block.weight' is missing; 'task_embedding' is not known; 'conv_in.weight' has shape \[32, 9, 3, 3\], not \[32, 4, 3, 3\]$"
    with pytest.raises(WeightsError, match=said):
        read_layout(_written(union, tmp_path), dict(bundle.unet.config), 16)
    with pytest.raises(WeightsError, match=r"'controlnet_cond_embedding.blocks.6.bias' is not known"):
        read_layout(_written(tensors, tmp_path), dict(bundle.unet.config), 8)
    deep = "down_blocks.1.resnets.0.conv1.weight"
    with pytest.raises(WeightsError, match=f"'{deep}' is missing$"):
        load_controlnet(_written({name: value for name, value in tensors.items() if name != deep}, tmp_path), config)


def test_those_that_are_not_in_use_leave_when_there_is_no_room(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _written({name: weight.contiguous() for name, weight in nets.build(bundle, 1).state_dict().items()}, tmp_path)
    config = read_layout(path, dict(bundle.unet.config), 16)
    held = Nets("cpu", torch.float32, lambda net: net)
    first = held.get([("a", path, config)])
    assert held.get([("a", path, config), ("b", path, config)])[0] is first[0]
    monkeypatch.setattr("fewstep.models.controlnet.ROOM", 0)
    (both, third) = held.get([("b", path, config), ("c", path, config)])
    assert both is not third
    assert held.get([("a", path, config)])[0] is not first[0]


def _written(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(tensors, folder / "net.safetensors")
    return folder / "net.safetensors"
