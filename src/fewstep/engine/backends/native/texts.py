"""SDXL's text encoders for the kernels, each as networks of which one begins where the one before ends."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.backends.native.network import GELU, QUICK, Floats, Network, Norm, UnknownNetwork, Weights
from fewstep.engine.backends.native.plan import Computed

ACTIVATIONS = {"quick_gelu": QUICK, "gelu": GELU}
EMBEDDED, PROJECTED = "embeddings", "text_projection"
ANCIENT = 2  # the end of a text in configurations that are wrong about it: there it is the highest number


class Texts:
    """Both encoders, as a text's graph has them (fewstep.models.graphs.Text). Raises UnknownNetwork if they are others."""

    def __init__(self, library: ctypes.CDLL, weights: Weights, configs: Sequence[Mapping[str, Any]], threads: int) -> None:
        """``weights`` are named text_encoder.… and text_encoder_2.…, ``configs`` the contents of the two config.json."""
        bare = {name.replace(".text_model.", "."): value for name, value in weights.items()}
        parts = [{name: value for name, value in bare.items() if name.startswith(prefix)} for prefix in ("text_encoder.", "text_encoder_2.")]
        first, second = (_Encoder(library, own, config, threads) for own, config in zip(parts, configs, strict=True))
        if not second.summary:
            raise UnknownNetwork(f"there is no {PROJECTED}.weight")
        self._first, self._second = first, second

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """[embeds [N, L, C], pooled [N, P]] of tokens [N, L]."""
        seen = [encoder.last_but_one(inputs[name]) for encoder, name in ((self._first, "tokens"), (self._second, "tokens_2"))]
        return [np.concatenate(seen, axis=-1), self._second.pooled(inputs["tokens_2"], seen[1])]


class _Encoder:
    """A CLIPTextModel, of which only what is asked for has weights."""

    def __init__(self, library: ctypes.CDLL, weights: Weights, config: Mapping[str, Any], threads: int) -> None:
        net = Network(weights, next(iter(weights), "").partition(".")[0] + ".")
        self._config, activation = config, ACTIVATIONS.get(config["hidden_act"])
        if activation is None:
            raise UnknownNetwork(f"hidden_act is {config['hidden_act']!r}")
        self._tokens, self._positions = (net.take(f"{EMBEDDED}.{what}_embedding.weight") for what in ("token", "position"))
        last = int(config["num_hidden_layers"]) - 1
        if last < 1:
            raise UnknownNetwork("there is no layer before the last")
        self._computed = [self._part(library, net, range(last), activation, threads)]
        if net.has(f"{PROJECTED}.weight"):
            summary = Network(weights, net.prefix, used=net.used)
            summary.product(0, PROJECTED, norm=Norm("final_layer_norm", epsilon=config["layer_norm_eps"]))
            self._computed += [self._part(library, net, range(last, last + 1), activation, threads), Computed(library, tuple(summary.layers), threads)]
        self.summary = len(net.take(f"{PROJECTED}.weight")) if net.has(f"{PROJECTED}.weight") else 0  # numbers of one
        net.finished()

    def _part(self, library: ctypes.CDLL, net: Network, numbers: range, activation: int, threads: int) -> Computed:
        """Some of the layers, as a network of its own."""
        part, x = Network(net.weights, net.prefix, used=net.used), 0
        width, heads, epsilon = (self._config[name] for name in ("hidden_size", "num_attention_heads", "layer_norm_eps"))
        for number in numbers:
            name = f"encoder.layers.{number}"
            looks = part.product(x, *(f"{name}.self_attn.{one}_proj" for one in "qkv"), norm=Norm(f"{name}.layer_norm1", epsilon=epsilon))
            x = part.product(part.attention(looks, width, heads, causal=True), f"{name}.self_attn.out_proj", residual=x)
            wide = part.product(x, f"{name}.mlp.fc1", norm=Norm(f"{name}.layer_norm2", epsilon=epsilon))
            x = part.product(wide, f"{name}.mlp.fc2", activation=activation, residual=x)
        return Computed(library, tuple(part.layers), threads)

    def last_but_one(self, tokens: NDArray[np.int64]) -> Floats:
        """What the last layer but one makes of tokens [N, L]: [N, L, C]."""
        return self._through(0, self._tokens[tokens] + self._positions[: tokens.shape[1]])

    def pooled(self, tokens: NDArray[np.int64], hidden: Floats) -> Floats:
        """The summaries of texts, [N, P], from what the last layer but one has made of them."""
        end = self._config["eos_token_id"]
        places = tokens.argmax(axis=1) if end == ANCIENT else (tokens == end).argmax(axis=1)
        ends = self._through(1, hidden)[np.arange(len(tokens)), places]
        return self._through(2, ends[:, None])[:, 0, : self.summary]

    def _through(self, part: int, rows: Floats) -> Floats:
        return self._computed[part](rows.transpose(0, 2, 1)[..., None])[:, :, 0]
