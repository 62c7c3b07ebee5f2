"""Which differences between entries are real: the paired bootstrap over blocks.

Craters of one tile, and tiles of one piece of ground, are not independent; blocks are. So
blocks are drawn with replacement, and all entries are scored on the same draws: what makes a draw
hard is hard for all of them, and the difference of two entries is known better than either score.

Average precision of several entries, each with its `Matches` on the same tiles::

    blocks, n_blocks = block_indices(tiles["block"])
    compare([partial(block_average_precision, matches, blocks) for matches in entries], n_blocks)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acdc.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Statistic = Callable[[FloatArray], FloatArray]

MIN_BLOCKS = 10
"""With fewer independent blocks no interval is told and no rank is shared."""


def block_indices(blocks: Sequence[object] | ArrayLike) -> tuple[IntArray, int]:
    """Number the blocks from 0 in sorted order; return each sample's number and how many there are.

    Parameters
    ----------
    blocks : sequence, shape (n_samples,)
        Names of blocks.

    Returns
    -------
    index : ndarray of int64, shape (n_samples,)
    n_blocks : int
    """
    names, index = np.unique(np.asarray(blocks), return_inverse=True)
    return index.reshape(-1).astype(np.int64), len(names)


def draw_weights(n_blocks: int, n_draws: int = 1000, seed: int = 0) -> FloatArray:
    """Return how often each block stands in each draw with replacement.

    Parameters
    ----------
    n_blocks : int
    n_draws : int
    seed : int
        The same draws for the same seed, so that entries scored at different times stay paired.

    Returns
    -------
    ndarray of float64, shape (n_draws, n_blocks)
        Whole numbers; each row sums to n_blocks.
    """
    if n_blocks < 1 or n_draws < 1:
        raise DataError(f"Cannot draw {n_draws} times from {n_blocks} blocks.")
    random = np.random.default_rng(seed)
    shares = np.full(n_blocks, 1 / n_blocks)
    return random.multinomial(n_blocks, shares, size=n_draws).astype(np.float64)


@dataclass(frozen=True)
class Interval:
    """A score with its interval.

    Attributes
    ----------
    value : float
        On the data as they are.
    lower, upper : float
        Percentiles over the draws; NaN with fewer than `MIN_BLOCKS` blocks.
    n_blocks : int
    """

    value: float
    lower: float
    upper: float
    n_blocks: int


def interval(
    statistic: Statistic, n_blocks: int, *, level: float = 0.95, n_draws: int = 1000, seed: int = 0
) -> Interval:
    """Return a score and its bootstrap percentile interval.

    Parameters
    ----------
    statistic : callable
        Of weights of blocks, shape (n, n_blocks), to scores, shape (n,). A draw that cannot be
        scored (no truth in it) may be NaN and is left out.
    n_blocks : int
    level : float in (0, 1)
    n_draws : int
    seed : int

    Returns
    -------
    Interval
    """
    value = float(_scores(statistic, np.ones((1, n_blocks)))[0])
    if n_blocks < MIN_BLOCKS:
        return Interval(value, float("nan"), float("nan"), n_blocks)
    drawn = _scores(statistic, draw_weights(n_blocks, n_draws, seed))
    lower, upper = _percentiles(drawn, level)
    return Interval(value, lower, upper, n_blocks)


@dataclass(frozen=True)
class Comparison:
    """Entries ranked by a score; arrays of shape (n_entries,) in the order given.

    Attributes
    ----------
    value, lower, upper : ndarray of float64
        Score and its interval; the interval is NaN with fewer than `MIN_BLOCKS` blocks.
    better : ndarray of bool, shape (n_entries, n_entries), or None
        better[i, j]: entry i is significantly better than j. None with fewer than `MIN_BLOCKS`
        blocks.
    rank : ndarray of int64, or None
        1 + the number of entries that are significantly better, so ranks are shared. None with
        fewer than `MIN_BLOCKS` blocks. An entry whose score is NaN comes behind all that have one.
    n_blocks : int
    """

    value: FloatArray
    lower: FloatArray
    upper: FloatArray
    better: NDArray[np.bool_] | None
    rank: IntArray | None
    n_blocks: int


def compare(
    statistics: Sequence[Statistic],
    n_blocks: int,
    *,
    higher_is_better: bool = True,
    level: float = 0.95,
    n_draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Rank entries by what the paired bootstrap can tell apart.

    Entry i is significantly better than j if the `level` percentile interval of the difference of
    their scores, on the same draws, excludes 0. "Cannot be told apart" is not transitive, so
    entries do not fall into classes; but the number of entries that are significantly better is
    well defined for each, and is its rank less one.

    Parameters
    ----------
    statistics : sequence of callables
        One per entry, as in `interval`, all over the same blocks.
    n_blocks : int
    higher_is_better : bool
    level : float in (0, 1)
    n_draws : int
    seed : int

    Returns
    -------
    Comparison
    """
    value = np.array(
        [_scores(statistic, np.ones((1, n_blocks)))[0] for statistic in statistics], dtype=float
    )
    sign = 1.0 if higher_is_better else -1.0
    n = len(value)
    if n_blocks < MIN_BLOCKS:
        unknown = np.full(n, np.nan)
        return Comparison(value, unknown, unknown, None, None, n_blocks)
    weights = draw_weights(n_blocks, n_draws, seed)
    drawn = np.array([_scores(statistic, weights) for statistic in statistics])
    drawn = drawn.reshape(n, n_draws)
    limits = np.array([_percentiles(row, level) for row in drawn]).reshape(n, 2)
    better = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(n):
            better[i, j] = i != j and _percentiles(sign * (drawn[i] - drawn[j]), level)[0] > 0
    return Comparison(value, limits[:, 0], limits[:, 1], better, _ranks(better, value), n_blocks)


def _ranks(ahead: NDArray[np.bool_], value: FloatArray) -> IntArray:
    scored = np.isfinite(value)
    ahead = ahead | (scored[:, None] & ~scored[None])
    return 1 + ahead.sum(axis=0).astype(np.int64)


def _scores(statistic: Statistic, weights: FloatArray) -> FloatArray:
    scores = np.asarray(statistic(weights), dtype=np.float64)
    if scores.shape != (len(weights),):
        raise DataError(
            f"A statistic must return one score per set of weights, {len(weights)}, "
            f"not the shape {scores.shape}."
        )
    return scores


def _percentiles(drawn: FloatArray, level: float) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    lower, upper = np.quantile(known, [tail, 1 - tail])
    return float(lower), float(upper)
