"""What is kept on this machine's disk between two starts: compiled artefacts and what was measured. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Momentary:
    """What was measured while something failed that may work the next time: good for this process, and not kept."""

    found: Any


def least(work: Callable[[], Any], device: str, threads: int, tries: int = 1) -> float:
    """The least seconds that ``work`` takes. Where one thread computes they are its own: what others do on its core does not count."""
    now = time.process_time if device == "cpu" and threads == 1 else time.perf_counter
    spent = []
    for _ in range(tries):
        began = now()
        work()
        spent.append(now() - began)
    return min(spent)


def cache(part: str) -> Path | None:
    """The folder for ``part`` of it, made; in the temporary directory where there is no home for it, and None where there can be none."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(given or Path.home() / ".cache") / "fewstep" / part
        folder.mkdir(parents=True, exist_ok=True)
        if given or os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return None if given else _temporary(part)


def _temporary(part: str) -> Path | None:
    """As ``cache``, in a folder of the temporary directory; None unless that is this user's alone, for what lies in it is run."""
    try:
        own = Path(tempfile.gettempdir()) / f"fewstep-{os.getuid()}"
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return None
        (own / part).mkdir(exist_ok=True)
    except (OSError, AttributeError):  # AttributeError: a system without numbers of users
        return None
    return own / part


def remembered(about: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What was measured for ``about``, plain values that say all that it depends on; ``measure`` is called where that is not on disk.

    What it answers as Momentary is not kept. A disk that cannot be written costs nothing but measuring again.
    """
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache("measured")
    path = folder and folder / f"{key}.json"
    if path is not None:
        try:
            return json.loads(path.read_text(encoding="utf8"))["found"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
    found = measure()
    if isinstance(found, Momentary):
        return found.found
    if path is None:
        return found
    try:
        temporary = path.with_name(f".{key}-{secrets.token_hex(4)}.tmp")
        temporary.write_text(json.dumps({**about, "found": found}, indent=1), encoding="utf8")
        temporary.replace(path)
    except OSError:
        pass
    return found
