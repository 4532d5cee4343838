"""Diversity: how many different right answers a model gives to a prompt that has several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Diversity:
    """Over the pictures of ambiguous prompts."""

    distinct: float  # different subjects that have the keyword, a prompt
    precision: float  # share of the pictures whose subject has the keyword


def diversity(recognised: Sequence[Sequence[int]], right: Sequence[frozenset[int]]) -> Diversity:
    """``recognised[k]`` are the subjects seen in the pictures of prompt k, ``right[k]`` the subjects that have its keyword.

    A subject without the keyword counts for nothing, so noise is not diverse. Raises ValueError if there are no pictures.
    """
    if not recognised or not any(len(seen) for seen in recognised):
        raise ValueError("no pictures of ambiguous prompts: give at least one")
    distinct = [len(set(seen) & answers) for seen, answers in zip(recognised, right, strict=True)]
    hits = sum(subject in answers for seen, answers in zip(recognised, right, strict=True) for subject in seen)
    return Diversity(sum(distinct) / len(distinct), hits / sum(len(seen) for seen in recognised))
