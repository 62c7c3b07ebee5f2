"""Scores of temperature fields: arrays in, numbers out; what is not finite does not count.

All functions take two fields (H, W) of which pixels count where both are finite, and are NaN where
no pixel (or no window) is left.
"""

from __future__ import annotations

import numpy as np

from acdc.metrics import fidelity

SSIM_RANGE = 20.0


def rmse(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Root mean square error, in the unit of the fields; 0 is best."""
    error = _differences(truth, predicted)
    return float(np.sqrt(np.mean(error**2))) if error.size else np.nan


def unbiased_rmse(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Root mean square error after the mean difference is removed; 0 is best.

    Two thermal sensors differ by a bias of the whole scene, which no sharpening can know.
    """
    error = _differences(truth, predicted)
    return float(np.std(error)) if error.size else np.nan


def bias(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of predicted minus truth."""
    error = _differences(truth, predicted)
    return float(np.mean(error)) if error.size else np.nan


def ssim(truth: np.ndarray, predicted: np.ndarray, value_range: float = SSIM_RANGE) -> float:
    """Structural similarity over the windows that are fully known; 1 is best.

    Gaussian window of 11 pixels, sigma 1.5, population covariance; windows that reach over the
    border or a masked pixel don't count. Where nothing is masked it equals scikit-image's
    `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`.

    Parameters
    ----------
    truth, predicted : ndarray of float (H, W)
        The mean difference is *not* removed here.
    value_range : float
        The span that a field may use; fixed, so that scenes can be compared.

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
    """
    x, y, known = _known(truth, predicted)
    return fidelity.ssim(x, y, known, value_range) if known.any() else np.nan


def gradient_correlation(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation of the gradients (both components together), -1..1; 1 is best.

    Gradients are central differences; a pixel counts where its four neighbours are known. NaN
    where a field has no gradient at all.
    """
    x, y, _ = _known(truth, predicted)
    one, other = _gradients(x), _gradients(y)
    counts = np.isfinite(one) & np.isfinite(other)
    one, other = one[counts], other[counts]
    scale = np.sqrt(np.sum(one**2) * np.sum(other**2))
    return float(np.sum(one * other) / scale) if scale > 0 else np.nan


def spectrum_error(truth: np.ndarray, predicted: np.ndarray, factor: int = 4) -> float:
    """Mean absolute difference of the radial power spectra at fine scales, 0 (best) to 100 dB.

    Only wavelengths between 2 and 2 `factor` pixels count: detail that the coarse grid can't hold.
    Masked pixels are set to the mean and the field is tapered (Hann), for both fields alike.

    Parameters
    ----------
    truth, predicted : ndarray of float (H, W)
    factor : int
        Fine pixels along the side of a coarse one.
    """
    x, y, known = _known(truth, predicted)
    return fidelity.spectrum_error(x, y, known, factor) if known.any() else np.nan


def _gradients(field: np.ndarray) -> np.ndarray:
    inner = np.stack([field[2:, 1:-1] - field[:-2, 1:-1], field[1:-1, 2:] - field[1:-1, :-2]])
    return np.where(np.isfinite(inner).all(axis=0), inner, np.nan)


def _known(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"two fields of one shape are compared, not {x.shape} and {y.shape}")
    known = np.isfinite(x) & np.isfinite(y)
    return np.where(known, x, np.nan), np.where(known, y, np.nan), known


def _differences(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    x, y, known = _known(truth, predicted)
    return y[known] - x[known]
