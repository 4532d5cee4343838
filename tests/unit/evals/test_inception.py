"""The network of FID: the numbers of pytorch-fid's own on the same weights, and a file that is one of its or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewstep.evals.inception import WIDTH, Inception, load_inception
from fewstep.models.weights import WeightsError

# Every 256th feature of two pictures, by pytorch-fid 0.3.0's network (on torchvision 0.29.1) with the weights of `seeded`.
REFERENCE = (
    (0.41731706, 1.12962365, 0.43122175, 1.43645179, 0.00747018, 0.0, 0.03791609, 0.00396458),
    (0.42318451, 1.12345767, 0.42717591, 1.43362033, 0.00894880, 0.0, 0.03381947, 0.00382085),
)


def seeded() -> dict[str, torch.Tensor]:
    """Weights that keep activations in range: each tensor from its place in the sorted names."""
    with torch.device("meta"):
        shapes = {name: (tuple(value.shape), value.is_floating_point()) for name, value in Inception().state_dict().items()}
    tensors = {}
    for place, (name, (shape, real)) in enumerate(sorted(shapes.items())):
        if not real:
            continue
        values = np.random.default_rng(place).standard_normal(shape, np.float32)
        if name.endswith("conv.weight"):
            values *= np.float32((2 / values[0].size) ** 0.5)
        elif name.endswith("bn.weight"):
            values = 1 + np.float32(0.1) * values
        elif name.endswith("running_var"):
            values = 1 + np.float32(0.1) * values**2
        else:
            values *= np.float32(0.1)
        tensors[name] = torch.from_numpy(values)
    return tensors


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file(seeded(), path)
    return path


@torch.no_grad()
def test_features_are_those_of_pytorch_fid(file: Path) -> None:
    before = torch.random.get_rng_state()
    network = load_inception(file)
    assert torch.equal(torch.random.get_rng_state(), before), "loading drew a random number, and training may count on the next"
    pictures = torch.from_numpy(np.random.default_rng(99).uniform(-1, 1, (2, 3, 299, 299)).astype(np.float32))
    found = network(pictures)
    assert found.shape == (2, WIDTH)
    assert torch.allclose(found[:, ::256], torch.tensor(REFERENCE), atol=1e-5)


def test_names_and_shapes_are_checked(file: Path, tmp_path: Path) -> None:
    tensors = seeded()
    tensors.pop("Mixed_7c.branch_pool.conv.weight")
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match=r"'Mixed_7c.branch_pool.conv.weight' is missing"):
        load_inception(tmp_path / "less.safetensors")
