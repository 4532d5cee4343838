"""The verbs ``fewstep data emoji`` and ``fewstep data prepare``: their options, and nothing heavy before they are called."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fewstep.engine.request import RequestError

data = typer.Typer(help="Render scenes to train on, or prepare pictures of your own.", no_args_is_help=True, rich_markup_mode=None)


@data.command()
def emoji(
    source: Annotated[Path, typer.Option(help="A checkout of googlefonts/noto-emoji, or NotoColorEmoji.ttf.")],
    out: Annotated[Path, typer.Option(help="A folder for the pictures and captions.jsonl.")],
    count: Annotated[int, typer.Option(help="Scenes.")] = 1000,
    subjects: Annotated[str, typer.Option(help="A number up to 120, 'groups' or 'all'.")] = "120",
    seed: Annotated[int, typer.Option(min=0, help="Scene i is a function of this and i.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="DIAL=VALUE", help="Such as place=0.5, a share of the scenes.")] = None,
) -> None:
    """Render scenes with captions, as the embedded model saw them in training. The same command goes on where it was stopped."""
    from fewstep.data.emoji import TAUGHT, Dials
    from fewstep.data.export import write_scenes

    try:
        dials = Dials.of(settings or (), TAUGHT)
        drawn = write_scenes(source, out, count, int(subjects) if subjects.isdecimal() else subjects, seed, dials)
    except ValueError as error:
        raise RequestError(str(error)) from None
    print(f"{out}  {count} scenes, {drawn} drawn now")


@data.command()
def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder of pictures, WebDataset's .tar or .parquet files, or ORG/NAME in the Hub's cache.")],
    out: Annotated[Path, typer.Option(help="A folder for the shards. The same command goes on where it was stopped.")],
    model: Annotated[str, typer.Option(help="Whose autoencoder and text encoders encode: a known name, a folder or a Hub id.")] = "emoji",
    min_side: Annotated[int, typer.Option(metavar="N", help="Pixels of the shorter side at least; 0: none is enlarged.")] = 0,
    min_sharpness: Annotated[float, typer.Option(metavar="X", help="Variance of the Laplacian, in the sharpest of 16 tiles, at least; 0: any.")] = 100.0,
    min_words: Annotated[int, typer.Option(metavar="N", help="Words of a cleaned caption at least.")] = 2,
    same_caption: Annotated[int, typer.Option(metavar="N", help="Pictures that share a caption at most; 0: any number.")] = 100,
    min_score: Annotated[float, typer.Option(metavar="X", help="Aesthetic score at least, 5.5 in the paper; 0: any.")] = 0.0,
    scorer: Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Who scores; by default the source's own column 'aesthetic'.")] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes of this machine that decode and filter.")] = 1,
    device: Annotated[str | None, typer.Option(help="That encodes: cuda, mps or cpu; the first there is by default.")] = None,
    on: Annotated[str, typer.Option(metavar="here|ray|HOST:PORT", help="Who does it: this machine, or a Ray cluster.")] = "here",
    actors: Annotated[str | None, typer.Option(metavar="N|MIN-MAX", help="That encode, on the cluster.  [default: as many as there is room for]")] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="Of each; 0.5 are two on one GPU.  [default: 1 if the cluster has any]", show_default=False)
    ] = None,
    cpus_per_actor: Annotated[int | None, typer.Option(help="Of each, and its threads.  [default: 1]", show_default=False)] = None,
) -> None:
    """Filter pictures with captions and encode them into shards that 'train' and 'distill' take; end with an audit of what was dropped."""
    from fewstep.data.filters import Rules
    from fewstep.data.score import Score, load_scorer
    from fewstep.data.sources import open_source
    from fewstep.engine.device import best_device
    from fewstep.engine.where import HERE, Where
    from fewstep.zoo.registry import find

    where = Where(on, actors, gpus_per_actor, cpus_per_actor)
    if scorer is not None and not min_score:
        raise RequestError(f"--scorer {scorer} without --min-score: say what score a picture must have")
    if on != HERE and workers > 1:
        raise RequestError(f"--workers {workers} is for this machine: on a cluster every processor that is free decodes and filters; leave it out")
    found, folder = open_source(source), find(model)
    if folder.is_file():
        raise RequestError(f"{model} is one file: give the folder of a model, in diffusers' layout")
    if on == HERE:
        score = load_scorer(scorer)
    else:
        from fewstep.engine.cluster import reach

        reach(on)
        score = Score(scorer or "")
    from fewstep.data.encode import encoders_key
    from fewstep.data.prepare import Aim, Candidates, here, prepare
    from fewstep.engine.backends.eager import check_device
    from fewstep.models.bundle import load_bundle

    if device and on == HERE:
        check_device(device)
    bundle = load_bundle(folder, (device or best_device()) if on == HERE else "cpu", unet=False)
    rules = Rules(bundle.factor * int(bundle.unet.config.sample_size), min_side, min_sharpness, min_words, same_caption, min_score)
    aim = Aim(encoders_key(bundle), model, rules, score)
    candidates: Candidates = partial(here, bundle, rules, workers)
    if on != HERE:
        from fewstep.data.ray import Plan
        from fewstep.data.ray import candidates as candidates_of

        del bundle
        candidates = partial(candidates_of, Plan.of(model, aim.key, rules, scorer, device), where)
    audit = prepare(found, out, aim, candidates, lambda line: print(line, file=sys.stderr))
    print("\n".join(audit.table()))
    print(f"{out}  {audit.kept} pictures; {out / 'audit.html'} shows examples")
    if not audit.kept:
        raise RequestError(f"none of {audit.seen} pictures was kept: see {out / 'audit.html'}")
