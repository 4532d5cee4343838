"""A model's folder evaluated from end to end, and what is refused before any work."""

import json
import shutil

import pytest
import torch
from tests.unit.evals.synthetic import SUBJECTS

from fewstep.engine.request import RequestError
from fewstep.evals import run as room
from fewstep.evals.judge import Judge, save_judge
from fewstep.models.weights import WeightsError
from fewstep.stamp import file_hash


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):
    """The tiny model, taught the synthetic subjects, with a judge of random weights."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    names = [subject.name for subject in SUBJECTS]
    (folder / "words.json").write_text(json.dumps({"subjects": names}))
    torch.manual_seed(0)
    save_judge(Judge(names, channels=(8, 16, 16)), folder / room.JUDGE)
    monkeypatch.setattr(room, "read_subjects", lambda source: list(SUBJECTS))
    return folder


def test_the_files_hold_a_row_for_each_student_and_name_model_and_judge(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(room, "ambiguous", lambda world: [])
    shortened = room.rows_for
    monkeypatch.setattr(room, "rows_for", lambda folder, world, device, precision: shortened(folder, world, device, 2, precision=precision))
    room.run(folder, tmp_path, tmp_path / "table.json", tmp_path / "page.html", count=3)
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["renders", "reconstruction", "teacher", "8", "4", "2", "1"]
    assert all(len(table["about"][key]) == 12 for key in ("teacher", "judge"))
    assert {key: table["about"][key] for key in table["about"] if key.startswith("student")} == {
        f"student {steps}": file_hash(folder / "students" / f"{steps}-step.safetensors") for steps in (1, 2, 4, 8)
    }
    assert "4 steps" in capsys.readouterr().out
    assert "4 steps" in (tmp_path / "page.html").read_text()


def test_what_is_missing_is_said_before_any_work(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="--source"):
        room.run(folder)
    with pytest.raises(RequestError, match="nowhere cannot be written"):
        room.run(folder, tmp_path, json=tmp_path / "nowhere" / "table.json")
    with pytest.raises(RequestError, match=r"--html .* is a folder"):
        room.run(folder, tmp_path, html=tmp_path)
    (folder / room.JUDGE).unlink()
    with pytest.raises(WeightsError, match="no such judge"):
        room.run(folder, tmp_path)


def test_a_model_whose_subjects_cannot_be_drawn_is_refused(folder, tmp_path):
    with pytest.raises(WeightsError, match="'unheard of' and 0 more"):
        room.world_of({"subjects": ["disc 0", "unheard of"]}, tmp_path, folder)
    with pytest.raises(WeightsError, match=r"no subjects in words\.json"):
        room.world_of({}, tmp_path, folder)


def test_places_and_paints_are_asked_for_only_where_they_were_taught(folder, tmp_path):
    plain, places, paints = (
        room.world_of({"subjects": ["disc 0"], **taught}, tmp_path, folder).dials for taught in ({}, {"places": ["snow"]}, {"paints": ["red"], "places": []})
    )
    assert (plain.place, plain.repaint) == (0, 0)
    assert places.place > 0 and places.repaint == 0
    assert paints.repaint > 0 and paints.place == 0
