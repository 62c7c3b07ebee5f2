"""TsHARP: temperature falls with the fraction of the ground that plants cover.

Agam, Kustas, Anderson, Li & Neale 2007, A vegetation index based technique for spatial sharpening
of thermal imagery, doi:10.1016/j.rse.2006.10.006. The line is fitted in each scene on its most
uniform quarter of coarse pixels. What it leaves is added per coarse pixel there; here it is
interpolated, which leaves no blocks and scores better.
"""

import numpy as np

from acdc.sensor import aggregate
from acdc.tracks.lst.interpolation import bilinear


def cover(ndvi, least, most):
    """Fraction of the ground that plants cover."""
    return 1 - np.clip((most - ndvi) / (most - least), 0, 1) ** 0.625


class ThermalSharpener:
    """A line through temperature and vegetation cover, scene by scene."""

    def fit(self, X, y):
        """Nothing to learn from other scenes."""

    def predict(self, X):
        """Sharpen scene by scene."""
        return [self.sharpen(sample) for sample in X]

    def sharpen(self, sample):
        """Fit the line on the coarse grid, use it on the fine one, add what it left."""
        ndvi = np.asarray(sample.ndvi, dtype=float)
        coarse = aggregate(ndvi, 4)
        land = sample.valid & (coarse > 0)
        if land.sum() < 8 or np.ptp(coarse[land]) < 1e-3:
            return bilinear(sample.lst)
        variation = np.sqrt(np.maximum(aggregate(ndvi**2, 4) - coarse**2, 0)) / np.abs(coarse)
        uniform = land & (variation <= np.quantile(variation[land], 0.25))
        least, most = np.quantile(ndvi, [0.005, 0.995])
        vegetation = cover(coarse, least, most)
        slope, offset = np.polyfit(vegetation[uniform], sample.lst[uniform], 1)
        left = sample.lst - (slope * vegetation + offset)
        return slope * cover(ndvi, least, most) + offset + bilinear(left)
