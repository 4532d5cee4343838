"""The judge: a small recogniser of subjects and backgrounds, trained on renders with its own augmentation. It never trains a generator.

Everything is seen at 64 x 64 pixels: the central square, downscaled by area. ``fewstep.distill`` assembles the training run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fewstep.data.emoji import COLOURS, Dials, Scene, World
from fewstep.data.places import PLACES
from fewstep.data.subjects import Subject
from fewstep.models.bundle import load_weights, save_weights
from fewstep.models.weights import WeightsError

JUDGE = "judge.safetensors"  # its file, beside model_index.json
KEY = "fewstep-judge"  # of the JSON record in the metadata
INPUT = 64  # pixels a side of what the judge sees
RENDER = 96  # pixels a side of a training render
DRAWING = 160  # pixels a side of the drawings behind them: enough for RENDER, and twice as fast to scale as the full ones
BACKGROUNDS = (*COLOURS, *PLACES)
CHANNELS = (32, 64, 128, 224)
DIALS = Dials(keyword=0.0, sized=0.4, place=0.2, repaint=0.15, pair=0.0, bare=0.0, flip=0.3, turn=12.0, shift=0.08, held_out=0.0)

Batch = tuple[Tensor, Tensor, Tensor]  # pictures [B, 3, 64, 64] in [-1, 1], subject ids [B], background ids [B]


class Judge(nn.Module):
    """A stem and three stages of plain 3x3 convolutions, pooled: about 1M parameters. ``subjects`` names its classes, in order."""

    def __init__(self, subjects: Sequence[str], channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.subjects, self.channels = tuple(subjects), tuple(channels)
        layers: list[nn.Module] = [*_block(3, channels[0], kernel=5, stride=2)]
        for before, after in zip(channels, channels[1:], strict=False):
            layers += [*_block(before, after, stride=2), *_block(after, after)]
        self.layers = nn.Sequential(*layers)
        self.subject = nn.Linear(channels[-1], len(self.subjects))
        self.background = nn.Linear(channels[-1], len(BACKGROUNDS))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def width(self) -> int:
        """The number of features, D."""
        return self.channels[-1]

    def features(self, pictures: Tensor) -> Tensor:
        """What the judge sees in ``pictures`` [B, 3, 64, 64] in [-1, 1]: float [B, D]."""
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return self.layers(pictures).float().mean(dim=(2, 3))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the subject [B, S] and of the background [B, 22], in the order of BACKGROUNDS."""
        return self.classify(self.features(pictures))

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The same logits from features [B, D]."""
        return self.subject(features).float(), self.background(features).float()


def _block(before: int, after: int, kernel: int = 3, stride: int = 1) -> Iterable[nn.Module]:
    # Sixteen channels a group: with few, GroupNorm removes what tells one flat colour from another.
    return nn.Conv2d(before, after, kernel, stride, kernel // 2), nn.GroupNorm(max(after // 16, 1), after), nn.SiLU()


def to_input(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] of any size to what the judge takes: the central square by area, float [B, 3, 64, 64] in [-1, 1]."""
    height, width = pictures.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(np.ascontiguousarray(pictures[:, top : top + side, left : left + side])).permute(0, 3, 1, 2).float()
    return F.interpolate(square, size=(INPUT, INPUT), mode="area").div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def look(judge: Judge, pictures: np.ndarray, batch: int = 128) -> Tensor:
    """The judge's features of uint8 [N, H, W, 3]: float [N, D] on the CPU."""
    device = next(judge.parameters()).device
    parts = [judge.features(to_input(pictures[start : start + batch]).to(device)).cpu() for start in range(0, len(pictures), batch)]
    return torch.cat(parts) if parts else torch.zeros(0, judge.width)


def judge_world(world: World, seed: int = 7919) -> World:
    """The judge's own world of the same subjects: its own seed, wider dials, no combination held out, single subjects, smaller drawings."""
    return World(tuple(_shrunk(subject) for subject in world.subjects), DIALS, seed)


@cache  # one copy of each: the drawings are kept by their subject's identity
def _shrunk(subject: Subject) -> Subject:
    def draw() -> np.ndarray:
        drawing = subject.draw()
        channels = [Image.fromarray(drawing[..., c]).resize((DRAWING, DRAWING), Image.Resampling.BOX) for c in range(4)]
        return np.stack([np.asarray(channel) for channel in channels], axis=-1)

    return replace(subject, draw=draw)


def judge_batch(world: World, indices: Iterable[int]) -> Batch:
    """The training samples ``indices``: each a function of (world.seed, index). Subject ids are positions in ``world.subjects``."""
    pictures, subjects, backgrounds = [], [], []
    for index in indices:
        scene = _single(world.scene(world.rng(index)))
        pictures.append(_augmented(world.render(scene, RENDER, RENDER), np.random.default_rng((world.seed, index, 1))))
        subjects.append(scene.subject)
        backgrounds.append(BACKGROUNDS.index(scene.background))
    tensor = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return tensor, torch.tensor(subjects), torch.tensor(backgrounds)


def _single(scene: Scene) -> Scene:
    return replace(scene, other=None, relation="")


def _augmented(render: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zoom and shift, blur, brightness and contrast, noise: uint8 [96, 96, 3] to float32 [64, 64, 3] in [-1, 1]."""
    margin = RENDER // 8
    picture = Image.fromarray(np.pad(render, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    side = RENDER * rng.uniform(0.86, 1.16)
    left, top = rng.uniform(0, RENDER + 2 * margin - side, 2) * 0.5 + (RENDER + 2 * margin - side) * 0.25
    blurred = rng.random() < 0.4
    coarse = int(rng.integers(INPUT // 3, INPUT)) if blurred else INPUT
    picture = picture.resize((coarse, coarse), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    if blurred:
        picture = picture.resize((INPUT, INPUT), Image.Resampling.BICUBIC)
    values = np.asarray(picture, dtype=np.float32) / 127.5 - 1
    values = values * np.float32(rng.uniform(0.88, 1.1)) + np.float32(rng.uniform(-0.1, 0.1))
    if rng.random() < 0.4:
        values = values + rng.standard_normal(values.shape, np.float32) * np.float32(rng.uniform(0.0, 0.15))
    return np.clip(values, -1, 1).astype(np.float32, copy=False)


def judge_losses(judge: Judge, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy of both answers; ``right`` and ``background_right`` are the shares recognised, to be logged."""
    pictures, subjects, backgrounds = batch
    of_subject, of_background = judge(pictures)
    subject = F.cross_entropy(of_subject, subjects, label_smoothing=0.05)
    background = F.cross_entropy(of_background, backgrounds, label_smoothing=0.05)
    return {
        "loss": subject + 0.3 * background,
        "subject": subject,
        "background": background,
        "right": (of_subject.argmax(dim=1) == subjects).float().mean(),
        "background_right": (of_background.argmax(dim=1) == backgrounds).float().mean(),
    }


def save_judge(judge: Judge, path: Path) -> None:
    """Write the judge as float16 safetensors with its classes in the metadata, whole or not at all."""
    record = {"subjects": judge.subjects, "backgrounds": BACKGROUNDS, "channels": judge.channels}
    tensors = {name: value.half().contiguous() for name, value in judge.state_dict().items()}
    save_weights(tensors, Path(path), {"format": "pt", KEY: json.dumps(record, ensure_ascii=False)})


def load_judge(path: Path, device: str = "cpu") -> Judge:
    """Open a judge's file. Raises WeightsError on one that is missing, damaged, no judge, or was made for other backgrounds."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(KEY, "null"))
        judge = Judge([str(name) for name in record["subjects"]], [int(count) for count in record["channels"]]) if record else None
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such judge; train one with fewstep train, or name another file") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(f"{path}: not a readable judge ({error}); it may be truncated: fetch it again") from None
    if judge is None or record is None:
        raise WeightsError(f"{path}: not the weights of a judge: it names no subjects; give a file written by fewstep train")
    if tuple(record.get("backgrounds", ())) != BACKGROUNDS:
        raise WeightsError(f"{path}: this judge knows other backgrounds than this version of fewstep; train it again")
    load_weights(judge, path)
    return judge.to(device).eval().requires_grad_(False)
