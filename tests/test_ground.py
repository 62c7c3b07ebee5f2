import numpy as np
import pandas as pd
import pytest

from acdc.errors import DataError
from acdc.tracks.craters import ground, tiles
from acdc.tracks.craters.detections import check
from acdc.tracks.craters.evaluation import evaluate
from acdc.tracks.craters.projection import MARS_RADIUS, Plane

PLANE = Plane.centred(77.0, -20.0, 100.0, (MARS_RADIUS, MARS_RADIUS)).moved(-2000, -2000)


def make_targets(places, circles, region="here", plane=PLANE):
    """Targets of tiles at (level, row0, col0) and circles (tile, row, col, radius, kind)."""
    table = pd.DataFrame(places, columns=["level", "row0", "col0"])
    for name, value in (
        ("block", "b0"), ("quadrangle", "q0"), ("valid", 1.0), ("region", region),
        ("sensor", "s"), ("light", "day"), ("terrain", "t"),
    ):  # fmt: skip
        table[name] = value
    table["pixel_size"] = 100.0 * 2.0 ** table["level"]
    table["window_area"] = (0.168 * table["pixel_size"]) ** 2
    rows = pd.DataFrame(circles, columns=["tile", "row", "col", "radius", "kind"])
    rows = rows.sort_values("tile", kind="stable", ignore_index=True)
    rows["flag"], rows["crater_id"] = 0, [str(i) for i in range(len(rows))]
    rows["degradation"], rows["ejecta"] = np.nan, ""
    rows["tile"] = rows["tile"].astype(int)
    names = (
        dict(zip("abcdef", plane.affine, strict=True)) if plane else dict.fromkeys("abcdef", np.nan)
    )
    quadrangles = pd.DataFrame([{"name": "q0", "crs": plane.crs if plane else "", **names}])
    return tiles.Targets(table, rows, quadrangles)


def test_a_crater_lies_at_one_place_whatever_tile_and_level_shows_it():
    y = make_targets([(0, 168, 336), (0, 336, 336), (1, 84, 100)], [])
    level0 = np.array([500.25, 450.75, 40.0])
    shown = [level0 - (168, 336, 0), level0 - (336, 336, 0), None]
    shown[2] = np.array([(500.25 + 0.5) / 2 - 0.5 - 84, (450.75 + 0.5) / 2 - 0.5 - 100, 20.0])
    plane = ground.to_plane(y.tiles, np.arange(3), np.array(shown))
    np.testing.assert_allclose(plane, [level0] * 3, atol=1e-12)
    kept = ground.merge(y, np.arange(3), np.array(shown), np.array([0.5, 0.7, 0.6]))
    np.testing.assert_array_equal(kept, [1])


def test_home_is_the_finest_level_that_holds_a_crater():
    y = make_targets([(0, 0, 0), (1, 0, 0)], [])
    circles = np.array([(100, 100, r) for r in (4.9, 5, 14, 14.1, 28, 28.1)])
    for tile, expected in ((0, [0, 1, 1, 1, 1, 0]), (1, [0, 0, 0, 1, 1, 0])):
        at = np.full(len(circles), tile)
        np.testing.assert_array_equal(ground.at_home(y.tiles, at, circles), expected)
    border = np.array([(28, 100, 9), (27.9, 100, 9), (100, 195.9, 9), (100, 196, 9)])
    np.testing.assert_array_equal(ground.at_home(y.tiles, np.zeros(4, int), border), [1, 0, 1, 0])


def test_the_catalogue_puts_detections_on_the_planet():
    lon, lat, radius = np.array([77.3, 76.8]), np.array([-20.4, -19.7]), np.array([900.0, 4000.0])
    row, col, pixels = PLANE.to_pixels(lon, lat, radius).T
    y = make_targets([(0, 2600, 2600), (1, 700, 800)], [])
    found = [
        [(0.9, row[0] - 2600, col[0] - 2600, pixels[0])],
        [
            (0.8, (row[1] + 0.5) / 2 - 0.5 - 700, (col[1] + 0.5) / 2 - 0.5 - 800, pixels[1] / 2),
            (0.3, 10, 10, 5),
        ],
    ]
    table = ground.catalogue(y, check(found, 2))
    np.testing.assert_allclose(table.lon, lon, atol=1e-6)
    np.testing.assert_allclose(table.lat, lat, atol=1e-6)
    np.testing.assert_allclose(table.diameter_km, radius * 2e-3, rtol=1e-5)
    assert table.confidence.tolist() == [0.9, 0.8]


def test_pictures_have_no_place_on_the_planet():
    y = make_targets([(0, 0, 0)], [], plane=None)
    with pytest.raises(DataError, match="no coordinates"):
        ground.catalogue(y, check([[(0.9, 100, 100, 10)]], 1))


def random_region(n, seed, kinds=(0,)):
    """A square of 36 tiles with n craters in their windows, steep in size as real ones."""
    random = np.random.default_rng(seed)
    places = [(0, 168 * i, 168 * j) for i in range(6) for j in range(6)]
    radius = np.minimum(4.2 * (1 - random.random(n)) ** (-1 / 2.5), 27)
    circles = [
        (random.integers(36), *random.uniform(40, 180, 2), r, random.choice(kinds)) for r in radius
    ]
    y = make_targets(places, circles)
    y.tiles["window_area"] *= 1000  # some 1 Ga: the age goes with the number of craters
    return y


def perfect(y, keep=lambda i: True, scale=1.0, extra=(), kinds=False):
    found = []
    for tile in range(len(y)):
        here = []
        for i in range(y.offsets[tile], y.offsets[tile + 1]):
            row, col, radius = y.row_col_radius[i]
            if keep(i):
                kind = np.eye(4)[y.kind[i]] if kinds else ()
                here.append((0.9, row, col, radius * scale, *kind))
        found.append(here)
    for tile, detection in extra:
        found[tile].append(detection)
    return evaluate(y, check(found, len(y)))


def test_perfect_detections_give_the_true_age():
    y = random_region(200, 0)
    assert ground.age_error(perfect(y)) == 0


def test_the_age_error_grows_with_what_is_missed():
    y = random_region(400, 1)
    some = [ground.age_error(perfect(y, lambda i, k=k: i % 10 < k)) for k in (9, 6, 3)]
    assert 0 < some[0] < some[1] < some[2] < ground.WORST_AGE_ERROR


def test_larger_radii_make_the_ground_look_older():
    y = random_region(400, 2)
    assert ground.age_error(perfect(y, scale=1.1)) > 0.05


def test_duplicates_on_the_ground_count_once():
    y = random_region(200, 3)
    twice = [(int(t), (0.8, *y.row_col_radius[i])) for i, t in enumerate(y.circles.tile)]
    assert ground.age_error(perfect(y, extra=twice)) == 0


def test_secondaries_are_left_out_where_both_sides_say_the_kind():
    y = random_region(300, 4, kinds=(0, 3))
    assert ground.age_error(perfect(y, kinds=True)) == 0
    without = perfect(y, lambda i: y.kind[i] != 3, kinds=True)
    assert ground.age_error(without) == 0
    # an entry without kinds is compared with all craters
    assert ground.age_error(perfect(y, lambda i: y.kind[i] != 3)) > 0.1


def test_detections_on_uncertain_ground_truth_do_not_count():
    y = random_region(200, 5)
    circles = y.circles.copy()
    circles.loc[::3, "flag"] = 1
    doubtful = tiles.Targets(y.tiles, circles, y.quadrangles)
    assert ground.age_error(perfect(doubtful)) == 0


def test_nothing_found_is_worst_and_no_region_is_undefined():
    y = random_region(50, 6)
    assert ground.age_error(perfect(y, lambda i: False)) == ground.WORST_AGE_ERROR
    y.tiles["region"] = ""
    assert np.isnan(ground.age_error(perfect(y)))
    empty = make_targets([(0, 0, 0)], [])
    assert np.isnan(ground.age_error(evaluate(empty, check([[]], 1))))
    found = [[(0.9, 100, 100, 10)]]
    assert ground.age_error(evaluate(empty, check(found, 1))) == ground.WORST_AGE_ERROR


def test_each_region_counts_alike():
    one, two = random_region(300, 7), random_region(60, 8)
    both = tiles.Targets.join([one, two])
    both.tiles["region"] = ["one"] * 36 + ["two"] * 36
    both.tiles["quadrangle"] = ["q1"] * 36 + ["q2"] * 36
    n = len(one.kind)
    half = ground.age_error(perfect(one, lambda i: i % 2))
    assert half > 0
    mixed = ground.age_error(perfect(both, lambda i: i % 2 if i < n else True))
    np.testing.assert_allclose(mixed, half / 2)
