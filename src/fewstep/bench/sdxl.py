"""SDXL at full size with random weights: the time that a network takes does not depend on their values."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from fewstep.bench.clock import interleave
from fewstep.bench.floors import Networks
from fewstep.bench.options import Options
from fewstep.bench.peaks import measure
from fewstep.bench.stages import peaks_section, row
from fewstep.bench.table import Section
from fewstep.engine.device import memory
from fewstep.engine.request import RequestError
from fewstep.models.bundle import WEIGHTS, Bundle, save_bundle, save_weights
from fewstep.models.clip_tokens import END, START
from fewstep.models.dimensions import CONFIGS, UNET, Configs
from fewstep.models.tiny_decoder import TinyConfig, build_tiny, save_tiny
from fewstep.models.tokenizer import make_tokenizer, train_vocabulary
from fewstep.stamp import Stamp, file_hash

CAPTIONS = ("a red apple on a blue background, number 0123456789",)
FOLDER_BYTES = 9e9  # on a disk, in 16 bits, with room to spare
SMALL_SIDE = 256  # pixels, on a processor
ROOM = 1.2  # bytes needed over those of the weights


def write_random(folder: Path, steps: Sequence[int], configs: Configs = CONFIGS, device: str = "cpu") -> Path:
    """Write a model with random weights, a reduced decoder, and students for ``steps`` that change nothing, as float16. Returns ``folder``.

    Every student is the teacher, so that one set of weights serves all step counts, in the engine and in diffusers. Raises RequestError
    where the disk is too small.
    """
    if configs is CONFIGS and (free := shutil.disk_usage(folder.parent).free) < FOLDER_BYTES:
        raise RequestError(f"SDXL with random weights takes {FOLDER_BYTES / 1e9:.0f} GB on disk, and {folder.parent} has {free / 1e9:.0f}: set TMPDIR")
    bundle = random_bundle(configs, device)
    save_bundle(bundle, folder)
    save_tiny(build_tiny(TinyConfig(bundle.vae.config.latent_channels, bundle.factor)), folder, file_hash(folder / "vae" / WEIGHTS))
    (folder / "students").mkdir()
    weight = bundle.unet.mid_block.resnets[0].conv1.weight
    key = "lora_unet_mid_block_resnets_0_conv1"
    tensors = {f"{key}.lora_down.weight": torch.zeros(1, *weight.shape[1:]), f"{key}.lora_up.weight": torch.zeros(len(weight), 1, 1, 1)}
    for count in steps:
        stamp = Stamp(kind="lora", steps=count, base=bundle.hash, alpha=1.0)
        save_weights({**tensors, f"{key}.alpha": torch.tensor(1.0)}, folder / "students" / f"{count}-step-lora.safetensors", stamp.to_metadata())
    return folder


def random_bundle(configs: Configs = CONFIGS, device: str = "cpu") -> Bundle:
    """A bundle of these dimensions with diffusers' own initial weights, and a tokenizer that knows one sentence."""
    torch.manual_seed(0)
    vocab, merges = train_vocabulary(CAPTIONS, 600)
    ends = {"bos_token_id": vocab[START], "eos_token_id": vocab[END], "pad_token_id": vocab[END]}
    with torch.device(device):
        text, text_2 = (CLIPTextConfig(**configs[name], **ends, max_position_embeddings=77) for name in ("text_encoder", "text_encoder_2"))
        return Bundle(
            tokenizer=make_tokenizer(vocab, merges, END, 77),
            tokenizer_2=make_tokenizer(vocab, merges, "!", 77),
            text_encoder=CLIPTextModel(text),
            text_encoder_2=CLIPTextModelWithProjection(text_2),
            unet=UNet2DConditionModel(**configs["unet"]),
            vae=AutoencoderKL(**configs["vae"]),
            stamp=Stamp(kind="teacher", steps=32, guidance_scale=5.0),
        )


def one_forward(options: Options, tell: Callable[[str], None], config: Mapping[str, Any] = UNET, side: int = SMALL_SIDE) -> list[Section]:
    """The tables "peaks" and "stages" of one evaluation of the UNet alone on a processor, with eager torch: no more than its own room.

    Raises RequestError where memory is too small.
    """
    unet = hollow_unet(config)
    check_memory(unet)
    tell("SDXL's UNet: filling it with random weights")
    fill(unet.to_empty(device="cpu")).eval().requires_grad_(False)
    networks = Networks({**CONFIGS, "unet": dict(config)})
    latents = torch.randn(1, unet.config.in_channels, side // networks.factor, side // networks.factor)
    text = torch.randn(1, 77, unet.config.cross_attention_dim)
    more = {"text_embeds": torch.randn(1, networks.text[1].config.projection_dim), "time_ids": torch.tensor([[side, side, 0, 0, side, side]]).float()}

    @torch.inference_mode()
    def work(given: None) -> Any:
        return unet(latents, 999, encoder_hidden_states=text, added_cond_kwargs=more, return_dict=False)[0]

    tell(f"SDXL's UNet: one evaluation at {side} px")
    peaks = measure()
    times = interleave({"unet": work}, lambda: {"unet": None}, options.rounds, options.warmup)["unet"]
    part = {"stage": "denoise", "side": side, "batch": 1, "steps": 1}
    note = f"one evaluation of SDXL's UNet with random weights ({parameters(unet) / 1e6:.1f} M), float32, eager torch"
    return [peaks_section(peaks.better(measure())), Section("stages", (row(part, times, networks.denoise(1, side), peaks),), (note,))]


def hollow_unet(config: Mapping[str, Any] = UNET) -> Any:
    """A UNet of these dimensions that takes no memory yet."""
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def parameters(network: nn.Module) -> int:
    """How many numbers its weights are."""
    return sum(parameter.numel() for parameter in network.parameters())


def check_memory(network: nn.Module) -> None:
    """Raises RequestError unless a float32 copy of ``network`` fits into the memory that is available now."""
    needed, (_, available) = ROOM * 4 * parameters(network), memory()
    if available < needed:
        raise RequestError(f"SDXL's UNet takes {needed / 1e9:.1f} GB in float32, and {available / 1e9:.1f} GB are available: measure it on a larger machine")


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """Give every weight random values that keep the size of what passes through, and return the network: nothing may end as a denormal."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            bound = (3 / parameter[0].numel()) ** 0.5
            parameter.uniform_(-bound, bound)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return network
