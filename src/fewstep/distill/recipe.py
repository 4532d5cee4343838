"""Recipes: a TOML file becomes a tree of frozen dataclasses, or a sentence that says what is wrong with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from fewstep.distill.pointer import pointed
from fewstep.distill.ranges import Range

T = TypeVar("T")
KINDS = ("teacher", "judge", "controlnet", "students", "autoencoder", "decoder")  # of what recipes make
ASIDE = {"aside": True}  # metadata of a recipe's fields that change nothing of what a run computes, but for rounding: no part of its hash


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the key."""


def read_recipe(path: Path, kind: type[T], settings: Sequence[str] = ()) -> T:
    """Read ``path`` into the dataclass ``kind``, after applying ``settings`` such as ``"teacher.learning_rate=1e-4"`` or ``"stages.0.full=40"``.

    Raises RecipeError on a file that is missing or no TOML, an unknown key, a missing one, a wrong type or a contradiction.
    """
    table = _read(path)
    for setting in settings:
        _apply(table, setting)
    try:
        return build(kind, table, str(path))
    except RecipeError as error:
        raise RecipeError(pointed(str(error), path, settings)) from None


def trained_by(path: Path) -> str:
    """What a recipe makes: its key ``trains``, and without one "students" where it names a teacher or has stages, else "teacher".

    Raises RecipeError as :func:`read_recipe`.
    """
    table = _read(path)
    if not table:
        raise RecipeError(f'{path} is empty: a recipe says what to train, such as trains = "teacher"; fewstep\'s own lie in recipes/')
    kind = table.get("trains", "students" if "stages" in table or isinstance(table.get("teacher"), str) else "teacher")
    if kind not in KINDS:
        raise RecipeError(f"{path}: trains = {kind!r}: it is one of {', '.join(map(repr, KINDS))}")
    return str(kind)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: not a readable TOML file: {error}") from None
    except RecursionError:
        raise RecipeError(f"{path}: not a readable TOML file: it has lists within lists without end") from None


def build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """A ``kind`` from a table of plain values; ``where`` stands at the front of every message."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = get_close_matches(key, fields, 1)
            raise RecipeError(f"{where}: unknown key '{key}'{f', did you mean {near[0]!r}?' if near else ';'} known are {', '.join(fields)}")
    for name, field in fields.items():
        if name not in table and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}: '{name}' is missing")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None


def recipe_hash(recipe: Any) -> str:
    """The first 12 digits of the SHA-256 of what a recipe says: file layout, comments, fields marked ``ASIDE`` and values that are the default
    do not count, so that a field which a later version brings leaves the hash as it was. What is a default must therefore stay one. A marked
    table counts if it says of itself that it ``decides``.
    """
    content = json.dumps(_said(recipe), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def said(recipe: Any) -> dict[str, Any]:
    """What of a recipe its hash is taken of, as JSON has it."""
    return dict(json.loads(json.dumps(_said(recipe), default=str)))


def changes(before: Mapping[str, Any], now: Mapping[str, Any], most: int = 3) -> list[str]:
    """What two recipes, as :func:`said` has them, say differently: up to ``most`` phrases such as "rank is 8, and was 4"."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    differ = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    told = [f"{key} is {json.dumps(new[key]) if key in new else 'left out'}, and was {json.dumps(old[key]) if key in old else 'left out'}" for key in differ]
    return told if len(told) <= most else [*told[:most], f"and {len(told) - most} more"]


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables and lists of tables, each under its key as --set takes it."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) and any(isinstance(v, dict) for v in value) else None
    if inner is None:
        yield where, value
    else:
        for key, own in inner:
            yield from _leaves(own, f"{where}.{key}" if where else str(key))


def _said(value: Any) -> Any:
    """``value`` as plain values, without what its dataclasses have by default."""
    if isinstance(value, (list, tuple)):
        return [_said(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    said = {}
    for field in dataclasses.fields(value):
        own = getattr(value, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if own != default and (not field.metadata.get("aside") or getattr(own, "decides", False)):
            said[field.name] = _said(own)
    return said


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a table, got {value!r}")
        return build(typing.cast(type, hint), value, where)
    if origin is typing.Annotated:
        found = _convert(arguments[0], value, where)
        if isinstance(allowed := arguments[1], Range) and found not in allowed:
            raise RecipeError(f"{where} = {value!r}: give {allowed}")
        return found
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return _convert(option, value, where)
            except RecipeError:
                continue
        raise RecipeError(f"{where}: {value!r} is none of {', '.join(_name(option) for option in arguments)}")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where}: expected a list, got {value!r}")
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) != len(value):
            raise RecipeError(f"{where}: expected {len(inner)} values, got {len(value)}")
        return tuple(_convert(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(inner, value, strict=True)))
    if origin is typing.Literal:
        if value not in arguments:
            raise RecipeError(f"{where}: {value!r} is none of {', '.join(map(repr, arguments))}")
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # TOML has inf and nan, and integers of any length
            raise RecipeError(f"{where} = {value}: give a finite number")
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is type(None):
        raise RecipeError(f"{where}: expected nothing, got {value!r}")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise RecipeError(f"{where}: expected {_name(hint)}, got {value!r}")
    return value


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def _apply(table: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {setting}: write it as key=value, for instance --set teacher.learning_rate=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *parents, last = key.strip().split(".")
    inner: Any = table
    for parent in parents:
        if isinstance(inner, list) and parent.isdecimal() and int(parent) < len(inner):
            inner = inner[int(parent)]
        else:
            inner = inner.setdefault(parent, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, (dict, list)):
            raise RecipeError(f"--set {setting}: '{parent}' is no table")
    if not isinstance(inner, dict):
        one = f"{parents[-1]}.{last if last.isdecimal() else 0}.{'KEY' if last.isdecimal() else last}"
        raise RecipeError(f"--set {setting}: '{parents[-1]}' is a list: name a value of one in it, counted from 0, such as {one}")
    inner[last] = value
