"""What a run is said to take: against the memory that real updates take, and against closed forms."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SHAPE, tiny_bundle
from torch.profiler import profile
from typer.testing import CliRunner

from fewstep.cli import app, main
from fewstep.distill.described import Described, check_teacher, describe, described_shape, model_of, read_any
from fewstep.distill.forecast import machines
from fewstep.distill.forecast.blank import BlankLatents, BlankText, hollow
from fewstep.distill.forecast.enough import check_memory, plentiful
from fewstep.distill.forecast.forecast import Forecast, forecast
from fewstep.distill.forecast.foretell import size, verdict
from fewstep.distill.forecast.ledger import Gauge, Ledger
from fewstep.distill.forecast.machines import machine
from fewstep.distill.forecast.rehearsal import Cost, Rehearsal, Setting, counting, rehearse
from fewstep.distill.methods import find_method
from fewstep.distill.outline import outline_of
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.recipe import RecipeError
from fewstep.distill.state import Run
from fewstep.distill.students import students_of
from fewstep.distill.trainer import Phase, update

RECIPES = Path(__file__).parents[3] / "recipes"
TOLERANCE = 0.15  # of a real update's peak: scratch memory inside operations is not counted
STAGES = (Stage(steps=4, teacher_steps=8, n=2, warm=2, conditional=2, full=2),)
pytestmark = pytest.mark.timeout(600)
PLAN = DistillPlan("tiny", STAGES, batch_size=16, precision="float32", rank=4, ship_rank=4)


@pytest.fixture(scope="module")
def described() -> Described:
    return described_shape(SHAPE)


@pytest.fixture(scope="module")
def costs(described: Described) -> list[Cost]:
    return rehearse(PLAN, Path(), described.configs, Setting(), described.sizes)


class Measured(Rehearsal):
    """The same walk on real tensors: each phase is updated, and its peak over what was there before is measured."""

    peaks: dict[str, float]

    def _complete(self, phase: Phase, name: str, routines: Sequence[Any]) -> None:
        if not phase.updates:
            return
        indices = range(phase.batch_size)
        batch = phase.batch(indices)
        for turn in dict.fromkeys(phase.turns):  # optimizers have their state
            update(phase, turn, [batch], indices, 1.0, [1e-4])
        for turn in dict.fromkeys(phase.turns):
            with profile(profile_memory=True) as found:
                update(phase, turn, [batch], indices, 1.0, [1e-4])
            events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
            now = peak = 0
            for event in sorted(events, key=lambda event: event.start_ns()):
                now += event.nbytes()
                peak = max(peak, now)
            self.peaks[phase.name] = max(peak, self.peaks.get(phase.name, 0))


@pytest.mark.slow
def test_memory_is_what_real_updates_take(described: Described, costs: list[Cost], tmp_path: Path) -> None:
    bundle = hollow(described.configs, described.sizes, False)
    text: Any = BlankText(bundle.unet, 77)
    latents: Any = BlankLatents(bundle.unet)
    students = students_of(PLAN, bundle)
    students.bare = True
    walk = Measured(PLAN, find_method("paper", tmp_path), Run(tmp_path, ""), bundle, latents, text, students)
    walk.peaks = {}
    for stage in STAGES:
        walk._rehearse(stage)
    predicted = {one.name: one.gradients + one.activations for one in costs}
    assert walk.peaks.keys() == predicted.keys()
    assert {name: peak for name, peak in walk.peaks.items() if abs(predicted[name] / peak - 1) > TOLERANCE} == {}, predicted


def test_nothing_is_freed_in_the_midst_of_a_count() -> None:
    """A dead network lies in circles; where the collector comes upon it while a block is measured, the block has less than nothing."""
    assert gc.isenabled()
    with counting():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_phase_is_counted_for_every_one_that_is_walked(costs: list[Cost]) -> None:
    assert [(one.name, one.updates) for one in costs] == [(part.name, part.updates) for part in outline_of(PLAN)]


def test_a_covered_network_costs_what_it_costs_uncovered() -> None:
    """Weights of a layer: 2·m·k·n operations forwards, twice that backwards; and the same with and without the black box."""

    def trace(covered: bool) -> tuple[float, int]:
        with Ledger() as ledger, Gauge(ledger).covering(*([torch.nn.Linear] if covered else [])):
            layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
            x = torch.zeros(32, 8)
            before = ledger.live
            ledger.mark()
            layers(x).sum().backward()
            return ledger.flops, ledger.peak - before

    whole, boxed = trace(False), trace(True)
    assert whole[0] == boxed[0] == 32 * (2 * 8 * 16 * 2 + 2 * 16 * 4 * 3)  # nobody asks for the gradient of the input
    assert boxed[1] == pytest.approx(whole[1], rel=0.15)


def test_parts_of_a_batch_and_activations_computed_again_take_less(described: Described, costs: list[Cost]) -> None:
    def warm(**changes: Any) -> float:
        plan = dataclasses.replace(PLAN, stages=(dataclasses.replace(STAGES[0], conditional=0, full=0),), **changes)
        return rehearse(plan, Path(), described.configs, Setting(accumulate=plan.accumulate), described.sizes)[0].activations

    whole = costs[0].activations
    assert warm(accumulate=4) < 0.5 * whole
    assert warm(checkpointing=True) < 0.9 * whole


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_can_be_forecast(path: Path) -> None:
    found = forecast(path, "" if path.name.startswith("sdxl") else "1x80gb")
    assert found.fits, verdict(found)
    assert found.machine.name == "1x80gb" or f'on = "{found.machine.name}"' in path.read_text()
    assert 0 < found.seconds < float("inf")
    assert all(row.cost.flops > 0 and row.cost.activations > 0 for row in found.rows)


def test_the_table_in_the_docs_is_what_the_plans_said() -> None:
    table = [line for line in (RECIPES.parent / "docs" / "training.md").read_text(encoding="utf8").splitlines() if line.startswith("| sdxl-")]
    said = [json.loads(path.read_text(encoding="utf8")) for path in (RECIPES.parent / "docs" / "runs" / "2026-11-29").glob("plan-*.json")]
    assert all(one["fits"] for one in said)
    hours = {one["on"]: one["seconds"] / 3600 for one in said}
    days = {"1x24gb": " ({:.0f} days)", "1x80gb": " ({:.0f} days)", "8x80gb": " ({:.1f} days)", "64x80gb": ""}
    expected = {
        (
            Path(one["recipe"]).stem,
            f"{one['memory'] / 1e9:.1f} GB",
            f"{hours[one['on']]:,.0f}{days[one['on']].format(hours[one['on']] / 24)}",
            f"{hours[one['on']] * one['ranks']:,.0f}",
            f"{_dollars(one):,.0f}",
        )
        for one in said
    }
    assert {(cells[1].split(",")[0], *cells[4:8]) for cells in ([cell.strip() for cell in line.split("|")] for line in table)} == expected


def _dollars(said: dict[str, Any]) -> float:
    """At the prices of an hour that docs/training.md names, to two digits."""
    return float(f"{said['seconds'] / 3600 * said['ranks'] * (0.40 if said['on'] == '1x24gb' else 2.50):.2g}")


@pytest.mark.slow
def test_shares_are_shares_and_a_base_is_there_once(described: Described) -> None:
    def worst(ranks: int, **changes: Any) -> Cost:
        plan = dataclasses.replace(PLAN, batch_size=8, **changes)
        found = rehearse(plan, Path(), described.configs, Setting(ranks=ranks, sharded=plan.sharded, accelerator=True), described.sizes)
        return max(found, key=lambda one: one.learnt)

    whole, shares = worst(4), worst(4, sharded=True)
    for part in ("learnt", "gradients", "optimizer", "averages"):
        assert getattr(shares, part) == pytest.approx(getattr(whole, part) / 4), part
    assert shares.memory < whole.memory
    stage = dataclasses.replace(STAGES[0], full=0, adapter=0)
    lora = worst(1, stages=(stage,), lora_only=True, critic_rank=2)
    whole = worst(1, stages=(dataclasses.replace(stage, conditional=0),))
    assert lora.frozen == pytest.approx(whole.frozen, rel=0.1)  # the teacher, which all are on
    assert lora.learnt < 0.5 * whole.learnt


def test_what_does_not_fit_comes_with_a_change_that_does() -> None:
    found = forecast(RECIPES / "emoji-judge.toml", "1x24gb", ["batch_size=65536"])
    assert not found.fits
    assert f"--set {found.change[0]}" in verdict(found)
    assert forecast(RECIPES / "emoji-judge.toml", "1x24gb", found.change).fits


def test_the_parts_of_memory_are_what_the_networks_have(costs: list[Cost]) -> None:
    """AdamW keeps two numbers beside each weight, without a first moment one, a gradient is one, and the average of a whole student another."""
    warm, full = costs[0], costs[-1]
    assert warm.optimizer == 2 * warm.learnt
    assert full.optimizer == full.learnt
    assert full.gradients == full.averages  # the worst turn is the student's
    assert costs[0].learnt == costs[0].gradients == full.averages


def test_the_command_says_it_and_writes_it(tmp_path: Path) -> None:
    called = CliRunner().invoke(app, ["distill", "plan", str(RECIPES / "emoji-judge.toml"), "--on", "8x80gb", "--json", str(tmp_path / "plan.json")])
    assert called.exit_code == 0, called.output
    assert called.output.splitlines()[-1] == "fits"
    said = json.loads((tmp_path / "plan.json").read_text())
    printed = CliRunner().invoke(app, ["distill", "plan", str(RECIPES / "emoji-judge.toml"), "--on", "8x80gb", "--json", "-"])
    assert json.loads(printed.output) == said, "with - it stands alone"
    assert said["fits"] and said["ranks"] == 8 and [phase["name"] for phase in said["phases"]] == ["judge/recognise"]


@pytest.mark.parametrize("name", ["gpu", "0x24gb", "1x48gb", "80gb"])
def test_an_unknown_machine_is_a_sentence(name: str) -> None:
    with pytest.raises(RecipeError, match="such as 1x24gb"):
        machine(name)


def test_a_teacher_that_predicts_something_else_is_refused(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "model", students=())
    check_teacher("tiny", folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    with pytest.raises(RecipeError, match="predicts 'v_prediction'"):
        check_teacher("tiny", folder)


def test_sdxl_is_known_without_its_files() -> None:
    assert describe("sdxl").configs["unet"]["block_out_channels"] == (320, 640, 1280)
    assert model_of(read_any(RECIPES / "emoji.toml")) == "emoji"


def test_too_small_a_disk_is_said() -> None:
    found = forecast(RECIPES / "emoji-judge.toml", "1x80gb")
    assert "the disk has 1 MB free" in verdict(dataclasses.replace(found, free=1e6))
    assert isinstance(found, Forecast)


def test_a_run_that_does_not_fit_here_is_refused_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the line of its stage and the way out, and nothing in its folder; with memory enough, or once it has begun, nobody asks."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('teacher = "emoji"\nprecision = "float32"\nbatch_size = 1024\n[data]\nsource = "emoji"\npictures = 64\n'
                      "[[stages]]\nteacher_steps = 4\nsteps = 2\nn = 2\nwarm = 4\n")  # fmt: skip
    costs = forecast(recipe, "cpu", timed=False).worst.cost
    monkeypatch.setattr(machines, "available", lambda: costs.memory - 1)
    with pytest.raises(SystemExit) as ended:
        main(["distill", str(recipe), "--run", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"fewstep: {recipe}, line 11: stage 4to2: warm takes {size(costs.memory)}, and this machine")
    assert "makes it fit: --set accumulate=2; --set check_memory=false begins regardless\n" in said
    assert not (tmp_path / "run").exists()
    for settings in (["accumulate=2"], ["check_memory=false"]):
        check_memory(recipe, settings, tmp_path / "run")
    for folder in (tmp_path / "own", tmp_path / "its" / "teacher"):
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
        check_memory(recipe, [], folder.parent if folder.name == "teacher" else folder)


def test_what_is_plentiful_is_more_than_any_phase_takes(described: Described, costs: list[Cost]) -> None:
    assert plentiful(PLAN, described) > max(one.memory for one in costs)
    emoji = read_any(RECIPES / "emoji.toml")
    assert isinstance(emoji, DistillPlan)
    assert plentiful(emoji, describe("emoji")) > 2 * 2.5e9  # twice what its worst phase takes
