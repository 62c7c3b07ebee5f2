"""Ground before the impacts: fractal relief of several terrains, and forms that are no craters.

Sources: Martian relief is self-affine below some 10 km (Aharonson et al. 2001, JGR 106, 23723;
Orosei et al. 2003, JGR 108, 8023; Landais et al. 2015, NPG 22, 713) with Hurst exponents
around 0.6 to 0.9 and median slopes at 0.3 to 0.6 km from 0.2 degrees (northern plains) to 2 or 3
degrees (southern highlands; Kreslavsky & Head 2000, JGR 105, 26695). Wrinkle ridges: some 100 m
high and a few km wide (Watters 1993, JGR 98, 17049). Channels: Carr 2006, The Surface of Mars.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

PIXEL = 100.0
"""Side of a mosaic pixel on the ground at the equator, in metres."""

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Terrain:
    """What the ground of a geologic unit is like.

    Attributes
    ----------
    hurst : float
        Hurst exponent of the relief.
    slope : float
        Root-mean-square slope at 100 m, degrees.
    ages : tuple of float
        Youngest and oldest model age, Ga.
    basement : float
        Age of the ground that the unit buried, Ga; 0 none.
    patchiness : float
        How much roughness varies from place to place (standard deviation of its logarithm).
    ridges, channels, mesas, flows, dunes, massifs, pits : float
        How strongly these forms show, 0 none to 1 typical.
    """

    hurst: float
    slope: float
    ages: tuple[float, float]
    basement: float
    patchiness: float
    ridges: float = 0.0
    channels: float = 0.0
    mesas: float = 0.0
    flows: float = 0.0
    dunes: float = 0.0
    massifs: float = 0.0
    pits: float = 0.0


TERRAINS: dict[str, Terrain] = {
    "smooth plains": Terrain(0.85, 0.8, (2.8, 3.55), 3.85, 0.5, flows=0.4, pits=0.3),
    "ridged plains": Terrain(0.85, 1.2, (3.4, 3.7), 3.85, 0.5, ridges=1.0, flows=0.3),
    "lava plains": Terrain(0.8, 1.4, (2.2, 3.45), 3.75, 0.5, flows=1.0, pits=0.6),
    "cratered highlands": Terrain(0.9, 2.4, (3.75, 3.9), 0.0, 0.6, channels=0.5, massifs=1.0),
    "channelled highlands": Terrain(
        0.9, 2.1, (3.7, 3.88), 0.0, 0.6, channels=1.0, ridges=0.3, massifs=0.6
    ),
    "intercrater plains": Terrain(0.85, 1.2, (3.7, 3.85), 3.95, 0.6, ridges=0.4, massifs=0.3),
    "knobby plains": Terrain(0.85, 1.4, (3.4, 3.68), 3.85, 0.6, mesas=1.0, massifs=0.4),
    "lineated plains": Terrain(0.8, 1.3, (3.0, 3.6), 3.8, 0.6, dunes=1.0),
}


def wavenumbers(shape: tuple[int, int]) -> tuple[Field, Field]:
    """Row and column wavenumbers of a real FFT, in cycles per pixel."""
    rows = scipy.fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    cols = scipy.fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    return rows, cols


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    hurst: float,
    longest: float,
    shortest: float = 0.0,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Field:
    """Self-affine Gaussian noise of unit variance, by filtering in the frequency domain.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        Rows and columns.
    hurst : float
        Hurst exponent H; the power spectrum falls as k^-(2 H + 2).
    longest, shortest : float
        Wavelengths in pixels beyond which the spectrum is flat, and below which it is cut.
    stretch, angle : float
        Forms are ``stretch`` times as long along the direction ``angle`` (radians from the
        columns' direction towards the rows') as across.

    Returns
    -------
    ndarray of float32, shape ``shape``
        The field; not periodic within the shape.
    """
    margin = int(min(longest, max(shape)) / 2)
    full = tuple(scipy.fft.next_fast_len(n + margin, real=True) for n in shape)
    spectrum = scipy.fft.rfft2(rng.standard_normal(full, dtype=np.float32))
    rows, cols = wavenumbers((full[0], full[1]))
    if stretch == 1.0:
        k2 = rows**2 + cols**2
    else:
        along = cols * np.cos(angle) + rows * np.sin(angle)
        across = rows * np.cos(angle) - cols * np.sin(angle)
        k2 = (along * np.float32(stretch)) ** 2 + across**2
    gain = (k2 + np.float32(longest**-2.0)) ** np.float32(-(hurst + 1) / 2)
    if shortest > 0:
        gain *= np.exp(-k2 * np.float32(shortest**2))
    spectrum *= gain
    spectrum[0, 0] = 0
    field = scipy.fft.irfft2(spectrum, s=full)[: shape[0], : shape[1]]
    field = np.ascontiguousarray(field, np.float32)
    field /= field.std()
    return field


def variation(rng: np.random.Generator, shape: tuple[int, int], longest: float) -> Field:
    """Smooth field of unit variance that says where forms are strong: made on a coarse grid.

    Linear interpolation leaves creases, so this is for weights, never for heights.
    """
    coarse = noise(
        rng, (shape[0] // 4 + 2, shape[1] // 4 + 2), hurst=1.0, longest=longest / 4, shortest=3
    )
    field = ndimage.zoom(coarse, 4, order=1, mode="nearest", grid_mode=True)
    return np.ascontiguousarray(field[: shape[0], : shape[1]], np.float32)


def gradient(field: Field) -> tuple[Field, Field]:
    """Derivatives along rows and columns, per pixel."""
    down, right = (np.asarray(part, np.float32) for part in np.gradient(field))
    return down, right


def scaled_to_slope(field: Field, degrees: float) -> Field:
    """Field in metres whose root-mean-square slope over one pixel is as given."""
    rise = np.sqrt((np.diff(field, axis=1) ** 2).mean())
    scaled: Field = field * np.float32(np.tan(np.radians(degrees)) * PIXEL / rise)
    return scaled


def lines(field: Field) -> Field:
    """Distance in pixels from the nearest zero line of a smooth field (near the line)."""
    down, right = gradient(field)
    distance: Field = np.abs(field) / np.sqrt(down**2 + right**2 + np.float32(1e-8))
    return distance


def smoothstep(x: Field) -> Field:
    """Rise from 0 at 0 to 1 at 1 with a smooth start and end."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def ground(rng: np.random.Generator, shape: tuple[int, int], terrain: Terrain) -> Field:
    """Relief of one unit before the impacts that date it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        Rows and columns.
    terrain : Terrain
        The recipe.

    Returns
    -------
    ndarray of float32
        Height in metres.
    """
    base = noise(rng, shape, hurst=terrain.hurst, longest=500)
    patches = variation(rng, shape, 400)
    height = scaled_to_slope(base * np.exp(np.float32(terrain.patchiness) * patches), terrain.slope)
    if terrain.flows:
        height += terrain.flows * _flows(rng, shape)
    if terrain.ridges:
        height += terrain.ridges * _ridges(rng, shape)
    if terrain.channels:
        height -= terrain.channels * _channels(rng, shape, patches)
    if terrain.mesas:
        height += terrain.mesas * _mesas(rng, shape, patches)
    if terrain.massifs:
        height += terrain.massifs * _massifs(rng, shape)
    if terrain.dunes:
        height += terrain.dunes * _dunes(rng, shape, patches)
    return height


def _flows(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Lobate flow fronts: a smooth field cut into steps, each some 10 to 30 m high."""
    angle = rng.uniform(0, np.pi)
    field = noise(
        rng,
        shape,
        hurst=0.9,
        longest=400,
        shortest=2,
        stretch=rng.uniform(1.5, 4),
        angle=angle,
    )
    levels = field * np.float32(rng.uniform(0.7, 1.6))
    steps = np.floor(levels)
    stairs: Field = (steps + smoothstep((levels - steps) * 6)) * np.float32(rng.uniform(15, 35))
    return stairs


def _ridges(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Wrinkle ridges: sinuous, roughly parallel, broken, steeper on one side."""
    angle = rng.uniform(0, np.pi)
    total = np.zeros(shape, np.float32)
    for _ in range(2):
        field = noise(rng, shape, hurst=0.8, longest=120, shortest=3, stretch=4, angle=angle)
        distance = lines(field)
        where = smoothstep(variation(rng, shape, 200) + 0.3)
        broad = np.exp(-((distance / np.float32(rng.uniform(8, 14))) ** 2))
        crest = np.exp(-((distance / np.float32(rng.uniform(1.2, 2.5))) ** 2))
        total += where * (np.float32(50) * broad + np.float32(45) * crest)
    return total


def _channels(rng: np.random.Generator, shape: tuple[int, int], patches: Field) -> Field:
    """Depth of sinuous valleys of constant width and of a few straight grabens."""
    total = np.zeros(shape, np.float32)
    for width, depth, stretch in ((3.5, 70.0, 2.0), (1.6, 35.0, 1.3)):
        field = noise(
            rng,
            shape,
            hurst=0.8,
            longest=260 if width > 2 else 110,
            shortest=4,
            stretch=stretch,
            angle=rng.uniform(0, np.pi),
        )
        where = smoothstep(patches * 1.5)
        distance = lines(field)
        total += where * np.float32(depth) * np.exp(-((distance / np.float32(width)) ** 4))
    field = noise(
        rng,
        shape,
        hurst=1.0,
        longest=400,
        shortest=8,
        stretch=12,
        angle=rng.uniform(0, np.pi),
    )
    where = smoothstep(variation(rng, shape, 300) * 2 - 1)
    graben = np.exp(-((lines(field) / np.float32(2.5)) ** 6))
    total += where * np.float32(60) * graben
    return total


def _mesas(rng: np.random.Generator, shape: tuple[int, int], patches: Field) -> Field:
    """Knobs and mesas: round-topped hills 50 to 300 m high, in clusters."""
    field = noise(rng, shape, hurst=0.9, longest=22, shortest=4)
    height = smoothstep(((field + 0.7 * patches - 1.7) * 1.1).astype(np.float32))
    variety = 1 + 0.5 * variation(rng, shape, 80)
    hills: Field = np.float32(220) * height * np.clip(variety, 0.2, 2)
    return hills


def _massifs(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """Old mountains and plateau edges: sharp crests, gullied slopes, up to some 500 m high."""
    where = variation(rng, shape, 250)
    crests = 1 - np.abs(noise(rng, shape, hurst=0.9, longest=90, shortest=2.5))
    mountains = smoothstep((where - 0.9) * 1.2) * (240 + 240 * crests)
    plateau = noise(rng, shape, hurst=1.0, longest=350, shortest=5)
    edge: Field = mountains + np.float32(rng.uniform(60, 220)) * smoothstep(plateau * 3 + 1)
    return edge


def _dunes(rng: np.random.Generator, shape: tuple[int, int], patches: Field) -> Field:
    """Dunes or yardangs: short parallel forms, some 10 to 30 m high."""
    field = noise(
        rng,
        shape,
        hurst=0.3,
        longest=12,
        shortest=2,
        stretch=5,
        angle=rng.uniform(0, np.pi),
    )
    forms: Field = np.float32(6) * field * smoothstep(patches - 0.2)
    return forms


def pits(rng: np.random.Generator, shape: tuple[int, int], count: int) -> NDArray[np.float64]:
    """Collapse pits in chains: depressions without a rim.

    Returns
    -------
    ndarray, shape (n, 3)
        Row, column and radius in pixels.
    """
    found = []
    for _ in range(count):
        row, col = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        direction = rng.uniform(0, 2 * np.pi)
        size = rng.uniform(2.0, 6.0)
        for _ in range(int(rng.integers(1, 8))):
            found.append((row, col, size * rng.uniform(0.6, 1.3)))
            row += 2.3 * size * np.sin(direction)
            col += 2.3 * size * np.cos(direction)
            direction += rng.normal(0, 0.15)
    return np.array(found, float).reshape(-1, 3)
