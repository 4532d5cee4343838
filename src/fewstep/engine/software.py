"""What is installed beside us."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

NAMES = {"skimage": "scikit-image"}  # of distributions, where they differ


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(NAMES.get(package, package))
    except PackageNotFoundError:
        return None


def compiler() -> list[str] | None:
    """The command that compiles C: what CC says, on Linux cc without it; None where there is none."""
    try:
        words = shlex.split(os.environ.get("CC") or ("cc" if sys.platform == "linux" else ""))  # macOS has a cc that asks to be installed
    except ValueError:
        return None
    program = shutil.which(words[0]) if words else None
    return [program, *words[1:]] if program else None
