"""Laying craters into the relief, oldest first.

A crater replaces the ground inside its rim, adds its ejecta outside and softens what the ejecta
cover, so young cuts old. Positions are pixels with (0, 0) at the centre of the upper left one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from . import morphology
from .morphology import RHO, STEP
from .relief import Field


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
    wobble : ndarray, shape (k, 2)
        Amplitude and phase of the rim's harmonics 2, 3, ...; empty: a circle.
    elongation, azimuth : float
        Ratio of the axes, at least 1, and direction of the long one (radians, x towards y).
    roughness : float
        Height of the texture on walls and ejecta, metres.
    layers : ndarray, shape (k, 2)
        Outer edge (radii) and thickness (metres) of layered ejecta; empty: none.
    lobes : ndarray, shape (m, 2)
        Amplitude and phase of the harmonics 3, 4, ... of the layers' edge.
    """

    row: float
    col: float
    radius: float
    profile: NDArray[np.float64]
    squash: float = 1.0
    reset: float = 1.0
    freshness: float = 0.0
    wobble: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    elongation: float = 1.0
    azimuth: float = 0.0
    roughness: float = 0.0
    layers: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    lobes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))


def _harmonics(unit: NDArray[np.complex64], terms: NDArray[np.float64], first: int) -> Field:
    """Sum of cosines over the direction: powers of the unit vector spare the arctangent."""
    total = np.zeros(unit.shape, np.float32)
    power = unit**first
    for amplitude, phase in terms:
        total += (power * np.complex64(amplitude * np.exp(1j * phase))).real
        power = power * unit
    return total


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
    big = np.flatnonzero(np.abs(stamp.profile) > 0.25)
    reach = max(1.35, float(RHO[big[-1]]) + STEP if big.size else 0.0)
    if stamp.layers.size:
        reach = max(reach, 1.25 * float(stamp.layers[:, 0].max()))
    if stamp.freshness > 0.2 and stamp.radius >= 2:
        reach = max(reach, 3.0)
    reach *= stamp.elongation
    shape = surface.height.shape
    half_rows, half_cols = stamp.radius * reach, stamp.radius * reach / stamp.squash
    top, bottom = int(np.ceil(stamp.row - half_rows)), int(stamp.row + half_rows) + 1
    left, right = int(np.ceil(stamp.col - half_cols)), int(stamp.col + half_cols) + 1
    top, left = max(top, 0), max(left, 0)
    bottom, right = min(bottom, shape[0]), min(right, shape[1])
    if top >= bottom or left >= right:
        return
    window = (slice(top, bottom), slice(left, right))
    y = ((np.arange(top, bottom) - stamp.row) / stamp.radius).astype(np.float32)[:, None]
    x = ((np.arange(left, right) - stamp.col) * stamp.squash / stamp.radius).astype(np.float32)
    x = x[None, :]
    if stamp.elongation != 1:
        # Stretch along the azimuth and shrink across, so the area stays that of the circle.
        c, s = np.float32(np.cos(stamp.azimuth)), np.float32(np.sin(stamp.azimuth))
        e = np.float32(np.sqrt(stamp.elongation))
        x, y = (x * c + y * s) / e, (y * c - x * s) * e
    rho = np.sqrt(x * x + y * y)
    round_enough = stamp.wobble.size == 0 and stamp.layers.size == 0
    if not round_enough:
        unit = (x + 1j * y).astype(np.complex64) / np.maximum(rho, np.float32(1e-6))
    if stamp.wobble.size:
        rho = rho / (1 + _harmonics(unit, stamp.wobble, 2))
    fine, profile = _finer(stamp.profile, stamp.radius)
    z = np.interp(rho, fine, profile, right=0.0).astype(np.float32)
    height = surface.height[window]
    if stamp.reset > 0:
        inside = rho < 1.3
        n = max(int(inside.sum()), 1)
        plane = np.float32((height * inside).sum() / n)
        # A crater on a hillside keeps the slope of the hillside.
        xx, yy = x + 0 * rho, y + 0 * rho
        for axis in (xx, yy):
            weight = axis * inside
            norm = float((weight * axis).sum())
            if norm > 0 and n > 8:
                plane = plane + np.float32((height * weight).sum() / norm) * axis
        height += np.float32(stamp.reset) * _fade(rho, 0.9, 1.3) * (plane - height)
    if stamp.layers.size:
        edge_noise = _harmonics(unit, stamp.lobes, 3)
        for edge, thickness in stamp.layers:
            q = rho / (np.float32(edge) * (1 + edge_noise))
            sheet = 0.55 * _fade(q, 0.93, 1.02) + 0.8 * np.exp(-(((q - 0.92) / 0.06) ** 2))
            sheet *= (rho > 1) * np.minimum(1, (rho - 1) * 4)
            z += np.float32(thickness) * sheet
            # A sheet of that thickness hides what is lower than itself.
            if stamp.radius > 6:
                height -= sheet * np.float32(0.5) * (height - height.mean()) * (rho < edge)
    if stamp.roughness > 0:
        ring = np.exp(-(((rho - 0.85) / 0.22) ** 2)) + 0.5 * _fade(rho, 1.2, 2.6) * (rho > 0.85)
        z += np.float32(stamp.roughness) * ring * surface.texture[window]
    height += z
    if stamp.freshness > 0.2 and stamp.radius >= 2:
        fresh = np.float32(stamp.freshness)
        deposit = fresh * _fade(rho, 1.2, 2.8)
        surface.rock[window] += deposit * (0.9 * _fade(rho, 1.0, 2.2) - surface.rock[window])
        floor = fresh * _fade(rho, 0.35, 0.6)
        surface.rock[window] -= 1.0 * floor
        surface.albedo[window] += 0.5 * deposit


def _fade(rho: Field, start: float, end: float) -> Field:
    """One up to ``start``, zero from ``end`` on."""
    x = np.clip((rho - np.float32(start)) * np.float32(1 / (end - start)), 0, 1)
    return 1 - x * x * (3 - 2 * x)


def pit(row: float, col: float, radius: float, squash: float) -> Stamp:
    """Collapse pit: a bowl without rim or ejecta, a distractor."""
    depth = 0.18 * 2 * radius * 100
    profile = -depth * (1 - np.clip(RHO, 0, 1) ** 2)
    return Stamp(row, col, radius, morphology.diffused(profile, 0.15), squash, reset=0.0)
