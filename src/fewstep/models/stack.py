"""A stack of LoRAs: which files, how strongly, and what they add to the weights of one network together. Loads no torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fewstep.models.adapters import Change, Shapes, read_changes
from fewstep.models.weights import LoraError, WeightsError

Changes = Mapping[str, Sequence[tuple[float, Change]]]  # of one network: by the weight's name (strength, change) of each LoRA


@dataclass(frozen=True, order=True)
class Lora:
    """A LoRA's file at one strength. They are ordered by content, so that a stack is the same in whatever order it was given."""

    hash: str
    weight: float
    path: Path
    parts: tuple[str, ...]  # of a model, that it changes

    @property
    def name(self) -> str:
        """What people call it: its file's name without the ending."""
        return self.path.stem


Stack = tuple[Lora, ...]  # in their order


def key_of(stack: Stack, *parts: str) -> Hashable:
    """What tells the changes of these ``parts`` from others; () for none."""
    return tuple((lora.hash, lora.weight) for lora in stack if set(parts) & set(lora.parts))


def changes_of(stack: Stack, part: str, own: Shapes, framework: Literal["pt", "numpy"] = "pt") -> Changes:
    """What ``stack`` changes in one part of a model of the shapes ``own``. Raises LoraError on files that cannot be read or do not fit."""
    found: dict[str, list[tuple[float, Change]]] = {}
    for lora in stack:
        try:
            changes = read_changes(lora.path, own, (part,), framework) if part in lora.parts else {}
        except WeightsError as error:
            raise LoraError(str(error).replace(str(lora.path), lora.path.name)) from None
        for name, change in changes.get(part, {}).items():
            found.setdefault(name, []).append((lora.weight, change))
    return found


def total(changes: Sequence[tuple[float, Change]]) -> Any:
    """What (strength, change) of several LoRAs add to one weight together, float32, added in their order."""
    first, *others = (change.full(strength) for strength, change in changes)
    return sum(others, first)
