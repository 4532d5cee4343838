"""What network a ControlNet's file holds, told from the names and shapes in its header, and held to the UNet that it is to guide.

A ControlNet (arXiv 2302.05543) is a copy of a UNet's encoder with a small network for the hint in front and a 1x1 convolution behind each of its
outputs. Published ones leave out some of the encoder's attentions, which the names tell. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fewstep.models.weights import WeightsError, check_fit, read_header

Shape = tuple[int, ...]
EMBEDDING = "controlnet_cond_embedding"
ROOTS = ("conv_in", "time_embedding", "add_embedding", EMBEDDING, "down_blocks", "mid_block", "controlnet_down_blocks", "controlnet_mid_block")
SHARED = (  # keys of a UNet's configuration that are those of its ControlNets
    *("in_channels", "flip_sin_to_cos", "freq_shift", "block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor"),
    *("act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim", "attention_head_dim", "num_attention_heads", "use_linear_projection"),
    *("upcast_attention", "resnet_time_scale_shift", "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"),
)
ALSO_SAID = ("controlnet_conditioning_channel_order", "global_pool_conditions")  # keys of a ControlNet's own that nothing in its file tells


def read_layout(path: Path, unet: Mapping[str, Any], factor: int) -> dict[str, Any]:
    """The configuration of diffusers' ``ControlNetModel`` for the file ``path``, which is to guide a UNet of the configuration ``unet``.

    ``factor`` is pixels a side of one latent position. Raises WeightsError, naming the first three tensors that do not fit, on a ControlNet
    for another model.
    """
    shapes = read_header(path).shapes
    try:
        channels, layers = [int(count) for count in unet["block_out_channels"]], unet.get("layers_per_block", 2)
        outer = _outer(channels, [layers] * len(channels) if isinstance(layers, int) else list(layers), unet)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: the UNet's configuration does not say what its ControlNets look like ({error}): fetch the model again") from None
    embedding = [shapes.get(f"{EMBEDDING}.{name}.weight", ()) for name in ("conv_in", *(f"blocks.{2 * i + 1}" for i in range(factor.bit_length() - 1)))]
    widths = [shape[0] if shape else 0 for shape in embedding]
    outer[f"{EMBEDDING}.conv_in.weight"] = (widths[0], 3, 3, 3)
    outer |= {f"{EMBEDDING}.blocks.{2 * i + 1}.weight": (wide, widths[i], 3, 3) for i, wide in enumerate(widths[1:])}
    outer[f"{EMBEDDING}.conv_out.weight"] = (channels[0], widths[-1], 3, 3)
    foreign = [name for name in shapes if name.split(".")[0] not in ROOTS or _beyond(name, len(channels), len(widths))]
    check_fit(path, {name: _Shaped(shapes[name]) for name in (*outer, *foreign) if name in shapes}, outer)
    return {key: unet[key] for key in SHARED if key in unet} | _attentions(shapes, len(channels)) | {"conditioning_embedding_out_channels": tuple(widths)}


class _Shaped:
    """What check_fit looks at of a tensor."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape


def _outer(channels: list[int], layers: list[int], unet: Mapping[str, Any]) -> dict[str, Shape]:
    """The shapes of weights that every ControlNet for this UNet has: what it takes, and what it answers."""
    first, last, time = channels[0], channels[-1], 4 * channels[0]
    answers = [first, *(wide for i, wide in enumerate(channels) for _ in range(layers[i] + (i < len(channels) - 1)))]
    return {
        "conv_in.weight": (first, int(unet["in_channels"]), 3, 3),
        "time_embedding.linear_1.weight": (time, first),
        "add_embedding.linear_1.weight": (time, int(unet["projection_class_embeddings_input_dim"])),
        **{f"controlnet_down_blocks.{i}.weight": (wide, wide, 1, 1) for i, wide in enumerate(answers)},
        "controlnet_mid_block.weight": (last, last, 1, 1),
    }


def _beyond(name: str, blocks: int, widths: int) -> bool:
    """Whether a name counts further than the UNet has blocks, or than its factor has halvings."""
    match = re.match(rf"(down_blocks|{EMBEDDING}\.blocks)\.(\d+)\.", name)
    return match is not None and int(match[2]) >= (blocks if match[1] == "down_blocks" else 2 * (widths - 1))


def _attentions(names: Collection[str], blocks: int) -> dict[str, Any]:
    """Which blocks attend to the text, and in how many layers."""
    places = [f"down_blocks.{i}." for i in range(blocks)]
    depths = [_depth(names, place) for place in places]
    middle = _depth(names, "mid_block.")
    return {
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": [max(depth, 1) for depth in (*depths[:-1], depths[-1] or middle)],
    }


def _depth(names: Collection[str], place: str) -> int:
    """Transformer layers of the attentions in one block; 0 where it has none."""
    found = [re.match(rf"{re.escape(place)}attentions\.\d+\.transformer_blocks\.(\d+)\.", name) for name in names]
    return max((int(match[1]) + 1 for match in found if match), default=0)
