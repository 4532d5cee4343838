"""Measure methods of distillation against each other: python bench/methods.py

All cells start from one student (``start`` of --recipe) and have the same budget, counted in pictures through the UNet. Of several steps' a part
is warm updates that are the same for all; cells of one step begin as one student of one step, which is trained first. A cell is a row, a number
of steps and a seed; what it finds is one file in docs/methods, and a cell that has its file is passed over: kill the program whenever you like,
the same command goes on. --method FILE.py adds a row for a method of your own, and --table writes the leaderboard from the files into
docs/methods.md. --quick proves only that the program works.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from fewstep.bench.machine import describe
from fewstep.data.emoji import World
from fewstep.distill.command import run_folder
from fewstep.distill.methods import find_method
from fewstep.distill.outline import paper_passes
from fewstep.distill.plan import DistillPlan, Stage
from fewstep.distill.recipe import RecipeError, read_recipe, recipe_hash
from fewstep.distill.state import write_text
from fewstep.distill.trainer import Terminated
from fewstep.distill.walk import distill
from fewstep.distill.world import open_world
from fewstep.engine.device import best_device
from fewstep.engine.engine import Engine
from fewstep.evals.frechet import frechet, patch_features
from fewstep.evals.judge import JUDGE, Judge, load_judge, look
from fewstep.evals.measure import Answers, Seen, diversity_of
from fewstep.evals.prompts import GROUPS, PICTURES, Question, ambiguous, held_out
from fewstep.evals.rows import Model, Renders
from fewstep.models.bundle import read_stamp
from fewstep.models.students import student_file
from fewstep.zoo.registry import find

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "methods", ROOT / "docs" / "methods.md"
MARKS = "<!-- table -->", "<!-- end of table -->"
PACE = 60  # pictures a second through the embedded UNet on one core: what a minute of budget stands for
WARM = 0.35  # of a cell's budget, where its steps are several
CONVERT, ALIKE = 200, 1800  # updates that make the student of one step which all cells of one step begin as
FAR = 8e-4  # the rate at which it learns a jump from noise to a picture, as in recipes/emoji.toml
CONTEST = ("conditional", "unconditional", "full")
UNSURE = 0.5  # a picture whose likeliest subject the judge gives less than this is an artefact


@dataclass(frozen=True)
class Row:
    """A method and its options."""

    method: str
    settings: tuple[str, ...] = ()  # of the recipe
    n: int | None = None  # teacher steps of a jump, where not all that a step covers
    noisy: bool = False  # whether the critic has noise levels of its own
    also: tuple[int, ...] = ()  # the other step counts of one student for all, which one training is measured at each of


ROWS = {
    "mse": Row("mse", ("full_learning_rate=1e-4",)),
    "lcm": Row("lcm", ("full_learning_rate=1e-4",), n=2),
    "add": Row("add", ("full_learning_rate=2e-5",)),
    "paper": Row("paper"),
    "paper, critic's LoRA": Row("paper", ("critic_rank=16",)),
    "paper, R1": Row("paper", ("r1_weight=10.0",)),
    "paper, relativistic": Row("paper", ("relativistic=true",)),
    "paper, heads and noise": Row("paper", ("critic_heads=every", "critic_noise=every"), noisy=True),
    "distribution": Row("distribution", ("full_learning_rate=2e-5",)),
    "paper, matching": Row("matching"),
    "one student": Row("paper", also=(2, 4, 8)),
}


@dataclass(frozen=True)
class Figures:
    """What is measured of a student, over held-out prompts."""

    adherence: float  # share of pictures of which the judge finds both subject and background right
    detail: float  # patch-Fréchet distance to renders; lower is better
    artefacts: float  # share of pictures whose likeliest subject has less than UNSURE
    diversity: float  # different right subjects among the pictures of an ambiguous prompt, over the start's


COLUMNS = (("adherence", ".1%", True), ("detail", ".2f", False), ("artefacts", ".1%", False), ("diversity", ".0%", True))


def taught_by(plan: DistillPlan) -> str:
    """The hash of the teacher's weights, which the student that all cells start from was distilled from: what "emoji:8" is changes with what ships."""
    where, _, steps = plan.start.rpartition(":")
    kept = Path(where) / "weights" / f"{steps}-step.safetensors"
    stamp = read_stamp(kept) if kept.is_file() else student_file(find(where), int(steps))[1]
    return stamp.base if stamp else ""


def stage_of(row: Row, plan: DistillPlan, steps: int, budget: float, begin: str) -> Stage:
    """The stage of a cell: ``budget`` pictures through the UNet in all, spread over its phases by what an update of each costs. Where it has one
    step, it begins as the student ``begin``.
    """
    most = plan.start_steps
    steps = 1 if row.also else steps
    n = row.n or most // steps
    if row.also:
        bare = Stage(steps=1, teacher_steps=most, n=n, also=row.also, prediction_type="sample", begin=begin)
    elif steps == 1:
        levels = tuple(range(n, most + 1, n)) if row.n else far(most)
        renoise = {} if row.noisy or not find_method(row.method, Path()).options else {"renoise_t": (9, 249, 499, 749), "renoise_weights": (1.0, 1.0, 1.0, 1.0)}
        bare = Stage(steps=1, teacher_steps=most, n=n, levels=levels, prediction_type="sample", begin=begin, **renoise)  # type: ignore[arg-type]
    else:
        bare = Stage(steps=steps, teacher_steps=most, n=n, levels=tuple(range(n, most + 1, n)) if n < most // steps else ())
    method = find_method(row.method, Path())
    shares = {"warm": 0.0 if row.n or steps == 1 else WARM}  # a warm jump is as long as the method's
    shares |= {phase: (1 - sum(shares.values())) / len(method.phases) for phase in method.phases}
    cost = {phase: (method.passes if phase in CONTEST else paper_passes)(plan, bare, phase) for phase in shares}
    return replace(bare, **{phase: max(round(share * budget / plan.batch_size / cost[phase]), 3) for phase, share in shares.items() if share})


def far(most: int) -> tuple[int, ...]:
    """Levels for a student of one step: mostly T, where it is sampled."""
    return (most // 2, *[most] * 5)


def settings_of(row: Row, stage: Stage, seed: int) -> list[str]:
    """The cell's settings of the recipe."""
    values = {key: value for key, value in asdict(stage).items() if value not in ((), 0, 0.0)}
    written = ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    seeds = [f"seed={seed}", f"data.seed={seed}"]  # of what is learnt anew, and of the noise that it is learnt on
    return [f"method={json.dumps(row.method)}", *seeds, *row.settings, f"stages=[{{{written}}}]"]


@dataclass
class Bench:
    """The program's options, and what all cells share."""

    recipe: Path
    settings: list[str]
    work: Path
    out: Path
    prompts: int
    alike: int  # warm updates of the student that all cells of one step begin as
    judge: Judge
    world: World

    def cell(self, name: str, row: Row, steps: int, seed: int, budget: float) -> dict[str, Any]:
        """Train and measure one cell; its content is what its file holds."""
        bare = read_recipe(self.recipe, DistillPlan, [*self.settings, *row.settings])
        stage = stage_of(row, bare, steps, budget, str(self.ground()) if steps == 1 or row.also else "")
        run = self.trained(row, stage, seed)
        plan, state = read_recipe(self.recipe, DistillPlan, self.settings), json.loads((run / "state.json").read_text(encoding="utf8"))
        began = time.perf_counter()
        figures = self.measure(whole(run, steps), steps)
        return {
            "row": name,
            "steps": steps,
            "seed": seed,
            "start": plan.start,
            "teacher": taught_by(plan),
            "budget": budget,
            "updates": {phase: getattr(stage, phase) for phase in ("warm", *CONTEST) if getattr(stage, phase)},
            "settings": [*self.settings, *settings_of(*self.anonymous(row, stage), seed)],
            "prompts": self.prompts,
            "figures": asdict(figures),
            "seconds": {"training": round(state["seconds"], 1), "measuring": round(time.perf_counter() - began, 1)},
            "machine": describe(best_device(), torch.get_num_threads())["kind"],
        }

    def anonymous(self, row: Row, stage: Stage) -> tuple[Row, Stage]:
        """The same without a path of whoever measures."""
        return replace(row, method=Path(row.method).name), replace(stage, begin=stage.begin and f"{self.alike} updates of MSE")

    def ground(self) -> Path:
        """The student that all cells of one step begin as: what MSE makes of the one that all start from. Trained once."""
        most = read_recipe(self.recipe, DistillPlan, self.settings).start_steps
        stage = Stage(
            steps=1,
            teacher_steps=most,
            n=most,
            levels=far(most),
            prediction_type="sample",
            mse_learning_rate=FAR,
            convert=min(CONVERT, self.alike),
            warm=self.alike,
        )
        return self.trained(Row("mse"), stage, 0) / "weights" / "1-step.safetensors"

    def trained(self, row: Row, stage: Stage, seed: int) -> Path:
        """The folder of a run of one ``stage``, carried out."""
        given = [*self.settings, *settings_of(row, stage, seed)]
        own = Path(row.method).read_bytes() if row.method.endswith(".py") else b""
        name = f"{recipe_hash(read_recipe(self.recipe, DistillPlan, given))}-{zlib.crc32(own):08x}"
        run = self.work / name  # another budget, another rate, another file is another run
        run.mkdir(exist_ok=True)
        if not (run / "latents").exists():  # the one thing that cells of a seed share
            (self.work / f"latents-{seed}").mkdir(exist_ok=True)
            (run / "latents").symlink_to((self.work / f"latents-{seed}").resolve(), target_is_directory=True)
        distill(self.recipe, run, given)
        return run

    def measure(self, engine: Engine, steps: int) -> Figures:
        """Figures of the ``steps``-step student that ``engine`` holds."""
        questions = held_out(self.world, self.prompts)
        pictures = self.ask(Model(engine, steps), questions)
        renders = self.ask(Renders(self.world, engine.limits.native), questions)
        return Figures(*self.judged(questions, pictures, renders), diversity=self.distinct(engine, steps) / self.start_distinct)

    def judged(self, questions: Sequence[Question], pictures: np.ndarray, renders: np.ndarray) -> tuple[float, float, float]:
        """(adherence, detail, artefacts) of pictures, uint8 [N, H, W, 3], beside renders of the same scenes."""
        subjects, backgrounds = self.judge.classify(look(self.judge, pictures))
        answers = Answers.of(questions, self.judge, self.world)
        right = torch.tensor([int(subject) in asked for subject, asked in zip(subjects.argmax(dim=1), answers.subjects, strict=True)])
        return (
            float((right & (backgrounds.argmax(dim=1) == answers.backgrounds)).float().mean()),
            frechet(patch_features(self.judge, pictures), patch_features(self.judge, renders, 1)),
            float((subjects.softmax(dim=1).amax(dim=1) < UNSURE).float().mean()),
        )

    def ask(self, row: Any, questions: Sequence[Question], first: int = 0) -> np.ndarray:
        """Pictures, uint8 [N, H, W, 3]; question i has the seed ``first`` + i."""
        parts = [row(questions[at : at + 16], range(first + at, first + at + len(questions[at : at + 16])))[0] for at in range(0, len(questions), 16)]
        return np.concatenate(parts)

    def distinct(self, engine: Engine, steps: int) -> float:
        """Different right subjects among the pictures of an ambiguous prompt, as ``fewstep evaluate`` counts them."""
        questions = ambiguous(self.world, pictures=min(PICTURES, max(self.prompts // 4, 2)))
        answers, model = Answers.of(questions, self.judge, self.world), Model(engine, steps)
        seen = [Seen.by(self.judge, self.ask(model, questions, 10_000 * (group + 1))) for group in range(GROUPS)]
        return fmean(diversity_of(questions, one, answers).distinct for one in seen)

    @property
    def start_distinct(self) -> float:
        """The same of the student that all start from, measured once."""
        plan = read_recipe(self.recipe, DistillPlan, self.settings)
        kept = self.work / f"distinct-{recipe_hash(plan)}-{self.prompts}.json"
        if not kept.is_file():
            where, steps = plan.start.rpartition(":")[0], plan.start_steps
            student = Path(where) / "weights" / f"{steps}-step.safetensors"
            engine = whole(Path(where), steps) if student.is_file() else Engine.load(str(find(where)), steps=steps, backend="eager")
            write_text(kept, json.dumps(self.distinct(engine, steps)))
        return float(json.loads(kept.read_text()))


def whole(run: Path, steps: int) -> Engine:
    """A run's student as it learnt, not as the LoRA of few ranks that would ship."""
    return Engine.load(str(run / "weights" / f"{steps}-step.safetensors"), base=str(run / "model"), steps=steps, backend="eager")


def read_results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob("*.json"))]


def table(results: Sequence[dict[str, Any]]) -> str:
    """The leaderboard in Markdown: rows by adherence, mean ± deviation over seeds. Cells of another start, budget or number of prompts are a table apart."""
    kinds = sorted({_kind(result) for result in results}, key=lambda kind: (-kind[0], *kind[1:]))
    return "\n\n".join("\n".join(_table([result for result in results if _kind(result) == kind], kind)) for kind in kinds)


def _kind(result: dict[str, Any]) -> tuple[int, float, str, str, int]:
    return result["steps"], result["budget"], result["start"], result["teacher"], result["prompts"]


def _table(cells: Sequence[dict[str, Any]], kind: tuple[int, float, str, str, int]) -> Iterator[str]:
    steps, budget, start, teacher, prompts = kind
    yield f"**{steps} step{'s' * (steps > 1)}**, from {start} of the teacher {teacher}, {budget:,.0f} pictures through the UNet, {prompts} prompts:\n"
    yield f"| row | seeds | {' | '.join(name for name, _, _ in COLUMNS)} |"
    yield "|---" * (2 + len(COLUMNS)) + "|"
    rows = {row: [cell["figures"] for cell in cells if cell["row"] == row] for row in {cell["row"] for cell in cells}}
    for row, found in sorted(rows.items(), key=lambda item: (-fmean(figures["adherence"] for figures in item[1]), item[0])):
        yield f"| {row} | {len(found)} | {' | '.join(_cell([figures[name] for figures in found], form) for name, form, _ in COLUMNS)} |"


def _cell(values: Sequence[float], form: str) -> str:
    spread = f" ± {format(stdev(values), form)}" if len(values) > 1 else ""
    return f"{format(fmean(values), form)}{spread}"


def write_table(folder: Path, page: Path) -> None:
    """Put the leaderboard between the marks of ``page``."""
    write_between(MARKS, table(read_results(folder)) or "No cell has been measured yet.", page)


def write_between(marks: tuple[str, str], content: str, page: Path) -> None:
    before, _, rest = page.read_text(encoding="utf8").partition(marks[0])
    _, _, after = rest.partition(marks[1])
    write_text(page, f"{before}{marks[0]}\n\n{content}\n\n{marks[1]}{after}")


def arguments(about: str | None = __doc__) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "methods.toml", help="what all cells share; it has a start")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, for all cells")
    parser.add_argument("--only", metavar="ROW[;ROW]", help="of " + "; ".join(ROWS))
    parser.add_argument("--method", type=Path, action="append", default=[], metavar="FILE.py", help="a row for a method of your own, called as its file")
    parser.add_argument("--steps", default="4,1", metavar="LIST")
    parser.add_argument("--seeds", default="1,2,3", metavar="LIST")
    parser.add_argument("--minutes", type=float, default=10.0, help=f"of a cell's training, on a core with {PACE} pictures/s; what is kept equal is the work")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--judge", type=Path, default=None, help="a judge's file, where the teacher is not the embedded model")
    parser.add_argument("--work", type=Path, default=run_folder(Path("methods")), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help=f"where results are kept.  [default: {RESULTS.relative_to(ROOT)}, with --quick in --work]")
    parser.add_argument("--table", action="store_true", help=f"write the leaderboard into {PAGE.name}, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="a few updates and prompts")
    return parser.parse_args()


def opened(given: argparse.Namespace) -> Bench:
    """What the options say. Raises RecipeError on a recipe without a start."""
    plan = read_recipe(given.recipe, DistillPlan, given.settings)
    if not plan.start:
        raise RecipeError(f'{given.recipe} has no start: name the student that all cells start from, such as start = "emoji:8"')
    given.work.mkdir(parents=True, exist_ok=True)
    judge = load_judge(given.judge or find(plan.teacher) / JUDGE)
    prompts, alike = (8, 2) if given.quick else (given.prompts, ALIKE)
    return Bench(given.recipe, given.settings, given.work, given.out, prompts, alike, judge, open_world(plan.data))


def budget_of(given: argparse.Namespace) -> float:
    """Of a cell, in pictures through the UNet."""
    return 2000.0 if given.quick else given.minutes * 60 * PACE


def made(file: Path, asked: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What ``make`` found, which is now ``file``'s content; None where that is there already. Raises RecipeError if it answers something else."""
    if file.is_file():
        there = json.loads(file.read_text(encoding="utf8"))
        if wrong := [key for key, value in asked.items() if there[key] != value]:
            raise RecipeError(f"{file} was measured with another {wrong[0]}, {there[wrong[0]]}: give the same, or another --out")
        return None
    content = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=1) + "\n")
    return content


def asked_of(given: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """What cells have to have in common to be compared."""
    plan = read_recipe(given.recipe, DistillPlan, given.settings)
    return {"budget": budget_of(given), "prompts": bench.prompts, "start": plan.start, "teacher": taught_by(plan)}


def main() -> int:
    given = arguments()
    given.out = given.out or (given.work / "quick" if given.quick else RESULTS)
    if given.table:
        write_table(given.out, PAGE)
        return 0
    rows = {**ROWS, **{path.stem: Row(str(path.resolve())) for path in given.method}}
    chosen = [name.strip() for name in given.only.split(";")] if given.only else list(rows)
    if unknown := [name for name in chosen if name not in rows]:
        raise RecipeError(f"--only {unknown[0]}: the rows are {'; '.join(rows)}")
    bench = opened(given)
    asked = asked_of(given, bench)
    cells = [(seed, steps, name) for seed in map(int, given.seeds.split(",")) for steps in map(int, given.steps.split(",")) for name in chosen]
    for seed, steps, name in cells:
        file = given.out / f"{name.replace(', ', '-').replace(' ', '-')}-{steps}-{seed}.json"
        if content := made(file, asked, partial(bench.cell, name, rows[name], steps, seed, asked["budget"])):
            print(f"{file.name}  " + "  ".join(f"{key} {value:.3f}" for key, value in content["figures"].items()), flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RecipeError, ValueError) as error:
        print(f"bench/methods.py: {error}", file=sys.stderr)
        sys.exit(2)
    except Terminated as error:
        print(f"bench/methods.py: {error}", file=sys.stderr)
        sys.exit(130)
