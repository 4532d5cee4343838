"""SDXL's names in its original layout: a bijection at full size, as the released file has them, and what diffusers' own converters read."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from tests.headers import full_size, original, sparse
from tests.tiny import build

from fewstep.bench.sdxl import random_bundle
from fewstep.models.adapters import places
from fewstep.models.keys import EXTRAS, LOGIT_SCALE, PARTS, POSITIONS, PREFIXES, TEXT, TEXT_2, UNET, VAE, Entry, entries, original_module
from fewstep.models.lora import targets
from fewstep.models.single_file import to_original
from fewstep.models.weights import read_header

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


def test_what_is_exported_at_full_size_has_the_released_layout(tmp_path: Path) -> None:
    """By the export's own code on the meta device, through a sparse file: diffusers' own converters find its networks' names and shapes, no more, no less."""
    bundle = random_bundle(device="meta")
    written = to_original(bundle.models)
    assert {name for name, value in written.items() if value.dtype != torch.float16} == {POSITIONS}
    shapes = {name: tuple(value.shape) for name, value in written.items()}
    assert shapes == {**original(), POSITIONS: (1, 77), LOGIT_SCALE: ()}
    path = sparse(tmp_path / "sdxl.safetensors", shapes)
    assert read_header(path).shapes == shapes and path.stat().st_size == pytest.approx(6.94e9, rel=1e-3)
    found = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in read_header(path).shapes.items()}
    back = {
        UNET: convert_ldm_unet_checkpoint(dict(found), dict(bundle.unet.config)),
        VAE: convert_ldm_vae_checkpoint(dict(found), dict(bundle.vae.config)),
        TEXT: convert_ldm_clip_checkpoint(dict(found), PREFIXES[TEXT]),
        TEXT_2: convert_open_clip_checkpoint(bundle.text_encoder_2, dict(found), PREFIXES[TEXT_2]),
    }
    for part, tensors in back.items():
        names = {name if name.startswith("text_") or part in (UNET, VAE) else f"text_model.{name}": value for name, value in tensors.items()}
        theirs = {name: tuple(value.squeeze().shape) for name, value in names.items() if not name.endswith("position_ids")}
        assert theirs == {name: tuple(side for side in shape if side != 1) for name, shape in full_size()[part].items()}, part


@pytest.mark.parametrize("layout", ["modules", "blocks", "diffusers", "peft"])
def test_every_layer_of_a_lora_finds_its_weight_at_full_size(tmp_path: Path, layout: str) -> None:
    """All 788, in the names of every tool: each has its own, and none is left over."""
    layers = {module: tuple(layer.weight.shape) for module, layer in targets(random_bundle(device="meta").unet).items()}  # type: ignore[union-attr, arg-type]
    called = {
        "modules": lambda module: f"lora_unet_{module.replace('.', '_')}",
        "blocks": lambda module: f"lora_unet_{original_module(module, full_size()[UNET]).replace('.', '_')}",
        "diffusers": lambda module: f"unet.{module}",
        "peft": lambda module: f"base_model.model.{module}",
    }[layout]
    down, up = ("lora_down", "lora_up") if layout in ("modules", "blocks") else ("lora_A", "lora_B")
    shapes = {}
    for module, (out, *rest) in layers.items():
        shapes[f"{called(module)}.{down}.weight"] = (64, *rest)
        shapes[f"{called(module)}.{up}.weight"] = (out, 64, *(1,) * (len(rest) - 1))
    assert len(shapes) == 2 * 788
    found = places(sparse(tmp_path / "lora.safetensors", shapes), {part: full_size()[part] for part in (UNET, TEXT, TEXT_2)})
    assert sorted((place.part, place.name) for place in found) == sorted((UNET, f"{module}.weight") for module in layers)
    assert all(called(place.name.removesuffix(".weight")) in str(place.down) for place in found)


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
