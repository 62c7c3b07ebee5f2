"""Matching and scores against pycocotools, a slow reading of the rules, and properties."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from acdc.errors import DataError
from acdc.metrics.circles import box_iou, circle_iou, merge_circles
from acdc.metrics.detection import (
    RANGES,
    THRESHOLDS,
    WINDOW,
    Matches,
    average_precision,
    block_average_precision,
    centre_error,
    detection_rates,
    f1,
    kind_f1,
    match,
    match_circles,
    mean_iou,
    precision_recall,
    radius_bias,
    recall_by_size,
    tolerance_match,
)


def scene(rng, n_samples=12, n_truth=4, n_wrong=6, *, scatter=0.12, ties=False, apart=False):
    """Return flat truth and detections of samples of different lengths, some of them empty."""
    truths, detections = [], []
    for _ in range(n_samples):
        k = rng.integers(0, n_truth + 1)
        truth = np.c_[rng.uniform(10, 214, (k, 2)), np.exp(rng.uniform(1.2, 3.5, k))]
        if apart:
            truth = truth[merge_circles(truth, rng.random(k), iou=0.01)[0]]
            k = len(truth)
        again = truth[rng.random(k) < 0.8].repeat(rng.integers(1, 3), axis=0)
        again[:, :2] += rng.normal(0, scatter, (len(again), 2)) * again[:, 2:]
        again[:, 2] *= np.exp(rng.normal(0, scatter, len(again)))
        m = rng.integers(0, n_wrong + 1)
        wrong = np.c_[rng.uniform(0, 224, (m, 2)), np.exp(rng.uniform(1.0, 3.6, m))]
        circles = np.concatenate([again, wrong])
        confidence = rng.permutation(len(circles)) / (len(circles) + 1) + rng.random() / 1000
        if ties:
            confidence = np.round(confidence * 3) / 3
        truths.append(truth)
        detections.append(np.c_[confidence, circles])
    return flat(truths, 3) + flat(detections, 4)


def flat(parts, width):
    rows = np.concatenate([np.zeros((0, width)), *parts])
    return rows, np.cumsum([0] + [len(part) for part in parts])


def matched(data, flagged=None, **options):
    truth, truth_offsets, detections, offsets = data
    if flagged is None:
        flagged = np.zeros(len(truth), bool)
    return match_circles(truth, truth_offsets, flagged, detections, offsets, **options)


def one_tile(truth, detections, flagged=None, **options):
    truth, detections = np.reshape(truth, (-1, 3)), np.reshape(detections, (-1, 4))
    data = truth, [0, len(truth)], detections, [0, len(detections)]
    return matched(data, flagged, **options)


# --- the circle rules, slowly, from notes/metrics.md -----------------------------------------


def slow_match(data, flagged, truth_range, threshold):
    """Return per detection "right", "wrong" or "ignored", and the number of scored truths."""
    truth, truth_offsets, detections, offsets = data
    lo, hi = truth_range
    low, high = WINDOW
    verdict = ["?"] * len(detections)
    n_scored = 0
    for s in range(len(offsets) - 1):
        truths = range(truth_offsets[s], truth_offsets[s + 1])
        ignored = {}
        for g in truths:
            row, col, radius = truth[g]
            inside = low <= row < high and low <= col < high
            ignored[g] = bool(flagged[g]) or not inside or not lo <= radius <= hi
        n_scored += sum(not value for value in ignored.values())
        free = set(truths)
        queue = sorted(range(offsets[s], offsets[s + 1]), key=lambda d: -detections[d, 0])
        for late in queue[100:]:
            verdict[late] = "ignored"
        for d in queue[:100]:
            _, row, col, radius = detections[d]
            overlap = {g: float(circle_iou(detections[d, 1:], truth[g])) for g in truths}
            for wanted, outcome in ((False, "right"), (True, "ignored")):
                able = [
                    g
                    for g in free
                    if ignored[g] == wanted and overlap[g] >= min(threshold, 1 - 1e-10)
                ]
                if able:
                    free.remove(max(able, key=lambda g: (overlap[g], g)))
                    verdict[d] = outcome
                    break
            else:
                outside = math.hypot(max(low - row, 0, row - high), max(low - col, 0, col - high))
                hidden = (
                    radius < lo * math.sqrt(0.5)
                    or radius > hi / math.sqrt(0.5)
                    or outside > 0.53 * radius
                    or any(ignored[g] and overlap[g] >= 0.5 for g in truths)
                )
                verdict[d] = "ignored" if hidden else "wrong"
    return np.array(verdict, dtype=object), n_scored


def slow_average_precision(confidence, verdict, n_scored):
    """Return the mean over recalls of the best precision at this or a higher recall."""
    points, right, counted = [], 0, 0
    for d in sorted(range(len(confidence)), key=lambda d: -confidence[d]):
        if verdict[d] != "ignored":
            counted += 1
            right += verdict[d] == "right"
            points.append((right / n_scored, right / counted))
    total = 0.0
    for recall in np.linspace(0, 1, 101):
        total += max((p for r, p in points if r >= recall), default=0.0)
    return total / 101


@pytest.mark.parametrize("seed", range(6))
def test_circle_rules_agree_with_their_words(seed):
    rng = np.random.default_rng(seed)
    data = scene(rng, ties=seed % 2 == 1)
    flagged = rng.random(len(data[0])) < 0.2
    matches = matched(data, flagged)
    for r, truth_range in enumerate(RANGES):
        scores = []
        for t, threshold in enumerate(THRESHOLDS):
            verdict, n_scored = slow_match(data, flagged, truth_range, threshold)
            assert_array_equal(matches.true_positive(r, t), verdict == "right")
            assert_array_equal(matches.ignored(r, t), verdict == "ignored")
            assert matches.truth_scored[r].sum() == n_scored
            if n_scored:
                scores.append(slow_average_precision(data[2][:, 0], verdict, n_scored))
        assert_allclose(average_precision(matches, r), np.mean(scores or np.nan), atol=1e-12)


@pytest.mark.parametrize(
    ("circle", "scored"),
    [
        ((28, 28, 5), True),
        ((27.999, 100, 10), False),
        ((100, 195.999, 28), True),
        ((196, 100, 10), False),
        ((100, 100, 4.999), False),
        ((100, 100, 28.001), False),
    ],
)
def test_which_truth_is_scored(circle, scored):
    matches = one_tile(circle, [0.9, *circle])
    assert matches.truth_scored[0].tolist() == [scored]
    assert matches.true_positive().tolist() == [scored]
    assert matches.ignored().tolist() == [not scored]


@pytest.mark.parametrize(
    ("circle", "ignored"),
    [
        ((100, 100, 5 * math.sqrt(0.5) + 1e-6), False),
        ((100, 100, 5 * math.sqrt(0.5) - 1e-6), True),
        ((100, 100, 28 / math.sqrt(0.5) - 1e-6), False),
        ((100, 100, 28 / math.sqrt(0.5) + 1e-6), True),
        ((28 - 5.29, 100, 10), False),
        ((28 - 5.31, 100, 10), True),
        ((100, 196 + 5.29, 10), False),
        ((100, 196 + 5.31, 10), True),
        ((196 + 3.7, 196 + 3.7, 10), False),  # 5.23 px from the corner
        ((196 + 3.8, 196 + 3.8, 10), True),  # 5.37 px
        # Beside an uncertain crater at (60, 60) of 20 px: IoU (r / 20)^2 inside, 1/2 at 14.142.
        ((60, 60, 14.15), True),
        ((60, 60, 14.13), False),
    ],
)
def test_which_unmatched_detection_is_ignored(circle, ignored):
    matches = one_tile([60, 60, 20], [0.9, *circle], [True])
    assert matches.ignored(0, 0).tolist() == [ignored]
    assert matches.ignored(0, 9).tolist() == [ignored]


def test_more_than_a_hundred_detections_are_ignored():
    rng = np.random.default_rng(5)
    detections = np.c_[rng.random(250), rng.uniform(40, 180, (250, 2)), rng.uniform(5, 25, 250)]
    truth = np.array([[100.0, 100.0, 10.0]])
    detections[np.argsort(detections[:, 0])[140], 1:] = truth[0]
    data = truth, np.array([0, 1]), detections, np.array([0, 250])
    matches = matched(data)
    verdict, _ = slow_match(data, [False], RANGES[0], 0.5)
    assert_array_equal(matches.ignored(), verdict == "ignored")
    assert matches.true_positive().sum() == (verdict == "right").sum()


# --- pycocotools, in box mode ----------------------------------------------------------------

AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))


def box_scene(rng, n_samples=30, *, ties=False):
    truths, detections = [], []
    for _ in range(n_samples):
        k = rng.integers(0, 8)
        truth = np.c_[rng.uniform(0, 300, (k, 2)), np.exp(rng.uniform(2, 5.2, (k, 2)))]
        again = truth.repeat(2, axis=0)
        again = again + rng.normal(0, 0.12, again.shape) * again[:, 2:].repeat(2, axis=1)
        wrong = np.c_[rng.uniform(0, 300, (4, 2)), np.exp(rng.uniform(2, 5.2, (4, 2)))]
        boxes = np.abs(np.concatenate([again, wrong]))
        if ties:
            truth, boxes = np.round(truth, -1) + 10, np.round(boxes, -1) + 10
        confidence = rng.random(len(boxes))
        if ties:
            confidence = np.round(confidence, 1)
        truths.append(truth)
        detections.append(np.c_[confidence, boxes])
    return flat(truths, 4) + flat(detections, 5)


def pycocotools_ap(data):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    truth, truth_offsets, detections, offsets = data
    n = len(offsets) - 1
    annotations = [
        {
            "id": g + 1,  # an id of 0 would count as "not matched"
            "image_id": int(np.searchsorted(truth_offsets, g, side="right")),
            "category_id": 1,
            "bbox": truth[g].tolist(),
            "area": float(truth[g, 2] * truth[g, 3]),
            "iscrowd": 0,
        }
        for g in range(len(truth))
    ]
    results = [
        {
            "image_id": int(np.searchsorted(offsets, d, side="right")),
            "category_id": 1,
            "bbox": detections[d, 1:].tolist(),
            "score": float(detections[d, 0]),
        }
        for d in range(len(detections))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(n)],
            "annotations": annotations,
            "categories": [{"id": 1}],
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # (thresholds, recalls, categories, areas, most detections)
    return evaluation.eval["precision"][:, :, 0, :, -1]


def box_matches(data):
    truth, truth_offsets, detections, offsets = data
    area, size = truth[:, 2] * truth[:, 3], detections[:, 3] * detections[:, 4]
    return match(
        truth,
        truth_offsets,
        np.array([(area < lo) | (area > hi) for lo, hi in AREAS]),
        detections,
        offsets,
        np.array([(size < lo) | (size > hi) for lo, hi in AREAS]),
        overlap=box_iou,
    )


@pytest.mark.parametrize("seed", range(6))
def test_boxes_score_as_in_pycocotools(seed):
    data = box_scene(np.random.default_rng(seed), ties=seed % 2 == 1)
    precision = pycocotools_ap(data)
    matches = box_matches(data)
    for r in range(len(AREAS)):
        for t, threshold in enumerate(THRESHOLDS):
            ours = average_precision(matches, r, [threshold])
            assert_allclose(ours, precision[t, :, r].mean(), rtol=0, atol=1e-12)


def test_perfect_boxes_score_one_in_both():
    rng = np.random.default_rng(0)
    truth, truth_offsets, _, _ = box_scene(rng)
    data = truth, truth_offsets, np.c_[rng.random(len(truth)), truth], truth_offsets
    assert pycocotools_ap(data)[:, :, 0].min() == 1
    assert average_precision(box_matches(data)) == 1


def test_plain_coco_rules_on_circles_are_an_argument():
    rng = np.random.default_rng(3)
    truth, truth_offsets, detections, offsets = data = scene(rng)
    plain = matched(data, detection_ranges=RANGES, window=None, ignored_overlap=None)
    size, found = truth[:, 2], detections[:, 3]
    same = match(
        truth,
        truth_offsets,
        np.array([(size < lo) | (size > hi) for lo, hi in RANGES]),
        detections,
        offsets,
        np.array([(found < lo) | (found > hi) for lo, hi in RANGES]),
        overlap=circle_iou,
    )
    assert_array_equal(plain.positive_bits, same.positive_bits)
    assert_array_equal(plain.ignored_bits, same.ignored_bits)


# --- properties ------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)


@given(seeds)
@few
def test_order_of_samples_and_rows_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    truth, truth_offsets, detections, offsets = data = scene(rng)
    flagged = rng.random(len(truth)) < 0.2
    order = rng.permutation(len(offsets) - 1)
    truth_rows = [rng.permutation(np.arange(truth_offsets[i], truth_offsets[i + 1])) for i in order]
    rows = [rng.permutation(np.arange(offsets[i], offsets[i + 1])) for i in order]
    shuffled = matched(
        flat([truth[r] for r in truth_rows], 3) + flat([detections[r] for r in rows], 4),
        flagged[np.concatenate(truth_rows)],
    )
    matches = matched(data, flagged)
    for r in range(len(RANGES)):
        assert_allclose(average_precision(shuffled, r), average_precision(matches, r), atol=1e-12)
    assert f1(shuffled) == f1(matches) or np.isnan(f1(matches))


@given(seeds)
@few
def test_perfect_predictions_score_perfectly(seed):
    rng = np.random.default_rng(seed)
    truth, truth_offsets, _, _ = scene(rng)
    flagged = rng.random(len(truth)) < 0.2
    detections = np.c_[rng.uniform(0.5, 1, len(truth)), truth]
    matches = matched((truth, truth_offsets, detections, truth_offsets), flagged)
    for r in range(len(RANGES)):
        expected = 1.0 if matches.truth_scored[r].any() else np.nan
        assert_allclose(average_precision(matches, r), expected)
    if matches.truth_scored[0].any():
        assert f1(matches) == 1
        assert_array_equal(matches.found(), matches.truth_scored[0])

    plain = matched(
        (truth, truth_offsets, detections, truth_offsets), ranges=[(0, 99)], window=None
    )
    if len(truth):
        assert mean_iou(plain) == 1
        assert centre_error(plain) == radius_bias(plain) == 0
    for rates in tolerance_match(
        truth,
        truth_offsets,
        np.zeros(len(truth), bool),
        detections,
        truth_offsets,
        size_range=(0, 99),
        window=None,
    ).values():
        expected = 1.0 if len(truth) else np.nan
        assert_array_equal([rates.precision, rates.recall, rates.f1], expected)


@given(seeds)
@few
def test_scores_stay_in_range_and_duplicates_never_help(seed):
    rng = np.random.default_rng(seed)
    # Apart: else a duplicate may find the neighbour.
    truth, truth_offsets, detections, offsets = data = scene(rng, apart=True)
    again = np.repeat(detections, 2, axis=0)
    again[1::2, 0] *= 0.999999
    matches = matched(data)
    doubled = matched((truth, truth_offsets, again, 2 * offsets))
    for r in range(len(RANGES)):
        once, twice = average_precision(matches, r), average_precision(doubled, r)
        if matches.truth_scored[r].any():
            assert 0 <= twice <= once <= 1
        else:
            assert np.isnan(once)
    assert not f1(doubled) > f1(matches)


def test_hiding_unsure_detections_below_the_range_does_not_help():
    """Small craters written as r = 4.999 keep their true positives; the false ones must count."""
    rng = np.random.default_rng(11)
    n = 60
    truth = np.c_[rng.uniform(40, 180, (n, 2)), rng.uniform(5, 6, n)]
    right = np.c_[rng.uniform(0.3, 1, n), truth]
    wrong = np.c_[
        rng.uniform(0.2, 0.8, 3 * n), rng.uniform(40, 180, (3 * n, 2)), np.full(3 * n, 5.5)
    ]
    honest = np.concatenate([right, wrong])
    hidden = honest.copy()
    hidden[(honest[:, 0] < 0.8) & (honest[:, 3] < 5.6), 3] = 4.999
    tile = truth, [0, n]

    def ap(detections, **rules):
        return average_precision(
            matched((*tile, detections, [0, len(detections)]), max_detections=1000, **rules),
            thresholds=[0.5],
        )

    plain = {"detection_ranges": RANGES, "window": None, "ignored_overlap": None}
    assert ap(hidden, **plain) > ap(honest, **plain) + 0.1  # what COCO's own rule allows
    assert ap(hidden) <= ap(honest)


@given(seeds)
@few
def test_groups_of_samples_can_be_matched_apart(seed):
    rng = np.random.default_rng(seed)
    parts = [scene(rng, n) for n in (3, 0, 5, 1)]
    truth, detections = (np.concatenate([part[i] for part in parts]) for i in (0, 2))
    starts = []
    for i in (1, 3):
        lengths = np.concatenate([np.diff(part[i]) for part in parts])
        starts.append(np.concatenate([[0], np.cumsum(lengths)]))
    whole = matched((truth, starts[0], detections, starts[1]))
    joined = Matches.concatenate([matched(part) for part in parts])
    for name in ("sample", "truth_sample", "matched_truth", "positive_bits", "ignored_bits", "iou"):
        assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert joined.n_samples == whole.n_samples == 9
    assert_array_equal(average_precision(joined), average_precision(whole))
    for chosen, part in ((slice(0, 3), parts[0]), (slice(3, 8), parts[2])):
        selected, alone = whole.select(np.arange(9)[chosen]), matched(part)
        for name in ("sample", "truth_sample", "matched_truth", "positive_bits", "iou"):
            assert_array_equal(getattr(selected, name), getattr(alone, name))


@given(seeds)
@few
def test_weights_count_samples_that_often(seed):
    rng = np.random.default_rng(seed)
    matches = matched(scene(rng))
    weights = rng.integers(0, 4, (5, matches.n_samples))
    scores = average_precision(matches, weights=weights)
    blocks = rng.integers(0, 3, matches.n_samples)
    of_blocks = rng.integers(0, 3, (6, 3))
    assert_allclose(
        block_average_precision(matches, blocks, of_blocks),
        average_precision(matches, weights=of_blocks[:, blocks]),
        atol=1e-12,
    )
    for row, score in zip(weights, scores, strict=True):
        parts = [matches.select([i]) for i in range(matches.n_samples) for _ in range(row[i])]
        expected = average_precision(Matches.concatenate(parts)) if parts else np.nan
        assert_allclose(score, expected, atol=1e-12)
        if parts:
            repeated = detection_rates(Matches.concatenate(parts), 0.3)
            assert_allclose(detection_rates(matches, 0.3, weights=row).f1, repeated.f1)
    ones = np.ones(matches.n_samples)
    assert_allclose(average_precision(matches, weights=ones), average_precision(matches))


# --- what a score is where there is little to score -------------------------------------------


@pytest.mark.parametrize("n_samples", [0, 1, 5])
def test_nothing_at_all(n_samples):
    zeros = np.zeros(n_samples + 1, int)
    matches = matched((np.zeros((0, 3)), zeros, np.zeros((0, 4)), zeros))
    assert np.isnan(average_precision(matches))
    assert np.isnan(average_precision(matches, weights=np.ones((2, n_samples)))).all()
    blocks = np.zeros(n_samples, int)
    assert np.isnan(block_average_precision(matches, blocks, np.ones((2, 1)))).all()
    for score in (f1, mean_iou, centre_error, radius_bias):
        assert np.isnan(score(matches))
    assert np.isnan(kind_f1(matches, [], []))
    assert all(len(column) == 0 for column in precision_recall(matches))
    assert np.isnan(recall_by_size(matches, [5, 28]).recall).all()


def test_truth_without_detections_scores_zero():
    matches = one_tile([100, 100, 10], [])
    assert average_precision(matches) == 0
    assert average_precision(matches, weights=[2.0]) == 0
    assert block_average_precision(matches, [0], [[1.0]]).tolist() == [0]
    assert f1(matches) == 0
    assert np.isnan(mean_iou(matches))
    assert np.isnan(detection_rates(matches).precision)
    assert np.isnan(average_precision(matches, 1))  # no small crater to find
    assert recall_by_size(matches, [5, 8, 28]).recall.tolist()[1] == 0


def test_detections_without_truth_are_wrong():
    matches = one_tile([], [0.9, 100, 100, 10])
    assert np.isnan(average_precision(matches))
    assert f1(matches) == 0
    assert detection_rates(matches).precision == 0


def test_only_ignored_truth_is_no_truth():
    matches = one_tile([100, 100, 10], [0.9, 100, 100, 10], [True])
    assert np.isnan(average_precision(matches))
    assert np.isnan(f1(matches))
    assert matches.ignored().all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
def test_impossible_numbers_are_refused(value, place):
    row = np.array([0.9, 100.0, 100.0, 10.0])
    row[place] = value
    with pytest.raises(DataError):
        one_tile([100, 100, 10], row)


@pytest.mark.parametrize(
    "change",
    [
        {"detections": [[0.9, 100, 100, -10.0]]},
        {"detections": [[0.9, 100, 100]]},
        {"detection_offsets": [0, 2]},
        {"detection_offsets": [0, 0, 1]},
        {"truth_offsets": [1, 1]},
        {"truth_ignored": [False, True]},
        {"thresholds": [0.6, 0.5]},
        {"thresholds": np.linspace(0, 1, 17)},
        {"detection_ranges": [(1, 2)]},
    ],
)
def test_input_that_does_not_fit_is_refused(change):
    good = {
        "truth": [[100, 100, 10]],
        "truth_offsets": [0, 1],
        "truth_ignored": [False],
        "detections": [[0.9, 100, 100, 10]],
        "detection_offsets": [0, 1],
    }
    match_circles(**good)
    with pytest.raises(DataError):
        match_circles(**(good | change))


def test_unknown_thresholds_ranges_and_weights_are_refused():
    matches = one_tile([100, 100, 10], [0.9, 100, 100, 10])
    with pytest.raises(DataError):
        average_precision(matches, thresholds=[0.3])
    with pytest.raises(DataError):
        average_precision(matches, 4)
    with pytest.raises(DataError):
        average_precision(matches, weights=[1.0, 1.0])
    with pytest.raises(DataError):
        tolerance_match([], [0], [], [], [0], tau=[1.5])
    with pytest.raises(DataError):
        Matches.concatenate([])
    with pytest.raises(DataError):
        Matches.concatenate([matches, one_tile([], [], thresholds=[0.5])])


# --- the smaller scores -----------------------------------------------------------------------


def four_craters():
    """Return three found craters with known errors, one missed, one false detection."""
    truth = [[50, 50, 10], [100, 100, 20], [150, 50, 6], [60, 150, 12]]
    detections = [
        [0.9, 51, 50, 10],
        [0.8, 100, 104, 22],
        [0.7, 150, 50, 6.6],
        [0.6, 180, 180, 9],
        [0.4, 60, 150, 12],
    ]
    return one_tile(truth, detections)


def test_found_pairs_tell_their_errors():
    matches = four_craters()
    assert_allclose(centre_error(matches, 0.5), 0.1)
    assert_allclose(radius_bias(matches, 0.5), np.log(1.1))
    expected = circle_iou(matches.detections[:3, 1:], matches.truth[:3]).mean()
    assert_allclose(mean_iou(matches, 0.5), expected)
    assert matches.matched_truth.tolist() == [0, 1, 2, -1, 3]
    rates = detection_rates(matches, 0.5)
    assert (rates.precision, rates.recall, f1(matches)) == (0.75, 0.75, 0.75)
    confidence, precision, recall = precision_recall(matches)
    assert confidence.tolist() == [0.9, 0.8, 0.7, 0.6, 0.4]
    assert_allclose(precision, [1, 1, 1, 0.75, 0.8])
    assert_allclose(recall, [0.25, 0.5, 0.75, 0.75, 1])
    sizes = recall_by_size(matches, [5, 8, 14, 28], confidence=0.5)
    assert sizes.n_truth.tolist() == [1, 2, 1]
    assert sizes.recall.tolist() == [1, 0.5, 1]


def test_kinds_count_missed_wrong_and_invented_craters():
    matches = four_craters()
    true = [0, 1, 1, 0]
    # 0: hit, hit at .4 is not counted, so one missed and none false. 1: both hit, one invented.
    assert_allclose(kind_f1(matches, true, [0, 1, 1, 1, 0]), (2 / 3 + 4 / 5) / 2)
    # The third is called 0: a miss for 1 and a false one for 0.
    assert_allclose(kind_f1(matches, true, [0, 1, 0, 1, 0]), (2 / 4 + 2 / 4) / 2)
    # No kind said for the third: a miss alone.
    assert_allclose(kind_f1(matches, true, [0, 1, -1, -1, 0]), (2 / 3 + 2 / 3) / 2)
    assert kind_f1(matches, true, [0, 1, 1, -1, 0], confidence=0.3) == 1
    assert np.isnan(kind_f1(matches, true, [-1] * 5))
    assert np.isnan(kind_f1(matches, [2] * 4, [0, 1, 1, 1, 0]))
    # A crater of unknown kind is out of the game, with whatever was said of it.
    assert kind_f1(matches, [0, 1, -1, -1], [0, 1, 0, -1, 0]) == 1


def slow_tolerance(data, same):
    """Return true positives, false ones and misses of detections of at least .5."""
    truth, truth_offsets, detections, offsets = data
    found = wrong = 0
    for s in range(len(offsets) - 1):
        free = set(range(truth_offsets[s], truth_offsets[s + 1]))
        for d in sorted(range(offsets[s], offsets[s + 1]), key=lambda d: -detections[d, 0]):
            if detections[d, 0] < 0.5:
                continue
            errors = {g: same(detections[d, 1:], truth[g]) for g in free}
            errors = {g: error for g, error in errors.items() if error is not None}
            if errors:
                free.remove(min(errors, key=errors.get))
                found += 1
            else:
                wrong += 1
    return found, wrong, len(truth) - found


@pytest.mark.parametrize("seed", range(3))
def test_tolerances_agree_with_their_words(seed):
    data = scene(np.random.default_rng(seed), scatter=0.25)
    data[0][:, 2] = np.clip(data[0][:, 2], 5, 28)  # every truth scored, no detection hidden
    flagged = np.zeros(len(data[0]), bool)
    rates = tolerance_match(
        data[0], data[1], flagged, data[2], data[3], size_range=(0, 1e9), window=None
    )

    def within(tau):
        def same(found, true):
            offset = math.hypot(found[0] - true[0], found[1] - true[1]) / true[2]
            error = max(offset, abs(math.log(found[2] / true[2])))
            return error if error <= tau else None

        return same

    def deepmoon(found, true):
        smaller = min(found[2], true[2])
        offset = ((found[0] - true[0]) ** 2 + (found[1] - true[1]) ** 2) / smaller**2
        size = abs(found[2] - true[2]) / smaller
        return max(offset / 1.8, size) if offset < 1.8 and size < 1 else None

    for name, same in [("deepmoon", deepmoon)] + [
        (f"tau={tau}", within(tau)) for tau in (0.1, 0.25, 0.5)
    ]:
        found, wrong, missed = slow_tolerance(data, same)
        assert_allclose(rates[name].precision, found / (found + wrong))
        assert_allclose(rates[name].recall, found / (found + missed))
        assert_allclose(rates[name].f1, 2 * found / (2 * found + wrong + missed))
