"""What the models are and what one can do, in lines for people. Loads no weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fewstep.engine.model import open_model
from fewstep.engine.request import ASPECTS, TEACHER_STEPS
from fewstep.engine.words import read_words
from fewstep.stamp import Stamp
from fewstep.zoo.hub import cached
from fewstep.zoo.known import KNOWN, Known
from fewstep.zoo.registry import PICKLES, entries, entry


def known() -> Iterator[str]:
    """A line for each known model: its steps, its size, how much of it is on this disk, its licence, and what it is."""
    rows = []
    for one in entries():
        steps = steps_of(one.known) if one.known.repo else ", ".join(map(str, one.steps))
        rows.append((one.known.name, steps, size_of(one.known, one.megabytes), one.state, one.known.licence.split(" (")[0], one.known.about))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def steps_of(known: Known) -> str:
    """The step counts that a known model of the Hub takes, in words: a teacher's is its usual one."""
    counts = known.steps
    if len(counts) > 2 and counts == tuple(range(counts[0], counts[-1] + 1)):
        return f"{counts[0]} to {counts[-1]}"
    return ", ".join(map(str, counts or (known.default_steps,)))


def size_of(known: Known, megabytes: float = 0.0) -> str:
    """How large a known model is: all of it, or one file for those that are weights for a base; what ships inside has so many ``megabytes``."""
    sizes = {one.gigabytes for one in known.weights}
    if not known.repo:
        return f"{megabytes:.0f} MB"
    if not sizes:
        return f"{known.gigabytes:g} GB"
    least, most = min(sizes), max(sizes)
    return f"{most:g} GB a file" if least == most else f"{least:g} to {most:g} GB a file"


def taught(model: str) -> list[str]:
    """The subjects that ``model``, a known name or a folder, was taught to draw. Raises ModelError, RequestError."""
    return read_words(open_model(model).folder).get("subjects", [])


def describe(model: str) -> Iterator[str]:
    """What one model can do; of a known one that is not whole on this disk, what it is and what to type for the rest.

    Raises ModelError, RequestError.
    """
    found = KNOWN.get(model)
    if found and found.repo:
        yield from published(found)
        if entry(found).state != "here":
            return
    opened = open_model(model)
    limits = opened.limits
    yield f"{limits.name}  {opened.folder}"
    yield "steps  " + " and ".join(limits.has())
    shapes = [f"{width}x{height} ({aspect})" for aspect in ASPECTS for width, height in [limits.size_of(aspect)]]
    yield f"sizes  {', '.join(shapes)}, and others in multiples of {limits.factor}"
    if subjects := taught(model):
        yield f"subjects  {len(subjects)}"


def published(known: Known) -> Iterator[str]:
    """A known model of the Hub: what it is, its files by step count with how they are sampled and whether they are here, and what to type."""
    yield f"{known.name}  {known.about}"
    yield f"from  https://huggingface.co/{known.repo}"
    yield f"licence  {known.licence}"
    if known.base:
        yield f"base  {known.base} ({KNOWN[known.base].repo}){', or a fine-tune with --base' * any(one.row.kind == 'lora' for one in known.weights)}"
    for one in known.weights:
        state = "a pickle: see docs/models.md" if Path(one.file).suffix in PICKLES else "here" if cached(known.repo, one.file) else "not here"
        yield f"{_count(one.row.steps)}  {one.file} ({one.row.kind}, {one.gigabytes:g} GB, {state}): {how(one.row)}"
    for row in (known.rows or {}).values():
        yield f"{_count(row.steps)}  {how(row)}"
    if not known.steps:
        yield f"{_count(known.default_steps)}  or any number from {TEACHER_STEPS.start}, with guidance"
    for line in entry(known).fetch:
        yield f"fetch  {line}"
    yield f'make  fewstep generate "a lighthouse at dawn" --model {known.name} --steps {known.default_steps}'


def how(row: Stamp) -> str:
    """How few-step weights are sampled, in words."""
    shares = row.fresh if isinstance(row.fresh, tuple) else (row.fresh,)
    noise = "no new noise" if not any(shares[: row.steps - 1 or None]) else "all noise new" if set(shares) == {1.0} else "part of the noise new"
    said = {"sample": ", predicts the picture", "v_prediction": ", predicts the velocity", "epsilon": ""}[row.prediction_type]
    return f"at {', '.join(map(str, row.timesteps))}{said}{f', {noise}' * (row.steps > 1)}"


def _count(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"
