"""One quadrangle: units, relief, impacts, picture and the truth about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from . import imaging, morphology, population, relief
from .emplacement import Stamp, Surface, around, emplace, pit, streak
from .population import Impact, Impacts
from .relief import PIXEL, TERRAINS

Floats = NDArray[np.float64]

FRAME = 800
"""Pixels around a quadrangle in which large primaries are drawn too."""

CELL = 8
"""Side in pixels of the coarse cells that the map of units is made of."""

SMALLEST_KM = 0.4
"""Smallest crater laid into the relief: 2 px in radius."""

CATALOGUED_KM = 0.8
"""Smallest crater in the catalogue: 4 px in radius at 100 m per pixel."""

OTHER, LAYERED, DEGRADED, SECONDARY, MISIDENTIFIED = 1, 2, 3, 4, 5
"""TYPE of Lagain et al. 2021."""


@dataclass(frozen=True)
class Plan:
    """What a quadrangle shall be.

    Attributes
    ----------
    name, part : str
        Name and ``train`` or ``test``.
    rows, cols : int
        Pixels, margin included.
    latitude : float
        Degrees north of the first row's centre.
    degrees_per_pixel : float
        Latitude per row.
    terrains : tuple of str
        Terrain of each unit, keys of :data:`acdc.tracks.craters.simulate.relief.TERRAINS`.
    conditions : tuple of (int, str)
        Imaging conditions from left to right: first column and key of
        :data:`acdc.tracks.craters.simulate.imaging.CONDITIONS`.
    """

    name: str
    part: str
    rows: int
    cols: int
    latitude: float
    degrees_per_pixel: float
    terrains: tuple[str, ...]
    conditions: tuple[tuple[int, str], ...]

    def squash(self, row: float) -> float:
        """Width of a pixel on the ground relative to its height."""
        return float(np.cos(np.radians(self.latitude - row * self.degrees_per_pixel)))


@dataclass
class Quadrangle:
    """What came out.

    Attributes
    ----------
    plan : Plan
        What was asked for.
    picture : ndarray of uint8
        Grey levels, 0 nowhere.
    craters : pandas.DataFrame
        Catalogue: row, col (pixels), radius (metres), type.
    units : ndarray of int8
        Unit of every coarse cell (8 x 8 pixels).
    ages : ndarray
        Model age of every unit, Ga.
    surface : Surface
        The ground (not kept when quadrangles are made in other processes).
    """

    plan: Plan
    picture: NDArray[np.uint8]
    craters: pd.DataFrame
    units: NDArray[np.int8]
    ages: Floats
    surface: Surface | None


def make(plan: Plan, seed: np.random.SeedSequence) -> Quadrangle:
    """Simulate a quadrangle.

    Parameters
    ----------
    plan : Plan
        What it shall be.
    seed : numpy.random.SeedSequence
        Everything random follows from it.
    """
    rng_units, rng_ground, rng_hits, rng_look, rng_image = (
        np.random.default_rng(child) for child in seed.spawn(5)
    )
    units = _units(rng_units, (plan.rows, plan.cols), len(plan.terrains))
    ages = np.array([rng_units.uniform(*TERRAINS[t].ages) for t in plan.terrains])
    hits = impacts(rng_hits, plan, units, ages)
    surface = _ground(rng_ground, plan, units)
    stamps = [_stamp(rng_look, plan, hit) for hit in hits.each()]
    for stamp, hit in zip(stamps, hits.each(), strict=True):
        if hit.buried:
            emplace(surface, stamp)
    pits = _pits(rng_ground, plan, units)
    for stamp in pits:
        emplace(surface, stamp)
    for stamp, hit in zip(stamps, hits.each(), strict=True):
        if not hit.buried:
            emplace(surface, stamp)
    _blow(rng_look, surface, stamps)
    # Dust and sand have settled on everything: no floor is perfectly even.
    surface.height += relief.scaled_to_slope(surface.texture, 0.35)
    craters = _catalogue(rng_hits, plan, surface, hits, stamps, pits)
    picture = _picture(rng_image, plan, surface)
    return Quadrangle(plan, picture, craters, units, ages, surface)


def _units(rng: np.random.Generator, shape: tuple[int, int], count: int) -> NDArray[np.int8]:
    """Map of units in coarse cells: nearest of a few seeds, with crooked borders."""
    rows, cols = -(-shape[0] // CELL), -(-shape[1] // CELL)
    warp = [
        16 * relief.noise(rng, (rows, cols), hurst=0.8, longest=60, shortest=1.5) for _ in range(2)
    ]
    y = np.arange(rows)[:, None] + warp[0]
    x = np.arange(cols)[None, :] + warp[1]
    # Seeds on a jittered lattice, so that every unit gets its share.
    per_row = int(np.ceil(np.sqrt(count * cols / rows)))
    per_col = -(-count // per_row)
    seeds = [
        (
            (i + 0.5 + rng.uniform(-0.2, 0.2)) * rows / per_col,
            (j + 0.5 + rng.uniform(-0.2, 0.2)) * cols / per_row,
        )
        for i in range(per_col)
        for j in range(per_row)
    ]
    distance = np.stack([(y - a) ** 2 + (x - b) ** 2 for a, b in seeds])
    nearest = np.argmin(distance, 0) % count
    return nearest.astype(np.int8)


def _ground(rng: np.random.Generator, plan: Plan, units: NDArray[np.int8]) -> Surface:
    shape = (plan.rows, plan.cols)
    height = relief.scaled_to_slope(
        relief.noise(rng, shape, hurst=0.9, longest=1500, shortest=10), 1.0
    )
    rock = 0.2 * relief.noise(rng, shape, hurst=0.7, longest=120, shortest=1.0)
    albedo = relief.noise(rng, shape, hurst=0.5, longest=250, shortest=1.0)
    # Dust lies in sheets with sharp borders: push the field towards its two sides.
    albedo = np.tanh(1.5 * albedo)
    for unit, name in enumerate(plan.terrains):
        weight = ndimage.gaussian_filter((units == unit).astype(np.float32), 1.2)
        inside = np.argwhere(weight > 0.004)
        if inside.size == 0:
            continue
        top, left = inside.min(0) * CELL
        bottom, right = (inside.max(0) + 1) * CELL
        bottom, right = min(bottom, shape[0]), min(right, shape[1])
        part = weight[top // CELL : -(-bottom // CELL), left // CELL : -(-right // CELL)]
        share = ndimage.zoom(part, CELL, order=1, mode="nearest", grid_mode=True)
        share = share[: bottom - top, : right - left]
        height[top:bottom, left:right] += share * relief.ground(
            rng, (bottom - top, right - left), TERRAINS[name]
        )
        rock[top:bottom, left:right] += share * np.float32(rng.normal(0, 0.25))
        # Some units are mottled by dust and sand, others even.
        patch = albedo[top:bottom, left:right]
        patch += share * (patch * np.float32(rng.lognormal(-0.5, 0.8) - 1) + rng.normal(0, 0.3))
    texture = relief.noise(rng, shape, hurst=0.8, longest=30, shortest=1.2)
    return Surface(height, rock, albedo, texture)


def impacts(rng: np.random.Generator, plan: Plan, units: NDArray[np.int8], ages: Floats) -> Impacts:
    """All impacts that may leave a trace, oldest first."""
    cell_km2 = (CELL * PIXEL / 1000) ** 2 * plan.squash(plan.rows / 2)
    parts = []
    for unit, name in enumerate(plan.terrains):
        cells = np.argwhere(units == unit)
        if len(cells) == 0:
            continue
        area = len(cells) * cell_km2
        basement = TERRAINS[name].basement
        periods = [(0.0, ages[unit], SMALLEST_KM, 150.0)]
        if basement > ages[unit]:
            periods.append((ages[unit], basement, 1.5, 80.0))
        for since, until, smallest, largest in periods:
            diameter, age = population.primaries(
                rng, area, until, since=since, smallest=smallest, largest=largest
            )
            chosen = cells[rng.integers(0, len(cells), diameter.size)]
            row, col = ((chosen + rng.random(chosen.shape)) * CELL - 0.5).T
            cover = rng.uniform(40, 110) if since else 0.0
            parts.append(Impacts.of(row, col, diameter, age, buried=cover))
    # Large primaries reach in from outside, with their ejecta and their secondaries.
    span = (plan.rows + 2 * FRAME) * (plan.cols + 2 * FRAME) - plan.rows * plan.cols
    diameter, age = population.primaries(
        rng, span * (PIXEL / 1000) ** 2, 3.6, smallest=12.0, largest=150.0
    )
    parts.append(Impacts.of(*_outside(rng, plan, FRAME, diameter.size), diameter, age))
    hits = Impacts.joined(parts)
    sources = hits[(hits.diameter > 18) & (hits.age < 3.65) & (hits.buried == 0)]
    missing = max(0, 2 - int((sources.diameter > 40).sum()))
    # Every quadrangle shall show secondaries: if need be, of young large craters just outside.
    more = Impacts.of(
        *_outside(rng, plan, 350, missing),
        rng.uniform(50, 90, missing),
        rng.uniform(0.5, 3.0, missing),
    )
    scale = 1000 / PIXEL
    parts = [hits, more]
    for source in (*sources.each(), *more.each()):
        y, x, diameter, azimuth = population.secondaries(rng, source.diameter, smallest=SMALLEST_KM)
        parts.append(
            Impacts.of(
                source.row + y * scale,
                source.col + x * scale / plan.squash(plan.rows / 2),
                diameter,
                np.full(diameter.size, source.age - 1e-6),
                secondary=True,
                azimuth=azimuth,
            )
        )
    hits = Impacts.joined(parts)
    reach = hits.diameter / 2 * scale * 4
    hits = hits[
        (hits.row > -reach)
        & (hits.row < plan.rows + reach)
        & (hits.col > -reach)
        & (hits.col < plan.cols + reach)
    ]
    return hits[np.argsort(-hits.age, kind="stable")]


def _outside(
    rng: np.random.Generator, plan: Plan, around: int, count: int
) -> tuple[Floats, Floats]:
    """Rows and columns in a frame of ``around`` pixels about the quadrangle."""
    found: list[tuple[float, float]] = []
    while len(found) < count:
        row = rng.uniform(-around, plan.rows + around)
        col = rng.uniform(-around, plan.cols + around)
        if not (0 <= row < plan.rows and 0 <= col < plan.cols):
            found.append((row, col))
    places = np.array(found, float).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def _stamp(rng: np.random.Generator, plan: Plan, hit: Impact) -> Stamp:
    """Shape of one crater as it is today."""
    diameter, age, thickness, secondary = (
        hit.diameter,
        hit.age,
        hit.buried,
        hit.secondary,
    )
    radius_m = 500 * diameter
    radius = radius_m / PIXEL
    scatter = rng.lognormal(0, 0.1)
    profile = morphology.fresh_profile(
        diameter,
        depth_factor=scatter * (0.55 if secondary else 1.0),
        peak=bool(rng.random() < 0.7),
    )
    length = float(morphology.diffusion_length(age)) * rng.lognormal(0, 0.25) / radius_m
    profile = morphology.diffused(profile, length)
    depth = float(profile.max() - profile[0])
    # Sediment gathers on floors; the share grows with age.
    share = rng.beta(1.0, 4.0) * min(1.0, age / 3.5) ** 1.5
    if age > 3.6:
        share = max(share, rng.beta(2.0, 2.0))
    if share > 0.02 and depth > 0:
        profile = morphology.filled(profile, profile[0] + share * depth, 0.08 * depth)
    reset = float(np.clip(1.2 - 2 * length, 0.2, 1))
    freshness = float(np.exp(-((length / 0.12) ** 2)) * (1 - share))
    if thickness > 0:
        rim = float(profile.max())
        cover = min(thickness, 0.9 * rim) * rng.uniform(0.7, 1.0)
        profile = morphology.buried(profile, cover, 0.12 * rim, rng.uniform(0.0, 0.25) * rim)
        reset, freshness = 0.0, 0.0
    stamp = Stamp(
        hit.row,
        hit.col,
        radius,
        profile,
        squash=plan.squash(hit.row),
        reset=reset,
        freshness=freshness,
    )
    if secondary:
        stamp.elongation = 1 + abs(rng.normal(0, 0.15))
        stamp.azimuth = hit.azimuth
    if radius > 4:
        size = rng.lognormal(np.log(0.022), 0.4) * min(2.0, radius / 25) ** 0.5
        stamp.outline = size * around(rng, 2, 24, 1.3)
        uneven = 0.12 + 0.35 * min(1.0, length / 0.3) + 0.4 * (thickness > 0)
        stamp.breach = np.clip(1 + uneven * around(rng, 1, 7, 0.6), 0.0, 2.0)
    if radius > 8:
        worn = float(np.exp(-((length / 0.3) ** 2)))
        height = float(profile.max()) if thickness > 0 else depth
        stamp.roughness = 0.16 * height if thickness > 0 else min(0.02 * height, 15.0) * worn
        stamp.gullies = 0.018 * height * worn * around(rng, 6, int(min(14 + radius, 90)), 0.3)
    layered = (
        not secondary
        and thickness == 0
        and 1.0 < diameter < 30
        and age < 3.6
        and length < 0.22
        and rng.random() < 0.75 * min(1.0, np.log(diameter) / np.log(3.0))
    )
    if layered:
        # Barlow 2005: single layers reach 1.5 radii beyond the rim, the outer of two 2.5.
        outer = 1 + rng.lognormal(np.log(1.5), 0.2)
        sheet = 0.25 * float(morphology.rim_height(diameter)) * float(1 - share)
        layers = [(outer, sheet)]
        if diameter > 4 and rng.random() < 0.25:
            layers.append((min(outer * 1.5, 4.0), 0.5 * sheet))
        stamp.layers = np.array(layers, np.float32)
        stamp.lobes = rng.uniform(0.03, 0.08) * around(rng, 2, 14, 1.2)
    return stamp


def _blow(rng: np.random.Generator, surface: Surface, stamps: list[Stamp]) -> None:
    """Wind streaks behind some small craters, all with the prevailing wind."""
    wind = rng.uniform(0, 2 * np.pi)
    for stamp in stamps:
        chosen = rng.random() < 0.05
        azimuth, length = wind + rng.normal(0, 0.12), rng.uniform(4, 14)
        strength = rng.normal(0, 1.2)
        if chosen and stamp.reset > 0 and 2 <= stamp.radius <= 15:
            streak(surface, stamp, azimuth, length, strength)


def _pits(rng: np.random.Generator, plan: Plan, units: NDArray[np.int8]) -> list[Stamp]:
    area = plan.rows * plan.cols / 1e6
    stamps = []
    share = np.array([TERRAINS[t].pits for t in plan.terrains])
    for row, col, radius in relief.pits(rng, (plan.rows, plan.cols), int(6 * area)):
        r, c = int(row) // CELL, int(col) // CELL
        if (
            0 <= r < units.shape[0]
            and 0 <= c < units.shape[1]
            and (rng.random() < share[units[r, c]])
        ):
            stamps.append(pit(row, col, radius, plan.squash(row)))
    return stamps


def _rings(
    surface: Surface,
    row: NDArray,
    col: NDArray,
    radius: NDArray,
    squash: NDArray,
    rho: NDArray,
) -> Floats:
    """Heights around craters, shape (craters, azimuths, len(rho))."""
    azimuth = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    scale = radius[:, None, None] * rho[None, None, :]
    rows = row[:, None, None] + scale * np.sin(azimuth)[None, :, None]
    cols = col[:, None, None] + scale * np.cos(azimuth)[None, :, None] / squash[:, None, None]
    heights: Floats = ndimage.map_coordinates(surface.height, [rows, cols], order=1, mode="nearest")
    return heights


def _catalogue(
    rng: np.random.Generator,
    plan: Plan,
    surface: Surface,
    hits: Impacts,
    stamps: list[Stamp],
    pits: list[Stamp],
) -> pd.DataFrame:
    """Craters that can still be seen, measured on the final ground."""
    crest = np.array([morphology.crest(s.profile) for s in stamps])
    stamped = np.array([s.radius for s in stamps])
    radius = stamped * np.clip(crest, 0.9, 1.25)
    keep = 2 * radius * PIXEL / 1000 >= CATALOGUED_KM
    row, col = hits.row, hits.col
    keep &= (row > -0.5) & (row < plan.rows - 0.5) & (col > -0.5) & (col < plan.cols - 0.5)
    chosen = np.flatnonzero(keep)
    squash = np.array([stamps[i].squash for i in chosen])
    rho = np.array([0.0, 0.3, 0.5, 0.7, 1.0, 1.4])
    h = _rings(surface, row[chosen], col[chosen], radius[chosen], squash, rho)
    floor = np.median(h[:, :, :3], axis=(1, 2))
    rim = np.median(h[:, :, 4], axis=1)
    fresh = morphology.fresh_depth(hits.diameter[chosen])
    ratio = (rim - floor) / fresh
    # A crater is seen where its wall stands out all around: steeper than noise would show, and
    # steeper than the ground's own relief makes it vary. The eye completes large arcs.
    walls = (h[:, :, 4] - h[:, :, 2]) / (0.5 * radius[chosen, None] * PIXEL)
    wall = walls.mean(1)
    size = np.clip(np.log2(radius[chosen] / 5), 0, 2)
    visible = wall > np.tan(np.radians(4.0 - size))
    visible &= wall > (2.0 - 0.55 * size) * walls.std(1)
    visible &= (walls > 0.3 * wall[:, None]).mean(1) > 0.65 - 0.1 * size
    chosen, ratio = chosen[visible], ratio[visible]
    secondary = hits.secondary[chosen]
    layered = np.array([stamps[i].layers.size > 0 for i in chosen], bool)
    ghost = (hits.buried[chosen] > 0) | (ratio < 0.22)
    kind = np.select([secondary, ghost, layered], [SECONDARY, DEGRADED, LAYERED], OTHER)
    table = pd.DataFrame(
        {
            "row": row[chosen],
            "col": col[chosen],
            "radius": radius[chosen] * PIXEL,
            "type": kind.astype(int),
        }
    )
    # Some pits were taken for craters, as in every real catalogue.
    wrong = [p for p in pits if p.radius >= 4 and rng.random() < 0.1]
    inside = [p for p in wrong if 0 <= p.row < plan.rows and 0 <= p.col < plan.cols]
    if inside:
        extra = pd.DataFrame(
            {
                "row": [p.row for p in inside],
                "col": [p.col for p in inside],
                "radius": [p.radius * PIXEL for p in inside],
                "type": MISIDENTIFIED,
            }
        )
        table = pd.concat([table, extra], ignore_index=True)
    return table.sort_values("radius", ascending=False, kind="stable", ignore_index=True)


def _picture(rng: np.random.Generator, plan: Plan, surface: Surface) -> NDArray[np.uint8]:
    shape = (plan.rows, plan.cols)
    picture = np.zeros(shape, np.uint8)
    edges = [start for start, _ in plan.conditions] + [plan.cols]
    squash = plan.squash(plan.rows / 2)
    pad = 24
    for (start, name), end in zip(plan.conditions, edges[1:], strict=True):
        left, right = max(start - pad, 0), min(end + pad, plan.cols)
        part = Surface(
            *(
                np.ascontiguousarray(getattr(surface, key)[:, left:right])
                for key in ("height", "rock", "albedo", "texture")
            )
        )
        strips = imaging.Strips(rng, part.height.shape)
        scene = imaging.SCENES[name](rng, part, strips, squash)
        grey = imaging.stretched(rng, scene, strips, imaging.CONDITIONS[name])
        picture[:, start:end] = grey[:, start - left : end - left]
    return picture
