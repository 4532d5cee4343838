"""What the judge and the pixels say of a set of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fewstep.data.emoji import COLOURS, World
from fewstep.evals.diversity import Diversity, diversity
from fewstep.evals.judge import BACKGROUNDS, Judge, look
from fewstep.evals.prompts import Question

BORDER = 32  # a border's width is the shorter side over this, and at least two pixels


@dataclass(frozen=True)
class Answers:
    """What would be right, in the judge's own numbers. A question with a keyword has several right subjects."""

    subjects: tuple[frozenset[int], ...]  # N
    backgrounds: torch.Tensor  # [N]

    @classmethod
    def of(cls, questions: Sequence[Question], judge: Judge, world: World) -> Answers:
        """Raises ValueError if the judge has not learnt a subject of the world."""
        classes = {name: position for position, name in enumerate(judge.subjects)}
        missing = [subject.name for subject in world.subjects if subject.name not in classes]
        if missing:
            raise ValueError(f"the judge does not know {missing[0]!r} and {len(missing) - 1} more of the subjects: train it on all of them")
        numbers = [classes[subject.name] for subject in world.subjects]
        words = {question.keyword for question in questions if question.keyword}
        owners = {word: frozenset(numbers[i] for i in range(len(numbers)) if word in world.keywords(i)) for word in words}
        subjects = tuple(owners[q.keyword] if q.keyword else frozenset([numbers[q.scene.subject]]) for q in questions)
        return cls(subjects, torch.tensor([BACKGROUNDS.index(question.scene.background) for question in questions]))


@dataclass(frozen=True)
class Seen:
    """What the judge makes of pictures."""

    features: np.ndarray  # [N, D]
    subjects: np.ndarray  # [N, 5] or fewer: the likeliest classes, best first
    backgrounds: torch.Tensor  # [N]

    @classmethod
    @torch.no_grad()
    def by(cls, judge: Judge, pictures: np.ndarray) -> Seen:
        """Look at uint8 [N, H, W, 3]."""
        features = look(judge, pictures)
        subjects, backgrounds = judge.classify(features.to(judge.subject.weight.device))
        likeliest = subjects.topk(min(5, subjects.shape[1]), dim=1).indices
        return cls(features.numpy(), likeliest.cpu().numpy(), backgrounds.argmax(dim=1).cpu())

    def hits(self, answers: Answers) -> np.ndarray:
        """Which of the likeliest classes are right: bool, the shape of ``subjects``."""
        return np.array([[int(s) in right for s in seen] for seen, right in zip(self.subjects, answers.subjects, strict=True)])


def diversity_of(questions: Sequence[Question], seen: Seen, answers: Answers) -> Diversity:
    """Diversity over the prompts among ``questions``, from the likeliest subject in each picture."""
    groups: dict[str, list[int]] = {}
    right: dict[str, frozenset[int]] = {}
    for question, subjects, answer in zip(questions, seen.subjects, answers.subjects, strict=True):
        groups.setdefault(question.text, []).append(int(subjects[0]))
        right[question.text] = answer
    return diversity(list(groups.values()), list(right.values()))


def border_colours(pictures: np.ndarray) -> list[str]:
    """The named colour nearest to the median colour of each picture's border, uint8 [N, H, W, 3]. Needs no judge."""
    band = max(min(pictures.shape[1:3]) // BORDER, 2)
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), dtype=np.float64)
    border = np.ones(pictures.shape[1:3], dtype=bool)
    border[band:-band, band:-band] = False
    medians = np.stack([np.median(picture[border], axis=0) for picture in pictures])
    return [names[int(index)] for index in ((medians[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1)]


@dataclass(frozen=True)
class Backgrounds:
    """Shares of right backgrounds."""

    both: float  # by the judge and, where it is a flat colour, by its pixels too
    judged: float
    pixels: float | None  # over the flat colours; None without any

    @classmethod
    def of(cls, pictures: np.ndarray, questions: Sequence[Question], seen: Seen, answers: Answers) -> Backgrounds:
        """Of uint8 [N, H, W, 3], the answers to ``questions``."""
        judged = (seen.backgrounds == answers.backgrounds).numpy()
        flat = np.array([question.scene.background in COLOURS for question in questions])
        named = np.array([colour == q.scene.background for colour, q in zip(border_colours(pictures), questions, strict=True)])
        both = judged & (named | ~flat)
        return cls(float(both.mean()), float(judged.mean()), float(named[flat].mean()) if flat.any() else None)


def rms(pictures: np.ndarray, others: np.ndarray) -> float:
    """Root mean square difference, averaged over pairs of uint8 [N, H, W, 3], in 255ths."""
    return float(np.mean([np.sqrt(error) for error in _squared_errors(pictures, others)]))


def psnr(pictures: np.ndarray, others: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all pairs of uint8 [N, H, W, 3] together; infinite for equal pictures."""
    error = float(np.mean(_squared_errors(pictures, others)))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def _squared_errors(pictures: np.ndarray, others: np.ndarray) -> list[float]:
    return [float(np.mean((a.astype(np.float32) - b) ** 2, dtype=np.float64)) for a, b in zip(pictures, others, strict=True)]
