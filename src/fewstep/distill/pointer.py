"""Where in a recipe's file a sentence belongs: refusals begin with the key that they are about, and here that key's line is found."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Keys = tuple[str | int, ...]  # such as ("stages", 1, "steps")


def pointed(message: str, path: Path, settings: Sequence[str] = ()) -> str:
    """``message`` with the line of the recipe at ``path`` that it is about; as it is where that is none, or one that ``settings`` have changed."""
    if message.startswith(f"{path}, line "):
        return message
    said = message.removeprefix(f"{path}: ")
    try:
        text = path.read_text(encoding="utf8")
        named, keys = _about(said, tomllib.loads(text))
    except (OSError, ValueError, RecursionError):
        return message
    name = ".".join(map(str, named))
    changed = any(f"{name}.".startswith(f"{setting.partition('=')[0].strip()}.") for setting in settings)
    line = 0 if changed or not keys else _line(text, keys)
    return f"{path}, line {line}: {said}" if line else message


def _about(said: str, table: Mapping[str, Any]) -> tuple[Keys, Keys]:
    """The keys of the value that a sentence is about, and these as far as the file has them."""
    keys: list[str | int] = []
    if found := re.match(r"stage (\d+)(?: -> |to)(\d+): ", said):
        stages = table.get("stages", [])
        wanted = int(found[1]), int(found[2])
        numbers = [i for i, stage in enumerate(stages) if (stage.get("teacher_steps"), stage.get("steps")) == wanted]
        if not numbers:
            return (), ()
        said, inner = said[found.end() :], stages[numbers[0]]
        word = next((word for word in re.findall(r"\w+", said) if word in inner), None)
        keys = ["stages", numbers[0], *([word] if word else [])]
        return tuple(keys), tuple(keys)
    inner = table
    while found := re.match(r"(\w+)(?:\[(\d+)\])?(?:\.|: | = | \(|, )", said):
        if not isinstance(inner, Mapping):
            break
        if found[1] not in inner:
            return (*keys, found[1]), tuple(keys)
        keys.append(found[1])
        inner, said = inner[found[1]], said[found.end() :]
        if found[2] and isinstance(inner, list) and int(found[2]) < len(inner):
            keys.append(int(found[2]))
            inner = inner[int(found[2])]
    if (unknown := re.match(r"unknown key '(\w+)'", said)) and isinstance(inner, Mapping):
        return (*keys, unknown[1]), (*keys, unknown[1]) if unknown[1] in inner else tuple(keys)
    return tuple(keys), tuple(keys)


def _line(text: str, keys: Keys) -> int:
    """The line, counted from 1, where the value of ``keys`` stands, or else the innermost table around it; 0 where there is neither."""
    length, line = max(((len(own), -number) for number, own in _keys(text) if keys[: len(own)] == own), default=(0, 0))
    return -line if length else 0


def _keys(text: str) -> Iterator[tuple[int, Keys]]:
    """Each line that begins a table or sets a value, and its keys."""
    table: Keys = ()
    tables: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            tables[found[1]] = tables.get(found[1], -1) + 1
            table = (*found[1].split("."), tables[found[1]])
            yield number, table
        elif found := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = tuple(found[1].split("."))
            yield number, table
        elif found := re.match(r"\s*([\w.-]+)\s*=", line):
            yield number, (*table, *found[1].split("."))
