"""How other tools make a picture with a student: the sampler and the settings that each of them knows its walk by."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep.schedule import trailing_timesteps
from fewstep.stamp import Stamp

NEAR = 20  # timesteps: consistency models' own grids are so near to evenly spaced ones


@dataclass(frozen=True)
class Sampler:
    """A walk by the names that tools have for it."""

    scheduler: str  # diffusers' class
    comfy: str  # KSampler's sampler_name; empty where it has none
    forge: str  # A1111's and Forge's sampling method


SAMPLERS = {
    "Euler": Sampler("EulerDiscreteScheduler", "euler", "Euler"),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler", "euler_ancestral", "Euler a"),
    "DDIM": Sampler("DDIMScheduler", "ddim", "DDIM"),
    "LCM": Sampler("LCMScheduler", "lcm", "LCM"),
    "TCD": Sampler("TCDScheduler", "", "TCD"),
}


def settings(stamp: Stamp) -> str:
    """diffusers' scheduler and its settings, as arguments of Python."""
    spacing = "" if stamp.sampler in ("LCM", "TCD") else f'timestep_spacing="{stamp.spacing}", '
    return f'{spacing}prediction_type="{stamp.prediction_type}"'


def arguments(stamp: Stamp) -> str:
    """What a pipeline of diffusers is called with besides the prompt: timesteps are named where the scheduler would choose others."""
    steps = f"timesteps={list(stamp.timesteps)}" if stamp.sampler == "LCM" else f"num_inference_steps={stamp.steps}"
    return f"{steps}, guidance_scale={stamp.guidance_scale:g}" + ", eta=1.0" * (stamp.sampler == "TCD" and stamp.steps == 1)


def comfy(stamp: Stamp) -> str:
    """KSampler's settings, or why there are none."""
    own = SAMPLERS[stamp.sampler]
    if not own.comfy or not usual(stamp):
        return f"KSampler {odd(stamp)}: use it with diffusers or fewstep"
    schedule = "sgm_uniform" if stamp.spacing == "trailing" else "normal"
    said = f"KSampler: steps {stamp.steps}, cfg {max(stamp.guidance_scale, 1.0):g}, sampler_name {own.comfy}, scheduler {schedule}, denoise 1"
    predicts = {"sample": ("x0", "the picture"), "v_prediction": ("v_prediction", "the velocity")}.get(stamp.prediction_type)
    return said + (f"; before it ModelSamplingDiscrete with sampling {predicts[0]}, for it predicts {predicts[1]}" if predicts else "")


def forge(stamp: Stamp) -> str:
    """A1111's and Forge's settings, or why there are none."""
    if stamp.prediction_type == "sample":
        return "It predicts the picture itself, which they cannot sample: take more steps there"
    if not usual(stamp):
        return f"Their schedules {odd(stamp)}: use it with diffusers or fewstep"
    schedule = "SGM Uniform" if stamp.spacing == "trailing" else "Automatic"
    guidance = f"{max(stamp.guidance_scale, 1.0):g}"
    return f"Sampling method {SAMPLERS[stamp.sampler].forge}, Schedule type {schedule}, Sampling steps {stamp.steps}, CFG scale {guidance}"


def usual(stamp: Stamp) -> bool:
    """Whether it is evaluated where evenly spaced schedules are, or a teacher, which takes any."""
    even = trailing_timesteps(stamp.steps)
    return stamp.spacing == "leading" or all(abs(own - other) <= NEAR for own, other in zip(stamp.timesteps, even, strict=True))


def odd(stamp: Stamp) -> str:
    """What such a tool cannot do, as the end of a sentence."""
    return f"cannot begin at timestep {stamp.timesteps[0]}, where this network does" if not usual(stamp) else f"has no sampler for {stamp.sampler}"
