"""A callable of whoever runs the server, asked about prompts and pictures: ``--checker module:function``. Imported only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fewstep.engine.named import named

if TYPE_CHECKING:
    from PIL.Image import Image

Checker = Callable[[str, "Image | None"], "str | None"]
"""Given a prompt before it is drawn, with each image that it begins from or follows, or None, and again with every picture that would be shown.

Returns None if there is nothing against it, or why it is refused: a sentence that the client is told. Called on the thread that computes.
"""


def load_checker(name: str) -> Checker:
    """The callable that "module:function" names. Raises RequestError, saying why, if there is none."""
    return named("--checker", name, "takes a prompt and a picture")
