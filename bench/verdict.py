"""The end of a measurement: its results on disk, and on the screen how many bars were met and whether the machine was quiet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.bench.machine import QUIET
from fewstep.bench.results import Bar


def close(content: Mapping[str, Any], bars: Sequence[Bar], file: Path | None, others: float | None, more: str = "") -> int:
    """Write ``content`` to ``file``, if one is given, and tell; ``others`` are the cores that others used. Returns the exit code: 1 if a bar is missed."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    missed = sum(not bar.met for bar in bars)
    print(f"{len(bars) - missed} of {len(bars)} bars met; {more}{file or 'nothing was written'}")
    if (others or 0) > QUIET:
        print(f"NOT QUIET: others used {others:.1f} cores meanwhile; these figures are not to be quoted")
    return 1 if missed else 0
