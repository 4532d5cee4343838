"""Trackers get what metrics.jsonl gets, under one count of updates, and nothing is imported where none is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.unit.distill.test_trainer import make_phase

from fewstep.cli import explain
from fewstep.distill.outline import Part
from fewstep.distill.plan import TrackingRecipe
from fewstep.distill.state import Run
from fewstep.distill.trainer import train
from fewstep.distill.watch.tracking import tracker
from fewstep.distill.watch.watch import Watch


class Service:
    """What is used of wandb."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.lines: list[dict[str, float]] = []
        self.finished = False

    def init(self, **asked: Any) -> Service:
        self.asked = asked
        return self

    def log(self, line: dict[str, float]) -> None:
        self.lines.append(line)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Service:
    service, module = Service(), ModuleType("wandb")
    module.init = service.init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return service


def test_a_tracker_gets_what_the_run_logs(tmp_path: Path, wandb: Service) -> None:
    """Both phases of a run, line for line, and updates that count on from the first to the second."""
    run = Run(tmp_path / "demo", "cafe")
    parts = [Part(name, 3, 4, 12.0, "unet") for name in ("a/one", "a/two")]
    watch = Watch(run, parts, tracking=TrackingRecipe(wandb="project"))
    for name in ("a/one", "a/two"):
        train(run, make_phase(name, updates=3), watch.routines())
        run.finish()
    watch.finish()
    assert (wandb.asked["project"], wandb.asked["name"], wandb.asked["id"]) == ("project", "demo", "demo-cafe")
    assert [line["update"] for line in wandb.lines] == [1, 2, 3, 4, 5, 6]
    logged = [json.loads(text) for text in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line[f"{said['turn']}/loss"] for line, said in zip(wandb.lines, logged, strict=True)] == [said["loss"] for said in logged]
    assert wandb.finished


@pytest.mark.parametrize(("asked", "name"), [(TrackingRecipe(tensorboard=True), "tensorboard"), (TrackingRecipe(wandb="p"), "wandb")])
def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: TrackingRecipe, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        tracker(asked, tmp_path, "r")
    explained = explain(caught.value)
    assert explained is not None
    assert f"needs {name}" in explained[1]
    assert "fewstep[trackers]" in explained[1]


def test_nothing_is_asked_of_anyone_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    silent = tracker(TrackingRecipe(), tmp_path, "r")
    silent.log({"loss": 1.0}, "student", 1)
    silent.close()
    assert not list(tmp_path.iterdir())
