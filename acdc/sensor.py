"""How an instrument sees: what several fine pixels become in one coarse pixel, and the way back.

`Imager`, `Shift` and `Chain` are linear operators with an exact adjoint; `Noise` is what the
detector adds. `SENTINEL2` and `SPOT` say what is known of the bands.

A thermal sensor adds up radiance. Over a narrow span of temperatures that is the flux T^4, so the
temperature of a coarse pixel is (mean T^4)^(1/4); it differs from the plain mean by hundredths of
a kelvin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol

import numpy as np
from scipy import optimize, sparse

from acdc.errors import DataError

_LANCZOS = 6


def aggregate(values: np.ndarray, factor: int, min_share: float = 0.5) -> np.ndarray:
    """Mean of blocks of `factor` x `factor` pixels; what is not finite does not count.

    Parameters
    ----------
    values : ndarray of float (..., H, W)
        H and W are multiples of `factor`.
    factor : int
        At least 1.
    min_share : float
        A block with a smaller share of finite pixels becomes NaN.

    Returns
    -------
    ndarray of float64 (..., H / factor, W / factor)

    Raises
    ------
    ValueError
        When the grid can't be divided.
    """
    values = np.asarray(values, dtype=np.float64)
    height, width = values.shape[-2:]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"a grid of {height} x {width} pixels has no blocks of {factor}")
    shape = (*values.shape[:-2], height // factor, factor, width // factor, factor)
    blocks = values.reshape(shape)
    known = np.isfinite(blocks)
    if known.all():
        return blocks.mean(axis=(-3, -1))
    count = known.sum(axis=(-3, -1))
    total = np.where(known, blocks, 0).sum(axis=(-3, -1))
    enough = (count > 0) & (count >= min_share * factor**2)
    return np.where(enough, total / np.maximum(count, 1), np.nan)


def aggregate_flux(temperature: np.ndarray, factor: int, min_share: float = 0.5) -> np.ndarray:
    """Temperature of blocks of pixels as a radiometer sees it: (mean T^4)^(1/4).

    Parameters
    ----------
    temperature : ndarray of float (..., H, W)
        Kelvin; NaN where unknown.
    factor : int
        Fine pixels along the side of a coarse one.
    min_share : float
        A coarse pixel of which a smaller share is known is NaN.

    Returns
    -------
    ndarray of float64 (..., H / factor, W / factor)
        Kelvin.
    """
    fine = np.asarray(temperature, dtype=np.float64)
    return np.sqrt(np.sqrt(aggregate(np.square(np.square(fine)), factor, min_share)))


def repeat(coarse: np.ndarray, factor: int) -> np.ndarray:
    """Each coarse pixel as `factor` x `factor` equal fine ones, (..., h, w) -> (..., H, W)."""
    return np.repeat(np.repeat(coarse, factor, axis=-2), factor, axis=-1)


def project_flux(temperature: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Scale a fine field, block by block, so that its flux aggregate equals the coarse one.

    Every fine pixel is multiplied by T_coarse / (mean T^4)^(1/4) of its block: exact in one step,
    never negative, and contrasts within a block keep their proportion.

    Parameters
    ----------
    temperature : ndarray of float (..., H, W)
        Kelvin; NaN where unknown.
    coarse : ndarray of float (..., h, w)
        Kelvin; H and W are the same multiple of h and w. Where it is NaN, or its block is
        unknown, the fine field stays as it is.

    Returns
    -------
    ndarray of float64 (..., H, W)

    Raises
    ------
    ValueError
        When the grids are not nested.
    """
    fine, coarse = np.asarray(temperature, np.float64), np.asarray(coarse, np.float64)
    factor = fine.shape[-1] // max(coarse.shape[-1], 1)
    if fine.shape[-2:] != (coarse.shape[-2] * factor, coarse.shape[-1] * factor):
        raise ValueError(f"grids {fine.shape[-2:]} and {coarse.shape[-2:]} are not nested")
    ratio = coarse / aggregate_flux(fine, factor, min_share=0.0)
    return fine * repeat(np.where(np.isfinite(ratio), ratio, 1.0), factor)


@dataclass(frozen=True)
class Band:
    """One spectral band of an imager.

    Attributes
    ----------
    pixel_size : float
        Metres on the ground.
    mtf : float
        Modulation transfer at the Nyquist frequency of that pixel size, 0..1.
    snr : float
        Signal over the standard deviation of the noise; NaN where nothing is published.
    reference : float
        Top-of-atmosphere reflectance, under an overhead sun, at which `snr` holds.
    """

    pixel_size: float
    mtf: float
    snr: float = math.nan
    reference: float = math.nan


def _msi(pixel_size: float, mtf: float, snr: float, radiance: float, irradiance: float) -> Band:
    return Band(pixel_size, mtf, snr, math.pi * radiance / irradiance)


SENTINEL2: Mapping[str, Band] = MappingProxyType(
    {
        "B01": _msi(60, 0.32, 129, 129, 1884.69),
        "B02": _msi(10, 0.26, 154, 128, 1959.66),
        "B03": _msi(10, 0.28, 168, 128, 1823.24),
        "B04": _msi(10, 0.24, 142, 108, 1512.06),
        "B05": _msi(20, 0.38, 117, 74.5, 1424.64),
        "B06": _msi(20, 0.34, 89, 68, 1287.61),
        "B07": _msi(20, 0.34, 105, 67, 1162.08),
        "B08": _msi(10, 0.26, 174, 103, 1041.63),
        "B8A": _msi(20, 0.33, 72, 52.5, 955.32),
        "B09": _msi(60, 0.26, 114, 9, 812.92),
        "B11": _msi(20, 0.22, 100, 4, 245.59),
        "B12": _msi(20, 0.23, 100, 1.5, 85.25),
    }
)
"""Bands of Sentinel-2's MultiSpectral Instrument.

MTF measured in flight, the set that the sharpening literature uses (e.g. the code published with
Armannsson et al. 2021, doi:10.3390/rs13112192). The signal to noise ratio is what the mission
requires at its reference radiance (ESA Sentinel-2 User Handbook 2015, W m-2 sr-1 um-1), turned into
reflectance by the solar irradiance in Sentinel-2A's product metadata (W m-2 um-1); in flight it is
better.
"""

SPOT: Mapping[str, Band] = MappingProxyType(
    {
        "pan": Band(1.5, 0.15),
        "red": Band(6, 0.29),
        "green": Band(6, 0.29),
        "blue": Band(6, 0.29),
        "nir": Band(6, 0.29),
    }
)
"""Bands of SPOT 6 and 7 (NAOMI) on the grids of their products.

No MTF measured in flight was at hand: these are the values that the pansharpening literature
assumes for imagers without one (Vivone et al. 2015, doi:10.1109/TGRS.2014.2361734). Noise: none.
"""


class Operator(Protocol):
    """A linear map of images; `adjoint` is its transpose: <forward(x), y> = <x, adjoint(y)>."""

    def forward(self, image: np.ndarray) -> np.ndarray:
        """Apply the map to an image (..., H, W)."""

    def adjoint(self, image: np.ndarray) -> np.ndarray:
        """Apply the transposed map to what `forward` would return."""


@dataclass(frozen=True)
class Imager:
    """What an imager sees of finer pixels: its point spread, and one value per coarse pixel.

    Along rows and along columns alike a coarse pixel is

        y_i = sum_j k(j) x(factor i + j),    k = box(factor) * Gaussian

    that is the mean over the detector's square, blurred by optics and motion. The Gaussian's width
    is solved for such that the transfer function of k at the coarse grid's Nyquist frequency,
    1 / (2 factor) cycles per fine pixel, is the MTF. Coarse pixel i is centred on the fine pixels
    factor i .. factor (i + 1) - 1.

    Beyond the border the ground is mirrored (the border pixel repeated), which keeps two things
    exact: a constant image stays constant up to the border, and the mean of every image is kept.

    Attributes
    ----------
    mtf : tuple of float
        Of each band at the coarse Nyquist frequency; below that of the detector alone, which is
        1 / (factor sin(pi / (2 factor))): .653 for 4.
    factor : int
        Fine pixels along the side of a coarse one.

    Examples
    --------
    >>> eye = Imager.of([SENTINEL2[name] for name in ("B04", "B03", "B02", "B08")], 2.5)
    >>> eye.forward(np.full((4, 256, 256), 0.2)).shape
    (4, 64, 64)
    """

    mtf: tuple[float, ...]
    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1 or not self.mtf:
            raise DataError(
                f"an imager needs at least one band and a factor of 1 or more, not "
                f"{len(self.mtf)} bands and factor {self.factor}"
            )
        for mtf in self.mtf:
            point_spread(mtf, self.factor)

    @classmethod
    def of(cls, bands: Sequence[Band], pixel_size: float) -> Imager:
        """Return the imager of some bands, for an image with pixels of a size in metres.

        Raises
        ------
        DataError
            The bands differ in pixel size, or it is no multiple of the image's.
        """
        sizes = {band.pixel_size for band in bands}
        factor = round(bands[0].pixel_size / pixel_size) if len(sizes) == 1 else 0
        if factor < 1 or not math.isclose(factor * pixel_size, bands[0].pixel_size):
            raise DataError(
                f"bands of {sorted(sizes)} m can't be made of pixels of {pixel_size} m: take bands "
                "of one pixel size that is a multiple of it"
            )
        return cls(tuple(band.mtf for band in bands), factor)

    def forward(self, image: np.ndarray) -> np.ndarray:
        """See an image.

        Parameters
        ----------
        image : ndarray of float (..., bands, H, W)
            Fine pixels; H and W are multiples of the factor.

        Returns
        -------
        ndarray of float (..., bands, H / factor, W / factor)
            float32 for float32, else float64.
        """
        image = _floats(image)
        height, width = image.shape[-2:]
        if height % self.factor or width % self.factor:
            raise DataError(
                f"an image of {height} x {width} pixels can't be seen by an imager of factor "
                f"{self.factor}; crop it to a multiple"
            )
        return self._apply(image, height, width, transposed=False)

    def adjoint(self, image: np.ndarray) -> np.ndarray:
        """Spread coarse pixels over the fine ones by which they were seen.

        Parameters
        ----------
        image : ndarray of float (..., bands, h, w)

        Returns
        -------
        ndarray of float (..., bands, h factor, w factor)
        """
        image = _floats(image)
        height, width = (side * self.factor for side in image.shape[-2:])
        return self._apply(image, height, width, transposed=True)

    def _apply(self, image: np.ndarray, height: int, width: int, transposed: bool) -> np.ndarray:
        if image.ndim < 3 or image.shape[-3] != len(self.mtf):
            raise DataError(
                f"this imager has {len(self.mtf)} bands and wants (..., bands, rows, columns), "
                f"not {image.shape}"
            )
        seen = []
        for band, mtf in enumerate(self.mtf):
            rows, cols = (_decimation(mtf, self.factor, n, image.dtype) for n in (height, width))
            if transposed:
                rows, cols = rows.T, cols.T
            seen.append(_along_both(rows, cols, image[..., band, :, :]))
        return np.stack(seen, axis=-3)


@dataclass(frozen=True)
class Shift:
    """A displacement of the content by (row, col) pixels, fractions allowed.

    Interpolates by a Lanczos kernel of radius 6 whose weights are scaled to a sum of one; whole
    pixels are moved exactly. Beyond the border the image is mirrored.

    Attributes
    ----------
    row, col : float
        Pixels, towards larger rows and columns: forward(x)[r, c] = x[r - row, c - col].
    """

    row: float
    col: float

    def forward(self, image: np.ndarray) -> np.ndarray:
        """Displace an image (..., H, W); float32 for float32, else float64."""
        return self._apply(image, transposed=False)

    def adjoint(self, image: np.ndarray) -> np.ndarray:
        """Apply the transpose, which inside of the image is about the way back."""
        return self._apply(image, transposed=True)

    def _apply(self, image: np.ndarray, transposed: bool) -> np.ndarray:
        image = _floats(image)
        if image.ndim < 2:
            raise DataError(f"an image (..., rows, columns) is shifted, not {image.shape}")
        height, width = image.shape[-2:]
        rows, cols = (
            _displacement(by, n, image.dtype) for by, n in ((self.row, height), (self.col, width))
        )
        return _along_both(rows.T, cols.T, image) if transposed else _along_both(rows, cols, image)


@dataclass(frozen=True)
class Chain:
    """Operators one after the other, the first one first."""

    operators: tuple[Operator, ...]

    def forward(self, image: np.ndarray) -> np.ndarray:
        """Apply all, from the first to the last."""
        for operator in self.operators:
            image = operator.forward(image)
        return image

    def adjoint(self, image: np.ndarray) -> np.ndarray:
        """Apply all adjoints, from the last to the first."""
        for operator in reversed(self.operators):
            image = operator.adjoint(image)
        return image


@dataclass(frozen=True)
class Noise:
    """Noise of a detector: a constant part and the photons' own.

    The variance at reflectance x is

        (reference / snr)^2 (dark + (1 - dark) max(x, 0) / reference)

    Gaussian, independent from pixel to pixel and from band to band.

    Attributes
    ----------
    snr : tuple of float
        Of each band at its reference.
    reference : tuple of float
        Reflectance of each band.
    dark : float
        Share of the variance at the reference that stays without light, 0..1. An assumption: only
        the sum of both parts is published per band.
    """

    snr: tuple[float, ...]
    reference: tuple[float, ...]
    dark: float = 0.2

    def __post_init__(self) -> None:
        figures = np.array([self.snr, self.reference])
        if figures.ndim != 2 or not (figures > 0).all() or not 0 <= self.dark <= 1:
            raise DataError(
                "noise needs, band by band, a ratio and a reference above 0 and a dark share of 0 "
                f"to 1, not {self}; for a band without published figures, state your own"
            )

    @classmethod
    def of(cls, bands: Sequence[Band]) -> Noise:
        """Return the noise of some bands by their published signal to noise ratios."""
        return cls(tuple(b.snr for b in bands), tuple(b.reference for b in bands))

    def deviation(self, image: np.ndarray) -> np.ndarray:
        """Return the standard deviation of each pixel of an image (..., bands, h, w)."""
        image = _floats(image)
        if image.ndim < 3 or image.shape[-3] != len(self.snr):
            raise DataError(
                f"noise of {len(self.snr)} bands wants (..., bands, rows, columns), "
                f"not {image.shape}"
            )
        snr, reference = (
            np.array(v, image.dtype)[:, None, None] for v in (self.snr, self.reference)
        )
        light = (1 - self.dark) * np.maximum(image, 0) / reference
        return reference / snr * np.sqrt(self.dark + light)

    def add(self, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return an image (..., bands, h, w) with a fresh draw of noise."""
        deviation = self.deviation(image)
        return image + deviation * random.standard_normal(deviation.shape, deviation.dtype)


@lru_cache(maxsize=256)
def point_spread(mtf: float, factor: int) -> np.ndarray:
    """Return the kernel of an `Imager` along one axis; its sum is 1, its mirror image itself.

    Parameters
    ----------
    mtf : float
        Modulation transfer at the coarse Nyquist frequency.
    factor : int
        Fine pixels along the side of a coarse one.

    Returns
    -------
    ndarray of float64 (factor + 2 r,), read-only
        Centred on the coarse pixel; r reaches to 5 standard deviations of the Gaussian.

    Raises
    ------
    DataError
        No Gaussian reaches this MTF: it is not positive, or that of the detector alone or more.
    """
    frequency = 1 / (2 * factor)
    detector = 1 / (factor * math.sin(math.pi * frequency))
    if not 0 < mtf < detector:
        raise DataError(
            f"an MTF of {mtf} at Nyquist is impossible for a detector of {factor} pixels, which "
            f"alone has {detector:.4f}; it has to lie between 0 and that"
        )
    # that of the continuous Gaussian; sampled and cut off it needs a slightly different one
    sigma = factor / math.pi * math.sqrt(2 * math.log(detector / mtf))
    radius = math.ceil(5 * sigma) + 1
    offset = np.arange(-radius, radius + 1)

    def gaussian(sigma: float) -> np.ndarray:
        weights = np.exp(-0.5 * (offset / sigma) ** 2)
        return weights / weights.sum()

    def excess(sigma: float) -> float:
        transfer = gaussian(sigma) @ np.cos(2 * np.pi * frequency * offset)
        return float(detector * transfer - mtf)

    solved = optimize.brentq(excess, 1e-2, max(1.25 * sigma, 1.0), xtol=1e-14)
    kernel = np.convolve(np.full(factor, 1 / factor), gaussian(solved))
    kernel.setflags(write=False)
    return kernel


@lru_cache(maxsize=128)
def _decimation(mtf: float, factor: int, n: int, dtype: np.dtype) -> sparse.csr_array:
    kernel = point_spread(mtf, factor)
    first = -(len(kernel) - factor) // 2
    position = np.arange(0, n, factor)[:, None] + np.arange(first, first + len(kernel))
    return _mirrored(position, np.broadcast_to(kernel, position.shape), n, dtype)


@lru_cache(maxsize=128)
def _displacement(by: float, n: int, dtype: np.dtype) -> sparse.csr_array:
    source = np.arange(n) - by
    position = np.floor(source).astype(int)[:, None] + np.arange(1 - _LANCZOS, _LANCZOS + 1)
    distance = position - source[:, None]
    weight = np.sinc(distance) * np.sinc(distance / _LANCZOS)
    return _mirrored(position, weight / weight.sum(axis=1, keepdims=True), n, dtype)


def _mirrored(
    position: np.ndarray, weight: np.ndarray, n: int, dtype: np.dtype
) -> sparse.csr_array:
    """Matrix whose row i weighs pixels position[i] of a line of n, mirrored at its ends."""
    position = np.mod(position, 2 * n)
    position = np.where(position < n, position, 2 * n - 1 - position)
    row = np.repeat(np.arange(len(position)), position.shape[1])
    entries = (weight.ravel(), (row, position.ravel()))
    matrix = sparse.csr_array(entries, shape=(len(position), n))
    matrix.sum_duplicates()
    return matrix.astype(dtype)


def _along_both(rows: sparse.csr_array, cols: sparse.csr_array, image: np.ndarray) -> np.ndarray:
    """Return rows @ image @ cols.T for each image of a stack (..., H, W)."""
    stack = image.reshape(-1, *image.shape[-2:])
    out = np.stack([(cols @ (rows @ one).T).T for one in stack])
    return out.reshape(*image.shape[:-2], *out.shape[-2:])


def _floats(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    return image if image.dtype in (np.float32, np.float64) else image.astype(np.float64)
