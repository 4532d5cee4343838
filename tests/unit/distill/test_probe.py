"""What a look finds out about a teacher: closed forms for Gaussian data, and a wrong schedule that is seen at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fewstep.data.emoji import World
from fewstep.distill.latents import Samples
from fewstep.distill.watch.health import misses_light
from fewstep.distill.watch.probe import Walker, finish, misses
from fewstep.distill.world import DataRecipe, open_world
from fewstep.models.bundle import load_bundle
from fewstep.models.prompt import Prompt, encode, time_ids
from fewstep.schedule import add_noise, alphas_cumprod
from fewstep.zoo.registry import find

PROMPT = Prompt(torch.zeros(64, 1, 1), torch.zeros(64, 1))


def gaussian(count: int = 64) -> Samples:
    """Latents that are unit noise: the data of which everything is known."""
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return Samples(latents, [""] * count, time_ids(count, 64, 64), list(range(count)), seed=3)


class Linear:
    """The best ε-prediction for unit Gaussian data, E[ε | x_t] = √(1-ᾱ_t)·x_t."""

    def __call__(self, x: torch.Tensor, t: Any, **_: Any) -> tuple[torch.Tensor]:
        return ((1 - torch.tensor(alphas_cumprod())[t].to(x)).sqrt().reshape(-1, 1, 1, 1) * x,)


def test_on_gaussian_data_nothing_misses_less_than_the_linear_guess() -> None:
    """The closed form: the best network there is misses exactly what the guess misses."""
    assert misses(Walker(Linear(), 32), PROMPT, gaussian()) == pytest.approx(1.0, rel=0.03)


def test_the_prediction_type_is_the_walkers() -> None:
    """The same network read as x0 instead of ε is worse than the guess."""
    found = misses(Walker(Linear(), 32, "sample"), PROMPT, gaussian())
    assert found is not None
    assert found > 1.1


def test_a_grid_of_one_step_has_no_level_to_look_at() -> None:
    assert misses(Walker(Linear(), 1), PROMPT, gaussian()) is None


def test_many_steps_end_at_the_data() -> None:
    """Equation 5 followed finely by the exact ε carries noise to the data's deviation; a coarse walk falls short by Π cos Δθ, θ = arccos √ᾱ."""
    samples = gaussian()
    for steps in (4, 32):
        t = [round(k * 1000 / steps) - 1 for k in range(1, steps + 1)]
        angles = np.append(0.0, np.arccos(alphas_cumprod()[t] ** 0.5))
        wanted = float(np.prod(np.cos(np.diff(angles))))
        made = finish(Walker(Linear(), steps), PROMPT, samples)
        start = (1 - alphas_cumprod()[999]) ** 0.5 * samples.noise(6)
        assert float(made.std() / start.std()) == pytest.approx(wanted, rel=1e-4)


@pytest.fixture(scope="module")
def known() -> tuple[Any, Samples, Prompt]:
    """The embedded teacher with scenes of its own kind: plain shapes on flat backgrounds."""
    bundle = load_bundle(find("emoji"))
    world: World = open_world(DataRecipe(source="shapes", subjects=6))
    scenes = [world.scene(world.rng(index)) for index in range(4)]
    pictures = np.stack([world.render(scene, 256, 256) for scene in scenes])
    captions = [world.caption(scene, world.rng(index)) for index, scene in enumerate(scenes)]
    with torch.no_grad():
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = bundle.vae.encode(x).latent_dist.mean * bundle.vae.config.scaling_factor
        prompt = encode(bundle, captions)
    return bundle.unet, Samples(latents, captions, time_ids(4, 256, 256), [0, 1, 2, 3], seed=0), prompt


@torch.no_grad()
def test_a_wrong_schedule_is_seen_at_the_first_look(known: tuple[Any, Samples, Prompt], monkeypatch: pytest.MonkeyPatch) -> None:
    """A real teacher fits its data under its own schedule, and is worse than a straight line under DDPM's linear one: red before any update."""
    unet, samples, prompt = known
    right = misses(Walker(unet, 32), prompt, samples)
    assert right is not None
    assert misses_light(right).colour == "green"
    linear = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    monkeypatch.setattr("fewstep.distill.teacher.alphas_cumprod", lambda: linear)
    wrong = misses(Walker(unet, 32), prompt, samples)
    assert wrong is not None
    assert misses_light(wrong).colour == "red"
    assert wrong > 5 * right


def test_noise_is_added_as_training_adds_it() -> None:
    """What :func:`misses` puts before the network is x_t of equation 1."""
    samples, seen = gaussian(2), []

    class Watched(Linear):
        def __call__(self, x: torch.Tensor, t: Any, **keywords: Any) -> tuple[torch.Tensor]:
            seen.append((x, int(t[0])))
            return super().__call__(x, t, **keywords)

    misses(Walker(Watched(), 8), Prompt(torch.zeros(2, 1, 1), torch.zeros(2, 1)), samples)
    for x, t in seen:
        assert torch.allclose(x, add_noise(samples.latents, samples.noise(7), float(alphas_cumprod()[t])), atol=1e-5)
    assert len({t for _, t in seen}) == 4
