"""Decoders for the kernels: an SDXL autoencoder's, and the reduced one (fewstep.models.tiny_decoder)."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np

from fewstep.engine.backends.native.network import PLANES, RELU, SHUFFLE, SILU, Layer, Network, Norm, UnknownNetwork, Weights


def autoencoder(weights: Weights, config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The decoder of an AutoencoderKL from its ``weights`` named vae.…, those of post_quant_conv included; ``config`` is its config.json's content.

    Raises UnknownNetwork if it is none whose blocks are those of SDXL's.
    """
    if config.get("act_fn", "silu") != "silu":
        raise UnknownNetwork(f"act_fn is {config['act_fn']!r}")
    net, groups = Network(weights, "vae."), int(config["norm_num_groups"])

    def resnet(name: str, x: int) -> int:
        inner = net.product(x, f"{name}.conv1", norm=Norm(f"{name}.norm1", groups), activation=SILU)
        beside = net.product(x, f"{name}.conv_shortcut") if net.has(f"{name}.conv_shortcut.weight") else x
        return net.product(inner, f"{name}.conv2", norm=Norm(f"{name}.norm2", groups), activation=SILU, residual=beside)

    x = net.product(0, "post_quant_conv") if net.has("post_quant_conv.weight") else 0
    x = resnet("decoder.mid_block.resnets.0", net.product(x, "decoder.conv_in"))
    own = "decoder.mid_block.attentions.0"
    looks = net.product(x, *(f"{own}.to_{one}" for one in "qkv"), norm=Norm(f"{own}.group_norm", groups))
    x = resnet("decoder.mid_block.resnets.1", net.product(net.attention(looks, net.width(x), 1), f"{own}.to_out.0", residual=x))
    block = 0
    while net.has(f"{(name := f'decoder.up_blocks.{block}')}.resnets.0.conv1.weight"):
        layer = 0
        while net.has(f"{name}.resnets.{layer}.conv1.weight"):
            x, layer = resnet(f"{name}.resnets.{layer}", x), layer + 1
        if net.has(f"{name}.upsamplers.0.conv.weight"):
            x = net.product(x, f"{name}.upsamplers.0.conv", doubled=True)
        block += 1
    x = net.product(x, "decoder.conv_out", norm=Norm("decoder.conv_norm_out", groups), activation=SILU)
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
            x = net.product(net.product(x, f"{name}.first"), f"{name}.second", activation=RELU, residual=x)
            continue
        out, _, side, _ = net.take(f"{name}.weight").shape
        factor, kind = (isqrt(out // 3), PLANES) if number == numbers[-1] else (1, SHUFFLE) if side == 3 else (2, SHUFFLE)
        channels = out // factor**2
        order = np.arange(out).reshape(channels, factor**2).T.ravel()  # PixelShuffle has channels first, the kernels have them last
        x = net.product(x, name, order=order)
        x = x if factor == 1 else net.shuffled(x, factor, channels, kind)
    return net.finished()
