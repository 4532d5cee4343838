"""The figures of an evaluation inside a run: how they are shown, and which way is better. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """How a figure is shown, and which way is better; 0 where neither is."""

    heading: str
    format: str
    better: int
    note: str


FIGURES = {
    "adherence": Figure("adherence", ".1%", 1, "share of pictures in which the judge finds both the subject and the background that were asked for"),
    "subject": Figure("subject", ".1%", 1, "share whose subject the judge recognises first"),
    "background": Figure("background", ".1%", 1, "right by the judge and, for flat colours, by the border's median pixel too"),
    "frechet": Figure("Fréchet", ".2f", -1, "distance to renders of the same scenes, in the judge's features"),
    "patch_frechet": Figure("patch-Fréchet", ".2f", -1, "the same for 64-pixel patches at native size"),
    "clip": Figure("CLIP score", ".2f", 1, "100 times the cosine between picture and prompt, by CLIP ViT-L/14"),
    "fid": Figure("FID", ".2f", -1, "Fréchet Inception distance to the teacher's pictures of the same prompts, scaled to 299 pixels"),
    "patch_fid": Figure("patch-FID", ".2f", -1, "the same for the middle 299 pixels at native size: what details are like"),
    "sharpness": Figure("sharpness", ".0%", 0, "gradient energy at native size, as a share of the teacher's"),
    "distance": Figure("to teacher", ".1f", -1, "rms difference to the teacher's picture from the same noise, in 255ths"),
}
PREFERRED = ("adherence", "clip")  # of these the first that there is says which student is best; what follows the teacher blindly would blur


def told(figures: Mapping[str, float]) -> list[str]:
    """Figures in words: "adherence 93.8%", "FID 12.10"."""
    return [f"{FIGURES[name].heading} {format(value, FIGURES[name].format)}" for name, value in figures.items()]
