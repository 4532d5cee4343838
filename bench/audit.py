"""What becomes of scenes, and of a few pictures that are unfit, when they are prepared; and what two rules of sharpness call blurred.

    python bench/audit.py --source NotoColorEmoji.ttf --out docs/runs/DATE/audit.json

docs/data.md shows both, and a test holds it to the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from fewstep.data.encode import encoders_key
from fewstep.data.export import CAPTIONS, write_scenes
from fewstep.data.files import write_text
from fewstep.data.filters import TILES, Rules, sharpness
from fewstep.data.prepare import Aim, here, prepare
from fewstep.data.score import Score
from fewstep.data.shards import AUDIT
from fewstep.data.sources import open_source
from fewstep.models.bundle import load_bundle
from fewstep.zoo.registry import find

BLUR = 1.5  # pixels, the Gaussian's deviation
LEAST = Rules(side=256).min_sharpness


def main() -> None:
    """Measure, print, and write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", type=Path, required=True, help="as fewstep data emoji takes it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=400, help="that are prepared")
    parser.add_argument("--looked", type=int, default=300, help="of them, that sharpness is measured of")
    options = parser.parse_args()
    with TemporaryDirectory() as work:
        folder = Path(work) / "scenes"
        write_scenes(options.source, folder, options.scenes)
        shares = blurred(folder, options.looked)
        spoil(folder)
        audit = account(folder, Path(work) / "shards")
    print(json.dumps(shares, indent=1))
    record = {"scenes": options.scenes, "sharpness": shares, "audit": audit}
    write_text(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def blurred(folder: Path, count: int) -> dict[str, Any]:
    """The shares of the first ``count`` scenes, as they are and blurred, that are below the threshold, over the whole picture and in the sharpest tile."""
    found: dict[str, list[bool]] = {}
    for path in sorted(folder.glob("*.png"))[:count]:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        for state, image in (("sharp", picture), ("blurred", picture.filter(ImageFilter.GaussianBlur(BLUR)))):
            for rule, tiles in (("whole", 1), ("tile", TILES)):
                found.setdefault(f"{state}, {rule}", []).append(sharpness(image, tiles) < LEAST)
    return {"pictures": count, "least": LEAST, "blur": BLUR, "below": {name: round(float(np.mean(below)), 4) for name, below in found.items()}}


def spoil(folder: Path) -> None:
    """Add pictures and rows that are unfit, one of each kind, and one that is fit."""
    rng = np.random.default_rng(0)

    def noise(name: str, side: int) -> Path:
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / name)
        return folder / name

    for name, side in (("fit.png", 300), ("small.png", 100), ("signs.png", 300), ("untold.png", 300)):
        noise(name, side)
    damaged = noise("damaged.png", 300)
    damaged.write_bytes(damaged.read_bytes()[:2000])
    said = {
        "fit.png": "coloured noise",
        "small.png": "a little noise",
        "damaged.png": "half a picture",
        "signs.png": "🍎🍏 https://x.y/z",
        "gone.png": "a picture",
    }
    with (folder / CAPTIONS).open("a", encoding="utf8") as table:
        table.writelines(json.dumps({"file": name, "caption": caption}, ensure_ascii=False) + "\n" for name, caption in said.items())


def account(folder: Path, out: Path) -> Any:
    """The audit of preparing ``folder`` for the embedded model."""
    bundle = load_bundle(find("emoji"))
    rules = Rules(bundle.factor * int(bundle.unet.config.sample_size))
    aim = Aim(encoders_key(bundle), "emoji", rules, Score())
    audit = prepare(open_source(str(folder)), out, aim, partial(here, bundle, rules, 1), lambda line: print(line, file=sys.stderr))
    print(*audit.table(), sep="\n")
    return json.loads((out / AUDIT).read_text(encoding="utf8"))


if __name__ == "__main__":
    main()
