"""A look at a run from the same prompts and seeds every time: the student's finished latents beside those of the teacher it learns from."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewstep.distill import dist
from fewstep.distill.latents import Cache, Samples, Text
from fewstep.distill.sharding import in_shares, local
from fewstep.distill.state import Run
from fewstep.distill.targets import grid
from fewstep.distill.teacher import alpha_bar_at
from fewstep.distill.trainer import Phase
from fewstep.distill.watch.film import frame_path, write_frame, write_index
from fewstep.engine.decode import decode
from fewstep.engine.files import write_bytes
from fewstep.models.bundle import Bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import Prompt
from fewstep.sampler import sample
from fewstep.schedule import PredictionType, add_noise, alphas_cumprod, split

PROMPTS, SEEDS = 4, 2  # few, for a look has to cost next to nothing
MOST_STEPS = 32  # of the teacher: of a finer grid every so many-th level is taken, which ends at much the same picture
ELSEWHERE = 2**41  # sample indices that no phase comes to
RENOISED = 100  # purposes of the noise that a walk draws anew, from here on
BANDS = 3  # octaves of the spectrum, from the finest down
WATCHED = 65_536  # weights that movement is measured on


@dataclass(frozen=True)
class Walker:
    """A network and the grid that it is sampled on."""

    unet: Any
    steps: int
    prediction_type: PredictionType = "epsilon"
    guidance_scale: float = 0.0
    fresh: float = 0.0  # share of the noise drawn anew between steps
    asked: Mapping[str, Tensor] = field(default_factory=dict)  # further arguments of the network, [1, ...]: which of its step counts it is asked for


@dataclass
class Probe:
    """Looks at ``student`` beside ``teacher`` in a phase; what the teacher draws is drawn once."""

    bundle: Bundle
    latents: Cache
    text: Text
    student: Walker
    teacher: Walker
    precision: torch.dtype
    _wanted: Tensor | None = field(default=None, repr=False)
    _taught: dict[str, float] = field(default_factory=dict, repr=False)
    _before: tuple[str, Tensor] | None = field(default=None, repr=False)

    def look(self, phase: Phase, run: Run) -> dict[str, float]:
        """The figures of one look, which DIR/samples and the film get four pictures of. Trains nothing and draws on no generator that training uses.

        Every rank measures how far the weights moved, and draws where the student lies in shares; the pictures are rank 0's alone.
        """
        moved = self._moved(phase)
        if dist.rank() and not in_shares(self.student.unet):
            return moved
        samples = self._samples()
        made, strips = self._draw(self.student, samples), {}
        if dist.rank():
            return moved
        if self._wanted is None:
            self._wanted = strips[f"{phase.name.split('/')[0]}-teacher"] = self._draw(self.teacher, samples)
            found = self.misses()
            self._taught = {"teacher_spread": float(self._wanted.std() / samples.latents.std().clamp(min=1e-6))}
            self._taught |= {} if found is None else {"teacher_misses": found}
        strips[phase.name.replace("/", "-")] = made
        folder = run.folder / "samples"
        folder.mkdir(exist_ok=True)
        with run.room(sum(latents.nbytes for latents in strips.values())):
            for name, latents in strips.items():
                pictures = self._pictures(latents)
                self._strip(pictures, folder / f"{name}.jpg")
            write_frame(pictures, frame_path(run.folder, phase.name, run.state.update))  # the last of them are the student's
        return {**moved, **compare(made, self._wanted, SEEDS), **self._taught}

    def opening(self, run: Run, steps: Sequence[int]) -> None:
        """Begin the film: the teacher's pictures, and what the student-to-be makes in each number of ``steps`` before it has learnt anything."""
        if dist.rank() or frame_path(run.folder, "teacher").is_file():
            return
        samples = self._samples()
        with run.room(samples.latents.nbytes):
            write_index(run.folder, samples.captions[::SEEDS], min(self.teacher.steps, MOST_STEPS))
            for count in steps:
                write_frame(self._pictures(self._draw(replace(self.student, steps=count), samples)), frame_path(run.folder, f"start-{count}"))
            write_frame(self._pictures(self._draw(self.teacher, samples)), frame_path(run.folder, "teacher"))

    def _samples(self) -> Samples:
        """The first captions of the largest bucket, each as often as there are seeds."""
        size = max(self.latents.counts, key=lambda key: (self.latents.counts[key], key))
        rows = [row for row in range(PROMPTS) for _ in range(SEEDS)]
        scale, device = float(self.bundle.vae.config.scaling_factor), self.bundle.device
        return self.latents.rows(size, rows, range(ELSEWHERE, ELSEWHERE + len(rows)), scale, device)

    @torch.no_grad()
    def misses(self) -> float | None:
        """What the teacher misses of the noise in the data, as :func:`misses` has it."""
        samples = self._samples()
        with torch.autocast(self.bundle.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16):
            return misses(self.teacher, self.text(samples), samples)

    def _draw(self, walker: Walker, samples: Samples) -> Tensor:
        """Finished latents, float [PROMPTS · SEEDS, C, H, W]."""
        return draw(walker, self.text, samples, self.precision)

    def _pictures(self, latents: Tensor) -> np.ndarray:
        """One picture of each prompt: uint8 [PROMPTS, H, W, 3]."""
        with torch.no_grad():
            return decode(self.bundle.vae, latents[::SEEDS].nan_to_num())

    def _strip(self, pictures: np.ndarray, path: Path) -> None:
        """Pictures side by side, as a JPEG file."""
        stream = io.BytesIO()
        Image.fromarray(np.concatenate(list(pictures), axis=1)).save(stream, "JPEG", quality=88)
        write_bytes(path, stream.getvalue())

    def _moved(self, phase: Phase) -> dict[str, float]:
        """‖w - w'‖ / ‖w‖ since the last look of the same phase, over some of the weights that the student's optimizer moves."""
        now = some_weights(phase)
        before, self._before = self._before, (phase.name, now)
        if before is None or before[0] != phase.name:
            return {}
        return {"moved": float((now - before[1]).norm() / now.norm().clamp(min=1e-12))}


@torch.no_grad()
def draw(walker: Walker, text: Text, samples: Samples, precision: torch.dtype) -> Tensor:
    """Finished latents of the samples' captions, with activations of that ``precision``."""
    with torch.autocast(samples.latents.device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        return finish(walker, text(samples), samples)


def finish(walker: Walker, prompt: Prompt, samples: Samples) -> Tensor:
    """Finished latents from the samples' own noise (purpose 6), float like the latents."""
    steps = min(walker.steps, MOST_STEPS)
    levels = grid(steps)
    times = [(levels[k], levels[k - 1]) for k in range(steps, 0, -1)]
    asked = {name: value.expand(len(samples.indices), *value.shape[1:]) for name, value in walker.asked.items()}
    denoise = denoiser(walker.unet, prompt, samples.time_ids, walker.guidance_scale, added=lambda x, t, _: asked)
    scale = float((1 - alphas_cumprod()[levels[-1]]) ** 0.5)
    frames = sample(
        lambda x, t: denoise(x, t).float(),
        samples.noise(6),
        times,
        prediction_type=walker.prediction_type,
        start_scale=scale,
        fresh=walker.fresh,
        renoise=lambda step: samples.noise(RENOISED + step),
    )
    return list(frames)[-1].latents


def misses(walker: Walker, prompt: Prompt, samples: Samples) -> float | None:
    """What the network misses of the noise in the samples' own noised latents, as a share of what the best linear guess misses; None on a
    grid without a level between clean and T.

    For latents of variance v that guess is ε̂ = √(1-ᾱ)·x / (ᾱv + 1-ᾱ), its mean squared error ᾱv / (ᾱv + 1-ᾱ). A network that was trained on
    these latents, this schedule and this prediction type is far under 1 at every level of its own grid; one that was not is over it at some.
    """
    levels = grid(walker.steps)[1:-1]
    if not levels:
        return None
    chosen = sorted({levels[round(share * (len(levels) - 1))] for share in (0.25, 0.5, 0.75, 1.0)})
    denoise, noise, variance = denoiser(walker.unet, prompt, samples.time_ids), samples.noise(7), samples.latents.var()
    shares = []
    for level in chosen:
        t = torch.full((len(noise),), level, device=noise.device)
        abar = alpha_bar_at(t, noise)
        x = add_noise(samples.latents, noise, abar)
        _, epsilon = split(x, denoise(x, t).float(), abar, walker.prediction_type)
        linear = abar.mean() * variance / (abar.mean() * variance + 1 - abar.mean())
        shares.append((epsilon - noise).square().mean() / linear)
    return float(torch.stack(shares).mean())


def compare(made: Tensor, wanted: Tensor, seeds: int) -> dict[str, float]:
    """The student's finished latents [P · S, C, H, W] against the teacher's of the same prompts and noise, each prompt's ``seeds`` in a row.

    ``endpoint`` is the rms distance between the two over the teacher's deviation, ``spread`` the ratio of their deviations, ``shift`` of their means
    over the deviation, ``diversity`` the ratio of the rms distances between seeds of a prompt, ``band1`` the ratio of the power in the finest
    octave of the spectrum, and so on.
    """
    deviation = wanted.std().clamp(min=1e-6)
    powers = zip(spectrum(made), spectrum(wanted), strict=True)
    figures = {
        "endpoint": (made - wanted).square().mean().sqrt() / deviation,
        "spread": made.std() / deviation,
        "shift": (made.mean() - wanted.mean()) / deviation,
        "diversity": apart(made, seeds) / apart(wanted, seeds).clamp(min=1e-6),
        **{f"band{band}": ours / theirs.clamp(min=1e-12) for band, (ours, theirs) in enumerate(powers, start=1)},
    }
    return {name: float(value) for name, value in figures.items()}


def apart(latents: Tensor, seeds: int) -> Tensor:
    """The rms distance between two seeds of the same prompt, over all pairs, for latents [P · S, C, H, W]."""
    grouped = latents.reshape(-1, seeds, latents[0].numel())
    pairs = (grouped[:, :, None] - grouped[:, None]).square().mean(-1)
    return (pairs.sum() / (len(grouped) * seeds * (seeds - 1))).sqrt()


def spectrum(latents: Tensor, bands: int = BANDS) -> list[Tensor]:
    """Mean power in octaves of spatial frequency, the finest first and all that is coarser in the last, constants left out: they sum to
    what the latents [B, C, H, W] have in variance over space.
    """
    power = torch.fft.fft2(latents.float(), norm="ortho").abs().square().mean((0, 1)) / latents[0, 0].numel()
    rows, columns = (torch.fft.fftfreq(side, device=latents.device).abs() for side in latents.shape[-2:])
    radius = torch.maximum(rows[:, None], columns[None])  # 0.5: changes with every position
    edges = [0.5 / 2**band for band in range(bands)]
    found = [power[(radius <= edge) & (radius > edge / 2)].sum() for edge in edges[:-1]]
    return [*found, power[(radius <= edges[-1]) & (radius > 0)].sum()]


def some_weights(phase: Phase) -> Tensor:
    """Up to WATCHED of the numbers that the student's optimizer moves, spread over all its tensors: float [N]."""
    parameters = [p for group in phase.optimizers["student"].param_groups for p in group["params"]]
    return torch.cat(list(_strided(parameters)))


def _strided(parameters: list[torch.nn.Parameter]) -> Iterator[Tensor]:
    stride = max(sum(p.numel() for p in parameters) // WATCHED, 1)
    for parameter in parameters:
        yield local(parameter.detach()).flatten()[::stride].float().clone()
