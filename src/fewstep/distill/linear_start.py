"""A linear start for the autoencoder: before training, the encoder is a PCA of patches and the decoder paints each patch's mean colour.

From random weights, GroupNorm makes flat colours the slowest thing to learn, and emoji are flat colours. Residual branches start at
zero, so the network is linear from end to end: strided convolutions hold a pyramid of principal components, pairs of channels (+x, -x)
pass SiLU unchanged, since silu(x) - silu(-x) = x, and pairs of constants (+K, -K) keep GroupNorm from erasing the picture's contrast.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

CONSTANT = 3.0  # K, in standard deviations of the channels beside it


@torch.no_grad()
def linear_start(model: AutoencoderKL, pictures: Tensor) -> None:
    """Overwrite ``model``'s random weights, with components measured on ``pictures`` [B, 3, H, W] in [-1, 1]; sides are multiples of 32.

    Raises ValueError if the blocks before the last are too narrow to hold each latent channel twice and two constants a group.
    """
    width, groups = model.config.block_out_channels[-2], model.config.norm_num_groups
    if width // 2 - 2 * groups < model.config.latent_channels:
        raise ValueError(f"an autoencoder {width} channels wide with {groups} groups is too narrow for {model.config.latent_channels} latent channels")
    for name, parameter in model.named_parameters():
        if ".conv2." in name or ".to_out.0." in name:
            parameter.zero_()
    latents = _start_encoder(model, pictures)
    _start_decoder(model, pictures, latents)


def _start_encoder(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    encoder, groups = model.encoder, model.config.norm_num_groups
    _carry(encoder.conv_in, torch.eye(3))
    path = pictures  # the linear path's activations: the first channels at every level
    levels = list(encoder.down_blocks)[:-1]
    for block in encoder.down_blocks:
        _keep(block.resnets, path.shape[1])
        if block not in levels:
            break
        blocks = nn.functional.pixel_unshuffle(path, 2)  # [B, 4p, h, w], four taps of each channel side by side
        convolution = block.downsamplers[0].conv
        last = block is levels[-1]
        room = convolution.out_channels // 2 - 2 * groups if last else int(0.85 * convolution.out_channels)
        basis, spread = _components(blocks, min(room, blocks.shape[1]))
        basis = basis / spread[:, None] ** 0.5 / (spread[0] ** 0.5) if last else basis
        rows = torch.cat([basis, -basis]) if last else basis
        order = _paired(len(basis), convolution.out_channels, groups) if last else list(range(len(basis)))
        taps = rows.view(len(rows), path.shape[1], 2, 2)
        convolution.weight[order] = 0
        convolution.bias.zero_()
        for row, channel in enumerate(order):
            convolution.weight[channel, : path.shape[1], :2, :2] = taps[row]
        path = torch.einsum("oc,bchw->bohw", basis, blocks)
    signs = model.config.latent_channels
    return _start_moments(model, path[:, :signs], _paired(path.shape[1], encoder.conv_out.in_channels, groups), path)


def _start_moments(model: AutoencoderKL, path: Tensor, order: list[int], components: Tensor) -> Tensor:
    """Constants beside the components, and the last convolution, which reads each component off its pair. Returns the latents."""
    encoder, groups = model.encoder, model.config.norm_num_groups
    width, count = encoder.conv_out.in_channels, components.shape[1]
    constants = CONSTANT * float(path.std())
    bias = encoder.down_blocks[-2].downsamplers[0].conv.bias
    free = sorted(set(range(width)) - set(order))
    encoder.down_blocks[-2].downsamplers[0].conv.weight[free] = 0
    for index, channel in enumerate(free):
        bias[channel] = constants if index % 2 == 0 else -constants
    encoder.conv_out.weight.zero_()
    encoder.conv_out.bias.zero_()
    per_group = width // groups
    for index in range(path.shape[1]):
        plus, minus = order[index], order[count + index]
        members = [row for row, channel in enumerate(order) if channel // per_group == plus // per_group]
        power = sum(float(components[:, row % count].square().mean()) for row in members)
        constant = constants**2 * sum(channel // per_group == plus // per_group for channel in free)
        scale = ((power + constant) / per_group) ** 0.5
        encoder.conv_out.weight[index, plus, 1, 1], encoder.conv_out.weight[index, minus, 1, 1] = scale, -scale
    model.quant_conv.weight.zero_()
    model.quant_conv.weight[: path.shape[1], : path.shape[1], 0, 0] = torch.eye(path.shape[1])
    model.quant_conv.bias[: path.shape[1]] = 0
    return path


def _start_decoder(model: AutoencoderKL, pictures: Tensor, latents: Tensor) -> None:
    decoder, groups = model.decoder, model.config.norm_num_groups
    model.post_quant_conv.weight.copy_(torch.eye(latents.shape[1])[..., None, None])
    model.post_quant_conv.bias.zero_()
    means = nn.functional.adaptive_avg_pool2d(pictures, (latents.shape[-2], latents.shape[-1]))
    flat = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1).permute(0, 2, 3, 1).reshape(-1, latents.shape[1] + 1)
    fit = torch.linalg.lstsq(flat, means.permute(0, 2, 3, 1).reshape(-1, 3)).solution  # [C + 1, 3]
    _carry(decoder.conv_in, fit[:-1].T, fit[-1])
    _keep(decoder.mid_block.resnets, 3)
    smooth = torch.tensor([0.25, 0.5, 0.25])
    for block in decoder.up_blocks:
        _keep(block.resnets, 3)
        for upsampler in block.upsamplers or ():
            upsampler.conv.weight[:3] = 0
            upsampler.conv.bias[:3] = 0
            for channel in range(3):
                upsampler.conv.weight[channel, channel] = smooth[:, None] * smooth
    shortcut, width = decoder.up_blocks[-1].resnets[0].conv_shortcut, decoder.conv_out.in_channels
    per_group = width // groups
    decoder.conv_out.weight.mul_(0.02)
    decoder.conv_out.bias.zero_()
    for group in range(groups):
        first = group * per_group
        for channel in range(first, first + per_group, 2):  # pairs throughout, so that a group's mean stays zero
            shortcut.weight[channel] *= 0.3
            shortcut.weight[channel, :3] = 0
            shortcut.bias[channel] = 0
            if group < 3 and channel == first:
                shortcut.weight[channel] = 0
                shortcut.weight[channel, group] = 1
            if channel == first + 2:
                shortcut.weight[channel] = 0
                shortcut.bias[channel] = CONSTANT
            shortcut.weight[channel + 1], shortcut.bias[channel + 1] = -shortcut.weight[channel], -shortcut.bias[channel]
        if group < 3:
            scale = ((2 * CONSTANT**2 + 2 * float(pictures[:, group].square().mean())) / per_group) ** 0.5
            decoder.conv_out.weight[group, first, 1, 1], decoder.conv_out.weight[group, first + 1, 1, 1] = scale, -scale


def _components(activations: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first principal axes of the channels of ``activations`` [B, C, h, w], about zero: rows [count, C] and their spreads [count]."""
    rows = activations.permute(0, 2, 3, 1).reshape(-1, activations.shape[1]).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return vectors.flip(-1)[:, :count].T.float(), values.flip(-1)[:count].clamp(min=1e-8).sqrt().float()


def _paired(count: int, width: int, groups: int) -> list[int]:
    """Channels for ``count`` components dealt out over the groups, "+" first and then "-", each pair within one group."""
    per_group = width // groups
    plus = [(i % groups) * per_group + 2 * (i // groups) for i in range(count)]
    return plus + [channel + 1 for channel in plus]


def _carry(convolution: Any, matrix: Tensor, bias: Tensor | None = None) -> None:
    """Let the first outputs of a 3x3 convolution be ``matrix`` [out, in] times its input, position by position."""
    convolution.weight[: len(matrix)] = 0
    convolution.weight[: len(matrix), :, 1, 1] = matrix
    convolution.bias[: len(matrix)] = 0 if bias is None else bias


def _keep(resnets: Any, channels: int) -> None:
    """Let the first ``channels`` pass through blocks whose residual branches are zero."""
    for resnet in resnets:
        if resnet.conv_shortcut is not None:
            resnet.conv_shortcut.weight[:channels] = 0
            resnet.conv_shortcut.bias[:channels] = 0
            resnet.conv_shortcut.weight[:channels, :channels, 0, 0] = torch.eye(channels)
