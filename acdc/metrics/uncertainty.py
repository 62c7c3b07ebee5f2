"""Whether stated standard deviations say how large the errors are."""

from __future__ import annotations

import numpy as np
from scipy import special


def miscalibration(error: np.ndarray, deviation: np.ndarray) -> float:
    """Mean gap between how often errors should and do lie within an interval, 0 (best) to 1/2.

    If errors are Gaussian with the stated deviations, a share p of them lies within the central
    interval of probability p, for every p. The score is the mean over p of the absolute difference
    between that and the share observed.

    Parameters
    ----------
    error : ndarray of float
        What is not finite does not count.
    deviation : ndarray of float
        Of the same shape and unit, not negative.

    Returns
    -------
    float
        NaN where no error is left.

    References
    ----------
    Kuleshov, Fenner, Ermon 2018, Accurate uncertainties for deep learning using calibrated
    regression, ICML.
    """
    error, deviation = np.asarray(error, np.float64), np.asarray(deviation, np.float64)
    if error.shape != deviation.shape:
        raise ValueError(f"errors {error.shape} and deviations {deviation.shape} differ in shape")
    known = np.isfinite(error) & np.isfinite(deviation)
    if not known.any():
        return np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(error[known]) / deviation[known]
    # no error and no deviation: as sure as it is right
    probability = np.sort(special.erf(np.nan_to_num(ratio, nan=0.0) / np.sqrt(2)))
    observed = (np.arange(len(probability)) + 0.5) / len(probability)
    return float(np.mean(np.abs(probability - observed)))
