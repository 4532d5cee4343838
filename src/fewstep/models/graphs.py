"""The networks of a model as ONNX graphs without their weights, which are bound by name when a session is made.

Nothing is exported at first use, one graph serves a teacher and all its students, and a few hundred kilobytes travel with the weights that
lie beside them anyway. An initializer ``unet.conv_in.weight`` is the tensor ``conv_in.weight`` of the part ``unet``.
"""

from __future__ import annotations

import copy
import json
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from fewstep.models.attention import Negatable, negation, take_negatives
from fewstep.models.prompt import encode_tokens, time_ids
from fewstep.models.tiny_decoder import TinyDecoder, load_tiny
from fewstep.models.weights import INDEX, TINY

if TYPE_CHECKING:
    from fewstep.models.bundle import Bundle

MOST_PICTURES = 63  # in one batch: diffusers' UNet takes another path from 64 on


class Text(nn.Module):
    """Token ids of both tokenizers [B, L] to (prompt_embeds [B, L, C], pooled [B, P])."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2 = bundle.text_encoder, bundle.text_encoder_2

    def forward(self, tokens: Tensor, tokens_2: Tensor) -> tuple[Tensor, Tensor]:
        """Encode."""
        prompt = encode_tokens((self.text_encoder, self.text_encoder_2), (tokens, tokens_2))
        return prompt.embeds, prompt.pooled


class Unet(nn.Module):
    """The UNet with its conditioning as plain inputs."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.unet = bundle.unet

    def forward(self, sample: Tensor, timestep: Tensor, prompt_embeds: Tensor, pooled: Tensor, ids: Tensor) -> Tensor:
        """Denoise [B, C, H, W] at timesteps [B]."""
        conditions = {"text_embeds": pooled, "time_ids": ids}
        output: Tensor = self.unet(sample, timestep, encoder_hidden_states=prompt_embeds, added_cond_kwargs=conditions, return_dict=False)[0]
        return output


class Negative(Unet):
    """The same with a negative prompt in its attentions (fewstep.models.attention)."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.unet = take_negatives(copy.deepcopy(bundle.unet))

    def forward(  # type: ignore[override]
        self, sample: Tensor, timestep: Tensor, prompt_embeds: Tensor, pooled: Tensor, ids: Tensor, negative_embeds: Tensor, nag_scale: Tensor
    ) -> Tensor:
        """Denoise [B, C, H, W] at timesteps [B], away from negative prompts [B, M, C]."""
        conditions, away = {"text_embeds": pooled, "time_ids": ids}, negation(negative_embeds, nag_scale)
        output: Tensor = self.unet(sample, timestep, encoder_hidden_states=prompt_embeds, added_cond_kwargs=conditions, **away, return_dict=False)[0]
        return output


class Decoder(nn.Module):
    """The autoencoder's decoder: its own latents [B, C, H/f, W/f] to pixels [B, 3, H, W] in [-1, 1]."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.vae = bundle.vae

    def forward(self, latents: Tensor) -> Tensor:
        """Decode."""
        pixels: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return pixels


class Encoder(nn.Module):
    """The autoencoder's encoder: pixels [B, 3, H, W] in [-1, 1] to the mean of its own latents [B, C, H/f, W/f]."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.vae = bundle.vae

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode."""
        mean: Tensor = self.vae.encode(pixels).latent_dist.mean
        return mean


class Tiny(nn.Module):
    """The reduced decoder, with the inputs and outputs of the full one."""

    def __init__(self, decoder: TinyDecoder) -> None:
        super().__init__()
        self.decoder_tiny = decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Decode."""
        pixels: Tensor = self.decoder_tiny(latents)
        return pixels


def write_graphs(bundle: Bundle, folder: Path) -> Path:
    """Write the graphs of ``bundle`` and weights.json, their weights' names and shapes, to ``folder``, each whole or not at all. Returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {}
    reduced = bundle.folder is not None and (bundle.folder / TINY).is_dir()
    for name in ("text", "unet", "unet_negative", "decoder", "encoder", *("decoder_tiny",) * reduced):
        model = trace(bundle, name)
        shapes[name] = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer if tensor.external_data}
        _write(folder / f"{name}.onnx", model.SerializeToString(deterministic=True))
    _write(folder / INDEX, json.dumps(shapes).encode())
    return folder


def with_weights(model: Any, tensors: Mapping[str, Tensor]) -> Any:
    """``model``, a graph without weights, with those of ``tensors`` as float32 inside it: a file of its own."""
    import onnx

    for initializer in model.graph.initializer:
        if initializer.external_data:
            filled = onnx.numpy_helper.from_array(tensors[initializer.name].detach().float().cpu().numpy(), initializer.name)
            initializer.CopyFrom(filled)
    return model


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def trace(bundle: Bundle, name: str) -> Any:
    """The onnx.ModelProto of one graph, for any batch up to 63, any size and any length of text; weights outside.

    ``name`` is "text", "unet", "unet_negative", "decoder", "encoder" or "decoder_tiny". Needs the packages onnx and onnxscript. Raises
    WeightsError if the bundle's folder has no reduced decoder and its graph is asked for.
    """
    latents, length = int(bundle.unet.config.in_channels), bundle.tokenizer.model_max_length
    tokens = torch.zeros(2, length, dtype=torch.long)
    tokens[:, 1:] = bundle.tokenizer.eos_token_id
    x = torch.zeros(2, latents, 21, 14)  # odd and no multiple of four: a size that is would be taken for granted
    batch, free = torch.export.Dim("batch", min=1, max=MOST_PICTURES), torch.export.Dim.AUTO
    if name == "text":
        inputs = {"tokens": tokens, "tokens_2": tokens.clone()}  # one tensor twice would be traced as one input
        return _export(Text(bundle), inputs, ["prompt_embeds", "pooled"], {key: {0: batch} for key in inputs})
    if name in ("decoder", "decoder_tiny"):
        module: nn.Module = Decoder(bundle) if name == "decoder" else Tiny(load_tiny(bundle.folder or Path()))
        return _export(module, {"latents": x}, ["pixels"], {"latents": {0: batch, 2: free, 3: free}})
    if name == "encoder":
        pixels = torch.zeros(2, 3, *(side * bundle.factor for side in x.shape[2:]))
        return _export(Encoder(bundle), {"pixels": pixels}, ["latents"], {"pixels": {0: batch, 2: free, 3: free}})
    embeds = torch.zeros(2, length, int(bundle.unet.config.cross_attention_dim))
    pooled = torch.zeros(2, int(bundle.text_encoder_2.config.projection_dim))
    inputs = {"sample": x, "timestep": torch.tensor([999, 499]), "prompt_embeds": embeds, "pooled": pooled, "ids": time_ids(2, 64, 64)}
    dynamic: dict[str, Any] = {key: {0: batch} for key in inputs} | {"sample": {0: batch, 2: free, 3: free}, "prompt_embeds": {0: batch, 1: free}}
    if name == "unet":
        return _export(Unet(bundle), inputs, ["output"], dynamic)
    inputs |= {"negative_embeds": torch.zeros(2, length + 1, embeds.shape[-1]), "nag_scale": torch.tensor(2.0)}  # of equal lengths one would be traced
    return _export(Negative(bundle), inputs, ["output"], {**dynamic, "negative_embeds": {0: batch, 1: free}, "nag_scale": {}})


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], dynamic: Any) -> Any:
    module = copy.deepcopy(module)  # its weights' values do not matter, but equal ones would be taken for one
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    with plain(module.eval()), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # captured here, for the exporter's own way fails at what it does to unknown sizes, and falls back to one that takes three times as long
        captured = torch.export.export(module, (), kwargs=inputs, dynamic_shapes=dynamic, strict=False)
        program = torch.onnx.export(captured, kwargs=inputs, dynamo=True, input_names=list(inputs), output_names=outputs, optimize=False, verbose=False)
    return _weightless(program.model_proto, frozenset(name for name, _ in module.named_parameters()))  # type: ignore[union-attr]


@contextmanager
def plain(module: nn.Module) -> Iterator[None]:
    """Inside it, attention is plain products and softmax, which runtimes know how to fuse, and a decoder's upsampling is cheaper."""
    attentive = [part for part in module.children() if hasattr(part, "set_attn_processor")]
    before = [part.attn_processors for part in attentive]
    decoders = [part.decoder for part in attentive if hasattr(part, "decoder")]
    upsamplers = [layer for decoder in decoders for layer in decoder.modules() if isinstance(layer, Upsample2D)]  # type: ignore[union-attr]
    try:
        for part, own in zip(attentive, before, strict=True):
            negatable = any(isinstance(processor, Negatable) for processor in own.values())  # type: ignore[operator]
            part.set_attn_processor(Negatable(AttnProcessor()) if negatable else AttnProcessor())  # type: ignore[operator]
        for layer in upsamplers:
            layer.forward = types.MethodType(upsample, layer)
        yield
    finally:
        for part, processors in zip(attentive, before, strict=True):
            part.set_attn_processor(processors)  # type: ignore[operator]
        for layer in upsamplers:
            del layer.forward


def upsample(layer: Any, x: Tensor, output_size: int | None = None) -> Tensor:
    """Nearest-neighbour upsampling by two and a 3x3 convolution, as four 2x2 convolutions of the small picture: 16 products where there were 36.

    Each pixel of a doubled picture sees two by two pixels of the small one, some of them twice: their weights are added beforehand.
    """
    taps = (torch.tensor([[1.0, 0, 0], [0, 1, 1]]), torch.tensor([[1.0, 1, 0], [0, 0, 1]]))  # for even and odd pixels
    rows = []
    for i in (0, 1):
        columns = []
        for j in (0, 1):
            kernel = torch.einsum("py,oiyx,qx->oipq", taps[i], layer.conv.weight, taps[j])
            columns.append(functional.conv2d(functional.pad(x, (1 - j, j, 1 - i, i)), kernel, layer.conv.bias))
        rows.append(torch.stack(columns, -1).flatten(-2))
    return torch.stack(rows, -2).flatten(2, 3)  # runtimes interleave columns, then rows, in half the time of a pixel shuffle


def _weightless(model: Any, names: frozenset[str]) -> Any:
    """``model`` simplified, with its weights, ``names``, declared as lying elsewhere, and without what only helps to debug the export."""
    import onnx
    from onnxscript.optimizer import optimize

    weights = [tensor for tensor in model.graph.initializer if tensor.name in names]
    others = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(others)
    inputs = [onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights]
    model.graph.input.extend(inputs)  # as inputs they are nothing that an optimizer could fold into new constants
    model = optimize(model)
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for tensor in weights:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="weights"))
    model.graph.initializer.extend(weights)
    for graph in (model, model.graph, *model.functions, *model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        for field in ("doc_string", "metadata_props"):
            if any(own.name == field for own in graph.DESCRIPTOR.fields):
                graph.ClearField(field)
    model.graph.ClearField("value_info")
    return model
