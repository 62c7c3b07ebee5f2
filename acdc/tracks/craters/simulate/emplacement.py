"""Laying craters into the relief, oldest first.

A crater replaces the ground inside its rim, adds its ejecta outside and softens what the ejecta
cover, so young cuts old. Positions are pixels with (0, 0) at the centre of the upper left one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from . import morphology
from .morphology import RHO, STEP
from .relief import Field

DIRECTIONS = 1024
"""Samples around a crater."""


def _none() -> Field:
    return np.zeros(0, np.float32)


@dataclass
class Surface:
    """The ground of a quadrangle while it is being hit.

    Attributes
    ----------
    height : ndarray of float32
        Metres.
    rock : ndarray of float32
        Thermal inertia above (rocky) or below (dusty) the average, roughly -1 to 1.
    albedo : ndarray of float32
        Brightness above or below the average, roughly -1 to 1.
    texture : ndarray of float32
        Noise of unit variance that roughens walls and ejecta.
    """

    height: Field
    rock: Field
    albedo: Field
    texture: Field


@dataclass
class Stamp:
    """One crater ready to be laid into the ground.

    Attributes
    ----------
    row, col, radius : float
        Pixels; the radius counts along the rows' direction (the meridian).
    profile : ndarray, shape (128,)
        Height over :data:`acdc.tracks.craters.simulate.morphology.RHO`, metres.
    squash : float
        Width of a pixel on the ground relative to its height (cosine of the latitude).
    reset : float
        How completely the ground inside is replaced, 0 to 1.
    freshness : float
        How rocky and bright its deposits still are, 0 to 1.
    outline : ndarray, shape (1024,)
        Relative deviation of the rim from a circle over the direction; empty: a circle. Without
        mean and first harmonic, so that centre and radius stay what they are.
    gullies : ndarray, shape (1024,)
        Height in metres over the direction that is added to walls and upper flank; empty: none.
    breach : ndarray, shape (1024,)
        Factor on what stands above the ground, over the direction (worn or buried rims are
        uneven); empty: 1.
    elongation, azimuth : float
        Ratio of the axes, at least 1, and direction of the long one (radians, x towards y).
    roughness : float
        Height of the texture on walls and ejecta, metres.
    layers : ndarray, shape (k, 2)
        Outer edge (radii) and thickness (metres) of layered ejecta; empty: none.
    lobes : ndarray, shape (1024,)
        Relative deviation of the layers' edge from a circle over the direction.
    """

    row: float
    col: float
    radius: float
    profile: NDArray[np.float64]
    squash: float = 1.0
    reset: float = 1.0
    freshness: float = 0.0
    outline: Field = field(default_factory=_none)
    gullies: Field = field(default_factory=_none)
    breach: Field = field(default_factory=_none)
    elongation: float = 1.0
    azimuth: float = 0.0
    roughness: float = 0.0
    layers: Field = field(default_factory=_none)
    lobes: Field = field(default_factory=_none)

    @property
    def irregular(self) -> bool:
        """Whether anything about it depends on the direction."""
        parts = (self.outline, self.gullies, self.breach, self.layers)
        return any(part.size for part in parts)

    @property
    def deposits(self) -> bool:
        """Whether it is fresh and large enough to show rocky, bright deposits."""
        return self.freshness > 0.2 and self.radius >= 2


def _finer(profile: NDArray[np.float64], radius: float) -> tuple[NDArray, NDArray]:
    """Profile sampled at least once a pixel: straight segments would show as rings."""
    if radius * STEP <= 0.5:
        return RHO, profile
    factor = int(np.ceil(radius * STEP * 2))
    rho = np.linspace(RHO[0], RHO[-1], (RHO.size - 1) * factor + 1)
    return rho, CubicSpline(RHO, profile)(rho)


def emplace(surface: Surface, stamp: Stamp) -> None:
    """Lay one crater into the ground, in place; parts outside the quadrangle are cut off.

    Parameters
    ----------
    surface : Surface
        Changed in place.
    stamp : Stamp
        The crater.
    """
    window = _window(surface.height.shape, stamp)
    if window is None:
        return
    x, y = _coordinates(window, stamp)
    rho = np.sqrt(x * x + y * y)
    direction = _direction(x, y) if stamp.irregular else np.zeros((1, 1), np.int32)
    if stamp.outline.size:
        # Full at the rim, nothing at the centre: no star on the floor.
        rho = rho / (1 + stamp.outline[direction] * np.minimum(rho * rho, 1))
    fine, profile = _finer(stamp.profile, stamp.radius)
    z = np.interp(rho, fine, profile, right=0.0).astype(np.float32)
    if stamp.breach.size:
        # Only the rim above the ground around: floors stay level, peaks round.
        z = np.where((z > 0) & (rho > 0.6), z * stamp.breach[direction], z)
    height = surface.height[window]
    plane = _plane(height, x, y, rho < 1.3)
    height += np.float32(stamp.reset) * _fade(rho, 0.9, 1.3) * (plane - height)
    if stamp.layers.size:
        sheets = _layered(rho, stamp, direction)
        z += sheets
        # A sheet hides what is lower than itself.
        height += np.minimum(0.5, sheets / 40) * (plane - height)
    texture = surface.texture[window]
    if stamp.roughness > 0:
        ring = np.exp(-(((rho - 0.92) / 0.16) ** 2))
        z += np.float32(stamp.roughness) * texture * (ring + 0.2 * _fade(rho, 1.2, 2.4))
    if stamp.gullies.size:
        # Gullies wander: the noise of the ground bends them.
        bent = (direction + (12 * texture).astype(np.int32)) % DIRECTIONS
        z += stamp.gullies[bent] * np.exp(-(((rho - 0.9) / 0.16) ** 2))
    height += z
    if stamp.deposits:
        fresh = np.float32(stamp.freshness) * _fade(rho, 1.2, 2.8)
        rock = surface.rock[window]
        rock += fresh * (0.9 * _fade(rho, 1.0, 2.2) - rock)
        rock -= np.float32(stamp.freshness) * _fade(rho, 0.35, 0.6)
        surface.albedo[window] += 0.5 * fresh


def _window(shape: tuple[int, ...], stamp: Stamp) -> tuple[slice, slice] | None:
    """Rows and columns that a stamp changes, or None."""
    big = np.flatnonzero(np.abs(stamp.profile) > 0.25)
    reach = max(1.35, float(RHO[big[-1]]) + STEP if big.size else 0.0)
    if stamp.layers.size:
        reach = max(reach, 1.35 * float(stamp.layers[:, 0].max()))
    if stamp.deposits:
        reach = max(reach, 3.0)
    reach *= stamp.radius * np.sqrt(stamp.elongation)
    rows = _span(stamp.row, reach, shape[0])
    cols = _span(stamp.col, reach / stamp.squash, shape[1])
    return None if rows is None or cols is None else (rows, cols)


def _span(centre: float, reach: float, size: int) -> slice | None:
    start, stop = max(int(np.ceil(centre - reach)), 0), min(int(centre + reach) + 1, size)
    return slice(start, stop) if start < stop else None


def _coordinates(window: tuple[slice, slice], stamp: Stamp) -> tuple[Field, Field]:
    """Position relative to the centre in radii: x along columns, y along rows."""
    rows = np.arange(window[0].start, window[0].stop)[:, None]
    cols = np.arange(window[1].start, window[1].stop)[None, :]
    y = ((rows - stamp.row) / stamp.radius).astype(np.float32)
    x = ((cols - stamp.col) * (stamp.squash / stamp.radius)).astype(np.float32)
    if stamp.elongation == 1:
        return x, y
    # Stretched along the azimuth and shrunk across: the area stays that of the circle.
    c, s = np.float32(np.cos(stamp.azimuth)), np.float32(np.sin(stamp.azimuth))
    e = np.float32(np.sqrt(stamp.elongation))
    return np.asarray((x * c + y * s) / e, np.float32), np.asarray((y * c - x * s) * e, np.float32)


def _direction(x: Field, y: Field) -> NDArray[np.int32]:
    """Index around the crater, 0 towards growing columns, growing towards rows."""
    turn = np.arctan2(y, x) * np.float32(DIRECTIONS / (2 * np.pi))
    index: NDArray[np.int32] = np.rint(turn).astype(np.int32) % DIRECTIONS
    return index


def _plane(height: Field, x: Field, y: Field, inside: NDArray[np.bool_]) -> Field:
    """Plane through the old ground: a crater on a hillside keeps the slope of the hillside."""
    n = int(inside.sum())
    if n < 6:
        return np.full(height.shape, height.mean(), np.float32)
    old = height[inside].astype(float)
    east_of, below = (np.broadcast_to(part, height.shape)[inside] for part in (x, y))
    design = np.stack([np.ones(n), east_of, below]).astype(float)
    # Little ground of a crater that is cut off by the border: the tiny ridge keeps it solvable.
    level, east, down = np.linalg.solve(design @ design.T + 1e-6 * np.eye(3), design @ old)
    plane: Field = (level + east * x + down * y).astype(np.float32)
    return plane


def _layered(rho: Field, stamp: Stamp, direction: NDArray[np.int32]) -> Field:
    """Thickness of layered ejecta: sheets with lobate edges that end in a rampart."""
    total = np.zeros(rho.shape, np.float32)
    lobes = 1 + stamp.lobes[direction]
    for edge, thickness in stamp.layers:
        q = rho / (np.float32(edge) * lobes)
        sheet = 0.55 * _fade(q, 0.93, 1.02) + 0.8 * np.exp(-(((q - 0.92) / 0.06) ** 2))
        total += np.float32(thickness) * sheet * np.clip((rho - 1) * 4, 0, 1)
    return total


def _fade(rho: Field, start: float, end: float) -> Field:
    """One up to ``start``, zero from ``end`` on."""
    x = np.clip((rho - np.float32(start)) * np.float32(1 / (end - start)), 0, 1)
    return 1 - x * x * (3 - 2 * x)


def streak(surface: Surface, stamp: Stamp, azimuth: float, length: float, strength: float) -> None:
    """Blow a streak of bright dust or dark sand downwind of a crater, in place.

    Parameters
    ----------
    surface : Surface
        Its albedo is changed.
    stamp : Stamp
        The crater in whose lee it lies.
    azimuth : float
        Where the wind blows to, radians from columns towards rows.
    length : float
        Length in crater radii.
    strength : float
        Change of the albedo at its root, in the units of ``Surface.albedo``.
    """
    reach = length * stamp.radius
    rows = _span(stamp.row, reach, surface.albedo.shape[0])
    cols = _span(stamp.col, reach / stamp.squash, surface.albedo.shape[1])
    if rows is None or cols is None:
        return
    round_crater = replace(stamp, elongation=1.0)
    x, y = _coordinates((rows, cols), round_crater)
    c, s = np.float32(np.cos(azimuth)), np.float32(np.sin(azimuth))
    along, across = x * c + y * s, y * c - x * s
    width = 0.8 + 0.12 * along
    tail = np.exp(-((across / np.maximum(width, 0.1)) ** 2)) * (along > 0.5)
    surface.albedo[rows, cols] += np.float32(strength) * tail * _fade(along, 0.3 * length, length)


def pit(row: float, col: float, radius: float, squash: float) -> Stamp:
    """Collapse pit: a bowl without rim or ejecta, a distractor."""
    depth = 0.18 * 2 * radius * 100
    profile = -depth * (1 - np.clip(RHO, 0, 1) ** 2)
    return Stamp(row, col, radius, morphology.diffused(profile, 0.15), squash, reset=0.0)


def around(rng: np.random.Generator, first: int, last: int, decay: float) -> Field:
    """Random function of the direction from harmonics ``first`` to ``last``, of unit variance.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    first, last : int
        Orders of the lowest and highest harmonic.
    decay : float
        Amplitudes fall as the order to the power of minus this.

    Returns
    -------
    ndarray of float32, shape (1024,)
    """
    order = np.arange(first, last + 1)
    spectrum = np.zeros(DIRECTIONS // 2 + 1, complex)
    normal = rng.standard_normal((2, order.size))
    spectrum[order] = (normal[0] + 1j * normal[1]) * order**-decay
    values = np.fft.irfft(spectrum, DIRECTIONS)
    scaled: Field = (values / values.std()).astype(np.float32)
    return scaled
