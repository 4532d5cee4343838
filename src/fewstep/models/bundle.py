"""A bundle: everything of an SDXL-style model in one diffusers folder, and beside it the students distilled from it.

model_index.json  tokenizer/  tokenizer_2/  text_encoder/  text_encoder_2/  unet/  vae/  scheduler/
students/*.safetensors     UNets and LoRAs, each with its stamp
words.json                 what the model was taught to draw: subjects and their keywords, colours, places and every word of its captions
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fewstep.models.tokenizer import save_tokenizer
from fewstep.models.weights import FILE, WeightsError, check_fit, find_weights, read_header, read_weights
from fewstep.stamp import Stamp, file_hash

WEIGHTS = FILE
TEXT_WEIGHTS = "model.safetensors"
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "trailing",
    "interpolation_type": "linear",
    "steps_offset": 1,
}


@dataclass
class Bundle:
    """The parts of a model, loaded. ``unet`` is the teacher's until a student takes its place."""

    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    stamp: Stamp
    words: dict[str, list[str]] = field(default_factory=dict)
    folder: Path | None = None
    file: Path | None = None  # that all weights are in, where that is one; the folder then has the rest

    @property
    def device(self) -> torch.device:
        """Where the UNet is, or the text encoders of a bundle without one; everything else is there too."""
        return self.text_encoder.device if self.unet.device.type == "meta" else self.unet.device

    @property
    def factor(self) -> int:
        """Pixels a side of one latent position: 16 for emoji, 8 for SDXL."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def models(self) -> dict[str, Any]:
        """The networks, by the name of their folder."""
        return {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2, "unet": self.unet, "vae": self.vae}

    @property
    def hash(self) -> str:
        """The hash of the UNet's file: what a student's stamp calls its base. Empty for a bundle that was never saved."""
        if self.file:
            return file_hash(self.file)
        return file_hash(find_weights(self.folder / "unet")) if self.folder else ""


def save_bundle(bundle: Bundle, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write the bundle as a diffusers folder that ``StableDiffusionXLPipeline.from_pretrained`` opens as it is.

    Names are those of the released files (``text_model.*``, vocab.json, merges.txt), and the configurations say float32: a folder of
    float16 files otherwise loads as float16 and fails on a CPU.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in bundle.models.items():
        save_network(model, folder / name, dtype, bundle.stamp.to_metadata() if name == "unet" else None)
    save_tokenizer(bundle.tokenizer, folder / "tokenizer")
    save_tokenizer(bundle.tokenizer_2, folder / "tokenizer_2")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=1))
    (folder / "words.json").write_text(json.dumps(bundle.words, indent=1, ensure_ascii=False))
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    bundle.folder = folder


def save_network(model: Any, folder: Path, dtype: torch.dtype = torch.float16, metadata: dict[str, str] | None = None) -> None:
    """Write one network of a model to the ``folder`` of its name: its weights, and its configuration once they are there."""
    text = folder.name.startswith("text_encoder")
    folder.mkdir(parents=True, exist_ok=True)
    own = model.state_dict()
    tensors = {name: own[key].to(dtype).contiguous() for name, key in released_names(model).items()}
    if text:
        config = {**model.config.to_dict(), "dtype": "float32", "architectures": [type(model).__name__]}
    else:
        config = {"_class_name": type(model).__name__, **{key: value for key, value in dict(model.config).items() if not key.startswith("_")}}
    save_weights(tensors, folder / (TEXT_WEIGHTS if text else WEIGHTS), metadata or {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=str))


def released_names(model: Any) -> dict[str, str]:
    """{name of a weight in released files: its name in memory}: a text encoder's have lost their text_model. in transformers."""
    keys = [key for key, value in model.state_dict().items() if value.is_floating_point()]
    if not isinstance(model, CLIPTextModel | CLIPTextModelWithProjection):
        return {key: key for key in keys}
    return {key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": key for key in keys}


def load_bundle(folder: Path, device: Any = "cpu", dtype: torch.dtype = torch.float32, unet: bool = True) -> Bundle:
    """Open a diffusers folder of an SDXL-style model; without the weights of its ``unet``, if that is false, it can encode and no more.

    Raises WeightsError on a folder or a file that cannot be used.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise WeightsError(f"{folder} is no model: it holds no model_index.json; give a diffusers folder, or 'emoji'")

    def fill(name: str, model: nn.Module) -> None:
        if name == "unet" and not unet:
            return
        load_weights(model, find_weights(folder / name, TEXT_WEIGHTS if name.startswith("text_encoder") else WEIGHTS), (device, dtype))

    return assemble(folder, fill, lambda: read_stamp(find_weights(folder / "unet")), device)


def assemble(folder: Path, fill: Callable[[str, nn.Module], None], stamp: Callable[[], Stamp | None], device: Any = "cpu") -> Bundle:
    """The model that the configurations and tokenizers in ``folder`` describe. ``fill`` gives a network, by its folder's name, its weights.

    Raises WeightsError on a folder that cannot be used, and what ``fill`` and ``stamp`` raise of that kind.
    """
    try:
        return _assemble(folder, fill, stamp, device)
    except WeightsError:
        raise
    except Exception as error:  # whatever a broken file makes tokenizers, configurations or allocators say
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(str(folder), "").strip()
        raise WeightsError(f"{folder}: this model cannot be opened ({reason}); fetch it again") from error


def _assemble(folder: Path, fill: Callable[[str, nn.Module], None], stamp: Callable[[], Stamp | None], device: Any) -> Bundle:
    def network(kind: Any, name: str) -> Any:
        config = json.loads((folder / name / "config.json").read_text())
        with init_empty_weights(include_buffers=False):  # or its random weights would lie beside those of the file
            model = kind(kind.config_class(**config)) if hasattr(kind, "config_class") and kind.config_class else kind.from_config(config)
        fill(name, model)
        filled = model if model.device.type == "meta" else model.to(device)
        return filled.eval().requires_grad_(False)

    encoders = network(CLIPTextModel, "text_encoder"), network(CLIPTextModelWithProjection, "text_encoder_2")
    tokenizers = CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        length, most = tokenizer.model_max_length, encoder.config.max_position_embeddings
        if length != tokenizers[0].model_max_length or length > most or max(tokenizer.get_vocab().values()) >= encoder.config.vocab_size:
            raise WeightsError(f"{folder}: its tokenizers and text encoders do not belong together: fetch the model again")
    words = folder / "words.json"
    return Bundle(
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        unet=network(UNet2DConditionModel, "unet"),
        vae=network(AutoencoderKL, "vae"),
        stamp=stamp() or Stamp(kind="teacher", steps=32, guidance_scale=5.0),
        words=json.loads(words.read_text(encoding="utf8")) if words.is_file() else {},
        folder=folder,
    )


def save_weights(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all; the same content gives the same bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb"):  # where this cannot be, it says so in the system's words, which safetensors does not
            mode = temporary.stat().st_mode
        save_file(tensors, temporary, metadata=metadata)
        temporary.chmod(mode)  # safetensors' files are for their owner alone
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with temporary.open("r+b") as file:  # safetensors writes metadata in random order, and a hash names the same weights once
        length = int.from_bytes(file.read(8), "little")
        header = json.dumps(json.loads(file.read(length)), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(header) <= length, "a longer header would overwrite the first tensor"
        file.seek(8)
        file.write(header.ljust(length))
    temporary.replace(path)


def load_weights(model: nn.Module, path: Path, become: tuple[Any, torch.dtype] | None = None) -> None:
    """Load a safetensors file into ``model``; names and shapes must match. Raises WeightsError, naming the first three that do not.

    Where a (device, dtype) to ``become`` is given, the file's tensors, brought there one by one, take the place of the model's.
    """
    tensors = read_weights(path)
    own = model.state_dict()
    if any(key.startswith("text_model.") for key in tensors) and not any(key.startswith("text_model.") for key in own):
        tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    tensors = {key: value for key, value in tensors.items() if not key.endswith("position_ids")}
    optional = frozenset(key for key, value in own.items() if not value.is_floating_point())
    check_fit(path, tensors, {key: tuple(value.shape) for key, value in own.items()}, optional)
    if become is not None:
        device, dtype = become
        tensors = {key: value.to(device, dtype, copy=True) for key, value in tensors.items()}
    model.load_state_dict(tensors, strict=False, assign=become is not None)


def digest_weights(digest: Any, network: nn.Module) -> None:
    """Add a network's weights to a hashlib ``digest``, as float16 files hold them: a file in float32 and its half variant count as the same."""
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.half().cpu().contiguous().numpy().tobytes())


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of a safetensors file, from its header alone. Raises WeightsError if the file or its stamp cannot be read."""
    try:
        return Stamp.from_metadata(read_header(path).metadata)
    except WeightsError:
        raise
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
