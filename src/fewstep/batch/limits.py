"""What a model can do, told from its files: whoever only plans need not have the memory for it, nor the device that it runs on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fewstep.engine.adapters import find_stack
from fewstep.engine.control import settle_controls
from fewstep.engine.model import Model
from fewstep.engine.request import Limits, RequestError
from fewstep.models.chunks import Words, count
from fewstep.models.clip_tokens import ClipTokens


def limits_of(model: Model) -> Limits:
    """What ``model`` can do, told without loading it: the machine that plans may not have the memory for it."""
    try:
        tokenizers = [ClipTokens.open(model.folder / name) for name in ("tokenizer", "tokenizer_2")]
    except ValueError as error:
        raise RequestError(str(error)) from None

    def chunks(words: Words) -> int:
        return max(count(words, tokenizer) for tokenizer in tokenizers)

    return replace(model.limits, count=chunks, stack=partial(find_stack, model, ()), guides=partial(settle_controls, model))
