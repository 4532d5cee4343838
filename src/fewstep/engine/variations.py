"""Ways through noise: from a seed's some of the way to another seed's, from there to a third's, and so on. Loads no torch."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from fewstep.engine.request import RANDOM_SEEDS, Request, RequestError, Settled, Variations


def settle_variations(request: Request) -> dict[str, Any]:
    """The fields of a Settled for the whole way of ``request``, its first variation apart; shares of 0, which lead nowhere, are left out.

    A first seed that is not given is random.
    """
    first = secrets.randbelow(RANDOM_SEEDS) if request.variation_seed is None else request.variation_seed
    whole = [(seed, float(share)) for seed, share in ((first, request.variation or 0), *request.variations) if share]
    if not whole:
        return {}
    (seed, share), *further = whole
    return {"variation_seed": seed, "variation": share, "variations": tuple(further)}


def way(settled: Settled) -> list[tuple[int, float]]:
    """(seed, share) of every variation of ``settled``, one after another."""
    if settled.variation_seed is None or settled.variation is None:
        return []
    return [(settled.variation_seed, settled.variation), *settled.variations]


def parse_variations(texts: Sequence[str]) -> tuple[tuple[int, float], ...]:
    """((9, 0.3), (12, 0.2)) from ["9:0.3", "12:0.2"]. Raises RequestError on what is no SEED:SHARE."""
    return tuple(_parse(text) for text in texts)


def given_variations(texts: Sequence[str]) -> dict[str, Any]:
    """The fields of a Request for --variation, as often as it is given: a share alone goes with --variation-seed, SEED:SHARE is a further one.

    Raises RequestError.
    """
    alone = [text for text in texts if ":" not in text]
    if len(alone) > 1:
        raise RequestError(f"--variation {alone[1]!r:.60}: a share without a seed goes with --variation-seed, which there is once: give SEED:SHARE")
    further = parse_variations([text for text in texts if ":" in text])
    return ({"variation": _share(alone[0])} if alone else {}) | ({"variations": further} if further else {})


def as_text(variations: Variations) -> str:
    """ "9:0.3; 12:0.2"."""
    return "; ".join(f"{seed}:{share}" for seed, share in variations)


def _parse(text: str) -> tuple[int, float]:
    seed, _, share = text.strip().partition(":")
    if not (seed.isascii() and seed.isdigit() and len(seed) <= 19):
        raise RequestError(f"variation {text!r:.60}: write it as SEED:SHARE, for instance 9:0.3")
    return int(seed), _share(share)


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"variation {text!r:.60}: give a share from 0 to 1, or SEED:SHARE, for instance 9:0.3") from None
