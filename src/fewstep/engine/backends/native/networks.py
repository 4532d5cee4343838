"""Decoders as lists of operations for the kernels: an SDXL autoencoder's, and the reduced one (fewstep.models.tiny_decoder)."""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.backends.native.library import Operation
from fewstep.engine.recent import recent

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
CONV3, CONV1, ATTENTION, SHUFFLE, PLANES = range(5)
LINEAR, RELU, SILU = range(3)
BLOCK = 16  # channels that the kernels compute together
LINE = 16  # numbers of a cache's line
EPSILON = 1e-6  # of an AutoencoderKL's normalisation, as diffusers has it
SIZES = 2  # of pictures whose memory is kept
KERNEL = np.array([[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]])
"""G of Winograd's F(4x4, 3x3): a 3x3 kernel g at its 36 points is G g G^T."""


class UnknownNetwork(ValueError):
    """Weights of a network that the kernels cannot compute; the message says what about them."""


@dataclass(frozen=True)
class Layer:
    """One operation before there are pictures: which pictures it reads, by number, and where its weights lie."""

    kind: int
    source: int
    cin: int
    cout: int
    side: int  # of the output, times that of the latents
    activation: int = LINEAR
    residual: int | None = None
    doubled: bool = False
    factor: int = 1
    groups: int = 0
    weights: tuple[Floats | None, ...] = (None, None, None, None)  # weight, bias, gamma, beta

    @property
    def reads(self) -> tuple[int, ...]:
        """The pictures that it needs."""
        return (self.source,) if self.residual is None else (self.source, self.residual)


@dataclass
class Network:
    """Layers, of which picture 0 is the latents, [h, w, C], and picture i + 1 what layer i makes."""

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
        """The channels of a picture, those of latents in whole blocks."""
        return self.layers[picture - 1].cout

    def side(self, picture: int) -> int:
        """Of a picture, times that of the latents."""
        return self.layers[picture - 1].side if picture else 1

    def add(self, layer: Layer) -> int:
        """The picture that ``layer`` makes."""
        self.layers.append(layer)
        return len(self.layers)

    def convolution(
        self, source: int, names: tuple[str, ...], norm: str = "", groups: int = 0, order: NDArray[np.intp] | None = None, doubled: bool = False, **more: Any
    ) -> int:
        """A convolution of 3x3 or 1x1; of several ``names`` one beside the other, and ``order`` of their outputs."""
        weight, bias = (np.concatenate([self.take(f"{name}.{part}") for name in names]) for part in ("weight", "bias"))
        weight = weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight
        weight, bias = (weight, bias) if order is None else (weight[order], bias[order])
        cout, cin = (-(-count // BLOCK) * BLOCK for count in weight.shape[:2])
        wide = np.zeros((cout, cin, *weight.shape[2:]), np.float32)
        wide[: weight.shape[0], : weight.shape[1]] = weight
        kind, ready = (CONV1, panels(wide[:, :, 0, 0].T)) if weight.shape[2:] == (1, 1) else (CONV3, points(wide))
        if source and self.width(source) != cin:
            raise UnknownNetwork(f"{names[0]} takes {cin} channels where there are {self.width(source)}")
        if norm and (groups < 1 or cin % groups or weight.shape[1] != cin):
            raise UnknownNetwork(f"{norm} has {weight.shape[1]} channels in {groups} groups")
        gamma, beta = (self.take(f"{norm}.{part}") if norm else None for part in ("weight", "bias"))
        padded = np.concatenate([bias, np.zeros(cout - len(bias), np.float32)])
        side = self.side(source) * (2 if doubled else 1)
        return self.add(Layer(kind, source, cin, cout, side, doubled=doubled, groups=groups if norm else 0, weights=(ready, padded, gamma, beta), **more))

    def shuffled(self, source: int, factor: int, channels: int, kind: int = SHUFFLE) -> int:
        """Pixels of ``factor`` times as many a side, of the channels of each pixel."""
        return self.add(Layer(kind, source, self.width(source), channels, self.side(source) * factor, factor=factor))

    def finished(self) -> tuple[Layer, ...]:
        """The layers. Raises UnknownNetwork if there are weights that none of them has."""
        left = sorted(name for name in self.weights if name not in self.used)
        if left:
            raise UnknownNetwork(f"{left[0]} is of no network that is known")
        return tuple(self.layers)


def panels(matrix: Floats) -> Floats:
    """A matrix [k, n], of which n is in whole blocks, as the kernels read it: [n / BLOCK, k, BLOCK]."""
    k, n = matrix.shape
    return np.ascontiguousarray(matrix.reshape(k, n // BLOCK, BLOCK).transpose(1, 0, 2), np.float32)


def points(kernels: Floats) -> Floats:
    """Kernels [O, I, 3, 3] at Winograd's points, as the kernels read them: [36, O / BLOCK, I, BLOCK]."""
    out, into = kernels.shape[:2]
    there = np.einsum("ax,oixy,by->abio", KERNEL, kernels.astype(np.float64), KERNEL, optimize=True).reshape(36, into, out // BLOCK, BLOCK)
    return np.ascontiguousarray(there.transpose(0, 2, 1, 3), np.float32)


def autoencoder(weights: Weights, groups: int) -> tuple[Layer, ...]:
    """The decoder of an AutoencoderKL with ``groups`` of normalisation, from its ``weights`` named vae.…, those of post_quant_conv included.

    Raises UnknownNetwork if it is none whose blocks are those of SDXL's.
    """
    net = Network(weights, "vae.")

    def resnet(name: str, x: int) -> int:
        inner = net.convolution(x, (f"{name}.conv1",), f"{name}.norm1", groups, activation=SILU)
        beside = net.convolution(x, (f"{name}.conv_shortcut",)) if net.has(f"{name}.conv_shortcut.weight") else x
        return net.convolution(inner, (f"{name}.conv2",), f"{name}.norm2", groups, activation=SILU, residual=beside)

    x = net.convolution(0, ("post_quant_conv",)) if net.has("post_quant_conv.weight") else 0
    x = resnet("decoder.mid_block.resnets.0", net.convolution(x, ("decoder.conv_in",)))
    own = "decoder.mid_block.attentions.0"
    beside = net.convolution(x, tuple(f"{own}.to_{one}" for one in "qkv"), f"{own}.group_norm", groups)
    seen = net.add(Layer(ATTENTION, beside, net.width(beside), net.width(x), 1))
    x = resnet("decoder.mid_block.resnets.1", net.convolution(seen, (f"{own}.to_out.0",), residual=x))
    block = 0
    while net.has(f"decoder.up_blocks.{block}.resnets.0.conv1.weight"):
        layer = 0
        while net.has(f"decoder.up_blocks.{block}.resnets.{layer}.conv1.weight"):
            x, layer = resnet(f"decoder.up_blocks.{block}.resnets.{layer}", x), layer + 1
        if net.has(f"decoder.up_blocks.{block}.upsamplers.0.conv.weight"):
            x = net.convolution(x, (f"decoder.up_blocks.{block}.upsamplers.0.conv",), doubled=True)
        block += 1
    x = net.convolution(x, ("decoder.conv_out",), "decoder.conv_norm_out", groups, activation=SILU)
    net.shuffled(x, 1, 3, PLANES)
    return net.finished()


def reduced(weights: Weights) -> tuple[Layer, ...]:
    """A reduced decoder from its ``weights`` named decoder_tiny.…. Raises UnknownNetwork if it is none."""
    net = Network(weights, "decoder_tiny.")
    numbers = sorted({int(name.split(".")[2]) for name in weights if name.startswith("decoder_tiny.layers.")})
    x = 0
    for number in numbers:
        name = f"layers.{number}"
        if net.has(f"{name}.first.weight"):
            x = net.convolution(net.convolution(x, (f"{name}.first",)), (f"{name}.second",), activation=RELU, residual=x)
            continue
        out, _, side, _ = net.take(f"{name}.weight").shape
        factor, kind = (isqrt(out // 3), PLANES) if number == numbers[-1] else (1, SHUFFLE) if side == 3 else (2, SHUFFLE)
        channels = out // factor**2
        order = np.arange(out).reshape(channels, factor**2).T.ravel()  # PixelShuffle has channels first, the kernels have them last
        x = net.convolution(x, (name,), order=order)
        x = x if factor == 1 else net.shuffled(x, factor, channels, kind)
    return net.finished()


class Computed:
    """What the kernels make of a network's layers, for latents of any size."""

    def __init__(self, library: ctypes.CDLL, layers: tuple[Layer, ...], threads: int) -> None:
        self._library, self._threads = library, threads
        weights = [value for layer in layers for value in layer.weights if value is not None]
        views = iter(memory([value.size for value in weights]))  # one piece: the fewer pages, the better
        self._layers = [replace(layer, weights=tuple(None if value is None else next(views) for value in layer.weights)) for layer in layers]
        for view, value in zip((one for layer in self._layers for one in layer.weights if one is not None), weights, strict=True):
            view[:] = value.ravel()
        self._lock = threading.Lock()
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()

    def __call__(self, latents: Floats) -> Floats:
        """Pictures, float32 [B, 3, H, W], of an autoencoder's own latents, float32 [B, C, h, w]."""
        height, width = latents.shape[2:]
        with self._lock:  # a plan's memory is one picture's
            plan = recent(self._plans, (height, width), lambda: Plan(self._library, self._layers, self._threads, height, width), SIZES)
            return np.stack([plan(one) for one in latents])


class Plan:
    """The layers for latents of one size, with the memory for them: a picture that nobody will read gives its place to a later one."""

    def __init__(self, library: ctypes.CDLL, layers: Sequence[Layer], threads: int, height: int, width: int) -> None:
        """``height`` and ``width`` are those of the latents."""
        self._library, self._threads = library, threads
        operations = [_operation(layer, height, width) for layer in layers]
        sizes = [height * width * layers[0].cin, *(one.height * one.width * one.cout for one in operations)]
        last = {picture: number for number, layer in enumerate(layers) for picture in layer.reads}
        rooms, places, spare = [sizes[0]], [0], list[int]()
        for number, layer in enumerate(layers):
            if not spare:
                spare.append(len(rooms))
                rooms.append(0)
            places.append(spare.pop())
            rooms[places[-1]] = max(rooms[places[-1]], sizes[number + 1])
            spare += {places[picture] for picture in layer.reads if last[picture] == number}
        self._rooms = memory(rooms)
        pictures = [self._rooms[place] for place in places]
        counted = [layer.source - 1 for layer in layers if layer.groups]
        self._stats = memory([library.stats_of(ctypes.byref(operations[number])) for number in counted])
        for number, stats in zip(counted, self._stats, strict=True):
            operations[number].stats = stats.ctypes.data
        for number, (one, layer) in enumerate(zip(operations, layers, strict=True)):
            one.input, one.out = pictures[layer.source].ctypes.data, pictures[number + 1].ctypes.data
            one.residual = None if layer.residual is None else pictures[layer.residual].ctypes.data
        self._operations = (Operation * len(operations))(*operations)
        self._each = line(max(library.scratch_of(ctypes.byref(one)) for one in operations))
        self._scratch = memory([self._each * threads])[0]
        self._latents = pictures[0][: sizes[0]].reshape(height, width, layers[0].cin)
        self._pixels = pictures[-1][: sizes[-1]].reshape(operations[-1].cout, operations[-1].height, operations[-1].width)

    def __call__(self, latents: Floats) -> Floats:
        """One picture, float32 [3, H, W], of latents, float32 [C, h, w]."""
        self._latents[:] = 0
        self._latents[:, :, : len(latents)] = latents.transpose(1, 2, 0)
        scratch = ctypes.c_void_p(self._scratch.ctypes.data)
        self._library.compute(self._operations, len(self._operations), scratch, ctypes.c_size_t(self._each), self._threads)
        return self._pixels.copy()


def _operation(layer: Layer, height: int, width: int) -> Operation:
    addresses = (None if value is None else value.ctypes.data for value in layer.weights)
    sizes = layer.cin, layer.cout, height * layer.side, width * layer.side
    own = layer.activation, layer.doubled, layer.factor, layer.groups, layer.source - 1, EPSILON
    return Operation(layer.kind, *sizes, *own, None, None, None, None, *addresses)


def line(count: int) -> int:
    """So many numbers, and the rest of a cache's line."""
    return -(-count // LINE) * LINE


def memory(sizes: Sequence[int]) -> list[Floats]:
    """Arrays of zeros in one piece, each beginning with a cache's line."""
    whole = np.zeros(sum(map(line, sizes)) + LINE, np.float32)
    at = -whole.ctypes.data // whole.itemsize % LINE
    views = []
    for size in sizes:
        views.append(whole[at : at + size])
        at += line(size)
    return views
