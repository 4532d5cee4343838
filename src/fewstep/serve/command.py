"""The verb ``fewstep serve``: its options, and nothing heavy before it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[str, typer.Option(help="Address to bind; others than this machine's own need --api-key or --no-auth.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    model: Annotated[str, typer.Option(help="A known name, a diffusers folder, a .safetensors file or an id on the Hub.")] = "emoji",
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="What few-step weights are put on, instead of their own base.")] = None,
    few_step: Annotated[str | None, typer.Option(metavar="NAME:STEPS", help="Few-step weights for a base: lightning-lora:4, or a LoRA's file.")] = None,
    api_key: Annotated[list[str] | None, typer.Option(envvar="FEWSTEP_API_KEY", help="Answer only who gives it. May be repeated.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Answer everybody, on any address.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A name that this server is known by. May be repeated.")] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(metavar="ORIGIN", help="Pages that may use it, as https://name. May be repeated.")] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/minute", help="Requests of one client, or off.  [default: off; 300/minute on other addresses]", show_default=False)
    ] = None,
    lora_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Offer the LoRAs in this folder, by name.")] = None,
    controlnet: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The ControlNet that reads control images.  [default: the model's own]", show_default=False),
    ] = None,
    checker: Annotated[str | None, typer.Option(metavar="MODULE:FUNCTION", help="Asked about every prompt and picture; see docs/serving.md.")] = None,
    on: Annotated[str, typer.Option(metavar="here|ray|HOST:PORT", help="Who serves: this process, or replicas on a Ray cluster.")] = "here",
    replicas: Annotated[
        str | None, typer.Option(metavar="N|MIN-MAX", help="On the cluster.  [default: from 1 to as many as there is room for]", show_default=False)
    ] = None,
    gpus_per_replica: Annotated[
        float | None, typer.Option(help="Of each; 0.5 are two on one GPU.  [default: 1 if the cluster has any]", show_default=False)
    ] = None,
    cpus_per_replica: Annotated[int | None, typer.Option(help="Of each, and its threads.  [default: 1]", show_default=False)] = None,
) -> None:
    """Serve the studio, pictures over HTTP and live sessions over a WebSocket."""
    from fewstep.engine.where import HERE, Where
    from fewstep.serve.guard import Access

    where = Where(on, replicas, gpus_per_replica, cpus_per_replica, noun="replica")
    access = Access(host, tuple(api_key or ()), no_auth, tuple(allow_host or ()), tuple(allow_origin or ()), rate)
    if where.on == HERE:
        from fewstep.serve.run import run

        run(port, model, access, checker, base, few_step, lora_dir, controlnet)
        return
    from fewstep.serve.ray import run as run_on_ray
    from fewstep.serve.replica import Plan

    run_on_ray(where, port, Plan(model, base, few_step, access, checker, lora_dir, controlnet=controlnet))
