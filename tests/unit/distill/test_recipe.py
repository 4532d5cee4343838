"""A recipe is read exactly, and a broken one is refused with a sentence that names the key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from fewstep.distill.plan import DistillPlan
from fewstep.distill.recipe import RecipeError, read_recipe, recipe_hash, trained_by
from fewstep.distill.state import Run


@dataclass(frozen=True)
class Stage:
    """One of a list of tables."""

    steps: int
    learning_rate: float = 1e-4
    objective: Literal["mse", "adversarial"] = "mse"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: give at least 1")


@dataclass(frozen=True)
class Inner:
    """A table."""

    width: int = 8
    rate: float = 0.5
    on: bool = False


@dataclass(frozen=True)
class Whole:
    """A recipe with every kind of field."""

    name: str
    inner: Inner = field(default_factory=Inner)
    stages: tuple[Stage, ...] = ()
    size: tuple[int, int] = (256, 256)
    source: Path | None = None
    subjects: int | str = 64


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf8")
    return path


FULL = """
name = "test"
size = [64, 32]
source = "somewhere"
subjects = "all"
[inner]
width = 16
rate = 2
on = true
[[stages]]
steps = 8
[[stages]]
steps = 4
objective = "adversarial"
"""


def test_every_value_arrives_with_its_type(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, FULL), Whole)
    assert recipe == Whole(
        name="test",
        inner=Inner(width=16, rate=2.0, on=True),
        stages=(Stage(8), Stage(4, objective="adversarial")),
        size=(64, 32),
        source=Path("somewhere"),
        subjects="all",
    )
    assert isinstance(recipe.inner.rate, float) and isinstance(recipe.source, Path)


def test_what_is_left_out_keeps_its_default(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, 'name = "test"'), Whole) == Whole(name="test")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "t"\ncolour = 1', "unknown key 'colour'; known are name, inner"),
        ('name = "t"\n[inner]\nheight = 1', "inner: unknown key 'height'; known are width, rate, on"),
        ("size = [1, 2]", "'name' is missing"),
        ("name = 3", "name: expected str, got 3"),
        ('name = "t"\n[inner]\nwidth = "wide"', "inner: width: expected int, got 'wide'"),
        ('name = "t"\n[inner]\nwidth = 1.5', "width: expected int, got 1.5"),
        ('name = "t"\n[inner]\nwidth = true', "width: expected int, got True"),
        ('name = "t"\n[inner]\nrate = false', "rate: expected float, got False"),
        ('name = "t"\n[inner]\non = 1', "on: expected bool, got 1"),
        ('name = "t"\ninner = 3', "inner: expected a table, got 3"),
        ('name = "t"\nsize = [1]', "size: expected 2 values, got 1"),
        ('name = "t"\nsize = 64', "size: expected a list, got 64"),
        ('name = "t"\nsubjects = 1.5', "subjects: 1.5 is none of int, str"),
        (
            'name = "t"\n[[stages]]\nsteps = 4\n[[stages]]\nsteps = 2\nobjective = "l2"',
            "stages[1]: objective: 'l2' is none of 'mse', 'adversarial'",
        ),
        ('name = "t"\n[[stages]]\nsteps = 0', "stages[0]: steps = 0: give at least 1"),
        ('name = "t"\n[inner]\nrate = nan', "inner: rate = nan: give a finite number"),
        ("name = ", "not a readable TOML file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, Whole)
    message = str(caught.value)
    assert message.startswith(str(path)) and says in message and "\n" not in message


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such recipe"):
        read_recipe(tmp_path / "none.toml", Whole)
    with pytest.raises(RecipeError, match="not a readable TOML file"):
        read_recipe(tmp_path, Whole)
    for text in ("a = " + "[" * 5000, "a = " + "9" * 5000):
        with pytest.raises(RecipeError, match="not a readable TOML file"):
            read_recipe(write(tmp_path, text), Whole)
    with pytest.raises(RecipeError, match=r"recipe\.toml is empty"):
        trained_by(write(tmp_path, "# nothing"))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(RecipeError, match="not a readable TOML file"):
        read_recipe(tmp_path / "latin.toml", Whole)


def test_settings_override_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    settings = ["inner.rate=1e-5", "subjects=120", "name=plain words", "size=[16, 16]", "inner.on=false", 'source="a=b"']
    recipe = read_recipe(path, Whole, settings)
    assert recipe.inner == Inner(width=16, rate=1e-5, on=False)
    assert (recipe.subjects, recipe.name, recipe.size, recipe.source) == (120, "plain words", (16, 16), Path("a=b"))


def test_a_setting_reaches_one_of_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    assert [stage.steps for stage in read_recipe(path, Whole, ["stages.1.steps=2"]).stages] == [8, 2]
    for setting, said in (
        ("stages.2.steps=2", "'2' is no table"),
        ("stages.steps=2", r"counted from 0, such as stages\.0\.steps"),
        ("stages.0=2", r"such as stages\.0\.KEY"),
    ):
        with pytest.raises(RecipeError, match=said):
            read_recipe(path, Whole, [setting])


def test_a_setting_may_name_a_table_that_the_file_leaves_out(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, 'name = "t"'), Whole, ["inner.width=4"]).inner == Inner(width=4)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("inner.rate", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("inner.colour=3", "unknown key 'colour'"),
        ("name.first=3", "'name' is no table"),
        ("inner.width=wide", "expected int, got 'wide'"),
        ("stages.steps=3", "'stages' is a list"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, setting: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, FULL), Whole, [setting])
    assert says in str(caught.value)


def test_hash_is_of_the_content(tmp_path: Path) -> None:
    plain = read_recipe(write(tmp_path, FULL), Whole)
    laid_out = read_recipe(write(tmp_path, "# a comment\n" + FULL.replace("size = [64, 32]\n", "").replace("name =", "size = [64,32]\nname =")), Whole)
    assert recipe_hash(plain) == recipe_hash(laid_out)
    assert len(recipe_hash(plain)) == 12
    changed = {recipe_hash(dataclasses.replace(plain, **change)) for change in ({"name": "x"}, {"size": (1, 1)}, {"inner": Inner(rate=0.1)}, {})}
    assert len(changed) == 4


def test_a_field_that_a_later_version_brings_leaves_the_hash_as_it_was(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Later(Whole):
        """The same recipe, with more that can be said."""

        new: int = 3
        tables: tuple[Inner, ...] = ()

    plain, later = read_recipe(write(tmp_path, FULL), Whole), read_recipe(write(tmp_path, FULL), Later)
    assert recipe_hash(later) == recipe_hash(plain)
    assert len({recipe_hash(plain), recipe_hash(dataclasses.replace(later, new=4)), recipe_hash(dataclasses.replace(later, tables=(Inner(),)))}) == 3


def test_what_is_aside_counts_once_it_decides() -> None:
    """How a run is evaluated is no part of a recipe, until the best students ship, which it then chooses."""
    recipes = Path(__file__).parents[3] / "recipes"

    def hashed(*settings: str) -> str:
        return recipe_hash(read_recipe(recipes / "smoke.toml", DistillPlan, settings))

    assert hashed() == hashed("evaluation.prompts=8", "evaluation.every=3") == hashed("evaluation.prompts=0")
    best = ["evaluation.ship=best"]
    assert len({hashed(), hashed(*best), hashed(*best, "evaluation.prompts=8"), hashed(*best, "evaluation.figure=distance")}) == 4


def test_a_run_of_another_recipe_is_told_apart_by_its_keys(tmp_path: Path) -> None:
    """As --set takes them, with both values; what is aside may differ."""
    recipes = Path(__file__).parents[3] / "recipes"

    def plan(*settings: str) -> DistillPlan:
        return read_recipe(recipes / "smoke.toml", DistillPlan, settings)

    run = Run.of(plan(), tmp_path)
    run.begin("stage/phase")
    Run.of(plan("accumulate=2", "evaluation.prompts=0"), tmp_path)
    with pytest.raises(RecipeError, match=r"another recipe \(stages\.0\.mse is 7, and was 8, seed is 3, and was left out\): give another --run"):
        Run.of(plan("stages.0.mse=7", "seed=3"), tmp_path)
    with pytest.raises(RecipeError, match="and 1 more"):
        Run.of(plan("stages.0.mse=7", "seed=3", "rank=5", "alpha=3"), tmp_path)


def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    run = Run(tmp_path, "r")
    run.keep_to("the model", "one", "put it back")
    run.begin("stage/phase")
    again = Run(tmp_path, "r")
    again.keep_to("the model", "one", "put it back")
    with pytest.raises(RecipeError, match="began with the model one, and is given other now: put it back, or give another --run"):
        again.keep_to("the model", "other", "put it back")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["evaluation.ship=best", "evaluation.prompts=0"], "without evaluation nothing says which is best"),
        (["evaluation.prompts=1"], "give at least two pictures"),
        (["evaluation.every=-1"], "every = -1"),
        (["evaluation.figure=beauty"], "'beauty' is none of 'auto', 'adherence'"),
    ],
)
def test_an_evaluation_that_cannot_be(settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(Path(__file__).parents[3] / "recipes" / "smoke.toml", DistillPlan, settings)
    assert says in str(caught.value)
