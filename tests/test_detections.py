import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Point

from acdc.errors import DataError, PredictionError
from acdc.tracks.craters import detections
from acdc.tracks.craters.detections import Detections, check, combine

KINDS = [0.1, 0.2, 0.3, 0.4]


def every(n):
    return np.arange(n)


@pytest.mark.parametrize(
    "predicted",
    [
        [[(0.5, 10, 20, 6)], [], [(0.1, 1, 2, 3), (0.2, 4, 5, 6)]],
        [
            np.array([[0.5, 10, 20, 6]]),
            np.empty((0, 4)),
            np.array([(0.1, 1, 2, 3), (0.2, 4, 5, 6)]),
        ],
        np.array([[(0.5, 10, 20, 6)], [], [(0.1, 1, 2, 3), (0.2, 4, 5, 6)]], dtype=object),
    ],
    ids=["lists", "arrays", "object array"],
)
def test_lists_and_arrays_are_the_same_detections(predicted):
    found = check(predicted, 3)
    np.testing.assert_array_equal(found.offsets, [0, 1, 1, 3])
    np.testing.assert_array_equal(
        found.values[:, :4], [(0.5, 10, 20, 6), (0.1, 1, 2, 3), (0.2, 4, 5, 6)]
    )
    assert (found.kind == -1).all()


def test_a_generator_is_read():
    found = check(([(0.5, 10, 20, 6)] for _ in range(3)), 3)
    np.testing.assert_array_equal(found.offsets, [0, 1, 2, 3])


def test_the_hundred_most_confident_of_a_tile_are_kept():
    many = [(i / 1000, 10 * i, 0, 3) for i in range(150)]
    found = check([many, many[:3]], 2)
    np.testing.assert_array_equal(np.diff(found.offsets), [100, 3])
    assert math.isclose(found[0][:, 0].min(), 50 / 1000)


def test_an_unsure_copy_does_not_take_the_place_of_the_sure_circle():
    one = check([[(0.9, 100, 100, 10)]], 1)
    two = check([[(0.9, 100, 100, 10.6), (0.01, 100, 100, 10)]], 1)
    merged = combine([(one, every(1)), (two, every(1))], 1)
    np.testing.assert_allclose(merged.values[:, :4], [(0.9, 100, 100, 10.3), (0.005, 100, 100, 10)])


def test_an_object_array_that_numpy_made_square_is_read():
    found = check(np.array([[(1.0, 2.0, 3.0, 4.0)]] * 3, dtype=object), 3)
    np.testing.assert_array_equal(found.offsets, [0, 1, 2, 3])


def test_kinds_are_optional():
    found = check([[(0.5, 10, 20, 6, *KINDS)], [(0.5, 10, 20, 6)]], 2)
    np.testing.assert_array_equal(found.kind, [3, -1])


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (None, "returned None"),
        (3.0, "type float, which has no length"),
        ({}, "type dict"),
        ([[]], "1 lists of detections for 2 tiles"),
        ([[], None], "tile 1: None is no list"),
        ([[], [(0.5, 1, 2)]], r"tile 1: detections have the shape \(1, 3\)"),
        ([[], [(0.5, 1, 2, 3), (0.5, 1, 2)]], "tile 1: .*all of the same length"),
        ([[], [("high", 1, 2, 3)]], "tile 1"),
        ([[(0.5, 1, 2, 3)], [(0.5, np.nan, 2, 3)]], "tile 1: .*finite"),
        ([[(0.5, 1, 2, 3)], [(0.5, 1, np.inf, 3)]], "tile 1: .*finite"),
        ([[], [(0.5, 1, 2, -3)]], "tile 1: .*radius above 0"),
        ([[], [(0.5, 1, 2, 0)]], "tile 1: .*radius above 0"),
        ([[], [(1.5, 1, 2, 3)]], r"tile 1: .*confidence in \[0, 1\]"),
        ([[], [(-0.1, 1, 2, 3)]], r"tile 1: .*confidence in \[0, 1\]"),
        ([[], [(0.5, 1e9, 2, 3)]], "tile 1: .*in pixels"),
        ([[], [(0.5, 1, 2, 3, 0.5, 0.5, 0.5, 2)]], "tile 1: .*kind probabilities"),
        ([[], [(0.5, 1, 2, 3, 0.5, np.nan, 0.5, 0.5)]], "tile 1: kind probabilities"),
    ],
)
def test_what_is_wrong_is_named(predicted, message):
    with pytest.raises(PredictionError, match=message):
        check(predicted, 2)


def test_saved_detections_load_without_pickle(tmp_path):
    found = check([[(0.5, 10, 20, 6)], [], [(0.25, 1, 2, 3, *KINDS)]], 3)
    detections.save(found, tmp_path / "y.npz")
    loaded = detections.load(tmp_path / "y.npz")
    np.testing.assert_array_equal(loaded.values, found.values)
    np.testing.assert_array_equal(loaded.offsets, found.offsets)
    assert [f.name for f in tmp_path.iterdir()] == ["y.npz"]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"y.npz is missing.*--save-output"):
        detections.load(tmp_path / "y.npz")
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="holds no detections"):
        detections.load(tmp_path / "y.npz")


place = st.floats(0, 60, allow_subnormal=False)
circle = st.tuples(st.floats(0.01, 1), place, place, st.floats(3, 20))
tile_of_circles = st.lists(circle, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(tile_of_circles, min_size=1, max_size=4), st.integers(1, 4))
def test_models_that_agree_are_one_model(tiles, n_models):
    """Also where the circles of a tile overlap each other: nothing is lost or merged."""
    found = check(tiles, len(tiles))
    merged = combine([(found, every(len(tiles)))] * n_models, len(tiles))
    np.testing.assert_array_equal(np.diff(merged.offsets), np.diff(found.offsets))
    for i in range(len(tiles)):
        one, two = (np.array(sorted(map(tuple, part[i][:, :4]))) for part in (merged, found))
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)


def overlap(a, b):
    one, two = (Point(row, col).buffer(radius, 256) for row, col, radius in (a, b))
    return one.intersection(two).area / one.union(two).area


def merged_one_by_one(models):
    """The rule of `combine` in plain Python for one tile that every model predicted."""
    found = [(m, *d) for m, circles in enumerate(models) for d in circles]
    found.sort(key=lambda d: -d[1])
    merged = []
    while found:
        seed = found.pop(0)
        members = [seed]
        for model in {d[0] for d in found} - {seed[0]}:
            near = [(overlap(seed[2:], d[2:]), d) for d in found if d[0] == model]
            near = [(iou, d) for iou, d in near if iou > 0.5]
            if near:
                best = max(near, key=lambda pair: pair[0] * pair[1][1])
                members.append(best[1])
                found.remove(best[1])
        weights = [d[1] for d in members]
        place = np.average([d[2:] for d in members], axis=0, weights=weights)
        merged.append((sum(weights) / len(models), *place))
    return sorted(merged)


@settings(max_examples=60, deadline=None)
@given(st.lists(tile_of_circles, min_size=2, max_size=3), st.integers(0, 2**32 - 1))
def test_bagging_equals_the_rule_in_words(models, seed):
    random = np.random.default_rng(seed)
    # distinct confidences, and models that nearly agree with each other
    common = [(0.5, *random.uniform(10, 50, 2), random.uniform(4, 12)) for _ in range(3)]
    jittered = [
        [
            (random.uniform(0.05, 1), *(np.array(d[1:]) + random.normal(0, 0.7, 3)).clip(2))
            for d in [*common, *own]
        ]
        for own in models
    ]
    answers = [(check([found], 1), every(1)) for found in jittered]
    merged = sorted(map(tuple, combine(answers, 1).values[:, :4]))
    expected = merged_one_by_one(jittered)
    assert len(merged) == len(expected)
    np.testing.assert_allclose(merged, expected, rtol=1e-6)


def test_only_models_that_predicted_a_tile_count():
    one = check([[(0.8, 50, 50, 10)], [(0.8, 50, 50, 10)]], 2)
    two = check([[(0.4, 53, 50, 10)]], 1)
    merged = combine([(one, every(2)), (two, np.array([-1, 0]))], 2)
    np.testing.assert_allclose(merged[0][:, :4], [(0.8, 50, 50, 10)])
    np.testing.assert_allclose(merged[1][:, :4], [(0.6, (0.8 * 50 + 0.4 * 53) / 1.2, 50, 10)])


def test_a_crater_that_half_of_the_models_found_is_half_as_sure():
    one, two = check([[(0.8, 50, 50, 10, *KINDS)]], 1), check([[]], 1)
    merged = combine([(one, every(1)), (two, every(1))], 1)
    np.testing.assert_allclose(merged.values, [(0.4, 50, 50, 10, *KINDS)])


def test_kinds_are_averaged_over_the_models_that_say():
    kinds = [0.7, 0.1, 0.1, 0.1]
    parts = [[(0.5, 9, 9, 9, *KINDS)], [(0.5, 9, 9, 9, *kinds)], [(0.5, 9, 9, 9)]]
    merged = combine([(check([part], 1), every(1)) for part in parts], 1)
    np.testing.assert_allclose(merged.values[0, 4:], np.mean([KINDS, kinds], axis=0))


def test_only_the_hundred_most_confident_are_combined():
    many = [(i / 200, 10 * i, 0, 3) for i in range(150)]
    merged = combine([(check([many], 1), every(1))] * 2, 1)
    assert len(merged.values) == 100
    assert math.isclose(merged.values[:, 0].min(), 50 / 200)


def test_nothing_found_by_anybody_stays_nothing():
    empty = Detections(np.empty((0, 8)), np.zeros(4, dtype=np.int64))
    assert len(combine([(empty, every(3))] * 3, 3)) == 3
