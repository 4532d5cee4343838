"""What a student's pictures are measured by beside its teacher's of the same prompts and noise: figures by name, as far as what they take is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.data.emoji import World
from fewstep.evals import fid
from fewstep.evals.clip import clip_score
from fewstep.evals.frechet import frechet, patch_features
from fewstep.evals.inception import SIDE
from fewstep.evals.judge import JUDGE, load_judge, look
from fewstep.evals.measure import Answers, Backgrounds, Seen, rms
from fewstep.evals.prompts import Question
from fewstep.evals.rows import Renders
from fewstep.evals.sharpness import gradient_energies
from fewstep.models.weights import WeightsError

Scorer = Callable[[np.ndarray], dict[str, float]]  # of uint8 [N, H, W, 3], in the prompts' order
ELSEWHERE = 1 << 30  # added to the seeds of the renders that pictures are compared with


@dataclass(frozen=True)
class Asked:
    """What was asked, picture by picture; where the prompts are of scenes, those too, their world, and the judge's file."""

    prompts: Sequence[str]
    questions: Sequence[Question] = ()
    world: World | None = None
    judge: Path = Path(JUDGE)


def scorers(asked: Asked, teacher: np.ndarray, inception: str = "") -> tuple[list[Scorer], list[str]]:
    """What can be measured of pictures beside the ``teacher``'s, uint8 [N, H, W, 3]; and for the rest a sentence each, which says how to get it.

    The judge measures a world of scenes. Where there is none, CLIP and Inception do, whose weights may lie on the disk (``inception``: a file
    instead of the Hub's). All compute on the processor: an accelerator's memory is the training's.
    """
    found: list[Scorer] = [_beside(teacher)]
    left: list[str] = []
    if asked.questions and asked.world:
        try:
            return [_judged(asked, asked.world, teacher.shape[2]), *found], []
        except (WeightsError, ValueError) as error:  # a judge that is not there, or knows other subjects
            left.append(f"adherence and Fréchet distance are left out: {error}")
    others: dict[str, Callable[[], Scorer]] = {
        "the CLIP score is": lambda: _told(asked.prompts),
        "FID and patch-FID are": lambda: _inception(teacher, inception),
    }
    for names, make in others.items():
        try:
            found.append(make())
        except WeightsError as error:
            left.append(f"{names} left out: {error}")
    return found, left


def _beside(teacher: np.ndarray) -> Scorer:
    energy = max(float(gradient_energies(teacher).mean()), 1e-12)
    return lambda pictures: {"sharpness": float(gradient_energies(pictures).mean()) / energy, "distance": rms(pictures, teacher)}


def _judged(asked: Asked, world: World, side: int) -> Scorer:
    judge = load_judge(asked.judge)
    answers = Answers.of(asked.questions, judge, world)
    renders, _ = Renders(world, side)(asked.questions, range(ELSEWHERE, ELSEWHERE + len(asked.questions)))
    reference, patches = look(judge, renders).numpy(), patch_features(judge, renders)

    def score(pictures: np.ndarray) -> dict[str, float]:
        seen = Seen.by(judge, pictures)
        subjects = seen.hits(answers)[:, 0]
        return {
            "adherence": float((subjects & (seen.backgrounds == answers.backgrounds).numpy()).mean()),
            "subject": float(subjects.mean()),
            "background": Backgrounds.of(pictures, asked.questions, seen, answers).both,
            "frechet": frechet(seen.features, reference),
            "patch_frechet": frechet(patch_features(judge, pictures), patches),
        }

    return score


def _told(prompts: Sequence[str]) -> Scorer:
    score = clip_score()
    return lambda pictures: {"clip": float(np.mean([score(Image.fromarray(one), prompt) for one, prompt in zip(pictures, prompts, strict=True)]))}


def _inception(teacher: np.ndarray, path: str) -> Scorer:
    network = fid.open_inception(path)
    kinds = {"fid": fid.whole, **({"patch_fid": fid.middle} if min(teacher.shape[1:3]) >= SIDE else {})}
    reference = {name: fid.features(network, seen(teacher)) for name, seen in kinds.items()}
    return lambda pictures: {name: frechet(fid.features(network, seen(pictures)), reference[name]) for name, seen in kinds.items()}
