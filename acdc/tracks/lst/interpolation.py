"""Interpolation of a coarse temperature field onto a grid that is several times finer.

Pixels are areas: the fine grid divides each coarse pixel into `factor` x `factor` equal ones, so
that the centres of the two grids never coincide when the factor is even. Beyond the border the
outermost pixels are repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

_KEYS = -0.5  # the only slope at which Keys' kernel reproduces parabolas


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - distance)


def _cubic(distance: np.ndarray) -> np.ndarray:
    a, x = _KEYS, distance
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.select([x <= 1, x < 2], [near, far], 0.0)


def bilinear(coarse: np.ndarray, factor: int = 4) -> np.ndarray:
    """Interpolate linearly in both directions.

    Parameters
    ----------
    coarse : ndarray of float (..., h, w)
        Finite.
    factor : int

    Returns
    -------
    ndarray of float64 (..., factor h, factor w)
    """
    return _interpolate(coarse, factor, _linear)


def bicubic(coarse: np.ndarray, factor: int = 4) -> np.ndarray:
    """Interpolate by cubic convolution (Keys 1981, a = -1/2); arguments as in `bilinear`."""
    return _interpolate(coarse, factor, _cubic)


def _interpolate(
    coarse: np.ndarray, factor: int, kernel: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    coarse = np.asarray(coarse, dtype=np.float64)
    rows, cols = (_weights(n, factor, kernel) for n in coarse.shape[-2:])
    return np.asarray(rows @ coarse @ cols.T)


@cache
def _weights(n: int, factor: int, kernel: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Weights (factor n, n) of the coarse pixels in the fine ones along one axis."""
    reach = 2
    fine = (np.arange(n * factor) + 0.5) / factor - 0.5
    padded = np.arange(-reach, n + reach)
    weights = kernel(np.abs(fine[:, None] - padded))
    inside = weights[:, reach : reach + n].copy()
    inside[:, 0] += weights[:, :reach].sum(axis=1)
    inside[:, -1] += weights[:, reach + n :].sum(axis=1)
    inside.setflags(write=False)
    return inside
