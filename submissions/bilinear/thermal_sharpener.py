"""Bilinear interpolation: what comes without any sharpening."""

from acdc.tracks.lst.interpolation import bilinear


class ThermalSharpener:
    """Interpolates the coarse temperature; NDVI is not looked at."""

    def fit(self, X, y):
        """Nothing to learn."""

    def predict(self, X):
        """Interpolate scene by scene."""
        return [bilinear(sample.lst) for sample in X]
