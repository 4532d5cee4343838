"""What the numbers of a run say of it: lights where a value means the same at any scale, advice, and rules that end a run. Loads no torch.

The thresholds are judgement, not theory. The reference is this project's own runs (docs/runs), in which ``right`` lay at 0.5 to 0.73, the
gradients' ratio between 0.04 and 2.6 and the student's deviation within 3 % of the teacher's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

Colour = Literal["green", "yellow", "red"]
CHANCE = 2 * math.log(2)  # the critic's loss, equation 20, where it can only guess
WINDOW = 25  # turns of each side that a light looks back on
FEWEST = 5  # turns before it says anything
PATIENCE = 50  # the critic's turns that a stop rule waits, 100 updates in all: a contest that ends sooner is never stopped
COLLAPSED = 0.25  # of the teacher's deviation
WON = 0.99  # of the critic's answers right, and
SURE = 0.1  # its loss as a share of guessing's
RUNAWAY = 3.0  # times guessing's loss
BLIND = 0.01  # deviation of the critic's log-odds over a batch: 0.04 to 0.4 in runs that went well, under 0.005 at a hundred times their rate
BLIND_TURNS = 15  # of the critic, all of them blind, before the run ends: 30 updates


@dataclass(frozen=True)
class Light:
    """One judgement: what was looked at, how it stands, and what to do about it."""

    name: str
    colour: Colour
    value: float
    advice: str


def critic_light(right: float) -> Light:
    """The share of the critic's answers that are right, over teacher's and student's latents; 0.5 is guessing."""
    if right > 0.97:
        return Light("critic", "red", right, "the critic tells the two apart each time and teaches little: lower critic_learning_rate, or more warm updates")
    if right > 0.85:
        return Light("critic", "yellow", right, "the critic is well ahead: fine for a while, if distance falls; else lower critic_learning_rate")
    if right < 0.4:
        return Light("critic", "red", right, "the critic is worse than guessing: lower critic_learning_rate")
    return Light("critic", "green", right, "near 0.5 the critic can only guess: the student is close, or the critic has yet to learn")


def loss_light(share: float) -> Light:
    """The critic's loss, without a penalty, as a multiple of what guessing costs."""
    if share > 2.0:
        return Light("critic's loss", "red", share, "worse than guessing: its weights run away; lower critic_learning_rate, or set r1_weight")
    if share > 1.25:
        return Light("critic's loss", "yellow", share, "a little worse than guessing: if it stays so, lower critic_learning_rate")
    return Light("critic's loss", "green", share, "at most what guessing costs")


def variety_light(variety: float) -> Light:
    """The standard deviation of the critic's log-odds over a batch, teacher's and student's latents together."""
    if variety < BLIND:
        return Light("critic's variety", "red", variety, "it says the same of every picture, its weights are spoilt: lower critic_learning_rate")
    if variety < 2 * BLIND:
        return Light("critic's variety", "yellow", variety, "it hardly tells one picture from another: see whether this goes on falling")
    return Light("critic's variety", "green", variety, "its answers differ from picture to picture")


def gradient_light(ratio: float) -> Light:
    """The student's gradient norm over the critic's, both before clipping."""
    if not 1e-3 <= ratio <= 1e2:
        advice = "the critic hardly moves the student" if ratio < 1 else "the student is thrown about"
        return Light("gradients", "red", ratio, f"{advice}: the learning rates of the two do not belong together")
    if not 5e-3 <= ratio <= 2e1:
        return Light("gradients", "yellow", ratio, "far from the ratios seen so far, 0.04 to 2.6: watch distance")
    return Light("gradients", "green", ratio, "as in runs that went well")


def spread_light(ratio: float) -> Light:
    """The standard deviation of the student's latents over the teacher's."""
    if not 0.7 <= ratio <= 1.4:
        advice = "the student's latents fade, pictures go grey" if ratio < 1 else "the student's latents overshoot, pictures burn out"
        return Light("student's deviation", "red", ratio, f"{advice}: lower the student's learning rate, or more warm updates")
    if not 0.9 <= ratio <= 1.12:
        return Light("student's deviation", "yellow", ratio, "not yet the teacher's contrast: usual early in a stage, wrong at its end")
    return Light("student's deviation", "green", ratio, "the teacher's contrast")


def teacher_light(ratio: float) -> Light:
    """The standard deviation of the teacher's finished latents over that of the data's."""
    if not 0.5 <= ratio <= 2.0:
        return Light("teacher's deviation", "red", ratio, "the teacher draws nothing like the data: wrong noise schedule, prediction type or scaling factor")
    if not 0.75 <= ratio <= 1.4:
        return Light("teacher's deviation", "yellow", ratio, "the teacher's contrast is not the data's: see whether guidance_scale is meant so")
    return Light("teacher's deviation", "green", ratio, "the teacher draws with the data's contrast")


def misses_light(share: float) -> Light:
    """What the teacher misses of the noise in noised data, over what the best linear guess misses."""
    if share >= 1:
        advice = "the teacher is worse than a straight line on this data: wrong noise schedule, prediction type, scaling factor or autoencoder"
        return Light("teacher fits the data", "red", share, advice)
    if share > 0.5:
        return Light("teacher fits the data", "yellow", share, "the teacher hardly knows this data: is it the data it was trained on?")
    return Light("teacher fits the data", "green", share, "the teacher knows this data")


def movement_light(moved: float) -> Light:
    """How far the student's weights moved since the last look, relative to their size."""
    if moved == 0:
        return Light("student moves", "red", moved, "the student's weights do not move at all: its learning rate is 0, or nothing of it is trained")
    return Light("student moves", "green", moved, "its weights change")


class Monitor:
    """The lights and stop rules of a run, fed with its lines one by one. What it remembers ends with each phase."""

    def __init__(self) -> None:
        self._phase = ""
        self._turns: dict[str, deque[Mapping[str, Any]]] = {}
        self._looks: dict[str, Any] = {}
        self._still = False
        self._finite = True

    def take(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        self._enter(line["phase"])
        self._finite = all(math.isfinite(value) for value in line.values() if isinstance(value, float))
        self._turns.setdefault(line["turn"], deque(maxlen=PATIENCE)).append(line)

    def look(self, line: Mapping[str, Any]) -> None:
        """A line of health.jsonl."""
        self._enter(line["phase"])
        self._looks = dict(line)
        self._still = line.get("moved") == 0

    def lights(self) -> list[Light]:
        """What can be said now: of the last WINDOW turns, once there are FEWEST, and of the last look."""
        found = [] if self._finite else [Light("numbers", "red", math.nan, "a value is not finite: lower the learning rates")]
        critic, student = self._recent("critic"), self._recent("student")
        if len(critic) >= FEWEST:
            found += [critic_light(_mean(critic, "right")), loss_light(_of_guessing(critic))] if "right" in critic[-1] else []
            found += [variety_light(median(line["variety"] for line in critic))] if "variety" in critic[-1] else []
            found += [spread_light(_mean(critic, "spread"))] if "spread" in critic[-1] else []
            norms = [[line["grad_norm"] for line in side if "grad_norm" in line] for side in (student, critic)]
            if all(len(side) >= FEWEST for side in norms) and (below := median(norms[1])):
                found.append(gradient_light(median(norms[0]) / below))
        elif "spread" in self._looks:
            found.append(spread_light(self._looks["spread"]))
        found += [teacher_light(self._looks["teacher_spread"])] if "teacher_spread" in self._looks else []
        found += [misses_light(self._looks["teacher_misses"])] if "teacher_misses" in self._looks else []
        found += [movement_light(self._looks["moved"])] if "moved" in self._looks else []
        return found

    def verdict(self) -> str:
        """Why the run should end now, in a sentence with the way out; empty while it may go on. Every rank comes to the same.

        Caught at the second look: a student that does not move. Within BLIND_TURNS turns of the critic: one that says the same of every picture.
        Within PATIENCE: latents that collapse, a critic that has won or whose weights run away.
        """
        if self._still:
            return f"{self._phase}: the student's weights did not move between two looks: is its learning rate 0, or nothing of it trained?"
        turns = list(self._turns.get("critic", ()))
        latest = [line.get("variety", 1.0) for line in turns[-BLIND_TURNS:]]
        if len(latest) == BLIND_TURNS and max(latest) < BLIND:
            return f"{self._phase}: for {BLIND_TURNS} turns the critic said the same of every picture, its weights are spoilt: lower critic_learning_rate"
        if len(turns) < PATIENCE or "right" not in turns[-1]:
            return ""
        loss, right = _of_guessing(turns), _mean(turns, "right")
        where = f"{self._phase}: over the critic's last {PATIENCE} turns"
        if loss > RUNAWAY:
            return f"{where} its loss was {loss:.1f} times that of guessing, its weights run away: lower critic_learning_rate, or set r1_weight"
        if right >= WON and loss < SURE:
            return f"{where} {right:.1%} of its answers were right: it has won, and the student learns nothing more; lower critic_learning_rate"
        if "spread" in turns[-1] and (spread := _mean(turns, "spread")) < COLLAPSED:
            return f"{where} the student's latents had {spread:.2f} of the teacher's deviation, they collapse: lower the student's learning rate"
        return ""

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self._phase, self._turns, self._looks, self._still = phase, {}, {}, False

    def _recent(self, turn: str) -> list[Mapping[str, Any]]:
        return list(self._turns.get(turn, ()))[-WINDOW:]


def _of_guessing(lines: Iterable[Mapping[str, Any]]) -> float:
    """The mean loss of the critic's turns over guessing's: as their method says, else as equation 20 has it."""
    return fmean(line.get("of_guessing", line["loss"] / CHANCE) for line in lines)


def _mean(lines: Iterable[Mapping[str, Any]], key: str) -> float:
    return fmean(line[key] for line in lines)
