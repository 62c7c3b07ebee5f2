"""How an instrument sees: what several fine pixels become in one coarse pixel, and the way back.

A thermal sensor adds up radiance. Over a narrow span of temperatures that is the flux T^4, so the
temperature of a coarse pixel is (mean T^4)^(1/4); it differs from the plain mean by hundredths of
a kelvin.
"""

from __future__ import annotations

import numpy as np


def aggregate(values: np.ndarray, factor: int, min_share: float = 0.5) -> np.ndarray:
    """Mean of blocks of `factor` x `factor` pixels; what is not finite does not count.

    Parameters
    ----------
    values : ndarray of float (..., H, W)
        H and W are multiples of `factor`.
    factor : int
        At least 1.
    min_share : float
        A block with a smaller share of finite pixels becomes NaN.

    Returns
    -------
    ndarray of float64 (..., H / factor, W / factor)

    Raises
    ------
    ValueError
        When the grid can't be divided.
    """
    values = np.asarray(values, dtype=np.float64)
    height, width = values.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"a grid of {height} x {width} pixels has no blocks of {factor}")
    shape = (*values.shape[:-2], height // factor, factor, width // factor, factor)
    blocks = values.reshape(shape)
    known = np.isfinite(blocks)
    if known.all():
        return blocks.mean(axis=(-3, -1))
    count = known.sum(axis=(-3, -1))
    total = np.where(known, blocks, 0).sum(axis=(-3, -1))
    enough = (count > 0) & (count >= min_share * factor**2)
    return np.where(enough, total / np.maximum(count, 1), np.nan)


def aggregate_flux(temperature: np.ndarray, factor: int, min_share: float = 0.5) -> np.ndarray:
    """Temperature of blocks of pixels as a radiometer sees it: (mean T^4)^(1/4).

    Parameters
    ----------
    temperature : ndarray of float (..., H, W)
        Kelvin; NaN where unknown.
    factor : int
        Fine pixels along the side of a coarse one.
    min_share : float
        A coarse pixel of which a smaller share is known is NaN.

    Returns
    -------
    ndarray of float64 (..., H / factor, W / factor)
        Kelvin.
    """
    fine = np.asarray(temperature, dtype=np.float64)
    return np.sqrt(np.sqrt(aggregate(np.square(np.square(fine)), factor, min_share)))


def repeat(coarse: np.ndarray, factor: int) -> np.ndarray:
    """Each coarse pixel as `factor` x `factor` equal fine ones, (..., h, w) -> (..., H, W)."""
    return np.repeat(np.repeat(coarse, factor, axis=-2), factor, axis=-1)


def project_flux(temperature: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Scale a fine field, block by block, so that its flux aggregate equals the coarse one.

    Every fine pixel is multiplied by T_coarse / (mean T^4)^(1/4) of its block: exact in one step,
    never negative, and contrasts within a block keep their proportion.

    Parameters
    ----------
    temperature : ndarray of float (..., H, W)
        Kelvin; NaN where unknown.
    coarse : ndarray of float (..., h, w)
        Kelvin; H and W are the same multiple of h and w. Where it is NaN, or its block is
        unknown, the fine field stays as it is.

    Returns
    -------
    ndarray of float64 (..., H, W)

    Raises
    ------
    ValueError
        When the grids are not nested.
    """
    fine, coarse = np.asarray(temperature, np.float64), np.asarray(coarse, np.float64)
    factor = fine.shape[-1] // max(coarse.shape[-1], 1)
    if fine.shape[-2:] != (coarse.shape[-2] * factor, coarse.shape[-1] * factor):
        raise ValueError(f"grids {fine.shape[-2:]} and {coarse.shape[-2:]} are not nested")
    ratio = coarse / aggregate_flux(fine, factor, min_share=0.0)
    return fine * repeat(np.where(np.isfinite(ratio), ratio, 1.0), factor)
