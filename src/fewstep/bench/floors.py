"""The least that a stage can take: operations and bytes counted from the networks, over what the machine can do.

Counted on networks without values, one operation at a time: 1 multiply-add is 2 operations; convolutions, linear layers and both
products of attention count, norms, activations and softmax do not. The bytes are what those same operations read and write, weights
included, as if all that lies between them were fused into them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from fewstep.bench.peaks import Peaks
from fewstep.models.tiny_decoder import TinyConfig, TinyDecoder
from fewstep.models.weights import TINY

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
TOKENS = 77


@dataclass(frozen=True)
class Cost:
    """What a computation does."""

    flops: int
    bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: int) -> Cost:
        return Cost(times * self.flops, times * self.bytes)

    def floor(self, peaks: Peaks) -> float:
        """The least seconds: the longer of computing and moving, each at its peak (the roofline)."""
        return max(self.flops / peaks.flops, self.bytes / peaks.bandwidth)

    def bound(self, peaks: Peaks) -> str:
        """Which of the two it is."""
        return "compute" if self.flops / peaks.flops >= self.bytes / peaks.bandwidth else "memory"


def count(work: Callable[[], Any]) -> Cost:
    """The cost of the tensor operations that ``work`` carries out, on tensors without values (torch's device "meta") or with."""
    with torch.no_grad(), _Operations() as operations, _Attention() as attention:  # with inference_mode linear layers would pass by unseen
        work()
    return operations.cost + attention.cost


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts products and convolutions, whatever function they come from."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = Cost(0, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.cost += Cost(formula(*args, **kwargs, out_val=out), _bytes(args, kwargs, out))
        return out


class _Attention(TorchFunctionMode):
    """Counts attention as one operation, which it is where it matters: without values torch would take it apart."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost(0, 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]  # [B, H, Q, D], [B, H, K, D], [B, H, K, V]
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        batch, heads, queries, width = q.shape
        self.cost += Cost(2 * batch * heads * queries * k.shape[2] * (width + v.shape[3]), _bytes(args, kwargs, out))
        return out


def _bytes(*values: Any) -> int:
    """Of all tensors among them."""
    return sum(value.numel() * value.element_size() for value in tree_leaves(values) if isinstance(value, torch.Tensor))


class Networks:
    """A model's networks without values: only what they would compute is wanted."""

    def __init__(self, configs: Mapping[str, dict[str, Any]], dtype: torch.dtype = torch.float32, tiny: TinyConfig | None = None) -> None:
        """``configs`` are those of ``PARTS``, ``tiny`` that of the reduced decoder where the model has one."""
        self._dtype = dtype
        with torch.device("meta"):
            self.text = [CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])), CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"]))]
            self.unet: Any = UNet2DConditionModel.from_config(configs["unet"])
            self.vae: Any = AutoencoderKL.from_config(configs["vae"])
            self.tiny: Any = TinyDecoder(tiny) if tiny else None
            for network in (*self.text, self.unet, self.vae, *([self.tiny] if tiny else [])):
                (network if dtype == torch.float32 else network.to(dtype)).eval()  # asked for the type they have, diffusers' models warn
        self.factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)  # pixels a side of one latent position

    @classmethod
    def of(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Networks:
        """Those of a model's folder, from its configurations."""
        configs = {part: json.loads((folder / part / "config.json").read_text(encoding="utf8")) for part in PARTS}
        path = folder / TINY / "config.json"
        if not path.is_file():
            return cls(configs, dtype)
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if not key.startswith("_")}
        return cls(configs, dtype, TinyConfig(**fields))

    def encode(self, batch: int) -> Cost:
        """Both text encoders over ``batch`` prompts."""
        with torch.device("meta"):
            ids = torch.zeros(batch, TOKENS, dtype=torch.long)
            return count(lambda: [encoder(ids, output_hidden_states=True) for encoder in self.text])

    def denoise(self, batch: int, side: int) -> Cost:
        """One evaluation of the UNet for pictures of ``side`` pixels. Guidance evaluates twice the batch."""
        config = self.unet.config
        with torch.device("meta"):
            pooled = torch.empty(batch, self.text[1].config.projection_dim, dtype=self._dtype)
            more = {"text_embeds": pooled, "time_ids": torch.empty(batch, 6, dtype=self._dtype)}
            text = torch.empty(batch, TOKENS, config.cross_attention_dim, dtype=self._dtype)
            latents = self._latents(batch, side, config.in_channels)
            return count(lambda: self.unet(latents, 999, encoder_hidden_states=text, added_cond_kwargs=more))

    def decode(self, batch: int, side: int, decoder: str = "full") -> Cost:
        """The decoder, "full" or "tiny". Raises ValueError where there is no tiny one."""
        if decoder != "full" and self.tiny is None:
            raise ValueError("this model has no tiny decoder")
        with torch.device("meta"):
            latents = self._latents(batch, side, self.vae.config.latent_channels)
            return count(lambda: self.vae.decode(latents) if decoder == "full" else self.tiny(latents))

    def picture(self, steps: int, side: int, decoder: str = "full", guided: bool = False) -> Cost:
        """One picture from its prompt to its pixels in ``steps`` evaluations, each of a batch of two where ``guided``."""
        return self.encode(1) + self.denoise(2 if guided else 1, side) * steps + self.decode(1, side, decoder)

    def _latents(self, batch: int, side: int, channels: int) -> torch.Tensor:
        return torch.empty(batch, channels, side // self.factor, side // self.factor, dtype=self._dtype)
