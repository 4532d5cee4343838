"""Networks as lists of operations for the kernels: what is done with which picture, and the weights as the kernels read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
CONV3, DIRECT, CONV1, ATTENTION, CONCAT, SHUFFLE, PLANES, GUIDE = range(8)
LINEAR, RELU, SILU, QUICK, GELU, GATED = range(6)
BLOCK = 16  # channels that the kernels compute together
KERNEL = np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]])
"""G of Winograd's F(4x4, 3x3): a 3x3 kernel g at its 36 points is G g G^T."""


class UnknownNetwork(ValueError):
    """Weights of a network that the kernels cannot compute; the message says what about them."""


@dataclass(frozen=True)
class Scale:
    """How large a picture is beside the latents: halved so many times, rounded up, and then so many times as large."""

    halved: int = 0
    times: int = 1

    def of(self, size: int) -> int:
        """A side, for latents of ``size``."""
        return -(-size // 2**self.halved) * self.times

    @property
    def double(self) -> Scale:
        """Twice as large; what was halved is as before it was."""
        return Scale(self.halved - 1, self.times) if self.halved else Scale(0, 2 * self.times)

    @property
    def half(self) -> Scale:
        """Half as large."""
        return Scale(self.halved + 1, self.times)


@dataclass(frozen=True)
class Norm:
    """A normalisation: over groups of channels, or each pixel by itself."""

    name: str
    groups: int = 0
    epsilon: float = 1e-6


@dataclass(frozen=True)
class Layer:
    """One operation before there are pictures: which of them it reads, by number, and its weights."""

    kind: int
    source: int
    cin: int
    cout: int
    scale: Scale
    activation: int = LINEAR
    residual: int | None = None
    other: int | None = None  # a second picture: what CONCAT puts beside the first, and GUIDE leads away from
    stride: int = 1
    late: bool = False  # whether a convolution that halves sees pixels 2i to 2i + 2 instead of 2i - 1 to 2i + 1
    factor: int = 1
    groups: int = 0
    layered: bool = False
    epsilon: float = 0.0
    heads: int = 1
    causal: bool = False  # whether a query sees no keys behind its own
    outside: int | None = None  # of attention: where its keys begin in a row of those that come from outside; None: they are the source's own
    away: bool = False  # whether those are the negative prompt's
    around: int = 0  # along what a convolution's input wraps around: 1 is x, 2 is y, and 3 both
    timed: int | None = None  # where its bias begins among those that depend on the time
    weights: tuple[Floats | None, ...] = (None, None, None, None)  # weight, bias, gamma, beta

    @property
    def reads(self) -> tuple[int, ...]:
        """The pictures that it needs."""
        return tuple(picture for picture in (self.source, self.residual, self.other) if picture is not None)


@dataclass
class Network:
    """Layers, of which picture 0 is what comes in, and picture i + 1 what layer i makes."""

    weights: Weights
    prefix: str
    layers: list[Layer] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def take(self, name: str) -> Floats:
        """A tensor of the weights."""
        self.used.add(f"{self.prefix}{name}")
        try:
            return self.weights[f"{self.prefix}{name}"]
        except KeyError:
            raise UnknownNetwork(f"there is no {name}") from None

    def has(self, name: str) -> bool:
        """Whether the weights have it."""
        return f"{self.prefix}{name}" in self.weights

    def width(self, picture: int) -> int:
        """The channels of a picture that a layer makes."""
        return self.layers[picture - 1].cout

    def scale(self, picture: int) -> Scale:
        """How large a picture is."""
        return self.layers[picture - 1].scale if picture else Scale()

    def add(self, layer: Layer) -> int:
        """The picture that ``layer`` makes."""
        self.layers.append(layer)
        return len(self.layers)

    def product(
        self,
        source: int,
        *names: str,
        norm: Norm | None = None,
        order: NDArray[np.intp] | None = None,
        direct: bool = False,
        doubled: bool = False,
        **more: Any,
    ) -> int:
        """A convolution of 3x3 or 1x1, or a linear layer; of several ``names`` one beside the other.

        ``order``: of their outputs; ``direct``: the plain way, which is better for small pictures; ``doubled``: of the source twice as large.
        """
        weight = np.concatenate([self.take(f"{name}.weight") for name in names])
        weight = weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight
        bias = np.concatenate(
            [self.take(f"{name}.bias") if self.has(f"{name}.bias") else np.zeros(len(self.take(f"{name}.weight")), np.float32) for name in names]
        )
        weight, bias = (weight, bias) if order is None else (weight[order], bias[order])
        cout, cin = (-(-count // BLOCK) * BLOCK for count in weight.shape[:2])
        wide = np.zeros((cout, cin, *weight.shape[2:]), np.float32)
        wide[: weight.shape[0], : weight.shape[1]] = weight
        if weight.shape[2:] == (1, 1):
            kind, ready = CONV1, panels(wide[:, :, 0, 0].T)
        elif weight.shape[2:] == (3, 3):
            kind, ready = (DIRECT, panels(wide.transpose(2, 3, 1, 0).reshape(9 * cin, cout))) if direct else (CONV3, points(wide))
        else:
            raise UnknownNetwork(f"{names[0]} is a convolution of {weight.shape[2]}x{weight.shape[3]}")
        there = self.width(source) // (2 if more.get("activation") == GATED else 1) if source else cin
        if there != cin:
            raise UnknownNetwork(f"{names[0]} takes {cin} channels where there are {there}")
        if norm and norm.groups and (cin % norm.groups or weight.shape[1] != cin):
            raise UnknownNetwork(f"{norm.name} has {weight.shape[1]} channels in {norm.groups} groups")
        gamma, beta = (self.take(f"{norm.name}.{part}") if norm else None for part in ("weight", "bias"))
        if norm:
            more |= {"groups": norm.groups, "layered": not norm.groups, "epsilon": norm.epsilon}
        scale = self.scale(source)
        scale = scale.double if doubled else scale.half if more.get("stride") == 2 else scale
        padded = np.concatenate([bias, np.zeros(cout - len(bias), np.float32)])
        return self.add(Layer(kind, source, cin, cout, scale, weights=(ready, padded, gamma, beta), **more))

    def attention(self, source: int, cout: int, heads: int, outside: int | None = None, **more: Any) -> int:
        """Attention of ``heads`` over the source's queries, which keys and values lie behind unless they come from ``outside``."""
        if heads < 1 or cout % (heads * BLOCK):
            raise UnknownNetwork(f"attention has {cout} channels in {heads} heads")
        return self.add(Layer(ATTENTION, source, self.width(source), cout, self.scale(source), heads=heads, outside=outside, **more))

    def beside(self, one: int, other: int) -> int:
        """The channels of two pictures."""
        return self.add(Layer(CONCAT, one, self.width(one), self.width(one) + self.width(other), self.scale(one), other=other))

    def guided(self, one: int, other: int) -> int:
        """Attention to a prompt, led away from that to a negative one."""
        return self.add(Layer(GUIDE, one, self.width(one), self.width(one), self.scale(one), other=other))

    def shuffled(self, source: int, factor: int, channels: int, kind: int = SHUFFLE) -> int:
        """Pixels of ``factor`` times as many a side, of the channels of each pixel."""
        scale = self.scale(source)
        return self.add(Layer(kind, source, self.width(source), channels, Scale(scale.halved, scale.times * factor), factor=factor))

    def finished(self) -> tuple[Layer, ...]:
        """The layers. Raises UnknownNetwork if there are weights that none of them has."""
        left = sorted(name for name in self.weights if name not in self.used)
        if left:
            raise UnknownNetwork(f"{left[0]} is of no network that is known")
        return tuple(self.layers)


def around(layers: Sequence[Layer], tile: str, levels: int | None = None) -> tuple[Layer, ...]:
    """The same with pictures wrapped around along "x", "y" or "xy" where a convolution sees beyond their edge.

    ``levels``: on so many of a UNet's levels, the finest first; None is everywhere.
    """
    axes = ("x" in tile) + 2 * ("y" in tile)
    seen = [layer.scale.halved - (layer.stride == 2) for layer in layers]  # what it halves, a convolution sees as it was before
    return tuple(
        replace(layer, around=axes) if layer.kind in (CONV3, DIRECT) and (levels is None or level < levels) else layer
        for layer, level in zip(layers, seen, strict=True)
    )


def panels(matrix: Floats) -> Floats:
    """A matrix [k, n], of which n is in whole blocks, as the kernels read it: [n / BLOCK, k, BLOCK]."""
    k, n = matrix.shape
    return np.ascontiguousarray(matrix.reshape(k, n // BLOCK, BLOCK).transpose(1, 0, 2), np.float32)


def points(kernels: Floats) -> Floats:
    """Kernels [O, I, 3, 3] at Winograd's points, as the kernels read them: [36, O / BLOCK, I, BLOCK]."""
    out, into = kernels.shape[:2]
    there = np.einsum("ax,oixy,by->abio", KERNEL, kernels.astype(np.float64), KERNEL, optimize=True).reshape(36, into, out // BLOCK, BLOCK)
    return np.ascontiguousarray(there.transpose(0, 2, 1, 3), np.float32)
