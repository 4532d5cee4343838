"""Every workflow is held to diffusers twice: in the embedded model's layout, and in SDXL's."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import SDXL, SHAPE, tiny_bundle

LAYOUTS = {"emoji": SHAPE, "sdxl": SDXL}


@pytest.fixture(scope="session", params=LAYOUTS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random students for 1, 2, 4 and 8 steps. Do not write into it."""
    return tiny_bundle(tmp_path_factory.mktemp(request.param) / "tiny", shape=LAYOUTS[request.param])
