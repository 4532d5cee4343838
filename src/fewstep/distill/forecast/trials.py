"""The runs that train one network at a time, each phase counted on tensors without content: teachers, autoencoders, decoders, judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from fewstep.data.emoji import World
from fewstep.distill.autoencoder import reconstruct_phase
from fewstep.distill.compact import CompactPlan, Studio, imitate_phase
from fewstep.distill.compact import sharpen_phase as sharpen_autoencoder
from fewstep.distill.decoded import Crops, Decoded
from fewstep.distill.decoder import DecoderPlan, decoder_phase
from fewstep.distill.decoder import sharpen_phase as sharpen_decoder
from fewstep.distill.edges import Edges, EdgesPlan, edges_phase
from fewstep.distill.forecast.blank import BlankLatents, BlankText, hollow
from fewstep.distill.forecast.rehearsal import Cost, Setting, cost, counting, remembered
from fewstep.distill.judge import JudgePlan, judge_phase
from fewstep.distill.latents import Cache, Text
from fewstep.distill.pretrain import TeacherPlan, attention
from fewstep.distill.teacher import teacher_phase
from fewstep.distill.text import TextTowers, text_phase
from fewstep.distill.trainer import Phase
from fewstep.evals.judge import INPUT, Judge
from fewstep.models.controlnet import build_controlnet
from fewstep.models.miniature import Shape, build_bundle, build_unet
from fewstep.models.tiny_decoder import TinyConfig, build_tiny

Plan = TeacherPlan | CompactPlan | DecoderPlan | EdgesPlan | JudgePlan
NO_WORLD = cast(World, None)  # phases ask for scenes only where they make batches, and here batches are blank
SUBJECTS = 120  # a judge's classes where the recipe does not say how many


def rehearse_alone(plan: Plan, configs: Mapping[str, Any], sizes: Mapping[str, int], setting: Setting) -> list[Cost]:
    """The costs of a plan's phases, in order; ``configs`` and ``sizes`` as :func:`fewstep.distill.forecast.rehearsal.rehearse` takes them."""
    with counting() as ledger:
        costs = [cost(ledger, phase, batch, setting, phase.name) for phase, batch in phases(plan, configs, sizes, setting) if phase.updates]
        if isinstance(plan, TeacherPlan):
            unet = hollow(configs, sizes, setting.accelerator).unet if plan.start else build_unet(plan.shape)
            kept = remembered(plan.data, unet.config, BlankText(unet, plan.shape.text_length), setting)
            costs[-1] = dataclasses.replace(costs[-1], remembered=kept)
    return costs


def phases(plan: Plan, configs: Mapping[str, Any], sizes: Mapping[str, int], setting: Setting) -> Iterator[tuple[Phase, Any]]:
    """Each phase with a blank batch of a rank's part: real networks with random weights, or counted ones inside ``counting``."""
    if isinstance(plan, TeacherPlan):
        yield from _teacher(plan, configs, sizes, setting)
    elif isinstance(plan, CompactPlan):
        yield from _compact(plan, configs, setting)
    elif isinstance(plan, DecoderPlan):
        yield from _decoder(plan, configs, setting)
    elif isinstance(plan, EdgesPlan):
        yield from _edges(plan, configs, sizes, setting)
    else:
        judge = Judge([""] * (plan.data.subjects if isinstance(plan.data.subjects, int) else SUBJECTS))
        count = setting.part(plan.batch_size)
        batch = torch.zeros(count, 3, INPUT, INPUT), torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
        yield judge_phase(judge, NO_WORLD, plan), batch


def _teacher(plan: TeacherPlan, configs: Mapping[str, Any], sizes: Mapping[str, int], setting: Setting) -> Iterator[tuple[Phase, Any]]:
    if plan.start:
        bundle = hollow(configs, sizes, setting.accelerator)
    else:
        bundle = build_bundle(plan.shape, ["a picture"], plan.seed)
        for encoder in (bundle.text_encoder, bundle.text_encoder_2):
            encoder.get_input_embeddings().weight = nn.Parameter(torch.zeros(plan.shape.vocabulary, encoder.config.hidden_size))
        bundle.vae.set_attn_processor(attention(setting.accelerator))
        count = setting.part(plan.autoencoder.batch_size)
        yield reconstruct_phase(bundle.vae, NO_WORLD, plan.autoencoder, setting.precision), _crops(count, plan.autoencoder.crop)
        count = setting.part(plan.text.batch_size)
        towers = TextTowers(bundle)
        yield text_phase(towers, NO_WORLD, plan.text, setting.precision), (torch.zeros(count, 3, plan.text.size, plan.text.size), ["a picture"] * count)
        for network in (bundle.vae, bundle.text_encoder, bundle.text_encoder_2):
            network.eval().requires_grad_(False)
    bundle.unet.set_attn_processor(attention(setting.accelerator))
    bundle.unet.train().requires_grad_(True)
    latents = BlankLatents(bundle.unet)
    text = BlankText(bundle.unet, plan.shape.text_length)
    phase = teacher_phase(bundle, cast(Cache, latents), cast(Text, text), plan.teacher, setting.precision)
    yield phase, latents.batch(range(setting.part(plan.teacher.batch_size)), 1, 1.0, torch.device("cpu"))


def _compact(plan: CompactPlan, configs: Mapping[str, Any], setting: Setting) -> Iterator[tuple[Phase, Any]]:
    recipe = plan.autoencoder
    teacher, student = _autoencoder(configs["vae"], setting), _autoencoder({**configs["vae"], "block_out_channels": recipe.channels}, setting)
    studio = Studio(teacher.requires_grad_(False), student, torch.ones(int(teacher.config.latent_channels), 1, 1), recipe)
    batch = _crops(setting.part(recipe.batch_size), recipe.crop)
    yield imitate_phase(studio, NO_WORLD, setting.precision), batch
    if recipe.contest.turns:
        yield sharpen_autoencoder(studio, NO_WORLD, setting.precision), batch


def _decoder(plan: DecoderPlan, configs: Mapping[str, Any], setting: Setting) -> Iterator[tuple[Phase, Any]]:
    recipe, vae = plan.decoder, _autoencoder(configs["vae"], setting).requires_grad_(False)
    channels, factor = int(vae.config.latent_channels), 2 ** (len(vae.config.block_out_channels) - 1)
    decoder, count, side = build_tiny(TinyConfig(channels, factor, recipe.channels, recipe.blocks)), setting.part(recipe.batch_size), factor * recipe.crop
    batch = Crops(torch.zeros(count, channels, recipe.crop, recipe.crop), torch.zeros(count, 3, side, side), slice(0, side), slice(0, side))
    yield decoder_phase(decoder, cast(Decoded, None), recipe, setting.precision), batch
    if recipe.contest.turns:
        yield sharpen_decoder(decoder, cast(Decoded, None), recipe, setting.precision), batch


def _autoencoder(config: Mapping[str, Any], setting: Setting) -> Any:
    network = AutoencoderKL.from_config(config)
    network.set_attn_processor(attention(setting.accelerator))
    return network


def _crops(count: int, side: int) -> tuple[torch.Tensor, np.random.Generator]:
    return torch.zeros(count, 3, side, side), np.random.default_rng(0)


def _edges(plan: EdgesPlan, configs: Mapping[str, Any], sizes: Mapping[str, int], setting: Setting) -> Iterator[tuple[Phase, Any]]:
    bundle = hollow(configs, sizes, setting.accelerator)
    pooled = BlankText(bundle.unet, 77).pooled
    words = build_bundle(Shape(text_hidden=(int(bundle.unet.config.cross_attention_dim) - pooled, pooled)), ["a picture"])  # to encode blank captions with
    bundle.tokenizer, bundle.tokenizer_2 = words.tokenizer, words.tokenizer_2
    bundle.text_encoder, bundle.text_encoder_2 = words.text_encoder, words.text_encoder_2
    net = build_controlnet(bundle.unet, plan.edges.embedding)
    count, side = setting.part(plan.edges.batch_size), bundle.factor * int(bundle.unet.config.sample_size)
    samples = BlankLatents(bundle.unet).batch(range(count), 1, 1.0, torch.device("cpu"))
    yield edges_phase(net, bundle, cast(Edges, None), plan.edges, setting.precision), (samples, torch.zeros(count, 3, side, side))
