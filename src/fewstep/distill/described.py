"""What a recipe is about, before it starts: which kind it is, and the dimensions of the model it begins with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewstep.distill.compact import CompactPlan
from fewstep.distill.decoder import DecoderPlan
from fewstep.distill.edges import EdgesPlan
from fewstep.distill.judge import JudgePlan
from fewstep.distill.plan import DistillPlan
from fewstep.distill.pretrain import TeacherPlan
from fewstep.distill.recipe import RecipeError, read_recipe, trained_by
from fewstep.models.dimensions import CONFIGS
from fewstep.models.miniature import Shape, build_autoencoder, build_unet
from fewstep.models.weights import WeightsError, find_weights, read_header
from fewstep.zoo.known import BASE, KNOWN
from fewstep.zoo.registry import NETWORKS, ModelError, find, peek

AnyPlan = DistillPlan | TeacherPlan | CompactPlan | DecoderPlan | EdgesPlan | JudgePlan
PLANS: dict[str, type[AnyPlan]] = {
    "teacher": TeacherPlan,
    "judge": JudgePlan,
    "controlnet": EdgesPlan,
    "students": DistillPlan,
    "autoencoder": CompactPlan,
    "decoder": DecoderPlan,
}
ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Described:
    """A model's dimensions, without its weights."""

    configs: Mapping[str, Any]  # of "unet" and "vae"
    sizes: Mapping[str, int]  # of the text encoders, bytes in float32
    note: str = ""  # what is missing to begin

    @property
    def latent_bytes(self) -> int:
        """Of one cached picture."""
        return 2 * int(self.configs["unet"]["in_channels"]) * int(self.configs["unet"]["sample_size"]) ** 2


def read_any(path: Path, settings: Sequence[str] = ()) -> AnyPlan:
    """The recipe at ``path``, of whichever kind it is. Raises RecipeError."""
    plan: AnyPlan = read_recipe(path, PLANS[trained_by(path)], settings)
    return plan


def model_of(plan: AnyPlan) -> str:
    """The model or recipe that a plan begins with; empty where it begins from nothing."""
    if isinstance(plan, DistillPlan):
        return plan.teacher
    if isinstance(plan, TeacherPlan):
        return plan.start
    return "" if isinstance(plan, JudgePlan) else plan.model


def describe(name: str) -> Described:
    """The dimensions of the model that ``name`` means. Known SDXL need not be on this disk.

    Raises RecipeError on a file or a teacher that predicts anything but ε, and ModelError if there is no such model.
    """
    try:
        folder = find(name)
    except ModelError as error:
        if name not in (BASE, KNOWN[BASE].repo):
            raise
        return Described(CONFIGS, {"text_encoder": 4 * 123_060_480, "text_encoder_2": 4 * 694_659_840}, str(error))
    check_teacher(name, folder)
    try:
        configs = {part: json.loads((folder / part / "config.json").read_text(encoding="utf8")) for part in ("unet", "vae")}
    except (OSError, ValueError) as error:
        raise RecipeError(f"{name}: its configurations cannot be read ({error}): fetch the model again") from None
    headers = {part: read_header(find_weights(folder / part, NETWORKS[part])) for part in ENCODERS}
    return Described(configs, {part: 4 * sum(math.prod(shape) for shape in header.shapes.values()) for part, header in headers.items()})


def described_shape(shape: Shape) -> Described:
    """The dimensions of a miniature that is yet to be trained."""
    with torch.device("meta"):
        unet, vae = build_unet(shape), build_autoencoder(shape)
    pairs = zip(ENCODERS, shape.text_hidden, shape.text_layers, strict=True)
    return Described(
        {"unet": dict(unet.config), "vae": dict(vae.config)},
        {part: 4 * (width * (shape.vocabulary + shape.text_length) + layers * width * (12 * width + 13)) for part, width, layers in pairs},
    )


def check_teacher(name: str, folder: Path) -> None:
    """Raises RecipeError unless the model in ``folder`` is a diffusers folder whose UNet predicts ε, as every step of a distillation takes it."""
    if not folder.is_dir():
        raise RecipeError(f"teacher = {name!r} is one file, and a run begins with a diffusers folder: give the folder of its model")
    try:
        stamp = peek(find_weights(folder / "unet", NETWORKS["unet"])) if find_weights(folder / "unet", NETWORKS["unet"]).is_file() else None
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf8"))
    except (OSError, ValueError, WeightsError):
        return  # loading it says what is wrong with its files
    predicts = stamp.prediction_type if stamp else scheduler.get("prediction_type", "epsilon")
    if predicts != "epsilon":
        raise RecipeError(f"teacher = {name!r} predicts {predicts!r}, and stages are taught by a teacher that predicts 'epsilon': give such a model")
