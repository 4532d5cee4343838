"""The forecast of a recipe in words: what ``fewstep distill plan`` prints."""

from __future__ import annotations

from fewstep.distill.forecast.forecast import Forecast
from fewstep.distill.watch.status import duration

PARTS = (  # of a phase's memory, as they are named for a person
    ("learnt", "weights learnt"),
    ("frozen", "other weights"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("averages", "averages"),
    ("activations", "activations"),
    ("remembered", "prompts and latents"),
    ("walks", "landing points"),
)


def lines(found: Forecast) -> list[str]:
    """The whole forecast for a person."""
    width = max(len(row.cost.name) for row in found.rows)
    shown = [f"{found.recipe} on {found.machine.name} ({found.machine.about}), {found.precision}"]
    shown += ["", f"{'phase':<{width}}  {'updates':>7}  {'pictures':>9}  {'memory':>8}  {'time':>12}  pace"]
    for row in found.rows:
        cost = row.cost
        memory = size(cost.memory + found.machine.reserved)
        shown.append(f"{cost.name:<{width}}  {cost.updates:>7}  {cost.pictures:>9}  {memory:>8}  {duration(row.seconds):>12}  {row.source}")
    worst = found.worst.cost
    parts = [f"{name} {size(getattr(worst, key))}" for key, name in PARTS if getattr(worst, key) >= 1e6]
    there = "" if found.machine.memory == float("inf") else f" of {size(found.machine.memory)}"
    each = " a rank" if found.machine.ranks > 1 else ""
    shown += ["", f"memory  {size(found.memory)}{there}{each}, in {worst.name}: {', '.join(parts)}, reserved {size(found.machine.reserved)}"]
    shown += [f"time    {duration(found.seconds)}" + (f", of which {duration(found.encoding)} to encode pictures" if found.encoding >= 1 else "")]
    shown += [f"disk    {size(found.disk)}" + ("" if found.free == float("inf") else f" of {size(found.free)} free")]
    shown += [f"note    {note}" for note in found.notes]
    return [*shown, verdict(found)]


def verdict(found: Forecast) -> str:
    """The last line: whether it fits, and what to do where it does not."""
    if found.fits:
        return "fits"
    if found.disk > found.free:
        return f"does not fit: the disk has {size(found.free)} free: make room, or give another --run"
    return f"does not fit{'; ' if found.change else ', and '}{way_out(found)}"


def way_out(found: Forecast) -> str:
    """What would make a recipe fit that takes too much memory."""
    if not found.change:
        return "no change that is tried here makes it fit: give a larger machine or a smaller model"
    settings = " ".join(f"--set {setting}" if ":" not in setting else f"and {setting}" for setting in found.change)
    return f"the cheapest change that makes it fit: {settings}"


def size(value: float) -> str:
    """Bytes in MB or GB."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
