"""The verb ``fewstep batch``: its options, and nothing heavy before it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewstep.engine.request import BACKENDS, MOST_BATCH


def batch(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Rows to make: .csv, .tsv, .jsonl, .yaml, .parquet, or .txt with one prompt a line.")],
    out: Annotated[str, typer.Option(metavar="FOLDER|s3://…", help="Folder of the job. The same command goes on with what is missing in it.")],
    template: Annotated[str | None, typer.Option(metavar="TEXT", help="The prompt, with columns in braces: 'a {animal} on a {colour} background'.")] = None,
    combine: Annotated[str, typer.Option(metavar="zip|matrix", help="Row by row, or every combination of the columns' values.")] = "zip",
    aspects: Annotated[str | None, typer.Option(metavar="LIST", help="Every row in these shapes: 1:1,4:5,16:9, or a network's: instagram,x …")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="LIST", help="Every row with these seeds: 1-8, or 1,5,9-12. By default a row's number.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="For rows that do not say. May be repeated.")] = None,
    keep: Annotated[str | None, typer.Option(metavar="LIST", help="Columns that are for the results alone.")] = None,
    steps: Annotated[int | None, typer.Option(help="Network evaluations of rows that do not say.  [default: 4]", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="A known name, a folder, a file or a Hub id.")] = "emoji",
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="What few-step weights are put on, instead of their own base.")] = None,
    few_step: Annotated[str | None, typer.Option(metavar="NAME:STEPS", help="Few-step weights for a base: lightning-lora:4, or a LoRA's file.")] = None,
    backend: Annotated[str, typer.Option(metavar="|".join(BACKENDS), help="Who computes.")] = "auto",
    decoder: Annotated[str, typer.Option(metavar="full|tiny", help="Who turns latents into pixels.")] = "full",
    device: Annotated[str | None, typer.Option(metavar="LIST", help="cuda, mps or cpu, or several: cuda:0,cuda:1. The first there is by default.")] = None,
    kind: Annotated[str, typer.Option("--format", metavar="png|webp|jpeg", help="Of the pictures.")] = "png",
    most: Annotated[int, typer.Option("--batch", help="Pictures made at once, if they are of one kind.")] = MOST_BATCH,
    tars: Annotated[int | None, typer.Option(metavar="N", help="Tar files of N pictures, as WebDataset reads them, instead of folders.")] = None,
    score: Annotated[str | None, typer.Option(metavar="judge|clip", help="Have each picture looked at: does it show what its prompt says?")] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write results.parquet as well.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that fails.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many, how long and how much disk, from a few that are made and thrown away.")] = False,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the summary as JSON; with - print progress and all as JSON lines.")] = None,
    metrics: Annotated[Path | None, typer.Option(metavar="FILE.prom", help="Keep the progress there, as Prometheus reads it.")] = None,
    on: Annotated[str, typer.Option(metavar="here|ray|HOST:PORT", help="Who makes them: this machine, or a Ray cluster.")] = "here",
    actors: Annotated[str | None, typer.Option(metavar="N|MIN-MAX", help="Engines on the cluster.  [default: as many as there is room for]")] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="Of each; 0.5 are two on one GPU.  [default: 1 if the cluster has any]", show_default=False)
    ] = None,
    cpus_per_actor: Annotated[int | None, typer.Option(help="Of each, and its threads.  [default: 1]", show_default=False)] = None,
) -> None:
    """Make the pictures of a list, and go on where it was stopped."""
    from fewstep.batch.options import Options
    from fewstep.batch.run import run

    kept = tuple(name.strip() for name in keep.split(",") if name.strip()) if keep else ()
    options = Options(
        manifest=manifest,
        out=out,
        model=model,
        base=base,
        few_step=few_step,
        steps=steps,
        backend=backend,
        decoder=decoder,
        device=device,
        template=template,
        combine=combine,
        aspects=aspects,
        seeds=seeds,
        settings=tuple(settings or ()),
        keep=kept,
        format=kind,
        batch=most,
        tars=tars,
        score=score,
        parquet=parquet,
        strict=strict,
        dry_run=dry_run,
        json=json,
        metrics=metrics,
        on=on,
        actors=actors,
        gpus_per_actor=gpus_per_actor,
        cpus_per_actor=cpus_per_actor,
    )
    raise typer.Exit(run(options))
