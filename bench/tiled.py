"""How far pictures that are decoded in parts are from the same ones decoded whole, by the embedded model: python bench/tiled.py --out FILE"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fewstep.distill.state import write_text
from fewstep.engine.engine import Engine
from fewstep.engine.request import Request

PICTURES = (  # prompt, width, height
    ("a red apple on a blue background", 512, 512),
    ("a pizza on a green background", 512, 256),
    ("a ghost on a pink background", 256, 512),
    ("a fox on a white background", 384, 384),
)


def main() -> None:
    """Measure, print, and write the file whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    engine, rows = Engine.load("emoji", backend="eager"), []
    part = engine.backend._decoders["tiled"].side  # type: ignore[attr-defined]
    for prompt, width, height in PICTURES:
        request, ways = Request(prompt, 0, 4, width, height), (Engine(engine.model, engine.backend, way) for way in ("full", "tiled"))
        whole, parts = (np.asarray(one.generate(request).image, int) for one in ways)
        apart = np.abs(whole - parts)
        rows.append({"prompt": prompt, "width": width, "height": height, "mean": round(float(apart.mean()), 3), "most": int(apart.max())})
        print(json.dumps(rows[-1]), flush=True)
    write_text(options.out, json.dumps({"model": engine.model.hash(4), "part": part, "of": 255, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
