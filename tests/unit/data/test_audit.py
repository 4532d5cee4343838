"""The account that docs/data.md shows is that of the file it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewstep.data.audit import Audit

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "data.md").read_text(encoding="utf8")
RECORD = json.loads((ROOT / "docs" / "runs" / "2026-11-29" / "audit.json").read_text(encoding="utf8"))


def test_the_table() -> None:
    audit = Audit(**{name: RECORD["audit"][name] for name in ("seen", "buckets", "dropped", "examples")})
    assert "\n".join(f"    {line}" for line in audit.table()) in DOCUMENT
    assert audit.seen == audit.kept + sum(audit.dropped.values())
    assert f"{RECORD['scenes']} scenes" in DOCUMENT


@pytest.mark.parametrize("name", ["sharp, whole", "sharp, tile", "blurred, tile"])
def test_the_shares_that_are_called_blurred(name: str) -> None:
    assert f"{RECORD['sharpness']['below'][name]:.0%}".replace("%", " %") in DOCUMENT
