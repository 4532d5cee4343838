"""Every student that ships is what a recipe and a run beside the documentation made."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import read_recipe
from fewstep.models.bundle import read_stamp
from fewstep.stamp import file_hash
from fewstep.zoo.registry import find

RUNS = Path(__file__).parents[3] / "docs" / "runs"


def test_students_have_the_stamps_recipes_and_updates_that_are_said_of_them() -> None:
    said = json.loads((RUNS / "shipped.json").read_text(encoding="utf8"))
    files = sorted((find("emoji") / "students").glob("*.safetensors"))
    assert sorted(said) == sorted(file.name for file in files)
    for file in files:
        entry, stamp = said[file.name], read_stamp(file)
        assert stamp is not None
        assert (file_hash(file), stamp.recipe) == (entry["hash"], entry["stamped"])
        plan = read_recipe(RUNS / entry["recipe"], DistillPlan)
        stage = next(stage for stage in plan.stages if stage.name == stamp.stage)
        lines = [json.loads(line) for line in (RUNS / entry["curves"]).read_text(encoding="utf8").splitlines()]
        made = Counter(line["phase"].split("/")[1] for line in lines if line["phase"].startswith(f"{stage.name}/"))
        assert tuple(made) == stamp.phases
        assert made == {phase: getattr(stage, phase) for phase in made}
        assert stamp.pictures == sum(made.values()) * plan.batch_size  # each stamped before stamps counted the students that came before
