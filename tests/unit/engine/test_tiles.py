"""Tiles: pictures whose opposite sides fit together, by either backend, on the command line and again from their files."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.alike import difference

from fewstep.cli import main
from fewstep.engine.backends.compiled import _Compiling
from fewstep.engine.backends.graphs import Graphs
from fewstep.engine.engine import Engine
from fewstep.engine.files import picture_bytes
from fewstep.engine.request import Request, RequestError
from fewstep.engine.tiles import depth
from fewstep.models.wrap import wrapping
from fewstep.zoo.registry import embedded

BOUND = 2  # of 255
pytestmark = pytest.mark.skipif(not (embedded("emoji") / "graphs").is_dir(), reason="the embedded model is not in this checkout")
APPLE = Request("a red apple on a blue background", 3, 4)


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    return Engine.load("emoji", backend="onnxruntime"), Engine.load("emoji", backend="eager")


def seams(image: Image.Image) -> tuple[float, float]:
    """How far the first and last column, and row, are from each other, in mean distances between neighbours inside."""
    pixels = np.asarray(image.convert("RGB"), float)
    across, down = (np.abs(pixels.take(0, axis) - pixels.take(-1, axis)).mean() / np.abs(np.diff(pixels, axis=axis)).mean() for axis in (1, 0))
    return float(across), float(down)


@pytest.mark.parametrize("steps", [1, 4])
def test_opposite_sides_fit_together_as_neighbours_do(engines: tuple[Engine, Engine], steps: int) -> None:
    for seed, prompt in ((3, "a red apple on a blue background"), (4, "a pizza on a green background")):
        plain, along, both = (engines[0].generate(Request(prompt, seed, steps, tile=tile)).image for tile in (None, "x", "xy"))
        assert max(seams(both)) < 0.7
        assert seams(along)[0] < 0.7 < seams(along)[1]
        assert min(seams(plain)) > 1
        middle = np.roll(np.asarray(both), 128, (0, 1))
        assert max(seams(Image.fromarray(middle))) < 1.5, "what was inside stays joined when the sides are in the middle"


def test_a_place_goes_round_but_its_sky_stays_above_its_ground(engines: tuple[Engine, Engine]) -> None:
    plain, along, both = (engines[0].generate(Request("a pizza in the snow", 4, 4, tile=tile)).image for tile in (None, "x", "xy"))
    assert seams(along)[0] < 0.7 and seams(both)[0] < 0.7
    assert 0.7 < seams(both)[1] < 0.1 * seams(plain)[1], "much less of a step, and a step all the same"


@pytest.mark.parametrize(("tile", "decoder"), [("x", "tiny"), ("y", "full"), ("xy", "full")])
def test_onnxruntime_makes_the_tile_of_eager_torch(engines: tuple[Engine, Engine], tile: str, decoder: str) -> None:
    request = replace(APPLE, tile=tile, steps=2, width=128, height=192, negative="snow" if tile == "y" else None)
    quick, reference = (Engine(engine.model, engine.backend, decoder).generate(request) for engine in engines)
    assert difference(quick.image, reference.image) <= BOUND
    assert quick.record.tile == tile


@pytest.mark.parametrize("wrapped", [("x", 1), ("y", 2), ("xy", 3)])
def test_a_graph_wraps_around_on_the_levels_that_torch_does(engines: tuple[Engine, Engine], wrapped: tuple[str, int]) -> None:
    import torch

    quick, reference = (engine.backend for engine in engines)
    assert isinstance(quick, Graphs)
    rng = np.random.default_rng(0)
    x, embeds = rng.standard_normal((1, 16, 16, 16), np.float32), rng.standard_normal((1, 77, 224), np.float32)
    pooled = rng.standard_normal((1, reference.bundle.text_encoder_2.config.projection_dim), np.float32)  # type: ignore[attr-defined]
    ids = np.array([[256, 256, 0, 0, 256, 256]], np.float32)
    inputs = {"sample": x, "timestep": np.array([999]), "prompt_embeds": embeds, "pooled": pooled, "ids": ids}
    own = quick._run(quick._unet(4, (), False, wrapped), inputs)[0]
    conditions = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(ids)}
    with torch.inference_mode(), wrapping(wrapped[0], 16 >> (wrapped[1] - 1)):
        unet = reference._unet(4)  # type: ignore[attr-defined]
        expected = unet(torch.from_numpy(x), 999, encoder_hidden_states=torch.from_numpy(embeds), added_cond_kwargs=conditions, return_dict=False)[0]
    np.testing.assert_allclose(own, expected.numpy(), atol=1e-4)


def test_small_coarse_levels_stay_as_they_are_and_so_does_the_layout() -> None:
    assert [depth(16, 16, 3, first) for first in (False, True)] == [1, 0]
    assert [depth(128, 96, 3, first) for first in (False, True)] == [3, 3], "SDXL at 1024 pixels wraps around everywhere and always"
    assert depth(64, 32, 3, False) == 2


def test_a_compiled_network_is_called_as_it_is_while_pictures_wrap_around() -> None:
    def compiled(x: int) -> int:
        raise AssertionError("it was compiled without wrapping")

    network = _Compiling(lambda x: x + 1, {}, strict=True, name="network")
    network._call, network._tried = compiled, True
    with wrapping("x"):
        assert network(1) == 2
    with pytest.raises(AssertionError), wrapping(None):
        network(1)


def test_a_tile_that_begins_from_an_image_stays_one(engines: tuple[Engine, Engine]) -> None:
    image = engines[0].generate(replace(APPLE, tile="xy", steps=1)).image
    for engine in engines:
        made = engine.generate(replace(APPLE, tile="xy", image=image, strength=0.5)).image
        assert max(seams(made)) < 0.8


def test_tiles_and_pictures_are_not_made_together_and_are_the_same_alone(engines: tuple[Engine, Engine]) -> None:
    wanted = [replace(APPLE, tile=tile, steps=1, width=64, height=64) for tile in (None, "xy", None, "x")]
    pictures = list(engines[0].generate_many(wanted))
    assert [picture.record.batch for picture in pictures] == [2, 1, 2, 1]
    for picture, request in zip(pictures, wanted, strict=True):
        assert difference(picture.image, engines[0].generate(request).image) <= BOUND


def test_sizes_of_tiles_are_multiples_of_what_the_network_halves(engines: tuple[Engine, Engine]) -> None:
    limits = engines[0].limits
    assert limits.settle(Request("x", tile="x", aspect="16:9")).width % 64 == 0
    with pytest.raises(RequestError, match="makes tiles whose sides are multiples of 64 from 64 to 512; the nearest is 320x192"):
        limits.settle(Request("x", tile="x", width=336, height=192))


@pytest.mark.parametrize("tile", ["yx", "z", "", True, 1])
def test_what_is_no_way_to_tile_is_refused(tile: object) -> None:
    with pytest.raises(RequestError, match=r"tile = .*: give one of x, y, xy"):
        Request("x", tile=tile)  # type: ignore[arg-type]


def test_a_tile_is_made_again_from_its_file(engines: tuple[Engine, Engine], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = engines[0].generate(replace(APPLE, tile="xy", steps=1, width=128, height=128))
    assert "Tiling: True" in picture.record.parameters()
    path, again = tmp_path / "tile.png", tmp_path / "again.png"
    path.write_bytes(picture_bytes(picture.image, picture.record, "png"))
    with pytest.raises(SystemExit) as done:
        main(["generate", "--from", str(path), "--out", str(again), "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["tile"] == "xy"
    assert difference(Image.open(again), Image.open(io.BytesIO(path.read_bytes()))) == 0
