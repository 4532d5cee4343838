"""A ControlNet for edges: what is cached are the scenes' own edges, and a run leaves one that the engine opens and that only its own weights made."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import tiny_bundle

from fewstep.data.emoji import Dials, World
from fewstep.data.subjects import choose, read_subjects
from fewstep.distill.edges import Edges, EdgesRecipe, edges_phase, train_edges
from fewstep.distill.latents import Latents
from fewstep.engine.control import OWN, Control
from fewstep.engine.engine import Engine
from fewstep.engine.hints import edges
from fewstep.engine.request import Request
from fewstep.models.bundle import load_bundle
from fewstep.models.controlnet import build_controlnet

pytest.importorskip("skimage")
WIDTHS = (4, 4, 8, 8, 8)
RECIPE = """
trains = "controlnet"
model = "{model}"
precision = "float32"
[data]
subjects = 6
pictures = 24
[edges]
updates = 3
batch_size = 4
learning_rate = 1e-2
embedding = [4, 4, 8, 8, 8]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model") / "tiny", students=())


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "edges.toml").write_text(RECIPE.format(model=model))
    assert train_edges(folder / "edges.toml", folder / "run") == folder / "run" / OWN
    return folder / "run"


def test_a_run_leaves_a_controlnet_that_the_engine_follows(model: Path, run: Path) -> None:
    shutil.copytree(run / OWN, model / OWN, dirs_exist_ok=True)
    engine, image = Engine.load(str(model), 16, backend="eager"), Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 50)
    plain, followed = (engine.generate(Request("a pizza", 3, 16, 64, 64, control=control)) for control in ((), [Control(image, "canny")]))
    assert plain.image.tobytes() != followed.image.tobytes()
    assert followed.record.control is not None and followed.record.control[0].net == OWN


def test_what_is_cached_are_the_edges_of_the_scenes(model: Path, run: Path) -> None:
    world = World(tuple(choose(read_subjects(Path("shapes")), 6)), Dials(), 11)
    bundle = load_bundle(model)
    latents = Latents.__new__(Latents)
    latents.folder, latents.seed = run / "latents", world.seed
    (size, captions, tensors) = latents._read(0)
    latents.latents, latents.captions, latents.side = {size: tensors}, {size: captions}, 256
    hints = Edges(latents, world, 24)
    for row in (0, 17):
        painted = world.render(world.scene(world.rng(row)), *size)
        assert np.array_equal(hints.hints(size, [row])[0, 0].numpy() == 1, edges(painted))
    first, again = (hints.batch(range(8, 12), 4, 1.0, bundle.device) for _ in range(2))
    assert first[0].captions == again[0].captions and torch.equal(first[1], again[1])
    net = build_controlnet(bundle.unet, WIDTHS)
    bundle.unet.requires_grad_(False)
    phase = edges_phase(net, bundle, hints, EdgesRecipe(embedding=WIDTHS, dropout=0.5), torch.float32)
    phase.losses("student", first)["loss"].backward()
    assert all(weight.grad is None for weight in bundle.unet.parameters())
    assert net.controlnet_mid_block.weight.grad.abs().max() > 0
