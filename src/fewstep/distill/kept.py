"""What the folder of a run holds as JSON, read again. Loads no torch: other terminals look at it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fewstep.distill.recipe import RecipeError


def read_kept(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in ``path``, which has at least these ``keys``. Raises RecipeError where it is none or cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf8"))
        missing = [key for key in keys if key not in found]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RecipeError(damaged(path, getattr(error, "strerror", None) or "it is no whole JSON")) from None
    if missing or not isinstance(found, dict):
        raise RecipeError(damaged(path, f"it does not say '{missing[0]}'" if missing else "it is no JSON object"))
    return found


def read_record(path: Path) -> dict[str, Any] | None:
    """The same of a file that only tells what was; None where it is missing or damaged, for that ends no run."""
    try:
        return read_kept(path)
    except RecipeError:
        return None


def damaged(path: Path, reason: str) -> str:
    """The sentence on a file of a run's folder that the run cannot go on from."""
    return (
        f"{path} cannot be used ({reason}): put it back as it was, or begin anew with another --run; "
        f"students that are finished lie in {path.parent / 'weights'}, and --from {path.parent}:STEPS begins at one"
    )
