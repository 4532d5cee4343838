"""A job's groups and the engines that make them: the same on this machine and on a cluster, or their pictures would not be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from fewstep.batch.expand import Bad, Expansion
from fewstep.batch.manifest import Manifest
from fewstep.batch.options import Options
from fewstep.batch.plan import Group, Maker, groups, items

if TYPE_CHECKING:
    from fewstep.engine.engine import Engine
    from fewstep.engine.model import Model
    from fewstep.engine.request import Limits

PROMPTS = 1024  # whose tokens are counted once, and whose embeddings an engine keeps: the same words come back row after row


def parts_of(options: Options, manifest: Manifest, expansion: Expansion, limits: Limits, model: Model) -> Iterator[Group | Bad]:
    """The groups of a job, one after another: a function of the manifest, the model and the options."""
    limits = replace(limits, count=lru_cache(PROMPTS)(limits.count))
    maker = Maker(limits, cache(model.hash), options.decoder, options.format)
    return groups(items(expansion.wanted(manifest), maker), options.batch)


def load_engine(options: Options, **where: Any) -> Engine:
    """The engine that ``options`` ask for; ``where`` are its device and threads. Raises what Engine.load raises."""
    from fewstep.engine.engine import Engine

    names = ("model", "steps", "decoder", "backend", "base", "few_step")
    engine = Engine.load(**{name: getattr(options, name) for name in names}, measure=False, **where)  # the same bytes another day
    engine.encodings.remembered = PROMPTS
    return engine
