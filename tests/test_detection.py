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
from acdc.metrics.circles import box_iou, circle_iou
from acdc.metrics.detection import (
    RANGES,
    THRESHOLDS,
    WINDOW,
    Matches,
    average_precision,
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


def scene(rng, n_samples=12, n_truth=4, n_wrong=6, *, scatter=0.12, ties=False):
    """Return flat truth and detections of samples of different lengths, some of them empty."""
    truths, detections = [], []
    for _ in range(n_samples):
        k = rng.integers(0, n_truth + 1)
        truth = np.c_[rng.uniform(10, 214, (k, 2)), np.exp(rng.uniform(1.2, 3.5, k))]
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
            confidence, row, col, radius = detections[d]
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
