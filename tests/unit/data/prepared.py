"""A small data set for the tests: pictures of noise with captions, and the tiny model that encodes them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tests.tiny import CAPTIONS

from fewstep.data.encode import encoders_key
from fewstep.data.filters import Rules
from fewstep.data.prepare import Aim, here, prepare
from fewstep.data.score import Score
from fewstep.data.sources import open_source
from fewstep.models.bundle import Bundle

SIZES = ((64, 64), (64, 64), (96, 96), (84, 48))  # at a side of 64: squares, one of them scaled, and a wide one
RULES = Rules(side=64)


@dataclass(frozen=True)
class Deadly:
    """A picture whose reader is killed, as by a kernel that is out of memory."""

    def read(self) -> bytes:
        os._exit(9)


def write_pictures(folder: Path, count: int) -> Path:
    """A folder of ``count`` pictures; among them a duplicate (5), one without a caption (6) and a damaged one (7)."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        pixels = np.random.default_rng(1 if number == 5 else number).integers(0, 256, (height, width, 3), np.uint8)
        path = folder / f"{number:03d}.png"
        Image.fromarray(pixels).save(path)
        if number == 7:
            path.write_bytes(path.read_bytes()[:200])
        if number != 6:
            lines.append(json.dumps({"file": path.name, "caption": CAPTIONS[number % len(CAPTIONS)]}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def prepared(source: Path, out: Path, bundle: Bundle, rules: Rules = RULES, workers: int = 1, score: Score | None = None) -> list[str]:
    """Prepare; returns what was said on the way."""
    said: list[str] = []
    aim = Aim(encoders_key(bundle), "tiny", rules, score or Score())
    prepare(open_source(str(source)), out, aim, partial(here, bundle, rules, workers), said.append)
    return said


def breadth(image: Image.Image) -> float:
    """A scorer: a tenth of the width."""
    return image.width / 10
