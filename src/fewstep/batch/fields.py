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
from fewstep.engine.control import Control, is_there
from fewstep.engine.options import parse_outpaint, parse_pair, read_image
from fewstep.engine.request import Request, RequestError
from fewstep.engine.variations import parse_variations

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
WHOLE = re.compile(r"([+-]?[0-9]{1,20})(?:\.0*)?")
Parse = Callable[[str, Any, Path], Any]  # (name, what a cell holds, the folder that paths start from) to what Request takes


def _text(name: str, value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        raise RequestError(f"{name} = {value!r:.60}: give a text")
    return value


def _whole(name: str, value: Any, folder: Path) -> Any:
    """A whole number, though it be written 7.0: pandas makes floats of a column that has a gap, exact ones up to 2^53."""
    exact = not isinstance(value, float) or abs(value) <= 1 << 53
    match = WHOLE.fullmatch(str(value).strip()) if exact and not isinstance(value, bool) else None
    if match is None:
        raise RequestError(f"{name} = {value!r:.60}: give a whole number")
    return int(match[1])


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
    return parse_outpaint(",".join(map(str, value)) if isinstance(value, list) else str(value))


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


def _variations(name: str, value: Any, folder: Path) -> Any:
    """ "9:0.3; 12:0.2", or a list of such texts or of seeds and shares."""
    given = value.split(";") if isinstance(value, str) else value
    if not isinstance(given, list):
        return value
    return tuple(parse_variations([one])[0] if isinstance(one, str) else tuple(one) if isinstance(one, list) else one for one in given)


def _control(name: str, value: Any, folder: Path) -> Any:
    """ "edges.png; depth.png", hints for the model's own ControlNet, or as JSON has it a list of such texts or of tables of what Control takes."""
    given = value.split(";") if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(one, str | dict) for one in given):
        raise RequestError(f"{name} = {value!r:.60}: give the path of a picture, or a list of tables with image, hint, weight, net, start and end")
    tables: list[dict[str, Any]] = [{"image": one.strip()} if isinstance(one, str) else dict(one) for one in given]
    for one in tables:
        unknown = next((key for key in one if key not in CONTROL), None)
        if unknown is not None or not isinstance(one.get("image"), str):
            wrong = "there is no image" if unknown is None else f"{unknown!r:.60} is not known"
            raise RequestError(f"{name}: {wrong}: give tables with image, hint, weight, net, start and end")
        one["image"] = read_image(folder / one["image"], name)
        if isinstance(one.get("net"), str) and is_there(folder / one["net"]):  # else it is an id of the Hub, or missing
            one["net"] = folder / one["net"]
    return tuple(Control(**one) for one in tables)


CONTROL = frozenset(field.name for field in dataclasses.fields(Control))
KINDS: dict[str, Parse] = {
    "str": _text,
    "int": _whole,
    "float": _number,
    "bool": _flag,
    "Image": _image,
    "tuple[int, int, int, int]": _margins,
    "tuple[int, int]": _pair,
    "Loras": _loras,
    "Variations": _variations,
    "Sequence[Control]": _control,
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
        found[name] = parse(name, value, Path().absolute())
    return found


def meant(name: str, names: list[str]) -> str:
    """The name that was probably meant, or else all that there are."""
    close = get_close_matches(name, names, 1, 0.6)
    return f"'{close[0]}' for instance" if close else f"one of {', '.join(names)}"
