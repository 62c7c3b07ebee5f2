"""What a camera makes of the ground: daytime and night-time thermal infrared, visible light.

Sources: surface temperature follows the absorbed sunlight of the last hours, so slopes towards
the afternoon sun are warm by day, and thermal inertia by night: rock stays warm, dust is cold
(Kieffer et al. 1977, JGR 82, 4249; Christensen et al. 2004, Space Sci. Rev. 110, 85, THEMIS;
Fergason et al. 2006, JGR 111, E12004). Visible: lunar-Lambert photometry (McEwen 1991, Icarus
92, 298). Swaths of 320 pixels, line-correlated noise and the mosaic's local contrast stretch:
Edwards et al. 2011, JGR 116, E10008.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .emplacement import Surface
from .relief import PIXEL, Field, gradient


@dataclass(frozen=True)
class Condition:
    """How a piece of ground was imaged.

    Attributes
    ----------
    sensor : str
        ``infrared`` (thermal) or ``visible``.
    light : str
        ``day`` or ``night``.
    blur : float
        Standard deviation of the point-spread function, pixels.
    grain : float
        Standard deviation of the noise, grey levels after the stretch.
    """

    sensor: str
    light: str
    blur: float
    grain: float


WAVELENGTH = 12.57
"""Wavelength of the infrared mosaics, micrometres (THEMIS band 9)."""

CONDITIONS: dict[str, Condition] = {
    "day infrared": Condition("infrared", "day", 1.05, 2.8),
    "night infrared": Condition("infrared", "night", 1.0, 3.5),
    "visible": Condition("visible", "day", 0.5, 1.5),
}

SWATH = 320
"""Width of an image strip in pixels (THEMIS infrared: 320 detectors of 100 m)."""


class Strips:
    """Image strips that cross a quadrangle, each with its own sun, level and gain.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        Rows and columns.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int]) -> None:
        self.tilt = np.tan(np.radians(rng.uniform(4, 9)))
        self.offset = rng.uniform(0, SWATH)
        span = shape[1] + shape[0] * self.tilt + 2 * SWATH
        self.count = int(span / SWATH) + 2
        self.feather = 14
        self._across = (
            np.arange(shape[1])[None, :] + np.arange(shape[0])[:, None] * self.tilt + self.offset
        ).astype(np.int32)

    def spread(self, values: np.ndarray) -> Field:
        """Value of the strip at every pixel, blended over a few pixels at the seams."""
        position = np.arange(self.count * SWATH)
        strip = position // SWATH
        table = values[strip].astype(np.float32)
        table = ndimage.uniform_filter1d(table, self.feather, mode="nearest")
        return table[self._across]

    def texture(self, rng: np.random.Generator, amplitude: float) -> Field:
        """Noise that is constant along a scan line of a strip, or along a detector's track."""
        rows = self._across.shape[0]
        lines = rng.normal(0, amplitude, (self.count, rows)).astype(np.float32)
        tracks = rng.normal(0, 0.5 * amplitude, self.count * SWATH).astype(np.float32)
        tracks = ndimage.uniform_filter1d(tracks, 3)
        stripes: Field = lines[self._across // SWATH, np.arange(rows)[:, None]]
        return stripes + tracks[self._across]


def _sun(azimuth: np.ndarray, incidence: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """East, north and up components of the direction to the sun; degrees, from north eastwards."""
    a, i = np.radians(azimuth), np.radians(incidence)
    return np.sin(i) * np.sin(a), np.sin(i) * np.cos(a), np.cos(i)


def radiance(temperature: Field) -> Field:
    """Planck radiance at 12.57 micrometres relative to that of 220 K.

    Between 180 and 260 K it grows with the fifth power of the temperature: warm slopes stand out
    more than cold ones.
    """
    x = np.float32(14387.8 / WAVELENGTH)
    relative: Field = np.float32(np.expm1(x / 220)) / np.expm1(x / temperature)
    return relative


def slopes(height: Field, squash: float) -> tuple[Field, Field]:
    """Rise towards east and towards north, metres per metre."""
    down, right = gradient(height)
    return right / np.float32(PIXEL * squash), down / np.float32(-PIXEL)


def day_infrared(
    rng: np.random.Generator, surface: Surface, strips: Strips, squash: float
) -> Field:
    """Daytime radiance in band 9 relative to that of flat, average ground."""
    n = strips.count
    # Afternoon orbit: the sun stands in the west, farther north or south with the season.
    azimuth = 270 + rng.normal(0, 6) + rng.normal(0, 14, n)
    east, north, up = _sun(azimuth, np.clip(rng.normal(66, 4, n), 55, 76))
    rise_east, rise_north = slopes(surface.height, squash)
    norm = 1 / np.sqrt(1 + rise_east**2 + rise_north**2)
    cosine = (
        strips.spread(up) - rise_east * strips.spread(east) - rise_north * strips.spread(north)
    ) * norm
    # The ground remembers the last hours and sees the sky: shade is never quite cold.
    flat = strips.spread(up)
    cosine = 0.85 * np.maximum(cosine, 0) + 0.15 * flat
    albedo = 0.22 + 0.03 * surface.albedo
    scale = np.float32(1 / (0.96 * 5.67e-8))
    temperature = ((1 - albedo) * np.float32(590) * cosine + 45) * scale
    temperature = temperature ** np.float32(0.25) - 2.0 * surface.rock
    level = ((1 - 0.22) * np.float32(590) * flat + 45) * scale
    # A mosaic brings its strips to one level.
    scene: Field = radiance(temperature) / radiance(level ** np.float32(0.25))
    return scene


def night_infrared(
    rng: np.random.Generator, surface: Surface, strips: Strips, squash: float
) -> Field:
    """Night-time radiance in band 9, relative to that at 220 K."""
    rise_east, rise_north = slopes(surface.height, squash)
    # Before dawn the slopes that had the afternoon sun are still a little warmer; steep ground is
    # bare rock, and hollows see warm walls instead of the sky.
    steep = np.sqrt(rise_east**2 + rise_north**2)
    bare = np.clip((steep - 0.1) / 0.35, 0, 1)
    level = blurred(surface.height, 6)
    hollow = np.clip((level - surface.height) / 60, -1, 1)
    warm = 188 + 5 * surface.rock + 10 * bare + 2.5 * hollow + 5 * rise_east
    return radiance(warm - 1.5 * surface.albedo)


def visible(rng: np.random.Generator, surface: Surface, strips: Strips, squash: float) -> Field:
    """Reflectance in visible light, with cast shadows."""
    n = strips.count
    azimuth = 280 + rng.normal(0, 12) + rng.normal(0, 6, n)
    incidence = np.clip(rng.normal(60, 5, n), 45, 72)
    east, north, up = _sun(azimuth, incidence)
    rise_east, rise_north = slopes(surface.height, squash)
    norm = 1 / np.sqrt(1 + rise_east**2 + rise_north**2)
    mu0 = np.maximum(
        (strips.spread(up) - rise_east * strips.spread(east) - rise_north * strips.spread(north))
        * norm,
        0,
    )
    mu = norm
    limb = np.float32(0.55)
    bright = limb * 2 * mu0 / (mu0 + mu) + (1 - limb) * mu0
    bright *= 1 - 0.85 * shadow(surface.height, squash, float(azimuth.mean()), incidence.mean())
    flat = strips.spread(limb * 2 * up / (up + 1) + (1 - limb) * up)
    reflectance: Field = bright / flat * (0.2 + 0.025 * np.tanh(0.7 * surface.albedo))
    return reflectance


def shadow(height: Field, squash: float, azimuth: float, incidence: float) -> Field:
    """Share of shade: what lies below the sun's rays from the west (the sky is sheared level)."""
    rows, cols = height.shape
    drift = 1 / np.tan(np.radians(azimuth - 180))  # rows upwards per column westwards
    shift = np.rint(np.arange(cols) * drift).astype(int)
    index = (np.arange(rows)[:, None] + shift[None, :]) % rows
    sheared = height[index, np.arange(cols)[None, :]]
    step = PIXEL * squash * np.hypot(1, drift) / np.tan(np.radians(incidence))
    ray = sheared + (np.arange(cols) * step).astype(np.float32)[None, :]
    depth = np.maximum.accumulate(ray, axis=1) - ray
    shade = np.empty_like(height)
    shade[index, np.arange(cols)[None, :]] = np.clip(depth / 15, 0, 1)
    return ndimage.gaussian_filter(shade, 0.7)


SCENES = {
    "day infrared": day_infrared,
    "night infrared": night_infrared,
    "visible": visible,
}


def blurred(field: Field, sigma: float) -> Field:
    """Field seen through a Gaussian point-spread function."""
    if sigma < 4:
        seen: Field = ndimage.gaussian_filter(field, sigma, mode="nearest")
        return seen
    # Wide kernels on a coarse grid: the same to a grain of noise, and fast.
    k = int(sigma // 3)
    rows, cols = (-(-n // k) * k for n in field.shape)
    padded = np.pad(field, ((0, rows - field.shape[0]), (0, cols - field.shape[1])), mode="edge")
    coarse = padded.reshape(rows // k, k, cols // k, k).mean((1, 3))
    coarse = ndimage.gaussian_filter(coarse, sigma / k, mode="nearest")
    fine = ndimage.zoom(coarse, k, order=1, mode="nearest", grid_mode=True)
    return fine[: field.shape[0], : field.shape[1]]


def stretched(
    rng: np.random.Generator, scene: Field, strips: Strips, condition: Condition
) -> np.ndarray:
    """Eight-bit picture as a mosaic holds it: local contrast stretch, seams, noise; no zeros.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    scene : ndarray of float32
        Temperature or reflectance.
    strips : Strips
        The image strips.
    condition : Condition
        Camera.

    Returns
    -------
    ndarray of uint8
        Grey levels 1 to 255; 0 is kept for missing data.
    """
    seen = blurred(scene, condition.blur)
    detail = seen - blurred(seen, 200)
    # Mosaics stretch every neighbourhood partly to the same contrast.
    local = np.sqrt(blurred(detail**2, 200))
    typical = float(np.sqrt((local**2).mean()))
    detail *= 42 / (typical**0.5 * np.sqrt(local) + np.float32(0.25 * typical))
    gain = strips.spread(rng.lognormal(0, 0.08, strips.count))
    level = strips.spread(rng.normal(0, 3.0, strips.count))
    grey = 125 + gain * detail + level
    grey += rng.standard_normal(grey.shape, dtype=np.float32) * np.float32(condition.grain)
    grey += strips.texture(rng, 0.3 * condition.grain)
    return np.clip(np.rint(grey), 1, 255).astype(np.uint8)
