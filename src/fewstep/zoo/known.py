"""The models that are known by one word: whose they are, their files by step count, and how each is sampled. Data, and nothing loaded.

Files, grids and settings are those of the models' cards on the Hub; sizes are in GB, as listed there. ``fewstep models`` shows this table,
docs/models.md is made from it, and tests/parity holds every row to the scheduler of diffusers that its card names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fewstep.schedule import PredictionType, ancestral_shares, consistency_timesteps, trailing_timesteps, trajectory_shares
from fewstep.stamp import Stamp

BASE = "sdxl"  # the known model that the others' files apply to
LCM_SCALING = 10.0  # timestep_scaling of diffusers' LCMScheduler
Kind = Literal["unet", "lora"]


def euler(steps: int, kind: Kind = "unet", prediction_type: PredictionType = "epsilon") -> Stamp:
    """EulerDiscreteScheduler, trailing: the deterministic flow."""
    return Stamp(kind, steps, prediction_type)


def ancestral(steps: int) -> Stamp:
    """EulerAncestralDiscreteScheduler, trailing."""
    return Stamp("unet", steps, fresh=ancestral_shares(trailing_timesteps(steps)))


def ddim(steps: int, kind: Kind = "lora") -> Stamp:
    """DDIMScheduler, trailing, with SDXL's ``set_alpha_to_one = false``: the flow, begun with unit noise and ended at the lowest noise level."""
    return Stamp(kind, steps, start_scale=1.0, end=0)


def lcm(timesteps: list[int], kind: Kind = "lora") -> Stamp:
    """LCMScheduler: all noise is drawn anew between evaluations."""
    return Stamp(kind, len(timesteps), timesteps=tuple(timesteps), start_scale=1.0, fresh=1.0, boundary=LCM_SCALING)


def tcd(steps: int, eta: float) -> Stamp:
    """TCDScheduler: most of the noise is drawn anew."""
    timesteps = consistency_timesteps(steps)
    return Stamp("lora", steps, timesteps=tuple(timesteps), start_scale=1.0, fresh=trajectory_shares(timesteps, eta), end=0)


@dataclass(frozen=True)
class Weights:
    """One published file, and how it is sampled."""

    file: str
    gigabytes: float
    row: Stamp


@dataclass(frozen=True)
class Known:
    """A model known by one word."""

    name: str
    about: str
    licence: str
    repo: str = ""  # on the Hub; none: it ships inside the package
    gigabytes: float = 0.0  # of a whole model in diffusers' layout
    rows: Mapping[int, Stamp] | None = None  # of a whole model that is a student itself
    weights: tuple[Weights, ...] = ()  # that apply to the base; of two for one step count the first is what --steps takes
    default_steps: int = 4
    native: int = 1024  # pixels a side

    @property
    def base(self) -> str:
        """The known model that its weights apply to; empty for a whole model."""
        return BASE if self.weights else ""

    @property
    def steps(self) -> tuple[int, ...]:
        """The step counts of its few-step weights, ascending."""
        return tuple(sorted({one.row.steps for one in self.weights} | set(self.rows or {})))

    def choose(self, steps: int, kind: Kind | None = None) -> Weights | None:
        """The file for ``steps`` steps, of one ``kind`` if it is given; None where there is none."""
        return next((one for one in self.weights if one.row.steps == steps and kind in (None, one.row.kind)), None)


LIGHTNING = "ByteDance/SDXL-Lightning"
HYPER = "ByteDance/Hyper-SD"
DMD2 = "tianweiy/DMD2"
KNOWN = {
    one.name: one
    for one in (
        Known("emoji", "256-pixel scenes of emoji; ships inside the package, trained and distilled by this project", "Apache-2.0", native=256),
        Known(
            BASE,
            "Stable Diffusion XL itself: the teacher, 50 steps with guidance, to compare with",
            "OpenRAIL++-M",
            "stabilityai/stable-diffusion-xl-base-1.0",
            gigabytes=6.94,
            default_steps=50,
        ),
        Known(
            "sdxl-lightning",
            "SDXL-Lightning: whole UNets",
            "OpenRAIL++-M",
            LIGHTNING,
            weights=(
                Weights("sdxl_lightning_1step_unet_x0.safetensors", 5.14, euler(1, prediction_type="sample")),
                *(Weights(f"sdxl_lightning_{steps}step_unet.safetensors", 5.14, euler(steps)) for steps in (2, 4, 8)),
            ),
        ),
        Known(
            "sdxl-lightning-lora",
            "SDXL-Lightning as LoRAs, for fine-tunes of SDXL",
            "OpenRAIL++-M",
            LIGHTNING,
            weights=tuple(Weights(f"sdxl_lightning_{steps}step_lora.safetensors", 0.39, euler(steps, "lora")) for steps in (2, 4, 8)),
        ),
        Known(
            "sdxl-turbo",
            "SDXL-Turbo: 512 pixels, a whole model",
            "Stability AI non-commercial (see its card)",
            "stabilityai/sdxl-turbo",
            gigabytes=6.94,
            rows={steps: ancestral(steps) for steps in (1, 2, 3, 4)},
            default_steps=1,
            native=512,
        ),
        Known(
            "hyper-sd",
            "Hyper-SD: a UNet that starts at 800 for 1 step, LoRAs for the others and for fine-tunes",
            "OpenRAIL++-M",
            HYPER,
            weights=(
                Weights("Hyper-SDXL-1step-Unet.safetensors", 10.3, lcm([800], "unet")),
                Weights("Hyper-SDXL-1step-lora.safetensors", 0.79, tcd(1, eta=1.0)),
                *(Weights(f"Hyper-SDXL-{steps}steps-lora.safetensors", 0.79, ddim(steps)) for steps in (2, 4, 8)),
            ),
        ),
        Known(
            "dmd2",
            "DMD2: a UNet and a LoRA for 4 steps, a UNet that starts at 399 for 1",
            "CC BY-NC 4.0 (not for commercial use)",
            DMD2,
            weights=(
                Weights("dmd2_sdxl_1step_unet_fp16.bin", 5.14, lcm([399], "unet")),
                Weights("dmd2_sdxl_4step_unet_fp16.safetensors", 5.14, lcm(trailing_timesteps(4), "unet")),
                Weights("dmd2_sdxl_4step_lora_fp16.safetensors", 0.39, lcm(trailing_timesteps(4))),
            ),
        ),
        Known(
            "lcm-lora",
            "LCM-LoRA: one file for 2 to 8 steps, for fine-tunes too",
            "OpenRAIL++-M",
            "latent-consistency/lcm-lora-sdxl",
            weights=tuple(Weights("pytorch_lora_weights.safetensors", 0.39, lcm(consistency_timesteps(steps))) for steps in range(2, 9)),
        ),
    )
}
