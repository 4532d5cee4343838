"""SDXL's UNet for the kernels, as three networks: of what depends on the time alone, which is biases; of what depends on the prompt alone, which is
keys and values, computed once for it; and the rest.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.backends.native.network import GATED, PLANES, SILU, Floats, Network, Norm, UnknownNetwork, Weights, around
from fewstep.engine.backends.native.plan import Computed, Plan
from fewstep.engine.backends.wrapped import Wrapped

LONGEST_PERIOD = 10000  # of the sinusoids of times and sizes
LAYER_NORM = 1e-5
KNOWN = 16  # prompts whose keys are kept: a batch's, and null prompts; and as many negative ones
FIXED = {  # of what no weight would tell
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "time_embedding_type": "positional",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "only_cross_attention": False,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
}


class Unet:
    """A UNet2DConditionModel with text_time conditioning. Raises UnknownNetwork if it is another one, or built otherwise than SDXL's."""

    def __init__(
        self, library: ctypes.CDLL, weights: Weights, config: Mapping[str, Any], threads: int, negative: bool = False, wrapped: Wrapped | None = None
    ) -> None:
        """``weights`` are named unet.…, ``config`` is the content of its config.json; ``negative``: its attentions take a negative prompt."""
        wrong = [name for name, value in FIXED.items() if config.get(name, value) != value]
        if wrong:
            raise UnknownNetwork(f"{wrong[0]} is {config[wrong[0]]!r}")
        net = Network(weights, "unet.")
        builder = _Builder(net, config, negative)
        builder.build()
        layers, keys, times = (around(net.finished(), *wrapped) if wrapped else net.finished()), Network(builder.keys, ""), Network(builder.times, "")
        keys.product(0, *(name.removesuffix(".weight") for name in builder.keys))
        x = times.product(times.product(0, "first"), "second", activation=SILU)
        times.product(x, "shifts", activation=SILU)
        self._main, self._keys = (Computed(library, own, threads) for own in (layers, keys.finished()))
        self._times = Computed(library, times.finished(), 1)  # of a pixel: less work than a second thread takes to begin
        self._frequencies = frequencies(builder.frequencies), frequencies(int(config["addition_time_embed_dim"]))
        self._known: deque[tuple[bytes, Floats]] = deque(maxlen=KNOWN * (1 + negative))  # prompts with their keys, the newest first
        self._last: deque[tuple[Floats, list[Floats]]] = deque(maxlen=1 + negative)  # the batches that a walk comes with again in each step

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Floats:
        """What a UNet's graph answers (fewstep.models.graphs.Unet, or Negative), picture by picture."""
        times, sizes = (sinusoids(inputs[name], own) for name, own in zip(("timestep", "ids"), self._frequencies, strict=True))
        about = np.concatenate([times, inputs["pooled"], sizes], axis=1)
        biases = self._times(about.T[None, :, :, None])[0, :, 0]  # as if they were pixels
        sample, prompts = inputs["sample"], [inputs[name] for name in ("prompt_embeds", "negative_embeds") if name in inputs]
        keys, further = list(zip(*map(self._seen, prompts), strict=True)), float(inputs.get("nag_scale", 1)) - 1

        def denoise(plan: Plan, number: int) -> Floats:
            plan.biases[:] = biases[number]
            return plan(sample[number], keys[number], further)

        return self._main.each(sample.shape, denoise)

    def _seen(self, prompts: Floats) -> list[Floats]:
        """Keys and values of all layers for each of the prompts [B, tokens, C]: [tokens, channels]."""
        for batch, keys in list(self._last):
            if batch is prompts:
                return keys
        names, there = [prompt.tobytes() for prompt in prompts], list(self._known)
        known, keys, new = [name for name, _ in there], [made for _, made in there], list[int]()
        for number, name in enumerate(names):
            if name not in known:
                known.append(name)
                new.append(number)
        if new:
            keys += list(self._keys(prompts[new].transpose(0, 2, 1)[..., None])[:, :, 0])
            self._known.extendleft(zip(known[len(there) :], keys[len(there) :], strict=True))
        found = [keys[known.index(name)] for name in names]
        self._last.append((prompts, found))
        return found


class _Builder:
    """Lays the blocks of a UNet into a Network."""

    def __init__(self, net: Network, config: Mapping[str, Any], negative: bool) -> None:
        self.net, self.config, self.negative = net, config, negative
        self.keys: dict[str, Floats] = {}  # of each attention that looks at the prompt, its weights for keys and for values
        self.times: dict[str, Floats] = {}  # of the network whose outputs are the biases that depend on the time
        self.frequencies = 0  # of its first input
        self._shifts: list[tuple[Floats, Floats]] = []  # (weight, bias) of each resnet
        self._groups, self._epsilon = int(config["norm_num_groups"]), float(config["norm_eps"])
        self._at = self._timed = 0
        blocks = len(config["block_out_channels"])
        heads = config.get("num_attention_heads") or config["attention_head_dim"]
        self._heads = list(heads) if isinstance(heads, list) else [heads] * blocks

    def build(self) -> None:
        """The whole network."""
        net, last = self.net, len(self._heads) - 1
        x = net.product(0, "conv_in")
        skips = [x]
        for level in range(last + 1):
            name, layer = f"down_blocks.{level}", 0
            while net.has(f"{name}.resnets.{layer}.conv1.weight"):
                x = self._transformer(f"{name}.attentions.{layer}", self._resnet(f"{name}.resnets.{layer}", x), level)
                skips.append(x)
                layer += 1
            if net.has(f"{name}.downsamplers.0.conv.weight"):
                x = net.product(x, f"{name}.downsamplers.0.conv", direct=True, stride=2)
                skips.append(x)
        x = self._transformer("mid_block.attentions.0", self._resnet("mid_block.resnets.0", x), last)
        x = self._resnet("mid_block.resnets.1", x)
        for level in range(last + 1):
            name, layer = f"up_blocks.{level}", 0
            while net.has(f"{name}.resnets.{layer}.conv1.weight"):
                if not skips:
                    raise UnknownNetwork(f"nothing goes past the middle to {name}.resnets.{layer}")
                x = self._resnet(f"{name}.resnets.{layer}", net.beside(x, skips.pop()))
                x, layer = self._transformer(f"{name}.attentions.{layer}", x, last - level), layer + 1
            if net.has(f"{name}.upsamplers.0.conv.weight"):
                x = net.product(x, f"{name}.upsamplers.0.conv", doubled=True, direct=net.scale(x).double.halved > 0)
        x = net.product(x, "conv_out", norm=Norm("conv_norm_out", self._groups, self._epsilon), activation=SILU)
        net.shuffled(x, 1, len(net.take("conv_out.weight")), PLANES)
        self._see_time()

    def _see_time(self) -> None:
        """The two embeddings side by side, their sum, and what each resnet makes of it."""
        (first, bias), (added, shift) = (self._linear(f"{name}_embedding.linear_1") for name in ("time", "add"))
        (second, more), (other, rest) = (self._linear(f"{name}_embedding.linear_2") for name in ("time", "add"))
        self.frequencies = first.shape[1]
        both = np.zeros((len(first) + len(added), first.shape[1] + added.shape[1]), np.float32)
        both[: len(first), : first.shape[1]], both[len(first) :, first.shape[1] :] = first, added
        self.times = {"first.weight": both, "first.bias": np.concatenate([bias, shift])}
        self.times |= {"second.weight": np.concatenate([second, other], axis=1), "second.bias": more + rest}
        weights, biases = zip(*self._shifts, strict=True)
        self.times |= {"shifts.weight": np.concatenate(weights), "shifts.bias": np.concatenate(biases)}

    def _linear(self, name: str) -> tuple[Floats, Floats]:
        return self.net.take(f"{name}.weight"), self.net.take(f"{name}.bias")

    def _resnet(self, name: str, x: int) -> int:
        net, direct = self.net, self.net.scale(x).halved > 0
        shift, bias = self._linear(f"{name}.time_emb_proj")
        inner = net.product(x, f"{name}.conv1", norm=Norm(f"{name}.norm1", self._groups, self._epsilon), activation=SILU, direct=direct, timed=self._timed)
        self._shifts.append((shift, bias + net.take(f"{name}.conv1.bias")))
        self._timed += len(bias)
        beside = net.product(x, f"{name}.conv_shortcut") if net.has(f"{name}.conv_shortcut.weight") else x
        return net.product(inner, f"{name}.conv2", norm=Norm(f"{name}.norm2", self._groups, self._epsilon), activation=SILU, direct=direct, residual=beside)

    def _transformer(self, name: str, x: int, level: int) -> int:
        net = self.net
        if not net.has(f"{name}.norm.weight"):
            return x
        inner, block = net.product(x, f"{name}.proj_in", norm=Norm(f"{name}.norm", self._groups)), 0
        while net.has(f"{(own := f'{name}.transformer_blocks.{block}')}.norm1.weight"):
            inner, block = self._block(own, inner, self._heads[level]), block + 1
        return net.product(inner, f"{name}.proj_out", residual=x)

    def _block(self, name: str, x: int, heads: int) -> int:
        net, width = self.net, self.net.width(x)
        looks = net.product(x, *(f"{name}.attn1.to_{one}" for one in "qkv"), norm=Norm(f"{name}.norm1", epsilon=LAYER_NORM))
        x = net.product(net.attention(looks, width, heads), f"{name}.attn1.to_out.0", residual=x)
        looks = net.product(x, f"{name}.attn2.to_q", norm=Norm(f"{name}.norm2", epsilon=LAYER_NORM))
        self.keys |= {f"{name}.attn2.to_{one}.weight": net.take(f"{name}.attn2.to_{one}.weight") for one in "kv"}
        seen = net.attention(looks, width, heads, self._at)
        seen = net.guided(seen, net.attention(looks, width, heads, self._at, away=True)) if self.negative else seen
        x = net.product(seen, f"{name}.attn2.to_out.0", residual=x)
        self._at += 2 * width
        gates = net.product(x, f"{name}.ff.net.0.proj", norm=Norm(f"{name}.norm3", epsilon=LAYER_NORM))
        return net.product(gates, f"{name}.ff.net.2", activation=GATED, residual=x)


def frequencies(channels: int) -> Floats:
    """Those of the sinusoids that fill so many channels."""
    half = channels // 2
    return np.exp(-np.log(LONGEST_PERIOD) * np.arange(half, dtype=np.float32) / half)


def sinusoids(values: NDArray[Any], own: Floats) -> Floats:
    """Values [B] or [B, N] as [B, N * channels], one after the other, cosines first (diffusers' get_timestep_embedding, flipped and not shifted)."""
    angles = values.astype(np.float32).reshape(len(values), -1, 1) * own
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=2).astype(np.float32).reshape(len(values), -1)
