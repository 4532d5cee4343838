"""Texts and JSON written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewstep.engine.files import write_bytes


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. What is no Unicode, as names of files can be, becomes question marks."""
    write_bytes(path, text.encode("utf8", "replace"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, ensure_ascii=False))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
