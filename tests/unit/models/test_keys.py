"""SDXL's names in its original layout: a bijection at full size, as the released file has them, and what diffusers' own converters read."""

from __future__ import annotations

from math import prod

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from tests.headers import full_size
from tests.tiny import build

from fewstep.bench.sdxl import random_bundle
from fewstep.models.keys import EXTRAS, LOGIT_SCALE, PARTS, POSITIONS, PREFIXES, TEXT, TEXT_2, UNET, VAE, Entry, entries
from fewstep.models.lora import targets
from fewstep.models.single_file import to_original

COUNTS = {UNET: 1680, VAE: 248, TEXT: 196, TEXT_2: 389}  # tensors of each part in sd_xl_base_1.0.safetensors, without the two extras
RELEASED = {  # (name there, diffusers' name, shape there), well known from that file
    UNET: [
        ("input_blocks.0.0.weight", "conv_in.weight", (320, 4, 3, 3)),
        ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight", (320, 320, 3, 3)),
        (
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            (640, 2048),
        ),
        ("middle_block.2.out_layers.3.weight", "mid_block.resnets.1.conv2.weight", (1280, 1280, 3, 3)),
        ("output_blocks.2.2.conv.weight", "up_blocks.0.upsamplers.0.conv.weight", (1280, 1280, 3, 3)),
        ("output_blocks.8.0.skip_connection.weight", "up_blocks.2.resnets.2.conv_shortcut.weight", (320, 640, 1, 1)),
        ("label_emb.0.0.weight", "add_embedding.linear_1.weight", (1280, 2816)),
        ("out.2.weight", "conv_out.weight", (4, 320, 3, 3)),
    ],
    VAE: [
        ("decoder.up.3.block.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight", (512, 512, 3, 3)),
        ("decoder.up.1.block.0.nin_shortcut.weight", "decoder.up_blocks.2.resnets.0.conv_shortcut.weight", (256, 512, 1, 1)),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight", (256, 256, 3, 3)),
        ("encoder.down.0.downsample.conv.weight", "encoder.down_blocks.0.downsamplers.0.conv.weight", (128, 128, 3, 3)),
        ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight", (512, 512, 1, 1)),
        ("decoder.mid.block_2.norm1.weight", "decoder.mid_block.resnets.1.norm1.weight", (512,)),
        ("decoder.norm_out.weight", "decoder.conv_norm_out.weight", (128,)),
        ("quant_conv.weight", "quant_conv.weight", (8, 8, 1, 1)),
    ],
    TEXT: [("text_model.encoder.layers.11.mlp.fc1.weight", "text_model.encoder.layers.11.mlp.fc1.weight", (3072, 768))],
    TEXT_2: [
        ("transformer.resblocks.31.attn.in_proj_weight", "text_model.encoder.layers.31.self_attn.q_proj.weight", (3840, 1280)),
        ("transformer.resblocks.0.mlp.c_proj.weight", "text_model.encoder.layers.0.mlp.fc2.weight", (1280, 5120)),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight", (77, 1280)),
        ("text_projection", "text_projection.weight", (1280, 1280)),
    ],
}


@pytest.mark.parametrize("part", PARTS)
def test_every_tensor_of_sdxl_has_one_place(part: str) -> None:
    """Each of diffusers' tensors lies in exactly one of the file's, whose names differ, and no number is lost or held twice."""
    shapes = full_size()[part]
    made = entries(part, shapes)
    assert sorted(name for entry in made for name in entry.of) == sorted(shapes)
    assert len({entry.name for entry in made}) == len(made) == COUNTS[part]
    assert sum(prod(entry.shape(shapes)) for entry in made) == sum(map(prod, shapes.values()))
    by_name = {entry.name: entry for entry in made}
    for name, own, shape in RELEASED[part]:
        entry = by_name[PREFIXES[part] + name]
        assert entry.of[0] == own
        assert entry.shape(shapes) == shape


def test_an_all_in_one_file_has_as_many_tensors_as_the_released_one() -> None:
    """2,515, the two that no network reads among them."""
    assert sum(COUNTS.values()) + len(EXTRAS) == 2515
    tensors = to_original(build().models)
    assert tensors[POSITIONS].tolist() == [list(range(77))]
    assert tensors[LOGIT_SCALE].ndim == 0


def test_a_lora_of_sdxl_is_what_was_released() -> None:
    """Rank 64 on 788 layers: 196.75 M numbers, three tensors a layer (SDXL-Lightning's files; LCM-LoRA's)."""
    layers = targets(random_bundle(device="meta").unet)
    numbers = sum(64 * (layer.weight.shape[0] + prod(layer.weight.shape[1:])) for layer in layers.values())  # type: ignore[arg-type]
    assert (len(layers), 3 * len(layers), round(numbers / 1e6, 2)) == (788, 2364, 196.75)


@pytest.mark.parametrize(("part", "convert"), [(UNET, convert_ldm_unet_checkpoint), (VAE, convert_ldm_vae_checkpoint)])
def test_diffusers_reads_what_is_written(part: str, convert: object) -> None:
    """Its converter gives back each tensor to the bit, under the name it had: both are inverse to each other."""
    network = build().models[part]
    own = {name: value.half() for name, value in network.state_dict().items()}
    written = to_original(build().models)
    back = convert({name: value.clone() for name, value in written.items()}, dict(network.config))  # type: ignore[operator]
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name].reshape(value.shape), value) for name, value in own.items())


def test_a_name_that_is_not_sdxls_is_not_guessed() -> None:
    """The second text encoder's names are a closed set."""
    with pytest.raises(KeyError):
        entries(TEXT_2, {"text_model.encoder.layers.0.adapter.weight": (2, 2)})


def test_shapes_of_what_is_joined() -> None:
    """q, k and v lie below each other; a linear layer may lie as a convolution."""
    shapes = {"q": (4, 3), "k": (4, 3), "v": (5, 3)}
    assert Entry("x", ("q", "k", "v")).shape(shapes) == (13, 3)
    assert Entry("x", ("q",), "transposed").shape(shapes) == (3, 4)
    assert Entry("x", ("q",), "convolution").shape(shapes) == (4, 3, 1, 1)
