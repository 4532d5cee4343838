"""The average against its closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewstep.distill.ema import Ema


def follow(decay: float, values: list[float]) -> tuple[Ema, nn.Linear]:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(values[0])
    average = Ema(model, decay)
    for value in values[1:]:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update(model)
    return average, model


def test_warm_up_then_geometric() -> None:
    """w̄_n = d_n·w̄ + (1 - d_n)·w with d_n = min(decay, (1 + n) / (10 + n))."""
    values = [float(v) for v in torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()]
    expected = values[0]
    for n, value in enumerate(values[1:]):
        d = min(0.9, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    average, _ = follow(0.9, values)
    assert float(average.weights["weight"]) == pytest.approx(expected, abs=1e-5)
    assert average.updates == 399


def test_first_update_nearly_forgets_the_start() -> None:
    average, _ = follow(0.9999, [100.0, 1.0])
    assert float(average.weights["weight"]) == pytest.approx(0.1 * 100 + 0.9 * 1)


def test_a_constant_is_its_own_average() -> None:
    average, model = follow(0.999, [0.7] * 50)
    assert float(average.weights["weight"]) == pytest.approx(0.7, abs=1e-6)
    average.copy_to(model)
    assert model.weight.item() == pytest.approx(0.7, abs=1e-6)


def test_state_round_trip_goes_on_alike() -> None:
    average, model = follow(0.99, [1.0, 2.0, 3.0])
    other = Ema(nn.Linear(1, 1, bias=False), 0.99)
    other.load(average.state())
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update(model)
        other.update(model)
    assert torch.equal(average.weights["weight"], other.weights["weight"]) and average.updates == other.updates == 5


def test_state_is_a_copy() -> None:
    """What a checkpoint holds does not move with later updates once it is written; loading does not tie the two together."""
    average, model = follow(0.5, [1.0, 2.0])
    other = Ema(model, 0.5)
    other.load(average.state())
    before = other.weights["weight"].clone()
    average.update(model)
    assert torch.equal(other.weights["weight"], before)


def test_frozen_weights_are_not_followed_and_half_precision_is_followed_in_full() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).to(torch.bfloat16)
    model[0].weight.requires_grad_(False)
    average = Ema(model, 0.9999)
    assert set(average.weights) == {"1.weight"} and average.weights["1.weight"].dtype == torch.float32
    start = average.weights["1.weight"].clone()
    with torch.no_grad():
        model[1].weight.add_(1.0)
    for _ in range(40):
        average.update(model)
    assert average.weights["1.weight"] != start
    frozen = model[0].weight.clone()
    average.copy_to(model)
    assert torch.equal(model[0].weight, frozen)


def test_averaged_weights_are_worn_and_taken_off_to_the_bit() -> None:
    """Also where what was done meanwhile failed."""
    average, model = follow(0.9, [0.3, 1.7, -0.2])
    own = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="meanwhile"), average.worn(model):
        assert torch.equal(model.weight.detach(), average.weights["weight"])
        assert not torch.equal(model.weight.detach(), own)
        raise RuntimeError("meanwhile")
    assert torch.equal(model.weight.detach(), own)
