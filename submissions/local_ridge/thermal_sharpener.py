"""Ridge regression of the missing detail on a few local features, learned one scale up.

What the starting kit says with one number is said here with ten: the slope of temperature on NDVI
may differ from place to place within a scene, from coarse to fine detail, and with how green it is;
and interpolation always leaves the hilltops of a temperature field too low.
"""

import numpy as np
from scipy import ndimage

from acdc.sensor import aggregate
from acdc.tracks.lst.interpolation import bilinear

FACTOR = 4
REACH = 3.0  # coarse pixels over which a local slope is estimated
RIDGE = 1e-3
NOISE = 1e-4  # variance of NDVI detail below which it says nothing about a slope


def smooth(field, sigma):
    """Gaussian mean of the neighbourhood."""
    return ndimage.gaussian_filter(field, sigma, mode="nearest")


def slopes(sample, coarse):
    """Slope of coarse temperature detail on NDVI detail: of the whole scene, and around places."""
    temperature, vegetation = (
        field - bilinear(aggregate(field, FACTOR)) for field in (sample.lst, coarse)
    )
    weight = sample.valid & (np.abs(vegetation) < 0.5)
    product, square = weight * temperature * vegetation, weight * vegetation**2
    whole = product.sum() / (square.sum() + NOISE)
    return whole, smooth(product, REACH) / (smooth(square, REACH) + NOISE)


def features(sample):
    """Stack of fields (k, 4h, 4w), in kelvin or nearly so, that may be part of what is missing."""
    ndvi = np.asarray(sample.ndvi, dtype=float)
    coarse = aggregate(ndvi, FACTOR)
    base = bilinear(sample.lst)
    detail = ndvi - bilinear(coarse)
    whole, local = slopes(sample, coarse)
    bumps = base - smooth(base, FACTOR)
    return np.stack(
        [
            whole * detail,
            bilinear(local) * detail,
            whole * smooth(detail, 1),
            whole * (ndvi - smooth(ndvi, 1)),
            whole * detail * ndvi,
            whole * detail**2,
            whole * detail * (ndvi < 0.1),
            detail,
            bumps,
            bumps * (ndvi - ndvi.mean()),
        ]
    )


class ThermalSharpener:
    """Bilinear interpolation plus a weighted sum of features."""

    def fit(self, X, y):
        """Solve the normal equations, scene by scene."""
        squares, products = 0.0, 0.0
        for sample, truth in zip(X, y, strict=True):
            missing = truth - bilinear(sample.lst)
            known = np.isfinite(missing)
            inputs = features(sample)[:, known]
            target = missing[known] - missing[known].mean()
            squares = squares + inputs @ inputs.T
            products = products + inputs @ target
        penalty = RIDGE * np.diag(np.diag(squares)) + 1e-9 * np.eye(len(squares))
        self.weights = np.linalg.solve(squares + penalty, products)

    def predict(self, X):
        """Sharpen scene by scene."""
        for sample in X:
            yield bilinear(sample.lst) + np.tensordot(self.weights, features(sample), 1)
