"""The simplest entry that holds up: NDVI says where it is cooler, one number says how much of it.

Plants cool the ground that they stand on. How strongly, differs from scene to scene, so the slope
is taken from the coarse scene itself. Between kilometres the slope is steeper than between fields,
so it is damped before it is used one scale down; the damping is what `fit` learns.
"""

import numpy as np

from acdc.sensor import aggregate
from acdc.tracks.lst.interpolation import bilinear


def detail(field):
    """What a field has that its four times coarser self, interpolated, has not."""
    return field - bilinear(aggregate(field, 4))


def sharpening(sample):
    """Detail that NDVI promises: its own detail times the slope that the coarse scene shows."""
    temperature, vegetation = detail(sample.lst), detail(aggregate(sample.ndvi, 4))
    seen = sample.valid & (np.abs(vegetation) < 0.5)
    spread = np.sum(vegetation[seen] ** 2)
    slope = np.sum(temperature[seen] * vegetation[seen]) / spread if spread > 0 else 0.0
    return slope * detail(sample.ndvi)


class ThermalSharpener:
    """Bilinear interpolation plus damped NDVI detail."""

    def fit(self, X, y):
        """Learn the damping: how much of the promised detail was there, one scale up."""
        promised_and_true = promised_squared = 0.0
        for sample, truth in zip(X, y, strict=True):
            promised = sharpening(sample)
            missing = truth - bilinear(sample.lst)
            missing -= np.nanmean(missing)
            known = np.isfinite(missing)
            promised_and_true += np.sum(promised[known] * missing[known])
            promised_squared += np.sum(promised[known] ** 2)
        self.damping = promised_and_true / promised_squared if promised_squared > 0 else 0.0

    def predict(self, X):
        """Sharpen scene by scene."""
        for sample in X:
            yield bilinear(sample.lst) + self.damping * sharpening(sample)
