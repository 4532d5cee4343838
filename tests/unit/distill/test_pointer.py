"""A refusal names the line of the recipe that it is about, and none where it is about no line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.pointer import pointed

RECIPE = """\
# a comment
teacher = "emoji"
batch_size = 16
data.pictures = 640

[health]
every = 40

[[stages]]
teacher_steps = 8
steps = 4
n = 2

[[stages]]
teacher_steps = 4
steps = 1
n = 4
lerning_rate = 1
"""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("batch_size = 16: 3 ranks do not divide it", 3),
        ("batch_size: expected int, got 'x'", 3),
        ("data.pictures = 640: too few", 4),
        ("data: pictures: expected int", 4),
        ("health.stop: by nobody", 6),  # its table, for it stands nowhere
        ("data.shards: holds nothing", None),
        ("health: every = 40: too seldom", 7),
        ("stages[0]: steps = 4: no", 11),
        ("stages[1]: 'kind' is missing", 14),
        ("stages[1]: unknown key 'lerning_rate', did you mean", 18),
        ("stage 4 -> 1: no earlier stage makes such a student", 14),
        ("stage 8to4: levels lie elsewhere", 9),
        ("stage 8to4: give another n", 12),
        ("stage 9to3: what nobody wrote", None),
        ("precision = 'float16': set by nobody", None),
        ("it takes too long", None),
        ("/runs/teacher holds a run of another recipe", None),
    ],
)
def test_a_sentence_is_given_the_line_of_its_key(tmp_path: Path, said: str, line: int | None) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    for message in (f"{path}: {said}", said):
        assert pointed(message, path) == (message if line is None else f"{path}, line {line}: {said}")


@pytest.mark.parametrize("setting", ["batch_size=3", "batch_size = 3"])
def test_what_the_command_line_has_changed_stands_in_no_line(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    assert pointed("batch_size = 3: no", path, [setting]) == "batch_size = 3: no"
    assert pointed("stages[1]: steps = 3: no", path, ["stages.1.steps=3", setting]) == "stages[1]: steps = 3: no"
    assert pointed("stages[1]: steps = 3: no", path, ["stages=[]", setting]) == "stages[1]: steps = 3: no"
    assert pointed("stages[0]: steps = 4: no", path, ["stages.1.steps=3", setting]).startswith(f"{path}, line 11: ")
    for added, said in (
        ("health.stop=1", "health: stop: no"),
        ("stages.0.full=-1", "stages[0]: full = -1: no"),
        ("health.evry=1", "health: unknown key 'evry'"),
    ):
        assert pointed(said, path, [added]) == said


def test_a_sentence_is_pointed_once(tmp_path: Path) -> None:
    """Whatever the recipe is called."""
    path = tmp_path / "health.toml"
    path.write_text(RECIPE)
    once = pointed(f"{path}: health: unknown key 'evry'", path)
    assert once == f"{path}, line 6: health: unknown key 'evry'"
    assert pointed(once, path) == once


def test_a_recipe_that_cannot_be_read_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("batch_size = ")
    assert pointed("batch_size = 3: no", tmp_path / "recipe.toml") == "batch_size = 3: no"
    assert pointed("batch_size = 3: no", tmp_path / "none.toml") == "batch_size = 3: no"
