"""Chips of analytic scenes: waves and blobs whose value is known at every point."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc import sensor
from acdc.tracks.worldstrat import chips
from acdc.tracks.worldstrat.archive import BANDS, Place, Raw, Revisit

GAIN, OFFSET = np.array([0.9, 1.1, 1.05, 0.8]), np.array([0.01, 0.02, 0.03, 0.0])
PIXEL = 1e-4  # degrees; 10 m here
LEFT, TOP = 7.0, 46.0
LIKE_SPOT = chips.LIKE_SPOT


def scene(y, x, seed=0):
    """Reflectance (4, rows, cols) at positions in m."""
    random = np.random.default_rng(seed)
    y, x = np.asarray(y)[:, None], np.asarray(x)[None, :]
    parts = []
    for _ in range(5):
        field = 0
        for _ in range(9):
            k = 2 * np.pi / random.uniform(35, 200)
            angle, phase = random.uniform(0, np.pi), random.uniform(0, 2 * np.pi)
            field = field + np.cos(k * (y * np.sin(angle) + x * np.cos(angle)) + phase)
        parts.append(field / 3)
    common = parts[0]
    return np.stack([0.15 + 0.02 * (common + 0.5 * own) for own in parts[1:]]) + np.array(
        [0.0, 0.02, -0.03, 0.15]
    ).reshape(4, 1, 1)


def centres(n, size):
    return (np.arange(n) + 0.5) * size


def made_up(off=(0.0, 0.0), side=70, revisits=8, seed=0, noise=0.0):
    """A place whose SPOT image shows everything `off` m too far down and right."""
    random = np.random.default_rng(seed + 100)
    size, n = 1.5, int(side * 10 / 1.5)
    spot = scene(centres(n, size) - off[0], centres(n, size) - off[1], seed)
    counts = (spot - OFFSET[:, None, None]) / GAIN[:, None, None]
    fine = scene(centres(side * 4, 2.5), centres(side * 4, 2.5), seed)
    eye = sensor.Imager.of([sensor.SENTINEL2[BANDS[i]] for i in LIKE_SPOT], 2.5)
    low = eye.forward(fine)
    parts = []
    for k in range(revisits):
        bands = np.full((12, side, side), 0.1, np.float32)
        bands[list(LIKE_SPOT)] = low + noise * random.standard_normal(low.shape)
        transform = (PIXEL, 0.0, LEFT, 0.0, -PIXEL, TOP)
        clear = np.ones((side, side), bool)
        parts.append(Revisit(k + 1, 5.0 * k - 18.0, bands, clear, transform, "EPSG:4326"))
    step = PIXEL * size / 10
    bounds = (LEFT, TOP - n * step, LEFT + n * step, TOP)
    place = Place("A-1", "A-1", "train", bounds, {}, {})
    transform = (step, 0.0, LEFT, 0.0, -step, TOP)
    return Raw(place, np.round(counts * 10_000).astype(np.uint16), transform, tuple(parts))


def edited(raw, k, **changes):
    revisits = list(raw.revisits)
    revisits[k] = replace(revisits[k], **changes)
    return replace(raw, revisits=tuple(revisits))


def test_chip_is_the_ground_itself():
    made, defects = chips.make(made_up())
    assert defects == []
    (chip,) = made
    assert chip.bands.shape == (8, 12, 64, 64)
    assert chip.clear.shape == (8, 64, 64) and chip.clear.all()
    assert (chip.row, chip.col) == (3, 3)
    assert chip.lon == pytest.approx(LEFT + 35 * PIXEL)
    assert chip.lat == pytest.approx(TOP - 35 * PIXEL)
    assert chip.valid.all() and chip.registered
    np.testing.assert_allclose(chip.gain, GAIN, rtol=0.01)
    np.testing.assert_allclose(chip.offset, OFFSET, atol=0.003)
    y = 30 + centres(256, 2.5)
    np.testing.assert_allclose(chip.target, scene(y, y), atol=0.002)
    np.testing.assert_array_equal(chip.days, 5.0 * np.arange(8) - 18)
    assert chip.correlation > 0.999


@settings(max_examples=6, deadline=None)
@given(
    st.floats(-24, 24),
    st.floats(-24, 24),
    st.integers(0, 50),
)
def test_offset_between_the_sensors_is_found_and_corrected(row, col, seed):
    raw = made_up((row, col), seed=seed, side=76)
    made, _ = chips.make(raw)
    (chip,) = made
    assert chip.registered
    np.testing.assert_allclose(chip.shift, (row / 2.5, col / 2.5), atol=0.06)
    known = chip.valid
    y = 60 + centres(256, 2.5)
    error = (chip.target - scene(y, y, seed))[:, known]
    assert np.sqrt(np.mean(error**2)) < 0.002
    assert known.mean() > 0.85


def test_offset_survives_noise_clouds_and_change():
    raw = made_up((7.0, -4.0), noise=0.01)
    changed = raw.spot.copy()
    changed[:, 100:220, 100:260] = changed[:, 100:220, 100:260] * 0.6 + 900
    clear = np.ones((70, 70), bool)
    clear[:30] = False
    raw = edited(replace(raw, spot=changed.astype(np.uint16)), 3, clear=clear)
    (chip,), _ = chips.make(raw)
    np.testing.assert_allclose(chip.shift, (2.8, -1.6), atol=0.25)
    np.testing.assert_allclose(chip.gain, GAIN, rtol=0.15)


def test_truth_does_not_touch_the_inputs():
    raw = made_up()
    random = np.random.default_rng(0)
    other = (raw.spot * 0.9 + random.integers(0, 200, raw.spot.shape)).astype(np.uint16)
    (one,), _ = chips.make(raw)
    (two,), _ = chips.make(replace(raw, spot=other))
    np.testing.assert_array_equal(one.bands, two.bands)
    np.testing.assert_array_equal(one.clear, two.clear)
    np.testing.assert_array_equal(one.days, two.days)
    # and what they hold is what was delivered
    np.testing.assert_array_equal(one.bands[0], raw.revisits[0].bands[:, 3:67, 3:67])


@settings(max_examples=5, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 20))
def test_quarters_are_means_by_area(row, col, seed):
    random = np.random.default_rng(seed)
    raw = made_up()
    spot = random.integers(1, 4000, raw.spot.shape, dtype=np.uint16)
    grid = (PIXEL, 0.0, LEFT + 3 * PIXEL, 0.0, -PIXEL, TOP - 3 * PIXEL)
    raw = replace(raw, spot=spot)
    got = chips.quarter(chips.Sharp.of(raw), grid, "EPSG:4326", (row, col))
    assert got.shape == (4, 272, 272)
    # brute force: every quarter sampled at 50 x 50 points
    for i, j in random.integers(8, 264, (5, 2)):
        point = (np.arange(50) + 0.5) / 50
        y = (30 + (i - 8 + row + point) * 2.5) / 1.5
        x = (30 + (j - 8 + col + point) * 2.5) / 1.5
        sampled = spot[0][np.ix_(y.astype(int), x.astype(int))].mean() / 1e4
        assert got[0, i, j] == pytest.approx(sampled, rel=0.03, abs=1e-3)


def test_quarters_in_another_projection():
    raw = made_up()
    grid = (PIXEL, 0.0, LEFT + 3 * PIXEL, 0.0, -PIXEL, TOP - 3 * PIXEL)
    one = chips.quarter(chips.Sharp.of(raw), grid, "EPSG:4326", (0.0, 0.0))
    # the same degrees by another name take the general way
    other = chips.quarter(chips.Sharp.of(raw), grid, "OGC:CRS84", (0.0, 0.0))
    inner = np.s_[:, 12:-12, 12:-12]
    np.testing.assert_allclose(one[inner], other[inner], atol=0.004)


def test_spot_without_data_is_not_valid():
    raw = made_up(side=76)
    spot = raw.spot.copy()
    spot[:, 200:230, 100:140] = 0
    (chip,), _ = chips.make(replace(raw, spot=spot))
    # SPOT's rows 200..229 are 300..345 m, the chip begins at 60 m
    gone = ~chip.valid
    assert gone[97:113, 37:59].all()
    assert gone.mean() < 0.012
    assert (chip.target[:, gone] == 0).all()


def test_cloud_in_spot_is_not_valid():
    raw = made_up()
    spot = raw.spot.copy()
    spot[:, 200:240, 200:240] = 6000
    (chip,), _ = chips.make(replace(raw, spot=spot))
    np.testing.assert_allclose(chip.gain, GAIN, rtol=0.05)
    assert not chip.valid[110:130, 110:130].any()
    assert chip.valid.mean() > 0.9


def test_clearest_revisits_nearest_in_time_are_taken():
    raw = made_up(revisits=11)
    for k in (0, 4, 6):
        raw = edited(raw, k, clear=np.zeros((70, 70), bool))
    (chip,), _ = chips.make(raw)
    assert chip.days.tolist() == [5.0 * k - 18 for k in (1, 2, 3, 5, 7, 8, 9, 10)]
    assert chip.clear.all()


def test_missing_revisits_are_empty():
    (chip,), _ = chips.make(made_up(revisits=3))
    assert chip.clear.reshape(8, -1).any(axis=1).tolist() == [True] * 3 + [False] * 5
    assert (chip.bands[3:] == 0).all() and (chip.days[3:] == 0).all()
    assert np.isfinite(chip.bands).all()


def test_fill_values_reach_nobody():
    raw = made_up()
    bands = raw.revisits[2].bands.copy()
    bands[:, :20] = np.nan
    clear = np.isfinite(bands[0])
    (chip,), _ = chips.make(edited(raw, 2, bands=bands, clear=clear))
    assert np.isfinite(chip.bands).all()
    assert not chip.clear[2, :17].any() and chip.clear[2, 17:].all()


def test_nothing_clear_is_dropped_and_told():
    raw = made_up()
    for k in range(8):
        raw = edited(raw, k, clear=np.zeros((70, 70), bool))
    made, defects = chips.make(raw)
    assert made == []
    assert defects[0].reason == "only 0% was ever clear in 8 revisits"
    assert defects[0].dropped


def test_place_that_is_too_small():
    made, defects = chips.make(made_up(side=60))
    assert made == []
    assert "60 x 60" in defects[0].reason


def test_several_chips_of_a_place():
    made, _ = chips.make(made_up(side=132), across=3)
    assert [(chip.row, chip.col) for chip in made] == [(2, 2), (2, 66), (66, 2), (66, 66)]
    assert len({chip.gain.tobytes() for chip in made}) == 1  # radiometry is the place's


def test_revisit_on_another_grid_is_resampled():
    raw = made_up()
    a, b, c, d, e, f = raw.revisits[5].transform
    bands = np.pad(raw.revisits[5].bands, ((0, 0), (2, 0), (2, 0)), mode="edge")
    clear = np.ones(bands.shape[1:], bool)
    moved = (a, b, c - 2 * a, d, e, f - 2 * e)
    (chip,), defects = chips.make(edited(raw, 5, bands=bands, clear=clear, transform=moved))
    assert [d.reason for d in defects] == ["lies on another grid; resampled"]
    np.testing.assert_allclose(chip.bands[5], chip.bands[4], atol=2e-3)
    assert chip.clear[5].mean() > 0.95


def test_swapped_bands_are_named():
    raw = made_up()
    made, defects = chips.make(replace(raw, spot=raw.spot[[3, 1, 2, 0]]))
    assert made == []
    assert "nir, green, blue, red" in defects[-1].reason


def test_place_without_any_structure_stays_where_it_is():
    raw = made_up()
    flat = np.full_like(raw.spot, 1200)
    for k in range(8):
        bands = np.full((12, 70, 70), 0.1, np.float32)
        raw = edited(raw, k, bands=bands)
    (chip,), defects = chips.make(replace(raw, spot=flat))
    assert not chip.registered and chip.shift == (0.0, 0.0)
    assert "no common structure" in defects[0].reason
    np.testing.assert_allclose(chip.target, 0.1, atol=1e-6)
    assert chip.correlation == 0


def test_spot_of_another_place_or_under_clouds_is_dropped():
    raw = made_up()
    other = made_up(seed=5)
    random = np.random.default_rng(0)
    cloud = random.integers(5000, 8000, (4, 47, 47)).repeat(10, axis=1).repeat(10, axis=2)
    for spot in (other.spot, cloud[:, : raw.spot.shape[1], : raw.spot.shape[2]].astype(np.uint16)):
        made, defects = chips.make(replace(raw, spot=spot))
        assert made == []
        assert "does not show what Sentinel-2 does" in defects[0].reason
        assert defects[0].dropped


def test_composite_takes_the_nearest_clear_ones():
    random = np.random.default_rng(0)
    bands = random.random((7, 12, 9, 11))
    clear = random.random((7, 9, 11)) < 0.5
    clear[:, 0, 0] = False
    days = np.array([-30.0, -12, 1, 7, 13, 20, 44])
    got = chips.composite(bands, clear, days)
    assert np.isnan(got[:, 0, 0]).all()
    for row, col in [(0, 1), (3, 4), (8, 10)]:
        by_distance = sorted(
            (k for k in range(7) if clear[k, row, col]), key=lambda k: abs(days[k])
        )
        for i, band in enumerate(LIKE_SPOT):
            expected = np.median(bands[by_distance[:4], band, row, col])
            assert got[i, row, col] == pytest.approx(expected)


def test_calibration_without_contrast_is_a_ratio():
    random = np.random.default_rng(0)
    gain, offset = chips.calibrate(
        0.12 + random.normal(0, 0.01, (4, 500)), 0.1 + random.normal(0, 1e-5, (4, 500))
    )
    np.testing.assert_allclose(gain, 1.2, rtol=0.02)
    assert (offset == 0).all()
    gain, offset = chips.calibrate(np.full((4, 9), np.nan), np.full((4, 9), np.nan))
    assert (gain == 1).all() and (offset == 0).all()


def test_stored_counts():
    values = np.array([-0.1, 0.0, 0.00004, 0.00006, 0.1234, 1.9, 99.0])
    counts = chips.to_counts(values)
    assert counts.tolist() == [0, 0, 0, 1, 1234, 19000, 65535]
    assert counts.dtype == np.uint16
    back = chips.to_reflectance(counts)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back[1:6], values[1:6], atol=0.5 / 10_000 + 1e-7)
