"""The Hub's cache as it lies on this disk: where a file of a repository is, and what to type to get one. Nothing here uses the network.

The layout is huggingface_hub's: models--ORG--NAME/refs/main names a commit, snapshots/COMMIT holds its files. Loads nothing heavy.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def cache() -> Path:
    """The cache's folder: $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub."""
    if given := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME")
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home) if home else Path(above) / "huggingface").expanduser() / "hub"


def snapshot(repo: str, kind: str = "models") -> Path | None:
    """The folder with what is there of ``repo``, one of "models" or "datasets", as its main branch was when last fetched; None where nothing is."""
    folder = cache() / f"{kind}--{repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    there = folder / "snapshots" / commit
    return there if re.fullmatch(r"\w+", commit) and there.is_dir() else None


def repo_of(folder: Path) -> str:
    """The id of the repository that a snapshot's ``folder`` is of; empty for a folder that lies elsewhere."""
    home = folder.parent.parent
    if folder.parent.name != "snapshots" or not home.name.startswith("models--"):
        return ""
    return home.name.removeprefix("models--").replace("--", "/", 1)


def cached(repo: str, name: str) -> Path | None:
    """The file ``name`` of ``repo``, None where it is not there. Its own name is kept, though it may be a link to another."""
    folder = snapshot(repo)
    return folder / name if folder is not None and (folder / name).is_file() else None


def command(repo: str, names: Iterable[str] = ()) -> str:
    """What to type to fetch files of ``repo``, or all of it."""
    return shlex.join(["hf", "download", repo, *names])
