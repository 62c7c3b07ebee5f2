"""Overlap of circles and boxes, and merging of circles that are one crater seen several times.

A circle is (row, col, radius), all three in the same unit: pixels of a tile, or metres on the
ground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from acdc.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Overlap = Callable[[FloatArray, FloatArray], FloatArray]

# Pairs of circles that one step of the merging may have to look at, and those that it has in hand.
_PAIRS_AT_ONCE = 24_000_000
_CHUNK = 100_000
# Rounds in which nearly all circles are decided; what is left then is a chain.
_ROUNDS = 40


def circle_iou(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Return the exact intersection over union of circles, element by element.

    The lens of two circles with radii R >= r at distance d is R^2 alpha + r^2 beta minus the kite
    of the two centres and the two crossings. Half angles and kite come from the four factors of
    Heron's formula, each formed without cancellation after Kahan (1986), so that the result keeps
    its accuracy at tangency, where an arc cosine of the law of cosines loses half of the digits.

    Parameters
    ----------
    a, b : array_like, shapes (..., 3) that broadcast
        Circles (row, col, radius), float64, any one unit; radius >= 0. Integers are converted.

    Returns
    -------
    ndarray of float64, the broadcast shape without its last axis
        In [0, 1]; 1 for identical circles, 0 for circles that touch from outside. A circle of
        radius 0 has no area: its overlap is 0 with everything, itself included.

    Raises
    ------
    DataError
        A value is not finite, a radius is negative, or the last axis is not 3 long.

    Examples
    --------
    >>> circle_iou([[0, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 0, 2]]).round(5).tolist()
    [0.24301, 0.25]

    References
    ----------
    W. Kahan, "Miscalculating Area and Angles of a Needle-like Triangle", 1986/2014.
    """
    first, second = _circles(a, "a"), _circles(b, "b")
    return overlap_of_circles(*np.broadcast_arrays(first, second))


def pairwise_circle_iou(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Return the IoU of every circle of `a` with every circle of `b`.

    Parameters
    ----------
    a : array_like, shape (n, 3)
    b : array_like, shape (m, 3)
        Circles (row, col, radius), one unit.

    Returns
    -------
    ndarray of float64, shape (n, m), in [0, 1]

    Raises
    ------
    DataError
        As `circle_iou`.
    """
    return circle_iou(
        np.asarray(a, dtype=float).reshape(-1, 1, 3), np.asarray(b, dtype=float).reshape(1, -1, 3)
    )


def overlap_of_circles(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return `circle_iou` of two float64 arrays of one shape (..., 3), known to be valid."""
    # Differences of coordinates near the end of the float range overflow to "infinitely far".
    with np.errstate(over="ignore"):
        distance = np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
        big = np.maximum(a[..., 2], b[..., 2])
        small = np.minimum(a[..., 2], b[..., 2])
        meets = (distance < big + small) & (small > 0)
    iou = np.zeros(distance.shape)
    iou[meets] = _iou_of_meeting(distance[meets], big[meets], small[meets])
    return iou


def _iou_of_meeting(distance: FloatArray, big: FloatArray, small: FloatArray) -> FloatArray:
    ratio = small / big
    area_ratio = ratio * ratio
    iou = area_ratio.copy()
    crossing = distance > big - small
    d, R, r = distance[crossing], big[crossing], small[crossing]
    q2 = area_ratio[crossing]
    # The factors s - R, s - r, s - d, s of the triangle (d, R, r), times two, in units of R. Each
    # difference is taken between the two longer sides first: that one is exact where it cancels.
    outside = (r - (d - R)) / R
    inside = np.where(d >= r, r - (R - d), d - (R - r)) / R
    offset = (d + (R - r)) / R
    total = (d + R + r) / R
    np.maximum(outside, 0, out=outside)
    np.maximum(inside, 0, out=inside)
    alpha = 2 * np.arctan2(np.sqrt(outside * inside), np.sqrt(offset * total))
    beta = 2 * np.arctan2(np.sqrt(outside * offset), np.sqrt(inside * total))
    kite = 0.5 * np.sqrt((outside * offset) * (inside * total))
    lens = np.clip(alpha + q2 * beta - kite, 0, np.pi * q2)
    iou[crossing] = lens / (np.pi * (1 + q2) - lens)
    return iou


def box_iou(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Return the intersection over union of upright boxes, element by element.

    It stands beside `circle_iou` so that the matching can be compared with tools made for boxes.

    Parameters
    ----------
    a, b : array_like, shapes (..., 4) that broadcast
        Boxes (x, y, width, height) with (x, y) the corner of smallest coordinates, as in COCO.

    Returns
    -------
    ndarray of float64, the broadcast shape without its last axis
        In [0, 1]; 0 where both boxes are empty.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    sides = np.minimum(
        first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:]
    ) - np.maximum(first[..., :2], second[..., :2])
    np.maximum(sides, 0, out=sides)
    common = sides[..., 0] * sides[..., 1]
    union = first[..., 2] * first[..., 3] + second[..., 2] * second[..., 3] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def distance_at_iou(iou: float) -> float:
    """Return the largest distance of centres, in units of the larger radius, that `iou` allows.

    At a given distance and larger radius the overlap grows with the smaller radius, so that equal
    circles allow most: 0.5299 at IoU .5.

    Parameters
    ----------
    iou : float in [0, 1]

    Returns
    -------
    float in [0, 2]
    """
    # The lens of two unit circles at distance 2 cos t is 2 (t - sin t cos t): 2 pi iou / (1 + iou).
    low, high = 0.0, np.pi / 2
    wanted = np.pi * iou / (1 + iou)
    for _ in range(60):
        middle = (low + high) / 2
        if middle - np.sin(middle) * np.cos(middle) < wanted:
            low = middle
        else:
            high = middle
    return float(2 * np.cos(low))


def merge_circles(
    circles: ArrayLike,
    confidence: ArrayLike,
    *,
    iou: float = 0.5,
    group: ArrayLike | None = None,
) -> tuple[IntArray, IntArray]:
    """Find which detections are the same crater: greedy by falling confidence.

    The most confident detection is kept and all others of its group that overlap it by more than
    `iou` are its duplicates; so on with what remains. Equal confidences go by index, the first
    wins.

    Parameters
    ----------
    circles : array_like, shape (n, 3)
        (row, col, radius) in one frame per group, radius in its unit (metres of a
        quadrangle's projection, or pixels of its finest level).
    confidence : array_like, shape (n,)
    iou : float, in (0, 1)
        Detections above this overlap are one crater.
    group : array_like of int, shape (n,), optional
        Detections of different groups (quadrangles) are never merged.

    Returns
    -------
    keep : ndarray of int64, shape (k,)
        Indices of the kept detections by falling confidence.
    keeper : ndarray of int64, shape (n,)
        For each detection the index of the one that stands for it; its own if it is kept.

    Raises
    ------
    DataError
        Shapes differ, a value is not finite, a radius is negative or `iou` is not in (0, 1).

    Notes
    -----
    Circles are hashed into cells per size class, and only circles in neighbouring cells are
    compared. The classes are as wide, and the cells as large, as `iou` allows. Where so many lie on
    one place that the pairs would not fit into memory, the most confident are merged first and
    remove their duplicates before the others are looked at. A million detections of 250,000 craters
    take under a second.
    """
    shapes = _circles(circles, "circles").reshape(-1, 3)
    scores = np.asarray(confidence, dtype=np.float64)
    groups = np.zeros(len(shapes), np.int64) if group is None else np.asarray(group, np.int64)
    if not (scores.shape == groups.shape == (len(shapes),)):
        raise DataError(
            f"merge_circles: {len(shapes)} circles need as many confidences and groups, "
            f"not {scores.shape} and {groups.shape}."
        )
    if not np.isfinite(scores).all():
        raise DataError("merge_circles: a confidence is not finite; give finite numbers.")
    if not 0 < iou < 1:
        raise DataError(f"merge_circles: iou must lie between 0 and 1, not {iou}.")

    order = np.argsort(-scores, kind="stable")
    keeper = _merge(shapes, groups, order, iou)
    result = np.empty(len(order), np.int64)
    result[order] = order[keeper]
    return order[keeper == np.arange(len(order))], result


def _merge(circles: FloatArray, group: IntArray, order: IntArray, iou: float) -> IntArray:
    """Return the rank of each circle's keeper, by rank; `order` has the circle of each rank."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    keeper = np.arange(len(order))
    rest = np.flatnonzero(circles[order, 2] > 0)
    size = len(rest)
    cells = _Cells(circles, group, iou)
    while len(rest):
        head = rest[:size]
        # In the order given: detections come tile by tile, so neighbours lie together in memory.
        cells.fill(np.sort(order[head]))
        while len(head) > 1 and cells.crowding() > _PAIRS_AT_ONCE:
            head = head[: max(len(head) // 4, 1)]
            cells.fill(np.sort(order[head]))
        rest = rest[len(head) :]
        higher, lower = _by_rank(cells.pairs_of_members(), rank)
        kept = _resolve(len(circles), head, higher, lower)
        duplicate = kept[higher] & ~kept[lower]
        np.minimum.at(keeper, lower[duplicate], higher[duplicate])
        if len(rest):
            # Kept circles hardly overlap, so few are near any other: no square of the number here.
            cells.fill(np.sort(order[head[kept[head]]]))
            higher, lower = _by_rank(cells.pairs_with(order[rest]), rank)
            np.minimum.at(keeper, lower, higher)
            rest = rest[keeper[rest] == rest]
        size = 4 * len(head)
    return keeper


def _by_rank(
    pairs: Iterable[tuple[IntArray, IntArray]], rank: IntArray
) -> tuple[IntArray, IntArray]:
    """Join pairs of circles and return the rank of the better and of the worse of each."""
    parts = [(rank[one], rank[other]) for one, other in pairs]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    one, other = (np.concatenate(side) for side in zip(*parts, strict=True))
    return np.minimum(one, other), np.maximum(one, other)


class _Cells:
    """A hash table from cells of the ground, one grid per size class, to circles.

    A class spans the ratio of radii that the IoU allows, so partners are in the same class or one
    apart. The grid of a class serves its circles and those one class smaller; its cells are twice
    as large as the reach of its overlaps, so partners lie in the 2 x 2 cells nearest to a circle.
    """

    # Odd constants of the golden ratio and its like spread sums of their multiples evenly.
    _ROW, _COL, _CLASS, _GROUP = (
        np.uint64(c)
        for c in (
            0x9E3779B97F4A7C15,
            0xC2B2AE3D27D4EB4F,
            0xD6E8FEB86659FD93,
            0xA0761D6478BD642F,
        )
    )

    def __init__(self, circles: FloatArray, group: IntArray, iou: float) -> None:
        self.circles, self.group, self.iou = circles, group, iou
        # Slightly wider than needed, so that rounding cannot separate partners.
        self._step = 1.001 / np.sqrt(iou)
        with np.errstate(all="ignore"):
            size_class = np.floor(np.log(circles[:, 2]) / np.log(self._step))
            side = 2.02 * distance_at_iou(iou) * self._step ** (size_class + 1)
            self._row, self._col = circles[:, 0] / side, circles[:, 1] / side
            self._base = (
                size_class.astype(np.int64).view(np.uint64) * self._CLASS
                + group.view(np.uint64) * self._GROUP
            )

    def fill(self, members: IntArray) -> None:
        """Put the circles with these ascending indices into the table, and no others."""
        keys = np.concatenate(
            [self._keys(members, shift=0, offset=0.0), self._keys(members, shift=1, offset=0.0)]
        )
        bits = max(len(keys).bit_length() + 1, 2)
        self._drop = np.uint64(64 - bits)
        bucket = (keys >> self._drop).astype(np.int32)
        # A row of a sparse matrix turned into columns is a counting sort.
        row = sparse.csr_array(
            (np.arange(len(keys), dtype=np.int32), bucket, np.array([0, len(keys)], np.int32)),
            shape=(1, 2**bits),
        )
        columns = row.tocsc()
        self._start, entry = columns.indptr, columns.data
        self._key = keys[entry]
        self._smaller = entry >= len(members)
        self._member = members[entry - len(members) * self._smaller]

    def _keys(self, members: IntArray, shift: int, offset: float) -> NDArray[np.uint64]:
        scale = self._step**-shift
        # Coordinates so far out that cells cannot be told apart share one: slower, never wrong.
        with np.errstate(invalid="ignore"):
            row = np.floor(self._row[members] * scale - offset).astype(np.int64)
            col = np.floor(self._col[members] * scale - offset).astype(np.int64)
        keys = row.view(np.uint64) * self._ROW
        keys += col.view(np.uint64) * self._COL
        keys += self._base[members]
        if shift:
            keys += self._CLASS
        return keys

    def crowding(self) -> int:
        """Return the sum of squares of fills: about as many pairs will be compared."""
        content = np.diff(self._start).astype(np.int64)
        return int(content @ content)

    def pairs_of_members(self) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield the pairs of members that overlap by more than the IoU, each once."""
        place = np.flatnonzero(~self._smaller)
        query, cell = self._member[place], self._key[place]
        # In the cell of a circle itself its partners come behind it: members were put in ascending,
        # and those one class smaller behind them.
        end = self._start[(cell >> self._drop).astype(np.int32) + 1]
        looks = [(cell, place + 1, end - place - 1)]
        for keys in self._corners(query, 0):
            start, count = self._contents(keys)
            count[keys == cell] = 0
            looks.append((keys, start, count))
        for keys, start, count in looks:
            for one, entry in self._entries(query, keys, start, count):
                other = self._member[entry]
                # Partners of one class in different cells find each other twice.
                once = (other > one) | self._smaller[entry]
                yield self._overlapping(one[once], other[once])

    def pairs_with(self, queries: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield the pairs of a query, which is no member, and a member that overlap by more."""
        # Partners of the class above meet the query in their grid, all others in that of its own.
        for shift in (0, 1):
            for keys in self._corners(queries, shift):
                for one, entry in self._entries(queries, keys, *self._contents(keys)):
                    yield self._overlapping(one, self._member[entry])

    def _corners(self, queries: IntArray, shift: int) -> Iterator[NDArray[np.uint64]]:
        """Yield the keys of the four cells nearest to each query, in the grid of class + shift."""
        nearest = self._keys(queries, shift, offset=0.5)
        for corner in (nearest, nearest + self._ROW):
            yield corner
            yield corner + self._COL

    def _contents(self, keys: NDArray[np.uint64]) -> tuple[IntArray, IntArray]:
        bucket = (keys >> self._drop).astype(np.int32)
        start = self._start[bucket]
        return start, self._start[bucket + 1] - start

    def _entries(
        self, queries: IntArray, keys: NDArray[np.uint64], start: IntArray, count: IntArray
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield queries and entries of the same cell, in portions, from the entries at start."""
        used = np.flatnonzero(count)
        ends = np.cumsum(count[used], dtype=np.int64)
        done = 0
        while done < len(used):
            before = ends[done - 1] if done else 0
            stop = max(int(np.searchsorted(ends, before + _CHUNK, "right")), done + 1)
            part = used[done:stop]
            n = count[part]
            first = start[part] - (np.cumsum(n) - n)
            entry = np.arange(n.sum()) + np.repeat(first, n)
            # Others may share the bucket.
            same = np.flatnonzero(self._key[entry] == np.repeat(keys[part], n))
            yield np.repeat(queries[part], n)[same], entry[same]
            done = stop

    def _overlapping(self, one: IntArray, other: IntArray) -> tuple[IntArray, IntArray]:
        # numpy takes rows ten times as fast as it indexes them.
        close = (
            overlap_of_circles(self.circles.take(one, axis=0), self.circles.take(other, axis=0))
            > self.iou
        )
        close &= self.group[one] == self.group[other]
        return one[close], other[close]


def _resolve(n: int, members: IntArray, higher: IntArray, lower: IntArray) -> NDArray[np.bool_]:
    """Return which members are kept, given all overlapping pairs among them.

    A circle without an undecided better neighbour is kept, its neighbours fall; in rounds.
    """
    kept = np.zeros(n, bool)
    undecided = np.zeros(n, bool)
    undecided[members] = True
    blocked = np.zeros(n, bool)
    touched = members
    for _ in range(_ROUNDS):
        blocked[lower] = True
        new = touched[~blocked[touched] & undecided[touched]]
        kept[new] = True
        undecided[new] = False
        undecided[lower[kept[higher]]] = False
        blocked[lower] = False
        still = undecided[higher] & undecided[lower]
        # A member whose better neighbours have all fallen has no pair left: it is found as touched.
        touched = lower[undecided[lower]]
        higher, lower = higher[still], lower[still]
        if not len(touched):
            return kept
    # A long chain in which each circle waits for the one before: one walk along it.
    touched = np.unique(touched)
    by_lower = np.argsort(lower, kind="stable")
    higher, lower = higher[by_lower], lower[by_lower]
    starts = np.searchsorted(lower, touched).tolist()
    ends = np.searchsorted(lower, touched, side="right").tolist()
    better, state = higher.tolist(), set()
    for member, start, end in zip(touched.tolist(), starts, ends, strict=True):
        if not any(other in state for other in better[start:end]):
            state.add(member)
    kept[list(state)] = True
    return kept


def _circles(values: ArrayLike, name: str) -> FloatArray:
    circles = np.asarray(values, dtype=np.float64)
    if circles.ndim == 1 and circles.size == 0:
        circles = circles.reshape(0, 3)
    if circles.shape[-1:] != (3,):
        raise DataError(
            f"{name} must hold circles (row, col, radius) along its last axis, "
            f"not an array of shape {circles.shape}."
        )
    if not np.isfinite(circles).all() or (circles[..., 2] < 0).any():
        raise DataError(f"{name} holds a value that is not finite or a negative radius.")
    return circles
