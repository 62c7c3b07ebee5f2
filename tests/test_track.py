"""The crater track as a whole: columns, strata, and what its scores say of known predictions."""

import numpy as np
import pytest

from acdc.errors import DataError
from acdc.metrics.detection import average_precision
from acdc.tracks.craters import tiles
from acdc.tracks.craters.detections import check
from acdc.tracks.craters.evaluation import Evaluation, evaluate
from acdc.tracks.craters.track import TRACK, ap_by_stratum, folds

COLUMNS = [
    "ap",
    "ap50",
    "ap_small",
    "ap_medium",
    "ap_large",
    "f1",
    "iou",
    "centre_error",
    "radius_bias",
    "kind_f1",
    "age_error",
]


@pytest.fixture
def y(tmp_path, write_tiles):
    write_tiles(tmp_path, n=40, blocks=10)
    y = tiles.read_targets(tmp_path)
    y.tiles["light"] = np.where(np.arange(len(y)) % 3, "day", "night")
    return y


def scores(evaluation):
    return {score.name: score.aggregate(evaluation) for score in TRACK.scores}


def near(y, seed=0, kinds=False):
    random = np.random.default_rng(seed)
    found = []
    for craters in y:
        here = [(0.4, *random.uniform(30, 190, 2), 9.0)]
        for crater in craters:
            kind = np.eye(4)[tiles.KINDS.index(crater.kind)] if kinds else ()
            moved = np.array(crater) + random.normal(0, 0.5, 3)
            here.append((random.uniform(0.5, 1), *moved, *kind))
        found.append([d if not kinds or len(d) == 8 else (*d, 1, 0, 0, 0) for d in here])
    return check(found, len(y))


def test_columns_stand_in_their_order():
    assert [score.name for score in TRACK.scores] == COLUMNS


def test_the_truth_itself_is_perfect(y):
    perfect = check(
        [[(1.0, *c, *np.eye(4)[tiles.KINDS.index(c.kind)]) for c in craters] for craters in y],
        len(y),
    )
    found = scores(evaluate(y, perfect))
    best = dict.fromkeys(COLUMNS, 1.0) | dict.fromkeys(
        ("centre_error", "radius_bias", "age_error"), 0.0
    )
    assert found == pytest.approx(best, abs=1e-12)


def test_no_detection_at_all_has_a_score(y):
    found = scores(evaluate(y, check([[] for _ in y], len(y))))
    assert found["ap"] == found["ap50"] == found["f1"] == 0
    assert found["age_error"] == 3
    assert np.isnan(
        [found[name] for name in ("iou", "centre_error", "radius_bias", "kind_f1")]
    ).all()


def test_tiles_without_craters_have_no_average_precision(y):
    nothing = tiles.Targets(y.tiles[:3], y.circles[:0], y.quadrangles)
    assert np.isnan(scores(evaluate(nothing, check([[]] * 3, 3)))["ap"])


def test_official_scores_stay_in_their_bounds(y):
    for kinds in (False, True):
        for score in TRACK.scores:
            value = score.aggregate(evaluate(y, near(y, kinds=kinds)))
            assert np.isnan(value) == (score.name == "kind_f1" and not kinds)
            assert np.isnan(value) or score.minimum <= value <= score.maximum


def test_a_stratum_is_scored_as_its_tiles_alone(y):
    found = near(y)
    by_light = ap_by_stratum(evaluate(y, found), "light")
    assert set(by_light) == {"day", "night"}
    for light, ap in by_light.items():
        rows = np.flatnonzero(y.tiles.light == light)
        alone = evaluate(y.take(rows), found.take(rows))
        assert ap == pytest.approx(average_precision(alone.matches), abs=1e-12)


def test_groups_of_tiles_join_to_the_whole(y):
    found = near(y)
    parts = [np.arange(0, 15), np.arange(15, 40)]
    joined = Evaluation.join([evaluate(y.take(rows), found.take(rows)) for rows in parts])
    assert scores(joined) == pytest.approx(scores(evaluate(y, found)), nan_ok=True)


def test_too_few_blocks_for_folds_is_told(y):
    y.tiles["block"] = "one"
    with pytest.raises(DataError, match="1 blocks of independent ground, 3 folds"):
        folds(y)
