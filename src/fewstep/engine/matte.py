"""A subject cut out of a flat background: matting by a known colour (Smith and Blinn, 1996), with edges that carry no trace of it.

A pixel is α·F + (1-α)·B. The background's colour B is the border's; what is joined to the border and of this colour has α = 0. Beside it,
where α is between 0 and 1, F is the most foreign colour near by, and α how far the pixel is from B on the way to F. All else has α = 1:
an inner region of the background's colour is no hole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EDGE = 2  # pixels that antialiasing reaches, into the subject and out of it
LEAST = 10.0  # of 255: nearer to the background's colour is background, however clean the border is
MOST = 40.0  # nor is anything farther, however strong the subject's contrast
SPREADS = 4.0  # of the border's own deviation from its colour
SHARE = 0.25  # of the subject's contrast: a decoder ripples beside a strong edge
FLOAT = NDArray[np.float32]


def cut_out(image: Image.Image) -> Image.Image:
    """``image`` (RGB) as RGBA, its background transparent. One whose border is too unquiet to have a colour stays opaque."""
    pixels = np.asarray(image.convert("RGB"), np.float32)  # [H, W, 3]
    colour, spread = background(pixels)
    if SPREADS * spread > MOST:
        return image.convert("RGBA")
    distance = np.abs(pixels - colour).max(-1)  # [H, W]
    outside = flood(distance < tolerance(distance, spread))
    core = ~grown(np.pad(outside, 1, constant_values=True), 1)[1:-1, 1:-1]
    outside = ~reach(~outside, core)  # specks have no core, and go
    edge = grown(outside, EDGE) & grown(~outside, EDGE)
    foreground = most_foreign(np.where(outside, -1, distance), pixels, 2 * EDGE)
    way, gone = foreground - colour, pixels - colour
    alpha = np.clip((gone * way).sum(-1) / np.maximum((way * way).sum(-1), 1), 0, 1)
    alpha = np.where(edge, alpha, ~outside)[:, :, None]
    # (p - (1-α)·B) / α where there is enough of it, and F where there is so little that its colour would be noise
    clean = np.where(edge[:, :, None], alpha * colour + gone + (1 - alpha) * foreground, pixels)
    rgba = np.concatenate([np.where(alpha > 0, np.clip(clean, 0, 255), 0), 255 * alpha], -1)
    return Image.fromarray(np.rint(rgba).astype(np.uint8))


def opaque(image: Image.Image) -> bool:
    """Whether nothing of an RGBA picture was cut out."""
    return image.getchannel("A").getextrema() == (255, 255)


def background(pixels: FLOAT) -> tuple[FLOAT, float]:
    """(the border's colour [3], its usual deviation from it) of a picture [H, W, 3]: medians, so that a subject may touch the border."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    colour = np.median(border, axis=0).astype(np.float32)
    return colour, float(np.median(np.abs(border - colour).max(-1)))


def tolerance(distance: FLOAT, spread: float) -> float:
    """How far from the background's colour counts as the same: more on an unquiet border, and where the subject stands out."""
    least = max(LEAST, SPREADS * spread)
    subject = distance[distance > 2 * least]
    return max(least, min(MOST, SHARE * float(np.median(subject)))) if subject.size else least


def flood(free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What of ``free`` [H, W] can be reached from the border."""
    border = free.copy()
    border[1:-1, 1:-1] = False
    return reach(free, border)


def reach(free: NDArray[np.bool_], reached: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What of ``free`` [H, W] can be reached from ``reached``, a part of it, moving sideways, up and down within it."""
    count = -1
    while count != (count := int(reached.sum())):  # a sweep fills whole runs, so few are needed
        for _ in range(2):
            reached = spread(free, reached).T
            free = free.T
    return reached


def spread(free: NDArray[np.bool_], reached: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``reached`` carried along the rows, both ways, as far as ``free`` goes."""
    place = np.arange(free.shape[1])
    for turn in (slice(None), slice(None, None, -1)):
        seed = np.maximum.accumulate(np.where(reached[:, turn], place, -1), axis=1)
        wall = np.maximum.accumulate(np.where(free[:, turn], -1, place), axis=1)
        reached = reached | (seed > wall)[:, turn]
    return reached


def grown(region: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """``region`` [H, W] and all within ``by`` pixels of it, in squares."""
    for _ in range(by):
        padded = np.pad(region, 1)
        rows = padded[:-2] | padded[1:-1] | padded[2:]
        region = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return region


def most_foreign(distance: FLOAT, pixels: FLOAT, within: int) -> FLOAT:
    """For each pixel the colour of the one with the largest ``distance`` [H, W] in the square ``within`` so many pixels: [H, W, 3]."""
    best, colour = distance, pixels
    for axis in (0, 1):  # the largest of a square is the largest of its rows' largest
        far, near = best, colour
        for step in range(-within, within + 1):
            moved = np.roll(far, step, axis)
            edge = np.arange(far.shape[axis])
            inside = ((edge - step >= 0) & (edge - step < far.shape[axis])).reshape((-1, 1) if axis == 0 else (1, -1))
            take = inside & (moved > best)
            best = np.where(take, moved, best)
            colour = np.where(take[:, :, None], np.roll(near, step, axis), colour)
    return colour
