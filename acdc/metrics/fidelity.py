"""How close a predicted image is to the true one: arrays in, numbers out.

Images are (bands, H, W) reflectances, or (H, W) for a single band. A pixel counts where `clear` is
true (all, without one) and the truth is finite in every band. Where nothing counts a score is NaN.
A prediction that is not finite where it counts is refused: dropping such pixels would let it choose
what it is judged by.

The best decibel is 80: a mean square error below 1e-8 (for a range of 1) is as good as none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided
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
_BLOCK = 16  # rows of windows that one matrix product makes: shorter wastes calls, longer zeros
_PHASE_WIDTH = 0.125  # cycles per pixel
_TIE = 1e-9  # decibels within which two shifts are equally good


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
    if not counts.any():
        return np.full(len(x), np.nan)
    error = np.subtract(y, x, dtype=np.float64)
    return _decibel(_mean_square(error, counts, counts.sum()), value_range)


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

    (the variance being the mean square error once the mean difference is gone) is taken band by
    band and averaged over the bands. The best average is the score. One shift holds for all bands,
    and the prediction is never resampled: a search in fractions of a pixel would be a free
    low-pass. Among equally good shifts the shortest wins.

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
    shift = _best_shift(x, y, counts, max_shift, value_range)
    x, y, counts = _laid_over(x, y, counts, shift, max_shift)
    n = counts.sum()
    if not n:
        return Registered(np.nan, (0, 0), np.full(len(x), np.nan))
    error = np.subtract(y, x, dtype=np.float64)
    error -= np.sum(error, axis=(1, 2), where=counts, keepdims=True) / n
    per_band = _decibel(_mean_square(error, counts, n), value_range)
    return Registered(float(per_band.mean()), shift, per_band)


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
        shift = _best_shift(x, y, counts, max_shift, value_range)
    x, y, counts = _laid_over(x, y, counts, shift, max_shift)
    if not counts.any():
        return Registered(np.nan, shift, np.full(len(x), np.nan))
    bias = np.mean(y, axis=(1, 2), where=counts, keepdims=True) - np.mean(
        x, axis=(1, 2), where=counts, keepdims=True
    )
    per_band = _ssim(x, y - bias, counts, value_range)
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
    x, y = x.astype(np.float64), y.astype(np.float64)
    lengths = [np.sqrt(np.einsum("bij,bij->ij", one, one)) for one in (x, y)]
    counts = counts & (lengths[0] > 0) & (lengths[1] > 0)
    if not counts.any():
        return np.nan
    for one, length in zip((x, y), lengths, strict=True):
        one /= np.where(counts, length, 1)
    far, near = x - y, x + y
    angle = 2 * np.arctan2(
        np.sqrt(np.einsum("bij,bij->ij", far, far)), np.sqrt(np.einsum("bij,bij->ij", near, near))
    )
    return float(np.degrees(np.mean(angle[counts])))


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
    error = np.subtract(y, x, dtype=np.float64)
    power = _mean_square(error, counts, n)
    mean = np.sum(x, axis=(1, 2), where=counts, dtype=np.float64) / n
    if (mean <= 0).any():
        return np.nan
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
    """Estimate a shift to fractions of a pixel, by phase correlation of all bands together.

    The phase of the cross spectrum, summed over the bands, is weighted by a Gaussian low-pass (half
    a cycle in 4 pixels: beyond it super-resolved images have the least in common with the truth)
    and turned back into a correlation, whose peak is looked for on a grid of 1/8 pixel, and around
    it of 1/100 pixel. Images are tapered (Hann) and pixels that do not count set to the mean, which
    draws the estimate towards zero where many are missing.

    Parameters
    ----------
    truth, predicted : ndarray of float (bands, H, W) or (H, W)
    clear : ndarray of bool (H, W), optional
    max_shift : float
        Pixels along either axis.

    Returns
    -------
    SubPixelShift
        NaN where no pixel counts or an image is flat.

    References
    ----------
    Guizar-Sicairos, Thurman, Fienup 2008, doi:10.1364/OL.33.000156. Stone et al. 2001,
    doi:10.1109/36.957286.
    """
    x, y, counts = images(truth, predicted, clear)
    nothing = SubPixelShift(np.nan, np.nan, np.nan)
    if not counts.any():
        return nothing
    one, other = (
        fft.rfft2(np.stack([_tapered(band, counts) for band in image])) for image in (x, y)
    )
    cross = np.einsum("bij,bij->ij", one, other.conj())
    power = [float(np.sum(np.abs(f) ** 2 * _columns(counts.shape))) for f in (one, other)]
    size = np.abs(cross)
    if min(power) <= 0 or size.max() <= 0:
        return nothing
    row, col = (np.fft.fftfreq(counts.shape[0])[:, None], np.fft.rfftfreq(counts.shape[1]))
    low_pass = np.exp(-0.5 * (row**2 + col**2) / _PHASE_WIDTH**2)
    # a frequency without power has no phase
    phase = low_pass * cross / np.maximum(size, 1e-12 * size.max())
    centre = np.zeros(2)
    for reach, step in ((max_shift, 0.125), (0.125, 0.01)):
        steps = np.arange(-round(reach / step), round(reach / step) + 1) * step
        rows, cols = (np.clip(c + steps, -max_shift, max_shift) for c in centre)
        table = _lags(phase, counts.shape, rows, cols)
        i, j = np.unravel_index(np.argmax(table), table.shape)
        centre = np.array([rows[i], cols[j]])
    common = _lags(cross, counts.shape, centre[:1], centre[1:])[0, 0] * counts.size
    return SubPixelShift(
        float(centre[0]), float(centre[1]), float(common / np.sqrt(power[0] * power[1]))
    )


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
    """Return both images (bands, H, W), zero where nothing counts, and where they count (H, W).

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
    if not _surely_finite(y):
        wrong = ~np.isfinite(y) & (moves | counts)
        if wrong.any():
            band, row, col = (int(i) for i in np.argwhere(wrong)[0])
            raise PredictionError(
                f"the prediction is {y[band, row, col]} in band {band} at row {row}, column {col}, "
                f"and not finite at {wrong.sum()} places; only finite numbers can be scored"
            )
    if not counts.all():
        x = np.where(counts, x, x.dtype.type(0))
        y = y if moves else np.where(counts, y, y.dtype.type(0))
    return x, y, counts


def _surely_finite(image: FloatArray) -> bool:
    # a sum is several times as fast as asking every pixel; what overflows is asked
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.sum(image)))


def _mean_square(error: FloatArray, counts: BoolArray, n: int) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.sum(error**2, axis=(1, 2), where=counts) / n


def _decibel(power: FloatArray, value_range: float) -> FloatArray:
    floor = 10 ** (-BEST_DECIBEL / 10)
    return -10 * np.log10(np.maximum(power / value_range**2, floor))


def _best_shift(
    x: FloatArray, y: FloatArray, counts: BoolArray, max_shift: int, value_range: float
) -> tuple[int, int]:
    """Shift (row, col) at which the mean decibel is best; (0, 0) where nothing counts.

    At each shift the variance of truth - prediction is put together from six sums over the pixels
    that count; those of products are correlations, made by the Fourier transform and evaluated at
    the few lags wanted. As the prediction is zero along its border, nothing wraps around.
    """
    height, width = counts.shape
    if max_shift < 0 or min(height, width) <= 2 * max_shift:
        raise DataError(
            f"images of {height} x {width} pixels have no inner part {max_shift} pixels off the "
            "border; take larger images or a smaller shift"
        )
    if max_shift == 0 or not counts.any():
        return 0, 0
    inner = np.zeros(counts.shape, bool)
    inner[max_shift : height - max_shift, max_shift : width - max_shift] = True
    # near zero the differences of sums below keep their digits
    level = np.mean(x, axis=(1, 2), where=counts, keepdims=True, dtype=np.float64)
    # a prediction that is thousands of ranges off must not drown the sums of the others
    y = np.clip(y - level, -1e3 * value_range, 1e3 * value_range) * inner
    x = (x - level) * counts
    lags = np.arange(-max_shift, max_shift + 1)
    windows = [
        np.array([np.arange(side) - max_shift - lag for lag in lags]) for side in counts.shape
    ]
    windows = [
        ((place >= 0) & (place < place.shape[1] - 2 * max_shift)).astype(np.float64)
        for place in windows
    ]

    def within(field: FloatArray) -> FloatArray:
        return windows[0] @ field @ windows[1].T

    transformed = fft.rfft2(x), fft.rfft2(y)
    product = _lags(transformed[0] * transformed[1].conj(), counts.shape, lags, lags)
    if counts.all():
        n = np.full((len(lags),) * 2, float(inner.sum()))
        predicted = y.sum(axis=(1, 2))[:, None, None], (y**2).sum(axis=(1, 2))[:, None, None]
    else:
        n = within(counts.astype(np.float64))
        mask = fft.rfft2(counts.astype(np.float64))
        predicted = (
            _lags(mask * transformed[1].conj(), counts.shape, lags, lags),
            _lags(mask * fft.rfft2(y**2).conj(), counts.shape, lags, lags),
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = (predicted[0] - within(x)) / n
        power = (predicted[1] - 2 * product + within(x**2)) / n - mean**2
        decibel = _decibel(power, value_range).mean(axis=0)
    decibel = np.where((n > 0.5) & ~np.isnan(decibel), decibel, -np.inf)
    length = np.hypot(lags[:, None], lags)
    good = decibel >= decibel.max() - _TIE
    i, j = np.unravel_index(np.argmin(np.where(good, length, np.inf)), length.shape)
    return int(lags[i]), int(lags[j])


def _lags(
    spectrum: NDArray[np.complexfloating],
    shape: tuple[int, ...],
    rows: NDArray[np.number],
    cols: NDArray[np.number],
) -> FloatArray:
    """Inverse of rfft2 at some rows and columns only, fractions allowed, (..., rows, cols)."""
    height, width = shape
    down = np.exp(2j * np.pi * np.outer(rows, np.fft.fftfreq(height)))
    across = np.exp(2j * np.pi * np.outer(np.fft.rfftfreq(width), cols)) * _columns(shape)[:, None]
    return (down @ spectrum @ across).real / (height * width)


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
    full = None if counts.all() else _all_clear(counts, 2 * _RADIUS + 1)
    if full is not None and not full.any():
        return np.full(len(x), np.nan)
    c1, c2 = (_K1 * value_range) ** 2, (_K2 * value_range) ** 2
    means = np.empty(len(x))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for band, pair in enumerate(zip(x, y, strict=True)):
            similarity = _similarity(*pair, counts if full is not None else None, c1, c2)
            means[band] = similarity.mean() if full is None else similarity[full].mean()
    if np.isfinite(means).all():
        return means
    if x.dtype == np.float32:
        return _ssim(x.astype(np.float64), y.astype(np.float64), counts, value_range)
    # so far off that its squares are no numbers any more: nothing alike
    return np.where(np.isfinite(means), means, 0.0)


def _similarity(
    x: FloatArray, y: FloatArray, counts: BoolArray | None, c1: float, c2: float
) -> FloatArray:
    """Similarity of each window of one band, (H - 10, W - 10).

    With u = x + y and v = x - y four blurred images are enough: those of u, v, u^2 and v^2 give
    both means, the covariance and the sum of the variances.
    """
    # a level near zero keeps E[u^2] - E[u]^2 from losing digits; it is put back for the means
    level = x.dtype.type(x.mean() if counts is None else x[counts].mean())
    fields = np.empty((4, *x.shape), x.dtype)
    u, v = fields[0], fields[1]
    np.subtract(x, y, out=v)
    np.add(x, y, out=u)
    u -= 2 * level
    np.multiply(fields[:2], fields[:2], out=fields[2:])
    mean_u, mean_v, var_u, var_v = _blurred(fields)
    square_v = mean_v * mean_v
    var_v -= square_v
    var_u -= np.multiply(mean_u, mean_u, out=mean_v)
    mean_u += 2 * level
    square_u = np.multiply(mean_u, mean_u, out=mean_u)
    # twice the products of the usual formula, above and below the line
    covariance = np.subtract(var_u, var_v, out=mean_v)
    covariance += 2 * c2
    variances = np.add(var_u, var_v, out=var_u)
    variances += 2 * c2
    similarity = np.subtract(square_u, square_v, out=var_v)
    similarity += 2 * c1
    similarity *= covariance
    variances *= np.add(square_u, square_v, out=square_u) + 2 * c1
    similarity /= variances
    return similarity


def _blurred(fields: FloatArray) -> FloatArray:
    """Gaussian means of all windows inside of some fields, (k, H, W) -> (k, H - 10, W - 10).

    As products with short banded matrices, block by block: several times as fast as sliding along.
    """
    k, height, width = fields.shape
    rows = np.empty((k, height - 2 * _RADIUS, width), fields.dtype)
    for matrix, source, target in _blocks(fields, rows, axis=1):
        np.matmul(matrix, source, out=target)
    out = np.empty((k, height - 2 * _RADIUS, width - 2 * _RADIUS), fields.dtype)
    for matrix, source, target in _blocks(rows, out, axis=2):
        np.matmul(source, matrix.T, out=target)
    return out


def _blocks(
    source: FloatArray, target: FloatArray, axis: int
) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
    """Window matrix, overlapping blocks of the source and blocks of the target, along an axis."""
    n = target.shape[axis]
    whole, rest = divmod(n, _BLOCK)
    parts = []
    for count, size, start in ((whole, _BLOCK, 0), (min(rest, 1), rest, whole * _BLOCK)):
        if count:
            inside = _strided(source, axis, start, count, size + 2 * _RADIUS)
            outside = _strided(target, axis, start, count, size)
            parts.append((_window_matrix(size, source.dtype), inside, outside))
    return parts


def _strided(array: FloatArray, axis: int, start: int, count: int, length: int) -> FloatArray:
    """View (k, count, ...) of `count` blocks of a length that begin every _BLOCK pixels."""
    shape, strides = list(array.shape), list(array.strides)
    begin = array[:, start:] if axis == 1 else array[:, :, start:]
    shape[axis] = length
    return as_strided(
        begin,
        (shape[0], count, *shape[1:]),
        (strides[0], _BLOCK * strides[axis], *strides[1:]),
    )


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
