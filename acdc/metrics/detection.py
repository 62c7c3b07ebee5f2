"""Scores of detections: COCO's matching on circles, and what is read off the matches.

Samples (tiles) hold different numbers of truths and detections, so both are given flat: all rows
below each other, and offsets that say where each sample begins; sample i owns rows
offsets[i] .. offsets[i + 1] - 1. Every sample is matched once, for all ranges of radius and
all thresholds of IoU at a time; the scores are aggregates over the `Matches`.

The matching is COCO's (Lin et al. 2014, https://cocodataset.org/#detection-eval): within a sample
the detections come by falling confidence, at most 100; each takes the still free truth that it
overlaps best, by at least the threshold, a scored one before an ignored one. What differs on
circles is which detections are ignored, see `match_circles`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acdc.errors import DataError
from acdc.metrics.circles import FloatArray, IntArray, Overlap, overlap_of_circles

BoolArray = NDArray[np.bool_]
BitArray = NDArray[np.uint64]

RANGES = ((5.0, 28.0), (5.0, 8.0), (8.0, 14.0), (14.0, 28.0))
"""Radii in pixels: all, small, medium, large; both ends belong to a range."""
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""COCO's ten thresholds of IoU."""
WINDOW = (28.0, 196.0)
"""Rows and columns, in pixels, between which the centres of scored craters of a tile lie."""
WINDOW_SLACK = 0.53
"""Radii by which circles of equal size and IoU .5 lie apart."""

_RECALLS = np.linspace(0.0, 1.0, 101)
# Pairs of a detection and a truth that are looked at together: few enough to stay in the cache.
_PAIRS_AT_ONCE = 150_000
_WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of every detection and truth of some samples.

    The outcome at all ranges and thresholds is packed into one 64-bit word per detection; ask
    `true_positive` and `ignored`. Detections that are neither are false positives.

    Attributes
    ----------
    n_samples : int
    thresholds : tuple of float, ascending
    n_ranges : int
    detections : ndarray of float64, shape (D, 1 + k)
        Confidence and shape, as given; circles have k = 3: row, col, radius.
    sample : ndarray of int32, shape (D,)
        The sample of each detection.
    truth : ndarray of float64, shape (T, k)
    truth_sample : ndarray of int32, shape (T,)
    truth_scored : ndarray of bool, shape (n_ranges, T)
        False where a truth is ignored: finding it or not counts neither way.
    matched_truth : ndarray of int64, shape (D,)
        The scored truth that each detection took in the first range at the lowest threshold, -1 for
        none.
    iou : ndarray of float64, shape (D,)
        Its overlap with that truth, NaN for none.
    positive_bits, ignored_bits : ndarray of uint64, shape (D,)
        Bit r * len(thresholds) + t belongs to range r and threshold t.
    """

    n_samples: int
    thresholds: tuple[float, ...]
    n_ranges: int
    detections: FloatArray
    sample: NDArray[np.int32]
    truth: FloatArray
    truth_sample: NDArray[np.int32]
    truth_scored: BoolArray
    matched_truth: IntArray
    iou: FloatArray
    positive_bits: BitArray
    ignored_bits: BitArray

    @property
    def confidence(self) -> FloatArray:
        """Confidence of each detection, shape (D,)."""
        return self.detections[:, 0]

    @cached_property
    def order(self) -> IntArray:
        """Detections by falling confidence, equal ones by sample and index, as COCO has them."""
        return np.argsort(-self.confidence, kind="stable")

    @cached_property
    def _sorted_bits(self) -> tuple[BitArray, BitArray]:
        return self.positive_bits[self.order], self.ignored_bits[self.order]

    def sorted_outcomes(
        self, range_index: int = 0, threshold_index: int = 0
    ) -> tuple[BoolArray, BoolArray]:
        """Return, by falling confidence, which detections are right and which count at all."""
        bit = self._bit(range_index, threshold_index)
        positive, ignored = self._sorted_bits
        return (positive & bit) != 0, (ignored & bit) == 0

    def true_positive(self, range_index: int = 0, threshold_index: int = 0) -> BoolArray:
        """Return which detections found a scored truth, shape (D,)."""
        return (self.positive_bits & self._bit(range_index, threshold_index)) != 0

    def ignored(self, range_index: int = 0, threshold_index: int = 0) -> BoolArray:
        """Return which detections count neither as right nor as wrong, shape (D,)."""
        return (self.ignored_bits & self._bit(range_index, threshold_index)) != 0

    def n_scored(self, range_index: int = 0) -> int:
        """Return the number of scored truths of a range."""
        self._bit(range_index, 0)
        return int(self.truth_scored[range_index].sum())

    def scored_per_sample(self, range_index: int = 0) -> IntArray:
        """Return the number of scored truths of each sample, shape (n_samples,)."""
        scored = self.truth_sample[self.truth_scored[range_index]]
        return np.bincount(scored, minlength=self.n_samples).astype(np.int64)

    def found(self, range_index: int = 0) -> BoolArray:
        """Return which scored truths were found at the lowest threshold, shape (T,)."""
        hit = np.zeros(len(self.truth), bool)
        hit[self.matched_truth[self.matched_truth >= 0]] = True
        return hit & self.truth_scored[range_index]

    def select(self, samples: ArrayLike) -> Matches:
        """Return the matches of some samples alone.

        Parameters
        ----------
        samples : array_like
            A boolean mask of shape (n_samples,), or ascending, unique indices. The samples are
            counted anew.
        """
        chosen = np.zeros(self.n_samples, bool)
        chosen[np.asarray(samples)] = True
        new_sample = (np.cumsum(chosen) - 1).astype(np.int32)
        rows, truths = chosen[self.sample], chosen[self.truth_sample]
        new_truth = np.append(np.cumsum(truths) - 1, -1)
        return Matches(
            n_samples=int(chosen.sum()),
            thresholds=self.thresholds,
            n_ranges=self.n_ranges,
            detections=self.detections[rows],
            sample=new_sample[self.sample[rows]],
            truth=self.truth[truths],
            truth_sample=new_sample[self.truth_sample[truths]],
            truth_scored=self.truth_scored[:, truths],
            matched_truth=new_truth[self.matched_truth[rows]],
            iou=self.iou[rows],
            positive_bits=self.positive_bits[rows],
            ignored_bits=self.ignored_bits[rows],
        )

    @staticmethod
    def concatenate(parts: Sequence[Matches]) -> Matches:
        """Join the matches of disjoint groups of samples, which are then counted through.

        Raises
        ------
        DataError
            There is no part, or they differ in thresholds or in the number of ranges.
        """
        if not parts:
            raise DataError("There are no matches to join; give at least one.")
        first = parts[0]
        if any((p.thresholds, p.n_ranges) != (first.thresholds, first.n_ranges) for p in parts):
            raise DataError("Only matches of the same thresholds and ranges can be joined.")
        if len(parts) == 1:
            return first
        samples = np.cumsum([0] + [p.n_samples for p in parts])
        truths = np.cumsum([0] + [len(p.truth) for p in parts])
        return Matches(
            n_samples=int(samples[-1]),
            thresholds=first.thresholds,
            n_ranges=first.n_ranges,
            detections=np.concatenate([p.detections for p in parts]),
            sample=_joined([p.sample for p in parts], samples),
            truth=np.concatenate([p.truth for p in parts]),
            truth_sample=_joined([p.truth_sample for p in parts], samples),
            truth_scored=np.concatenate([p.truth_scored for p in parts], axis=1),
            matched_truth=np.concatenate(
                [
                    np.where(p.matched_truth >= 0, p.matched_truth + start, -1)
                    for p, start in zip(parts, truths[:-1], strict=True)
                ]
            ),
            iou=np.concatenate([p.iou for p in parts]),
            positive_bits=np.concatenate([p.positive_bits for p in parts]),
            ignored_bits=np.concatenate([p.ignored_bits for p in parts]),
        )

    def _bit(self, range_index: int, threshold_index: int) -> np.uint64:
        n = len(self.thresholds)
        if not (0 <= range_index < self.n_ranges and 0 <= threshold_index < n):
            raise DataError(
                f"There are {self.n_ranges} ranges and {n} thresholds, "
                f"but range {range_index} and threshold {threshold_index} were asked for."
            )
        return np.uint64(1) << np.uint64(range_index * n + threshold_index)


def _joined(columns: list[NDArray[np.int32]], starts: IntArray) -> NDArray[np.int32]:
    return np.concatenate(
        [column + np.int32(start) for column, start in zip(columns, starts[:-1], strict=True)]
    )


def match_circles(
    truth: ArrayLike,
    truth_offsets: ArrayLike,
    truth_ignored: ArrayLike,
    detections: ArrayLike,
    detection_offsets: ArrayLike,
    *,
    ranges: Sequence[tuple[float, float]] = RANGES,
    detection_ranges: Sequence[tuple[float, float]] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    window: tuple[float, float] | None = WINDOW,
    window_slack: float = WINDOW_SLACK,
    ignored_overlap: float | None = 0.5,
    max_detections: int = 100,
    overlap: Overlap = overlap_of_circles,
) -> Matches:
    """Match detected circles with true ones, sample by sample.

    A truth is ignored in a range if its radius lies outside (the ends belong to the range), its
    centre lies outside the window [low, high), or `truth_ignored` says so. A detection that found a
    scored truth is a true positive, one that found an ignored truth is ignored. An *unmatched*
    detection is a false positive unless

    - its radius lies outside the range of detections, by default lo sqrt(.5) .. hi / sqrt(.5);
    - its centre lies outside the window by more than `window_slack` of its radius; or
    - it overlaps an ignored truth by at least `ignored_overlap`.

    COCO itself ignores every unmatched detection outside [lo, hi]. That can be gamed: who writes
    uncertain small detections as r = 4.999 keeps their true positives and hides the false ones. The
    slack here is what IoU .5 allows, so no detection that could have been right is hidden.

    Parameters
    ----------
    truth : array_like of float, shape (T, 3)
        (row, col, radius) in pixels of the sample's tile.
    truth_offsets : array_like of int, shape (n + 1,)
        Sample i owns the truths truth_offsets[i] .. truth_offsets[i + 1] - 1.
    truth_ignored : array_like of bool, shape (T,) or (n_ranges, T)
    detections : array_like of float, shape (D, 4)
        (confidence, row, col, radius). Confidence may be any finite number.
    detection_offsets : array_like of int, shape (n + 1,)
    ranges : sequence of (lo, hi), pixels
        Ranges of true radii. The first one should hold all others: `Matches.matched_truth` is told
        for it.
    detection_ranges : sequence of (lo, hi), pixels, optional
        As many; give `ranges` again, with `window` and `ignored_overlap` None, for COCO's plain
        rules.
    thresholds : sequence of float, ascending
        With n_ranges * n_thresholds <= 64.
    window : (low, high) in pixels, or None for no window
    window_slack : float, in radii of the detection
    ignored_overlap : float, or None for no such rule
    max_detections : int
        Per sample, the most confident; those beyond it are ignored.
    overlap : callable
        Of two (m, 3) arrays of circles, to (m,) values from 0 to 1; default the exact IoU.

    Returns
    -------
    Matches

    Raises
    ------
    DataError
        A shape is wrong, offsets do not fit, a value is not finite or a radius is negative.

    Notes
    -----
    Unlike COCO's own code, memory is bounded: samples are matched in blocks.
    """
    truth = _rows(truth, 3, "truth", "row, col, radius")
    detections = _rows(detections, 4, "detections", "confidence, row, col, radius")
    for name, radius in (("truth", truth[:, 2]), ("detections", detections[:, 3])):
        if (radius < 0).any():
            raise DataError(f"{name}: row {np.argmax(radius < 0)} has a negative radius.")
    if detection_ranges is None:
        detection_ranges = [(lo * np.sqrt(0.5), hi / np.sqrt(0.5)) for lo, hi in ranges]
    if len(detection_ranges) != len(ranges):
        raise DataError(f"{len(ranges)} ranges, but {len(detection_ranges)} of detections.")

    flagged = np.asarray(truth_ignored, dtype=bool)
    radius = truth[:, 2]
    ignored = np.stack([(radius < lo) | (radius > hi) for lo, hi in ranges]) | flagged
    radius = detections[:, 3]
    hidden = np.stack([(radius < lo) | (radius > hi) for lo, hi in detection_ranges])
    if window is not None:
        low, high = window
        ignored |= ((truth[:, :2] < low) | (truth[:, :2] >= high)).any(axis=1)
        beyond = np.maximum(np.maximum(low - detections[:, 1:3], detections[:, 1:3] - high), 0)
        hidden |= np.hypot(beyond[:, 0], beyond[:, 1]) > window_slack * radius
    return match(
        truth,
        truth_offsets,
        ignored,
        detections,
        detection_offsets,
        hidden,
        overlap=overlap,
        thresholds=thresholds,
        ignored_overlap=ignored_overlap,
        max_detections=max_detections,
    )


def match(
    truth: FloatArray,
    truth_offsets: ArrayLike,
    truth_ignored: ArrayLike,
    detections: FloatArray,
    detection_offsets: ArrayLike,
    unmatched_ignored: ArrayLike,
    *,
    overlap: Overlap,
    thresholds: Sequence[float] = THRESHOLDS,
    ignored_overlap: float | None = None,
    max_detections: int = 100,
) -> Matches:
    """Match detections of any shape with truths by COCO's procedure; the rules are the caller's.

    With `acdc.metrics.circles.box_iou`, COCO's ranges of area in `truth_ignored` and
    `unmatched_ignored`, and no `ignored_overlap`, this is what pycocotools computes.

    Parameters
    ----------
    truth : ndarray of float64, shape (T, k)
    truth_offsets : array_like of int, shape (n + 1,)
    truth_ignored : array_like of bool, shape (n_ranges, T)
    detections : ndarray of float64, shape (D, 1 + k)
        Confidence, then the shape.
    detection_offsets : array_like of int, shape (n + 1,)
    unmatched_ignored : array_like of bool, shape (n_ranges, D)
        Detections that are ignored rather than wrong if they find nothing.
    overlap : callable
        Of two (m, k) arrays of shapes, to (m,) values from 0 to 1.
    thresholds : sequence of float, ascending
        With n_ranges * n_thresholds <= 64.
    ignored_overlap : float, optional
        Unmatched detections that overlap an ignored truth by at least this are ignored.
    max_detections : int

    Returns
    -------
    Matches

    Raises
    ------
    DataError
        Shapes or offsets do not fit, or a detection or truth is not finite.
    """
    steps = np.asarray(thresholds, dtype=np.float64)
    ignored = np.atleast_2d(np.asarray(truth_ignored, dtype=bool))
    hidden = np.atleast_2d(np.asarray(unmatched_ignored, dtype=bool))
    n_ranges = len(ignored)
    if steps.ndim != 1 or not len(steps) or (np.diff(steps) <= 0).any():
        raise DataError(f"thresholds must be one ascending sequence, not {thresholds!r}.")
    if n_ranges * len(steps) > 64:
        raise DataError(
            f"{n_ranges} ranges x {len(steps)} thresholds are more than the 64 outcomes that are "
            "kept per detection; match in two calls."
        )
    truth_starts = _offsets(truth_offsets, len(truth), "truth_offsets")
    starts = _offsets(detection_offsets, len(detections), "detection_offsets")
    if len(truth_starts) != len(starts):
        raise DataError(
            f"Truth has {len(truth_starts) - 1} samples, detections have {len(starts) - 1}."
        )
    if ignored.shape[1] != len(truth) or hidden.shape != (n_ranges, len(detections)):
        raise DataError(
            f"Flags of {len(truth)} truths and {len(detections)} detections in {n_ranges} ranges "
            f"cannot have the shapes {ignored.shape} and {hidden.shape}."
        )
    if not (np.isfinite(detections).all() and np.isfinite(truth).all()):
        raise DataError("A truth or detection holds a value that is not finite.")

    # One bit per range and threshold: row r has the bits of range r.
    of_range = np.array(
        [((1 << len(steps)) - 1) << (r * len(steps)) for r in range(n_ranges)], dtype=np.uint64
    )
    matcher = _Matcher(
        truth=truth,
        truth_starts=truth_starts,
        scored=_flags_to_bits(~ignored, of_range),
        detections=detections,
        sample=np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts)),
        dropped=_beyond(detections[:, 0], starts, max_detections),
        hidden=_flags_to_bits(hidden, of_range),
        overlap=overlap,
        # Below 1 by 1e-10 at most, as in COCO: a perfect detection passes a threshold of 1.
        thresholds=np.minimum(steps, 1 - 1e-10),
        ignored_overlap=np.inf if ignored_overlap is None else ignored_overlap,
        everything=np.bitwise_or.reduce(of_range),
        passed=np.array(
            [
                sum(((1 << k) - 1) << (r * len(steps)) for r in range(n_ranges))
                for k in range(len(steps) + 1)
            ],
            dtype=np.uint64,
        ),
    )
    pairs = np.concatenate([[0], np.cumsum(np.diff(starts) * np.diff(truth_starts))])
    begin = 0
    while begin < len(starts) - 1:
        end = int(np.searchsorted(pairs, pairs[begin] + _PAIRS_AT_ONCE, side="right")) - 1
        end = min(max(end, begin + 1), len(starts) - 1)
        matcher.match_rows(int(starts[begin]), int(starts[end]))
        begin = end
    matcher.ignored &= ~matcher.positive
    return Matches(
        n_samples=len(starts) - 1,
        thresholds=tuple(steps.tolist()),
        n_ranges=n_ranges,
        detections=detections,
        sample=matcher.sample,
        truth=truth,
        truth_sample=np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(truth_starts)),
        truth_scored=~ignored,
        matched_truth=matcher.matched_truth,
        iou=matcher.iou,
        positive_bits=matcher.positive,
        ignored_bits=matcher.ignored,
    )


class _Matcher:
    """The state of one matching: which bits of which truth and detection are taken."""

    def __init__(
        self,
        *,
        truth: FloatArray,
        truth_starts: IntArray,
        scored: BitArray,
        detections: FloatArray,
        sample: NDArray[np.int32],
        dropped: BoolArray,
        hidden: BitArray,
        overlap: Overlap,
        thresholds: FloatArray,
        ignored_overlap: float,
        everything: np.uint64,
        passed: BitArray,
    ) -> None:
        self.truth, self.truth_starts, self.scored = truth, truth_starts, scored
        self.detections, self.sample, self.dropped = detections, sample, dropped
        self.overlap, self.thresholds, self.ignored_overlap = overlap, thresholds, ignored_overlap
        self.everything, self.passed = everything, passed
        self.taken = np.zeros(len(truth), np.uint64)
        self.positive = np.zeros(len(detections), np.uint64)
        self.settled = np.zeros(len(detections), np.uint64)
        # Holds at first what happens to unmatched detections.
        self.ignored = hidden
        self.ignored[dropped] = everything
        self.matched_truth = np.full(len(detections), -1, np.int64)
        self.iou = np.full(len(detections), np.nan)

    def match_rows(self, begin: int, end: int) -> None:
        """Match the detections begin .. end - 1, which are those of whole samples."""
        row, truth, iou = self._overlapping_pairs(begin, end)
        on_ignored = iou >= self.ignored_overlap
        if on_ignored.any():
            hidden = self.everything & ~self.scored[truth[on_ignored]]
            np.bitwise_or.at(self.ignored, row[on_ignored], hidden)
        enough = iou >= self.thresholds[0]
        row, truth, iou = row[enough], truth[enough], iou[enough]
        if not len(row):
            return
        turn, choice, order = self._turns(row, truth, iou)
        row, truth, iou = row[order], truth[order], iou[order]
        passed = self.passed[np.searchsorted(self.thresholds, iou, side="right")]
        scored = self.scored[truth]
        # In one turn every sample has one detection, so no truth or detection is addressed twice at
        # a time.
        turns = np.concatenate([[0], np.flatnonzero(np.diff(turn)) + 1, [len(turn)]])
        for first, last in pairwise(turns):
            steps = first + np.flatnonzero(np.diff(choice[first:last])) + 1
            groups = list(zip([first, *steps], [*steps, last], strict=True))
            for a, b in groups:
                self._take_scored(row[a:b], truth[a:b], iou[a:b], passed[a:b] & scored[a:b])
            for a, b in groups:
                self._take_ignored(row[a:b], truth[a:b], passed[a:b] & ~scored[a:b])

    def _overlapping_pairs(self, begin: int, end: int) -> tuple[IntArray, IntArray, FloatArray]:
        sample = self.sample[begin:end]
        start = self.truth_starts[sample]
        count = self.truth_starts[sample + 1] - start
        count[self.dropped[begin:end]] = 0
        before = np.cumsum(count) - count
        row = np.repeat(np.arange(begin, end), count)
        truth = np.arange(len(row)) + np.repeat(start - before, count)
        # numpy takes rows ten times as fast as it indexes them.
        found = np.ascontiguousarray(self.detections[begin:end, 1:]).take(row - begin, axis=0)
        iou = self.overlap(found, self.truth.take(truth, axis=0))
        near = iou >= min(self.thresholds[0], self.ignored_overlap)
        return row[near], truth[near], iou[near]

    def _turns(
        self, row: IntArray, truth: IntArray, iou: FloatArray
    ) -> tuple[IntArray, IntArray, IntArray]:
        """Say when each pair is looked at: turn of its detection, then choice of the detection.

        Returns turn and choice in the order of looking, and that order.
        """
        new = np.concatenate([[True], row[1:] != row[:-1]])
        first = np.flatnonzero(new)
        detection = np.cumsum(new) - 1
        candidates = row[first]
        sample = self.sample[candidates]
        by_confidence = np.lexsort((-self.detections[candidates, 0], sample))
        turn = np.empty(len(candidates), np.int64)
        turn[by_confidence] = _count_within(sample[by_confidence])
        # Best overlap first; among equal ones COCO takes the last.
        by_overlap = np.arange(len(row))
        several = np.flatnonzero(~(new & np.append(new[1:], True)))
        within = np.lexsort((-truth[several], -iou[several], detection[several]))
        by_overlap[several] = several[within]
        choice = np.arange(len(row)) - first[detection]
        pair_turn = turn[detection]
        key = pair_turn * (choice.max() + 1) + choice
        # numpy sorts 16-bit numbers by counting.
        order = np.argsort(key.astype(np.uint16) if key.max() < 2**16 else key, kind="stable")
        return pair_turn[order], choice[order], by_overlap[order]

    def _take_scored(
        self, row: IntArray, truth: IntArray, iou: FloatArray, wanted: BitArray
    ) -> None:
        got = wanted & ~self.taken[truth] & ~self.settled[row]
        self.taken[truth] |= got
        self.settled[row] |= got
        self.positive[row] |= got
        told = (got & np.uint64(1)) != 0
        self.matched_truth[row[told]] = truth[told]
        self.iou[row[told]] = iou[told]

    def _take_ignored(self, row: IntArray, truth: IntArray, wanted: BitArray) -> None:
        got = wanted & ~self.taken[truth] & ~self.settled[row]
        self.taken[truth] |= got
        self.settled[row] |= got
        self.ignored[row] |= got


@dataclass(frozen=True)
class Rates:
    """Precision, recall and their harmonic mean, each in [0, 1], NaN where nothing can be counted.

    Precision is NaN without a counted detection, recall without a scored truth, f1 without either.
    """

    precision: float
    recall: float
    f1: float

    @staticmethod
    def of_counts(found: float, wrong: float, missed: float) -> Rates:
        """Return the rates of numbers (or weights) of true positives, false ones and misses."""
        return Rates(
            precision=_ratio(found, found + wrong),
            recall=_ratio(found, found + missed),
            f1=_ratio(2 * found, 2 * found + wrong + missed),
        )


def average_precision(
    matches: Matches,
    range_index: int = 0,
    thresholds: Sequence[float] | None = None,
    weights: ArrayLike | None = None,
) -> float | FloatArray:
    """Return COCO's average precision: the mean over 101 recalls and over thresholds of IoU.

    At each recall 0, .01, ... 1 it takes the best precision that is reached at this or a higher
    recall, 0 where the recall is not reached.

    Parameters
    ----------
    matches : Matches
    range_index : int
        Which of the ranges of radius.
    thresholds : sequence of float, optional
        Thresholds of IoU to average over, out of `matches.thresholds`; default all of them.
    weights : array_like, shape (n_samples,) or (..., n_samples), optional
        Each sample counts as if it stood so many times (a bootstrap's draws, or 0 and 1 to choose a
        stratum): whole numbers >= 0. Sets of weights are worked off together.

    Returns
    -------
    float, or ndarray of float64 of shape weights.shape[:-1]
        In [0, 1], higher is better. NaN if no truth is scored (of positive weight); 0 if there is
        truth but no detection.

    Raises
    ------
    DataError
        An IoU is not among the thresholds of the matches, or the weights have a wrong shape.

    References
    ----------
    T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; the evaluation of
    https://github.com/cocodataset/cocoapi.
    """
    chosen = [_threshold_index(matches, iou) for iou in thresholds or matches.thresholds]
    if weights is None:
        return float(np.mean([_ap(matches, range_index, t) for t in chosen]))
    table = _weights(matches, weights)
    rows = table.reshape(prod(table.shape[:-1]), matches.n_samples)
    result = np.empty(len(rows))
    step = max(_WEIGHTS_AT_ONCE // max(len(matches.detections), 1), 1)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        result[start : start + step] = np.mean(
            [_weighted_ap(matches, range_index, t, some) for t in chosen], axis=0
        )
    return float(result[0]) if table.ndim == 1 else result.reshape(table.shape[:-1])


def _ap(matches: Matches, range_index: int, threshold_index: int) -> float:
    n_scored = matches.n_scored(range_index)
    if not n_scored:
        return float("nan")
    positive, counted = matches.sorted_outcomes(range_index, threshold_index)
    hits = np.flatnonzero(positive)
    # Precision can only have its maxima, and recall its steps, at true positives.
    n_found = np.arange(1, len(hits) + 1)
    precision = n_found / np.cumsum(counted, dtype=np.int32)[hits]
    return _interpolated(precision, n_found / n_scored)


def block_average_precision(
    matches: Matches,
    blocks: ArrayLike,
    weights: ArrayLike,
    range_index: int = 0,
    thresholds: Sequence[float] | None = None,
) -> FloatArray:
    """Return the average precision for many sets of weights of blocks, as a bootstrap needs it.

    The same as `average_precision` with each sample weighing as its block does, but faster: how
    many detections of each block come down to each true positive is counted once, and a set of
    weights is then one row of a product of matrices.

    Parameters
    ----------
    matches : Matches
    blocks : array_like of int, shape (n_samples,)
        The block of each sample, counted from 0.
    weights : array_like of float, shape (n, n_blocks), >= 0
    range_index, thresholds
        As in `average_precision`.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where no truth is scored.

    Raises
    ------
    DataError
        Shapes do not fit.
    """
    of_sample = np.asarray(blocks, dtype=np.int64)
    table = np.asarray(weights, dtype=np.float64)
    if of_sample.shape != (matches.n_samples,) or table.ndim != 2:
        raise DataError(
            f"{matches.n_samples} samples need as many blocks, and weights two axes, "
            f"not shapes {of_sample.shape} and {table.shape}."
        )
    n_blocks = table.shape[1]
    if len(of_sample) and not 0 <= of_sample.min() <= of_sample.max() < n_blocks:
        raise DataError(f"Blocks run to {of_sample.max()}, but there are weights for {n_blocks}.")
    chosen = [_threshold_index(matches, iou) for iou in thresholds or matches.thresholds]
    scored = np.bincount(
        of_sample, weights=matches.scored_per_sample(range_index), minlength=n_blocks
    )
    block = of_sample[matches.sample[matches.order]]
    total = np.zeros(len(table))
    for t in chosen:
        positive, counted = matches.sorted_outcomes(range_index, t)
        n_hits = int(positive.sum())
        per_step = max(_WEIGHTS_AT_ONCE // max(n_hits, 1), 1)
        n_counted = _counts_down_to_hits(block, counted, positive, n_blocks)
        n_found = _counts_down_to_hits(block, positive, positive, n_blocks)
        for start in range(0, len(table), per_step):
            part = table[start : start + per_step]
            total[start : start + per_step] += _ap_of_counts(
                part @ n_counted, part @ n_found, part @ scored
            )
    return total / len(chosen)


def _counts_down_to_hits(
    block: IntArray, of_interest: BoolArray, positive: BoolArray, n_blocks: int
) -> FloatArray:
    """Return, per block and true positive, how many of interest come down to it by confidence."""
    n_hits = int(positive.sum())
    # A detection first counts at the next true positive, itself if it is one.
    next_hit: IntArray = np.cumsum(positive, dtype=np.int64) - positive
    used = np.flatnonzero(of_interest & (next_hit < n_hits))
    cells = np.bincount(block[used] * n_hits + next_hit[used], minlength=n_blocks * n_hits)
    return np.cumsum(cells.reshape(n_blocks, n_hits), axis=1, dtype=np.float64)


def _weighted_ap(
    matches: Matches, range_index: int, threshold_index: int, weights: FloatArray
) -> FloatArray:
    n_scored = weights @ matches.scored_per_sample(range_index)
    positive, counted = matches.sorted_outcomes(range_index, threshold_index)
    sample = matches.sample[matches.order]
    hits = np.flatnonzero(positive[counted])
    n_counted = np.cumsum(weights[:, sample[counted]], axis=1)[:, hits]
    n_found = np.cumsum(weights[:, sample[positive]], axis=1)
    return _ap_of_counts(n_counted, n_found, n_scored)


def _ap_of_counts(n_counted: FloatArray, n_found: FloatArray, n_scored: FloatArray) -> FloatArray:
    precision = np.divide(n_found, n_counted, out=np.zeros_like(n_found), where=n_counted > 0)
    result = np.full(len(n_scored), np.nan)
    for i in np.flatnonzero(n_scored > 0):
        result[i] = _interpolated(precision[i], n_found[i] / n_scored[i])
    return result


def _interpolated(precision: FloatArray, recall: FloatArray) -> float:
    """Return the mean, over 101 recalls, of the best precision at this or a higher recall."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(recall, _RECALLS, side="left")
    return float(envelope[reached[reached < len(envelope)]].sum() / len(_RECALLS))


def precision_recall(
    matches: Matches, range_index: int = 0, threshold: float | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the precision-recall curve.

    Parameters
    ----------
    matches : Matches
    range_index : int
    threshold : float, optional
        Of IoU; default the lowest.

    Returns
    -------
    confidence, precision, recall : ndarrays of float64, shape (m,)
        For each counted (not ignored) detection by falling confidence: what is right among all down
        to it. Recall is NaN if no truth is scored.
    """
    index = 0 if threshold is None else _threshold_index(matches, threshold)
    positive, counted = matches.sorted_outcomes(range_index, index)
    n_found = np.cumsum(positive[counted]).astype(np.float64)
    n_scored = matches.n_scored(range_index)
    recall = n_found / n_scored if n_scored else np.full(len(n_found), np.nan)
    return (
        matches.confidence[matches.order][counted],
        n_found / np.arange(1, len(n_found) + 1),
        recall,
    )


def detection_rates(
    matches: Matches,
    confidence: float = 0.5,
    *,
    range_index: int = 0,
    threshold: float | None = None,
    weights: ArrayLike | None = None,
) -> Rates:
    """Return precision, recall and F1 of the detections of at least a confidence.

    Parameters
    ----------
    matches : Matches
    confidence : float
    range_index : int
    threshold : float, optional
        Of IoU; default the lowest.
    weights : array_like, shape (n_samples,), optional
        Each sample counts as if it stood so many times.

    Returns
    -------
    Rates
    """
    index = 0 if threshold is None else _threshold_index(matches, threshold)
    sure = matches.confidence >= confidence
    right = matches.true_positive(range_index, index) & sure
    wrong = ~matches.true_positive(range_index, index) & ~matches.ignored(range_index, index) & sure
    if weights is None:
        n_right, n_wrong = float(right.sum()), float(wrong.sum())
        n_scored = float(matches.n_scored(range_index))
    else:
        each = _weights(matches, weights)
        n_right = float(each[matches.sample[right]].sum())
        n_wrong = float(each[matches.sample[wrong]].sum())
        n_scored = float(each @ matches.scored_per_sample(range_index))
    return Rates.of_counts(n_right, n_wrong, n_scored - n_right)


def f1(matches: Matches, confidence: float = 0.5) -> float:
    """Return F1 at the lowest threshold of IoU (.5) of the detections of at least a confidence.

    2 TP / (2 TP + FP + FN), in [0, 1], higher is better; 0 if there is truth but no such
    detection, NaN if there is neither.
    """
    return detection_rates(matches, confidence).f1


def mean_iou(matches: Matches, confidence: float = 0.0) -> float:
    """Return the mean IoU of matched craters, first range and lowest threshold.

    Only detections of at least `confidence`. In [.5, 1] for thresholds from .5, higher is better;
    NaN if none matched.
    """
    found = _found_pairs(matches, confidence)
    return float(np.mean(matches.iou[found])) if len(found) else float("nan")


def centre_error(matches: Matches, confidence: float = 0.0) -> float:
    """Return the median distance of matched centres in units of the true radius.

    First range, lowest threshold, detections of at least `confidence`. From 0, lower is better; NaN
    if none matched.
    """
    found = _found_pairs(matches, confidence)
    if not len(found):
        return float("nan")
    true = matches.truth[matches.matched_truth[found]]
    offset = matches.detections[found, 1:3] - true[:, :2]
    return float(np.median(np.hypot(offset[:, 0], offset[:, 1]) / true[:, 2]))


def radius_bias(matches: Matches, confidence: float = 0.0) -> float:
    """Return the median of ln(predicted radius / true radius) of matched craters, with its sign.

    First range, lowest threshold, detections of at least `confidence`. 0 is best, .1 means 10 % too
    large; NaN if none matched. Rank by its absolute value.
    """
    found = _found_pairs(matches, confidence)
    if not len(found):
        return float("nan")
    true = matches.truth[matches.matched_truth[found], 2]
    return float(np.median(np.log(matches.detections[found, 3] / true)))


def _found_pairs(matches: Matches, confidence: float) -> IntArray:
    return np.flatnonzero((matches.matched_truth >= 0) & (matches.confidence >= confidence))


@dataclass(frozen=True)
class RecallBySize:
    """How many true craters of each bin of radius were found; arrays of shape (n_bins,).

    Attributes
    ----------
    lower, upper : ndarray of float64
        Radii, in the unit of the truth; a bin holds lower <= radius < upper.
    n_truth, n_found : ndarray of int64
    recall : ndarray of float64
        NaN where there is no truth.
    """

    lower: FloatArray
    upper: FloatArray
    n_truth: IntArray
    n_found: IntArray
    recall: FloatArray


def recall_by_size(matches: Matches, edges: ArrayLike, confidence: float = 0.0) -> RecallBySize:
    """Return the share of scored truths found, by their radius, at the lowest threshold of IoU.

    Parameters
    ----------
    matches : Matches
    edges : array_like, shape (n_bins + 1,)
        Ascending radii. Truths are those scored in the first range.
    confidence : float
        Only detections of at least this count.

    Returns
    -------
    RecallBySize
    """
    bounds = np.asarray(edges, dtype=np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or (np.diff(bounds) <= 0).any():
        raise DataError(f"edges must be at least two ascending radii, not {edges!r}.")
    n_bins = len(bounds) - 1
    bin_of = np.searchsorted(bounds, matches.truth[:, 2], side="right") - 1
    inside = matches.truth_scored[0] & (bin_of >= 0) & (bin_of < n_bins)
    found = np.zeros(len(matches.truth), bool)
    found[matches.matched_truth[_found_pairs(matches, confidence)]] = True
    n_truth = np.bincount(bin_of[inside], minlength=n_bins)
    n_found = np.bincount(bin_of[inside & found], minlength=n_bins)
    recall = np.divide(n_found, n_truth, out=np.full(n_bins, np.nan), where=n_truth > 0)
    return RecallBySize(bounds[:-1], bounds[1:], n_truth, n_found, recall)


def kind_f1(
    matches: Matches, true_kind: ArrayLike, predicted_kind: ArrayLike, confidence: float = 0.5
) -> float:
    """Return the macro F1 of finding craters and naming their kind.

    Per kind k: a hit is a true crater of kind k whose match says k; every other crater of kind k is
    a miss, whether it was not found, was found and given another kind, or none; and every counted
    detection that says k without being a hit is false: a crater of another kind, or no crater at
    all. So neither leaving the hard ones out nor sprinkling kinds over the image pays. F1 is
    averaged, unweighted, over the kinds that occur in the truth; a kind predicted but never true
    costs through the misses.

    Parameters
    ----------
    matches : Matches
    true_kind : array_like of int, shape (T,)
        In the order of `matches.truth`. Negative: unknown; such craters and their matches are left
        out.
    predicted_kind : array_like of int, shape (D,)
        In the order of `matches.detections`. Negative: none given.
    confidence : float
        Only detections of at least this count, as in `f1`.

    Returns
    -------
    float
        In [0, 1], higher is better. NaN if no detection at all carries a kind (the entry does not
        play this game), or if the scored truth has fewer than two kinds.
    """
    true = np.asarray(true_kind, dtype=np.int64)
    said = np.asarray(predicted_kind, dtype=np.int64)
    if true.shape != (len(matches.truth),) or said.shape != (len(matches.detections),):
        raise DataError(
            f"kind_f1: {len(matches.truth)} truths and {len(matches.detections)} detections need "
            f"as many kinds, not {true.shape} and {said.shape}."
        )
    kinds = np.unique(true[matches.truth_scored[0] & (true >= 0)])
    if len(kinds) < 2 or not (said >= 0).any():
        return float("nan")
    partner = matches.matched_truth
    is_of = np.where(partner >= 0, np.append(true, -2)[partner], -2)
    known = is_of != -1
    plays = (matches.confidence >= confidence) & ~matches.ignored() & (said >= 0) & known
    scores = []
    for kind in kinds:
        hits = np.sum(plays & (said == kind) & (is_of == kind))
        false = np.sum(plays & (said == kind) & (is_of != kind))
        missed = np.sum(matches.truth_scored[0] & (true == kind)) - hits
        scores.append(Rates.of_counts(hits, false, missed).f1)
    return float(np.mean(scores))


def tolerance_closeness(detected: FloatArray, true: FloatArray) -> FloatArray:
    """Return 1 - max(centre error / r, |ln(detected r / r)|), at least 0; for `match_circles`.

    The pair is within tolerance tau where this is at least 1 - tau.

    Parameters
    ----------
    detected, true : ndarray of float64, shape (m, 3)
        Circles (row, col, radius).

    Returns
    -------
    ndarray of float64, shape (m,), in [0, 1]
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        offset = np.hypot(detected[:, 0] - true[:, 0], detected[:, 1] - true[:, 1]) / true[:, 2]
        error = np.maximum(offset, np.abs(np.log(detected[:, 2] / true[:, 2])))
    return np.where(error < 1, 1 - error, 0.0)


def deepmoon_closeness(detected: FloatArray, true: FloatArray) -> FloatArray:
    """Return at least .5 where DeepMoon would call two circles the same, less elsewhere.

    Its rule: squared distance < 1.8 min(r)^2 and |difference of radii| < min(r). It is very
    loose: circles that do not overlap by a tenth pass.

    Parameters
    ----------
    detected, true : ndarray of float64, shape (m, 3)
        Circles (row, col, radius).

    Returns
    -------
    ndarray of float64, shape (m,), in [0, 1]
        Among the pairs that pass, the closer one is higher.

    References
    ----------
    A. Silburt et al., "Lunar crater identification via deep learning", Icarus 317 (2019);
    https://github.com/silburt/DeepMoon, `template_match_t`.
    """
    smaller = np.minimum(detected[:, 2], true[:, 2])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        distance = np.hypot(detected[:, 0] - true[:, 0], detected[:, 1] - true[:, 1]) / smaller
        error = np.maximum(distance**2 / 1.8, np.abs(detected[:, 2] - true[:, 2]) / smaller)
    return np.where(error < 1, 1 - error / 2, 0.0)


def tolerance_match(
    truth: ArrayLike,
    truth_offsets: ArrayLike,
    truth_ignored: ArrayLike,
    detections: ArrayLike,
    detection_offsets: ArrayLike,
    *,
    confidence: float = 0.5,
    tau: Sequence[float] = (0.1, 0.25, 0.5),
    size_range: tuple[float, float] = RANGES[0],
    window: tuple[float, float] | None = WINDOW,
) -> dict[str, Rates]:
    """Return precision, recall and F1 by the tolerances that crater papers use.

    Matching is one to one, greedy by confidence, each detection taking the closest free truth.
    Ignored truths and unmatched detections are treated as in `match_circles`.

    Parameters
    ----------
    truth, truth_offsets, truth_ignored, detections, detection_offsets
        As in `match_circles`.
    confidence : float
        Only detections of at least this count.
    tau : sequence of float, in (0, 1)
        Tolerances: centre error <= tau r and |ln(r_predicted / r)| <= tau.
    size_range : (lo, hi), pixels
    window : (low, high) in pixels, or None

    Returns
    -------
    dict of str to Rates
        "tau=0.1", ... and "deepmoon".

    Raises
    ------
    DataError
        A tolerance is not between 0 and 1, or as `match_circles`.
    """
    if not tau or not all(0 < t < 1 for t in tau):
        raise DataError(f"Tolerances must lie between 0 and 1, not {tau}.")
    steps = sorted({1 - t for t in tau})
    within = match_circles(
        truth,
        truth_offsets,
        truth_ignored,
        detections,
        detection_offsets,
        ranges=[size_range],
        window=window,
        thresholds=steps,
        ignored_overlap=steps[0],
        overlap=tolerance_closeness,
    )
    loose = match_circles(
        truth,
        truth_offsets,
        truth_ignored,
        detections,
        detection_offsets,
        ranges=[size_range],
        window=window,
        thresholds=[0.5],
        overlap=deepmoon_closeness,
    )
    rates = {f"tau={t:g}": detection_rates(within, confidence, threshold=1 - t) for t in tau}
    return rates | {"deepmoon": detection_rates(loose, confidence)}


def _threshold_index(matches: Matches, iou: float) -> int:
    near = np.flatnonzero(np.isclose(matches.thresholds, iou, rtol=0, atol=1e-9))
    if not len(near):
        raise DataError(f"No threshold {iou} among {matches.thresholds}.")
    return int(near[0])


def _weights(matches: Matches, weights: ArrayLike) -> FloatArray:
    table = np.asarray(weights, dtype=np.float64)
    if table.shape[-1:] != (matches.n_samples,):
        raise DataError(
            f"Weights of shape {table.shape} do not fit {matches.n_samples} samples; "
            "the last axis must be as long."
        )
    return table


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _rows(values: ArrayLike, width: int, name: str, columns: str) -> FloatArray:
    table = np.asarray(values, dtype=np.float64)
    if table.size == 0:
        table = table.reshape(0, width)
    if table.ndim != 2 or table.shape[1] != width:
        raise DataError(f"{name} must have the columns ({columns}), not the shape {table.shape}.")
    return table


def _offsets(values: ArrayLike, n_rows: int, name: str) -> IntArray:
    offsets = np.asarray(values, dtype=np.int64)
    if (
        offsets.ndim != 1
        or not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != n_rows
        or (np.diff(offsets) < 0).any()
    ):
        raise DataError(f"{name} must ascend from 0 to the number of rows, {n_rows}.")
    return offsets


def _flags_to_bits(flags: BoolArray, of_range: BitArray) -> BitArray:
    bits = np.zeros(flags.shape[1], np.uint64)
    for row, mask in zip(flags, of_range, strict=True):
        bits |= row * mask
    return bits


def _beyond(confidence: FloatArray, starts: IntArray, most: int) -> BoolArray:
    """Return which detections are not among the `most` most confident of their sample."""
    beyond = np.zeros(len(confidence), bool)
    for sample in np.flatnonzero(np.diff(starts) > most):
        rows = slice(starts[sample], starts[sample + 1])
        order = np.argsort(-confidence[rows], kind="stable")
        beyond[starts[sample] + order[most:]] = True
    return beyond


def _count_within(groups: NDArray[np.int32]) -> IntArray:
    """Count 0, 1, 2 ... within each run of equal values."""
    new = np.concatenate([[True], groups[1:] != groups[:-1]])
    first = np.flatnonzero(new)
    return np.arange(len(groups)) - first[np.cumsum(new) - 1]
