"""The command line: every verb is a thin call, and this is the one place that turns a user's errors into sentences.

Exit codes: 0 done, 1 some pictures failed, 2 bad input, 130 interrupted. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from errno import ENOSPC
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.batch.command import batch
from fewstep.data.command import data
from fewstep.distill.command import distill, train
from fewstep.engine.options import parse_outpaint, parse_pair, parse_size, prompts_of, read_image, requests_of
from fewstep.engine.request import ASPECTS, BACKENDS, HINTS, PRECISIONS, TILES, RequestError
from fewstep.serve.command import serve

if TYPE_CHECKING:
    from fewstep.engine.record import Record

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
EXIT_CODES = {  # by module and name, so that telling them apart imports nothing
    ("fewstep.engine.request", "RequestError"): BAD_INPUT,
    ("fewstep.zoo.registry", "ModelError"): BAD_INPUT,
    ("fewstep.stamp", "StepMismatch"): BAD_INPUT,
    ("fewstep.models.weights", "WeightsError"): BAD_INPUT,
    ("fewstep.engine.backends", "BackendError"): BAD_INPUT,
    ("fewstep.data.shards", "ShardsError"): BAD_INPUT,
    ("fewstep.distill.trainer", "Unread"): BAD_INPUT,
    ("fewstep.distill.recipe", "RecipeError"): BAD_INPUT,
    ("fewstep.distill.trainer", "NonFinite"): FAILED,
    ("fewstep.distill.trainer", "Stopped"): FAILED,
    ("fewstep.distill.state", "DiskFull"): FAILED,
    ("fewstep.distill.workers", "WorkerDied"): FAILED,
    ("fewstep.distill.trainer", "Terminated"): INTERRUPTED,
}

EXTRAS = {  # by what is not there
    "torch": "sdxl",
    "diffusers": "sdxl",
    "transformers": "sdxl",
    "accelerate": "sdxl",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "torchao": "quantize",
    "pyarrow": "parquet",
    "pandas": "ray",
    "ray": "ray",
    "tensorboard": "trackers",
    "wandb": "trackers",
}

app = typer.Typer(
    help="Text-to-image in 1, 2, 4 or 8 steps.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # whoever started this has closed it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process lives
        elif isinstance(stream := getattr(sys, name), TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show is told all the same
    try:
        sys.exit(app(arguments, prog_name="fewstep", standalone_mode=False) or 0)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        code, sentence = explained
        print(sentence if type(error).__name__ == "NoArgsIsHelpError" else f"fewstep: {sentence}", file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:  # before a verb has its own way to end
        sys.exit(INTERRUPTED)


def explain(error: BaseException) -> tuple[int, str] | None:
    """(exit code, the one sentence to show) for an error that is for the user to know, None for one that is ours."""
    for kind in type(error).__mro__:
        if code := EXIT_CODES.get((kind.__module__, kind.__name__)):
            return code, str(error)
    if isinstance(error, typer.Abort):
        return FAILED, "aborted"
    if hasattr(error, "format_message"):  # typer's, on words and options that it does not know
        return BAD_INPUT, _misused(error)
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get((error.name or "").split(".")[0])):
        return BAD_INPUT, f"this needs {error.name}, which the plain install does not bring: python -m pip install 'fewstep[{extra}]'"
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        less = "give --memory model or sequential, a smaller size, or fewer pictures at once; in training what fewstep distill plan says"
        return BAD_INPUT, f"the card does not hold this besides what is on it: {less}"
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):
        return BAD_INPUT, "there is not enough memory for this besides what is in it: give a smaller size, fewer pictures at once, or --decoder tiny"
    if (type(error) is OSError and error.errno == ENOSPC) or "(os error 28)" in str(error):  # the second is how safetensors says it
        return FAILED, "the disk is full: make room, and give the same command again"
    if isinstance(error, OSError):
        reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
        return BAD_INPUT, f"{error.filename}: {reason}" if error.filename and error.strerror else reason
    return None


def _misused(error: Any) -> str:
    """What typer says, in one sentence, with what was given and where to read on; its help where nothing was."""
    message = str(error.format_message()).rstrip(".")
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    if hasattr(error.__cause__, "errors"):  # of a check that does not say itself what it checked
        message = message.replace("Invalid value", f"Invalid value {error.__cause__.errors()[0]['input']!r}", 1)
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path if context else 'fewstep'} --help"


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from fewstep import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw. Several prompts give a picture each.")] = None,
    steps: Annotated[int | None, typer.Option(help="Network evaluations: 1, 2, 4 or 8.  [default: 4]", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first picture; the next ones count up. Random by default.")] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Pictures of each prompt.")] = 1,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size in pixels.")] = None,
    aspect: Annotated[str | None, typer.Option(metavar="|".join(ASPECTS), help="Shape, instead of a size.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .png, .webp or .jpg file, or a folder.")] = None,
    kind: Annotated[str | None, typer.Option("--format", metavar="png|webp|jpeg", help="Of files in a folder.  [default: png]", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="A known name, a folder, a file or a Hub id.  [default: emoji]", show_default=False)] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="What few-step weights are put on, instead of their own base.")] = None,
    few_step: Annotated[str | None, typer.Option(metavar="NAME:STEPS", help="Few-step weights for a base: lightning-lora:4, or a LoRA's file.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="|".join(BACKENDS), help="Who computes.  [default: auto]", show_default=False)] = None,
    memory: Annotated[str, typer.Option(metavar="auto|full|model|sequential", help="What of the model is on the card at once.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(metavar="|".join(PRECISIONS), help="Numbers that are computed with.  [default: auto]", show_default=False)
    ] = None,
    decoder: Annotated[str | None, typer.Option(metavar="full|tiny|tiled", help="Who turns latents into pixels.  [default: full]", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu; the first there is by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a picture.")] = False,
    source: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Make the picture of this file again.")] = None,
    file: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="Read prompts from a file, one a line.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Begin from this picture.")] = None,
    strength: Annotated[float | None, typer.Option(metavar="0..1", help="How much of it to make anew.  [default: 0.5]", show_default=False)] = None,
    mask: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to repaint it, in white; black stays to the bit.")] = None,
    outpaint: Annotated[str | None, typer.Option(metavar="L,T,R,B", help="Extend it by so many pixels: left, top, right, bottom.")] = None,
    blend: Annotated[str | None, typer.Option(metavar="PROMPT", help="A second prompt to mix in.")] = None,
    blend_weight: Annotated[float | None, typer.Option(metavar="0..1", help="Its share.  [default: 0.5]", show_default=False)] = None,
    prompt_2: Annotated[str | None, typer.Option("--prompt-2", metavar="PROMPT", help="What the second text encoder reads instead.")] = None,
    negative: Annotated[str | None, typer.Option(metavar="PROMPT", help="What to lead the picture away from.")] = None,
    nag_scale: Annotated[float | None, typer.Option(metavar="1..100", help="How far, by attention.  [default: 2]", show_default=False)] = None,
    guidance_scale: Annotated[float | None, typer.Option(metavar="W", help="Classifier-free guidance, above 1; takes twice the time.")] = None,
    literal: Annotated[bool, typer.Option("--literal", help="Take brackets and braces in prompts for themselves.")] = False,
    original_size: Annotated[str | None, typer.Option(metavar="WxH", help="Tell the model of this size before scaling.")] = None,
    crop: Annotated[str | None, typer.Option(metavar="L,T", help="Tell it of so many pixels cut off on the left and above.")] = None,
    target_size: Annotated[str | None, typer.Option(metavar="WxH", help="Tell it of this size as wanted.")] = None,
    variation_seed: Annotated[int | None, typer.Option(metavar="N", help="Another seed, to go some of the way to.")] = None,
    variation: Annotated[
        list[str] | None, typer.Option(metavar="0..1|SEED:SHARE", help="How much of the way; with a seed, from there on. May be repeated.")
    ] = None,
    transparent: Annotated[bool, typer.Option("--transparent", help="Cut the flat background out.")] = False,
    tile: Annotated[str | None, typer.Option(metavar="|".join(TILES), help="Without a seam, to be laid side by side along these.")] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[:WEIGHT]", help="A LoRA over the weights, at 1 or that. May be repeated.")] = None,
    control: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A picture that the composition follows. May be repeated.")] = None,
    controlnet: Annotated[
        list[str] | None, typer.Option(metavar="FILE[:WEIGHT[:START-END]]", help="Who reads it, instead of the model's own (own). May be repeated.")
    ] = None,
    hint: Annotated[list[str] | None, typer.Option(metavar="|".join(HINTS), help="What to make of it first.  [default: given]", show_default=False)] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Put all pictures into one as well, with an atlas in FILE.json.")] = None,
) -> None:
    """Make pictures of prompts."""
    from fewstep.engine.adapters import find_again, given_loras
    from fewstep.engine.control import given_controls, same_controls
    from fewstep.engine.run import again, generate
    from fewstep.engine.variations import given_variations

    given: dict[str, Any] = {"image": image and read_image(image, "--image"), "mask": mask and read_image(mask, "--mask")}
    wanted: dict[str, Any] = {"seed": seed, "steps": steps, "aspect": aspect, "blend": blend, "blend_weight": blend_weight}
    wanted |= {"variation_seed": variation_seed, "strength": strength, "outpaint": parse_outpaint(outpaint), **given_variations(variation or [])}
    wanted |= {"prompt_2": prompt_2, "negative": negative, "nag_scale": nag_scale, "guidance_scale": guidance_scale}
    wanted |= {"original_size": parse_pair(original_size, "--original-size"), "crop": parse_pair(crop, "--crop", ",")}
    wanted |= {"target_size": parse_pair(target_size, "--target-size"), "tile": tile}
    record: Record | None = None
    followed = [read_image(path, "--control") for path in control or ()]
    if source is not None:
        others = (file, size, backend, precision, decoder, device, sheet, hint, *wanted.values())
        if prompts or count != 1 or transparent or literal or any(value is not None for value in others):
            few = "--image, --mask, --control, --controlnet, --lora, --out, --format, --model, --json"
            raise RequestError(f"--from repeats a picture as it was made: give it alone, at most with {few}")
        record, kind = again(source, out, kind, model or base)
        given["control"] = same_controls(record.control or (), followed, controlnet or ())
        requests = [record.again(**given, loras=find_again(record.loras or (), lora or [], (source.parent, Path())))]
    else:
        width, height = (None, None) if size is None else parse_size(size)
        given["control"] = given_controls(followed, controlnet or (), hint or ())
        wanted |= {"transparent": transparent, "literal": literal, "loras": given_loras(lora or [])}
        requests = requests_of(prompts_of(prompts, file), count, width=width, height=height, **wanted, **given)
    name = model or (record.model if record and not base else "emoji")
    computing = backend or "auto", decoder or "full", device, base, few_step, memory, precision or "auto"
    raise typer.Exit(generate(name, requests, record, (out, kind, sheet), as_json, steps, *computing))


app.command()(serve)
app.command()(batch)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="MODEL", help="A known name, a folder or an id on the Hub.")] = None,
    subjects: Annotated[bool, typer.Option("--subjects", help="Print the subjects it can draw, one a line.")] = False,
) -> None:
    """List the known models with licence, size and what is on this disk, or say what one can do and what to type to fetch it."""
    from fewstep.engine.listing import describe, known, taught

    if name is None:
        if subjects:
            raise RequestError("whose subjects: give a model, for instance fewstep models emoji --subjects")
        print("\n".join(known()))
    else:
        print("\n".join(taught(name) if subjects else describe(name)))


@app.command()
def doctor(json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as JSON; with - print it.")] = None) -> None:
    """Say what this machine can run: memory, device, what is installed, and which models fit."""
    from fewstep.engine.doctor import facts, report
    from fewstep.engine.output import check_writable, tell

    check_writable("--json", json)
    found = facts()
    tell((f"{what:<18}{state}" for what, state in report(found)), found, json)


app.add_typer(data, name="data")


app.command()(train)
app.command()(distill)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A known name or a diffusers folder.")] = "emoji",
    source: Annotated[Path | None, typer.Option(help="Where the emoji are drawn from, as for 'data'; needed.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the table as JSON; with - print it.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the table and sample grids.")] = None,
    count: Annotated[int, typer.Option(min=2, help="Held-out prompts.")] = 500,
    precision: Annotated[str, typer.Option(metavar="|".join(PRECISIONS), help="Numbers that are computed with.")] = "auto",
) -> None:
    """Measure a model and its students against real renders."""
    from fewstep.evals.run import run
    from fewstep.zoo.registry import find

    run(find(model), source=source, json=json, html=html, count=count, precision=precision)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A known name, a folder, a file or a Hub id.")],
    steps: Annotated[int, typer.Option(help="Which student.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or a .safetensors file.")],
    to: Annotated[str, typer.Option(help="diffusers, unet, lora, single-file, onnx or graphs.")] = "diffusers",
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="What few-step weights are put on, instead of their own base.")] = None,
    few_step: Annotated[str | None, typer.Option(metavar="NAME:STEPS", help="Few-step weights for a base: lightning-lora:4, or a LoRA's file.")] = None,
    rank: Annotated[int, typer.Option(help="Of a LoRA that is extracted from a whole UNet.")] = 64,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to this repository of the Hub, with its card.")] = None,
) -> None:
    """Write one student for other tools."""
    from fewstep.engine.model import check_choice, open_model
    from fewstep.export import FORMATS, about, write

    check_choice("--to", to, FORMATS)
    found = open_model(model, steps, base, few_step)
    if push is not None:
        from fewstep.export.push import check_push

        check_push(push, to)
    path = write(found, steps, to, out, rank)
    print(path, *about(path, to), sep="\n")
    if push is not None:
        from fewstep.export.push import publish

        print(publish(path, push))


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="A known name or a diffusers folder.")] = "emoji",
    architecture: Annotated[str | None, typer.Option(metavar="sdxl", help="SDXL at full size with random weights, instead of a model.")] = None,
    only: Annotated[str | None, typer.Option(metavar="LIST", help="Of compare,memory,standard,stages,growth,startup.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="LIST", help="Step counts.  [default: 1,2,4,8]", show_default=False)] = None,
    batch: Annotated[str | None, typer.Option(metavar="LIST", help="Pictures at once.  [default: 1,4,8]", show_default=False)] = None,
    size: Annotated[str | None, typer.Option(metavar="LIST", help="Pixels a side.  [default: the model's own]", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help="Cores for both sides.  [default: all there are]", show_default=False)] = None,
    rounds: Annotated[int | None, typer.Option(help="Times that every figure is taken.")] = None,
    backend: Annotated[str, typer.Option(help="Of the engine.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: to see that it works.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the tables as JSON; into a folder as the machine's kind, with - print them.")] = None,
) -> None:
    """Measure speed, memory and start-up, side by side with diffusers and with what the hardware allows."""
    from fewstep.bench.options import settle

    options = settle(model, architecture, only, steps, batch, size, threads, rounds, backend, quick, json)
    from fewstep.bench.run import run

    raise typer.Exit(run(options))
