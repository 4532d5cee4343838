"""A canvas for procedural places: smooth fields, noise, soft shapes and ink, in coordinates that run from 0 to 1."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw


def rgb(colour: str) -> np.ndarray:
    """The colour of six hexadecimal digits: float32 [3, 1, 1] in [0, 1]."""
    return (np.array(list(bytes.fromhex(colour)), np.float32) / 255).reshape(3, 1, 1)


@lru_cache(maxsize=64)
def axes(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels' middles from 0 to 1: v [H, 1] downwards, u [1, W] to the right."""
    u = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
    v = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    return u, v


def fbm(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float, octaves: int) -> np.ndarray:
    """Fractal value noise [height, width], about zero, nearly all in [-1, 1]; cells in pixels, each octave halves cell and amplitude.

    Octaves are summed on the way up a pyramid, so only the last resize is at full size.
    """
    total = np.zeros((1, 1), np.float32)
    for octave in range(octaves):
        rows = int(np.clip(round(height * 2**octave / cell_y), min(height, 2), height))
        cols = int(np.clip(round(width * 2**octave / cell_x), min(width, 2), width))
        total = resize(total, rows, cols) + (rng.random((rows, cols), np.float32) - 0.5) * (2.2 * 0.5**octave)
    return resize(total, height, width)


def resize(field: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """``field`` at another size: float32 [rows, cols]."""
    if field.shape == (rows, cols):
        return field
    # Bilinear costs half as much, and its creases show only when a cell grows by more than a doubling.
    doubling = rows <= 2.1 * field.shape[0] and cols <= 2.1 * field.shape[1]
    kernel = Image.Resampling.BILINEAR if doubling else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(field).resize((cols, rows), kernel))


class Canvas:
    """A planar canvas and the few strokes every place is made of."""

    def __init__(self, width: int, height: int, rng: np.random.Generator):
        self.width, self.height, self.side, self.rng = width, height, min(width, height), rng
        self.u, self.v = axes(width, height)  # [1, W], [H, 1]
        self.pixels = np.zeros((3, height, width), np.float32)

    def vary(self, centre: float, spread: float) -> float:
        """``centre`` give or take ``spread``."""
        return float(self.rng.uniform(centre - spread, centre + spread))

    def noise(self, cell: float, octaves: int, stretch: float = 1.0) -> np.ndarray:
        """Noise [H, W]; `cell` in sides, `stretch` how many times wider than high a cell is."""
        return fbm(self.rng, self.height, self.width, cell * self.side, cell * self.side * stretch, octaves)

    def ridge(self, level: float, rise: float, cell: float, octaves: int = 4) -> np.ndarray:
        """A rolling line [1, W] in fractions of the height, `rise` either side of `level`."""
        return level + rise * fbm(self.rng, 1, self.width, 1, cell * self.side, octaves)

    def below(self, line: np.ndarray | float) -> np.ndarray:
        """1 below ``line``, 0 above it, softened over one pixel: [H, 1 or W]."""
        return np.clip((self.v - line) * self.height + 0.5, 0, 1)

    def ramp(self, *stops: tuple[float, str]) -> np.ndarray:
        """A vertical gradient [3, H, 1] through (v, colour) stops."""
        at = [stop for stop, _ in stops]
        channels = [np.interp(self.v[:, 0], at, [rgb(colour)[c, 0, 0] for _, colour in stops]) for c in range(3)]
        return np.array(channels, np.float32)[:, :, None]

    def fill(self, *stops: tuple[float, str]) -> None:
        """Paint the whole canvas with a vertical gradient."""
        self.pixels[:] = self.ramp(*stops)

    def blend(self, colour: str | np.ndarray, mask: np.ndarray) -> None:
        """Lay a colour ([3, 1 or H, 1 or W]) over the canvas where `mask` [H, 1 or W] is 1; works only on the box the mask reaches."""
        colour = rgb(colour) if isinstance(colour, str) else colour
        box = self._reach(mask)
        canvas = self.pixels[:, *box]
        if colour.shape[1] > 1:
            colour = colour[:, box[0]]
        if colour.shape[2] > 1:
            colour = colour[:, :, box[1]]
        part = mask[box] if mask.shape[1] > 1 else mask[box[0]]
        change = colour - canvas
        change *= part
        canvas += change

    def shade(self, amount: np.ndarray) -> None:
        """Brighten (amount > 0) or darken (amount < 0) [H, 1 or W], multiplicatively."""
        rows, _ = self._reach(amount)
        self.pixels[:, rows] *= 1 + amount[rows]

    def _reach(self, mask: np.ndarray) -> tuple[slice, slice]:
        """The smallest box of rows and columns outside which the mask is zero."""
        touched = mask != 0
        rows = np.flatnonzero(touched.any(axis=1))
        if not len(rows):
            return slice(0, 0), slice(0, 0)
        columns = np.flatnonzero(touched.any(axis=0)) if mask.shape[1] > 1 else np.array([0, self.width - 1])
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    def disc(self, u: float, v: float, radius: float, soft: float = 0.0) -> np.ndarray:
        """A disc [H, W] of `radius` sides, its edge one pixel plus `soft` sides wide."""
        edge = soft * self.side + 1
        dx, dy = (self.u - u) * self.width, (self.v - v) * self.height
        return np.clip((radius * self.side - np.sqrt(dx * dx + dy * dy)) / edge + 0.5, 0, 1)

    def ink(self, shapes: Iterable[tuple[str, list[tuple[float, float]], float, int]]) -> np.ndarray:
        """A mask [H, W] of shapes drawn at twice the size, for smooth edges: (kind, points (u, v), radius in sides, level 0..255)."""
        image = Image.new("L", (2 * self.width, 2 * self.height))
        draw = ImageDraw.Draw(image)
        for kind, points, radius, level in shapes:
            points = [(2 * self.width * u, 2 * self.height * v) for u, v in points]
            radius = max(2 * self.side * radius, 0.7)
            if kind == "dot":
                for x, y in points:
                    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=level)
            elif kind == "line":
                draw.line(points, fill=level, width=max(1, round(2 * radius)), joint="curve")
            else:
                draw.polygon(points, fill=level)
        return np.asarray(image.reduce(2), np.float32) / 255

    def edge_u(self, reach: float = 0.24) -> float:
        """A place near the left or right border, where a subject in the middle does not cover it."""
        u = self.vary(reach / 2, reach / 2)
        return u if self.rng.random() < 0.5 else 1 - u

    def dots(self, count: int, small: float, large: float, top: float, bottom: float) -> np.ndarray:
        """Scattered specks [H, W], many small and few large, bright and faint."""
        spots = self.rng.random((count, 4)).tolist()
        return self.ink(("dot", [(u, top + (bottom - top) * v)], small + (large - small) * r**5, int(90 + 165 * a)) for u, v, r, a in spots)

    def clouds(self, count: int, top: float, bottom: float, colour: str, strength: float = 0.9) -> None:
        """Clouds of five puffs each, between two heights, fainter below."""
        shapes = []
        aspect = self.width / self.height
        for u in (np.arange(count) + self.rng.random(count)) / count:
            v, size = self.rng.uniform(top, bottom), self.rng.uniform(0.03, 0.055)
            for k in range(-2, 3):
                puff = size * (1.1 - 0.28 * abs(k)) * self.vary(1, 0.15)
                wide = 1 / max(aspect, 1)
                shapes.append(("dot", [(u + k * size * 1.05 * wide, v - puff * 0.55 * min(aspect, 1))], puff, 255))
        puffs = self.ink(shapes)
        self.blend(colour, puffs * (strength * np.clip(1.15 + (bottom - self.v) * 2, 0.5, 1)))

    def pine(self, u: float, foot: float, size: float) -> list[tuple[str, list[tuple[float, float]], float, int]]:
        """A fir of three tiers, `size` sides high."""
        x, y = size * self.side / self.width, size * self.side / self.height
        tiers = [(0.0, 0.5, 0.17), (0.22, 0.74, 0.23), (0.46, 0.94, 0.29)]
        shapes = [("area", [(u, foot - y * (1 - a)), (u + x * w, foot - y * (1 - b)), (u - x * w, foot - y * (1 - b))], 0, 255) for a, b, w in tiers]
        return [*shapes, ("line", [(u, foot), (u, foot - y * 0.2)], 0.025 * size, 255)]
