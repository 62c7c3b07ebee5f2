"""Who hit where and when: primary craters and their secondaries.

Sources: production function and chronology as in :mod:`acdc.metrics.size_frequency` (Ivanov
2001; Hartmann & Neukum 2001). Secondaries: the largest near 4 to 5 % of the primary's diameter,
a steep size distribution, clusters and radial chains from about two radii outwards (Melosh 1989,
Impact Cratering, ch. 6; McEwen & Bierhaus 2006, Annu. Rev. Earth Planet. Sci. 34, 535; Robbins &
Hynek 2011, JGR 116, E10003 for Mars).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acdc.metrics.size_frequency import HARTMANN_NEUKUM_2001, IVANOV_2001

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Impact:
    """One crater to be: see :class:`Impacts`."""

    row: float
    col: float
    diameter: float
    age: float
    buried: float
    secondary: bool
    azimuth: float


@dataclass(frozen=True)
class Impacts:
    """Craters to be, as arrays of one length.

    Attributes
    ----------
    row, col : ndarray of float
        Pixels; (0, 0) is the centre of the upper left one.
    diameter : ndarray of float
        Kilometres.
    age : ndarray of float
        Ga.
    buried : ndarray of float
        Thickness of what covers it, metres; 0 not buried.
    secondary : ndarray of bool
        Whether ejecta made it.
    azimuth : ndarray of float
        Direction from the primary, radians from columns towards rows.
    """

    row: Floats
    col: Floats
    diameter: Floats
    age: Floats
    buried: Floats
    secondary: NDArray[np.bool_]
    azimuth: Floats

    @classmethod
    def of(
        cls,
        row: Floats,
        col: Floats,
        diameter: Floats,
        age: Floats,
        *,
        buried: float = 0.0,
        secondary: bool = False,
        azimuth: Floats | None = None,
    ) -> Impacts:
        """Impacts that share their kind."""
        n = diameter.size
        along = np.zeros(n) if azimuth is None else azimuth
        return cls(row, col, diameter, age, np.full(n, buried), np.full(n, secondary), along)

    @classmethod
    def joined(cls, parts: Sequence[Impacts]) -> Impacts:
        """All impacts of several sets, in their order."""
        names = [f.name for f in fields(cls)]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def __len__(self) -> int:
        return self.diameter.size

    def __getitem__(self, index: NDArray[Any]) -> Impacts:
        return Impacts(*(getattr(self, f.name)[index] for f in fields(self)))

    def each(self) -> Iterator[Impact]:
        """One impact after the other."""
        columns = (getattr(self, f.name).tolist() for f in fields(self))
        return (Impact(*values) for values in zip(*columns, strict=True))


def density(diameter: ArrayLike, age: float) -> Floats:
    """Craters per km2 at least as large as a diameter (km) on ground of an age (Ga)."""
    shape: Floats = IVANOV_2001.cumulative(diameter) * HARTMANN_NEUKUM_2001.density(age)
    return shape


def primaries(
    rng: np.random.Generator,
    area: float,
    age: float,
    *,
    smallest: float,
    largest: float,
    since: float = 0.0,
) -> tuple[Floats, Floats]:
    """Diameters and ages of the primary craters of a piece of ground.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    area : float
        Area in km2.
    age : float
        Time over which craters gather: from ``age`` to ``since``, Ga ago.
    smallest, largest : float
        Range of diameters, km.
    since : float
        End of the gathering, Ga ago; 0 is today.

    Returns
    -------
    diameter, age : ndarray, shape (n,)
        Kilometres and Ga; n is Poisson distributed around what the production function gives.
    """
    grid = np.geomspace(smallest, largest, 2000)
    above = density(grid, age) - (density(grid, since) if since else 0.0)
    count = int(rng.poisson(area * (above[0] - above[-1])))
    share = (above[0] - above) / (above[0] - above[-1])
    diameter = np.exp(np.interp(rng.random(count), share, np.log(grid)))
    times = np.linspace(since, age, 2000)
    gathered = HARTMANN_NEUKUM_2001.density(times)
    gathered = (gathered - gathered[0]) / (gathered[-1] - gathered[0])
    when = np.interp(rng.random(count), gathered, times)
    return diameter, when


def secondaries(
    rng: np.random.Generator, diameter: float, *, smallest: float, most: int = 1200
) -> tuple[Floats, Floats, Floats, Floats]:
    """Secondary craters of one primary, in clusters and in chains that point to it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    diameter : float
        The primary's diameter, km.
    smallest : float
        Smallest secondary, km.
    most : int
        At most so many; the largest ones are kept.

    Returns
    -------
    y, x : ndarray, shape (n,)
        Position relative to the primary's centre, km, y downwards.
    diameter : ndarray, shape (n,)
        Diameters, km.
    azimuth : ndarray, shape (n,)
        Direction from the primary, radians from x towards y: they are elongated along it.
    """
    largest = 0.045 * diameter * rng.lognormal(0, 0.1)
    slope = 3.8
    if largest <= smallest:
        empty = np.zeros(0)
        return empty, empty, empty, empty
    count = int(rng.poisson((largest / smallest) ** slope - 1))
    sizes = smallest * (1 - rng.random(count) * (1 - (largest / smallest) ** -slope)) ** (
        -1 / slope
    )
    sizes = -np.sort(-sizes)[:most]
    rays = rng.uniform(0, 2 * np.pi, int(rng.integers(5, 12)))
    y, x, azimuth = np.zeros((3, sizes.size))
    order = rng.permutation(sizes.size)
    start = 0
    while start < sizes.size:
        members = order[start : start + int(rng.integers(3, 14))]
        start += members.size
        ray = rng.choice(rays) + rng.normal(0, 0.12)
        distance = diameter / 2 * (2.0 + rng.exponential(1.5))
        typical = sizes[members].mean()
        if rng.random() < 0.5:
            along = np.cumsum(rng.uniform(1.0, 2.2, members.size)) * typical
            across = rng.normal(0, 0.25 * typical, members.size)
        else:
            along, across = rng.normal(0, 3.5 * typical, (2, members.size))
        r = np.maximum(distance + along, 0.9 * diameter)
        y[members] = r * np.sin(ray) + across * np.cos(ray)
        x[members] = r * np.cos(ray) - across * np.sin(ray)
        azimuth[members] = ray
    return y, x, sizes, azimuth
