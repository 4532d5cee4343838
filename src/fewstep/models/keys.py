"""What SDXL's weights are called in its original single-file layout, and how they lie there. Names and shapes only: loads no torch.

diffusers                                       all-in-one file, as ComfyUI and A1111 read it
unet              down_blocks.1.resnets.0       model.diffusion_model.input_blocks.4.0
vae               decoder.up_blocks.0           first_stage_model.decoder.up.3
text_encoder      text_model.…                  conditioner.embedders.0.transformer.text_model.…
text_encoder_2    text_model.encoder.layers.0   conditioner.embedders.1.model.transformer.resblocks.0

All follows from the names themselves, so that the miniature goes the same way as SDXL. Names on the left are those of released files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")
Shape = tuple[int, ...]
UNET, VAE, TEXT, TEXT_2 = PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
PREFIXES = {
    UNET: "model.diffusion_model.",
    VAE: "first_stage_model.",
    TEXT: "conditioner.embedders.0.transformer.",
    TEXT_2: "conditioner.embedders.1.model.",
}
POSITIONS = PREFIXES[TEXT] + "text_model.embeddings.position_ids"  # int64 [1, L]: 0, 1, 2 …
LOGIT_SCALE = PREFIXES[TEXT_2] + "logit_scale"  # of the training of the second text encoder; nothing reads it
EXTRAS = (POSITIONS, LOGIT_SCALE)  # in the original layout alone
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"  # empty tensors by which fine-tunes tell ComfyUI what they predict, and that their schedule is not SDXL's

OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
PROJECTION = re.compile(r"(text_model\.encoder\.layers\.\d+\.self_attn\.)([qkv])_proj\.(weight|bias)")


@dataclass(frozen=True)
class Entry:
    """One tensor of an all-in-one file."""

    name: str  # there
    of: tuple[str, ...]  # diffusers' names of what it holds: one, or three that are joined along their first dimension
    form: Literal["same", "transposed", "convolution"] = "same"  # "convolution": a linear layer's weight [O, I] as [O, I, 1, 1]

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Of this tensor, where ``shapes`` are those of diffusers' tensors."""
        first, *rest = (shapes[name] for name in self.of)
        if self.form == "transposed":
            return first[::-1]
        return (first[0] + sum(shape[0] for shape in rest), *first[1:], *(1, 1) * (self.form == "convolution"))


def entries(part: str, shapes: Mapping[str, Shape]) -> list[Entry]:
    """The tensors that ``part`` ("unet", "vae", "text_encoder" or "text_encoder_2") of these ``shapes`` is in an all-in-one file: a bijection.

    Raises KeyError on a name that such a part does not have.
    """
    made = {UNET: _unet, VAE: _vae, TEXT: _clip, TEXT_2: _open_clip}[part](shapes)
    return [Entry(PREFIXES[part] + entry.name, entry.of, entry.form) for entry in made]


def in_diffusers_names(tensors: Mapping[str, T], shapes: Mapping[str, Shape]) -> dict[str, T]:
    """A UNet's ``tensors`` by diffusers' names, where they are called as in the original layout, with its prefix or without; others keep their names.

    ``shapes`` are those of diffusers' tensors. Nothing but names differs between the two.
    """
    names = {entry.name: entry.of[0] for entry in entries(UNET, shapes)}
    names |= {name.removeprefix(PREFIXES[UNET]): own for name, own in names.items()}
    return {names.get(name, name): value for name, value in tensors.items()}


def original_module(module: str, names: Collection[str]) -> str:
    """The name in SDXL's original layout of a UNet's ``module``, where ``names`` are those of all its weights; what has none keeps its own."""
    side, *rest = module.split(".")
    if side not in ("down_blocks", "mid_block", "up_blocks"):
        return OUTER.get(module, module)
    block, kind, layer, *inner = rest if side != "mid_block" else ["0", *rest]
    tail = [RESNET.get(part, part) for part in inner] if kind == "resnets" else ["op"] if kind == "downsamplers" else inner
    if side == "mid_block":
        return ".".join(["middle_block", "1" if kind == "attentions" else str(2 * int(layer)), *tail])
    layers = sum(name.startswith(f"{side}.0.resnets.") and name.endswith(".conv1.weight") for name in names)
    if side == "down_blocks":  # the first convolution is number 0, and a downsampler is a number of its own
        row = int(block) * (layers + 1) + (layers if kind == "downsamplers" else int(layer)) + 1
        return ".".join(["input_blocks", str(row), str(int(kind == "attentions")), *tail])
    attends = any(name.startswith(f"up_blocks.{block}.attentions.") for name in names)
    column = {"resnets": 0, "attentions": 1}.get(kind, 1 + attends)  # an upsampler comes after the last layer's attention
    row = int(block) * layers + (layers - 1 if kind == "upsamplers" else int(layer))
    return ".".join(["output_blocks", str(row), str(column), *tail])


def _unet(shapes: Mapping[str, Shape]) -> Iterator[Entry]:
    for name in shapes:
        module, _, kind = name.rpartition(".")
        yield Entry(f"{original_module(module, shapes)}.{kind}", (name,))


def _vae(shapes: Mapping[str, Shape]) -> Iterator[Entry]:
    last = max(int(name.split(".")[2]) for name in shapes if name.startswith("decoder.up_blocks."))
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        side, *rest = module.split(".")
        linear = False
        if rest and rest[0] == "mid_block":
            _, layer, number, *inner = rest
            linear = layer == "attentions" and len(shape) == 2
            attention = f"mid.attn_1.{VAE_ATTENTION['.'.join(inner)]}" if layer == "attentions" else ""
            module = ".".join([side, attention] if attention else [side, "mid", f"block_{int(number) + 1}", *inner])
        elif rest and rest[0] in ("down_blocks", "up_blocks"):
            across, block, layer, number, *inner = rest
            place = [side, across.removesuffix("_blocks"), block if across == "down_blocks" else str(last - int(block))]
            moved = ["block", number, *inner] if layer == "resnets" else [layer.removesuffix("rs"), *inner]  # downsamplers.0.conv: downsample.conv
            module = ".".join([*place, *moved])
        elif rest == ["conv_norm_out"]:
            module = f"{side}.norm_out"
        renamed = module.replace("conv_shortcut", "nin_shortcut")
        yield Entry(f"{renamed}.{kind}", (name,), "convolution" if linear else "same")


def _clip(shapes: Mapping[str, Shape]) -> Iterator[Entry]:
    for name in shapes:
        yield Entry(name, (name,))


def _open_clip(shapes: Mapping[str, Shape]) -> Iterator[Entry]:
    for name in shapes:
        if name == "text_projection.weight":
            yield Entry("text_projection", (name,), "transposed")
        elif match := PROJECTION.fullmatch(name):
            if match[2] == "q":
                joined = tuple(f"{match[1]}{side}_proj.{match[3]}" for side in "qkv")
                yield Entry(f"{_resblock(match[1])}attn.in_proj_{match[3]}", joined)
        elif name.startswith("text_model.encoder.layers."):
            number, rest = name.removeprefix("text_model.encoder.layers.").split(".", 1)
            module, _, kind = rest.rpartition(".")
            yield Entry(f"transformer.resblocks.{number}.{OPEN_CLIP_LAYER[module]}.{kind}", (name,))
        else:
            yield Entry(OPEN_CLIP[name.removeprefix("text_model.")], (name,))


def _resblock(attention: str) -> str:
    """The block that an attention, text_model.encoder.layers.3.self_attn., belongs to."""
    return f"transformer.resblocks.{attention.split('.')[3]}."
