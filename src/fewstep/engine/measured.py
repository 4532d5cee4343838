"""What is kept on this machine's disk between two starts: compiled artefacts and what was measured. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def least(work: Callable[[], Any], device: str, threads: int, tries: int = 1) -> float:
    """The least seconds that ``work`` takes. Where one thread computes they are its own: what others do on its core does not count."""
    now = time.process_time if device == "cpu" and threads == 1 else time.perf_counter
    spent = []
    for _ in range(tries):
        began = now()
        work()
        spent.append(now() - began)
    return min(spent)


def cache(part: str) -> Path:
    """The folder for ``part`` of it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewstep" / part


def remembered(about: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What was measured for ``about``, plain values that say all that it depends on; ``measure`` is called where that is not on disk.

    A disk that cannot be written costs nothing but measuring again.
    """
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = cache("measured") / f"{key}.json"
    try:
        return json.loads(path.read_text(encoding="utf8"))["found"]
    except (OSError, ValueError, KeyError, TypeError):
        found = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{key}-{secrets.token_hex(4)}.tmp")
        temporary.write_text(json.dumps({**about, "found": found}, indent=1), encoding="utf8")
        temporary.replace(path)
    except OSError:
        pass
    return found
