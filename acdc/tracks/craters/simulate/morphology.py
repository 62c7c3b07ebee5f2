"""Shapes of Martian craters: fresh, degraded, filled and buried, as radial profiles.

All heights are metres; ``rho`` is the distance from the centre in crater radii (rim crest to
centre). A profile is an array over :data:`RHO` of the height relative to the ground before the
impact. Diffusion is linear, so a crater can be aged on its own profile before it is laid into
the relief.

Sources
-------
Fresh depth, central peak and the transition near 7 km: Garvin et al. 2003 (6th Int. Conf. on
Mars, 3277); the older fit of Garvin & Frawley 1998 (GRL 25, 4405) agrees within their scatter.
Rim height: as used by Howard 2007 (Geomorphology 91, 332), after Garvin et al. Cavity of simple
craters: Watters et al. 2015 (JGR Planets 120, 226), a power of 1.75. Ejecta thickness: McGetchin
et al. 1973 (EPSL 20, 226). Mobility of layered ejecta: Barlow 2005 (GSA Spec. Pap. 384, 433).
Diffusive degradation: Fassett & Thomson 2014 (JGR Planets 119, 2255). Erosion of ancient Mars:
Craddock & Howard 2002 (JGR 107, 5111) and Golombek et al. 2006 (JGR 111, E12S10). Planforms:
Watters et al. 2017 (Icarus 286, 156).
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = 2 / 63
"""Spacing of :data:`RHO`; the rim crest, 1, is one of its samples."""
RHO: NDArray[np.float64] = (np.arange(128, dtype=np.float64) + 0.5) * STEP
"""Distances from the centre at which profiles are sampled, in crater radii."""

TRANSITION_KM = 7.0
"""Diameter between simple and complex craters on Mars (Garvin et al. 2003: 6 to 8 km)."""


def complexity(diameter: ArrayLike) -> NDArray[np.float64]:
    """Share of complex morphology, 0 simple to 1 complex.

    Parameters
    ----------
    diameter : array_like
        Rim diameter in km.
    """
    d = np.asarray(diameter, float)
    return 1 / (1 + (TRANSITION_KM / d) ** 12)


def fresh_depth(diameter: ArrayLike) -> NDArray[np.float64]:
    """Depth of a fresh crater from rim crest to floor, in metres.

    Parameters
    ----------
    diameter : array_like
        Rim diameter in km, positive.

    Notes
    -----
    Garvin et al. 2003: 0.21 D^0.81 km for simple and 0.36 D^0.49 km for complex craters, joined
    smoothly at the transition.
    """
    d = np.asarray(diameter, float)
    c = complexity(d)
    return 1000 * ((1 - c) * 0.21 * d**0.81 + c * 0.36 * d**0.49)


def rim_height(diameter: ArrayLike) -> NDArray[np.float64]:
    """Height of a fresh rim crest above the surrounding ground, in metres.

    Parameters
    ----------
    diameter : array_like
        Rim diameter in km, positive.

    Notes
    -----
    Howard 2007: 0.07 D^0.52 km (simple), 0.05 D^0.60 km (complex). The simple law was fitted above
    1 km; below, the rim keeps 7 % of the diameter.
    """
    d = np.asarray(diameter, float)
    c = complexity(d)
    simple = 0.07 * np.where(d < 1, d, d**0.52)
    return 1000 * ((1 - c) * simple + c * 0.05 * d**0.60)


def ejecta_thickness(radius: ArrayLike) -> NDArray[np.float64]:
    """Thickness of ejecta at the rim, in metres; it falls off with the cube of the distance.

    Parameters
    ----------
    radius : array_like
        Rim radius in metres.

    Notes
    -----
    McGetchin et al. 1973: 0.14 R^0.74 (r / R)^-3.
    """
    return 0.14 * np.asarray(radius, float) ** 0.74


def _smoothstep(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def fresh_profile(
    diameter: float, *, depth_factor: float = 1.0, peak: bool = True
) -> NDArray[np.float64]:
    """Profile of a crater just formed, without layered ejecta.

    Parameters
    ----------
    diameter : float
        Rim diameter in km.
    depth_factor : float
        Depth and rim relative to a primary crater of this size (secondaries are shallower).
    peak : bool
        Whether a complex crater gets its central peak.

    Returns
    -------
    ndarray, shape (128,)
        Height in metres over :data:`RHO`; highest at the rim crest, rho = 1.
    """
    c = float(complexity(diameter))
    depth = float(fresh_depth(diameter)) * depth_factor
    rim = float(rim_height(diameter)) * depth_factor
    thickness = min(float(ejecta_thickness(500 * diameter)), 0.6 * rim)
    # Walls stand near the angle of repose and end in a rounded bowl (simple) or a flat floor.
    bowl = RHO**1.75
    floor_radius = np.clip(0.32 + 0.28 * np.log10(max(diameter, TRANSITION_KM) / 7), 0.3, 0.72)
    wall = np.clip((RHO - floor_radius) / (1 - floor_radius), 0, 1)
    inside = -depth + depth * ((1 - c) * bowl + c * wall**1.25)
    # Terraces: a hint of steps in the walls of complex craters.
    inside += 0.012 * c * depth * np.sin(6 * np.pi * wall) * (wall < 1)
    if peak and c > 0.3:
        # Garvin et al. 2003: 0.04 D^0.51 km high and 0.25 D^1.05 km wide.
        width = 0.25 * diameter**1.05 / diameter
        inside += c * 40 * diameter**0.51 * np.exp(-((RHO / (0.6 * width)) ** 2))
    flank = thickness * RHO**-3.0 + (rim - thickness) * RHO**-4.0
    # The outermost tenth of the table fades to zero: no step where a stamp ends.
    flank = flank * (1 - _smoothstep((RHO - 3.4) / 0.6))
    return np.where(RHO <= 1, rim + inside, flank)


@functools.lru_cache(maxsize=1)
def _modes() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues and vectors of the radial Laplacian on :data:`RHO` (finite volumes, no flux)."""
    n = RHO.size
    edges = np.arange(1, n) * STEP
    conductance = edges / STEP
    matrix = np.zeros((n, n))
    index = np.arange(n - 1)
    matrix[index, index + 1] = matrix[index + 1, index] = conductance
    matrix[np.diag_indices(n)] = -matrix.sum(1)
    scale = np.sqrt(RHO * STEP)
    values, vectors = np.linalg.eigh(matrix / scale[:, None] / scale)
    return np.minimum(values, 0), vectors * scale[:, None], vectors / scale[:, None]


def diffused(profile: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Profile after linear diffusion; the volume is conserved.

    Parameters
    ----------
    profile : ndarray, shape (128,)
        Height over :data:`RHO`.
    length : float
        Diffusion length sqrt(2 K t) in crater radii (the standard deviation of the Gaussian
        that the relief is convolved with).
    """
    if length <= 0:
        return profile
    values, left, right = _modes()
    aged: NDArray[np.float64] = right @ (np.exp(values * length**2 / 2) * (left.T @ profile))
    return aged


def filled(profile: NDArray[np.float64], level: float, softness: float) -> NDArray[np.float64]:
    """Profile with its floor raised to a flat level by sediment or lava.

    Parameters
    ----------
    profile : ndarray, shape (128,)
        Height over :data:`RHO`, metres.
    level : float
        Height of the fill's surface, metres.
    softness : float
        Height over which fill and wall merge, metres.
    """
    rise = (level - profile) / softness
    fill = softness * np.logaddexp(0, rise)
    return profile + np.where(RHO < 1.2, fill * (1 - _smoothstep((RHO - 0.9) / 0.3)), 0.0)


def buried(
    profile: NDArray[np.float64], thickness: float, softness: float, sag: float
) -> NDArray[np.float64]:
    """Profile of what stands out after the whole ground was buried by an even layer.

    Parameters
    ----------
    profile : ndarray, shape (128,)
        Height over :data:`RHO`, metres.
    thickness : float
        Thickness of the layer, metres.
    softness : float
        Height over which the layer drapes, metres.
    sag : float
        Depth of the bowl that compaction of the thicker fill leaves, metres.
    """
    above = softness * np.logaddexp(0, (profile - thickness) / softness)
    quiet = softness * np.logaddexp(0, -thickness / softness)
    return above - quiet - sag * (1 - _smoothstep((RHO - 0.35) / 0.6))


def crest(profile: NDArray[np.float64]) -> float:
    """Where the profile is highest, in radii, to a fraction of a sample.

    Diffusion moves the crest outwards; a catalogue holds the radius of the crest as it is now.
    """
    i = int(np.argmax(profile[16:96])) + 16
    if i == 16 or i == 95:
        return float(RHO[i])
    a, b, c = profile[i - 1 : i + 2]
    curvature = a - 2 * b + c
    return float(RHO[i] + (0.0 if curvature == 0 else 0.5 * STEP * (a - c) / curvature))


def diffusion_length(age: ArrayLike) -> NDArray[np.float64]:
    """Length sqrt(2 K t) in metres over which relief of an age has been smoothed.

    Parameters
    ----------
    age : array_like
        Age in Ga.

    Notes
    -----
    K t grows by 3,000 m2 per Ga for the last 3.5 Ga, half of what Fassett & Thomson 2014 find
    for the lunar maria, and a hundred times as fast before that, when erosion on Mars was
    orders of magnitude faster (Golombek et al. 2006).
    """
    t = np.asarray(age, float)
    kappa = 3.0e3 * np.minimum(t, 3.5) + 3.0e5 * np.maximum(t - 3.5, 0)
    return np.sqrt(2 * kappa)
