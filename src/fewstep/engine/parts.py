"""Which files a model is made of, from the words that name it: a known name, a folder, a file, an id on the Hub, few-step weights on a base.

Reads headers and configurations; loads no weights and no torch.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.engine.request import TEACHER_STEPS, listed
from fewstep.models.weights import find_weights
from fewstep.stamp import Stamp, StepMismatch
from fewstep.zoo.hub import cached, command, snapshot
from fewstep.zoo.known import BASE, KNOWN, Known, Weights
from fewstep.zoo.recognise import Recognised, recognise
from fewstep.zoo.registry import (
    INDEX,
    ModelError,
    base_of,
    configured,
    find,
    missing,
    peek,
    students,
    weights_file,
)

SDXL_STEPS, SDXL_GUIDANCE = 50, 5.0  # of a plain model: its pipeline's defaults in diffusers
SDXL_TEXT = 2048  # width of the text that its UNet reads
FEW_STEP = ("UNet", "LoRA")  # kinds of files that can make a model few-step
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}  # the one that fewstep.schedule has


@dataclass(frozen=True)
class Parts:
    """Where the parts of a model lie, and how they are sampled."""

    name: str
    folder: Path  # a diffusers folder
    base: Stamp  # of the UNet in it
    teacher: bool  # whether that is a teacher
    students: dict[int, Path] = field(default_factory=dict)
    rows: dict[int, Stamp] = field(default_factory=dict)  # of students whose files do not say
    default_steps: int | None = None
    file: Path | None = None  # that all weights are in, where that is one; then ``folder`` has the configurations and tokenizers


def find_parts(model: str, steps: int | None = None, base: str | None = None, few_step: str | None = None) -> Parts:
    """The parts of ``model``; ``few_step``, such as "lightning-lora:4" or a file, is put on ``base``, or on ``model`` where that is not given.

    Raises ModelError on what is not there or does not go together, StepMismatch on a step count that weights were not made for.
    """
    if few_step is not None:
        if base is not None and model not in ("emoji", base):
            raise ModelError(f"few-step weights go on one model, and both '{model}' and the base '{base}' were given: give one of them")
        return _few_step(few_step, base, model, steps)
    if model in KNOWN and KNOWN[model].weights:
        return _family(KNOWN[model], steps, base)
    if base is not None and not Path(model).is_file():
        raise ModelError(f"a base was given, and '{model}' is a whole model: give it few-step weights, for instance --few-step lightning-lora:4")
    path = find(model)
    if path.is_file():
        return _file(path, steps, base)
    known = KNOWN.get(model)
    name = model if known or not Path(model).is_dir() else path.name
    if known and known.rows:
        unet = find_weights(path / "unet")
        return Parts(name, path, Stamp("unet", known.default_steps), False, dict.fromkeys(known.steps, unet), dict(known.rows), known.default_steps)
    return _folder(name, path, steps)


def _folder(name: str, folder: Path, steps: int | None) -> Parts:
    """A whole model in diffusers' layout."""
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder} is no model: it holds no {INDEX}; give a diffusers folder, or one of {', '.join(KNOWN)}")
    unet = find_weights(folder / "unet")
    stamp = peek(unet) if unet.is_file() else None
    if stamp is None:
        return Parts(name, folder, _plain(folder), True, students(folder))
    if stamp.kind != "teacher":  # exported for one step count
        if steps is not None:
            stamp.check(steps, name)
        return Parts(name, folder, stamp, False, {stamp.steps: unet})
    return Parts(name, folder, stamp, True, students(folder))


def _plain(folder: Path) -> Stamp:
    """How a model that fewstep did not write is sampled: as its scheduler's configuration says, with diffusers' usual guidance.

    Raises ModelError on a noise schedule that is not SDXL's.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
        odd = [key for key, value in SCHEDULE.items() if config.get(key, value) != value]
        odd += [key for key in ("rescale_betas_zero_snr", "trained_betas", "sigma_data") if config.get(key)]
        if odd:
            raise ModelError(f"{path}: {odd[0]} is {config[odd[0]]!r:.40}, and fewstep knows SDXL's own noise schedule alone: give another model")
        plain = Stamp("teacher", SDXL_STEPS, config.get("prediction_type", "epsilon"), guidance_scale=SDXL_GUIDANCE)
        if config.get("timestep_spacing") != "leading":
            return plain
        return dataclasses.replace(plain, spacing="leading", timesteps=(), start_scale=1.0)
    except ModelError:
        raise
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): fetch the model again") from None


def _foundation(base: str) -> Parts:
    """The whole model that few-step weights are put on, without students of its own. Raises ModelError on one that already is few-step."""
    path = find(base)
    if path.is_file() and not recognise(path).whole:
        raise ModelError(f"the base {base} is no whole model: give a diffusers folder, a checkpoint in one file, a known name or an id on the Hub")
    parts = find_parts(base)
    if not parts.teacher:
        raise ModelError(f"{parts.name} already is a few-step model, and further few-step weights would spoil it: give a base that is not")
    return Parts(parts.name, parts.folder, parts.base, True, file=parts.file)


def _family(known: Known, steps: int | None, base: str | None) -> Parts:
    """A known model that is weights for another: its own base, or one that is given, which takes LoRAs alone."""
    table = {count: one for count in known.steps if (one := known.choose(count, "lora" if base else None))}
    if not table:
        raise ModelError(f"{known.name} is whole UNets, which would take the place of the base's own: use LoRAs ({_with_loras()})")
    if steps is not None and steps not in table and steps not in TEACHER_STEPS:
        nearest = min(table, key=lambda have: abs(have - steps))
        raise StepMismatch(f"{steps} steps were asked for, and {known.name} has weights for {listed(list(table))}: use --steps {nearest}")
    there = {count: path for count, one in table.items() if (path := cached(known.repo, one.file)) and path.suffix == ".safetensors"}
    default = known.default_steps if known.default_steps in there or not there else max(there)
    wanted = default if steps is None else steps
    if wanted in table and wanted not in there:
        _fetch(known, table[wanted], base)
    on = _foundation(base) if base else _own_base(known)
    name = known.name if base is None else f"{known.name} on {on.name}"
    return Parts(name, on.folder, on.base, True, there, {count: table[count].row for count in there}, wanted, on.file)


def _own_base(known: Known) -> Parts:
    return _folder(known.base, find(known.base), None)


def _fetch(known: Known, weights: Weights, base: str | None) -> None:
    """Raises ModelError: what is to be typed for a file that is not there, and for its base if that is not either."""
    try:
        weights_file(known, weights)
    except ModelError as error:
        if base is not None or Path(weights.file).suffix != ".safetensors":
            raise
        repo = KNOWN[known.base].repo
        lacking = missing(snapshot(repo) or Path(repo))
        raise ModelError(f"{error} && {command(repo, lacking)}" if lacking else str(error)) from None


def _few_step(spec: str, base: str | None, model: str, steps: int | None) -> Parts:
    """``base``, or else ``model``, with the few-step weights that ``spec`` names: NAME, NAME:STEPS, FILE or FILE:STEPS."""
    name, _, count = spec.rpartition(":") if spec.rpartition(":")[2].isdecimal() else (spec, "", "")
    wanted = int(count) if count else steps
    if count and steps is not None and steps != wanted and steps not in TEACHER_STEPS:
        raise StepMismatch(f"{steps} steps were asked for, and the few-step weights are {spec}: use --steps {wanted}, or {name}:{steps}")
    known = KNOWN.get(name) or KNOWN.get(f"sdxl-{name}")
    if known and known.weights:
        return _family(known, wanted, base or (known.base if model == "emoji" else model))
    if not Path(name).is_file():
        raise ModelError(f"there are no few-step weights '{spec}': give one of {_with_loras()} with a step count, as lightning-lora:4, or a .safetensors file")
    path, on = find(name), _foundation(base or model)
    stamp = _row_of(path, wanted, on)
    if wanted is not None and wanted not in TEACHER_STEPS:
        stamp.check(wanted, str(path))
    return Parts(f"{on.name} with {path.stem}", on.folder, on.base, True, {stamp.steps: path}, {stamp.steps: stamp}, stamp.steps, on.file)


def _row_of(path: Path, steps: int | None, on: Parts) -> Stamp:
    """How few-step weights for ``on`` are sampled: as their stamp says, as the known file of their name, else in ``steps`` steps as SDXL-Lightning is."""
    found = recognise(path)
    if found.kind not in FEW_STEP:
        raise ModelError(f"{path} is no few-step weights, but {found.sentence()}: give a UNet or a LoRA")
    if found.model and found.width != _width(on.folder):
        raise ModelError(f"{path} was made for {found.model}, and {on.name} is another model: give few-step weights that were made for {on.name}")
    if found.rows:
        return found.rows[0]
    if steps is None:
        raise ModelError(f"{path} does not say how many steps it was trained for: give them as {path}:STEPS, and it is sampled as SDXL-Lightning is")
    return Stamp("lora" if found.kind == "LoRA" else "unet", steps, found.prediction_type or "epsilon")


def _file(path: Path, steps: int | None, base: str | None) -> Parts:
    """A whole model in one file; or few-step weights: on the given base, the folder around a file that fewstep wrote, or SDXL for a known file."""
    found = recognise(path)
    if found.whole:
        parts = _whole(path, found, base)
        if steps is not None and not parts.teacher and not parts.rows:
            parts.base.check(steps, str(path))
        return parts
    if found.kind not in FEW_STEP:
        raise ModelError(f"{path} is no model of SDXL's kind, but {found.sentence()}: give a whole model, or few-step weights")
    if any(row.kind == "teacher" for row in found.rows):
        raise ModelError(f"{path} is a teacher's UNet alone: give the diffusers folder it belongs to")
    if not found.rows:
        raise ModelError(
            f"{path} does not say how many steps it was trained for: give a file that fewstep wrote, a diffusers folder, or --few-step {path}:STEPS on a --base"
        )
    stamped, row = found.said_by == "stamp", found.rows[0]
    on = _folder(path.stem, base_of(path), None) if stamped and base is None else _foundation(base or BASE)
    if steps is not None:
        row.check(steps, str(path))
    return Parts(path.stem, on.folder, on.base, False, {row.steps: path}, {} if stamped else {row.steps: row}, row.steps, on.file)


def _whole(path: Path, found: Recognised, base: str | None) -> Parts:
    """A checkpoint in one file, as fine-tunes are published; ``base`` is a folder whose configurations and tokenizers it has, if not SDXL's."""
    if found.zero_snr:
        raise ModelError(f"{path} says that its noise schedule has zero terminal SNR, and fewstep knows SDXL's own noise schedule alone: give another model")
    if base is not None:
        folder = find(base)
    elif found.width == SDXL_TEXT:
        folder = configured(KNOWN[BASE])
    elif found.said_by == "stamp" and found.width == _width(base_of(path)):
        folder = base_of(path)
    else:
        raise ModelError(f"{path} is a model of other dimensions than SDXL's: give with --base a folder whose configurations and tokenizers it has")
    name, row = path.stem, found.rows[0] if found.rows else None
    if len(found.rows) > 1:  # one file for several step counts
        rows = {row.steps: row for row in found.rows}
        default = KNOWN[found.family].default_steps
        return Parts(name, folder, rows[default], False, dict.fromkeys(rows, path), rows, default, path)
    if row is None:
        plain = _plain(folder)
        return Parts(name, folder, dataclasses.replace(plain, prediction_type=found.prediction_type or plain.prediction_type), True, file=path)
    if row.kind == "teacher":
        return Parts(name, folder, row, True, file=path)
    return Parts(name, folder, row, False, {row.steps: path}, {}, row.steps, path)


def _width(folder: Path) -> Any:
    """Of the text that a model attends to."""
    return json.loads((folder / "unet" / "config.json").read_text(encoding="utf8")).get("cross_attention_dim")


def _with_loras() -> str:
    """The known few-step LoRAs, in words."""
    return ", ".join(_short(known) for known in KNOWN.values() if any(one.row.kind == "lora" for one in known.weights))


def _short(known: Known) -> str:
    return known.name.removeprefix("sdxl-")
