"""The bars that the embedded model on a processor, and SDXL on an accelerator, must reach. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from fewstep.bench.results import Bar
from fewstep.bench.table import Section

WARM = "fewstep generate, warm"


def processor_bars(sections: Sequence[Section], side: int) -> list[Bar]:
    """Those of ``emoji`` in float32 on processor cores, as far as their figures were measured at the native ``side``.

    A row that failed gives none.
    """
    rows = _Rows(sections)
    found = []
    for steps, decoder, needed in ((1, "full", 2.0), (4, "full", 1.7), (1, "tiny", 2.5)):
        for row in rows("compare", side=side, batch=1, steps=steps, decoder=decoder):
            found += _bar(f"end to end against diffusers, {_steps(steps)}, {decoder} decoder", row["ratio"], needed)
    for row in rows("method"):
        found += _bar(f"the method alone, {_steps(row['steps'])}: share of what its evaluations allow", row["of_allowed"], 0.9)
    for steps, needed in ((1, 40.0), (4, 20.0)):
        for row in rows("product", steps=steps, decoder="tiny"):
            found += _bar(f"the product against diffusers in 50 steps, {_steps(steps)}, tiny decoder", row["ratio"], needed)
    for batch, needed in ((1, 0.25), (8, 0.45)):
        shares = [row["of_peak"] for row in rows("stages", stage="denoise", side=side, batch=batch)]
        found += _bar(f"denoise at batch {batch}: share of the GEMM peak", min(shares, default=None), needed)
    for row in rows("stages", stage="decode full", side=side, batch=1):
        found += _bar("decode in full: share of the GEMM peak", row["of_peak"], 0.6)
    for row in rows("startup", what=WARM):
        found += [Bar("process start to file, warm: seconds", row["seconds"], 2.0, True), Bar("the same: MB", row["megabytes"], 400.0, True)]
    return found


def accelerator_bars(sections: Sequence[Section]) -> list[Bar]:
    """Those of SDXL at full size, 1024 px, on one accelerator, from cached text to pixels on the host."""
    rows = _Rows(sections)
    found = []
    for steps, decoder, needed in ((1, "tiny", 20.0), (4, "tiny", 55.0), (4, "full", 90.0)):
        for row in rows("compare", side=1024, batch=1, steps=steps, decoder=decoder):
            if not row.get("failed"):
                found.append(Bar(f"1024 px, {_steps(steps)}, {decoder} decoder: ms", row["cached_ms"], needed, True))
        for one, eight in product(*(rows("compare", side=1024, batch=batch, steps=steps, decoder=decoder) for batch in (1, 8))):
            if not (one.get("failed") or eight.get("failed")):
                faster = 8 * one["cached_ms"] / eight["cached_ms"]
                found.append(Bar(f"1024 px, {_steps(steps)}, {decoder} decoder: pictures a second at batch 8, of batch 1's", faster, 1.3))
    return found


def _steps(steps: int) -> str:
    return f"{steps} step{'s' * (steps != 1)}"


def _bar(name: str, value: float | None, needed: float) -> list[Bar]:
    return [] if value is None else [Bar(name, value, needed)]


class _Rows:
    """The rows of a table that have these values."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._sections = sections

    def __call__(self, table: str, **values: Any) -> Iterator[Any]:
        for section in self._sections:
            for row in section.rows:
                if section.name == table and all(row.get(key) == value for key, value in values.items()):
                    yield row
