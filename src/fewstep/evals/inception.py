"""InceptionV3 (Szegedy et al., arXiv 1512.00567) as the Fréchet Inception distance has it: the TensorFlow graph of 2015-12-05 up to its pooled features.

Layers have the names of pytorch-fid's conversion, whose tensors a file must hold. That graph averages without the padding, and its last block takes a
maximum where the paper has a mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewstep.models.bundle import load_weights

WIDTH = 2048  # of the features
SIDE = 299  # pixels a side of what it sees


class Layer(NamedTuple):
    """A convolution without bias, normalised and rectified."""

    name: str
    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padding: int | None = None  # None: what keeps the size, or nothing where it is halved


Branch = Sequence[Layer | tuple[Layer, Layer]]  # of a pair both see the same, side by side
Pool = Literal["mean", "max", "halve"]


class Convolution(nn.Module):
    """One :class:`Layer` on so many channels ``before``."""

    def __init__(self, before: int, layer: Layer) -> None:
        super().__init__()
        kernel = layer.kernel if isinstance(layer.kernel, tuple) else (layer.kernel, layer.kernel)
        same = (kernel[0] // 2, kernel[1] // 2) if layer.stride == 1 else (0, 0)
        padding = same if layer.padding is None else (layer.padding, layer.padding)
        self.conv = nn.Conv2d(before, layer.channels, kernel, layer.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(layer.channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, H', W']."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, the last of them behind a pooling."""

    def __init__(self, before: int, branches: Sequence[Branch], pool: Pool) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        for branch in branches:
            width = before
            for step in branch:
                layers = [step] if isinstance(step, Layer) else list(step)
                for layer in layers:
                    self.add_module(layer.name, Convolution(width, layer))
                width = sum(layer.channels for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """The branches' channels in their order."""
        pooled = {
            "mean": lambda: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
            "max": lambda: F.max_pool2d(x, 3, 1, 1),
            "halve": lambda: F.max_pool2d(x, 3, 2),
        }[self.pool]()
        starts = [*[x] * (len(self.branches) - 1), pooled]
        return torch.cat([self._along(branch, start) for branch, start in zip(self.branches, starts, strict=True)], dim=1)

    def _along(self, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            x = torch.cat([self.get_submodule(layer.name)(x) for layer in ([step] if isinstance(step, Layer) else step)], dim=1)
        return x


def _a(pooled: int) -> list[Branch]:
    double = [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, 3), Layer("branch3x3dbl_3", 96, 3)]
    return [[Layer("branch1x1", 64)], [Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, 5)], double, [Layer("branch_pool", pooled)]]


def _c(narrow: int) -> list[Branch]:
    single = [Layer("branch7x7_1", narrow), Layer("branch7x7_2", narrow, (1, 7)), Layer("branch7x7_3", 192, (7, 1))]
    kernels = ((7, 1), (1, 7), (7, 1), (1, 7))
    double = [Layer(f"branch7x7dbl_{i}", 192 if i == 5 else narrow, kernel) for i, kernel in enumerate(kernels, start=2)]
    return [[Layer("branch1x1", 192)], single, [Layer("branch7x7dbl_1", narrow), *double], [Layer("branch_pool", 192)]]


def _e() -> list[Branch]:
    def fork(name: str) -> tuple[Layer, Layer]:
        return Layer(f"{name}a", 384, (1, 3)), Layer(f"{name}b", 384, (3, 1))

    double: Branch = [Layer("branch3x3dbl_1", 448), Layer("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")]
    return [[Layer("branch1x1", 320)], [Layer("branch3x3_1", 384), fork("branch3x3_2")], double, [Layer("branch_pool", 192)]]


HALVE_B: list[Branch] = [
    [Layer("branch3x3", 384, 3, 2)],
    [Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, 3), Layer("branch3x3dbl_3", 96, 3, 2)],
    [],
]
HALVE_D: list[Branch] = [
    [Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, 3, 2)],
    [Layer("branch7x7x3_1", 192), Layer("branch7x7x3_2", 192, (1, 7)), Layer("branch7x7x3_3", 192, (7, 1)), Layer("branch7x7x3_4", 192, 3, 2)],
    [],
]
STEM = (Layer("Conv2d_1a_3x3", 32, 3, 2), Layer("Conv2d_2a_3x3", 32, 3, padding=0), Layer("Conv2d_2b_3x3", 64, 3))
NECK = (Layer("Conv2d_3b_1x1", 80), Layer("Conv2d_4a_3x3", 192, 3, padding=0))
BLOCKS: tuple[tuple[str, int, list[Branch], Pool], ...] = (
    *((f"Mixed_5{letter}", before, _a(pooled), "mean") for letter, before, pooled in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64))),
    ("Mixed_6a", 288, HALVE_B, "halve"),
    *((f"Mixed_6{letter}", 768, _c(narrow), "mean") for letter, narrow in (("b", 128), ("c", 160), ("d", 160), ("e", 192))),
    ("Mixed_7a", 768, HALVE_D, "halve"),
    ("Mixed_7b", 1280, _e(), "mean"),
    ("Mixed_7c", 2048, _e(), "max"),
)


class Inception(nn.Module):
    """The network: 21.8M parameters, and a classifier that is in the file and not used."""

    def __init__(self) -> None:
        super().__init__()
        for before, layer in zip((3, 32, 32, 64, 80), (*STEM, *NECK), strict=True):
            self.add_module(layer.name, Convolution(before, layer))
        for name, width, branches, pool in BLOCKS:
            self.add_module(name, Mixed(width, branches, pool))
        self.fc = nn.Linear(WIDTH, 1008)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, 2048] of pictures [B, 3, 299, 299] in [-1, 1)."""
        for name in chain((layer.name for layer in STEM), [""], (layer.name for layer in NECK), [""], (block[0] for block in BLOCKS)):
            x = self.get_submodule(name)(x) if name else F.max_pool2d(x, 3, 2)
        return x.mean(dim=(2, 3))


def load_inception(path: Path) -> Inception:
    """The network with the weights of a safetensors file, on the processor. Draws no random number. Raises WeightsError on a file that is not one of its."""
    with torch.device("meta"):
        network = Inception()
    load_weights(network, path, (torch.device("cpu"), torch.float32))
    return network.eval().requires_grad_(False)
