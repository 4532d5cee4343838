"""Columns that are fields of a request: what each may hold, read from the text of a CSV or taken as JSON has it. Loads no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from fewstep.engine.adapters import given_loras
from fewstep.engine.options import parse_outpaint, parse_pair, read_image
from fewstep.engine.request import Request, RequestError

TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
Parse = Callable[[str, Any, Path], Any]  # (name, what a cell holds, the folder that paths start from) to what Request takes


def _text(name: str, value: Any, folder: Path) -> Any:
    return value


def _whole(name: str, value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip()):
        raise RequestError(f"{name} = {value!r:.60}: give a whole number")
    return int(value)


def _number(name: str, value: Any, folder: Path) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        raise RequestError(f"{name} = {value!r:.60}: give a number") from None


def _flag(name: str, value: Any, folder: Path) -> Any:
    word = value.strip().lower() if isinstance(value, str) else value
    return True if word in TRUE and isinstance(word, str) else False if word in FALSE and isinstance(word, str) else value


def _image(name: str, value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        raise RequestError(f"{name} = {value!r:.60}: give the path of a picture")
    return read_image(folder / value, name)


def _margins(name: str, value: Any, folder: Path) -> Any:
    return parse_outpaint(value) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _pair(name: str, value: Any, folder: Path, sign: str = "x") -> Any:
    return parse_pair(value, name, sign) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _loras(name: str, value: Any, folder: Path) -> Any:
    """ "a.safetensors:0.8; b.safetensors", or a list of such texts or of files and weights."""
    given = value.split(";") if isinstance(value, str) else value
    if not isinstance(given, list):
        return value
    pairs = [given_loras([one.strip()])[0] if isinstance(one, str) else one for one in given]
    good = all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)
    return tuple((folder / pair[0], pair[1]) for pair in pairs) if good else value


KINDS: dict[str, Parse] = {
    "str": _text,
    "int": _whole,
    "float": _number,
    "bool": _flag,
    "Image": _image,
    "tuple[int, int, int, int]": _margins,
    "tuple[int, int]": _pair,
    "Loras": _loras,
}
FIELDS: dict[str, Parse] = {field.name: KINDS[str(field.type).removesuffix(" | None")] for field in dataclasses.fields(Request)}
FIELDS["crop"] = partial(_pair, sign=",")


def parse(name: str, value: Any, folder: Path) -> Any:
    """What the field ``name`` of a Request takes for a cell's ``value``; pictures and LoRAs lie relative to ``folder``.

    Raises RequestError on a value that it cannot mean. Whether it is a good one is for Request to say.
    """
    return FIELDS[name](name, value, folder)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """{field: value} from ["negative=blurry", "steps=2"]; pictures lie relative to the working directory. Raises RequestError."""
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in FIELDS:
            raise RequestError(f"--set {setting!r:.80}: write it as FIELD=VALUE with {meant(name, list(FIELDS))}")
        found[name] = parse(name, value, Path())
    return found


def meant(name: str, names: list[str]) -> str:
    """The name that was probably meant, or else all that there are."""
    close = get_close_matches(name, names, 1, 0.6)
    return f"'{close[0]}' for instance" if close else f"one of {', '.join(names)}"
