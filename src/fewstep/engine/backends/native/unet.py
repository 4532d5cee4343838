"""SDXL's UNet for the kernels. What depends on the prompt alone, keys and values, is computed once for it; what depends on the time, a few
numbers for each block, by NumPy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.backends.native.network import GATED, PLANES, SILU, Floats, Network, Norm, UnknownNetwork, Weights
from fewstep.engine.backends.native.plan import Computed

LONGEST_PERIOD = 10000  # of the sinusoids of times and sizes
LAYER_NORM = 1e-5
FIXED = {"flip_sin_to_cos": True, "freq_shift": 0, "addition_embed_type": "text_time", "act_fn": "silu", "time_embedding_type": "positional"}


class Unet:
    """A UNet2DConditionModel with text_time conditioning. Raises UnknownNetwork if it is another one, or built otherwise than SDXL's."""

    def __init__(self, library: ctypes.CDLL, weights: Weights, config: Mapping[str, Any], threads: int) -> None:
        """``weights`` are named unet.…, ``config`` is the content of its config.json."""
        wrong = [name for name, value in FIXED.items() if config.get(name, value) != value]
        if wrong:
            raise UnknownNetwork(f"{wrong[0]} is {config[wrong[0]]!r}")
        net = Network(weights, "unet.")
        builder = _Builder(net, config)
        self._time = [_linear(net, f"time_embedding.linear_{number}") for number in (1, 2)]
        self._added = [_linear(net, f"add_embedding.linear_{number}") for number in (1, 2)]
        self._frequencies = len(self._time[0][0]), int(config["addition_time_embed_dim"])
        builder.build()
        self._shifts = np.concatenate(builder.shifts, axis=1), np.concatenate(builder.biases)
        layers = net.finished()
        self._main = Computed(library, layers, threads)
        keys = Network({f"{number}.weight": value for number, value in enumerate(builder.keys)}, "")
        keys.product(0, *(str(number) for number in range(len(builder.keys))))
        self._keys = Computed(library, keys.finished(), threads)
        self._known: tuple[Floats | None, list[Floats]] = (None, [])

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        """What a UNet's graph answers (fewstep.models.graphs.Unet), picture by picture."""
        sample, embeds = inputs["sample"], inputs["prompt_embeds"]
        conditions = zip(inputs["timestep"], inputs["pooled"], inputs["ids"], strict=True)
        shifts = [self._shift(*(one[None] for one in own)) for own in conditions]  # one by one: NumPy's products of several round otherwise
        with self._main.lock:
            if self._known[0] is not embeds:
                self._known = embeds, [self._seen(one) for one in embeds]
            plan, made = self._main.plan(*sample.shape[2:]), []
            for picture, own, keys in zip(sample, shifts, self._known[1], strict=True):
                plan.biases[:] = own
                made.append(plan(picture, keys))
            return np.stack(made)

    def _seen(self, embeds: Floats) -> Floats:
        """Keys and values of all layers for one prompt, [tokens, channels]."""
        return self._keys(embeds.T[None, :, :, None])[0, :, 0]

    def _shift(self, timestep: NDArray[Any], pooled: Floats, ids: Floats) -> Floats:
        """The biases that depend on the time, of all layers one after the other, [1, channels]."""
        wide, each = self._frequencies
        sizes = sinusoids(ids[0], each).reshape(1, -1)
        hidden = _mlp(sinusoids(timestep, wide), self._time) + _mlp(np.concatenate([pooled, sizes], axis=1), self._added)
        return _silu(hidden) @ self._shifts[0] + self._shifts[1]


class _Builder:
    """Lays the blocks of a UNet into a Network."""

    def __init__(self, net: Network, config: Mapping[str, Any]) -> None:
        self.net, self.config = net, config
        self.keys: list[Floats] = []  # of each attention that looks at the prompt, its weights for keys and for values
        self.shifts: list[Floats] = []  # of each resnet, [time, channels]
        self.biases: list[Floats] = []
        self._groups, self._epsilon = int(config["norm_num_groups"]), float(config["norm_eps"])
        self._at = self._timed = 0
        blocks = len(config["block_out_channels"])
        heads = config.get("num_attention_heads") or config["attention_head_dim"]
        self._heads = list(heads) if isinstance(heads, list) else [heads] * blocks

    def build(self) -> None:
        """The whole network."""
        net, last = self.net, len(self._heads) - 1
        x = net.product(0, "conv_in")
        skips = [x]
        for level in range(last + 1):
            name, layer = f"down_blocks.{level}", 0
            while net.has(f"{name}.resnets.{layer}.conv1.weight"):
                x = self._transformer(f"{name}.attentions.{layer}", self._resnet(f"{name}.resnets.{layer}", x), level)
                skips.append(x)
                layer += 1
            if net.has(f"{name}.downsamplers.0.conv.weight"):
                x = net.product(x, f"{name}.downsamplers.0.conv", direct=True, stride=2)
                skips.append(x)
        x = self._transformer("mid_block.attentions.0", self._resnet("mid_block.resnets.0", x), last)
        x = self._resnet("mid_block.resnets.1", x)
        for level in range(last + 1):
            name, layer = f"up_blocks.{level}", 0
            while net.has(f"{name}.resnets.{layer}.conv1.weight"):
                if not skips:
                    raise UnknownNetwork(f"nothing goes past the middle to {name}.resnets.{layer}")
                x = self._resnet(f"{name}.resnets.{layer}", net.beside(x, skips.pop()))
                x, layer = self._transformer(f"{name}.attentions.{layer}", x, last - level), layer + 1
            if net.has(f"{name}.upsamplers.0.conv.weight"):
                x = net.product(x, f"{name}.upsamplers.0.conv", doubled=True, direct=net.scale(x).double.halved > 0)
        x = net.product(x, "conv_out", norm=Norm("conv_norm_out", self._groups, self._epsilon), activation=SILU)
        net.shuffled(x, 1, len(net.take("conv_out.weight")), PLANES)

    def _resnet(self, name: str, x: int) -> int:
        net, direct = self.net, self.net.scale(x).halved > 0
        shift, bias = _linear(net, f"{name}.time_emb_proj")
        inner = net.product(x, f"{name}.conv1", norm=Norm(f"{name}.norm1", self._groups, self._epsilon), activation=SILU, direct=direct, timed=self._timed)
        self.shifts.append(shift)
        self.biases.append(bias + net.take(f"{name}.conv1.bias"))
        self._timed += len(bias)
        beside = net.product(x, f"{name}.conv_shortcut") if net.has(f"{name}.conv_shortcut.weight") else x
        return net.product(inner, f"{name}.conv2", norm=Norm(f"{name}.norm2", self._groups, self._epsilon), activation=SILU, direct=direct, residual=beside)

    def _transformer(self, name: str, x: int, level: int) -> int:
        net = self.net
        if not net.has(f"{name}.norm.weight"):
            return x
        inner, block = net.product(x, f"{name}.proj_in", norm=Norm(f"{name}.norm", self._groups)), 0
        while net.has(f"{(own := f'{name}.transformer_blocks.{block}')}.norm1.weight"):
            inner, block = self._block(own, inner, self._heads[level]), block + 1
        return net.product(inner, f"{name}.proj_out", residual=x)

    def _block(self, name: str, x: int, heads: int) -> int:
        net, width = self.net, self.net.width(x)
        looks = net.product(x, *(f"{name}.attn1.to_{one}" for one in "qkv"), norm=Norm(f"{name}.norm1", epsilon=LAYER_NORM))
        x = net.product(net.attention(looks, width, heads), f"{name}.attn1.to_out.0", residual=x)
        looks = net.product(x, f"{name}.attn2.to_q", norm=Norm(f"{name}.norm2", epsilon=LAYER_NORM))
        self.keys += [net.take(f"{name}.attn2.to_{one}.weight") for one in "kv"]
        x = net.product(net.attention(looks, width, heads, self._at), f"{name}.attn2.to_out.0", residual=x)
        self._at += 2 * width
        gates = net.product(x, f"{name}.ff.net.0.proj", norm=Norm(f"{name}.norm3", epsilon=LAYER_NORM))
        return net.product(gates, f"{name}.ff.net.2", activation=GATED, residual=x)


def _linear(net: Network, name: str) -> tuple[Floats, Floats]:
    """(weight [in, out], bias) of a layer that NumPy computes."""
    return np.ascontiguousarray(net.take(f"{name}.weight").T, np.float32), net.take(f"{name}.bias").astype(np.float32)


def _mlp(x: Floats, layers: list[tuple[Floats, Floats]]) -> Floats:
    (first, bias), (second, shift) = layers
    return _silu(x @ first + bias) @ second + shift


def _silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-x))


def sinusoids(values: NDArray[Any], channels: int) -> Floats:
    """[B, channels] of values [B], cosines first (diffusers' get_timestep_embedding with flip_sin_to_cos and no shift)."""
    half = channels // 2
    angles = values.astype(np.float32)[:, None] * np.exp(-np.log(LONGEST_PERIOD) * np.arange(half, dtype=np.float32) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
