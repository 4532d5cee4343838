"""Cells as JSON could have them, from whatever YAML and parquet hold: results are JSON, and a request takes nothing else."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any


def plain(value: Any) -> Any:
    """``value`` as JSON has it: dates, decimals and bytes that are text as text, no number as nothing, an infinite one as text, a set in order.

    Raises ValueError on bytes that are no text, and RecursionError on what holds itself.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {str(plain(name)): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(one) for one in (sorted(value, key=repr) if isinstance(value, set) else value)]
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def is_unicode(value: Any) -> bool:
    """Whether no text in a plain ``value``, however deep, has half a surrogate, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
    return not isinstance(text, str) or text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)
