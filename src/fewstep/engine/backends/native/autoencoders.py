"""Autoencoders for the kernels: SDXL's, one half at a time, and the reduced decoder (fewstep.models.tiny_decoder)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np

from fewstep.engine.backends.native.network import PLANES, RELU, SHUFFLE, SILU, Layer, Network, Norm, UnknownNetwork, Weights

PREFIX, TINY = "vae.", "decoder_tiny."


def network(weights: Weights, config: Mapping[str, Any]) -> tuple[str, tuple[Layer, ...]]:
    """(what goes in, "pixels" or "latents", and the layers) of whichever of the three these ``weights`` are. Raises what they raise."""
    if next(iter(weights), "").startswith(TINY):
        return "latents", reduced(weights)
    if any(name.startswith(f"{PREFIX}encoder.") for name in weights):
        return "pixels", encoder(weights, config)
    return "latents", decoder(weights, config)


def decoder(weights: Weights, config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The decoder of an AutoencoderKL from its ``weights`` named vae.…, those of post_quant_conv included; ``config`` is its config.json's content.

    Raises UnknownNetwork if it is none whose blocks are those of SDXL's.
    """
    half = _Half(weights, config)
    net = half.net
    x = net.product(0, "post_quant_conv") if net.has("post_quant_conv.weight") else 0
    x, block = half.middle("decoder.mid_block", net.product(x, "decoder.conv_in")), 0
    while half.there(name := f"decoder.up_blocks.{block}"):
        x, block = half.resnets(name, x), block + 1
        if net.has(f"{name}.upsamplers.0.conv.weight"):
            x = net.product(x, f"{name}.upsamplers.0.conv", doubled=True)
    x = net.product(x, "decoder.conv_out", norm=Norm("decoder.conv_norm_out", half.groups), activation=SILU)
    net.shuffled(x, 1, 3, PLANES)
    return net.finished()


def encoder(weights: Weights, config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Its encoder, from pixels to the mean of the latents; as for decoder, with the weights of quant_conv."""
    half = _Half(weights, config)
    net = half.net
    x, block = net.product(0, "encoder.conv_in"), 0
    while half.there(name := f"encoder.down_blocks.{block}"):
        x, block = half.resnets(name, x), block + 1
        if net.has(f"{name}.downsamplers.0.conv.weight"):
            x = net.product(x, f"{name}.downsamplers.0.conv", direct=True, stride=2, late=True)
    x = half.middle("encoder.mid_block", x)
    x = net.product(x, "encoder.conv_out", norm=Norm("encoder.conv_norm_out", half.groups), activation=SILU)
    x = net.product(x, "quant_conv") if net.has("quant_conv.weight") else x
    net.shuffled(x, 1, len(net.take("encoder.conv_out.bias")) // 2, PLANES)  # behind the means are the variances
    return net.finished()


class _Half:
    """What an encoder and a decoder have in common."""

    def __init__(self, weights: Weights, config: Mapping[str, Any]) -> None:
        if config.get("act_fn", "silu") != "silu":
            raise UnknownNetwork(f"act_fn is {config['act_fn']!r}")
        self.net, self.groups = Network(weights, PREFIX), int(config["norm_num_groups"])

    def there(self, name: str) -> bool:
        """Whether there is a block of this ``name``."""
        return self.net.has(f"{name}.resnets.0.conv1.weight")

    def resnets(self, name: str, x: int) -> int:
        """Those of a block, one after the other."""
        layer = 0
        while self.net.has(f"{name}.resnets.{layer}.conv1.weight"):
            x, layer = self._resnet(f"{name}.resnets.{layer}", x), layer + 1
        return x

    def middle(self, name: str, x: int) -> int:
        """The block in the middle: two, and an attention of one head between them."""
        net, own = self.net, f"{name}.attentions.0"
        x = self._resnet(f"{name}.resnets.0", x)
        looks = net.product(x, *(f"{own}.to_{one}" for one in "qkv"), norm=Norm(f"{own}.group_norm", self.groups))
        return self._resnet(f"{name}.resnets.1", net.product(net.attention(looks, net.width(x), 1), f"{own}.to_out.0", residual=x))

    def _resnet(self, name: str, x: int) -> int:
        net = self.net
        inner = net.product(x, f"{name}.conv1", norm=Norm(f"{name}.norm1", self.groups), activation=SILU)
        beside = net.product(x, f"{name}.conv_shortcut") if net.has(f"{name}.conv_shortcut.weight") else x
        return net.product(inner, f"{name}.conv2", norm=Norm(f"{name}.norm2", self.groups), activation=SILU, residual=beside)


def reduced(weights: Weights) -> tuple[Layer, ...]:
    """A reduced decoder from its ``weights`` named decoder_tiny.…. Raises UnknownNetwork if it is none."""
    net = Network(weights, TINY)
    numbers = sorted({int(name.split(".")[2]) for name in weights if name.startswith(f"{TINY}layers.")})
    x = 0
    for number in numbers:
        name = f"layers.{number}"
        if net.has(f"{name}.first.weight"):
            x = net.product(net.product(x, f"{name}.first"), f"{name}.second", activation=RELU, residual=x)
            continue
        out, _, side, _ = net.take(f"{name}.weight").shape
        factor, kind = (isqrt(out // 3), PLANES) if number == numbers[-1] else (1, SHUFFLE) if side == 3 else (2, SHUFFLE)
        channels = out // factor**2
        order = np.arange(out).reshape(channels, factor**2).T.ravel()  # PixelShuffle has channels first, the kernels have them last
        x = net.product(x, name, order=order)
        x = x if factor == 1 else net.shuffled(x, factor, channels, kind)
    return net.finished()
