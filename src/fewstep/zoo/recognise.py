"""What a .safetensors file is, from its header alone: which part of which model, in whose names, and how it is sampled. Loads no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final, Literal

from fewstep.models.adapters import FACTOR, WIDTHS
from fewstep.models.adapters import OTHERS as OTHER_ADAPTERS
from fewstep.models.header import Header
from fewstep.models.keys import PREFIXES, UNET, V_PREDICTION, VAE, ZERO_SNR
from fewstep.models.weights import TINY_KEY, WeightsError, read_header
from fewstep.schedule import PredictionType
from fewstep.stamp import Stamp
from fewstep.zoo.known import KNOWN, Known, euler
from fewstep.zoo.registry import ModelError, by_name

Kind = Literal["checkpoint", "UNet", "VAE", "text encoder", "LoRA", "adapter", "ControlNet", "IP-Adapter", "embedding", "reduced decoder", "unknown"]
Names = Literal["the original layout", "diffusers' names", "kohya's names", "kohya's names by blocks", "peft's names", ""]
ORIGINAL: Final = "the original layout"
DIFFUSERS: Final = "diffusers' names"
MARKS: tuple[tuple[str, Kind, Names], ...] = (  # how names begin that only such a file has; the first that is there decides
    ("controlnet_cond_embedding.", "ControlNet", DIFFUSERS),
    ("control_model.", "ControlNet", ORIGINAL),
    ("input_hint_block.", "ControlNet", ORIGINAL),
    ("image_proj.", "IP-Adapter", ""),
    ("ip_adapter.", "IP-Adapter", ""),
    ("emb_params", "embedding", ""),
    ("clip_g", "embedding", ""),
    (PREFIXES[UNET], "UNet", ORIGINAL),
    ("input_blocks.", "UNet", ORIGINAL),
    ("down_blocks.", "UNet", DIFFUSERS),
    (PREFIXES[VAE], "VAE", ORIGINAL),
    ("decoder.up.", "VAE", ORIGINAL),
    ("decoder.up_blocks.", "VAE", DIFFUSERS),
    ("conditioner.", "text encoder", ORIGINAL),
    ("cond_stage_model.", "text encoder", ORIGINAL),
    ("transformer.resblocks.", "text encoder", ORIGINAL),
    ("text_model.", "text encoder", DIFFUSERS),
)
BESIDE = (PREFIXES[VAE], "conditioner.", "cond_stage_model.")  # with a UNet before them, these make a checkpoint
FOREIGN = {"double_blocks.": "Flux", "joint_blocks.": "Stable Diffusion 3", "transformer_blocks.": "a diffusion transformer"}  # no UNets at all
CROSS = re.compile(r"attn2[._]to_k[._]")  # reads the text: its width tells the models apart
BY_BLOCKS = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_")
SPEC = "modelspec."
PREDICTIONS: dict[str, PredictionType] = {"epsilon": "epsilon", "v": "v_prediction"}  # modelspec's words
LIGHTNING_FILE = re.compile(r"sdxl_lightning_(\d)step(_x0)?")  # names of published checkpoints that do not say how they are sampled
TURBO_FILE = "sd_xl_turbo"
LORA_BASES = {"sdxl": "SDXL", "sd_v1": "Stable Diffusion 1.5", "sd_v2": "Stable Diffusion 2"}  # how kohya's ss_base_model_version begins


@dataclass(frozen=True)
class Recognised:
    """What a file is, as far as its header says."""

    kind: Kind
    names: Names  # in whose names its tensors are
    model: str  # "SDXL", "Stable Diffusion 1.5" …; empty where nothing tells
    width: int  # of the text that its cross-attention reads: 2048 for SDXL; 0 where it has none
    family: str  # the known model that it belongs to; empty where nothing tells
    rows: tuple[Stamp, ...]  # how it is sampled, one for each step count; none where nothing tells
    said_by: Literal["stamp", "name", ""]  # what tells the rows
    prediction_type: PredictionType | None  # of what its UNet predicts, where that is said
    zero_snr: bool  # whether it says that its noise schedule ends in noise alone, unlike SDXL's
    dtype: str  # of most of its numbers, as the format has it: "F16"
    gigabytes: float

    @property
    def whole(self) -> bool:
        """Whether it is a whole model in SDXL's layout, at any size."""
        return self.kind == "checkpoint" and self.model in ("SDXL", "")

    def sentence(self) -> str:
        """All of it, for people."""
        what = {"unknown": "nothing that is known"}.get(self.kind, f"{'an' if self.kind[0] in 'aeI' else 'a'} {self.kind}")
        of = f" of {self.model}" * bool(self.model)
        names = f" in {self.names}" * bool(self.names)
        family = f", {self.family}" * bool(self.family)
        steps = ", ".join(str(row.steps) for row in self.rows if row.kind != "teacher")
        trained = f", for {steps} step{'s' * (steps != '1')}" * bool(steps)
        predicts = {"sample": ", predicts the picture", "v_prediction": ", predicts the velocity"}.get(self.prediction_type or "", "")
        size = f"{self.gigabytes:.2f} GB" if self.gigabytes >= 0.1 else f"{1000 * self.gigabytes:.1f} MB"
        return f"{what}{of}{names}{family}{trained}{predicts}; {self.dtype}, {size}"


def recognise(path: Path) -> Recognised:
    """What the file ``path`` is. Reads its header and nothing else, however large it is.

    Raises ModelError on a file that is no whole safetensors file, or whose stamp cannot be read.
    """
    try:
        header = read_header(path)
        stamp = Stamp.from_metadata(header.metadata)
    except WeightsError as error:
        raise ModelError(str(error)) from None
    except ValueError as error:
        raise ModelError(f"{path}: {error}; fetch it again") from None
    kind, names = _kind(header)
    width = _width(header.shapes)
    known, rows = (None, (stamp,)) if stamp else _by_name(path, kind)
    prediction = rows[0].prediction_type if rows else _prediction(header)
    sizes: Counter[str] = Counter()
    for stored in header.tensors.values():
        sizes[stored.dtype] += stored.end - stored.start
    return Recognised(
        kind=kind,
        names=names,
        model=_model(header, width, kind),
        width=width,
        family=known.name if known else "",
        rows=rows,
        said_by="stamp" if stamp else "name" if rows else "",
        prediction_type=prediction,
        zero_snr=ZERO_SNR in header.tensors,
        dtype=max(sizes, key=lambda dtype: sizes[dtype]) if sizes else "",
        gigabytes=sizes.total() / 1e9,
    )


def _kind(header: Header) -> tuple[Kind, Names]:
    names = list(header.tensors)
    if TINY_KEY in header.metadata:
        return "reduced decoder", ""
    if any(mark in name for name in names for mark in OTHER_ADAPTERS):
        return "adapter", ""
    if any(FACTOR.fullmatch(name) for name in names):
        return "LoRA", _lora_names(names)
    for mark, kind, layout in MARKS:
        if any(name.startswith(mark) for name in names):
            whole = mark == PREFIXES[UNET] and any(name.startswith(BESIDE) for name in names)
            return ("checkpoint", ORIGINAL) if whole else (kind, layout)
    return "unknown", ""


def _lora_names(names: list[str]) -> Names:
    if any(BY_BLOCKS.match(name) for name in names):
        return "kohya's names by blocks"
    if any(name.startswith("lora_") for name in names):
        return "kohya's names"
    return "peft's names" if any(name.startswith("base_model.model.") for name in names) else DIFFUSERS


def _width(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of the text that is read: the columns of a weight, or of a LoRA's A."""
    for name, shape in shapes.items():
        if CROSS.search(name) and len(shape) > 1:
            match = FACTOR.fullmatch(name)
            if (name.endswith("to_k.weight") and not match) or (match and match["side"] in ("down", "A")):
                return prod(shape[1:])
    return 0


def _model(header: Header, width: int, kind: Kind) -> str:
    """Whose weights these are: by the text that they read, by the text encoders that come with them, or by what the file says."""
    foreign = next((model for mark, model in FOREIGN.items() for name in header.tensors if name.removeprefix(PREFIXES[UNET]).startswith(mark)), "")
    if foreign or width in WIDTHS:
        return foreign or WIDTHS[width]
    if kind == "checkpoint" and any(name.startswith("cond_stage_model.") for name in header.tensors):
        return "Stable Diffusion"  # 1 or 2, at dimensions of its own
    base = header.metadata.get("ss_base_model_version", "")
    said = next((model for begins, model in LORA_BASES.items() if base.startswith(begins)), "")
    spec = "SDXL" if header.metadata.get(f"{SPEC}architecture", "").startswith("stable-diffusion-xl-v1-base") else ""
    return (said or spec or "SDXL" * any(name.startswith("lora_te2_") for name in header.tensors)) if not width else ""


def _by_name(path: Path, kind: Kind) -> tuple[Known | None, tuple[Stamp, ...]]:
    """(known model, how it is sampled) of a published file, by its name, wherever it lies; the name must go with what is in it."""
    if kind == "checkpoint":
        if named := LIGHTNING_FILE.fullmatch(path.stem):
            return KNOWN["sdxl-lightning"], (euler(int(named[1]), prediction_type="sample" if named[2] else "epsilon"),)
        if path.stem.startswith(TURBO_FILE):
            return KNOWN["sdxl-turbo"], tuple((KNOWN["sdxl-turbo"].rows or {}).values())
        return None, ()
    found = by_name(path)
    if found is None or found.row.kind != {"LoRA": "lora", "UNet": "unet"}.get(kind):
        return None, ()
    return next(known for known in KNOWN.values() if found in known.weights), (found.row,)


def _prediction(header: Header) -> PredictionType | None:
    """What the UNet predicts, as modelspec or a mark for ComfyUI says; None where neither does."""
    if V_PREDICTION in header.tensors:
        return "v_prediction"
    return PREDICTIONS.get(header.metadata.get(f"{SPEC}prediction_type", ""))
