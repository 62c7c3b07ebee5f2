"""ATPRK: regression on NDVI, and area-to-point kriging of what the regression leaves.

Wang, Shi, Atkinson & Zhao 2015, Downscaling MODIS images with area-to-point regression kriging,
doi:10.1016/j.rse.2015.06.003. The line is fitted on the coarse grid of each scene. Its residuals
are averages over coarse pixels; kriging turns them into points of which they are the averages, with
a variogram of points that, averaged over pixels, is the one that was observed.
"""

import numpy as np

from acdc.sensor import aggregate, repeat

FACTOR = 4
REACH = 2  # coarse neighbours on each side: 5 x 5 as published
LAGS = np.arange(1, 9)


def between(one, other):
    """Distances between two sets of points (n, 2) and (m, 2)."""
    return np.linalg.norm(one[:, None] - other[None], axis=-1)


def covariance(distance, reach):
    """Exponential model of sill 1 that has lost 95 % at `reach`."""
    return np.exp(-3 * distance / reach)


def points_of(row, col):
    """Centres of the fine pixels of the coarse pixel (row, col), in coarse pixels."""
    inside = (np.arange(FACTOR) + 0.5) / FACTOR - 0.5
    return np.stack(np.meshgrid(row + inside, col + inside, indexing="ij"), axis=-1).reshape(-1, 2)


def observed_variogram(field, valid):
    """Half the mean squared difference of coarse pixels at whole lags along rows and columns."""
    known = np.where(valid, field, np.nan)
    lags = LAGS[: max(2, min(field.shape) // 2)]
    return np.array(
        [
            0.25
            * (
                np.nanmean((known[lag:] - known[:-lag]) ** 2)
                + np.nanmean((known[:, lag:] - known[:, :-lag]) ** 2)
            )
            for lag in lags
        ]
    )


def averaged_variogram(reach, n_lags):
    """The same of pixel averages, if points have an exponential covariance of sill 1."""
    origin = points_of(0, 0)
    within = covariance(between(origin, origin), reach).mean()
    across = [covariance(between(origin, points_of(0, lag)), reach).mean() for lag in LAGS[:n_lags]]
    return within - np.array(across)


def point_reach(field, valid):
    """Range of the point variogram whose average over pixels fits the observed one best."""
    observed = observed_variogram(field, valid)

    def misfit(reach):
        model = averaged_variogram(reach, len(observed))
        sill = model @ observed / (model @ model)
        return np.sum((sill * model - observed) ** 2)

    return min(np.geomspace(0.5, 40, 40), key=misfit)


def kriging_weights(reach):
    """Weights (16, 5, 5) of the coarse neighbours in the fine pixels (ordinary kriging)."""
    offsets = range(-REACH, REACH + 1)
    blocks = [points_of(row, col) for row in offsets for col in offsets]
    n = len(blocks)
    system = np.ones((n + 1, n + 1))
    system[n, n] = 0
    system[:n, :n] = [[covariance(between(a, b), reach).mean() for b in blocks] for a in blocks]
    targets = points_of(0, 0)
    right = np.ones((n + 1, len(targets)))
    right[:n] = [covariance(between(block, targets), reach).mean(axis=0) for block in blocks]
    return np.linalg.solve(system, right)[:n].T.reshape(-1, len(offsets), len(offsets))


def krige(field, reach):
    """Turn averages over coarse pixels (h, w) into fine pixels (4h, 4w) with those averages."""
    padded = np.pad(field, REACH, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * REACH + 1,) * 2)
    fine = np.tensordot(windows, kriging_weights(reach), axes=([2, 3], [1, 2]))
    height, width = field.shape
    blocks = fine.reshape(height, width, FACTOR, FACTOR).transpose(0, 2, 1, 3)
    return blocks.reshape(height * FACTOR, width * FACTOR)


class ThermalSharpener:
    """Area-to-point regression kriging, scene by scene."""

    def fit(self, X, y):
        """Nothing to learn from other scenes."""

    def predict(self, X):
        """Sharpen scene by scene."""
        return [self.sharpen(sample) for sample in X]

    def sharpen(self, sample):
        """Regress on the coarse grid, apply on the fine one, krige what is left."""
        coarse = aggregate(sample.ndvi, FACTOR)
        if sample.valid.sum() < 8 or np.ptp(coarse[sample.valid]) < 1e-3:
            return repeat(sample.lst, FACTOR)
        slope, offset = np.polyfit(coarse[sample.valid], sample.lst[sample.valid], 1)
        left = sample.lst - (slope * coarse + offset)
        trend = slope * np.asarray(sample.ndvi, dtype=float) + offset
        return trend + krige(left, point_reach(left, sample.valid))
