"""The paired bootstrap: weights, intervals that cover, ranks that are shared."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from acdc.errors import DataError
from acdc.metrics.bootstrap import MIN_BLOCKS, block_indices, compare, draw_weights, interval
from acdc.metrics.detection import average_precision, block_average_precision, match_circles


def mean_of(values):
    """Return the statistic "mean over blocks" of one value per block."""
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_draws_are_whole_blocks_and_repeat_with_the_seed():
    weights = draw_weights(25, 400, seed=3)
    assert_array_equal(weights, np.round(weights))
    assert_array_equal(weights.sum(axis=1), 25)
    assert_array_equal(weights, draw_weights(25, 400, seed=3))
    assert (weights != draw_weights(25, 400, seed=4)).any()
    # Multinomial: mean 1 and variance 1 - 1/25.
    assert_allclose(weights.mean(axis=0), 1, atol=0.25)
    assert_allclose(weights.var(), 1 - 1 / 25, atol=0.05)


def test_blocks_are_numbered_by_name():
    index, n_blocks = block_indices(["b", "a", "b", "c"])
    assert (index.tolist(), n_blocks) == ([1, 0, 1, 2], 3)
    assert block_indices([])[1] == 0


def test_interval_is_that_of_the_theory():
    values = np.random.default_rng(0).normal(5, 2, 80)
    found = interval(mean_of(values), 80, n_draws=4000)
    assert_allclose(found.value, values.mean())
    half = 1.96 * values.std() / np.sqrt(80)
    assert_allclose([found.lower, found.upper], values.mean() + np.array([-half, half]), atol=0.06)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(150):
        found = interval(mean_of(rng.normal(0, 1, 40)), 40, n_draws=300, seed=seed)
        hits += found.lower < 0 < found.upper
    assert 0.87 <= hits / 150 <= 0.99


def test_draws_without_a_score_are_left_out():
    values = np.random.default_rng(2).normal(0, 1, 12)

    def statistic(weights):
        with np.errstate(invalid="ignore"):
            return np.where(weights[:, 0] > 0, mean_of(values)(weights), np.nan)

    found = interval(statistic, 12)
    assert found.lower < found.value < found.upper


def test_paired_entries_are_told_apart_where_single_intervals_overlap():
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 5, 30)  # how hard a block is, for everybody
    noise = rng.normal(0, 0.1, (4, 30))
    gains = [0.0, 0.3, 0.31, 2.0]
    entries = [mean_of(hard + gain + n) for gain, n in zip(gains, noise, strict=True)]
    result = compare(entries, 30)
    assert result.lower[3] < result.upper[0]  # alone, best and worst are not distinct
    assert result.rank.tolist() == [4, 2, 2, 1]
    assert_array_equal(result.better, ~result.better.T & result.better)
    backwards = compare(entries, 30, higher_is_better=False)
    assert backwards.rank.tolist() == [1, 2, 2, 4]


def test_equal_entries_share_the_first_rank():
    values = np.random.default_rng(4).normal(0, 1, 20)
    result = compare([mean_of(values)] * 3, 20)
    assert result.rank.tolist() == [1, 1, 1]
    assert not result.better.any()


def test_equal_entries_are_seldom_told_apart():
    rng = np.random.default_rng(5)
    told = 0
    for seed in range(120):
        entries = [mean_of(rng.normal(0, 1, 40)) for _ in range(2)]
        told += compare(entries, 40, n_draws=300, seed=seed).better.any()
    assert told / 120 < 0.13


def test_being_indistinguishable_is_not_transitive_but_ranks_are_defined():
    noise = np.random.default_rng(6).normal(0, 1, (3, 50))
    noise = np.linalg.qr((noise - noise.mean(axis=1, keepdims=True)).T)[0].T * np.sqrt(50)
    # The difference of two entries has a standard error of .2: steps of 1.5, both together of 3.
    entries = [mean_of(gain + n) for gain, n in zip((0, 0.3, 0.6), noise, strict=True)]
    result = compare(entries, 50)
    assert result.better.tolist() == [[False] * 3, [False] * 3, [True, False, False]]
    assert result.rank.tolist() == [2, 1, 1]


def test_an_entry_without_a_score_is_last():
    values = np.random.default_rng(7).normal(0, 1, 20)
    result = compare([lambda w: np.full(len(w), np.nan), mean_of(values), mean_of(values)], 20)
    assert result.rank.tolist() == [3, 1, 1]
    assert np.isnan(result.value[0])


def test_few_blocks_give_no_interval_and_no_rank():
    values = np.arange(MIN_BLOCKS - 1.0)
    found = interval(mean_of(values), len(values))
    assert found.value == 4
    assert np.isnan([found.lower, found.upper]).all()
    result = compare([mean_of(values), mean_of(values + 1)], len(values))
    assert result.value.tolist() == [4, 5]
    assert result.rank is None
    assert result.better is None
    assert np.isnan(result.lower).all()


def test_no_entries():
    assert len(compare([], 20).rank) == 0


def test_average_precision_of_entries_on_the_same_tiles():
    rng = np.random.default_rng(9)
    n = 120
    blocks, n_blocks = block_indices([f"block {i // 8}" for i in range(n)])
    truth = np.c_[rng.uniform(40, 180, (n, 2)), rng.uniform(6, 25, n)]
    one_each = np.arange(n + 1)

    def entry(scatter):
        circles = truth + rng.normal(0, scatter, truth.shape) * truth[:, 2:]
        found = np.c_[rng.random(n), circles]
        return match_circles(truth, one_each, np.zeros(n, bool), found, one_each)

    entries = [entry(scatter) for scatter in (0.1, 0.03, 0.1)]
    result = compare([partial(block_average_precision, m, blocks) for m in entries], n_blocks)
    assert_allclose(result.value, [average_precision(m) for m in entries])
    assert result.rank.tolist() == [2, 1, 2]
    assert (result.lower < result.value).all()
    assert (result.value < result.upper).all()


def test_impossible_draws_and_statistics_are_refused():
    with pytest.raises(DataError):
        draw_weights(0)
    with pytest.raises(DataError):
        interval(lambda weights: 1.0, 20)
