"""Invented ground at half a metre: who owns it, what grows, stands and flows there.

A map of materials rather than a picture: one material is, for example, the second thinnest crop of
field 17. Its spectrum depends on the date, the map does not; so all revisits follow from one map
and a small table. Nothing here imitates a real place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from acdc.random_field import rough
from acdc.tracks.worldstrat.simulate import spectra

STEP = 0.5  # m
CLASSES = ("cropland", "grassland", "forest", "hedge", "water", "bare", "road", "building")
CROP, GRASS, FOREST, HEDGE, WATER, BARE, ROAD, BUILDING = range(8)
_CLUMPED = np.float32(
    0.72
)  # set by hand, so that forest is about as dark in the near infrared as real
_ROOFS = ("tile", "slate", "metal", "concrete")
# leaf area index of the patches of a field, relative to its mean; 0 is bare soil
_LEVELS = np.array([0.0, 0.5, 0.8, 1.0, 1.2, 1.5])


@dataclass(frozen=True)
class Plants:
    """What grows somewhere, and when.

    Attributes
    ----------
    lowest, peak : float
        Leaf area index outside and at the height of the season.
    start, end : float
        Days of the year of half growth and of harvest or leaf fall.
    ripens : bool
        Turns brown before the end, as cereals do.
    angle, chlorophyll, water : float
        Mean leaf inclination (degrees), chlorophyll (ug cm-2) and water (cm) of leaves.
    dry : float
        Brightness of the soil below, 0..1.
    """

    lowest: float
    peak: float
    start: float
    end: float
    ripens: bool
    angle: float
    chlorophyll: float
    water: float
    dry: float

    def leaf_area(self, day: float) -> float:
        """Leaf area index on a day of the year."""
        grown = 1 / (1 + np.exp(-(day - self.start) / 9))
        left = 1 / (1 + np.exp((day - self.end) / 4))
        return float(self.lowest + (self.peak - self.lowest) * grown * left)

    def brown(self, day: float) -> float:
        """Share of dead leaves on a day of the year."""
        return float(self.ripens / (1 + np.exp(-(day - self.end + 18) / 6)))


@dataclass(frozen=True)
class Material:
    """One entry of a material map: plants at a density, or something without leaves.

    Attributes
    ----------
    plants : Plants or None
    density : float
        Of the plants relative to their mean, or brightness relative to the material's usual one.
    name : str
        Of `spectra.MATERIALS`, where there are no plants.
    """

    plants: Plants | None
    density: float
    name: str = ""


@dataclass(frozen=True)
class Landscape:
    """A piece of ground on a grid of 0.5 m.

    Attributes
    ----------
    material : ndarray of int32 (n, n)
        Index into `materials`.
    materials : list of Material
    cover : ndarray of uint8 (n, n)
        Index into `CLASSES`.
    height : ndarray of float32 (n, n)
        Of trees and houses above the ground, m.
    brightness : ndarray of float32 (n, n)
        Fine texture, mean about 1.
    """

    material: np.ndarray
    materials: list[Material]
    cover: np.ndarray
    height: np.ndarray
    brightness: np.ndarray

    def leaf_area(self, day: float) -> np.ndarray:
        """Leaf area index (materials,) on a day of the year."""
        return np.array(
            [m.density * m.plants.leaf_area(day) if m.plants else 0.0 for m in self.materials]
        )

    def reflectance(self, day: float, wetness: float, zenith: float) -> np.ndarray:
        """Reflectance (materials, 17) on a day of the year.

        Parameters
        ----------
        day : float
            Of the year.
        wetness : float
            Of the soil, 0..1.
        zenith : float
            Of the sun, degrees.
        """
        out = np.empty((len(self.materials), len(spectra.BANDS)))
        green = [i for i, m in enumerate(self.materials) if m.plants]
        area = self.leaf_area(day)
        rows = []
        for i in green:
            plants = self.materials[i].plants
            assert plants is not None
            brown = plants.brown(day)
            soil = plants.dry * (1 - 0.7 * wetness)
            leaves = (plants.angle, plants.chlorophyll, plants.water, brown)
            rows.append((*leaves, area[i], soil, zenith))
        if green:
            out[green] = spectra.of_canopies(np.array(rows))
        for i, material in enumerate(self.materials):
            if material.plants is None:
                out[i] = material.density * spectra.of_material(material.name)
        return out


class _Canvas:
    """The maps while they are drawn."""

    def __init__(self, n: int) -> None:
        self.material = np.zeros((n, n), np.int32)
        self.cover = np.zeros((n, n), np.uint8)
        self.height = np.zeros((n, n), np.float32)
        self.contrast = np.full((n, n), 0.05, np.float32)
        self.materials: list[Material] = []

    def add(self, *materials: Material) -> int:
        """Number of the first of some new materials."""
        first = len(self.materials)
        self.materials.extend(materials)
        return first

    def fill(self, where: np.ndarray, material: int, cover: int, contrast: float = 0.05) -> None:
        self.material[where] = material
        self.cover[where] = cover
        self.contrast[where] = contrast
        self.height[where] = 0


def _smooth(random: np.random.Generator, n: int, slope: float, outer: float) -> np.ndarray:
    """As `rough`, of what needs no detail below 4 m: cheaper."""
    small = rough(random, n // 8, slope, outer / 8)
    field = ndimage.zoom(small, 8, order=1, grid_mode=True, mode="nearest")
    return np.asarray(field, dtype=np.float32)


def make(random: np.random.Generator, n: int) -> Landscape:
    """Invent a piece of ground of n x n pixels of 0.5 m; n is a multiple of 8."""
    canvas = _Canvas(n)
    relief = _smooth(random, n, 3.4, 2 * n)
    border = _fields(canvas, random, n)
    forest = _smooth(random, n, 3.0, n / 2) + 0.4 * relief > random.uniform(0.5, 1.9)
    _hedges(canvas, random, border & ~forest)
    _forest(canvas, random, forest)
    water = relief + 0.02 * _smooth(random, n, 2.6, 200)
    if random.random() < 0.5:
        level = np.quantile(water[::8, ::8], random.uniform(0.02, 0.12))
        darkness = float(random.uniform(0.6, 1.6))
        wet = canvas.add(Material(None, darkness, "water"))
        canvas.fill(water < level, wet, WATER, 0.03)
    for _ in range(random.integers(1, 3)):
        _road(canvas, random, n)
    texture = rough(random, n, 1.6, 40)
    brightness = np.clip(1 + canvas.contrast * texture, 0.5, 1.6)
    # 4SAIL's leaves fill a level layer; those of a crown shade each other in clumps
    brightness[canvas.height > 0] *= np.where(
        canvas.cover[canvas.height > 0] == BUILDING, 1.0, _CLUMPED
    )
    return Landscape(canvas.material, canvas.materials, canvas.cover, canvas.height, brightness)


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.ogrid[:n, :n]
    return y.astype(np.float32) * np.float32(STEP), x.astype(np.float32) * np.float32(STEP)


def _fields(canvas: _Canvas, random: np.random.Generator, n: int) -> np.ndarray:
    """Divide the ground into fields of crops, grass and bare soil; returns where they meet."""
    y, x = _grid(n)
    angle, width = random.uniform(0, np.pi), random.uniform(45, 130)
    stretch = random.uniform(1.3, 3)
    bend = _bend(random, x * np.cos(angle) + y * np.sin(angle), 0.15 * width)
    bend = bend + _bend(random, y * np.cos(angle) - x * np.sin(angle), 0.15 * width)
    along = (x * np.cos(angle) + y * np.sin(angle) + bend) / (width * stretch)
    row = np.floor(along)
    # every row of fields starts elsewhere, so that corners do not meet in a lattice
    across = (y * np.cos(angle) - x * np.sin(angle) + bend) / width + 0.37 * row
    column = np.floor(across)
    border = np.minimum((along - row) * width * stretch, (across - column) * width) < 1.5
    code = (row.astype(np.int64) + 500) * 1000 + column.astype(np.int64) + 500
    names, number = np.unique(code, return_inverse=True)
    number = number.reshape(n, n)
    grassy, bare = random.uniform(0.15, 0.5), random.uniform(0.02, 0.2)
    patches = np.digitize(
        0.6 * _smooth(random, n, 3, 200) + 0.4 * rough(random, n, 2, 20), [-1.2, -0.4, 0.4, 1.2]
    )
    level = (patches + 1).astype(np.int32)
    first = np.empty(len(names), np.int32)
    cover = np.empty(len(names), np.uint8)
    spacing = np.ones(len(names), np.float32)
    gap = np.zeros(len(names), np.float32)
    for i in range(len(names)):
        kind = random.random()
        if kind < grassy:
            plants, cover[i] = _grass(random), GRASS
        else:
            plants, cover[i] = _crop(random), CROP
            if kind > 1 - bare:
                plants, cover[i] = _fallow(plants), BARE
            elif random.random() < 0.2:
                # vines and orchards: rows with open ground between
                spacing[i], gap[i] = random.uniform(2, 6), random.uniform(0.4, 0.65)
            else:
                # tramlines of the sprayer
                spacing[i], gap[i] = random.choice([15, 18, 24]), 0.04
        first[i] = canvas.add(*(Material(plants, float(density)) for density in _LEVELS))
    lines = (y * np.cos(angle) - x * np.sin(angle) + bend) / spacing[number]
    level[(lines - np.floor(lines)) < gap[number]] = 0
    canvas.material[:] = first[number] + level
    canvas.cover[:] = cover[number]
    return np.asarray(border)


def _bend(random: np.random.Generator, along: np.ndarray, height: float) -> np.ndarray:
    """A slow wave, m: borders of fields are seldom straight, and never rough."""
    wave = 2 * np.pi / random.uniform(300, 900)
    return np.asarray(height * np.sin(wave * along + random.uniform(0, 2 * np.pi)), np.float32)


def _crop(random: np.random.Generator) -> Plants:
    winter = random.random() < 0.5
    start, end = (random.normal(100, 12), random.normal(205, 12))
    if not winter:
        start, end = random.normal(165, 12), random.normal(265, 12)
    return Plants(
        lowest=float(random.uniform(0.05, 0.5)),
        peak=float(random.uniform(2.5, 6.5)),
        start=float(start),
        end=float(end),
        ripens=bool(winter or random.random() < 0.5),
        angle=float(random.uniform(45, 62) if winter else random.uniform(35, 52)),
        chlorophyll=float(random.uniform(25, 60)),
        water=float(random.uniform(0.008, 0.02)),
        dry=float(random.uniform(0.2, 0.8)),
    )


def _fallow(plants: Plants) -> Plants:
    return replace(plants, lowest=0.05, peak=0.15)


def _grass(random: np.random.Generator) -> Plants:
    return Plants(
        lowest=float(random.uniform(0.6, 1.6)),
        peak=float(random.uniform(1.8, 4)),
        start=float(random.normal(90, 12)),
        end=float(random.normal(300, 15)),
        ripens=False,
        angle=float(random.uniform(52, 62)),
        chlorophyll=float(random.uniform(20, 45)),
        water=float(random.uniform(0.006, 0.014)),
        dry=float(random.uniform(0.1, 0.5)),
    )


def _tree(random: np.random.Generator, evergreen: bool) -> Plants:
    return Plants(
        lowest=float(random.uniform(3, 4.5) if evergreen else random.uniform(0.4, 0.8)),
        peak=float(random.uniform(4.5, 6) if evergreen else random.uniform(3.5, 6.5)),
        start=float(random.normal(112, 8)),
        end=float(random.normal(298, 8)),
        ripens=not evergreen,
        angle=float(random.uniform(40, 60)),
        chlorophyll=float(random.uniform(45, 65) if evergreen else random.uniform(30, 60)),
        water=float(random.uniform(0.01, 0.02)),
        dry=0.05,
    )


def _hedges(canvas: _Canvas, random: np.random.Generator, border: np.ndarray) -> None:
    """Tracks, grass strips and hedges along the borders of fields."""
    n = len(border)
    choice = _smooth(random, n, 2.5, 300)
    hedge = border & (choice > random.uniform(-0.5, 1.2))
    track = border & (choice < -random.uniform(0.2, 1.0))
    canvas.fill(border, canvas.add(Material(_grass(random), 1.0)), GRASS)
    gravel = canvas.add(Material(None, float(random.uniform(0.7, 1.2)), "gravel"))
    canvas.fill(track, gravel, ROAD)
    rows, cols = np.nonzero(hedge)
    keep = random.random(len(rows)) < 0.06
    _plant(canvas, random, rows[keep], cols[keep], (1.0, 2.2), (2.0, 6.0), 0.0, HEDGE)


def _forest(canvas: _Canvas, random: np.random.Generator, where: np.ndarray) -> None:
    """A floor in shade, crowns on it; and some single trees outside."""
    floor = canvas.add(Material(_grass(random), 0.7))
    canvas.fill(where, floor, FOREST, 0.08)
    rows, cols = np.nonzero(where)
    # crowns of some 6 m: a bit more than they need to close
    keep = random.random(len(rows)) < 0.02
    evergreen = float(random.choice([0.05, 0.5, 0.95]))
    _plant(canvas, random, rows[keep], cols[keep], (1.8, 4.0), (9.0, 22.0), evergreen, FOREST)
    single = random.integers(0, 40)
    rows, cols = random.integers(0, len(where), (2, single))
    _plant(canvas, random, rows, cols, (2.0, 4.5), (5.0, 12.0), 0.1, HEDGE)


def _plant(
    canvas: _Canvas,
    random: np.random.Generator,
    rows: np.ndarray,
    cols: np.ndarray,
    radius: tuple[float, float],
    height: tuple[float, float],
    evergreen: float,
    cover: int,
) -> None:
    """Draw crowns as domes; where two overlap, the higher one is seen."""
    n = len(canvas.height)
    variants = [
        canvas.add(Material(_tree(random, bool(random.random() < evergreen)), 1.0))
        for _ in range(8)
    ]
    which = np.array(variants)[random.integers(0, 8, len(rows))]
    size = random.uniform(*radius, len(rows)) / STEP
    # larger crowns on higher trees
    share = (size * STEP - radius[0]) / (radius[1] - radius[0])
    share = np.clip(share + random.normal(0, 0.15, len(rows)), 0, 1)
    top = height[0] + (height[1] - height[0]) * share
    reach = int(np.ceil(radius[1] / STEP))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            y, x = rows + dy, cols + dx
            apart = (dy**2 + dx**2) / size**2
            level = top * (0.5 + 0.5 * np.sqrt(np.clip(1 - apart, 0, 1)))
            inside = (apart <= 1) & (y >= 0) & (y < n) & (x >= 0) & (x < n)
            inside[inside] &= level[inside] > canvas.height[y[inside], x[inside]]
            y, x = y[inside], x[inside]
            canvas.height[y, x] = level[inside]
            canvas.material[y, x] = which[inside]
            canvas.cover[y, x] = cover
            canvas.contrast[y, x] = 0.12


def _road(canvas: _Canvas, random: np.random.Generator, n: int) -> None:
    """A road across the place and, perhaps, a village along it."""
    y, x = _grid(n)
    side = n * STEP
    angle = random.uniform(0, np.pi)
    away = random.uniform(-0.25, 0.25) * side
    u = (x - side / 2) * np.cos(angle) + (y - side / 2) * np.sin(angle)
    v = (y - side / 2) * np.cos(angle) - (x - side / 2) * np.sin(angle) - away
    swing = random.uniform(0, 40), random.uniform(200, 600), random.uniform(0, 2 * np.pi)

    def middle(along: np.ndarray) -> np.ndarray:
        return np.asarray(swing[0] * np.sin(2 * np.pi * along / swing[1] + swing[2]))

    distance = np.abs(v - middle(u))
    if random.random() < 0.7:
        _village(canvas, random, u, v, distance, middle)
    asphalt = canvas.add(Material(None, float(random.uniform(0.7, 1.3)), "asphalt"))
    canvas.fill(distance < random.uniform(2, 4.5), asphalt, ROAD)


def _village(
    canvas: _Canvas,
    random: np.random.Generator,
    u: np.ndarray,
    v: np.ndarray,
    distance: np.ndarray,
    middle: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Houses with gardens on both sides of a road."""
    centre, length = random.uniform(-200, 200), random.uniform(80, 260)
    rows = random.integers(1, 4)
    plot = random.uniform(18, 30)
    garden = (np.abs(u - centre) < length) & (distance < rows * 26 + 6)
    garden &= canvas.cover != WATER
    lawn = canvas.add(*(Material(_grass(random), density) for density in (0.7, 1.0, 1.3)))
    patch = (np.floor(u / plot) * 7 + np.floor(v / 13) * 3) % 3
    canvas.fill(garden, lawn, GRASS, 0.1)
    canvas.material[garden] += patch[garden].astype(np.int32)
    roofs = [
        canvas.add(Material(None, float(random.uniform(0.75, 1.25)), str(name)))
        for name in random.choice(_ROOFS, 8, p=[0.55, 0.2, 0.1, 0.15])
    ]
    yard = canvas.add(Material(None, 0.9, "concrete"))
    industrial = random.random() < 0.3
    for side in (-1, 1):
        for row in range(rows):
            for along in np.arange(centre - length, centre + length, plot):
                if random.random() < 0.25:
                    continue
                long, wide = random.uniform(4.5, 8), random.uniform(3.5, 5.5)
                top = random.uniform(4, 8)
                if industrial and random.random() < 0.15:
                    long, wide, top = 0.8 * plot, 11.0, random.uniform(6, 11)
                at = float(along + random.normal(0, 2))
                off = float(middle(np.asarray(at))) + side * (14 + row * 26 + random.normal(0, 1.5))
                _house(canvas, random, u, v, (at, off), (long, wide, top), roofs, yard)
    trees = np.nonzero(garden & (canvas.cover == GRASS))
    keep = random.random(len(trees[0])) < 0.0006
    _plant(canvas, random, trees[0][keep], trees[1][keep], (1.2, 3.5), (2.5, 9.0), 0.2, HEDGE)


def _house(
    canvas: _Canvas,
    random: np.random.Generator,
    u: np.ndarray,
    v: np.ndarray,
    at: tuple[float, float],
    size: tuple[float, float, float],
    roofs: list[int],
    yard: int,
) -> None:
    """A house with its middle at (u, v) = `at`; size: half length, half width, height, m."""
    long, wide, top = size
    near = (np.abs(u[::16, ::16] - at[0]) < 30) & (np.abs(v[::16, ::16] - at[1]) < 30)
    found = ndimage.find_objects(near.astype(np.int8))
    if not found:
        return
    box = tuple(slice(part.start * 16, part.stop * 16) for part in found[0])
    u, v = u[box] - at[0], v[box] - at[1]
    turn = random.normal(0, 0.08)
    p, q = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    inside = (np.abs(p) < long) & (np.abs(q) < wide)
    if random.random() < 0.4:
        apron = (np.abs(p - long) < 3) & (np.abs(q) < wide + 3)
        _fill_box(canvas, box, apron, yard, ROAD, 0.0)
    # a gable roof falls from the ridge to the eaves; large roofs are flat
    pitch = 0.6 if wide < 7 else 0.0
    level = top + pitch * (wide - np.abs(q)) - pitch * wide / 2
    _fill_box(canvas, box, inside, int(random.choice(roofs)), BUILDING, level)


def _fill_box(
    canvas: _Canvas,
    box: tuple[slice, ...],
    where: np.ndarray,
    material: int,
    cover: int,
    height: np.ndarray | float,
) -> None:
    where = where & (canvas.cover[box] != WATER)
    canvas.material[box][where] = material
    canvas.cover[box][where] = cover
    canvas.contrast[box][where] = 0.06
    canvas.height[box][where] = np.broadcast_to(height, where.shape)[where]
