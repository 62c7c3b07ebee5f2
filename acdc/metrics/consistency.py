"""Whether a predicted image agrees with what was observed, and what it adds to it.

`consistency` and `spectral_consistency` look at the prediction through the sensor that made the
observation. `triangle` asks of every pixel whether what was added is in the truth: improvement,
omission, hallucination. None of them is for ranking alone: see the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from acdc.errors import DataError, PredictionError
from acdc.metrics import fidelity

BORDER = 16
"""Pixels along the border that `triangle` leaves out."""
SHARPNESS = 0.05
TEMPERATURE = 0.25
QUANTILE = 0.75
_TINY = 1e-8


class Triangle(NamedTuple):
    """Shares that add up to one; NaN where no pixel counts.

    Attributes
    ----------
    hallucination : float
        0 (best) to 1: detail that is in the prediction alone.
    omission : float
        0 (best) to 1: detail of the truth that the prediction lacks.
    improvement : float
        0 to 1 (best): detail of the truth that the prediction has.
    """

    hallucination: float
    omission: float
    improvement: float


def consistency(
    predicted: np.ndarray,
    observed: np.ndarray,
    see: Callable[[np.ndarray], np.ndarray],
    clear: np.ndarray | None = None,
) -> float:
    """Mean absolute difference of the prediction as the sensor sees it and of the observation.

    0 is best, but the truth itself has more: it was made by another sensor, at another time. The
    bands count alike. A blurred image can be as consistent as a sharp one.

    Parameters
    ----------
    predicted : ndarray of float (bands, H, W)
        Reflectance.
    observed : ndarray of float (bands, h, w)
        Reflectance, such as the composite of the clear revisits. What is not finite does not count.
    see : callable
        From (bands, H, W) to (bands, h, w), such as `acdc.sensor.Imager(...).forward`.
    clear : ndarray of bool (h, w), optional
        Pixels of the observation that count.

    Returns
    -------
    float
        Reflectance, 0 or more; NaN where no pixel counts.
    """
    seen = _seen(predicted, observed, see)
    counts = np.isfinite(observed).all(axis=0)
    if clear is not None:
        if np.shape(clear) != counts.shape:
            raise DataError(
                f"the observation has {counts.shape} pixels, the clear mask {np.shape(clear)}"
            )
        counts &= np.asarray(clear, bool)
    if not counts.any():
        return np.nan
    difference = np.abs(np.subtract(seen, observed, dtype=np.float64))
    return float(np.mean(difference[:, counts]))


def spectral_consistency(
    predicted: np.ndarray,
    observed: np.ndarray,
    see: Callable[[np.ndarray], np.ndarray],
    clear: np.ndarray | None = None,
) -> float:
    """Mean spectral angle of the prediction as the sensor sees it and of the observation.

    Parameters and what does not count are those of `consistency`.

    Returns
    -------
    float
        Degrees, 0 (best) to 180; NaN where no pixel counts.
    """
    return fidelity.sam(observed, _seen(predicted, observed, see), clear)


def triangle(
    truth: np.ndarray,
    predicted: np.ndarray,
    observed: np.ndarray,
    clear: np.ndarray | None = None,
    border: int = BORDER,
) -> Triangle:
    """Tell what was added rightly, what is lacking and what was made up.

    With the distance of two spectra d(a, b) = mean over bands of |a - b| / |a + b|, all at a pixel,
    and the observation resampled bilinearly to the fine grid as `blurred`,

        d_ref = d(blurred, truth)
        d_im = d(predicted, truth) / d_ref,  d_om = d(predicted, blurred) / d_ref
        H = d_im + d_om - 1
        improvement = d_im + d_om (1 - exp(-l H))
        omission = d_om + d_im (1 - exp(-l H))
        hallucination = exp(-l d_im d_om)

    with l = .05, of which exp(-value / .25), scaled to a sum of one, are the pixel's shares. The
    scores are their means over the pixels at which one of the three distances exceeds the third
    quartile of d_ref: elsewhere there is little to add.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W)
        Reflectance.
    observed : ndarray of float (bands, h, w)
        Reflectance; H and W are the same multiple of h and w.
    clear : ndarray of bool (H, W), optional
        Of the truth.
    border : int
        Pixels left out along the border, a multiple of H / h.

    Returns
    -------
    Triangle

    Notes
    -----
    These are opensr-test's distance "nd", norm "softmin" and gradient_threshold "auto", with which
    it agrees within 1e-5. Two of its steps are left out. It first matches the prediction's
    histogram to that of the truth, which forgives every bias; and it moves the prediction onto the
    truth. A bias, or a shift, is an error here.

    What can be gamed: `hallucination` is lowest for the observation itself, merely resampled;
    `omission` for anything far from it.

    References
    ----------
    Aybar et al. 2024, A comprehensive benchmark for optical remote sensing image super-resolution,
    doi:10.1109/LGRS.2024.3401394.
    """
    x, y, counts = fidelity.images(truth, predicted, clear)
    observed = np.asarray(observed)
    factor = _factor(x.shape, observed.shape)
    if border < 0 or border % factor or min(counts.shape) <= 2 * border:
        raise DataError(
            f"a border of {border} pixels does not suit images of {counts.shape[0]} x "
            f"{counts.shape[1]}; take a multiple of the factor {factor}, or 0"
        )
    fine, coarse = (
        np.s_[edge : height - edge, edge : width - edge]
        for edge, (height, width) in (
            (border, counts.shape),
            (border // factor, observed.shape[-2:]),
        )
    )
    x, y, counts = x[:, *fine], y[:, *fine], counts[fine]
    observed = observed[:, *coarse].astype(x.dtype, copy=False)
    gaps = ~np.isfinite(observed).all(axis=0)
    if gaps.any():
        observed = np.where(gaps, 0, observed)
        counts = counts & (upsampled(gaps.astype(x.dtype), factor) == 0)
    blurred = upsampled(observed, factor)
    if not counts.any():
        return Triangle(np.nan, np.nan, np.nan)
    reference, missed, added = (
        _distance(*pair, counts) for pair in ((blurred, x), (y, x), (y, blurred))
    )
    place = max(int(QUANTILE * reference.size) - 1, 0)
    threshold = np.partition(reference, place)[place]
    kept = (reference > threshold) | (missed > threshold) | (added > threshold)
    if not kept.any():
        return Triangle(np.nan, np.nan, np.nan)
    return _shares(reference[kept], missed[kept], added[kept])


def upsampled(image: np.ndarray, factor: int) -> np.ndarray:
    """Interpolate a finite image (..., h, w) bilinearly between its pixels' centres, (..., H, W).

    Beyond the outermost centres the image goes on as it ends.
    """
    for _ in range(2):
        image = _bilinear_across(image, factor).swapaxes(-2, -1)
    return image


def _shares(reference: np.ndarray, missed: np.ndarray, added: np.ndarray) -> Triangle:
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        d_im, d_om = missed / reference, added / reference
        damping = 1 - np.exp(-SHARPNESS * (d_im + d_om - 1))
        values = np.stack(
            [
                np.exp(-SHARPNESS * d_im * d_om),
                d_om + d_im * damping,
                d_im + d_om * damping,
            ]
        )
        shares = np.exp(values / -TEMPERATURE)
        shares /= shares.sum(axis=0)
    hallucination, omission, improvement = (float(np.mean(s, dtype=np.float64)) for s in shares)
    return Triangle(hallucination, omission, improvement)


def _distance(one: np.ndarray, other: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over bands of |a - b| / |a + b| at the pixels that count, (n,)."""
    total = one + other
    total += one.dtype.type(_TINY)
    ratio = np.subtract(one, other)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio /= total
    return np.abs(ratio, out=ratio).mean(axis=0)[counts]


def _seen(
    predicted: np.ndarray, observed: np.ndarray, see: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    predicted = np.asarray(predicted)
    if not np.isfinite(predicted).all():
        raise PredictionError(
            f"the prediction is not finite at {(~np.isfinite(predicted)).sum()} places, and the "
            "sensor spreads each pixel over its neighbours; only finite numbers can be scored"
        )
    seen = see(predicted)
    if seen.shape != np.shape(observed) or seen.ndim != 3:
        raise DataError(
            f"the sensor sees the prediction {predicted.shape} as {seen.shape}, the observation "
            f"has {np.shape(observed)}; both have to be (bands, rows, columns) of one size"
        )
    return seen


def _factor(fine: tuple[int, ...], coarse: tuple[int, ...]) -> int:
    factor = fine[-1] // max(coarse[-1], 1)
    if len(coarse) != 3 or fine != (coarse[0], coarse[1] * factor, coarse[2] * factor):
        raise DataError(
            f"images {fine} and an observation {coarse} are not nested; (bands, rows, columns) of "
            "the first have to be the same whole multiple of the second"
        )
    return factor


def _bilinear_across(image: np.ndarray, factor: int) -> np.ndarray:
    """Interpolate along the last axis, the fine pixels of one place in a coarse one at a time."""
    n = image.shape[-1]
    ended = np.concatenate([image[..., :1], image, image[..., -1:]], axis=-1)
    fine = np.empty((*image.shape[:-1], n * factor), image.dtype)
    for k in range(factor):
        before, share = divmod((k + 0.5) / factor + 0.5, 1)
        one, other = (ended[..., int(before) + i : int(before) + i + n] for i in (0, 1))
        fine[..., k::factor] = one + image.dtype.type(share) * (other - one)
    return fine
