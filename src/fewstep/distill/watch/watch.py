"""Who watches a run beside the training: lights and stop rules, progress with the time left, the report, trackers. None changes what is computed."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from fewstep.distill import dist
from fewstep.distill.kept import read_kept
from fewstep.distill.outline import OUTLINE, Part, seconds_left, write_outline
from fewstep.distill.plan import EvaluationRecipe, HealthRecipe, TrackingRecipe
from fewstep.distill.sharding import in_shares
from fewstep.distill.state import Run, write_text
from fewstep.distill.trainer import Phase, Routine, Stopped
from fewstep.distill.watch.health import Monitor
from fewstep.distill.watch.page import REPORT, report
from fewstep.distill.watch.status import STATUS, sentence
from fewstep.distill.watch.tracking import tracker
from fewstep.engine.output import say
from fewstep.evals.figures import told

if TYPE_CHECKING:
    from fewstep.distill.watch.evaluation import Evaluation, Standing
    from fewstep.distill.watch.probe import Probe, Walker


class Watch:
    """Watches ``run``, which has ``parts`` to do: put :meth:`routines` into ``run.observers``."""

    def __init__(
        self,
        run: Run,
        parts: Sequence[Part],
        health: HealthRecipe | None = None,
        tracking: TrackingRecipe | None = None,
        evaluation: EvaluationRecipe | None = None,
    ) -> None:
        self.evaluation: EvaluationRecipe | None = evaluation
        self.measured: Evaluation | None = None
        self.run, self.parts, self.health = run, tuple(parts), health or HealthRecipe(every=0, stop=False)
        self.monitor = Monitor()
        self._begun = ""  # the phase that status.json has been told of
        asked = tracking if tracking and dist.rank() == 0 else TrackingRecipe()
        self.tracker = tracker(asked, run.folder, run.state.recipe)
        self._before = {part.name: sum(earlier.updates for earlier in self.parts[:index]) for index, part in enumerate(self.parts)}
        if dist.rank() == 0:
            write_text(run.folder / OUTLINE, write_outline(self.parts))

    def routines(self) -> list[Routine]:
        """What is due in every phase, in order."""
        return [
            Routine(self._judge, every=1),
            Routine(self._tell, seconds=10.0, last=True, alone=True),
            Routine(self._report, seconds=120.0, last=True, alone=True),
        ]

    def probes(self, probe: Probe) -> list[Routine]:
        """A look by ``probe`` whenever one is due, and at a phase's end."""
        return [Routine(partial(self._look, probe), every=self.health.every, last=True)] if self.health.every else []

    def evaluations(self, evaluation: Evaluation | None) -> Callable[[Walker, Standing], list[Routine]]:
        """What makes the routines of a phase from its student and how it stands: an ``evaluation`` whenever one is due, and at the phase's end."""
        self.measured = evaluation
        if evaluation is None or self.evaluation is None:
            return lambda walker, standing: []
        every = self.evaluation.every
        return lambda walker, standing: [Routine(partial(self._measure, evaluation, walker, standing), every=every, last=True)]

    def finish(self) -> None:
        """Say that the run is done."""
        if dist.rank() == 0:
            self._write_status("", 0, 0)
            self._write(REPORT, report(self.run.folder))
        self.tracker.close()

    def _judge(self, phase: Phase, run: Run) -> None:
        if phase.name != self._begun:  # whoever asks is not told of an earlier start's end until the first ten seconds are over
            self._begun = phase.name
            self._tell(phase, run)
        self.monitor.take(run.latest)
        self.tracker.log({key: value for key, value in run.latest.items() if isinstance(value, float)}, run.latest["turn"], self._position(phase))
        self._stop_if_told(run)

    def _look(self, probe: Probe, phase: Phase, run: Run) -> None:
        asked = run.stopping is not None  # who asks for the end does not wait for pictures
        if dist.agreed(asked) if in_shares(probe.student.unet) else asked:
            return
        line = {"phase": phase.name, "update": run.state.update, "seconds": round(run.state.seconds, 1), **probe.look(phase, run)}
        self.monitor.look(line)
        run.note(line)
        self.tracker.log({key: value for key, value in line.items() if isinstance(value, float)}, "look", self._position(phase))
        self._stop_if_told(run)

    def _measure(self, evaluation: Evaluation, walker: Walker, standing: Standing, phase: Phase, run: Run) -> None:
        line = evaluation.measure(walker, standing, phase, self._position(phase))
        if line is not None:
            self.tracker.log(line["figures"], "evaluation", self._position(phase))
            kept = "  the best so far" if line["best"] else ""
            say(f"evaluated  {phase.name}  {run.state.update}  {'  '.join(told(line['figures']))}{kept}  {line['seconds']:.1f} s")

    def _stop_if_told(self, run: Run) -> None:
        if self.health.stop and run.stopping is None and (why := self.monitor.verdict()):
            run.stopping = Stopped(f"{why}; the state is saved, --set health.stop=false goes on regardless")

    def _tell(self, phase: Phase, run: Run) -> None:
        if dist.rank() == 0:
            self._write_status(phase.name, phase.updates, phase.batch_size)
            say(sentence(read_kept(run.folder / STATUS)))

    def _report(self, phase: Phase, run: Run) -> None:
        if dist.rank() == 0:
            self._write(REPORT, report(run.folder))

    def _position(self, phase: Phase) -> int:
        """Updates since the run's first, by the outline: the same on resume."""
        return self._before.get(phase.name, 0) + self.run.state.update

    def _write_status(self, phase: str, updates: int, batch_size: int) -> None:
        state = self.run.state
        seconds = state.spent.get(phase, 0.0)
        stages = list(dict.fromkeys(part.name.split("/")[0] for part in self.parts))
        stage = phase.split("/")[0]
        content = {
            "state": "stopped" if self.run.stopping else "running" if phase else "done",
            "why": str(self.run.stopping or ""),
            "phase": phase,
            "stage": stages.index(stage) + 1 if stage in stages else len(stages),
            "stages": len(stages),
            "update": state.update,
            "updates": updates,
            "pictures": state.samples,
            "pictures_per_second": state.update * batch_size / seconds if seconds else None,
            "seconds": state.seconds,
            "seconds_left": seconds_left(self.parts, state.spent, state.done, phase, state.update) if phase else 0.0,
            "evaluation": None if self.evaluation is None else self.measured.about() if self.measured else "off",
            "best": state.best,
            "lights": [asdict(light) for light in self.monitor.lights()],
            "time": time.time(),
            "process": os.getpid(),
            "host": socket.gethostname(),
        }
        self._write(STATUS, json.dumps(content, indent=1))

    def _write(self, name: str, text: str) -> None:
        with self.run.room(len(text)):
            write_text(self.run.folder / name, text)
