"""The verbs ``fewstep train`` and ``fewstep distill``: their options, and nothing heavy before they are called."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from fewstep.engine.request import RequestError

Settings = Annotated[list[str] | None, typer.Option("--set", help="Change a value of the recipe: key=value. May be repeated.")]
RunFolder = Annotated[Path | None, typer.Option("--run", help="Folder of the run; $FEWSTEP_RUNS/NAME of the recipe by default.")]
MAKERS = {  # by what a recipe makes: the verb, and the module and function that carry it out
    "teacher": ("train", "pretrain", "train_teacher"),
    "judge": ("train", "judge", "train_judge"),
    "controlnet": ("train", "edges", "train_edges"),
    "students": ("distill", "walk", "distill"),
    "autoencoder": ("distill", "compact", "train_autoencoder"),
    "decoder": ("distill", "decoder", "train_decoder"),
}


def train(recipe: Path, run: RunFolder = None, settings: Settings = None) -> None:
    """Train an autoencoder, text encoders and a teacher, a ControlNet, or the judge that evaluates, as a recipe says. Goes on where it was stopped."""
    _carry_out("train", recipe, run, settings or [])


def distill(
    words: Annotated[
        list[str], typer.Argument(metavar="RECIPE | plan RECIPE | status RUN", help="What to do, what to forecast, or the folder of a run to look at.")
    ],
    run: RunFolder = None,
    settings: Settings = None,
    start: Annotated[str | None, typer.Option("--from", metavar="RUN:STEPS", help="Go on from that student of another run, or a model's.")] = None,
    json: Annotated[Path | None, typer.Option(help="With plan and status: write it as JSON; with - print it.")] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="here|cpu|1x24gb|1x80gb|8x80gb", help="With plan: for which machine.  [default: the recipe's own, else here]"),
    ] = None,
) -> None:
    """Distil students from a teacher, stage by stage, or a smaller autoencoder or decoder, as a recipe says. Goes on where it was stopped.

    "fewstep distill plan RECIPE" says what it would take, memory, time and disk, and exits with 1 where it does not fit; it knows train's recipes
    as well. "fewstep distill status RUN" says from another terminal how a run is doing.
    """
    changes = [*(settings or []), *([f"start={start}"] if start else [])]
    if words[0] == "status" and len(words) == 2:
        from fewstep.distill.watch import status
        from fewstep.engine.output import tell

        found = status.read_status(Path(words[1]))
        return tell(status.lines(found), found, json)
    if words[0] == "plan" and len(words) == 2:
        from fewstep.distill.forecast.forecast import as_json, forecast
        from fewstep.distill.forecast.foretell import lines
        from fewstep.engine.output import check_writable, tell

        check_writable("--json", json)
        with pointing(Path(words[1]), changes):
            foretold = forecast(Path(words[1]), on or "", changes, run or run_folder(Path(words[1])))
        tell(lines(foretold), as_json(foretold), json)
        raise typer.Exit(0 if foretold.fits else 1)
    if len(words) != 1 or json is not None or on is not None:
        raise RequestError(f"fewstep distill {' '.join(words)}: give one recipe, plan and a recipe, or status and the folder of a run")
    _carry_out("distill", Path(words[0]), run, changes)


def _carry_out(verb: str, recipe: Path, run: Path | None, changes: Sequence[str]) -> None:
    from fewstep.distill.recipe import RecipeError, trained_by

    kind = trained_by(recipe)
    right, module, function = MAKERS[kind]
    if verb != right:
        raise RecipeError(f"{recipe} is for another verb, for what it makes is {kind}: fewstep {right} {recipe}")
    folder = run or run_folder(recipe)
    try:
        with pointing(recipe, changes):
            if kind == "students":
                from fewstep.distill.forecast.enough import check_memory

                check_memory(recipe, changes, folder)
            print(getattr(import_module(f"fewstep.distill.{module}"), function)(recipe, folder, changes))
    except KeyboardInterrupt:
        from fewstep.engine.run import INTERRUPTED

        print(f"fewstep: interrupted; the same command goes on in {folder}, from the last checkpoint", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def pointing(recipe: Path, changes: Sequence[str]) -> Iterator[None]:
    """A context in which a refusal names the line of the ``recipe`` that it is about."""
    from fewstep.distill.pointer import pointed
    from fewstep.distill.recipe import RecipeError

    try:
        yield
    except RecipeError as error:
        raise RecipeError(pointed(str(error), recipe, changes)) from None


def run_folder(recipe: Path) -> Path:
    """$FEWSTEP_RUNS/NAME, by default ~/.fewstep/runs/NAME, for a recipe NAME.toml."""
    return Path(os.environ.get("FEWSTEP_RUNS") or Path.home() / ".fewstep" / "runs") / recipe.stem
