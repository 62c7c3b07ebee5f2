"""The same ground in two pictures, found from the pixels alone.

Public sets hold pictures twice: byte for byte, encoded again, mirrored or turned for augmentation,
or cut a few pixels further along. File names and hashes do not show it; a model that has seen one
copy is not tested by the other.

Each image gives up to 32 key points (extrema of a difference of Gaussians, on a grid of half the
resolution) with a normalised 8 x 8 patch around each, brought into one of eight orientations
(flips and transpositions) by its own dipole. Patches that agree vote for a displacement between
two images; two votes make a candidate, and the correlation of the band-passed images over their
common ground decides. Flat images have no key points and raise no alarm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from tqdm import tqdm

COLUMNS = ("first", "second", "turn", "drow", "dcol", "overlap", "correlation")

_OFFSETS = np.arange(-7, 8, 2)  # 8 samples, 2 half-resolution pixels apart
_MARGIN = 8
_MOST = 32  # key points per 224 x 224 pixels
_CONTRAST = 1.5  # grey levels: below it a patch holds the coder's noise
_NEIGHBOURS = 12  # a point lies in up to four tiles of its own block
_AXES = 8  # principal axes that neighbours are searched in; all 64 samples decide
_DISTANCE = 0.3  # between unit patches: a correlation of .955

_CELL = 14  # side of a cell, px of half the resolution
_LOCAL = 0.5  # least correlation in three quarters of the cells
_LEAST_CELLS, _NO_DOUBT = 6, 0.95

# The eight symmetries of the square, acting on (row, col) offsets: flip rows, flip columns, then
# perhaps transpose.
_TURNS = np.array(
    [
        (np.eye(2, dtype=int)[::-1] if swap else np.eye(2, dtype=int)) @ np.diag([fr, fc])
        for swap in (False, True)
        for fr in (1, -1)
        for fc in (1, -1)
    ]
)
_TURN_NAMES = tuple(
    " and ".join(
        word
        for word, used in (("rows flipped", fr), ("columns flipped", fc), ("transposed", swap))
        if used
    )
    or "same way up"
    for swap in (False, True)
    for fr in (False, True)
    for fc in (False, True)
)


@dataclass(frozen=True)
class _Points:
    image: NDArray[np.int32]
    turn: NDArray[np.int8]
    place: NDArray[np.int16]  # row, col at half resolution
    patch: NDArray[np.float32]


def find(
    images: Sequence[NDArray[np.uint8]],
    groups: Sequence[object] | NDArray | None = None,
    *,
    correlation: float = 0.8,
    overlap: float = 0.15,
    progress: bool = False,
) -> pd.DataFrame:
    """Pairs of images that show the same ground.

    Parameters
    ----------
    images : sequence of uint8 arrays (height, width)
        Anything with ``len`` and integer indexing, so also a lazily read data set; sizes may
        differ. A pixel of value 0 counts as without data.
    groups : sequence, optional
        One label an image; pairs with the same label are not looked for.
    correlation : float
        Least correlation of the band-passed images over the common ground, 0..1.
    overlap : float
        Least common ground, as a share of the smaller image, 0..1.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        ``first < second`` (indices), ``turn`` (what turns the first into the second), ``drow``,
        ``dcol`` (pixels from the turned first image's corner to the second's), ``overlap``
        (share), ``correlation``; the most alike first.

    Notes
    -----
    Copies at another scale, or of the same ground by another instrument, are not found: footprints
    are there for that. Memory is about 40 kB an image, whatever the number.
    """
    label = np.arange(len(images)) if groups is None else pd.factorize(np.asarray(groups))[0]
    points = _points(images, progress)
    rows = [
        row
        for pair in _candidates(points, label)
        if (row := _verify(images, *pair, correlation, overlap)) is not None
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.sort_values("correlation", ascending=False, kind="stable")
    return table.drop_duplicates(["first", "second"]).reset_index(drop=True)


def group(images: Sequence[NDArray[np.uint8]], *, progress: bool = False) -> NDArray[np.int64]:
    """Number of the group of images with common ground that each image belongs to.

    Returns
    -------
    int64 array (n,)
        Group of each image; groups count from 0 in the order of their first images. What overlaps
        directly or through others shares a group.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(images)
    pairs = find(images, progress=progress)
    links = coo_matrix((np.ones(len(pairs)), (pairs["first"], pairs["second"])), shape=(n, n))
    component = connected_components(links, directed=False)[1] if n else np.zeros(0, int)
    return pd.factorize(component)[0].astype(np.int64)


def _half(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Image at half the resolution, and where it has data."""
    image = np.asarray(image)
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    four = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    valid = np.asarray((four > 0).all(axis=(1, 3)))
    return four.mean(axis=(1, 3), dtype=np.float32), valid


def _blur(
    image: NDArray[np.float32], valid: NDArray[np.bool_], sigma: float
) -> NDArray[np.float32]:
    """Gaussian mean over the pixels with data."""
    if valid.all():
        return ndimage.gaussian_filter(image, sigma, truncate=3.0)
    weight = ndimage.gaussian_filter(valid.astype(np.float32), sigma, truncate=3.0)
    blurred = ndimage.gaussian_filter(np.where(valid, image, 0), sigma, truncate=3.0)
    return np.where(valid, blurred / np.maximum(weight, 1e-6), 0).astype(np.float32)


def _points(images: Sequence[NDArray[np.uint8]], progress: bool) -> _Points:
    image, turn, place, patch = [], [], [], []
    for i in tqdm(range(len(images)), "common ground", disable=not progress):
        at, patches = _describe(images[i])
        turns, turned = _upright(patches)
        image.append(np.full(len(at), i, np.int32))
        turn.append(turns)
        place.append(at)
        patch.append(turned)
    if not image:  # no images at all
        return _Points(
            np.zeros(0, np.int32),
            np.zeros(0, np.int8),
            np.zeros((0, 2), np.int16),
            np.zeros((0, 64), np.float32),
        )
    return _Points(
        np.concatenate(image), np.concatenate(turn), np.concatenate(place), np.concatenate(patch)
    )


def _describe(image: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Places of the key points (k, 2) and the normalised patches around them (k, 8, 8)."""
    half, valid = _half(image)
    fine = _blur(half, valid, 1.0)
    contrast = np.abs(fine - _blur(half, valid, 3.0))
    peak = (contrast == ndimage.maximum_filter(contrast, 7)) & (contrast > 0.5)
    if not valid.all():
        peak &= ndimage.minimum_filter(valid, 2 * _MARGIN + 7)
    peak[:_MARGIN] = peak[-_MARGIN:] = peak[:, :_MARGIN] = peak[:, -_MARGIN:] = False
    row, col = np.nonzero(peak)
    most = max(_MOST, _MOST * half.size // 112**2)
    strongest = np.argsort(-contrast[row, col], kind="stable")[:most]
    row, col = row[strongest], col[strongest]
    patch = fine[(row[:, None] + _OFFSETS)[:, :, None], (col[:, None] + _OFFSETS)[:, None, :]]
    patch = patch - patch.mean(axis=(1, 2), keepdims=True)
    spread = np.sqrt((patch**2).mean(axis=(1, 2)))
    good = spread > _CONTRAST
    patch = patch[good] / (8 * spread[good, None, None])
    return np.stack([row[good], col[good]], axis=1).astype(np.int16), patch.astype(np.float32)


def _upright(patch: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Turn each patch so that its dipole points down, then right; which turn that took."""
    down = np.einsum("kij,i->k", patch, _OFFSETS)
    right = np.einsum("kij,j->k", patch, _OFFSETS)
    flip_rows, flip_cols = down < 0, right < 0
    swap = np.abs(right) > np.abs(down)
    patch = np.where(flip_rows[:, None, None], patch[:, ::-1], patch)
    patch = np.where(flip_cols[:, None, None], patch[:, :, ::-1], patch)
    patch = np.where(swap[:, None, None], patch.transpose(0, 2, 1), patch)
    return (4 * swap + 2 * flip_rows + flip_cols).astype(np.int8), patch.reshape(-1, 64)


def _candidates(points: _Points, label: NDArray) -> Iterator[tuple[int, int, int, NDArray]]:
    """Image pairs (first < second), turn and displacement that two key points agree on."""
    n = len(points.image)
    if n < 2:
        return
    sample = points.patch[:: max(1, n // 20_000)]
    axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :_AXES]
    low = points.patch @ axes
    tree = cKDTree(low)
    one, two = [], []
    for start in range(0, n, 5_000):  # each holds twelve neighbours' patches: 30 MB
        block = low[start : start + 5_000]
        near = tree.query(block, k=min(_NEIGHBOURS, n), distance_upper_bound=_DISTANCE)[1]
        a = np.repeat(np.arange(start, start + len(block)), near.shape[1])
        b = near.ravel()
        inside = b < n
        a, b = a[inside], b[inside]
        a, b = np.minimum(a, b), np.maximum(a, b)
        keep = label[points.image[a]] != label[points.image[b]]
        a, b = a[keep], b[keep]
        alike = np.einsum("ij,ij->i", points.patch[a], points.patch[b]) > 1 - _DISTANCE**2 / 2
        one.append(a[alike])
        two.append(b[alike])
    pair = np.unique(np.stack([np.concatenate(one), np.concatenate(two)], axis=1), axis=0)
    if not len(pair):
        return
    a, b = pair.T
    # upright = U_a p_a = U_b p_b, so p_b = U_b^T U_a p_a
    turn = np.einsum("kji,kjl->kil", _TURNS[points.turn[b]], _TURNS[points.turn[a]])
    which = np.argmax((turn[:, None] == _TURNS).all(axis=(2, 3)), axis=1)
    shift = points.place[b] - np.einsum("kij,kj->ki", turn, points.place[a])
    votes = pd.DataFrame(
        {
            "first": points.image[a],
            "second": points.image[b],
            "turn": which,
            "drow": shift[:, 0],
            "dcol": shift[:, 1],
        }
    )
    votes = votes.sort_values(["first", "second", "turn"], kind="stable")
    for key, few in votes.groupby(["first", "second", "turn"], sort=False):
        if len(few) < 2:
            continue
        place = few[["drow", "dcol"]].to_numpy()
        agree = (np.abs(place[:, None] - place[None]).max(axis=2) <= 2).sum(axis=1)
        if agree.max() >= 2:
            first, second, which = np.asarray(key, dtype=int).tolist()
            yield first, second, which, place[agree.argmax()]


def _verify(
    images: Sequence[NDArray[np.uint8]],
    first: int,
    second: int,
    which: int,
    shift: NDArray,
    least_correlation: float,
    least_overlap: float,
) -> tuple | None:
    """Correlate the band-passed images over common ground, near the voted displacement."""
    (one, one_valid), (two, two_valid) = (_band(images[i]) for i in (first, second))
    turn = _TURNS[which]
    one, one_valid = _turn(one, turn), _turn(one_valid, turn)
    # a turn maps index i to -i on a flipped axis; the turned array counts from its own corner
    corner = np.minimum(turn @ (np.array(_turn(one, turn.T).shape) - 1), 0)
    best: tuple[float, int, float, NDArray] = (-1.0, 0, 0.0, shift)
    for dr in range(-2, 3):
        for dc in range(-2, 3):
            offset = shift + corner + (dr, dc)
            here, there = _common(one.shape, two.shape, offset)
            both = one_valid[here] & two_valid[there]
            count = int(both.sum())
            if count < least_overlap * min(one.size, two.size):
                continue
            x, y = one[here][both], two[there][both]
            x, y = x - x.mean(), y - y.mean()
            sx, sy = float(x.std()), float(y.std())
            if min(sx, sy) < 0.5 * _CONTRAST:
                continue
            value = float((x * y).mean() / (sx * sy))
            if value > best[0]:
                best = value, count, count / min(one.size, two.size), offset
    if best[0] < least_correlation:
        return None
    here, there = _common(one.shape, two.shape, best[3])
    both = one_valid[here] & two_valid[there]
    if not _alike_everywhere(one[here], two[there], both, best[0]):
        return None
    drow, dcol = (2 * best[3]).tolist()
    return first, second, _TURN_NAMES[which], drow, dcol, round(best[2], 3), round(best[0], 3)


def _alike_everywhere(one: NDArray, two: NDArray, both: NDArray, correlation: float) -> bool:
    """Whether images agree cell by cell, not only in one large crater that both happen to have.

    Where too few cells have contrast to tell, the correlation itself must leave no doubt.
    """
    rows, cols = (n // _CELL for n in one.shape)
    cells = [
        array[: rows * _CELL, : cols * _CELL]
        .reshape(rows, _CELL, cols, _CELL)
        .swapaxes(1, 2)
        .reshape(rows * cols, _CELL**2)
        for array in (one, two, both)
    ]
    x, y = (part - part.mean(axis=1, keepdims=True) for part in cells[:2])
    spread = np.minimum(x.std(axis=1), y.std(axis=1))
    telling = cells[2].all(axis=1) & (spread >= 0.5 * _CONTRAST)
    if telling.sum() < _LEAST_CELLS:
        return correlation >= _NO_DOUBT
    x, y = x[telling], y[telling]
    local = (x * y).mean(axis=1) / (x.std(axis=1) * y.std(axis=1))
    return bool(np.quantile(local, 0.25) >= _LOCAL)


def _band(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    half, valid = _half(image)
    return _blur(half, valid, 1.0) - _blur(half, valid, 6.0), valid


def _turn(array: NDArray, turn: NDArray) -> NDArray:
    """Array whose pixel at turn @ p is the given array's pixel at p, up to the corner."""
    if turn[0, 0] == 0:
        array = array.T
    flip = turn.sum(axis=1) < 0
    return array[:: -1 if flip[0] else 1, :: -1 if flip[1] else 1]


def _common(
    one: tuple[int, ...], two: tuple[int, ...], offset: NDArray
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the common ground: pixel p of the first is p + offset of the second."""
    here, there = [], []
    for n, m, d in zip(one, two, offset.tolist(), strict=True):
        low, high = max(0, -d), min(n, m - d)
        here.append(slice(low, max(low, high)))
        there.append(slice(low + d, max(low, high) + d))
    return tuple(here), tuple(there)
