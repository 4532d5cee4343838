"""A miniature SDXL before it has learnt anything: its dimensions, and networks of them with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from fewstep.models.bundle import Bundle
from fewstep.models.clip_tokens import END, START
from fewstep.models.tokenizer import make_tokenizer, train_vocabulary
from fewstep.stamp import Stamp


@dataclass(frozen=True)
class Shape:
    """The dimensions of a miniature SDXL."""

    unet_channels: tuple[int, ...] = (48, 96, 128)
    unet_heads: tuple[int, ...] = (2, 3, 4)
    unet_transformers: tuple[int, ...] = (1, 1, 1)  # transformer layers a block; the first block has none, as in SDXL
    unet_layers: int = 1
    unet_groups: int = 16
    text_hidden: tuple[int, int] = (96, 128)
    text_layers: tuple[int, int] = (2, 3)
    text_length: int = 77
    vocabulary: int = 2048
    latent_channels: int = 16
    autoencoder_channels: tuple[int, ...] = (32, 64, 96, 96, 96)
    autoencoder_groups: int = 4
    sample_size: int = 16  # latents a side of a square picture

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 3 if name == "text_length" else 1  # a text has a beginning and an end
            if min(value if isinstance(value, tuple) else (value,), default=0) < least:
                raise ValueError(f"{name} = {value}: give {least} or more")


def build_bundle(shape: Shape, captions: Iterable[str], seed: int = 0) -> Bundle:
    """A bundle with random weights and a vocabulary trained on ``captions``."""
    torch.manual_seed(seed)
    vocab, merges = train_vocabulary(captions, shape.vocabulary)
    encoders = []
    for hidden, layers, kind in zip(shape.text_hidden, shape.text_layers, (CLIPTextModel, CLIPTextModelWithProjection), strict=True):
        config = CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            projection_dim=hidden,
            num_hidden_layers=layers,
            num_attention_heads=max(hidden // 32, 1),
            max_position_embeddings=shape.text_length,
            hidden_act="quick_gelu" if kind is CLIPTextModel else "gelu",
            bos_token_id=vocab[START],
            eos_token_id=vocab[END],
            pad_token_id=vocab[END],
        )
        encoders.append(kind(config))
    return Bundle(
        tokenizer=make_tokenizer(vocab, merges, END, shape.text_length),
        tokenizer_2=make_tokenizer(vocab, merges, "!", shape.text_length),
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        unet=build_unet(shape),
        vae=build_autoencoder(shape),
        stamp=Stamp(kind="teacher", steps=32, guidance_scale=5.0),
    )


def build_unet(shape: Shape) -> UNet2DConditionModel:
    """SDXL's UNet at other dimensions: one plain block, then cross-attention blocks, ``text_time`` conditioning, linear projections."""
    blocks = len(shape.unet_channels)
    return UNet2DConditionModel(
        sample_size=shape.sample_size,
        in_channels=shape.latent_channels,
        out_channels=shape.latent_channels,
        block_out_channels=shape.unet_channels,
        layers_per_block=shape.unet_layers,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (blocks - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (blocks - 1), "UpBlock2D"),
        transformer_layers_per_block=shape.unet_transformers,
        attention_head_dim=shape.unet_heads,  # diffusers' name for the number of heads
        cross_attention_dim=sum(shape.text_hidden),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=shape.text_hidden[1] + 6 * 32,
        norm_num_groups=shape.unet_groups,
    )


def build_autoencoder(shape: Shape) -> AutoencoderKL:
    """SDXL's autoencoder at other dimensions, one layer a block, with a posterior that is narrow from the start."""
    blocks = len(shape.autoencoder_channels)
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=shape.autoencoder_channels,
        layers_per_block=1,
        latent_channels=shape.latent_channels,
        norm_num_groups=shape.autoencoder_groups,
        sample_size=shape.sample_size * 2 ** (blocks - 1),
        force_upcast=False,
    )
    with torch.no_grad():  # sampling with unit variance from the start would drown the latents
        model.quant_conv.weight[shape.latent_channels :] *= 0.01
        model.quant_conv.bias[shape.latent_channels :] = -8.0
    return model
