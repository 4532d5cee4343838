"""Weights files with or without torch: the same tensors, and one sentence on what cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewstep.models.weights import WeightsError, low_rank_changes, read_weights


def test_numpy_reads_the_numbers_that_torch_reads(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    tensors = {str(kind): torch.randn(3, 5, generator=generator).to(kind) for kind in kinds} | {"none": torch.zeros(0, 2, dtype=torch.bfloat16)}
    path = tmp_path / "a.safetensors"
    save_file({**tensors, "one": torch.tensor(-1.5, dtype=torch.bfloat16)}, path)
    ours, theirs = read_weights(path, "numpy"), read_weights(path)
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[key], theirs[key].double().numpy()) and ours[key].shape == tuple(theirs[key].shape) for key in ours)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_refused_by_either(tmp_path: Path, kind: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"good": torch.zeros(2, dtype=kind), "bad": torch.tensor([1.0, float("nan")]).to(kind)}, path)
    for framework in ("pt", "numpy"):
        with pytest.raises(WeightsError, match="'bad' holds a value that is not finite"):
            read_weights(path, framework)  # type: ignore[arg-type]


def test_a_type_that_numpy_lacks_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, path)
    assert read_weights(path)["a"].dtype == torch.float8_e4m3fn
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        read_weights(path, "numpy")


@pytest.mark.parametrize("library", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("down", "up", "alpha"),
    [
        (1.0, [[1.0]] * 4, 1.0),
        (np.zeros((0, 4)), np.zeros((4, 0)), 1.0),
        ([[1.0] * 4], 1.0, 1.0),
        ([[1.0] * 3], [[1.0]] * 4, 1.0),
        ([[1.0] * 4], [[1.0]] * 4, [1.0, 1.0]),
        ([[1.0] * 4], [[1.0]] * 4, []),
    ],
)
def test_adapters_of_odd_shapes_are_refused_in_a_sentence(library, down, up, alpha) -> None:  # type: ignore[no-untyped-def]
    tensors = {f"lora_unet_a.{name}": library(value) for name, value in {"lora_down.weight": down, "lora_up.weight": up, "alpha": alpha}.items()}
    with pytest.raises(WeightsError, match="'lora_unet_a' has shapes"):
        low_rank_changes(Path("some.safetensors"), tensors, {"a.weight": (4, 4)})


@pytest.mark.parametrize("library", [np.array, torch.tensor])
@pytest.mark.parametrize(("alpha", "factor"), [(None, 1.0), (4.0, 2.0), ([4.0], 2.0)])
def test_a_change_is_alpha_over_rank_times_the_product(library, alpha, factor) -> None:  # type: ignore[no-untyped-def]
    up, down = np.arange(8.0).reshape(4, 2), np.arange(6.0).reshape(2, 3)
    tensors = {"lora_unet_a.lora_up.weight": library(up), "lora_unet_a.lora_down.weight": library(down)}
    tensors |= {} if alpha is None else {"lora_unet_a.alpha": library(alpha)}
    assert np.array_equal(np.asarray(low_rank_changes(Path("a"), tensors, {"a.weight": (4, 3)})["a.weight"]), factor * up @ down)
