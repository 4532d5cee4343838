"""How well the embedded model's pictures follow edges: python bench/edges.py --source FOLDER [--net RUN/controlnet] [--json FILE]"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from fewstep.distill.state import write_text
from fewstep.engine.control import find_net
from fewstep.engine.engine import Engine
from fewstep.engine.words import read_words
from fewstep.evals.edges import as_json, follow
from fewstep.evals.run import world_of
from fewstep.stamp import file_hash
from fewstep.zoo.registry import find


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", nargs="?", default="emoji")
    options.add_argument("--source", type=Path, required=True, help="where the emoji are drawn from, as for fewstep data")
    options.add_argument("--net", type=Path, help="a ControlNet's folder or file; the model's own by default")
    options.add_argument("--steps", type=int, nargs="+", default=[8, 4, 2, 1])
    options.add_argument("--count", type=int, default=50, help="held-out scenes")
    options.add_argument("--weight", type=float, default=1.0)
    options.add_argument("--shift", type=float, default=0.15, help="how far subjects stand from the middle, as a share of the side")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    engine = Engine.load(str(find(given.model)), backend="eager")
    world = world_of(read_words(engine.model.folder), given.source, engine.model.folder)
    net = find_net(given.net, engine.model)
    rows = follow(engine, replace(world, dials=replace(world.dials, shift=given.shift)), given.steps, given.count, net.path, given.weight)
    print("\n".join(row.line() for row in rows))
    if given.json:
        about = {"teacher": file_hash(engine.model.unet), "controlnet": net.hash, "weight": given.weight, "shift": given.shift}
        write_text(given.json, json.dumps({**about, "rows": as_json(rows)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
