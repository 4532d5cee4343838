"""What a recipe would take on a machine, before it starts: memory of a rank, time and disk of each phase, and what to change where it does not fit."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fewstep.distill.described import AnyPlan, Described, describe, described_shape, model_of, read_any
from fewstep.distill.edges import EdgesPlan
from fewstep.distill.forecast.machines import Machine, machine
from fewstep.distill.forecast.rehearsal import Cost, Setting, encoding, rehearse
from fewstep.distill.forecast.trials import phases, rehearse_alone
from fewstep.distill.judge import JudgePlan
from fewstep.distill.kept import read_kept
from fewstep.distill.outline import read_outline
from fewstep.distill.plan import DistillPlan
from fewstep.distill.pretrain import TeacherPlan, dtype
from fewstep.distill.recipe import RecipeError, recipe_hash
from fewstep.distill.teacher import TeacherRecipe

TRIED = 1.2e10  # operations of an update that is tried out here: a fraction of a second
SMALL = 200e6  # bytes of learnt weights, up to which a network is tried out
HERE = ("here", "cpu")  # names of this machine
PARTS = (2, 4, 8, 16, 32, 64)  # that a batch is worked off in


@dataclass(frozen=True)
class Row:
    """One phase of a forecast."""

    cost: Cost
    seconds: float
    source: str  # of its pace: "run", "measured" or "estimated"


@dataclass(frozen=True)
class Forecast:
    """A recipe on a machine. Bytes and seconds."""

    recipe: str
    machine: Machine
    rows: tuple[Row, ...]
    encoding: float  # seconds for the latents, without rendering
    disk: float
    free: float  # on the disk of the run, infinite on another machine
    precision: str
    change: tuple[str, ...] = ()  # what would make it fit: settings for --set
    notes: tuple[str, ...] = field(default=())

    @property
    def worst(self) -> Row:
        """The phase that takes most memory."""
        return max(self.rows, key=lambda row: row.cost.memory)

    @property
    def memory(self) -> float:
        """Bytes of a rank at the worst moment, with what is no tensor."""
        return self.worst.cost.memory + self.machine.reserved

    @property
    def fits(self) -> bool:
        """Whether memory and disk suffice."""
        return self.memory <= self.machine.memory and self.disk <= self.free

    @property
    def seconds(self) -> float:
        """In all."""
        return self.encoding + sum(row.seconds for row in self.rows)


def forecast(path: Path, on: str = "", settings: Sequence[str] = (), run: Path | None = None, timed: bool = True) -> Forecast:
    """The forecast of the recipe at ``path``, on its own machine where it names one (``on``), else on this one.

    Paces come from the ``run`` folder where it holds a run of this recipe, else from trying small networks out here if it shall be ``timed``, else
    from stated rates. Raises RecipeError, ModelError, WeightsError.
    """
    plan = read_any(path, settings)
    where = machine(on or getattr(plan, "on", "") or "here")
    described, before, notes = begins_with(plan, path)
    parts = [(plan, described)] if before is None else [(before, described), (plan, described)]
    rows: list[Row] = []
    for part, shape in parts:
        costs = _costs(part, path, shape, where)
        paces = {} if where.accelerator or not timed else _tried(part, shape, where)
        spent = _spent(run, part) if part is plan else {}
        rows += [_row(one, where, _precision(part, where), paces, spent) for one in costs]
    cached = _pictures(plan)
    seconds = cached * encoding(described.configs) / where.rates[_precision(plan, where)] / where.ranks if cached and timed else 0.0
    free = float(_free(run or path)) if where.name in HERE else float("inf")
    disk = _disk(plan, [row.cost for row in rows], cached * described.latent_bytes)
    found = Forecast(str(path), where, tuple(rows), seconds, disk, free, _precision(plan, where), notes=notes)
    return found if found.memory <= where.memory else dataclasses.replace(found, change=_change(plan, path, described, where, found))


def begins_with(plan: AnyPlan, path: Path) -> tuple[Described, TeacherPlan | None, tuple[str, ...]]:
    """The dimensions of the model that is trained or learnt from, the teacher's recipe that goes first, and what is to be known."""
    name, notes = model_of(plan), []
    source = plan.data.source
    if not plan.data.shards and source not in ("shapes", "emoji") and not Path(source).exists():
        notes.append(f"data.source = {source!r} is not here: name it when you start, --set data.source=PATH")
    if isinstance(plan, JudgePlan):
        return described_shape(TeacherPlan().shape), None, tuple(notes)
    if isinstance(plan, TeacherPlan) and not plan.start:
        return described_shape(plan.shape), None, tuple(notes)
    if name.endswith(".toml"):
        teacher = read_any(path.parent / name)
        if not isinstance(teacher, TeacherPlan):
            raise RecipeError(f"{path}: teacher = {name!r} is no teacher's recipe: give one, or a model")
        return described_shape(teacher.shape) if not teacher.start else describe(teacher.start), teacher, tuple(notes)
    described = describe(name)
    return described, None, (*notes, *([described.note] if described.note else []))


def _setting(plan: AnyPlan, where: Machine) -> Setting:
    return Setting(
        ranks=where.ranks,
        accelerator=where.accelerator,
        reuse=getattr(plan, "reuse", 1),
        precision=getattr(torch, _precision(plan, where)),
        accumulate=getattr(plan, "accumulate", 1),
        sharded=getattr(plan, "sharded", False),
    )


def _precision(plan: AnyPlan, where: Machine) -> str:
    wanted = getattr(plan, "precision", "float32")  # a judge has no choice
    if wanted == "auto":
        return "bfloat16" if where.accelerator else str(dtype("auto")).removeprefix("torch.")
    return str(wanted)


def _costs(plan: AnyPlan, path: Path, described: Described, where: Machine) -> list[Cost]:
    if isinstance(plan, DistillPlan):
        return rehearse(plan, path.parent, described.configs, _setting(plan, where), described.sizes)
    return rehearse_alone(plan, described.configs, described.sizes, _setting(plan, where))


def _row(one: Cost, where: Machine, precision: str, paces: Mapping[str, float], spent: Mapping[str, float]) -> Row:
    if one.name in spent:
        return Row(one, spent[one.name] * one.updates, "run")
    if one.network in paces:
        return Row(one, one.updates * one.flops / paces[one.network], "measured")
    return Row(one, one.updates * max(one.flops / where.rates[precision], where.least), "estimated")


def _tried(plan: AnyPlan, described: Described, where: Machine) -> dict[str, float]:
    """Operations a second, by network, of one real update each on a few samples; none for large networks, which would not be tried in a moment."""
    alone = plan if not isinstance(plan, DistillPlan | EdgesPlan) else TeacherPlan(start="teacher", teacher=TeacherRecipe(batch_size=8))
    alone = dataclasses.replace(alone, precision=getattr(plan, "precision", "auto")) if isinstance(alone, TeacherPlan) else alone
    setting = _setting(alone, where)
    whole = rehearse_alone(alone, described.configs, described.sizes, setting)
    if any(one.learnt > SMALL for one in whole):
        return {}
    fewer = dataclasses.replace(setting, ranks=max(1, *(int(one.flops / TRIED) for one in whole)))
    counted = {one.name: one.flops for one in rehearse_alone(alone, described.configs, described.sizes, fewer)}
    return {phase.name: counted[phase.name] / _seconds(phase, batch, fewer) for phase, batch in phases(alone, described.configs, described.sizes, fewer)}


def _seconds(phase: Any, batch: Any, setting: Setting) -> float:
    """Of one update, turns evenly: the better of two, once everything has been touched before."""
    found = []
    for turn in 3 * tuple(dict.fromkeys(phase.turns)):
        began = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=setting.precision == torch.bfloat16):
            losses = phase.losses(turn, batch)
        losses["loss"].backward()
        found.append(time.perf_counter() - began)
    turns = len(found) // 3
    return sum(map(min, found[turns : 2 * turns], found[2 * turns :])) / turns


def _spent(run: Path | None, plan: AnyPlan) -> dict[str, float]:
    """Seconds an update of the phases that a run of this recipe has behind it."""
    if run is None or not (run / "state.json").is_file():
        return {}
    saved = read_kept(run / "state.json", ("recipe", "phase", "update", "done", "spent"))
    if saved["recipe"] != recipe_hash(plan):
        return {}
    counts = {part.name: part.updates for part in read_outline(run)}
    done = {name: counts[name] for name in saved["done"] if name in counts} | ({saved["phase"]: saved["update"]} if saved["update"] else {})
    return {name: saved["spent"][name] / updates for name, updates in done.items() if updates and name in saved["spent"]}


def _pictures(plan: AnyPlan) -> int:
    """Whose latents are made before training."""
    return 0 if isinstance(plan, JudgePlan) or (hasattr(plan, "autoencoder") and not isinstance(plan, TeacherPlan)) or plan.data.shards else plan.data.pictures


def _disk(plan: AnyPlan, costs: Sequence[Cost], latents: float) -> float:
    """What phases leave, the largest checkpoint twice, for one is whole before the other goes, students, the last and the best, model, latents, logs."""
    students = max(one.learnt + one.frozen for one in costs) if not isinstance(plan, DistillPlan) else len(plan.stages) * max(one.averages for one in costs)
    lines = 250 * sum(one.updates for one in costs)
    copies = 2.5 if isinstance(plan, DistillPlan) and plan.evaluation.prompts else 1.5  # the model is about half of them
    return sum(one.file for one in costs) + 2 * max(one.checkpoint for one in costs) + copies * students + latents + lines


def _free(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _change(plan: AnyPlan, path: Path, described: Described, where: Machine, found: Forecast) -> tuple[str, ...]:
    """The first of the changes, from the cheapest on, with which every phase fits; none where none does."""
    tight = [row.cost for row in found.rows if row.cost.memory + where.reserved > where.memory]
    # where what is there between updates is too much already, no way of working a batch off helps
    crowded = any(one.memory - one.activations + where.reserved > where.memory for one in tight)
    for settings, changed in _changes(plan, found.precision, where, crowded, {one.name.split("/")[0] for one in tight}):
        if all(one.memory + where.reserved <= where.memory for one in _costs(changed, path, described, where)):
            return settings
    return ()


def _changes(plan: AnyPlan, precision: str, where: Machine, crowded: bool, tight: Set[str]) -> Iterator[tuple[tuple[str, ...], AnyPlan]]:
    """In order of what they cost: a lower precision, parts of a batch, activations computed again (a third more time), a smaller batch, no more
    than a LoRA.
    """
    lower: dict[str, Any] = {"precision": "bfloat16"} if precision == "float32" and not isinstance(plan, JudgePlan) and where.accelerator else {}
    if lower and not crowded:
        yield _settings(lower), dataclasses.replace(plan, **lower)
    if isinstance(plan, DistillPlan):
        share = plan.batch_size // where.ranks
        counts = [count for count in PARTS if count > plan.accumulate and share % count == 0 and plan.batch_size % count == 0]
        for spared in () if crowded else ({}, {"checkpointing": True}):
            for count in [plan.accumulate, *counts] if spared else counts:
                values: dict[str, Any] = {**lower, **({"accumulate": count} if count != plan.accumulate else {}), **spared}
                yield _settings(values), dataclasses.replace(plan, **values)
        most = {**lower, "checkpointing": True, **({"accumulate": counts[-1]} if counts else {})}
        if plan.reuse > 1:
            values = {**most, "reuse": 1}
            yield _settings(values), dataclasses.replace(plan, **values)
        stages = tuple(dataclasses.replace(stage, full=0) for stage in plan.stages)
        yield (*_settings(most), "full=0 in every stage: a LoRA alone is trained"), dataclasses.replace(plan, **most, stages=stages)
    else:
        yield from _smaller(plan, lower, tight)


def _smaller(plan: Any, lower: Mapping[str, Any], tight: Set[str]) -> Iterator[tuple[tuple[str, ...], AnyPlan]]:
    """Half the batch, and half again, of each part of the recipe that does not fit (``tight``)."""
    sections = [name for name in ("teacher", "autoencoder", "text", "decoder", "edges") if hasattr(plan, name) and name in tight]
    for halved in range(1, 7):
        if isinstance(plan, JudgePlan):
            smaller = max(plan.batch_size >> halved, 1)
            yield (f"batch_size={smaller}",), dataclasses.replace(plan, batch_size=smaller)
            continue
        sizes = {name: max(getattr(plan, name).batch_size >> halved, 1) for name in sections}
        values = {name: dataclasses.replace(getattr(plan, name), batch_size=size) for name, size in sizes.items()}
        yield (*_settings(lower), *(f"{name}.batch_size={size}" for name, size in sizes.items())), dataclasses.replace(plan, **lower, **values)


def _settings(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items())


def as_json(found: Forecast) -> dict[str, Any]:
    """The forecast as plain values."""
    rows = [{**asdict(row.cost), "memory": row.cost.memory, "pictures": row.cost.pictures, "seconds": row.seconds, "pace": row.source} for row in found.rows]
    return {
        "recipe": found.recipe,
        "on": found.machine.name,
        "about": found.machine.about,
        "ranks": found.machine.ranks,
        "precision": found.precision,
        "fits": found.fits,
        "memory": found.memory,
        "memory_there": _finite(found.machine.memory),
        "worst": found.worst.cost.name,
        "seconds": found.seconds,
        "encoding_seconds": found.encoding,
        "disk": found.disk,
        "disk_free": _finite(found.free),
        "change": list(found.change),
        "notes": list(found.notes),
        "phases": rows,
    }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
