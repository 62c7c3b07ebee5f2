"""Simulated scenes: invented ground, its energy balance at 50 m, and two sensors that look at it.

A ground has relief, parcels, forest, towns and water. On a day, sun, air and soil moisture decide
with the vegetation how warm each pixel is: the surface energy balance is solved at 50 m. Moisture
follows the vegetation over kilometres but hardly from parcel to parcel, and the air takes over the
warmth of a landscape but not that of a field: so temperature follows NDVI with a slope that
shrinks from scale to scale, as measured on real scenes. That structure, not any real place, is
what is imitated; all of it is simulated data.

The sensors: the truth at 250 m is the flux aggregate with a little noise on a tilted swath; the
coarse one sees 1 km through a triangular response along its scan, is displaced by a part of a
pixel, noisy, biased, and blind below clouds.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from acdc import sensor
from acdc.random_field import rough
from acdc.tracks.lst.scenes import FACTOR, SIDE, Scene, write_npz

STEP = 50.0  # m
PIXEL = 1000.0
_FINE = int(PIXEL / FACTOR / STEP)
# for crop, forest, grass, town and water: albedo of the soil, of the canopy, aerodynamic resistance
# (s/m), and heat stored as a share of net radiation where nothing grows. The order of magnitude is
# that of textbooks (Monteith & Unsworth 2013); the rest was matched to slopes of real scenes
_SOIL_ALBEDO = np.array([0.20, 0.15, 0.20, 0.15, 0.06], np.float32)
_CANOPY_ALBEDO = np.array([0.21, 0.13, 0.20, 0.18, 0.06], np.float32)
_RESISTANCE = np.array([60.0, 38.0, 60.0, 45.0, 60.0], np.float32)
_STORAGE = np.array([0.20, 0.15, 0.20, 0.30, 0.75], np.float32)
_SIGMA = 5.670374e-8
_HEAT = 1200.0  # volumetric heat of air, J m-3 K-1
N_THREADS = 2
SIZES = {"tiny": (4, 4, 1, 32), "default": (16, 24, 1, SIDE), "large": (48, 48, 2, SIDE)}


@dataclass(frozen=True)
class Ground:
    """An invented piece of ground on a grid of 50 m.

    Attributes
    ----------
    elevation : ndarray (n, n)
        m.
    sunlit : ndarray (n, n)
        Slope towards the morning sun, -1..1.
    cover : ndarray of int (n, n)
        Index into crop, forest, grass, town, water.
    vigour, phase : ndarray (n, n)
        How much grows there at best (0..1), and when (0..1 of the season), parcel by parcel.
    brightness : ndarray (n, n)
        Albedo of the soil as a multiple of what is usual, parcel by parcel.
    wetness : ndarray (n, n)
        Water that the soil gets, standardised: structure of kilometres, and of parcels.
    """

    elevation: np.ndarray
    sunlit: np.ndarray
    cover: np.ndarray
    vigour: np.ndarray
    phase: np.ndarray
    brightness: np.ndarray
    wetness: np.ndarray


def simulate(path: Path, *, seed: int = 0, size: str = "default", progress: bool = True) -> Path:
    """Write simulated scenes in the layout of `scenes.read_npz`.

    Parameters
    ----------
    path : Path
        File to write.
    seed : int
        Other ground, same kind.
    size : str
        tiny, default or large.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The file.
    """
    n_train, n_test, n_days, side = SIZES[size]
    names = [f"train{i:02d}" for i in range(n_train)] + [f"test{i:02d}" for i in range(n_test)]
    streams = np.random.SeedSequence(seed).spawn(len(names))
    scenes: list[Scene] = []
    # numpy releases the lock in nearly all of this, so threads share the cores
    with ThreadPoolExecutor(N_THREADS) as threads:
        groups = threads.map(
            lambda name, stream: list(
                simulate_group(name, np.random.default_rng(stream), n_days, side)
            ),
            names,
            streams,
        )
        for group in tqdm(groups, total=len(names), desc="grounds", disable=not progress):
            scenes += group
    write_npz(Path(path), scenes)
    return Path(path)


def simulate_group(
    name: str, random: np.random.Generator, n_days: int = 1, side: int = SIDE
) -> Iterator[Scene]:
    """Simulate one piece of ground on several days.

    Parameters
    ----------
    name : str
        Of the group.
    random : numpy.random.Generator
    n_days : int
    side : int
        LST pixels along the side of a scene.
    """
    ground = make_ground(random, side * FACTOR * _FINE)
    for day in range(n_days):
        vegetation, temperature = make_day(ground, random)
        yield observe(f"{name}.{day}", name, vegetation, temperature, random)


def make_ground(random: np.random.Generator, n: int) -> Ground:
    """Invent a piece of ground of n x n pixels of 50 m."""
    relief = random.uniform(10, 120)
    shape = rough(random, n, 3.4, 30e3, STEP)
    elevation = relief * (shape - shape.min())
    north, east = np.gradient(elevation, STEP)
    sunlit = np.clip(-0.7 * east + 0.5 * north, -0.6, 0.6)
    woods, towns, wet = (
        rough(random, n, s, o, STEP) for s, o in ((3.0, 20e3), (2.8, 8e3), (3.2, 40e3))
    )
    parcel, second, third = _parcels(random, n, random.uniform(250, 700))
    cover = np.full((n, n), 0, dtype=np.int8)
    cover[parcel < random.uniform(0.1, 0.35)] = 2
    cover[woods + 0.5 * shape > random.uniform(0.2, 1.3)] = 1
    cover[towns + 0.3 * rough(random, n, 2.0, 1e3, STEP) > random.uniform(1.6, 2.2)] = 3
    cover[shape + 0.15 * towns < -random.uniform(2.5, 3.2)] = 4
    wetness = 0.7 * wet - 0.25 * shape + 0.6 * rough(random, n, 3.0, 12e3, STEP)
    vigour = 0.65 + 0.22 * wetness + 0.08 * rough(random, n, 2.0, 1e3, STEP) + 0.16 * (second - 0.5)
    # what a farmer did, or last night's shower, follows no vegetation
    wetness = wetness + 0.4 * rough(random, n, 2.0, 8e2, STEP) + 1.0 * (third - 0.5)
    vigour = np.clip(vigour, 0.05, 1)
    return Ground(elevation, sunlit, cover, vigour, parcel, 0.7 + 0.6 * third, wetness)


def _parcels(random: np.random.Generator, n: int, width: float) -> np.ndarray:
    """Three independent random numbers (0..1) per field of a bent and rotated field pattern."""
    angle, stretch = random.uniform(0, np.pi), random.uniform(1.2, 2.5)
    y, x = np.mgrid[:n, :n].astype(np.float32) * np.float32(STEP)
    bend = 0.5 * width * rough(random, n, 4.0, 4e3, STEP)
    along = np.floor((x * np.cos(angle) + y * np.sin(angle) + bend) / (width * stretch))
    # every row of fields starts elsewhere, so that corners do not meet in a lattice
    across = (y * np.cos(angle) - x * np.sin(angle) + bend) / width + 0.37 * along
    cell = along.astype(np.int64) * 7919 + np.floor(across).astype(np.int64)
    table = random.random((3, 65_521), dtype=np.float32)
    return table[:, cell % table.shape[1]]


def make_day(ground: Ground, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """NDVI and surface temperature (K) of a ground on a summer morning, both at 50 m."""
    season = random.uniform(0.35, 0.75)
    growing = np.clip(1.4 - 2.6 * np.abs(ground.phase - season), 0.25, 1)
    usual = np.array([1.0, 1.0, 0.75, 0.30, 0.0], np.float32)[ground.cover]
    seasonal = np.where(ground.cover == 0, growing, 1)
    canopy = np.clip(ground.vigour * usual * seasonal, 0, 0.97)
    drought = random.uniform(-0.4, 0.6)
    moisture = 1 / (1 + np.exp(-(1.1 * ground.wetness - drought)))
    sun = random.uniform(700, 880) * (0.9 + 0.3 * ground.sunlit)
    n = len(canopy)
    air = random.uniform(291, 301) - 0.0065 * ground.elevation
    air = air + 0.5 * rough(random, n, 4.0, 40e3, STEP)
    temperature = surface_temperature(ground, canopy, moisture, sun, air)
    # the mixed layer takes over what kilometres of warm ground give it; a field's warmth blows away
    excess = ndimage.zoom(
        ndimage.gaussian_filter(sensor.aggregate(temperature - air, 10), 1.6),
        10,
        order=1,
        grid_mode=True,
        mode="nearest",
    )
    air = air + 0.7 * (excess - excess.mean())
    temperature = surface_temperature(ground, canopy, moisture, sun, air)
    ndvi = 0.06 + 0.86 * np.sqrt(canopy)
    return np.where(ground.cover == 4, -0.05, ndvi), temperature


def surface_temperature(
    ground: Ground,
    canopy: np.ndarray,
    moisture: np.ndarray,
    sun: np.ndarray,
    air: np.ndarray,
) -> np.ndarray:
    """Solve net radiation = heat into the ground + warm air + evaporation for the temperature, K.

    Parameters
    ----------
    ground : Ground
        Its cover and the brightness of its soil count.
    canopy : ndarray
        Share of the ground that leaves cover, 0..1.
    moisture : ndarray
        Share of the evaporation that water allows, 0..1.
    sun : ndarray
        Shortwave radiation on the slope, W m-2.
    air : ndarray
        Air temperature, K.
    """
    cover, bare = ground.cover, 1 - canopy
    albedo = bare * ground.brightness * _SOIL_ALBEDO[cover] + canopy * _CANOPY_ALBEDO[cover]
    emissivity = 0.96 + 0.025 * canopy
    kept = 1 - _STORAGE[cover] * bare - 0.03
    # roots reach water that a dry surface has not; open water evaporates freely
    wet = np.where(cover == 4, 1.0, canopy * (0.55 + 0.45 * moisture) + bare * 0.4 * moisture)
    slope = 0.145 * np.exp(0.0585 * (air - 293.15))  # of saturation pressure, kPa / K
    latent = 1 - np.clip(1.26 * wet * slope / (slope + 0.066), 0, 0.95)
    sky = 0.80 * _SIGMA * np.square(np.square(air))
    warm = _HEAT / _RESISTANCE[cover]
    income = (1 - albedo) * sun + emissivity * sky
    temperature = air.astype(np.float32)
    for _ in range(2):
        loss = emissivity * _SIGMA * np.square(np.square(temperature))
        excess = kept * latent * (income - loss) - warm * (temperature - air)
        temperature = temperature + excess / (warm + 4 * kept * latent * loss / temperature)
    return np.asarray(temperature, dtype=np.float32)


def observe(
    name: str,
    group: str,
    vegetation: np.ndarray,
    temperature: np.ndarray,
    random: np.random.Generator,
) -> Scene:
    """Let the sensors look at NDVI and temperature (50 m): 250 m NDVI and truth, 1 km LST."""
    fine = sensor.aggregate_flux(temperature, _FINE)
    n = len(fine)
    reference = fine + random.normal(0, 0.3, fine.shape)
    reference[~_swath(random, n)] = np.nan
    ndvi = ndimage.gaussian_filter(sensor.aggregate(vegetation, _FINE), (0.3, 0.4))
    ndvi = np.clip(ndvi + random.normal(0, 0.03, ndvi.shape), -0.2, 0.98)
    ndvi[random.random(ndvi.shape) < 0.0005] = np.nan
    shift = random.normal(0, 0.7, 2)
    flux = ndimage.shift(np.square(np.square(fine)), shift, order=1, mode="nearest")
    lst = np.sqrt(np.sqrt(_scan(flux)))
    lst += random.normal(0, 0.5, lst.shape) + random.uniform(-2, 4)
    tilt = np.linspace(-1, 1, len(lst))
    lst += random.normal(0, 0.4) * tilt + random.normal(0, 0.4) * tilt[:, None]
    lst[_clouds(random, len(lst))] = np.nan
    return Scene(name, group, lst, ndvi, reference, PIXEL)


def _scan(flux: np.ndarray) -> np.ndarray:
    """Average over lines, and along the scan with a triangle twice as wide as a pixel."""
    lines = flux.reshape(-1, FACTOR, flux.shape[1]).mean(axis=1)
    half = FACTOR // 2
    padded = np.pad(lines, ((0, 0), (half, half)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * FACTOR, axis=1)[:, ::FACTOR]
    triangle = FACTOR - np.abs(np.arange(2 * FACTOR) - FACTOR + 0.5)
    return np.asarray(windows @ (triangle / triangle.sum()))


def _swath(random: np.random.Generator, n: int) -> np.ndarray:
    angle = np.deg2rad(random.uniform(6, 14))
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    return np.abs(x * np.cos(angle) + y * np.sin(angle)) < 0.52 * n


def _clouds(random: np.random.Generator, n: int) -> np.ndarray:
    clouds = ndimage.gaussian_filter(random.standard_normal((n, n)), 2.5, mode="wrap")
    share = random.choice([0.0, 0.0, 0.02, 0.05])
    return np.asarray(clouds > np.quantile(clouds, 1 - share)) if share else np.zeros((n, n), bool)
