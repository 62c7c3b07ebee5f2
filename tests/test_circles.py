"""Overlap against mpmath and shapely, merging against a plain loop."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from acdc.errors import DataError
from acdc.metrics import circles as module
from acdc.metrics.circles import (
    box_iou,
    circle_iou,
    distance_at_iou,
    merge_circles,
    pairwise_circle_iou,
)


def reference_iou(a, b):
    """Return the IoU by the segments r^2 (t - sin t cos t), in 60 digits."""
    with mpmath.workdps(60):
        (y1, x1, r1), (y2, x2, r2) = ([mpmath.mpf(float(v)) for v in circle] for circle in (a, b))
        d = mpmath.sqrt((y1 - y2) ** 2 + (x1 - x2) ** 2)
        if r1 == 0 or r2 == 0 or d >= r1 + r2:
            return 0.0
        if d <= abs(r1 - r2):
            return float((min(r1, r2) / max(r1, r2)) ** 2)
        lens = mpmath.mpf(0)
        for r, other in ((r1, r2), (r2, r1)):
            t = mpmath.acos((d * d + r * r - other * other) / (2 * d * r))
            lens += r * r * (t - mpmath.sin(t) * mpmath.cos(t))
        return float(lens / (mpmath.pi * (r1 * r1 + r2 * r2) - lens))


def hard_pairs(rng, n):
    """Return pairs of circles near every border of the formula, n of each kind."""
    radius = np.exp(rng.uniform(-3, 6, (n, 2)))
    direction = rng.uniform(0, 2 * np.pi, n)
    nudge = rng.choice([0, 1, -1], n) * 10.0 ** rng.uniform(-16, -1, n)
    total, difference = radius.sum(axis=1), np.abs(radius[:, 0] - radius[:, 1])
    pairs = []
    for distance, offset in (
        (total * (1 + nudge), 0.0),  # touching from outside
        (difference * (1 + nudge), 0.0),  # touching from inside
        (difference + rng.random(n) * (total - difference), 0.0),  # crossing
        (difference * rng.random(n), 0.0),  # nested
        (difference * (1 + nudge), 1e7),  # far from the origin
    ):
        a = np.c_[np.full((n, 2), offset), radius[:, 0]]
        b = a[:, :2] + np.c_[distance * np.sin(direction), distance * np.cos(direction)]
        pairs.append((a, np.c_[b, radius[:, 1]]))
    same = np.c_[rng.normal(0, 100, (n, 2)), radius[:, 0]]
    pairs.append((same, same))
    pairs.append((same, same * (1 + nudge[:, None])))
    tiny = np.c_[rng.normal(0, 1e-160, (n, 2)), np.exp(rng.uniform(-360, -350, n))]
    pairs.append((tiny, tiny[::-1]))
    needle = np.c_[np.zeros((n, 2)), 10.0 ** rng.uniform(6, 12, n)]
    beside = np.c_[needle[:, 2] * (1 + nudge / 1e5), np.zeros(n), radius[:, 0]]
    pairs.append((needle, beside))
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return a, b


def test_agrees_with_60_digits():
    a, b = hard_pairs(np.random.default_rng(1), 60)
    expected = [reference_iou(x, y) for x, y in zip(a, b, strict=True)]
    assert_allclose(circle_iou(a, b), expected, rtol=0, atol=1e-13)


def test_agrees_with_polygons():
    from shapely import Point

    rng = np.random.default_rng(2)
    a, b = (np.c_[rng.uniform(0, 20, (40, 2)), rng.uniform(3, 15, 40)] for _ in range(2))
    for x, y in zip(a, b, strict=True):
        p, q = (Point(c[1], c[0]).buffer(c[2], quad_segs=512) for c in (x, y))
        assert_allclose(circle_iou(x, y), p.intersection(q).area / p.union(q).area, atol=1e-5)


def test_a_million_hard_pairs_give_numbers():
    a, b = hard_pairs(np.random.default_rng(3), 112_000)
    with np.errstate(all="raise", under="ignore"):
        iou = circle_iou(a, b)
    assert len(iou) > 1_000_000
    assert ((iou >= 0) & (iou <= 1)).all()
    assert_array_equal(iou, circle_iou(b, a))
    same = (a == b).all(axis=1) & (a[:, 2] > 0)
    assert_array_equal(iou[same], 1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 1), (0, 1, 1), 0.24301),  # where ramp-workflow 0.7 has 0.891
        ((0, 0, 1), (0, 2, 1), 0),
        ((0, 0, 2), (0.5, 0, 1), 0.25),
        ((0, 0, 0), (0, 0, 0), 0),
        ((0, 0, 0), (0, 0, 3), 0),
        ((1e308, 0, 1), (-1e308, 0, 1), 0),
        ((0, 0, 1e300), (0, 0, 1e300), 1),
        ((0, 0, 5e-324), (0, 0, 5e-324), 1),
        ((1e15, 1e15, 3), (1e15, 1e15, 3), 1),
    ],
)
def test_known_overlaps(a, b, expected):
    assert_allclose(circle_iou(a, b), expected, atol=5e-6)


@pytest.mark.parametrize("bad", [(np.nan, 0, 1), (0, np.inf, 1), (0, 0, -1), (0, 0)])
def test_impossible_circles_are_refused(bad):
    with pytest.raises(DataError):
        circle_iou(bad, (0, 0, 1))
    with pytest.raises(DataError):
        merge_circles([bad], [0.5])


positions = st.floats(-50, 50)
radii = st.floats(0.1, 30)


@given(st.tuples(positions, positions, radii), st.tuples(positions, positions, radii), radii)
@settings(max_examples=60, deadline=None)
def test_overlap_is_symmetric_and_does_not_depend_on_the_frame(a, b, scale):
    a, b = np.array(a), np.array(b)
    iou = circle_iou(a, b)
    assert iou == circle_iou(b, a)
    assert_allclose(circle_iou(a * scale, b * scale), iou, atol=1e-9)
    turned = [np.array([c[1], -c[0], c[2]]) for c in (a, b)]
    assert_allclose(circle_iou(*turned), iou, atol=1e-12)


def test_pairwise_has_all_pairs():
    a, b = [(0, 0, 1), (0, 0, 2)], [(0, 1, 1), (0, 0, 2), (5, 5, 1)]
    assert_allclose(pairwise_circle_iou(a, b), [[0.24301, 0.25, 0], [0.25, 1, 0]], atol=1e-5)
    assert pairwise_circle_iou(np.zeros((0, 3)), b).shape == (0, 3)


@pytest.mark.parametrize("iou", [0.05, 0.5, 0.75, 0.99])
def test_no_circles_overlap_as_much_at_a_greater_distance(iou):
    distance = distance_at_iou(iou)
    assert_allclose(circle_iou((0, 0, 1), (0, distance, 1)), iou, atol=1e-12)
    smaller = np.linspace(0.01, 1, 400)
    further = np.c_[np.zeros(400), np.full(400, distance * 1.0001), smaller]
    assert (circle_iou((0, 0, 1), further) < iou).all()


def test_box_iou():
    assert box_iou((0, 0, 2, 2), (1, 1, 2, 2)) == 1 / 7
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


# --- merging ---------------------------------------------------------------------------------


def merged_by_loop(circles, confidence, iou, group):
    keep, keeper = [], np.arange(len(circles))
    for i in sorted(range(len(circles)), key=lambda i: -confidence[i]):
        for k in keep:
            if group[k] == group[i] and circle_iou(circles[k], circles[i]) > iou:
                keeper[i] = k
                break
        else:
            keep.append(i)
    return np.array(keep, dtype=int), keeper


@pytest.mark.parametrize("iou", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize(("pairs", "chunk", "rounds"), [(10**7, 10**5, 40), (60, 7, 1)])
def test_merging_is_greedy_by_confidence(monkeypatch, iou, pairs, chunk, rounds):
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(module, "_CHUNK", chunk)
    monkeypatch.setattr(module, "_ROUNDS", rounds)
    rng = np.random.default_rng(int(100 * iou))
    for n in (0, 1, 2, 40, 90):
        circles = np.c_[rng.uniform(-30, 30, (n, 2)), np.exp(rng.uniform(0.5, 3.4, n))]
        circles[rng.random(n) < 0.1, 2] = 0
        confidence = np.round(rng.random(n), 1)
        group = rng.integers(0, 2, n)
        keep, keeper = merge_circles(circles, confidence, iou=iou, group=group)
        expected_keep, expected_keeper = merged_by_loop(circles, confidence, iou, group)
        assert_array_equal(keep, expected_keep)
        assert_array_equal(keeper, expected_keeper)


@pytest.mark.parametrize("offset", [0.0, 1e7, -3e11])
def test_merging_does_not_depend_on_the_place(offset):
    rng = np.random.default_rng(4)
    circles = np.c_[np.round(rng.uniform(0, 60, (200, 2)), 3), np.exp(rng.uniform(1, 3, 200))]
    confidence = rng.random(200)
    keep, keeper = merge_circles(circles, confidence)
    moved = circles + np.array([offset, -offset, 0])
    moved_keep, moved_keeper = merge_circles(moved, confidence)
    assert_array_equal(keep, moved_keep)
    assert_array_equal(keeper, moved_keeper)


def test_many_on_one_place_need_no_square_of_memory():
    n = 200_000
    circles = np.tile([5.0, 5.0, 5.0], (n, 1))
    keep, keeper = merge_circles(circles, np.linspace(0, 1, n))
    assert keep.tolist() == [n - 1]
    assert (keeper == n - 1).all()


def test_a_chain_keeps_every_second():
    circles = np.c_[np.arange(3000) * 4.0, np.zeros(3000), np.full(3000, 10.0)]
    keep, _ = merge_circles(circles, -np.arange(3000.0))
    assert_array_equal(keep, np.arange(0, 3000, 2))


@given(st.lists(st.tuples(positions, positions, radii, st.integers(0, 3)), max_size=25))
@settings(max_examples=40, deadline=None)
def test_merged_circles_do_not_overlap_and_merging_again_changes_nothing(rows):
    table = np.array(rows, dtype=float).reshape(-1, 4)
    keep, keeper = merge_circles(table[:, :3], table[:, 3])
    kept = table[keep]
    assert (np.triu(pairwise_circle_iou(kept[:, :3], kept[:, :3]), 1) <= 0.5).all()
    assert_array_equal(np.unique(keeper), np.sort(keep))
    lost = np.setdiff1d(np.arange(len(table)), keep)
    assert (circle_iou(table[lost, :3], table[keeper[lost], :3]) > 0.5).all()
    assert len(merge_circles(kept[:, :3], kept[:, 3])[0]) == len(keep)
