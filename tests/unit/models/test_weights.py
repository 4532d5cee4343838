"""Weights files with or without torch: the same tensors, and one sentence on what cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewstep.models.weights import WeightsError, read_weights


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
