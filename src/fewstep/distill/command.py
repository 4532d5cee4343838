"""The verbs ``fewstep train`` and ``fewstep distill``: their options, and nothing heavy before they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fewstep.engine.request import RequestError

Settings = Annotated[list[str] | None, typer.Option("--set", help="Change a value of the recipe: key=value. May be repeated.")]
RunFolder = Annotated[Path | None, typer.Option("--run", help="Folder of the run; $FEWSTEP_RUNS/NAME of the recipe by default.")]


def train(recipe: Path, run: RunFolder = None, settings: Settings = None) -> None:
    """Train an autoencoder, text encoders and a teacher, a ControlNet, or the judge that evaluates, as a recipe says. Goes on where it was stopped."""
    from fewstep.distill.recipe import trained_by

    if (kind := trained_by(recipe)) == "judge":
        from fewstep.distill.judge import train_judge as work
    elif kind == "controlnet":
        from fewstep.distill.edges import train_edges as work
    else:
        from fewstep.distill.pretrain import train_teacher as work
    print(work(recipe, run or run_folder(recipe), settings or []))


def distill(
    words: Annotated[
        list[str], typer.Argument(metavar="RECIPE | plan RECIPE | status RUN", help="What to do, what to forecast, or the folder of a run to look at.")
    ],
    run: RunFolder = None,
    settings: Settings = None,
    start: Annotated[str | None, typer.Option("--from", metavar="RUN:STEPS", help="Go on from that student of another run, or a model's.")] = None,
    json: Annotated[Path | None, typer.Option(help="With plan and status: write it as JSON.")] = None,
    on: Annotated[str | None, typer.Option("--on", metavar="cpu|1x24gb|1x80gb|8x80gb", help="With plan: for which machine.  [default: this one]")] = None,
) -> None:
    """Distil students from a teacher, stage by stage, or a smaller autoencoder or decoder, as a recipe says. Goes on where it was stopped.

    "fewstep distill plan RECIPE" says what it would take, memory, time and disk, and exits with 1 where it does not fit; it knows train's recipes
    as well. "fewstep distill status RUN" says from another terminal how a run is doing.
    """
    changes = [*(settings or []), *([f"start={start}"] if start else [])]
    if words[0] == "status" and len(words) == 2:
        from fewstep.distill.watch.status import show

        print("\n".join(show(Path(words[1]), json)))
        return
    if words[0] == "plan" and len(words) == 2:
        from fewstep.distill.forecast.foretell import foretell

        shown, fits = foretell(Path(words[1]), on or "", changes, run or run_folder(Path(words[1])), json)
        print("\n".join(shown))
        raise typer.Exit(0 if fits else 1)
    if len(words) != 1 or json is not None or on is not None:
        raise RequestError(f"fewstep distill {' '.join(words)}: give one recipe, plan and a recipe, or status and the folder of a run")
    from fewstep.distill.recipe import trained_by

    recipe = Path(words[0])
    if (kind := trained_by(recipe)) == "autoencoder":
        from fewstep.distill.compact import train_autoencoder as work
    elif kind == "decoder":
        from fewstep.distill.decoder import train_decoder as work
    else:
        from fewstep.distill.walk import distill as work
    print(work(recipe, run or run_folder(recipe), changes))


def run_folder(recipe: Path) -> Path:
    """$FEWSTEP_RUNS/NAME, by default ~/.fewstep/runs/NAME, for a recipe NAME.toml."""
    return Path(os.environ.get("FEWSTEP_RUNS") or Path.home() / ".fewstep" / "runs") / recipe.stem
