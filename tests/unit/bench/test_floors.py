"""Operations and bytes of networks that are known, and the arithmetic of the roofline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fewstep.bench import sdxl
from fewstep.bench.floors import Cost, Networks, count
from fewstep.bench.peaks import Peaks
from fewstep.models.bundle import load_bundle
from fewstep.models.prompt import conditioning, encode, time_ids


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_linear_layer(device: str) -> None:
    layer, x = nn.Linear(20, 30, device=device), torch.empty(7, 20, device=device)
    assert count(lambda: layer(x)) == Cost(flops=2 * 7 * 20 * 30, bytes=4 * (7 * 20 + 20 * 30 + 30 + 7 * 30))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_convolution(device: str) -> None:
    layer, x = nn.Conv2d(3, 5, 3, padding=1, device=device), torch.empty(2, 3, 8, 6, device=device)
    places = 2 * 8 * 6
    assert count(lambda: layer(x)) == Cost(flops=2 * places * 5 * 3 * 9, bytes=4 * (places * 3 + 5 * 3 * 9 + 5 + places * 5))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_two_products_and_its_weights_are_not_moved(device: str) -> None:
    q, k, v = (torch.empty(2, 3, length, width, device=device) for length, width in ((10, 8), (77, 8), (77, 4)))
    expected = Cost(flops=2 * 6 * 10 * 77 * (8 + 4), bytes=4 * 6 * (10 * 8 + 77 * 8 + 77 * 4 + 10 * 4))
    assert count(lambda: functional.scaled_dot_product_attention(q, k, v)) == expected


def test_half_precision_moves_half_the_bytes() -> None:
    layer, x = nn.Linear(20, 30, device="meta"), torch.empty(7, 20, device="meta")
    single = count(lambda: layer(x))
    layer, x = layer.bfloat16(), x.bfloat16()
    assert count(lambda: layer(x)) == Cost(single.flops, single.bytes // 2)


def test_a_whole_network_counts_as_torch_counts_it(tiny: Path) -> None:
    """The UNet and the decoder on real tensors, by torch's own counter; it does not know the fused attention of processors."""
    bundle, networks = load_bundle(tiny), Networks.of(tiny)
    side = 128
    latents = torch.randn(2, bundle.unet.config.in_channels, side // bundle.factor, side // bundle.factor)
    conditions = conditioning(encode(bundle, ["a", "b"]), time_ids(2, side, side))
    with torch.no_grad(), FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        bundle.unet(latents, 999, **conditions)
        unet = counter.get_total_flops()
        bundle.vae.decode(latents)
    assert networks.denoise(2, side).flops == unet
    assert networks.decode(2, side).flops == counter.get_total_flops() - unet


@pytest.fixture(scope="module")
def full_size() -> Networks:
    return Networks(sdxl.CONFIGS, torch.bfloat16)


def test_sdxl_at_full_size_counts_as_published(full_size: Networks) -> None:
    """Parameters as released; 2.989 tera-multiply-adds an evaluation without attention's products, as profilers of LCM-SDXL report."""
    assert [round(sdxl.parameters(network) / 1e6, 1) for network in (full_size.unet, full_size.vae, *full_size.text)] == [2567.5, 83.7, 123.1, 694.7]
    unet, products = full_size.denoise(1, 1024), 0.784e12
    assert (unet.flops - products) / 2 == pytest.approx(2.989e12, rel=1e-3)
    assert full_size.decode(1, 1024).flops == pytest.approx(10.47e12, rel=1e-3)
    assert full_size.encode(1).flops == pytest.approx(0.111e12, rel=5e-3)
    assert unet.bytes > 2 * sdxl.parameters(full_size.unet), "every weight is read at least once"


def test_a_picture_is_the_sum_of_its_stages(tiny: Path) -> None:
    networks = Networks.of(tiny)
    whole = networks.picture(50, 64, guided=True)
    assert whole == networks.encode(1) + networks.denoise(2, 64) * 50 + networks.decode(1, 64)
    plain = networks.picture(50, 64)
    assert whole.flops - plain.flops == 50 * (networks.denoise(2, 64).flops - networks.denoise(1, 64).flops)
    with pytest.raises(ValueError, match="no tiny decoder"):
        networks.picture(1, 64, "tiny")


@pytest.mark.parametrize(("cost", "floor", "bound"), [(Cost(200, 10), 2.0, "compute"), (Cost(50, 90), 3.0, "memory"), (Cost(100, 30), 1.0, "compute")])
def test_a_floor_is_the_longer_of_computing_and_moving(cost: Cost, floor: float, bound: str) -> None:
    peaks = Peaks(flops=100.0, bandwidth=30.0)
    assert (cost.floor(peaks), cost.bound(peaks)) == (floor, bound)
