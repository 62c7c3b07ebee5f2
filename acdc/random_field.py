"""Random fields whose power falls with the wavelength, as relief and moisture have it."""

from __future__ import annotations

import numpy as np
from scipy import fft


def rough(
    random: np.random.Generator, n: int, slope: float, outer: float, step: float = 1.0
) -> np.ndarray:
    """Random field (n, n), float32, mean 0 and deviation 1, spectral density falling as k^-slope.

    Parameters
    ----------
    random : numpy.random.Generator
    n : int
    slope : float
        2 is broken, 4 smooth.
    outer : float
        Wavelength beyond which the spectrum is flat, in the unit of `step`.
    step : float
        Side of a pixel, for instance in metres; 1: wavelengths are in pixels.
    """
    ky, kx = fft.fftfreq(n, step)[:, None], fft.rfftfreq(n, step)
    amplitude = (ky**2 + kx**2 + outer**-2.0) ** (-slope / 4)
    amplitude[0, 0] = 0
    noise = random.standard_normal((n, n), dtype=np.float32)
    spectrum = fft.rfft2(noise) * amplitude.astype(np.float32)
    field = fft.irfft2(spectrum, s=(n, n))
    return np.asarray(field / field.std(), dtype=np.float32)
