"""How close a predicted image is to the true one: arrays in, numbers out.

Images are (bands, H, W) reflectances, or (H, W) for a single band. A pixel counts where `clear` is
true (all, without one) and the truth is finite in every band. Where nothing counts a score is NaN.
A prediction that is not finite where it counts is refused: dropping such pixels would let it choose
what it is judged by.

The best decibel is 80: a mean square error below 1e-8 (for a range of 1) is as good as none.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from acdc.errors import DataError, PredictionError

FloatArray: TypeAlias = np.ndarray
BoolArray: TypeAlias = NDArray[np.bool_]

MAX_SHIFT = 3
"""Pixels by which a prediction may lie off before `cpsnr` and `cssim` count it as an error."""
BEST_DECIBEL = 80.0
WORST_SPECTRUM = 100.0
"""Decibels at which the difference of two power spectra is cut off."""
RATIO = 0.25
"""Pixel size of the prediction over that of the observation."""

_SIGMA, _RADIUS = 1.5, 5  # the Gaussian window of Wang et al. 2004: 11 pixels wide
_K1, _K2 = 0.01, 0.03
_ROWS_AT_ONCE, _COLS_AT_ONCE = 8, 16  # of windows: fewer waste calls, more waste zeros
_FAR = 1e3  # ranges; a larger bias is no bias: it would drown the truth's digits, and win
_ROUNDING = 1e-5  # of correlations in single precision: ten times the worst of random images
_FLAT = 1e-10  # of the truth's variance: a prediction with less has no detail to be placed by
_THREADED = 60_000  # multiplications; OpenBLAS shares out products not much larger
_TIE = 1e-9  # decibels within which two shifts are equally good


class _Workspace(threading.local):
    """Arrays that a thread uses again and again: fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: type | np.dtype) -> np.ndarray:
        """Return an array of any content, the one of before if it has this shape and type."""
        array = self._kept.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = self._kept[name] = np.empty(shape, dtype)
        return array


_workspace = _Workspace()


class Registered(NamedTuple):
    """A score at the whole-pixel shift that suits the prediction best.

    Attributes
    ----------
    score : float
        Mean over the bands.
    shift : tuple of int
        (row, col) pixels by which the prediction has to be moved to lie on the truth.
    per_band : ndarray of float64, shape (bands,)
    """

    score: float
    shift: tuple[int, int]
    per_band: FloatArray


def psnr(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    value_range: float = 1.0,
) -> float:
    """Peak signal to noise ratio: mean over the bands of `psnr_per_band`; up to 80 dB, best."""
    return float(np.mean(psnr_per_band(truth, predicted, clear, value_range)))


def psnr_per_band(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    value_range: float = 1.0,
) -> FloatArray:
    """10 log10(range^2 / mean square error) of each band over the pixels that count.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W) or (H, W)
        Reflectance.
    clear : ndarray of bool (H, W), optional
    value_range : float
        Fixed, so that chips can be compared.

    Returns
    -------
    ndarray of float64 (bands,)
        Decibel, at most 80; NaN where no pixel counts.
    """
    x, y, counts = images(truth, predicted, clear)
    return _decibel(_mean_square_error(x, y, counts), value_range)


def cpsnr(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    max_shift: int = MAX_SHIFT,
    value_range: float = 1.0,
) -> Registered:
    """Peak signal to noise ratio after the bias of each band and a shift of the image are removed.

    The inner part of the prediction, `max_shift` pixels off the border, is laid over the truth at
    all whole-pixel shifts up to `max_shift` in each direction. At each of them

        -10 log10(variance over the clear pixels of truth - prediction)

    (the variance being the mean square error once the mean difference is gone, or 1000 ranges of
    it) is taken band by band and averaged over the bands. The best average is the score. One shift
    holds for all bands, and the prediction is never resampled: a search in fractions of a pixel
    would be a free low-pass. Among equally good shifts the shortest wins.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W) or (H, W)
        Reflectance.
    clear : ndarray of bool (H, W), optional
        Of the truth.
    max_shift : int
        Pixels.
    value_range : float

    Returns
    -------
    Registered
        Decibel, at most 80 (best). NaN, at shift (0, 0), where at no shift a clear pixel is left.

    References
    ----------
    Maertens et al. 2019, Super-resolution of PROBA-V images using convolutional neural networks,
    doi:10.1007/s42064-019-0059-8.
    """
    x, y, counts = images(truth, predicted, clear, moves=True)
    return _register(x, y, counts, max_shift, value_range)


def ssim(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    value_range: float = 1.0,
) -> float:
    """Structural similarity: mean over the bands of `ssim_per_band`, -1..1; 1 is best."""
    return float(np.mean(ssim_per_band(truth, predicted, clear, value_range)))


def ssim_per_band(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    value_range: float = 1.0,
) -> FloatArray:
    """Structural similarity of each band over the windows that are fully clear.

    Gaussian window of 11 pixels, sigma 1.5, population covariance. Windows that reach over the
    border or over a pixel that does not count are left out. Where every pixel counts it equals
    scikit-image's `structural_similarity(gaussian_weights=True, use_sample_covariance=False)`
    within 1e-12. When both images are float32 the arithmetic is, too: twice as fast, and within
    1e-5 of that.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W) or (H, W)
    clear : ndarray of bool (H, W), optional
    value_range : float
        The span that an image may use; fixed, so that chips can be compared.

    Returns
    -------
    ndarray of float64 (bands,)
        -1..1; NaN where no window is fully clear.

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli 2004, doi:10.1109/TIP.2003.819861.
    """
    x, y, counts = images(truth, predicted, clear)
    return _ssim(x, y, counts, value_range)


def cssim(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    shift: tuple[int, int] | None = None,
    max_shift: int = MAX_SHIFT,
    value_range: float = 1.0,
) -> Registered:
    """Structural similarity after what `cpsnr` removes, over fully clear windows; 1 is best.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W) or (H, W)
    clear : ndarray of bool (H, W), optional
    shift : (row, col), optional
        What `cpsnr` found, if it was called before; it is looked for otherwise.
    max_shift : int
        Pixels.
    value_range : float

    Returns
    -------
    Registered
        -1..1; NaN where no window is fully clear.
    """
    x, y, counts = images(truth, predicted, clear, moves=True)
    if shift is None:
        shift = _register(x, y, counts, max_shift, value_range).shift
    x, y, counts = _laid_over(x, y, counts, shift, max_shift)
    if not counts.any():
        return Registered(np.nan, shift, np.full(len(x), np.nan))
    bias = np.einsum("bij,ij->b", y - x, counts.astype(x.dtype)) / counts.sum()
    level = np.clip(bias, -_FAR * value_range, _FAR * value_range).astype(x.dtype)
    per_band = _ssim(x, y - level[:, None, None], counts, value_range)
    return Registered(float(per_band.mean()), shift, per_band)


def sam(truth: np.ndarray, predicted: np.ndarray, clear: np.ndarray | None = None) -> float:
    """Mean angle between the true and the predicted spectrum of a pixel, 0 (best) to 180 degrees.

    arccos(<x, y> / (|x| |y|)), computed as 2 atan2(|x/|x| - y/|y||, |x/|x| + y/|y||), which keeps
    its digits at small angles. A pixel where either spectrum is zero has no angle and is skipped.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W)
    clear : ndarray of bool (H, W), optional

    References
    ----------
    Kruse et al. 1993, doi:10.1016/0034-4257(93)90013-N. Kahan 2006, How futile are mindless
    assessments of roundoff, section 12.
    """
    x, y, counts = images(truth, predicted, clear)
    squares = np.zeros((2, *counts.shape))
    with np.errstate(all="ignore"):
        for band in range(len(x)):
            for square, image in zip(squares, (x, y), strict=True):
                square += np.square(image[band], dtype=np.float64)
        counts = counts & (squares > 0).all(axis=0) & np.isfinite(squares).all(axis=0)
        scale = 1 / np.sqrt(squares)
        far, near = np.zeros((2, *counts.shape))
        for band in range(len(x)):
            one, other = scale[0] * x[band], scale[1] * y[band]
            far += (one - other) ** 2
            near += (one + other) ** 2
    if not counts.any():
        return np.nan
    angle = 2 * np.arctan2(np.sqrt(far[counts]), np.sqrt(near[counts]))
    return float(np.degrees(np.mean(angle)))


def ergas(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    ratio: float = RATIO,
) -> float:
    """Relative global error, 100 ratio sqrt(mean over bands of (RMSE / mean of truth)^2); 0 best.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W)
    clear : ndarray of bool (H, W), optional
    ratio : float
        Size of a predicted pixel over that of an observed one, as Wald has it: 1/4. Some libraries
        take its inverse, which makes the error 16 times larger.

    Returns
    -------
    float
        NaN where no pixel counts or a band of the truth has a mean that is not positive.

    References
    ----------
    Wald 2000, Quality of high resolution synthesised images: is there a simple criterion?
    """
    x, y, counts = images(truth, predicted, clear)
    n = counts.sum()
    if not n:
        return np.nan
    mean = np.where(counts, x, 0).sum(axis=(1, 2), dtype=np.float64) / n
    if (mean <= 0).any():
        return np.nan
    power = _mean_square_error(x, y, counts)
    return float(100 * ratio * np.sqrt(np.mean(power / mean**2)))


def spectrum_error(
    truth: np.ndarray, predicted: np.ndarray, clear: np.ndarray | None = None, factor: int = 4
) -> float:
    """Difference of the power at fine scales: mean over the bands of `spectrum_error_per_band`."""
    return float(np.mean(spectrum_error_per_band(truth, predicted, clear, factor)))


def spectrum_error_per_band(
    truth: np.ndarray, predicted: np.ndarray, clear: np.ndarray | None = None, factor: int = 4
) -> FloatArray:
    """Mean absolute difference of the radial power spectra at fine scales, 0 (best) to 100 dB.

    Only wavelengths between 2 and 2 `factor` pixels count: detail that the coarse grid can't hold.
    Pixels that do not count are set to the mean and the image is tapered (Hann), both images alike.
    Where the detail lies is not asked: that is for the other scores.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W) or (H, W)
    clear : ndarray of bool (H, W), optional
    factor : int
        Fine pixels along the side of a coarse one.

    Returns
    -------
    ndarray of float64 (bands,)
        NaN where no pixel counts.
    """
    x, y, counts = images(truth, predicted, clear)
    if not counts.any():
        return np.full(len(x), np.nan)
    ring = _rings(counts.shape)
    low, high = (side // 2 for side in (min(counts.shape) // factor, min(counts.shape)))
    errors = []
    for pair in zip(x, y, strict=True):
        power, other = (
            np.bincount(ring, _power(band, counts).ravel(), minlength=high + 1)[low + 1 : high + 1]
            for band in pair
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            decibel = 10 * np.abs(np.log10(other / power))
        # a flat image has no power at all: infinitely wrong, but a mean must stay a number
        errors.append(np.mean(np.minimum(np.nan_to_num(decibel, nan=0.0), WORST_SPECTRUM)))
    return np.array(errors)


@dataclass(frozen=True)
class SubPixelShift:
    """How far a prediction lies off the truth.

    Attributes
    ----------
    row, col : float
        Pixels by which the prediction has to be moved to lie on the truth.
    correlation : float
        Of the two images' detail once it is moved, -1..1; low where the estimate means little.
    """

    row: float
    col: float
    correlation: float

    @property
    def length(self) -> float:
        """Pixels, without direction."""
        return float(np.hypot(self.row, self.col))


def sub_pixel_shift(
    truth: np.ndarray,
    predicted: np.ndarray,
    clear: np.ndarray | None = None,
    max_shift: float = 4.0,
) -> SubPixelShift:
    """Estimate a shift to fractions of a pixel: that of the least variance of the difference.

    The variance over the clear pixels of truth - prediction, as a function of the shift, is made of
    correlations, which the Fourier transform evaluates at any fraction of a pixel ("upsampled"). It
    is pooled over the bands in proportion to the truth's variance, and its minimum looked for on
    grids of 1/2, 1/8 and 1/64 pixel and then by a parabola. Pixels that the largest shift could
    move over the border have no weight.

    Amplitudes are kept. To whiten them, as in phase correlation proper, gives a voice of the same
    strength to the frequencies that were aliased when the observation was made, and moved resampled
    observations of real scenes by up to one pixel.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W) or (H, W)
    clear : ndarray of bool (H, W), optional
        Of the truth.
    max_shift : float
        Pixels along either axis.

    Returns
    -------
    SubPixelShift
        NaN where no pixel counts or an image is flat.

    References
    ----------
    Guizar-Sicairos, Thurman, Fienup 2008, doi:10.1364/OL.33.000156. Padfield 2012,
    doi:10.1109/TIP.2011.2181402.
    """
    x, y, counts = images(truth, predicted, clear, moves=True)
    if min(counts.shape) <= 4 * max_shift:
        raise DataError(
            f"images of {counts.shape[0]} x {counts.shape[1]} pixels are too small to find a shift "
            f"of {max_shift}; more than four times that is needed"
        )
    x, y = x.astype(np.float64), y.astype(np.float64)
    nothing = SubPixelShift(np.nan, np.nan, np.nan)
    if not counts.any():
        return nothing
    level = np.mean(x, axis=(1, 2), where=counts, keepdims=True)
    x, y = np.where(counts, x - level, 0), y - level
    spread = np.var(x, axis=(1, 2), where=counts, keepdims=True)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    taper = np.outer(*(_edge_taper(side, max_shift) for side in counts.shape))
    mask, window = fft.rfft2(counts.astype(float)), fft.rfft2(taper).conj()
    one, squares = fft.rfft2(x), fft.rfft2(np.square(x, out=x))
    weighted = taper * y
    other = fft.rfft2(weighted)
    weighted *= y
    other_squares = fft.rfft2(weighted)
    for spectrum in (other, other_squares):
        np.conjugate(spectrum, out=spectrum)
    del x, y, weighted
    pairs = [(mask, window), (one, window), (squares, window)]
    pairs += [(mask, other), (mask, other_squares), (one, other)]

    def moments(rows: FloatArray, cols: FloatArray) -> list[FloatArray]:
        """Variances of truth and prediction and their covariance, each (bands, rows, cols)."""
        n, sum_x, sum_xx, sum_y, sum_yy, sum_xy = (
            _lags(a * b, counts.shape, rows, cols) for a, b in pairs
        )
        # shifts at which next to nothing is left in common are no candidates
        n = np.where(n > 1e-3 * n.max(), n, np.nan)
        of_x, of_y = sum_xx / n - (sum_x / n) ** 2, sum_yy / n - (sum_y / n) ** 2
        return [scale * moment for moment in (of_x, of_y, sum_xy / n - sum_x * sum_y / n**2)]

    row = col = 0.0
    for reach, step in ((max_shift, 1 / 2), (1 / 2, 1 / 8), (1 / 8, 1 / 64)):
        steps = np.arange(-round(reach / step), round(reach / step) + 1) * step
        rows, cols = row + steps, col + steps
        of_x, of_y, common = moments(rows, cols)
        surface = (of_x + of_y - 2 * common).sum(axis=0)
        if not np.isfinite(surface).any():
            return nothing
        i, j = (int(k) for k in np.unravel_index(np.nanargmin(surface), surface.shape))
        row, col = float(rows[i]), float(cols[j])
    row += _vertex(surface[i - 1 : i + 2, j]) * step
    col += _vertex(surface[i, j - 1 : j + 2]) * step
    row, col = (float(np.clip(place, -max_shift, max_shift)) for place in (row, col))
    pooled = [float(m.sum()) for m in moments(np.array([row]), np.array([col]))]
    if min(pooled[:2]) <= _FLAT:
        return nothing
    correlation = pooled[2] / (pooled[0] * pooled[1]) ** 0.5
    return SubPixelShift(row, col, float(np.clip(correlation, -1, 1)))


def _edge_taper(side: int, width: float) -> FloatArray:
    """Weights of a line of pixels: 0 for a width at both ends, then rising over as much to 1."""
    place = (np.arange(side) + 0.5 - width) / max(width, 1)
    return np.sin(np.pi / 2 * np.clip(np.minimum(place, place[::-1]), 0, 1)) ** 2


def _vertex(three: FloatArray) -> float:
    """Position of the extremum of a parabola through three points at -1, 0, 1; 0 at the edge."""
    if len(three) < 3 or not np.isfinite(three).all():
        return 0.0
    before, here, after = three
    curvature = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / curvature, -1, 1)) if curvature > 0 else 0.0


def local_mean(image: np.ndarray, clear: np.ndarray, size: int = 3) -> tuple[FloatArray, BoolArray]:
    """Mean of the size x size pixels around each pixel, and where all of them are clear.

    Parameters
    ----------
    image : ndarray of float (..., H, W)
    clear : ndarray of bool (H, W)
    size : int
        Odd.

    Returns
    -------
    means : ndarray of float (..., H, W)
        Of no meaning where they are not clear.
    clear : ndarray of bool (H, W)
        False along the border too.
    """
    if size < 1 or size % 2 == 0:
        raise DataError(f"a window around a pixel has an odd size, not {size}")
    filled = np.where(clear, image, 0)
    mean = ndimage.uniform_filter(filled, size, axes=(-2, -1))
    return mean, _all_clear(clear, size, same_size=True)


def images(
    truth: np.ndarray, predicted: np.ndarray, clear: np.ndarray | None, moves: bool = False
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return both images (bands, H, W), finite everywhere, and where they count (H, W).

    A prediction that moves over the truth counts everywhere.
    """
    x, y = np.asarray(truth), np.asarray(predicted)
    if x.shape != y.shape or x.ndim not in (2, 3) or not x.size:
        raise DataError(
            "two images (bands, rows, columns) of one shape are compared, with at least one pixel; "
            f"the truth has {x.shape}, the prediction {y.shape}"
        )
    dtype = np.float32 if x.dtype == y.dtype == np.float32 else np.float64
    x, y = (one.reshape(-1, *one.shape[-2:]).astype(dtype, copy=False) for one in (x, y))
    if clear is None:
        counts = np.ones(x.shape[1:], bool)
    else:
        counts = np.asarray(clear, bool)
        if counts.shape != x.shape[1:]:
            raise DataError(f"the images have {x.shape[1:]} pixels, the clear mask {counts.shape}")
    if not _surely_finite(x):
        counts = counts & np.isfinite(x).all(axis=0)
        x = np.where(counts, x, 0).astype(dtype)
    if not _surely_finite(y):
        wrong = ~np.isfinite(y) & (moves | counts)
        if wrong.any():
            band, row, col = (int(i) for i in np.argwhere(wrong)[0])
            raise PredictionError(
                f"the prediction is {y[band, row, col]} in band {band} at row {row}, column {col}, "
                f"and not finite at {wrong.sum()} places; only finite numbers can be scored"
            )
        y = np.where(np.isfinite(y), y, 0).astype(dtype)
    return x, y, counts


def _surely_finite(image: FloatArray) -> bool:
    # a sum is several times as fast as asking every pixel; what overflows is asked
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(image)))


def _mean_square_error(
    x: FloatArray, y: FloatArray, counts: BoolArray, forgiven: float = 0.0
) -> FloatArray:
    """Return the mean square of y - x in each band, less a bias up to what is forgiven."""
    n, masked = int(counts.sum()), ~counts
    if not n:
        return np.full(len(x), np.nan)
    error = _workspace.take("error", counts.shape, np.float64)
    power = np.empty(len(x))
    with np.errstate(over="ignore", invalid="ignore"):
        for band in range(len(x)):
            np.subtract(y[band], x[band], out=error, dtype=np.float64)
            np.copyto(error, 0, where=masked)
            if forgiven:
                error -= np.clip(error.sum() / n, -forgiven, forgiven)
                np.copyto(error, 0, where=masked)
            power[band] = _square_sum(error) / n
    return np.where(np.isnan(power), np.inf, power)


def _square_sum(field: FloatArray) -> float:
    # not by BLAS, which would share it out among threads
    return float(np.einsum("ij,ij->", field, field))


def _decibel(power: FloatArray, value_range: float) -> FloatArray:
    floor = 10 ** (-BEST_DECIBEL / 10)
    return -10 * np.log10(np.maximum(power / value_range**2, floor))


def _register(
    x: FloatArray, y: FloatArray, counts: BoolArray, max_shift: int, value_range: float
) -> Registered:
    """Score the best shift: roughly at all of them, exactly at those that may be the best."""
    height, width = counts.shape
    if max_shift < 0 or min(height, width) <= 2 * max_shift:
        raise DataError(
            f"images of {height} x {width} pixels have no inner part {max_shift} pixels off the "
            "border; take larger images or a smaller shift"
        )
    best = Registered(np.nan, (0, 0), np.full(len(x), np.nan))
    if not counts.any():
        return best
    at_most = _decibels_at_most(x, y, counts, max_shift, value_range)
    lags = np.arange(-max_shift, max_shift + 1)
    length = np.hypot(lags[:, None], lags).ravel()
    # best first, and the shorter of two that are equally good
    for place in np.lexsort((length, -at_most.ravel())):
        if at_most.ravel()[place] + _TIE < best.score:
            break
        row, col = (int(lags[i]) for i in np.unravel_index(place, at_most.shape))
        shared = _laid_over(x, y, counts, (row, col), max_shift)
        power = _mean_square_error(*shared, forgiven=_FAR * value_range)
        per_band = _decibel(power, value_range)
        score = float(per_band.mean())
        longer = np.hypot(row, col) - np.hypot(*best.shift)
        if not score <= best.score + (_TIE if longer >= 0 else -_TIE) and not np.isnan(score):
            best = Registered(score, (row, col), per_band)
    return best


def _decibels_at_most(
    x: FloatArray, y: FloatArray, counts: BoolArray, max_shift: int, value_range: float
) -> FloatArray:
    """Upper bound of the mean decibel at each shift, (2 max_shift + 1)^2, close above it.

    The variance of truth - prediction is put together from sums over the pixels that count; those
    of products are correlations, made by the Fourier transform in single precision and evaluated
    at the few lags wanted. As the prediction is zero along its border, nothing wraps around.
    """
    shape = counts.shape
    lags = np.arange(-max_shift, max_shift + 1)
    field, weight = (_workspace.take(name, shape, np.float32) for name in ("field", "weight32"))
    weight[...] = counts
    masked = ~counts
    mask = fft.rfft2(weight) if masked.any() else None

    n, n_clear = np.rint(_window_sums(weight, max_shift)), int(counts.sum())
    norm_m = n_clear**0.5
    total = np.zeros(n.shape)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for truth, predicted in zip(x, y, strict=True):
            # near zero the differences of sums below keep their digits
            np.copyto(field, truth, casting="same_kind")
            np.copyto(field, 0, where=masked)
            level = float(field.sum()) / n_clear
            field -= np.float32(level)
            np.copyto(field, 0, where=masked)
            sum_x, product = _window_sums(field, max_shift), fft.rfft2(field)
            field *= field
            sum_xx, norm_x = _window_sums(field, max_shift), float(field.sum()) ** 0.5
            # a prediction that is thousands of ranges off must not drown the others
            far = _FAR * value_range
            np.clip(predicted, level - far, level + far, out=field, casting="same_kind")
            field -= np.float32(level)
            _clear_border(field, max_shift)
            transformed = fft.rfft2(field)
            np.conjugate(transformed, out=transformed)
            product *= transformed
            product *= -2
            sum_y: FloatArray = np.asarray(field.sum(), np.float64)
            field *= field
            sum_yy = float(field.sum())
            norm_y, norm_yy = sum_yy**0.5, _square_sum(field) ** 0.5
            if mask is None:
                sums = _lags(product, shape, lags, lags) + sum_yy
            else:
                transformed *= mask
                sum_y = _lags(transformed, shape, lags, lags)
                transformed = fft.rfft2(field)
                np.conjugate(transformed, out=transformed)
                transformed *= mask
                product += transformed
                sums = _lags(product, shape, lags, lags)
            power = (sums + sum_xx - (sum_y - sum_x) ** 2 / n) / n
            # a correlation is off by some share of the product of both norms
            off = 2 * norm_x * norm_y + norm_x**2 + norm_m * norm_yy
            off = off + 2 * np.abs(sum_y - sum_x) / n * norm_m * (norm_x + norm_y)
            total += _decibel(power - _ROUNDING * off / n, value_range)
    # what overflowed has to be looked at
    return np.where(n > 0, np.nan_to_num(total / len(x), nan=np.inf), -np.inf)


def _clear_border(field: FloatArray, width: int) -> None:
    if width:
        field[:width] = field[-width:] = 0
        field[:, :width] = field[:, -width:] = 0


def _window_sums(field: FloatArray, max_shift: int) -> FloatArray:
    """Return the sum over the inner part of a field as it is moved, at each shift (rows, cols)."""
    for _ in range(2):
        # all lines but those that a shift leaves behind at either end
        behind = np.zeros((2 * max_shift + 1, field.shape[1]))
        behind[1:] = np.cumsum(field[: 2 * max_shift], axis=0)
        behind[:-1] += np.cumsum(field[::-1][: 2 * max_shift], axis=0)[::-1]
        field = (field.sum(axis=0) - behind).T
    return field


def _lags(
    spectrum: NDArray[np.complexfloating],
    shape: tuple[int, ...],
    rows: NDArray[np.number],
    cols: NDArray[np.number],
) -> FloatArray:
    """Inverse of rfft2 at some rows and columns only, fractions allowed, (..., rows, cols)."""
    down, across = _lag_matrices(shape, tuple(rows), tuple(cols), spectrum.dtype)
    return _product(_product(down, spectrum), across).real.astype(np.float64)


@lru_cache(maxsize=16)
def _lag_matrices(
    shape: tuple[int, int], rows: tuple[float, ...], cols: tuple[float, ...], dtype: np.dtype
) -> tuple[FloatArray, FloatArray]:
    height, width = shape
    down = np.exp(2j * np.pi * np.outer(rows, np.fft.fftfreq(height))) / (height * width)
    across = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(width), cols)) * _columns(shape)[:, None]
    return down.astype(dtype), across.astype(dtype)


def _product(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return left @ right, in pieces so small that BLAS starts no threads, which cost more here."""
    step = max(1, _THREADED // (left.shape[-2] * left.shape[-1]))
    if step >= right.shape[-1]:
        return left @ right
    pieces = [left @ right[..., k : k + step] for k in range(0, right.shape[-1], step)]
    return np.concatenate(pieces, axis=-1)


def _columns(shape: tuple[int, ...]) -> FloatArray:
    """How often each column of rfft2 stands in the full transform, whose other half it mirrors."""
    times = np.full(shape[1] // 2 + 1, 2.0)
    times[0] = 1
    if shape[1] % 2 == 0:
        times[-1] = 1
    return times


def _laid_over(
    x: FloatArray, y: FloatArray, counts: BoolArray, shift: tuple[int, int], max_shift: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return truth, inner prediction and what counts, over the pixels that they share."""
    (height, width), (row, col) = counts.shape, shift
    if max(abs(row), abs(col)) > max_shift:
        raise DataError(f"a shift of {shift} is more than the {max_shift} pixels allowed")
    on_truth = np.s_[
        max_shift + row : height - max_shift + row, max_shift + col : width - max_shift + col
    ]
    inner = np.s_[max_shift : height - max_shift, max_shift : width - max_shift]
    return x[:, *on_truth], y[:, *inner], counts[on_truth]


def _ssim(x: FloatArray, y: FloatArray, counts: BoolArray, value_range: float) -> FloatArray:
    """Mean similarity of each band over the windows in which every pixel counts."""
    if min(counts.shape) <= 2 * _RADIUS:
        return np.full(len(x), np.nan)
    masked = full = None
    if not counts.all():
        masked, full = ~counts, _all_clear(counts, 2 * _RADIUS + 1)
        if not full.any():
            return np.full(len(x), np.nan)
    c1, c2 = (_K1 * value_range) ** 2, (_K2 * value_range) ** 2
    means = np.empty(len(x))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for band, pair in enumerate(zip(x, y, strict=True)):
            similarity = _similarity(*pair, masked, c1, c2)
            means[band] = similarity.mean() if full is None else similarity[full].mean()
    if np.isfinite(means).all():
        return means
    if x.dtype == np.float32:
        return _ssim(x.astype(np.float64), y.astype(np.float64), counts, value_range)
    # so far off that its squares are no numbers any more: nothing alike
    return np.where(np.isfinite(means), means, 0.0)


def _similarity(
    x: FloatArray, y: FloatArray, masked: BoolArray | None, c1: float, c2: float
) -> FloatArray:
    """Similarity of each window of one band, (H - 10, W - 10).

    With u = x + y and v = x - y four blurred images are enough: those of u, v, u^2 and v^2 give
    both means, the covariance and the sum of the variances.
    """
    fields = _workspace.take("fields", (4, *x.shape), x.dtype)
    u, v = fields[:2]
    # a level near zero keeps E[u^2] - E[u]^2 from losing digits; it is put back for the means
    twice_level = 2 * (x.mean() if masked is None else x[~masked].mean())
    np.subtract(x, y, out=v)
    np.add(x, y, out=u)
    u -= twice_level
    if masked is not None:
        # windows that hold one are dropped, but share their matrix products with others
        np.copyto(fields[:2], 0, where=masked)
    np.multiply(fields[:2], fields[:2], out=fields[2:])
    mean_u, mean_v, var_u, var_v = _blurred(fields)
    square_u, square_v = _workspace.take("squares", (2, *mean_u.shape), x.dtype)
    np.multiply(mean_v, mean_v, out=square_v)
    var_v -= square_v
    np.multiply(mean_u, mean_u, out=square_u)
    var_u -= square_u
    mean_u += twice_level
    np.multiply(mean_u, mean_u, out=square_u)
    # twice the products of the usual formula, above and below the line
    square_u += 2 * c1
    var_u += 2 * c2
    similarity = np.subtract(square_u, square_v, out=mean_u)
    similarity *= np.subtract(var_u, var_v, out=mean_v)
    square_u += square_v
    var_u += var_v
    square_u *= var_u
    similarity /= square_u
    return similarity


def _blurred(fields: FloatArray) -> FloatArray:
    """Gaussian means of all windows inside of some fields, (k, H, W) -> (k, H - 10, W - 10).

    As products with short banded matrices, block by block: several times as fast as sliding along.
    The array returned is used again by the next call.
    """
    k, height, width = fields.shape
    inner_height, inner_width = height - 2 * _RADIUS, width - 2 * _RADIUS
    rows = _workspace.take("rows", (k, inner_height, width), fields.dtype)
    out = _workspace.take("blurred", (k, inner_height, inner_width), fields.dtype)
    for block in _blocks(inner_height, _ROWS_AT_ONCE):
        np.matmul(
            _window_matrix(block.length, fields.dtype),
            block.of(fields, axis=1, further=2 * _RADIUS),
            out=block.of(rows, axis=1),
        )
    for block in _blocks(inner_width, _COLS_AT_ONCE):
        np.matmul(
            block.of(rows, axis=2, further=2 * _RADIUS),
            _window_matrix(block.length, fields.dtype).T,
            out=block.of(out, axis=2),
        )
    return out


class _Blocks(NamedTuple):
    """So many blocks of a length, one after the other."""

    start: int
    number: int
    length: int

    def of(self, fields: FloatArray, axis: int, further: int = 0) -> FloatArray:
        """View (k, number, ...) of the blocks along an axis of contiguous fields (k, H, W).

        Each may reach further, over those that follow it.
        """
        shape, strides = list(fields.shape), fields.strides
        shape[axis] = self.length + further
        return np.ndarray(
            (shape[0], self.number, *shape[1:]),
            fields.dtype,
            fields.data,
            self.start * strides[axis],
            (strides[0], self.length * strides[axis], *strides[1:]),
        )


def _blocks(n: int, length: int) -> list[_Blocks]:
    whole, rest = divmod(n, length)
    blocks = [_Blocks(0, whole, length), _Blocks(whole * length, 1, rest)]
    return [block for block in blocks if block.number and block.length]


@lru_cache(maxsize=64)
def _window_matrix(size: int, dtype: np.dtype) -> FloatArray:
    weight = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    matrix = np.zeros((size, size + 2 * _RADIUS))
    for row in range(size):
        matrix[row, row : row + 2 * _RADIUS + 1] = weight / weight.sum()
    return matrix.astype(dtype)


def _all_clear(clear: BoolArray, size: int, same_size: bool = False) -> BoolArray:
    """Where all pixels of the windows of an odd size are clear; (H, W) or that less size - 1."""
    clear = np.asarray(clear, bool)
    if same_size:
        clear = np.pad(clear, size // 2)
    for axis in (0, 1):
        done = 1
        while done < size:
            step = min(done, size - done)
            n = clear.shape[axis] - step
            clear = np.take(clear, range(n), axis) & np.take(clear, range(step, n + step), axis)
            done += step
    return clear


def _rings(shape: tuple[int, ...]) -> NDArray[np.int_]:
    """Number of the ring of each frequency, in cycles per shorter side."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    return np.rint(np.hypot(fy, fx) * min(shape)).astype(int).ravel()


def _power(field: FloatArray, counts: BoolArray) -> FloatArray:
    return np.abs(fft.rfft2(_tapered(field, counts))) ** 2 * _columns(counts.shape)


def _tapered(field: FloatArray, counts: BoolArray) -> FloatArray:
    taper = np.outer(*(np.hanning(side + 2)[1:-1] for side in field.shape))
    mean = np.sum(field * taper, where=counts) / np.sum(taper, where=counts)
    return np.where(counts, field - mean, 0) * taper
