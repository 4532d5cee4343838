"""What FID looks at: scaling that keeps what is linear, a middle at native size, and weights that are looked for and never fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.evals import fid
from fewstep.evals.fid import FILE, REPO, SIDE, middle, open_inception, whole
from fewstep.models.weights import WeightsError


def ramp(side: int) -> np.ndarray:
    """A picture that grows evenly to the right in red and downwards in green, uint8 [1, side, side, 3], by whole numbers."""
    rows, columns = np.mgrid[0:side, 0:side] * 256 // side
    return np.stack([columns, rows, np.full_like(rows, 7)], axis=-1).astype(np.uint8)[None]


def test_scaling_keeps_what_is_linear() -> None:
    """Bicubic reproduces a ramp, but for the steps of whole numbers and the border; a picture of the right size is left as it is."""
    scaled = whole(ramp(256))
    places = (np.arange(SIDE) + 0.5) * 256 / SIDE - 0.5
    assert scaled.shape == (1, SIDE, SIDE, 3)
    assert np.abs(scaled[0, 150, 5:-5, 0] - places[5:-5]).max() < 0.01
    assert np.abs(scaled[0, 5:-5, 150, 1] - places[5:-5]).max() < 0.01
    assert np.abs(scaled[..., 2] - 7).max() < 1e-4
    own = ramp(SIDE)
    assert np.array_equal(whole(own), own)


def test_scaling_down_averages() -> None:
    """A fine chequerboard becomes grey: its support is widened, where a plain bicubic would pick black or white."""
    board = (np.indices((4 * SIDE, 4 * SIDE)).sum(axis=0) % 2 * 255).astype(np.uint8)
    scaled = whole(np.repeat(board[None, ..., None], 3, axis=-1))
    assert np.abs(scaled[:, 2:-2, 2:-2] - 127.5).max() < 1


def test_the_middle_is_what_it_was() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 400, 501, 3), np.uint8)
    assert np.array_equal(middle(picture), picture[:, 50:349, 101:400])
    with pytest.raises(ValueError, match="256x256 pixels have no middle of 299x299"):
        middle(np.zeros((1, 256, 256, 3), np.uint8))


def test_weights_that_are_not_here_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"hf download {REPO} {FILE}"):
        open_inception()
    with pytest.raises(WeightsError, match=r"there is no file .*mine.safetensors: give pytorch-fid's weights as safetensors"):
        open_inception(str(tmp_path / "mine.safetensors"))


def test_pictures_are_scaled_as_the_graph_does() -> None:
    """(x - 128) / 128, in batches that change nothing."""
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    pictures = np.stack([np.full((SIDE, SIDE, 3), value, np.float32) for value in (0, 128, 255, *[64] * fid.BATCH)])
    found = fid.features(network, pictures)  # type: ignore[arg-type]
    assert [len(part) for part in seen] == [fid.BATCH, 3]
    assert np.allclose(found[:4, 0], (-1, 0, 127 / 128, -0.5), atol=1e-6)
