"""Places: procedural backgrounds with real texture, painted behind an emoji.

A place is a function of one generator: the same generator state gives the same bytes. Inside, pixels are planar [3, H, W] because
numpy is several times slower when the broadcast axis is a trailing 3. Positions are fractions (u across, v down), sizes are
fractions of the shorter side, so that a place looks the same at 64 and at 512 pixels and in any aspect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np

from fewstep.data.canvas import Canvas, fbm

PLACES: dict[str, str] = {
    "snow": "in the snow",
    "desert": "in the desert",
    "beach": "on the beach",
    "sunset": "by the sea at sunset",
    "night": "under the night sky",
    "meadow": "in a meadow",
    "forest": "in a forest",
    "city": "in the city",
    "mountains": "in the mountains",
    "underwater": "under water",
    "space": "in space",
    "wood": "on a wooden floor",
}

_GROUND = dict.fromkeys(PLACES, 0.87) | {"city": 0.9, "space": 0.9, "sunset": 0.9, "wood": 0.85}


def paint(place: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Paint one picture of `place` (a key of PLACES): float32 [height, width, 3] in [0, 1]; KeyError for an unknown place."""
    scene = Canvas(width, height, rng)
    _PAINTERS[place](scene)
    tint = scene.vary(1.0, 0.05) * rng.uniform(0.97, 1.03, 3)
    step = -1 if rng.random() < 0.5 else 1
    picture = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        picture[:, :, channel] = np.clip(scene.pixels[channel, :, ::step] * float(tint[channel]), 0, 1)
    return picture


def ground_line(place: str) -> float:
    """Where a subject's foot stands, as a fraction of the height (0 top, 1 bottom); KeyError for an unknown place."""
    return _GROUND[place]


@lru_cache(maxsize=256)
def _snow(s: Canvas) -> None:
    horizon = s.vary(0.56, 0.05)
    s.fill((0, "7fb4e6"), (horizon, "e6f1fa"))
    s.blend("c3d8ee", s.below(s.ridge(horizon - 0.1, 0.09, 0.4)))
    trees = [s.pine(u, horizon + s.vary(0.03, 0.015), s.vary(0.15, 0.04)) for u in np.linspace(0.02, 0.98, 13)]
    firs = s.ink(sum(trees, []))
    s.blend("6f98b5", firs)
    s.blend("f4f9ff", np.clip(firs - np.roll(firs, max(1, s.side // 80), axis=0), 0, 1))
    s.blend(s.ramp((horizon, "f6faff"), (1, "d3e3f4")), s.below(s.ridge(horizon + 0.02, 0.03, 0.5)))
    drift = s.ridge(horizon + 0.2, 0.06, 0.7)
    s.blend(s.ramp((horizon + 0.15, "ffffff"), (1, "dbe8f6")), s.below(drift))
    ground = s.below(horizon + 0.03)
    s.shade(ground * (0.05 * s.noise(0.2, 5, 3.0) + 0.03 * s.noise(0.008, 2) - 0.03))
    s.blend("ffffff", 0.95 * s.dots(110, 0.003, 0.011, 0, 1))


def _desert(s: Canvas) -> None:
    horizon = s.vary(0.5, 0.05)
    s.fill((0, "58b0de"), (horizon, "fde2b0"))
    u, v = s.vary(0.2, 0.1), s.vary(0.16, 0.04)
    s.blend("fff3c4", 0.45 * s.disc(u, v, 0.13, 0.1))
    s.blend("fff2a8", s.disc(u, v, 0.07))
    warp = s.noise(0.4, 4, 2.0)
    for level, light, dark in ((0.0, "efc286", "d99a55"), (0.1, "f7cd84", "d8954a"), (0.24, "fbd592", "dca052")):
        line = s.ridge(horizon + level, 0.08, 0.8, 2)
        dune = s.below(line)
        s.blend(light, dune)
        s.blend(dark, dune * np.clip((s.v - line) * 5 + 0.12 * warp, 0, 0.9))
    depth = np.log(np.clip(s.v - horizon + 0.12, 0.02, None))
    ripples = np.sin(60 * depth + 6 * warp + 5 * s.u)
    s.shade(s.below(horizon + 0.12) * (0.04 * ripples + 0.07 * s.noise(0.01, 2)))
    u, foot = 1 - s.vary(0.13, 0.05), horizon + s.vary(0.24, 0.03)
    size = s.vary(0.34, 0.05) * (s.height / s.side) ** 0.6
    x, y = size * s.side / s.width, size * s.side / s.height
    arms: list[list[tuple[float, float]]] = [[(0, 0), (0, 1)], [(0, 0.4), (-0.26, 0.42), (-0.28, 0.78)], [(0, 0.3), (0.25, 0.32), (0.26, 0.62)]]
    stems = [[(u + x * a, foot - y * b) for a, b in arm] for arm in arms]
    wide = [0.09 * size, 0.06 * size, 0.06 * size]
    shapes = [("line", stem, w, 255) for stem, w in zip(stems, wide, strict=True)] + [("dot", stem[-1:], w, 255) for stem, w in zip(stems, wide, strict=True)]
    cactus = s.ink([*shapes, *(("dot", stem[1:2], 0.06 * size, 255) for stem in stems[1:])])
    s.blend("3f8f5a", cactus)
    s.blend("2f7048", cactus * (0.5 + 0.5 * np.sin(s.u * s.width / s.side * 260)) * 0.7)


def _beach(s: Canvas) -> None:
    horizon, shore = s.vary(0.4, 0.04), s.vary(0.63, 0.03)
    s.fill((0, "4aa8ea"), (horizon, "cdeefb"))
    s.clouds(3, 0.1, 0.24, "ffffff")
    s.blend(s.ramp((horizon, "1f8fc6"), (shore, "62d6d6")), s.below(horizon))
    waves = s.noise(0.035, 3, 7.0)
    s.blend("e8fbff", s.below(horizon) * np.clip(3 * waves - 1.3, 0, 0.7))
    line = s.ridge(shore, 0.03, 0.5, 3)
    s.blend("d9b67c", s.below(line + 0.012))
    s.blend(s.ramp((shore, "f3dba4"), (1, "ecc988")), s.below(line + 0.06))
    foam = np.clip(1 - np.abs(s.v - line - 0.004 * waves) / 0.02, 0, 1)
    s.blend("ffffff", np.clip(2 * foam, 0, 1))
    s.shade(s.below(line + 0.02) * (0.05 * s.noise(0.12, 4, 2.5) + 0.09 * s.noise(0.008, 2)))
    s.blend("b98a54", 0.7 * s.dots(28, 0.003, 0.008, shore + 0.14, 1))
    _palm(s, s.vary(0.08, 0.05), shore + 0.16)


def _palm(s: Canvas, u: float, foot: float) -> None:
    x, y = s.side / s.width, s.side / s.height
    lean, tall = s.vary(0.06, 0.03), s.vary(0.6, 0.05) * (s.height / s.side) ** 0.6
    t = np.linspace(0, 1, 8)
    trunk = list(zip(u + lean * x * t**2, foot - tall * y * t, strict=True))
    top_u, top_v = trunk[-1]
    s.blend("8a5f3c", s.ink([("line", trunk, 0.016, 255)]) * (0.85 + 0.15 * np.sin(s.v * s.height / s.side * 190)))
    fronds = []
    for angle in np.linspace(-0.35, np.pi + 0.35, 8) + s.rng.uniform(-0.12, 0.12, 8):
        reach = np.linspace(0, 0.25, 7)
        rise = np.stack([np.cos(angle) * reach, np.sin(angle) * reach * 0.8 - 2.6 * reach**2], 1)
        width = 0.026 * np.sin(np.linspace(0.25, np.pi, 7))
        upper = [(top_u + x * a, top_v - y * (b + w)) for (a, b), w in zip(rise, width, strict=True)]
        lower = [(top_u + x * a, top_v - y * (b - w)) for (a, b), w in zip(rise, width, strict=True)]
        fronds.append(("area", upper + lower[::-1], 0, int(s.rng.integers(200, 256))))
    s.blend("2f9a55", s.ink(fronds))


def _sunset(s: Canvas) -> None:
    horizon, shore = s.vary(0.55, 0.04), 0.82
    s.fill((0, "4b3a8c"), (horizon * 0.45, "c2558f"), (horizon * 0.8, "ff8a5c"), (horizon, "ffd27a"))
    s.blend("ff9f7a", np.clip(2.2 * s.noise(0.07, 4, 6.0) - 0.5, 0, 0.55) * (s.v < horizon))
    u = s.vary(0.3, 0.12)
    s.blend("ffd98a", 0.6 * s.disc(u, horizon - 0.03, 0.2, 0.3))
    s.blend("fff0b0", s.disc(u, horizon - 0.03, 0.12))
    sea = s.below(horizon)
    s.blend(s.ramp((horizon, "f08a6a"), (horizon + 0.08, "9c4f86"), (shore, "3f3474")), sea)
    ripple = s.noise(0.03, 3, 8.0)
    s.shade(sea * 0.22 * ripple)
    path = np.clip(1.2 - np.abs(s.u - u) * s.width / s.side / (0.07 + 0.5 * np.clip(s.v - horizon, 0, 1)), 0, 1)
    s.blend("ffd98a", sea * path * np.clip(3 * ripple + 0.45, 0, 1))
    line = s.ridge(shore, 0.02, 0.5, 3)
    s.blend("ffd9b8", 0.8 * sea * np.clip(1 - np.abs(s.v - line) / 0.012, 0, 1))
    s.blend(s.ramp((shore, "8a5a68"), (1, "b9805f")), s.below(line + 0.008))
    s.shade(s.below(line + 0.01) * (0.12 * s.noise(0.015, 2) + 0.1 * s.noise(0.1, 3, 3.0)))


def _night(s: Canvas) -> None:
    horizon = s.vary(0.72, 0.03)
    s.fill((0, "0b1238"), (0.5, "1d2c6b"), (horizon, "41559a"))
    s.blend("6a74c0", np.clip(0.35 * s.noise(0.3, 5) + 0.28 - np.abs(s.v - 0.5 + 0.5 * (s.u - 0.5)) * 0.9, 0, 0.4))
    s.blend("fdfbe6", s.dots(120, 0.0018, 0.008, 0, horizon))
    u, v = s.vary(0.18, 0.06), s.vary(0.17, 0.04)
    s.blend("c9d4ff", 0.35 * s.disc(u, v, 0.12, 0.14))
    moon = s.disc(u, v, 0.085)
    s.blend("fbf3cf", moon)
    s.blend("d9cfa6", moon * np.clip(2.5 * s.noise(0.06, 3) - 0.3, 0, 0.8))
    s.blend("22306a", s.below(s.ridge(horizon - 0.05, 0.07, 0.45)))
    firs = sum((s.pine(s.edge_u(0.4), horizon + 0.05, s.vary(0.2, 0.07)) for _ in range(9)), [])
    s.blend("141d48", s.ink(firs))
    ground = s.below(s.ridge(horizon + 0.03, 0.03, 0.6, 3))
    s.blend(s.ramp((horizon, "1c2f5c"), (1, "33566e")), ground)
    s.shade(ground * (0.14 * s.noise(0.1, 4, 2.0) + 0.2 * s.noise(0.02, 2, 0.4)))


def _meadow(s: Canvas) -> None:
    horizon = s.vary(0.52, 0.04)
    s.fill((0, "57b2f0"), (horizon, "d8f1fb"))
    s.clouds(3, 0.12, 0.26, "ffffff")
    s.blend("9fd08a", s.below(s.ridge(horizon - 0.04, 0.07, 0.5, 3)))
    s.blend("82c46a", s.below(s.ridge(horizon + 0.03, 0.05, 0.5, 3)))
    grass = s.below(s.ridge(horizon + 0.1, 0.03, 0.6, 3))
    s.blend(s.ramp((horizon + 0.08, "7cc653"), (1, "4d9e3c")), grass)
    s.shade(grass * (0.1 * s.noise(0.15, 4, 2.0) + 0.12 * s.noise(0.02, 2, 0.4)))
    for colour in ("3c8a34", "9ada62"):
        s.blend(colour, 0.75 * s.ink(_blades(s, 130, horizon + 0.18)))
    spots = [(u, v) for u, v in zip(s.rng.random(26), s.rng.uniform(horizon + 0.16, 0.99, 26), strict=True)]
    petals = s.rng.permutation(["ffffff", "ffd23e", "f0639a", "b07be8", "ff7a52"])[:2]
    for half, colour in enumerate(petals):
        s.blend(str(colour), s.ink(_flower(s, u, v, 0.62) for u, v in spots[half::2]))
    s.blend("f5b52e", s.ink(("dot", [(u, v)], 0.007 * (0.5 + v - horizon), 255) for u, v in spots))


def _blades(s: Canvas, count: int, top: float) -> Iterable[tuple[str, list[tuple[float, float]], float, int]]:
    """Blades of grass, longer the nearer they stand."""
    for u, v, lean, level in s.rng.random((count, 4)).tolist():
        near = 0.25 + v
        tall, half = 0.07 * near * s.side / s.height, 0.005 * near * s.side / s.width
        foot = top + v * (1.05 - top)
        yield "area", [(u - half, foot), (u + half, foot), (u + (lean - 0.5) * 8 * half, foot - tall)], 0, int(110 + 145 * level)


def _flower(s: Canvas, u: float, v: float, size: float) -> tuple[str, list[tuple[float, float]], float, int]:
    radius = 0.02 * size * (0.4 + v)
    turn = np.arange(5) * (2 * np.pi / 5) + u * 6
    x, y = radius * s.side / s.width, radius * s.side / s.height
    return "dot", list(zip(u + x * np.cos(turn), v + y * np.sin(turn), strict=True)), radius * 0.62, 255


def _forest(s: Canvas) -> None:
    floor = s.vary(0.7, 0.03)
    s.fill((0, "8fc79a"), (0.4, "d3edbf"), (floor, "b9dca6"))
    ground, bark = s.below(s.ridge(floor, 0.03, 0.4)), s.noise(0.12, 4, 0.12)
    for colour, count, wide, foot, reach in (
        ("a3c79a", 16, 0.012, 0.02, 1.0),
        ("6f9a6c", 9, 0.02, 0.05, 0.8),
        ("5d4632", 4, 0.042, 0.12, 0.26),
    ):
        trunks = []
        for k in range(count):
            u = s.edge_u(reach) if reach < 0.5 else (k + s.rng.random()) / count
            half, base = wide * s.vary(1, 0.25) * s.side / s.width, floor + foot * s.vary(1, 0.3)
            lean = s.vary(0, 0.02)
            left = [(u + lean - half, -0.05), (u - half, base - 0.06), (u - 1.7 * half, base)]
            right = [(u + 1.7 * half, base), (u + half, base - 0.06), (u + lean + half, -0.05)]
            trunks.append(("area", left + right, 0, 255))
        mask = s.ink(trunks)
        if colour == "a3c79a":
            s.blend(colour, mask)
            s.blend(s.ramp((floor - 0.05, "7fb565"), (1, "4a7d3a")), ground)
            s.shade(ground * (0.14 * s.noise(0.1, 4, 1.6) + 0.16 * s.noise(0.02, 2, 0.6)))
        else:
            s.blend(colour, mask)
            s.shade(mask * (0.3 * bark))
    s.blend("c98b3c", 0.8 * s.dots(40, 0.004, 0.011, floor + 0.05, 1))
    leaves = s.noise(0.11, 3) + 0.45 - 6.5 * s.v + 3.5 * np.abs(s.u - 0.5) ** 2
    s.blend("4f9a4a", np.clip(leaves * 9, 0, 1))
    s.blend("2f7038", np.clip((s.noise(0.07, 3) + leaves - 0.55) * 9, 0, 1))
    rays = np.clip(np.sin((s.u * s.width / s.side + s.v * 0.45 + s.vary(0, 1)) * 15), 0, 1)
    s.blend("fffbd0", 0.16 * rays * np.clip(1 - s.v / floor, 0, 1))


def _city(s: Canvas) -> None:
    street = s.vary(0.76, 0.015)
    warm = s.rng.random() < 0.4
    s.fill((0, "f0a07c" if warm else "6db9ee"), (street, "fde8c4" if warm else "e3f3fb"))
    s.clouds(3, 0.1, 0.2, "ffffff", 0.7)
    walls = ("c9b3bd", "a98a9c", "6f5f80") if warm else ("b4cbdd", "86a6c2", "5a7898")
    for wall, blocks, low, high in zip(walls, (15, 11, 8), (0.3, 0.42, 0.6), (0.5, 0.56, 0.66), strict=True):
        _skyline(s, wall, max(3, round(blocks * s.width / s.side)), low, high, street)
    s.blend(s.ramp((street, "b9bcc2"), (0.84, "cfd1d4")), s.below(street))
    s.blend("8d9198", s.below(0.8) * (1 - s.below(0.812)))
    s.blend(s.ramp((0.81, "5c616b"), (1, "6f747d")), s.below(0.812))
    s.blend("f4e6a8", s.below(0.955) * (1 - s.below(0.97)) * (np.sin(s.u * s.width / s.side * 22 + s.vary(0, 3)) > 0))
    s.shade(s.below(street) * (0.06 * s.noise(0.008, 2) + 0.05 * s.noise(0.15, 3, 2.0)))


def _skyline(s: Canvas, wall: str, blocks: int, low: float, high: float, street: float) -> None:
    """One row of houses with windows; taller towards the borders, so that a subject in the middle stands against calm sky."""
    edges = np.cumsum(s.rng.uniform(0.6, 1.4, blocks))
    block = np.minimum(np.searchsorted(edges / edges[-1], s.u[0]), blocks - 1)
    middle = 1 - np.abs(np.linspace(-1, 1, blocks))
    roofs = s.rng.uniform(low - 0.1, high, blocks) + 0.1 * middle
    house = s.below(roofs[block][None].astype(np.float32))
    s.blend(s.ramp((low - 0.1, wall), (street, wall)) * (1 + s.rng.uniform(-0.1, 0.1, blocks)[block]).astype(np.float32), house)
    columns, rows = s.u * s.width / s.side * 34, s.v * s.height / s.side * 30
    lit = s.rng.random((int(rows.max()) + 1, int(columns.max()) + 1), np.float32)[rows.astype(int), columns.astype(int)]
    start = np.concatenate([[0], edges[:-1]]) / edges[-1]
    inside = np.minimum(s.u - start[block], edges[block] / edges[-1] - s.u) * s.width / s.side > 0.012
    pane = (columns % 1 > 0.4) & (rows % 1 > 0.45) & inside & (s.v > roofs[block] + 0.025)
    s.blend("fff0b8", pane * np.where(lit > 0.55, 0.2 + 0.6 * lit, 0.0).astype(np.float32))
    s.shade(pane * np.where(lit > 0.55, 0, -0.16).astype(np.float32))


def _mountains(s: Canvas) -> None:
    s.fill((0, "5aa5e2"), (0.6, "e4f2f8"))
    s.clouds(2, 0.1, 0.2, "ffffff", 0.8)
    rough = s.noise(0.1, 5)
    span = s.width / s.side
    for rock, shadow, level, steep, count in (("a8bdd6", "94abc8", 0.28, 0.7, 5), ("8796ae", "64758f", 0.17, 1.0, 3)):
        summits = (np.arange(count) + s.rng.uniform(0.15, 0.85, count)) / count
        heights = level + s.rng.uniform(-0.06, 0.12, count) + 0.2 * (1 - 2 * np.abs(summits - 0.5))
        flanks = heights[:, None] + steep * np.abs(s.u - summits[:, None]) * span * s.side / s.height  # [count, W]
        nearest = flanks.argmin(axis=0)
        line = (flanks.min(axis=0)[None] + 0.018 * fbm(s.rng, 1, s.width, 1, 0.1 * s.side, 4)).astype(np.float32)
        peak, bend = heights[nearest][None].astype(np.float32), summits[nearest][None].astype(np.float32)
        body = s.below(line)
        side = np.clip((s.u - bend + 0.09 * rough * np.clip(3 * (s.v - peak), 0, 1)) * s.width / 3, 0, 1)
        side *= np.clip(1.2 - 3.2 * (s.v - peak), 0, 1)  # else two flanks would meet in a hard upright seam
        s.blend(rock, body)
        s.blend(shadow, body * side)
        snow = body * np.clip((peak + 0.15 - s.v + 0.06 * rough) * 45, 0, 1)
        s.blend("ffffff", snow * (1 - 0.28 * side))
        s.shade((body - snow) * 0.1 * rough)
    base = s.vary(0.68, 0.02)
    s.blend("cfe0ea", np.clip(1 - np.abs(s.v - base + 0.05) / 0.16, 0, 0.5))
    firs = [s.pine(u, base + 0.05, s.vary(0.12, 0.03)) for u in np.linspace(0, 1, 17) + s.rng.uniform(-0.02, 0.02, 17)]
    s.blend("3f6d5c", s.ink(sum(firs, [])))
    alp = s.below(s.ridge(base + 0.04, 0.025, 0.5))
    s.blend(s.ramp((base, "84ae68"), (1, "557f45")), alp)
    s.shade(alp * (0.1 * s.noise(0.1, 4, 1.8) + 0.14 * s.noise(0.02, 2, 0.6)))
    s.blend("9aa0a6", s.dots(26, 0.003, 0.016, base + 0.1, 1))


def _underwater(s: Canvas) -> None:
    floor = s.vary(0.8, 0.02)
    s.fill((0, "6fe0ea"), (0.35, "23a5d0"), (floor, "0f6aa8"))
    drift = s.noise(0.25, 4)
    fan = (s.u - 0.5) * s.width / s.side / (0.55 + s.v)
    rays = np.clip(np.sin(fan * 26 + s.vary(0, 3)) + 0.6 * np.sin(fan * 47 + s.vary(0, 3)), 0, 1.4)
    s.blend("d6fbff", 0.26 * rays * np.clip(1 - s.v / 0.85, 0, 1) * (1 + 0.5 * drift))
    line = s.ridge(floor, 0.025, 0.5)
    s.blend("1a6c9c", s.below(s.ridge(floor - 0.1, 0.06, 0.25)))
    s.blend(s.ramp((floor, "9fc0a4"), (1, "d9cd98")), s.below(line))
    web = np.clip(1 - 7 * np.abs(s.noise(0.09, 2, 2.2)), 0, 1)
    s.blend("f6f6d0", 0.5 * web * s.below(line + 0.015))
    s.shade(s.below(line) * 0.1 * s.noise(0.014, 2) + 0.05 * drift)
    for colour in ("1f8f6a", "2fb07a"):
        s.blend(colour, s.ink(_weed(s, s.edge_u(0.3), floor + s.vary(0.08, 0.04)) for _ in range(7)))
    spots = s.rng.random((16, 3))
    bubbles = [(s.edge_u(0.36), 0.75 * v, 0.006 + 0.02 * r**2) for _, v, r in spots]
    s.blend("c8f6ff", 0.75 * s.ink(shape for u, v, r in bubbles for shape in (("dot", [(u, v)], r, 255), ("dot", [(u, v)], r * 0.78, 70))))
    s.blend("ffffff", s.ink(("dot", [(u - 0.35 * r, v - 0.35 * r)], r * 0.22, 255) for u, v, r in bubbles))


def _weed(s: Canvas, u: float, foot: float) -> tuple[str, list[tuple[float, float]], float, int]:
    t = np.linspace(0, 1, 12)
    tall, phase = s.vary(0.28, 0.1), s.vary(0, 3)
    middle = u + 0.018 * np.sin(t * 9 + phase) * s.side / s.width
    half = 0.014 * (1 - t**2) * s.side / s.width
    v = foot - tall * t * s.side / s.height
    return (
        "area",
        [*zip(middle - half, v, strict=True), *zip((middle + half)[::-1], v[::-1], strict=True)],
        0,
        int(s.rng.integers(170, 256)),
    )


def _space(s: Canvas) -> None:
    s.fill((0, "0a0820"), (1, "180f38"))
    cloud, hue = s.noise(0.5, 5), s.noise(0.45, 2)
    glow = np.clip(0.55 * cloud + 0.3, 0, 0.75)
    s.blend("5a2a9c", glow)
    s.blend("d0489a" if s.rng.random() < 0.5 else "2f8fd0", glow * np.clip(hue + 0.2, 0, 0.8))
    s.blend("ffffff", s.dots(170, 0.0016, 0.008, 0, 1))
    u, v, radius = s.vary(0.2, 0.04), s.vary(0.2, 0.04), s.vary(0.115, 0.015)
    light, dark = [("f2b56b", "a85a48"), ("8fd6e0", "3a6aa8"), ("f08f9a", "84408c")][s.rng.integers(3)]
    dx, dy = (s.u - u) * s.width / s.side, (s.v - v) * s.height / s.side
    turned, across = dx * 0.94 + dy * 0.34, dy * 0.94 - dx * 0.34
    ring = np.sqrt(turned**2 + (across * 4) ** 2) / radius
    hoop = np.clip((0.24 - np.abs(ring - 1.6)) * radius * s.side * 0.6, 0, 0.85) * (1 - 0.5 * (np.abs(ring - 1.62) < 0.04))
    ball = s.disc(u, v, radius)
    s.blend("e8d8b8", hoop)
    s.blend(light, ball)
    s.blend(dark, ball * np.clip(0.5 + 0.8 * np.sin(across / radius * 9 + 1.5 * hue), 0, 1) * 0.45)
    s.blend("0a0820", ball * np.clip((dx + dy) / radius * 0.6, 0, 0.75))
    s.blend("e8d8b8", hoop * (across > 0))
    limb = 0.82 + 0.28 * (s.u - 0.5) ** 2 + 0.006 * cloud[:1]
    s.blend(s.ramp((0.8, "b8b4c4"), (1, "77728c")), s.below(limb))
    ground = s.below(limb)
    craters = [(s.rng.random(), s.vary(0.935, 0.06), s.vary(0.022, 0.013)) for _ in range(11)]
    for colour, lift, grow in (("d4d0de", 0.15, 1.0), ("5f5a76", 0.0, 0.9)):
        oval = [[(a + r * grow * 1.7 * np.cos(k), b + r * (lift + 0.55 * grow * np.sin(k))) for k in np.linspace(0, 6, 14)] for a, b, r in craters]
        s.blend(colour, 0.8 * ground * s.ink(("area", points, 0, 255) for points in oval))
    s.shade(ground * (0.1 * s.noise(0.008, 2) + 0.12 * s.noise(0.1, 3, 2.0)))


def _wood(s: Canvas) -> None:
    edge = s.vary(0.56, 0.03)
    wall = [("f1e3cf", "e6d2b5"), ("cfe0e4", "b9d0d6"), ("dfe6cf", "ccd8b6"), ("f0d6cf", "e4c2b8")][s.rng.integers(4)]
    s.fill((0, wall[0]), (edge, wall[1]))
    s.shade(0.025 * s.noise(0.012, 2) + 0.05 * s.noise(0.5, 2))
    depth = np.clip(s.v - edge, 0.002, 1) + 0.14  # a floor seen from standing height: rows further off are closer together
    across = (s.u - 0.5) * s.width / s.side / depth * 0.62
    plank = np.floor(across * 4 + 64).astype(np.int32)
    tone, shift = s.rng.uniform(-0.13, 0.13, 128).astype(np.float32), s.rng.random(128).astype(np.float32)
    along = 0.55 / depth + shift[plank & 127]
    piece = np.floor(along * 1.1).astype(np.int32)
    grain_map = fbm(s.rng, 256, 512, 60, 9, 4)
    grain = grain_map[(along * 90).astype(np.int32) & 255, (across * 90 + (37 * plank + 71 * piece)).astype(np.int32) & 511]
    floor = s.below(edge)
    s.blend(s.ramp((edge, "b9834e"), (1, "d59d62")), floor)
    s.shade(floor * (tone[(plank + 17 * piece) & 127] + 0.17 * grain + 0.05 * np.sin(grain * 12)))
    gap = np.abs((across * 4) % 1 - 0.5) > 0.5 - 0.012 / depth / s.side * 90
    joint = (along * 1.1) % 1 < 0.012 / depth
    s.blend("6d4526", floor * np.clip((s.v - edge) * 6, 0.2, 0.75) * (gap | joint))
    s.blend("fbf7ef", s.below(edge - 0.05) * (1 - floor))
    s.blend("8a7a68", 0.5 * np.clip(1 - np.abs(s.v - edge + 0.05) * s.height / 1.2, 0, 1))
    s.shade(-0.35 * floor * np.clip(1 - (s.v - edge) / 0.04, 0, 1))


_PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "snow": _snow,
    "desert": _desert,
    "beach": _beach,
    "sunset": _sunset,
    "night": _night,
    "meadow": _meadow,
    "forest": _forest,
    "city": _city,
    "mountains": _mountains,
    "underwater": _underwater,
    "space": _space,
    "wood": _wood,
}
