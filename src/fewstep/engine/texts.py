"""What a request says in words and beside them, settled: choices drawn, what changes nothing left out, chunks of tokens counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fewstep.engine.request import BLEND_WEIGHT, Request, RequestError
from fewstep.engine.wording import draw, read, too_many_levels
from fewstep.models.chunks import Words

MOST_CHUNKS = 16  # of 75 tokens
NO_NEGATION = 1.0  # the nag_scale at which a negative prompt changes nothing


def settle_texts(request: Request, seed: int, count: Callable[[Words], int]) -> dict[str, Any]:
    """The fields of Settled that follow from the texts of ``request`` and what steers by them; ``count`` is how many chunks a text takes.

    Choices are drawn by the ``seed``. Raises RequestError on a text of too many chunks or weights.
    """

    def drawn(text: str | None) -> str | None:
        return text if text is None or request.literal else draw(text, seed)

    prompt, second, blend, negative = map(drawn, (request.prompt, request.prompt_2, request.blend, request.negative))
    weight = BLEND_WEIGHT if request.blend_weight is None else float(request.blend_weight)
    if not weight:
        blend = None
    if negative is not None and (not read(negative, request.literal).parts or request.nag_scale == NO_NEGATION):
        negative = None
    counts = {name: _counted(name, text, request.literal, count) for name, text in _named(prompt, second, blend, negative) if text is not None}
    away = counts.pop("negative", 0)
    return {
        "prompt": prompt,
        "template": request.prompt if request.prompt != prompt else None,
        "prompt_2": second if second != prompt else None,
        **({"blend": blend, "blend_weight": weight} if blend is not None else {}),
        "negative": negative,
        "guidance_scale": None if request.guidance_scale is None else float(request.guidance_scale),
        "nag_scale": None if request.nag_scale is None or negative is None else float(request.nag_scale),
        "literal": request.literal,
        "original_size": request.original_size,
        "crop": request.crop,
        "target_size": request.target_size,
        "chunks": (max(counts.values()), away),
    }


def _named(*texts: str | None) -> list[tuple[str, str | None]]:
    return list(zip(("prompt", "prompt_2", "blend", "negative"), texts, strict=True))


def _counted(name: str, text: str, literal: bool, count: Callable[[Words], int]) -> int:
    """The chunks of one text. Raises RequestError where they or its weights are too many."""
    words = read(text, literal)
    if reason := too_many_levels(words):
        raise RequestError(f"the {name} has {reason}")
    chunks = count(words)
    if chunks > MOST_CHUNKS:
        raise RequestError(f"the {name} takes {chunks} chunks of 75 tokens: give at most {MOST_CHUNKS}, which is some 900 words")
    return chunks
