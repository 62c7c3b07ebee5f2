"""From a place's images to chips: what is given, 10 m, and what is wanted, 2.5 m.

The grid is Sentinel-2's own, so what participants get is not resampled once more (only a revisit
on another grid than most is). Its bands of 20 and 60 m come repeated or interpolated at 10 m, as
they were delivered. SPOT is averaged over quarters of these pixels, weighted by area.

SPOT lies some metres off and its counts are no exact reflectance. Both are found by comparing it,
seen through Sentinel-2's point spread, with the composite of clear revisits nearest in time, and
are corrected in the truth alone: nothing of SPOT touches the inputs.

SPOT's panchromatic band sees no near infrared: detail of 2.5 m in that band is pan-sharpening.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import ndimage, sparse

from acdc import sensor
from acdc.tracks.worldstrat.archive import BANDS, SPOT_BANDS, Defect, Place, Raw, Revisit

SIDE, FACTOR, REVISITS = 64, 4, 8
SCALE = 10_000  # stored counts per reflectance
# Sentinel-2's bands that are nearest to SPOT's
LIKE_SPOT = tuple(BANDS.index(name) for name in ("B04", "B03", "B02", "B08"))
_SEARCH = 4  # pixels of 10 m
_NEAREST = 4  # clear revisits in the composite with which SPOT is compared
_LEAST_VALID = 0.5
_LEAST_CORRELATION = 0.3
_STRUCTURE = 0.015  # deviation of reflectance in some band from which a place has any
# SPOT has no cloud mask: what is brighter by this than Sentinel-2 was, in the blue, is one
_SPOT_CLOUD = 0.12
_SWAPPED = 0.05
_GAINS = (0.3, 3.0)
_MARGIN = 8  # pixels of the truth: room around it for the point spread
_EYE = sensor.Imager.of([sensor.SENTINEL2[BANDS[i]] for i in LIKE_SPOT], 2.5)

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Chip:
    """One sample and its truth.

    Attributes
    ----------
    place : Place
    row, col : int
        Its first pixel on the place's Sentinel-2 grid.
    lon, lat : float
        Of its middle, in the coordinates of the images: degrees where WorldStrat's are.
    bands : ndarray of float32 (8, 12, 64, 64)
        Reflectance of the revisits, rising days; 0 where nothing was measured.
    clear : ndarray of bool (8, 64, 64)
        Neither cloud nor fill value. A place with fewer revisits is filled up with empty ones:
        all 0, nothing clear, days 0.
    days : ndarray of float32 (8,)
        From the SPOT image.
    target : ndarray of float32 (4, 256, 256)
        Reflectance in red, green, blue, near infrared; 0 where it is not valid.
    valid : ndarray of bool (256, 256)
        Where SPOT has data, no cloud, and at least one revisit is clear.
    shift : tuple of float
        (row, col) in target pixels by which SPOT lay off; it is corrected in `target`.
    registered : bool
        Whether that could be found; if not it is 0.
    gain, offset : ndarray of float (4,)
        target = gain x counts / 10,000 + offset.
    correlation : float
        Of Sentinel-2's composite and the corrected truth at 10 m, mean over bands.
    """

    place: Place
    row: int
    col: int
    lon: float
    lat: float
    bands: np.ndarray
    clear: np.ndarray
    days: np.ndarray
    target: np.ndarray
    valid: np.ndarray
    shift: tuple[float, float]
    registered: bool
    gain: np.ndarray
    offset: np.ndarray
    correlation: float


@dataclass(frozen=True)
class Sharp:
    """The SPOT image of a place, ready to be averaged.

    Attributes
    ----------
    weighted : ndarray of float32 (5, H, W)
        Counts / 10,000 in four bands, 0 without data; and 1 where there are data, else 0.
    transform : tuple of float
        Of its pixels, degrees.
    """

    weighted: np.ndarray
    transform: Transform

    @classmethod
    def of(cls, raw: Raw) -> Sharp:
        """The one of a place."""
        known: np.ndarray = np.min(raw.spot, axis=0) > 0
        bands = np.where(known, raw.spot, 0).astype(np.float32) / np.float32(SCALE)
        return cls(np.concatenate([bands, known[None].astype(np.float32)]), raw.transform)


@dataclass(frozen=True)
class _Window:
    """A chip's square on the grid of a place, before anything is known of SPOT."""

    row: int
    col: int
    bands: np.ndarray
    clear: np.ndarray
    days: np.ndarray
    composite: np.ndarray  # (4, 64, 64), NaN where nothing is clear


def make(raw: Raw, across: int = 1) -> tuple[list[Chip], list[Defect]]:
    """Cut chips out of the middle of a place.

    Parameters
    ----------
    raw : Raw
    across : int
        At most this many chips along each side.

    Returns
    -------
    list of Chip
        Empty when the place is too small or no chip is usable.
    list of Defect
        What was left out or could not be corrected.
    """
    name = raw.place.name
    defects: list[Defect] = []
    transform, crs, revisits = _on_one_grid(raw.revisits, name, defects)
    sharp = Sharp.of(raw)
    usable: list[tuple[_Window, tuple[float, float], bool, np.ndarray]] = []
    for window in _windows(revisits, across, name, defects):
        grid = _moved(transform, window.row, window.col)
        found = register(sharp, window.composite, grid, crs)
        if found is None:
            where = f"chip {window.row}, {window.col}"
            # calm water and bare plains have nothing to match; anything else should
            if np.nanstd(window.composite, axis=(1, 2)).max() > _STRUCTURE:
                reason = "SPOT does not show what Sentinel-2 does: clouds, change or another place"
                defects.append(Defect(name, where, reason, True))
                continue
            reason = "Sentinel-2 and SPOT show no common structure; left where SPOT's bounds say"
            defects.append(Defect(name, where, reason, False))
        shift = found if found is not None else (0.0, 0.0)
        usable.append((window, shift, found is not None, quarter(sharp, grid, crs, shift)))
    if not usable:
        return [], defects
    pairs = [(window.composite, seen(counts)) for window, _, _, counts in usable]
    order = _band_order(pairs)
    if order is not None:
        reason = f"bands look swapped: Sentinel-2 fits SPOT's as {', '.join(order)}"
        return [], [*defects, Defect(name, "ps", reason, True)]
    gain, offset = calibrate(
        np.concatenate([composite.reshape(4, -1) for composite, _ in pairs], axis=1),
        np.concatenate([low.reshape(4, -1) for _, low in pairs], axis=1),
    )
    made = []
    for window, shift, registered, counts in usable:
        chip = _finish(raw, window, shift, registered, counts, gain, offset, transform)
        share = chip.valid.mean()
        if share < _LEAST_VALID:
            reason = f"only {share:.0%} of the truth is valid"
            defects.append(Defect(name, f"chip {window.row}, {window.col}", reason, True))
            continue
        made.append(chip)
    return made, defects


def _finish(
    raw: Raw,
    window: _Window,
    shift: tuple[float, float],
    registered: bool,
    counts: np.ndarray,
    gain: np.ndarray,
    offset: np.ndarray,
    transform: Transform,
) -> Chip:
    target = gain[:, None, None] * counts + offset[:, None, None]
    low = gain[:, None, None] * seen(counts) + offset[:, None, None]
    known = np.isfinite(window.composite).all(axis=0)
    cloud = ndimage.binary_dilation(low[2] - window.composite[2] > _SPOT_CLOUD, iterations=2)
    target = target[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    valid = sensor.repeat(known & ~cloud, FACTOR) & np.isfinite(target).all(axis=0)
    middle = (window.row + SIDE / 2, window.col + SIDE / 2)
    _, _, lon, _, _, lat = _moved(transform, *middle)
    return Chip(
        place=raw.place,
        row=window.row,
        col=window.col,
        lon=lon,
        lat=lat,
        bands=window.bands,
        clear=window.clear,
        days=window.days,
        target=np.where(valid, np.clip(target, 0, 65_535 / SCALE), 0).astype(np.float32),
        valid=valid,
        shift=shift,
        registered=registered,
        gain=gain,
        offset=offset,
        correlation=float(np.mean(_correlations(window.composite, low))),
    )


def _moved(transform: Transform, row: float, col: float) -> Transform:
    a, b, c, d, e, f = transform
    return a, b, c + col * a + row * b, d, e, f + col * d + row * e


def _on_one_grid(
    revisits: Sequence[Revisit], name: str, defects: list[Defect]
) -> tuple[Transform, str, list[Revisit]]:
    """The grid that most revisits have, and all revisits on it."""

    def grid(revisit: Revisit) -> tuple[object, ...]:
        # grids that differ by less than a hundredth of a pixel are one
        a, _, c, _, e, f = revisit.transform
        corner = (round(c / a * 100), round(f / e * 100), round(a * 1e9), round(e * 1e9))
        return (*revisit.bands.shape[1:], revisit.crs, *corner)

    most, _ = Counter(grid(revisit) for revisit in revisits).most_common(1)[0]
    model = next(revisit for revisit in revisits if grid(revisit) == most)
    same = []
    for revisit in revisits:
        if grid(revisit) != most:
            defects.append(
                Defect(name, f"L2A {revisit.n}", "lies on another grid; resampled", False)
            )
            revisit = _resampled(revisit, model)
        same.append(revisit)
    return model.transform, model.crs, same


def _resampled(revisit: Revisit, model: Revisit) -> Revisit:
    from rasterio import Affine
    from rasterio.warp import Resampling, reproject

    shape = model.bands.shape[1:]
    where = {
        "src_transform": Affine(*revisit.transform),
        "src_crs": revisit.crs,
        "dst_transform": Affine(*model.transform),
        "dst_crs": model.crs,
    }
    bands = np.full((len(revisit.bands), *shape), np.nan, np.float32)
    reproject(
        revisit.bands,
        bands,
        src_nodata=np.nan,
        dst_nodata=np.nan,
        resampling=Resampling.cubic,
        **where,
    )
    clear = np.zeros(shape, np.uint8)
    reproject(revisit.clear.astype(np.uint8), clear, resampling=Resampling.nearest, **where)
    known = np.isfinite(bands).all(axis=0)
    return Revisit(revisit.n, revisit.days, bands, (clear > 0) & known, model.transform, model.crs)


def _windows(
    revisits: list[Revisit], across: int, name: str, defects: list[Defect]
) -> list[_Window]:
    """Squares in the middle of the grid, each with its best revisits."""
    height, width = revisits[0].bands.shape[1:]
    down, right = min(across, height // SIDE), min(across, width // SIDE)
    if not down or not right:
        reason = f"has {height} x {width} pixels, expected at least {SIDE} x {SIDE}"
        defects.append(Defect(name, "L2A", reason, True))
        return []
    first = (height - down * SIDE) // 2, (width - right * SIDE) // 2
    windows = []
    for i in range(down):
        for j in range(right):
            row, col = first[0] + i * SIDE, first[1] + j * SIDE
            window = _window(revisits, row, col)
            share = np.isfinite(window.composite[0]).mean()
            if share < _LEAST_VALID:
                reason = f"only {share:.0%} was ever clear in {len(revisits)} revisits"
                defects.append(Defect(name, f"chip {row}, {col}", reason, True))
                continue
            windows.append(window)
    return windows


def _window(revisits: list[Revisit], row: int, col: int) -> _Window:
    box = np.s_[row : row + SIDE, col : col + SIDE]
    clear_share = [revisit.clear[box].mean() for revisit in revisits]
    days = np.array([revisit.days for revisit in revisits])
    away = np.nan_to_num(np.abs(days), nan=np.inf)
    # the clearest, by tenths; of those alike the ones nearest to SPOT
    best = np.lexsort((away, -np.round(clear_share, 1)))[:REVISITS]
    best = best[np.argsort(np.nan_to_num(days[best], nan=np.inf), kind="stable")]
    bands = np.zeros((REVISITS, len(BANDS), SIDE, SIDE), np.float32)
    clear = np.zeros((REVISITS, SIDE, SIDE), bool)
    when = np.zeros(REVISITS, np.float32)
    for k, i in enumerate(best):
        bands[k] = np.nan_to_num(revisits[i].bands[(slice(None), *box)])
        clear[k] = revisits[i].clear[box]
        when[k] = np.nan_to_num(days[i])
    return _Window(row, col, bands, clear, when, composite(bands, clear, when))


def composite(bands: np.ndarray, clear: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Median of the up to four clear observations of each pixel nearest to SPOT's day.

    Parameters
    ----------
    bands : ndarray (T, 12, h, w)
    clear : ndarray of bool (T, h, w)
    days : ndarray (T,)

    Returns
    -------
    ndarray of float64 (4, h, w)
        Red, green, blue, near infrared; NaN where nothing is clear.
    """
    order = np.argsort(np.abs(days), kind="stable")
    clear = clear[order]
    nearest = clear & (np.cumsum(clear, axis=0) <= _NEAREST)
    values = np.where(nearest[:, None], bands[order][:, LIKE_SPOT], np.nan).astype(float)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=0))


def quarter(sharp: Sharp, grid: Transform, crs: str, shift: tuple[float, float]) -> np.ndarray:
    """SPOT averaged over quarters of a chip's pixels.

    Parameters
    ----------
    sharp : Sharp
    grid : tuple of float
        Transform of the chip's 64 x 64 pixels.
    crs : str
        Of that transform.
    shift : tuple of float
        (row, col) in target pixels: where the ground is that SPOT shows at a place, from there.

    Returns
    -------
    ndarray of float64 (4, 272, 272)
        Counts / 10,000; a margin of 8 pixels around the 256. NaN where SPOT has no data.
    """
    a, b, c, d, e, f = _moved(grid, (shift[0] - _MARGIN) / FACTOR, (shift[1] - _MARGIN) / FACTOR)
    n = SIDE * FACTOR + 2 * _MARGIN
    fine = (a / FACTOR, b / FACTOR, c, d / FACTOR, e / FACTOR, f)
    if crs == "EPSG:4326" and not (b or d):
        height, width = sharp.weighted.shape[1:]
        right, _, left, _, down, top = sharp.transform
        rows = _overlap(n, (fine[5] - top) / down, fine[4] / down, height)
        cols = _overlap(n, (fine[2] - left) / right, fine[0] / right, width)
        total = np.stack([(cols @ (rows @ image).T).T for image in sharp.weighted])
    else:
        total = _reprojected(sharp.weighted, sharp.transform, fine, crs, n)
    # nearly all of a pixel has to be known, or its mean is that of another place
    enough = total[4] > 0.999
    return np.where(enough, total[:4] / np.where(enough, total[4], 1), np.nan)


def _overlap(n: int, start: float, step: float, length: int) -> sparse.csr_array:
    """Mean over n intervals of `step` pixels from `start`, as weights on a line of pixels."""
    edge = start + step * np.arange(n + 1)
    reach = int(np.ceil(step)) + 1
    first = np.floor(edge[:-1]).astype(int)
    pixel = first[:, None] + np.arange(reach)
    low = np.maximum(edge[:-1, None], pixel)
    high = np.minimum(edge[1:, None], pixel + 1)
    weight = np.clip(high - low, 0, None) / step
    inside = (pixel >= 0) & (pixel < length) & (weight > 0)
    row = np.broadcast_to(np.arange(n)[:, None], pixel.shape)
    entries = (weight[inside], (row[inside], pixel[inside]))
    return sparse.csr_array(entries, shape=(n, length))


def _reprojected(
    stack: np.ndarray, source: Transform, target: Transform, crs: str, n: int
) -> np.ndarray:
    from rasterio import Affine
    from rasterio.warp import Resampling, reproject

    out = np.zeros((len(stack), n, n))
    reproject(
        stack,
        out,
        src_transform=Affine(*source),
        src_crs="EPSG:4326",
        dst_transform=Affine(*target),
        dst_crs=crs,
        resampling=Resampling.average,
    )
    return out


def seen(counts: np.ndarray) -> np.ndarray:
    """The truth (4, 272, 272) as Sentinel-2 would see it, (4, 64, 64); NaN where it is unknown."""
    known = np.isfinite(counts).all(axis=0)
    if not known.any():
        return np.full((4, SIDE, SIDE), np.nan)
    filled = counts
    if not known.all():
        nearest = ndimage.distance_transform_edt(
            ~known, return_distances=False, return_indices=True
        )
        filled = counts[:, nearest[0], nearest[1]]
    edge = _MARGIN // FACTOR
    inner = np.s_[edge:-edge, edge:-edge]
    low = _EYE.forward(filled)[(slice(None), *inner)]
    all_known = sensor.aggregate(known.astype(float), FACTOR)[inner] == 1
    return np.where(all_known, low, np.nan)


def register(
    sharp: Sharp, wanted: np.ndarray, grid: Transform, crs: str
) -> tuple[float, float] | None:
    """Find by how much SPOT lies off Sentinel-2.

    Whole pixels by the highest correlation within 4; then Gauss-Newton steps on shift, and gain
    and offset of every band, until it moves by less than a hundredth of a target pixel.

    Parameters
    ----------
    sharp : Sharp
    wanted : ndarray (4, 64, 64)
        Sentinel-2's composite; NaN unknown.
    grid : tuple of float
        Transform of its pixels.
    crs : str

    Returns
    -------
    tuple of float or None
        (row, col) in target pixels, positive where SPOT shows the ground too far down or right.
        None: the images correlate by less than .3, or best at the limit of the search.
    """
    low = seen(quarter(sharp, grid, crs, (0.0, 0.0)))
    score = {
        (row, col): _shifted_correlation(wanted, low, row, col)
        for row in range(-_SEARCH, _SEARCH + 1)
        for col in range(-_SEARCH, _SEARCH + 1)
    }
    best = max(score, key=lambda where: score[where])
    if not score[best] >= _LEAST_CORRELATION or max(map(abs, best)) == _SEARCH:
        return None
    shift = np.array(best, float) * FACTOR
    for _ in range(12):
        step = FACTOR * _step(wanted, seen(quarter(sharp, grid, crs, (shift[0], shift[1]))))
        shift = shift + np.clip(step, -FACTOR, FACTOR)
        if np.abs(step).max() < 0.01:
            break
    if np.abs(shift - FACTOR * np.array(best)).max() > 1.5 * FACTOR:
        return None
    return float(shift[0]), float(shift[1])


def _shifted_correlation(wanted: np.ndarray, low: np.ndarray, row: int, col: int) -> float:
    edge = slice(_SEARCH, SIDE - _SEARCH)
    moved = np.s_[:, _SEARCH + row : SIDE - _SEARCH + row, _SEARCH + col : SIDE - _SEARCH + col]
    return float(np.mean(_correlations(wanted[:, edge, edge], low[moved])))


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each band, over pixels that both know; 0 where a band is constant or too little known."""
    known = np.isfinite(one).all(axis=0) & np.isfinite(other).all(axis=0)
    if known.sum() < 100:
        return np.zeros(len(one))
    x, y = (image[:, known] - image[:, known].mean(axis=1, keepdims=True) for image in (one, other))
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.asarray((x * y).sum(axis=1) / np.where(norm > 1e-12, norm, np.inf))


def _step(wanted: np.ndarray, low: np.ndarray) -> np.ndarray:
    """By how many pixels of 10 m `low` has still to be taken further down and right."""
    known = np.isfinite(wanted).all(axis=0) & np.isfinite(low).all(axis=0)
    known = ndimage.binary_erosion(known, iterations=1)
    normal, right = np.zeros((2, 2)), np.zeros(2)
    for image, model in zip(wanted, low, strict=True):
        slopes = np.stack([g[known] for g in np.gradient(model)])
        base = np.stack([model[known], np.ones(known.sum())], axis=1)
        # what gain and offset explain is no displacement
        both = np.column_stack([image[known], slopes.T])
        rest = both - base @ np.linalg.lstsq(base, both, rcond=None)[0]
        gain = np.linalg.lstsq(base, image[known], rcond=None)[0][0]
        residual, slopes = rest[:, 0], gain * rest[:, 1:].T
        # fields that changed between the dates shall not pull
        scale = 1.4826 * np.median(np.abs(residual)) + 1e-9
        weight = 1 / (1 + (residual / (2 * scale)) ** 2) / scale**2
        normal += (slopes * weight) @ slopes.T
        right += (slopes * weight) @ residual
    return np.linalg.lstsq(normal, right, rcond=None)[0]


def calibrate(wanted: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset that turn SPOT's counts into Sentinel-2's reflectance, band by band.

    Theil's median of slopes, then least squares without what is off by more than 2.5 robust
    deviations: that changed between the dates, or is cloud.

    Parameters
    ----------
    wanted, counts : ndarray (4, n)
        Composite reflectance and counts / 10,000 at 10 m; NaN unknown.

    Returns
    -------
    gain, offset : ndarray (4,)
        Where a band has too little contrast for a gain of .3 to 3 it is the ratio of the means,
        and the offset 0.
    """
    gain, offset = np.ones(4), np.zeros(4)
    for band, (y, x) in enumerate(zip(wanted, counts, strict=True)):
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        if not len(x):
            continue
        fitted = _robust_line(x, y)
        if fitted is not None and _GAINS[0] <= fitted[0] <= _GAINS[1]:
            gain[band], offset[band] = fitted
        else:
            gain[band] = np.clip(y.mean() / max(x.mean(), 1e-4), *_GAINS)
    return gain, offset


def _robust_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Slope and intercept; None when the slope is uncertain by more than a tenth."""
    half = len(x) // 2
    order = np.argsort(x, kind="stable")
    low, high = order[:half], order[half : 2 * half]
    apart = x[high] - x[low]
    if half < 10 or np.median(apart) < 1e-6:
        return None
    # Theil's median of slopes to start with: least squares would keep what pulls it
    slope = float(np.median((y[high] - y[low])[apart > 0] / apart[apart > 0]))
    residual = y - slope * x
    for _ in range(5):
        centre = np.median(residual)
        spread = 1.4826 * np.median(np.abs(residual - centre))
        keep = np.abs(residual - centre) <= 2.5 * spread + 1e-6
        square = float(np.square(x[keep] - x[keep].mean()).sum())
        if keep.sum() < 3 or square <= 0:
            return None
        slope, intercept = np.polyfit(x[keep], y[keep], 1)
        residual = y - slope * x - intercept
    error = np.sqrt(np.square(residual[keep]).mean() / square)
    return (float(slope), float(intercept)) if error < 0.1 else None


def _band_order(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[str, ...] | None:
    """SPOT's bands in the order in which they fit much better than in their own; None: theirs."""
    wanted = np.concatenate([composite.reshape(4, -1) for composite, _ in pairs], axis=1)
    low = np.concatenate([image.reshape(4, -1) for _, image in pairs], axis=1)
    known = np.isfinite(wanted).all(axis=0) & np.isfinite(low).all(axis=0)
    if known.sum() < 100:
        return None
    # a band without any contrast correlates with nothing
    contrast = np.concatenate([wanted[:, known], low[:, known]])
    if (contrast.std(axis=1) < 1e-6).any():
        return None
    table = np.corrcoef(contrast)[:4, 4:]
    fit = {order: table[range(4), order].mean() for order in permutations(range(4))}
    best = max(fit, key=lambda order: fit[order])
    if fit[best] < fit[0, 1, 2, 3] + _SWAPPED:
        return None
    return tuple(SPOT_BANDS[i] for i in best)


def to_counts(reflectance: np.ndarray) -> np.ndarray:
    """Reflectance as stored: uint16 x 10,000, rounded; below 0 becomes 0, beyond 6.5535 that."""
    return np.clip(np.rint(np.asarray(reflectance) * SCALE), 0, 65_535).astype(np.uint16)


def to_reflectance(counts: np.ndarray) -> np.ndarray:
    """Stored counts as float32 reflectance."""
    return np.asarray(counts, dtype=np.float32) / np.float32(SCALE)
