"""Evaluation inside a run: it changes nothing of what is trained, keeps the best, and goes on where it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.tiny import SMALLER, build

from fewstep.distill.latents import Samples
from fewstep.distill.pretrain import train_teacher
from fewstep.distill.recipe import RecipeError
from fewstep.distill.state import Run
from fewstep.distill.trainer import Phase, Terminated
from fewstep.distill.walk import distill
from fewstep.distill.watch.evaluation import Evaluation, best_path
from fewstep.distill.watch.evaluation_page import read
from fewstep.distill.watch.probe import Walker
from fewstep.distill.watch.status import lines, read_status
from fewstep.engine.decode import decode
from fewstep.evals.measure import rms
from fewstep.evals.scorers import Asked
from fewstep.models.bundle import load_bundle, read_stamp
from fewstep.models.prompt import time_ids
from fewstep.models.students import student
from fewstep.stamp import Stamp

RECIPES = Path(__file__).parents[3] / "recipes"
SMALL = ["autoencoder.updates=2", "text.updates=2", "teacher.updates=2", "vocabulary_captions=50", "data.pictures=64"]
STAGES = (
    "stages=[{teacher_steps=4, steps=2, n=2, warm=4, conditional=4, full=4, adapter=2}, "
    "{teacher_steps=2, steps=1, n=2, prediction_type='sample', convert=4, full=4}]"
)
MEASURED = ["evaluation.prompts=3", "evaluation.every=2", "evaluation.figure=distance"]


def said(run: Path) -> str:
    """What ``fewstep distill status`` prints."""
    return "\n".join(lines(read_status(run)))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    teacher = train_teacher(RECIPES / "smoke-teacher.toml", tmp_path_factory.mktemp("run") / "teacher", SMALL)
    return ["data.pictures=64", "batch_size=2", "health.every=0", f"teacher={json.dumps(str(teacher))}", STAGES]


@pytest.fixture(scope="module")
def measured(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "measured"
    distill(RECIPES / "smoke.toml", folder, [*settings, *MEASURED])
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_leaves_a_distillation_as_it_is(measured: Path, settings: list[str], tmp_path: Path) -> None:
    """Losses and students are the same to the bit with and without; without it status says that no best student is kept."""
    distill(RECIPES / "smoke.toml", tmp_path / "plain", [*settings, "evaluation.prompts=0"])
    assert (tmp_path / "plain" / "metrics.jsonl").read_text() == (measured / "metrics.jsonl").read_text()
    for path in sorted((tmp_path / "plain").glob("*/*-step*.safetensors")):
        assert path.read_bytes() == (measured / path.relative_to(tmp_path / "plain")).read_bytes(), path.name
    assert not (tmp_path / "plain" / "evaluation").exists()
    assert "no best student is kept: evaluation is off" in said(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_best_of_each_stage_is_kept_and_named(measured: Path, settings: list[str]) -> None:
    """It is the one with the least figure, of equals the last; its file draws the pictures that were measured; state, status and page name it."""
    state, told = json.loads((measured / "state.json").read_text()), said(measured)
    lines = read(measured)
    assert [line["update"] for line in lines if line["phase"] == "2to1/full"] == [2, 4]
    bundle = load_bundle(measured / "model")
    for steps in (2, 1):
        of = [line for line in lines if line["steps"] == steps and not line["phase"].endswith("/adapter")]
        least = min(line["figures"]["distance"] for line in of)
        best = [line for line in of if line["figures"]["distance"] == least][-1]
        assert state["best"][str(steps)] == {
            "file": f"{steps}-step-best.safetensors", "figure": "distance", "value": least, "phase": best["phase"], "update": best["update"]
        }  # fmt: skip
        assert f"{best['phase']}, update {best['update']}: weights/{steps}-step-best.safetensors" in told
        stamp = read_stamp(best_path(measured, steps))
        assert stamp is not None
        assert (stamp.steps, stamp.phases[-1]) == (steps, best["phase"].split("/")[1])
        assert 0 < stamp.pictures <= read_stamp(measured / "weights" / f"{steps}-step.safetensors").pictures  # type: ignore[union-attr]
        assert load_file(best_path(measured, steps)).keys() == bundle.unet.state_dict().keys()
    page = (measured / "evaluation" / "2to1-full-4.html").read_text()
    assert page.count("data:image/jpeg") == 3, "teacher, two steps, one step"
    assert ", best</td>" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "it asks for nothing else"
    assert "evaluation/2to1-full-4.html" in (measured / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_best_ships_where_the_recipe_wants_it(settings: list[str], tmp_path: Path) -> None:
    """The one-step student that ships is the best one's weights, halved, with its stamp; the two-step one's adapter learns from the best too,
    which at so high a learning rate is not the last.
    """
    folder = tmp_path / "best"
    shipping = [*settings, *MEASURED, "evaluation.ship=best", "full_learning_rate=0.05"]
    distill(RECIPES / "smoke.toml", folder, shipping)
    shipped, best = load_file(folder / "model" / "students" / "1-step-unet.safetensors"), load_file(best_path(folder, 1))
    assert all(torch.equal(shipped[name], value.half()) for name, value in best.items())
    better, last = load_file(best_path(folder, 2)), load_file(folder / "weights" / "2-step.safetensors")
    adapted = student(load_bundle(folder / "model"), 2)[0].state_dict()
    away = [sum(float((value - of[name]).square().sum()) for name, value in adapted.items()) for of in (better, last)]
    assert away[0] < 0.1 * away[1]
    stamps = read_stamp(folder / "model" / "students" / "1-step-unet.safetensors"), read_stamp(best_path(folder, 1))
    assert stamps[0] is not None and stamps[1] is not None
    assert (stamps[0].phases, stamps[0].pictures) == (stamps[1].phases, stamps[1].pictures)
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        distill(RECIPES / "smoke.toml", folder, [*settings, *MEASURED, "full_learning_rate=0.05"])
    with pytest.raises(RecipeError, match=r"evaluation.ship = 'best': no best student is kept: that takes adherence or the CLIP score"):
        distill(RECIPES / "smoke.toml", tmp_path / "none", [*settings, "evaluation.prompts=2", "evaluation.ship=best"])


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """One whose pictures are shades of grey that a walker's ``unet`` names: no network is asked."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    bundle = build(shape=SMALLER)
    monkeypatch.setattr("fewstep.distill.watch.evaluation.decode", lambda vae, x, most: np.repeat(x.numpy().astype(np.uint8)[:, 0, ..., None], 3, -1))
    parts = [Samples(torch.zeros(2, 1, 40, 40), ["a", "b"], time_ids(2, 40, 40), [first, first + 1], seed=0) for first in (0, 2)]
    run = Run(tmp_path / "run", "r")
    return Evaluation(run, bundle, lambda walker, samples: samples.latents + walker.unet.shade, parts, Asked(["a", "b"] * 2), "distance")


class Grey(torch.nn.Linear):
    """A network that is but a shade."""

    def __init__(self, shade: int) -> None:
        super().__init__(1, 1)
        self.shade = shade


def phase(unet: torch.nn.Module, name: str = "4to2/full") -> Phase:
    return Phase(name, 9, 1, {"student": unet}, {}, lambda indices: None, lambda turn, batch: {})


def standing() -> tuple[dict[str, torch.Tensor], Stamp]:
    return {"weight": torch.ones(1)}, Stamp("unet", 2, phases=("warm", "full"), pictures=150)


def at(evaluation: Evaluation, shade: int, update: int, name: str = "4to2/full") -> dict[str, Any] | None:
    unet = Grey(shade)
    evaluation.run.state.update = update
    return evaluation.measure(Walker(unet, 2), standing, phase(unet, name), update)


def test_nearer_is_better_and_an_adapter_is_not_kept(evaluation: Evaluation) -> None:
    evaluation.begin(Walker(Grey(100), 32, guidance_scale=4.0))
    found = [at(evaluation, shade, update) for update, shade in enumerate((130, 110, 120, 90, 95), start=1)]
    assert [line["figures"]["distance"] for line in found if line] == [30, 10, 20, 10, 5]
    assert [line["best"] for line in found if line] == [True, True, False, True, True]
    adapter = at(evaluation, 100, 6, "4to2/adapter")
    assert adapter is not None and not adapter["best"]
    kept = evaluation.run.state.best["2"]
    assert (kept["value"], kept["update"]) == (5, 5)
    assert read_stamp(best_path(evaluation.run.folder, 2)) == standing()[1]
    assert len(evaluation.about()["left_out"]) == 2


def test_the_teacher_is_drawn_once_unless_something_else_is_asked(evaluation: Evaluation) -> None:
    evaluation.begin(Walker(Grey(100), 32))
    at(evaluation, 110, 1)
    evaluation.begin(Walker(Grey(7), 32))  # the same question: what was drawn stands
    assert np.asarray(Image.open(evaluation.run.folder / "evaluation" / "teacher-3.png")).mean() == 100
    assert len(read(evaluation.run.folder)) == len(evaluation.run.state.best) == 1
    evaluation.begin(Walker(Grey(7), 32, guidance_scale=2.0))
    assert np.asarray(Image.open(evaluation.run.folder / "evaluation" / "teacher-3.png")).mean() == 7
    assert not read(evaluation.run.folder) and not evaluation.run.state.best


def test_a_record_that_somebody_damaged_ends_no_run(evaluation: Evaluation) -> None:
    folder = evaluation.run.folder / "evaluation"
    evaluation.begin(Walker(Grey(100), 32))
    at(evaluation, 110, 1)
    (folder / "4to2-full-1.json").write_text("{")
    at(evaluation, 120, 2)
    assert [line["update"] for line in read(evaluation.run.folder)] == [2]
    (folder / "asked.json").write_text("")
    evaluation.begin(Walker(Grey(100), 32))  # it is asked anew
    assert not read(evaluation.run.folder)


def test_a_run_that_is_asked_to_end_does_not_wait_for_pictures(evaluation: Evaluation) -> None:
    evaluation.begin(Walker(Grey(100), 32))

    def stops(walker: Walker, samples: Samples) -> torch.Tensor:
        evaluation.run.stopping = Terminated("now")
        return samples.latents

    evaluation.draw = stops
    assert at(evaluation, 100, 1) is None
    assert at(evaluation, 100, 2) is None
    assert not read(evaluation.run.folder) and not evaluation.run.state.best


def test_a_page_shows_what_was_there_by_then(evaluation: Evaluation) -> None:
    """Lines of updates that a killed run had reached and will reach again are no part of it."""
    evaluation.begin(Walker(Grey(100), 32))
    for update in (2, 4, 3):
        at(evaluation, 110 + update, update)
    page = (evaluation.run.folder / "evaluation" / "4to2-full-3.html").read_text()
    assert "4to2/full, 3" in page
    assert "4to2/full, 4" not in page


def test_a_figure_that_cannot_be_measured_says_so(evaluation: Evaluation) -> None:
    evaluation.figure = "fid"
    evaluation.begin(Walker(Grey(100), 32))
    assert evaluation.figure == ""
    assert evaluation.left_out[-1] == "no best student is kept: evaluation.figure = 'fid' cannot be measured here"
    line = at(evaluation, 110, 1)
    assert line is not None and not line["best"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_best_file_draws_what_was_measured(measured: Path) -> None:
    """The whole way again from the files alone: the kept student's pictures are as far from the teacher's as the figure says."""
    bundle = load_bundle(measured / "model")
    kept = json.loads((measured / "state.json").read_text())["best"]["1"]
    asked = json.loads((measured / "evaluation" / "asked.json").read_text())
    bundle.unet.load_state_dict(load_file(measured / "weights" / kept["file"]))
    teacher = np.stack([np.asarray(Image.open(measured / "evaluation" / f"teacher-{number}.png")) for number in range(3)])
    from fewstep.distill.teacher import FrozenText
    from fewstep.distill.watch.asked import scenes
    from fewstep.distill.watch.probe import draw

    parts = scenes(Asked(asked["prompts"]), bundle, asked["seed"])
    walker = Walker(bundle.unet, 1, "sample")
    drawn = [decode(bundle.vae, draw(walker, FrozenText(bundle), part, torch.float32)) for part in parts]
    assert rms(np.concatenate(drawn), teacher) == pytest.approx(kept["value"], rel=1e-3)
