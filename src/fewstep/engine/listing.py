"""What the models are and what one can do, in lines for people. Loads no weights."""

from __future__ import annotations

from collections.abc import Iterator

from fewstep.engine.model import open_model
from fewstep.engine.request import ASPECTS
from fewstep.engine.words import read_words
from fewstep.zoo.registry import entries


def known() -> Iterator[str]:
    """A line for each known model."""
    for entry in entries():
        has = f"steps {', '.join(map(str, entry.steps))}, {entry.megabytes:.0f} MB" if entry.present else "not in this installation"
        yield f"{entry.name}  {entry.about}  ({has})"


def taught(model: str) -> list[str]:
    """The subjects that ``model``, a known name or a folder, was taught to draw. Raises ModelError, RequestError."""
    return read_words(open_model(model).folder).get("subjects", [])


def describe(model: str) -> Iterator[str]:
    """What one model can do. Raises ModelError, RequestError."""
    opened = open_model(model)
    limits = opened.limits
    yield f"{limits.name}  {opened.folder}"
    yield "steps  " + " and ".join(limits.has())
    shapes = [f"{width}x{height} ({aspect})" for aspect in ASPECTS for width, height in [limits.size_of(aspect)]]
    yield f"sizes  {', '.join(shapes)}, and others in multiples of {limits.factor}"
    yield f"subjects  {len(taught(model))}"
