"""This engine's students against the standard way: the teacher in 50 steps with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fewstep.bench.check import Check
from fewstep.bench.clock import Series, interleave, ratio
from fewstep.bench.floors import Networks
from fewstep.bench.laps import Laps
from fewstep.bench.options import TEACHER_STEPS, Options
from fewstep.bench.sides import FULL, Question, Setting, Sides, ours, theirs
from fewstep.bench.table import Section

TEACHER, DIFFUSERS = "teacher", "diffusers"


def standard(sides: Sides, options: Options, tell: Callable[[str], None]) -> list[Section]:
    """Two tables, "method" (the same engine and decoder for both) and "product" (against diffusers), of single pictures."""
    if not sides.model.limits.teacher or sides.guidance_scale <= 1:
        note = f"left out: {sides.model.limits.name} has no teacher with guidance beside its students"
        return [Section("method", (), (note,)), Section("product", (), (note,))]
    side = max(options.sizes)
    decoders, notes = sides.decoders(side)
    tell(f"standard: {TEACHER_STEPS} steps with guidance against {', '.join(map(str, options.steps))}")
    race = Race(sides, options, decoders, side)
    race.run()
    networks = Networks.of(sides.model.folder, sides.dtype)
    full = networks.picture(TEACHER_STEPS, side, guided=True).flops
    method = [race.method(steps, full / networks.picture(steps, side).flops) for steps in options.steps]
    product = []
    for decoder in decoders:
        countable = decoder == FULL or networks.tiny is not None
        for steps in options.steps:
            product.append(race.product(steps, decoder, full / networks.picture(steps, side, decoder).flops if countable else None))
    teacher = race.check.failure(TEACHER)
    about = [f"the teacher's own picture in both engines differs by {race.check.row(TEACHER)['difference']} of 255"]
    if teacher:
        about.append(f"FAILED: the teacher: {teacher}")
    return [Section("method", tuple(method), tuple(about)), Section("product", tuple(product), tuple(notes))]


def predicted(text: Series, denoise: Series, decode: Series, steps: int) -> Series:
    """The seconds that a picture would take in ``steps`` of the teacher's evaluations, round by round, with its own text and decoding.

    ``denoise`` is the teacher's: two evaluations a step, for guidance.
    """
    rounds = zip(text.seconds, denoise.seconds, decode.seconds, strict=True)
    return Series(tuple(words + steps * walk / (2 * TEACHER_STEPS) + pixels for words, walk, pixels in rounds))


class Race:
    """The teacher in both engines and the students of every number of steps, in turn."""

    def __init__(self, sides: Sides, options: Options, decoders: list[str], side: int) -> None:
        self.sides, self.options = sides, options
        slow = Setting(TEACHER_STEPS, 1, side)
        self.work: dict[str, Callable[[Question], Any]] = {TEACHER: ours(sides.engine(FULL), slow)}
        self.references: dict[str, Callable[[], Callable[[Question], Any]]] = {}
        for decoder in decoders:
            for steps in options.steps:
                setting = Setting(steps, 1, side)
                self.work[f"{steps} {decoder}"] = ours(sides.engine(decoder), setting)
                self.references[f"{steps} {decoder}"] = self._reference(decoder, setting)
        self.work[DIFFUSERS] = theirs(sides.pipeline(TEACHER_STEPS), slow, sides.guidance_scale)
        self.check = Check(sides.dtype, options.threads if sides.device == "cpu" else None)
        self.laps = Laps()
        self.times: dict[str, Series] = {}

    def _reference(self, decoder: str, setting: Setting) -> Callable[[], Callable[[Question], Any]]:
        if decoder == FULL:
            return lambda: theirs(self.sides.pipeline(setting.steps), setting)
        return lambda: self.sides.eagerly(setting)

    def run(self) -> None:
        """Measure. Every student's picture is compared with what it should be while the rounds do not count, the teacher's always."""
        give = self.sides.questions

        def look(counted: bool, given: Mapping[str, Question], made: dict[str, Any]) -> None:
            self.laps(counted, given, made)
            self.check.see(TEACHER, made[TEACHER], made[DIFFUSERS])
            for name, reference in self.references.items() if not counted else ():
                self.check.see(name, made[name], reference()(given[name]))

        def questions() -> dict[str, Question]:
            own = {name: give(1) for name in self.work}
            return {**own, DIFFUSERS: own[TEACHER]}

        self.times = interleave(self.work, questions, self.options.rounds, self.options.warmup, look)

    def method(self, steps: int, by_flops: float) -> dict[str, Any]:
        """The row of a student in the table "method"."""
        name = f"{steps} {FULL}"
        own, teacher = self.times[name], self.times[TEACHER]
        text, denoise, decode = (self.laps.of(TEACHER, stage) for stage in ("text", "denoise", "decode"))
        least = predicted(text, denoise, decode, steps)
        failed = self.check.failure(name) or self.check.failure(TEACHER)
        return {
            "steps": steps,
            "ours_ms": 1000 * own.median,
            "ours_p95_ms": 1000 * own.p95,
            "teacher_ms": 1000 * teacher.median,
            "ratio": None if failed else ratio(teacher, own),
            "allowed": ratio(teacher, least),
            "of_allowed": None if failed else ratio(least, own),
            "flops_ratio": by_flops,
            **self.check.row(name),
            "failed": failed,
        }

    def product(self, steps: int, decoder: str, by_flops: float | None) -> dict[str, Any]:
        """The row of a student and a decoder in the table "product"."""
        name = f"{steps} {decoder}"
        own, slow = self.times[name], self.times[DIFFUSERS]
        failed = self.check.failure(name)
        return {
            "steps": steps,
            "decoder": decoder,
            "ours_ms": 1000 * own.median,
            "ours_p95_ms": 1000 * own.p95,
            "diffusers_ms": 1000 * slow.median,
            "ratio": None if failed else ratio(slow, own),
            "flops_ratio": by_flops,
            **self.check.row(name),
        }
