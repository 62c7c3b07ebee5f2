"""Does NDVI lie on the grid of the temperatures? A shift of a pixel costs what sharpening wins.

Vegetation is cooler (or, over water and snow, warmer) than what surrounds it, so the fine structure
of NDVI and of temperature correlate; where the correlation is strongest, the grids agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import fft, ndimage

from acdc import sensor
from acdc.errors import DataError
from acdc.tracks.lst.scenes import FACTOR, Scene, fill

REACH = 5
SCENE_LIMIT, SET_LIMIT = 1.5, 0.75
_SIGMA = 4.0
_DISTINCT = 0.3
_NOISE = 1e-9


@dataclass(frozen=True)
class Shift:
    """How far an NDVI field lies off a temperature field.

    Attributes
    ----------
    row, col : float
        Pixels of NDVI by which it lies too far down and too far right.
    correlation : float
        Of the fine structures, at that shift.
    at_zero : float
        The same as the grids lie.
    distinct : bool
        Whether the correlation is strong enough, and its peak inside the search, to be believed.
    """

    row: float
    col: float
    correlation: float
    at_zero: float
    distinct: bool

    @property
    def size(self) -> float:
        """The larger of the two components, without sign."""
        return max(abs(self.row), abs(self.col))


def estimate_shift(temperature: np.ndarray, ndvi: np.ndarray) -> Shift:
    """Find how far NDVI lies off a temperature field, up to 4 of its pixels, to about half a pixel.

    Parameters
    ----------
    temperature : ndarray of float (4h, 4w) or (h, w)
        On the grid of NDVI, or the one that is four times coarser; NaN where unknown.
    ndvi : ndarray of float (4h, 4w)
    """
    if temperature.shape == ndvi.shape:
        table = _correlations(_detail(temperature), _detail(ndvi))
    else:
        detail, filled = _detail(temperature), fill(ndvi)
        steps = range(-REACH, REACH + 1)
        table = np.array(
            [
                [
                    _correlation(detail, _detail(sensor.aggregate(_moved(filled, i, j), FACTOR)))
                    for j in steps
                ]
                for i in steps
            ]
        )
    strength = np.nan_to_num(table**2)
    i, j = np.unravel_index(np.argmax(strength), strength.shape)
    inside = bool(0 < i < 2 * REACH and 0 < j < 2 * REACH)
    peak = float(table[i, j])
    return Shift(
        row=float(i - REACH) + (_vertex(strength[i - 1 : i + 2, j]) if inside else 0.0),
        col=float(j - REACH) + (_vertex(strength[i, j - 1 : j + 2]) if inside else 0.0),
        correlation=peak,
        at_zero=float(table[REACH, REACH]),
        distinct=inside and abs(peak) >= _DISTINCT,
    )


def audit(scenes: Sequence[Scene]) -> pd.DataFrame:
    """Measure all scenes: NDVI against the reference (or the LST without one).

    Returns
    -------
    DataFrame
        One row a scene: scene, row, col, correlation, at_zero, distinct as in `Shift`, and `off`:
        which field to blame. Where NDVI agrees with the LST but not with the reference, over the
        scenes that are off, it is the reference.
    """
    shifts = [estimate_shift(_sharpest(scene), scene.ndvi) for scene in scenes]
    table = pd.DataFrame([vars(shift) for shift in shifts])
    table.insert(0, "scene", [scene.name for scene in scenes])
    suspects = [
        (estimate_shift(scene.lst, scene.ndvi).size, shift.size)
        for scene, shift in zip(scenes, shifts, strict=True)
        if scene.reference is not None and shift.distinct and shift.size >= SET_LIMIT
    ]
    with_lst, with_reference = np.median(suspects, axis=0) if suspects else (0.0, 0.0)
    table["off"] = "reference" if with_lst < with_reference / 2 else "ndvi"
    return table


def register(scenes: Sequence[Scene], shifts: pd.DataFrame) -> list[Scene]:
    """Move the field that is off back, by whole pixels, in every scene with a distinct shift.

    Parameters
    ----------
    scenes : sequence of Scene
    shifts : DataFrame
        What `audit` says of them.
    """
    moved = []
    for scene, (_, shift) in zip(scenes, shifts.iterrows(), strict=True):
        row, col = round(float(shift.row)), round(float(shift.col))
        if shift.distinct and shift.off == "reference" and scene.reference is not None:
            scene = replace(scene, reference=_moved(scene.reference, -row, -col))
        elif shift.distinct:
            scene = replace(scene, ndvi=_moved(scene.ndvi, row, col))
        moved.append(scene)
    return moved


def refuse_shifted(shifts: pd.DataFrame) -> None:
    """Raise a `DataError` that names the shift, when a scene or all of them are off the grid.

    One scene may seem to be off by a pixel for other reasons; an offset of the whole set by most
    of a pixel is an error of the grids.

    Parameters
    ----------
    shifts : DataFrame
        What `audit` says.
    """
    sure = shifts[shifts.distinct]
    if sure.empty:
        return
    what = "NDVI" if sure.off.iloc[0] == "ndvi" else "the reference"
    sign = 1 if what == "NDVI" else -1
    place = sure[["row", "col"]] * sign
    advice = "Check the corners of the grids, or let --register move it back by whole pixels."
    row, col = place.median()
    if max(abs(row), abs(col)) >= SET_LIMIT:
        raise DataError(
            f"{what} is off the grid: over {len(sure)} scenes it is shifted by ({row:.1f}, "
            f"{col:.1f}) pixels of NDVI (row, col; positive is down and right). {advice}"
        )
    off = place[place.abs().max(axis=1) >= SCENE_LIMIT]
    if len(off):
        named = ", ".join(
            f"{shifts.scene[i]} by ({r:.1f}, {c:.1f})" for i, r, c in off.itertuples()
        )
        raise DataError(
            f"{what} is off the grid in {len(off)} of {len(shifts)} scenes (pixels of NDVI, row "
            f"and col; positive is down and right): {named}. {advice}"
        )


def _sharpest(scene: Scene) -> np.ndarray:
    return scene.lst if scene.reference is None else scene.reference


def _detail(field: np.ndarray) -> np.ndarray:
    """Subtract what is smooth over several pixels; NaN stays NaN."""
    known = np.isfinite(field)
    weight = ndimage.gaussian_filter(known.astype(float), _SIGMA)
    smooth = ndimage.gaussian_filter(np.where(known, field, 0), _SIGMA)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, field - smooth / weight, np.nan)


def _moved(field: np.ndarray, row: int, col: int) -> np.ndarray:
    """The field moved up by `row` and left by `col` pixels; NaN comes in."""
    moved = np.full_like(field, np.nan)
    height, width = field.shape
    to = np.s_[max(0, -row) : height - max(0, row), max(0, -col) : width - max(0, col)]
    come = np.s_[max(0, row) : height - max(0, -row), max(0, col) : width - max(0, -col)]
    moved[to] = field[come]
    return moved


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation of a detail with another one moved up and left by -REACH ... REACH pixels."""
    shape = [fft.next_fast_len(side + REACH, real=True) for side in one.shape]

    def transform(field: np.ndarray) -> np.ndarray:
        return np.asarray(fft.rfft2(field, shape))

    def products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        lags = fft.fftshift(fft.irfft2(np.conj(transform(first)) * transform(second), shape))
        row, col = (side // 2 for side in shape)
        return np.asarray(lags[row - REACH : row + REACH + 1, col - REACH : col + REACH + 1])

    known = np.isfinite(one), np.isfinite(other)
    x, y = np.where(known[0], one, 0), np.where(known[1], other, 0)
    scale = products(x * x, known[1].astype(float)) * products(known[0].astype(float), y * y)
    with np.errstate(invalid="ignore", divide="ignore"):
        # sums that are zero come out of the transform as rounding noise
        return np.where(scale > _NOISE, products(x, y) / np.sqrt(np.maximum(scale, 0)), np.nan)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < 16:
        return np.nan
    x, y = one[known], other[known]
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else np.nan


def _vertex(values: np.ndarray) -> float:
    """Where a parabola through three values at -1, 0, 1 is highest."""
    bend = values[0] - 2 * values[1] + values[2]
    return float(np.clip((values[0] - values[2]) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0
