"""Do scales behave alike? Variance of temperature, and its slope on NDVI, from scale to scale."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from acdc import sensor
from acdc.tracks.lst.scenes import FACTOR, Scene

_N_SCALES = 6


def multiscale_statistics(
    temperature: np.ndarray, ndvi: np.ndarray, pixel_size: float, n_scales: int = _N_SCALES
) -> pd.DataFrame:
    """Variance and LST-NDVI slope of a scene seen with pixels of 1, 2, 4 ... times its own.

    Temperature is aggregated by flux, NDVI by its mean. `slope` regresses the field itself;
    `detail_slope` what a pixel has that its two times larger parent has not: that is what
    sharpening adds, and it says whether a law found at one scale holds at the next. As parents
    are means, the detail variances of all scales and the variance at the coarsest add up.

    Parameters
    ----------
    temperature : ndarray of float (H, W)
        Kelvin; NaN where unknown. Sides are multiples of 2.
    ndvi : ndarray of float (H, W)
    pixel_size : float
        m.
    n_scales : int
        Fewer come back when the sides can't be halved so often.

    Returns
    -------
    DataFrame
        One row a scale: scale (m), pixels, variance (K2), ndvi_variance, slope (K per unit of
        NDVI), correlation, and detail_variance, detail_ndvi_variance, detail_slope,
        detail_correlation. NaN where a scale has fewer than three pixels or no variance.
    """
    rows = []
    for octave in range(n_scales):
        if min(temperature.shape) < 2 or any(side % 2 for side in temperature.shape):
            break
        parents = sensor.aggregate_flux(temperature, 2), sensor.aggregate(ndvi, 2)
        details = temperature - sensor.repeat(parents[0], 2), ndvi - sensor.repeat(parents[1], 2)
        rows.append(
            {"scale": pixel_size * 2**octave, **_line(temperature, ndvi, "")}
            | _line(details[0], details[1], "detail_")
        )
        temperature, ndvi = parents
    return pd.DataFrame(rows)


def statistics_of_scenes(scenes: Iterable[Scene]) -> pd.DataFrame:
    """Multiscale statistics of the references (or of the LST, for scenes without one).

    Parameters
    ----------
    scenes : iterable of Scene
        Clean.

    Returns
    -------
    DataFrame
        As `multiscale_statistics`, with columns scene and group.
    """
    tables = []
    for scene in scenes:
        if scene.reference is None:
            field, ndvi = scene.lst, sensor.aggregate(scene.ndvi, FACTOR)
            pixel_size = scene.pixel_size
        else:
            field, ndvi, pixel_size = scene.reference, scene.ndvi, scene.pixel_size / FACTOR
        table = multiscale_statistics(field, ndvi, pixel_size)
        tables.append(table.assign(scene=scene.name, group=scene.group))
    return pd.concat(tables, ignore_index=True)


def _line(temperature: np.ndarray, ndvi: np.ndarray, prefix: str) -> dict[str, float]:
    known = np.isfinite(temperature) & np.isfinite(ndvi)
    y, x = temperature[known], ndvi[known]
    n = len(x)
    yy, xx, xy = (np.nan,) * 3
    if n >= 3:
        y, x = y - y.mean(), x - x.mean()
        yy, xx, xy = (float(np.mean(product)) for product in (y * y, x * x, x * y))
    scale = np.sqrt(xx * yy)
    line = {
        "variance": yy,
        "ndvi_variance": xx,
        "slope": xy / xx if xx > 0 else np.nan,
        "correlation": xy / scale if scale > 0 else np.nan,
    }
    count = {} if prefix else {"pixels": float(n)}
    return count | {prefix + name: value for name, value in line.items()}
