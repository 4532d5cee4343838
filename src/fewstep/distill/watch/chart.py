"""One curve over all phases of a run as inline SVG, with a reference behind it. Loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, TOP = 1000, 150, 54, 16  # of the drawing, in its own units; the margins hold what the axes say
LEAST = 0.012  # of the width, for a phase however short

Points = Sequence[Sequence[float]]  # [share of the phase, value]


def chart(
    title: str, spans: Mapping[str, float], own: Mapping[str, Points], behind: Mapping[str, Points], log: bool = False, shown: Sequence[float] = ()
) -> str:
    """An SVG of ``own`` curves by phase, each phase as wide as its share of ``spans`` (updates), with ``behind`` drawn pale.

    On a logarithmic axis values of 0 and less are left out; ``shown`` are values that the axis covers in any case. The texts are escaped;
    colours are the page's own variables. Empty where there is nothing to draw.
    """
    places = _places(spans)
    kept = {name: [point for point in points if not log or point[1] > 0] for name, points in own.items()}
    back = {name: [point for point in behind.get(name, ()) if not log or point[1] > 0] for name in places}
    values = [point[1] for points in [*kept.values(), *back.values()] for point in points]
    if not values:
        return ""
    values += shown
    low, high = _range(values, log)

    def height(value: float) -> float:
        return _share(value, low, high, log)

    parts = [_stages(places), *(_tick(value, height(value)) for value in _ticks(low, high, log))]
    for style, curves in (("stroke:var(--line);stroke-width:3", back), ("stroke:var(--ink);stroke-width:1.5", kept)):
        for name, points in curves.items():
            if name in places and points:
                left, wide = places[name]
                line = " ".join(f"{left + wide * x:.1f},{TOP + HEIGHT * (1 - height(y)):.1f}" for x, y in points)
                parts.append(f'<polyline points="{line}" fill="none" style="{style}"><title>{escape(name)}</title></polyline>')
    box = f"0 0 {LEFT + WIDTH + 4} {TOP + HEIGHT + 6}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}" font-size="11" fill="currentColor">{"".join(parts)}</svg>'


def _places(spans: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """(left, width) of each phase."""
    whole = sum(spans.values()) or 1.0
    widths = {name: max(span / whole, LEAST) for name, span in spans.items()}
    scale, at, places = WIDTH / sum(widths.values() or [1.0]), float(LEFT), {}
    for name, width in widths.items():
        places[name] = (at, width * scale)
        at += width * scale
    return places


def _stages(places: Mapping[str, tuple[float, float]]) -> str:
    """A line where each phase begins, and each stage's name where it does; a phase says its name under the pointer."""
    parts, stage = [], ""
    for name, (left, wide) in places.items():
        first, _, phase = name.partition("/")
        edge = "" if first == stage else f'<text x="{left + 3:.1f}" y="11" style="fill:var(--soft)">{escape(first)}</text>'
        shade = 0.6 if first != stage else 0.25
        line = f'<path d="M{left:.1f} {TOP}v{HEIGHT}" style="stroke:var(--soft);opacity:{shade}"/>'
        cell = f'<rect x="{left:.1f}" y="{TOP}" width="{wide:.1f}" height="{HEIGHT}" fill="transparent"><title>{escape(f"{first} {phase}")}</title></rect>'
        parts.append(f"{cell}{line}{edge}")
        stage = first
    return "".join(parts)


def _tick(value: float, share: float) -> str:
    y = TOP + HEIGHT * (1 - share)
    line = f'<path d="M{LEFT} {y:.1f}h{WIDTH}" style="stroke:var(--line);stroke-dasharray:2 4"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" style="fill:var(--soft)">{value:g}</text>'


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return low, high


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Two to six round values between ``low`` and ``high``, or the two themselves."""
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**power for power in powers for m in ((1,) if len(powers) > 3 else (1, 3)) if low <= m * 10.0**power <= high]
    else:
        step = 10.0 ** math.floor(math.log10(high - low))
        step *= next(m for m in (0.2, 0.5, 1, 2) if (high - low) / (m * step) <= 6)
        found = [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [float(f"{value:.6g}") for value in found] if len(found) > 1 else [float(f"{value:.3g}") for value in (low, high)]
