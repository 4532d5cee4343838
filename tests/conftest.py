"""Fixtures that several rooms share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two threads on a shared core stall each other
os.environ.setdefault("FEWSTEP_RUNTIMES", "onnxruntime")  # or it would be measured who is faster, beside other tests

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fewstep", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("fewstep")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random students for 1, 2, 4 and 8 steps. Do not write into it."""
    from tests.tiny import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("model") / "tiny")
