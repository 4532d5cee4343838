"""The comparison of methods: every row gets the same work, and the leaderboard is what the files say."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fewstep.distill.methods import METHODS, find_method
from fewstep.distill.outline import paper_passes
from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import RecipeError, read_recipe

ROOT = Path(__file__).parents[3]


def program(name: str) -> Any:
    """A program of bench/, under the name by which the others there import it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench() -> Any:
    return program("methods")


@pytest.fixture(scope="module")
def editing(bench: Any) -> Any:
    return program("editing")


@pytest.mark.parametrize("steps", [4, 2, 1])
def test_every_row_is_a_plan_of_the_same_work(bench: Any, steps: int) -> None:
    recipe, budget = ROOT / "recipes" / "methods.toml", 36_000.0
    assert {row.method for row in bench.ROWS.values()} == set(METHODS)
    for name, row in bench.ROWS.items():
        bare = read_recipe(recipe, DistillPlan, list(row.settings))
        settings = bench.settings_of(row, bench.stage_of(row, bare, steps, budget, "begun.safetensors"), seed=2)
        plan = read_recipe(recipe, DistillPlan, settings)
        (stage,) = plan.stages
        method = find_method(plan.method, Path())
        method.check(plan, stage)
        phases = [phase for phase in ("warm", *bench.CONTEST) if getattr(stage, phase)]
        fewest = 1 if row.also else steps
        assert ("warm" in phases) == (fewest > 1 and not row.n)
        assert bool(stage.begin) == (fewest == 1)
        assert steps in stage.counts
        costs = {phase: (method.passes if phase in bench.CONTEST else paper_passes)(plan, stage, phase) for phase in phases}
        work = sum(getattr(stage, phase) * costs[phase] for phase in phases) * plan.batch_size
        assert work == pytest.approx(budget, rel=0.02), name
        assert (plan.seed, plan.data.seed, plan.start_steps, stage.teacher_steps, stage.steps) == (2, 2, 8, 8, fewest)


def test_the_leaderboard_is_what_the_files_say(bench: Any, tmp_path: Path) -> None:
    for row, seed, adherence in (("mse", 1, 0.5), ("mse", 2, 0.7), ("paper", 1, 0.9)):
        figures = {"adherence": adherence, "detail": 1.5, "artefacts": 0.25, "diversity": 0.8}
        content = {"row": row, "steps": 1, "seed": seed, "start": "emoji:8", "teacher": "0123", "budget": 36000.0, "prompts": 200}
        content["figures"] = figures
        (tmp_path / f"{row}-1-{seed}.json").write_text(json.dumps(content))
    page = tmp_path / "methods.md"
    page.write_text(f"before\n{bench.MARKS[0]}\nold\n{bench.MARKS[1]}\nafter\n")
    bench.write_table(tmp_path, page)
    lines = page.read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| paper", "| mse"))]
    assert rows == ["| paper | 1 | 90.0% | 1.50 | 25.0% | 80% |", "| mse | 2 | 60.0% ± 14.1% | 1.50 ± 0.00 | 25.0% ± 0.0% | 80% ± 0% |"]
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    bench.write_table(tmp_path, page)
    assert page.read_text().splitlines() == lines


def test_the_page_has_the_table_that_the_files_make(bench: Any, tmp_path: Path) -> None:
    copy = tmp_path / "methods.md"
    copy.write_text(bench.PAGE.read_text(encoding="utf8"), encoding="utf8")
    bench.write_table(bench.RESULTS, copy)
    assert copy.read_text(encoding="utf8") == bench.PAGE.read_text(encoding="utf8"), "run python bench/methods.py --table"


def test_a_result_of_another_ground_is_refused_and_one_that_is_there_is_not_made_again(bench: Any, tmp_path: Path) -> None:
    asked, file = {"budget": 36000.0, "teacher": "0123"}, tmp_path / "results" / "plain-1.json"
    assert bench.made(file, asked, lambda: {**asked, "figures": 1}) == {**asked, "figures": 1}
    assert bench.made(file, asked, lambda: pytest.fail("made again")) is None
    with pytest.raises(RecipeError, match="another teacher, 0123"):
        bench.made(file, {**asked, "teacher": "4567"}, lambda: pytest.fail("made again"))


def test_the_table_of_editing_is_what_its_files_say(editing: Any, tmp_path: Path) -> None:
    for name, seed, adherence in (("plain", 1, 0.5), ("plain", 2, 0.7), ("editing", 1, 0.9), ("editing", 2, 0.9)):
        figures = {"adherence": adherence, "detail": 1.0, "artefacts": 0.0, "distance": 12.0}
        content = {"student": name, "seed": seed, "figures": {f"{kind} {strength}": figures for kind in editing.KINDS for strength in editing.STRENGTHS}}
        (tmp_path / f"{name}-{seed}.json").write_text(json.dumps(content))
    lines = editing.table(editing.read_results(tmp_path)).splitlines()
    assert len(lines) == 2 + len(editing.KINDS) * len(editing.STRENGTHS)
    assert lines[2].startswith("| sketch | 0.3 | 60.0% ± 14.1% | 90.0% ± 0.0% |")
    page = editing.PAGE.read_text(encoding="utf8")
    assert editing.table(editing.read_results(editing.RESULTS / "editing")) in page, "run python bench/editing.py --table"
