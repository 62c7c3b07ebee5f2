"""The label audit finds known displacements and radius errors, and knows what it is worth."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from acdc.errors import DataError
from acdc.tracks.craters import registration, tiles

ROUNDING = 0.1
"""Diffusion length in radii: a rim as a few hundred million years leave it."""


def bowl(rho: np.ndarray) -> np.ndarray:
    return np.where(rho < 1, rho**1.8 - 0.8, 0.2 * np.maximum(rho, 1) ** -4.0)


@functools.cache
def crest() -> float:
    """Where the rounded bowl is highest, in radii of the sharp one."""
    at = np.arange(-3, 3, 0.01)
    height = ndimage.gaussian_filter(bowl(np.hypot(*np.meshgrid(at, at))), ROUNDING / 0.01)
    return abs(float(at[height[len(at) // 2].argmax()]))


@functools.cache
def landscape(seed: int = 0, n: int = 90, side: int = 760) -> tuple[np.ndarray, np.ndarray]:
    """Bowls with rims in rolling ground, lit from the left: written apart from the simulator.

    The circles are those of the rim crests, as a catalogue has them.
    """
    rng = np.random.default_rng(seed)
    relief = 4 * ndimage.gaussian_filter(rng.normal(size=(side, side)), 6)
    relief += ndimage.gaussian_filter(rng.normal(size=(side, side)), 2) / 2
    circles: list[tuple[float, float, float]] = []
    while len(circles) < n:
        row, col = rng.uniform(30, side - 30, 2)
        radius = 5 * rng.pareto(2) + 5
        if radius < 25 and all(
            np.hypot(row - a, col - b) > 1.5 * (radius + c) for a, b, c in circles
        ):
            circles.append((row, col, radius))
    rows, cols = np.mgrid[:side, :side]
    for row, col, radius in circles:
        window = (
            slice(max(0, int(row - 4 * radius)), int(row + 4 * radius)),
            slice(max(0, int(col - 4 * radius)), int(col + 4 * radius)),
        )
        rho = np.hypot(rows[window] - row, cols[window] - col) / radius
        relief[window] += ndimage.gaussian_filter(0.35 * radius * bowl(rho), ROUNDING * radius)
    lit = ndimage.gaussian_filter(-np.gradient(relief)[1], 0.8)
    image = 120 + 250 * lit / (1 + 3 * np.abs(lit)) + rng.normal(0, 2, lit.shape)
    return np.clip(image, 1, 255).astype(np.uint8), np.array(circles) * [1, 1, crest()]


def displaced(circles: np.ndarray, row: float, col: float, ratio: float) -> np.ndarray:
    return circles * [1, 1, ratio] + [row, col, 0]


@pytest.mark.parametrize(
    ("row", "col", "ratio"), [(0, 0, 1), (5, -3, 1.1), (-7.6, 2.2, 0.92), (1.3, 8, 1.15)]
)
def test_known_displacements_are_found(row, col, ratio):
    image, circles = landscape()
    found = registration.estimate(image, displaced(circles, row, col, ratio))
    assert found.reliable
    assert found.contrast == "shaded"
    assert found.row == pytest.approx(-row, abs=0.3)
    assert found.col == pytest.approx(-col, abs=0.3)
    # a crest is no sharp thing: its radius is known to 2 % besides
    assert (1 + found.radius_ratio) * ratio == pytest.approx(1, abs=0.04)
    moved = registration.apply(displaced(circles, row, col, ratio), found)
    np.testing.assert_allclose(moved[:, :2], circles[:, :2], atol=0.3)


def test_corrected_labels_need_no_correction():
    image, circles = landscape()
    wrong = displaced(circles, 4, -4, 1.1)
    once = registration.apply(wrong, registration.estimate(image, wrong))
    again = registration.estimate(image, once)
    assert abs(again.row) < 0.1
    assert abs(again.col) < 0.1
    assert abs(again.radius_ratio) < 0.01


@pytest.mark.parametrize("turn", ["flipped", "transposed"])
def test_the_sun_may_stand_anywhere(turn):
    image, circles = landscape()
    wrong = displaced(circles, 2, -3, 1)
    if turn == "flipped":
        image, wrong = image[:, ::-1], wrong * [1, -1, 1] + [0, image.shape[1] - 1, 0]
        expected = (-2, -3)
    else:
        image, wrong = image.T, wrong[:, [1, 0, 2]]
        expected = (3, -2)
    found = registration.estimate(image, wrong)
    assert (found.row, found.col) == pytest.approx(expected, abs=0.3)


def test_errors_cover_the_truth():
    """Standard errors are neither far too small nor far too large, over landscapes."""
    deviations = []
    for seed in range(1, 6):
        image, circles = landscape(seed, n=40, side=520)
        found = registration.estimate(image, displaced(circles, 1, 1, 1))
        deviations += [(found.row + 1) / found.row_error, (found.col + 1) / found.col_error]
    assert 0.3 < np.sqrt(np.mean(np.square(deviations))) < 3


def test_places_without_craters_are_not_trusted():
    image, circles = landscape()
    rng = np.random.default_rng(1)
    elsewhere = np.column_stack([rng.uniform(40, 720, (len(circles), 2)), circles[:, 2]])
    assert not registration.estimate(image, elsewhere).reliable
    noise = rng.normal(120, 10, image.shape).clip(1, 255).astype(np.uint8)
    assert not registration.estimate(noise, circles).reliable
    flat = np.full_like(image, 90)
    assert not registration.estimate(flat, circles).reliable
    assert not registration.estimate(image, circles[:8]).reliable


def test_nothing_to_look_at():
    image, circles = landscape()
    for group in (np.empty((0, 3)), circles * [1, 1, 0.1], circles - [5000, 0, 0]):
        found = registration.estimate(image, group)
        assert found.craters == 0
        assert not found.reliable
        assert np.isnan(found.row)
    assert not registration.estimate([], []).reliable
    black = image.copy()
    black[:, :380] = 0
    assert registration.estimate(black, circles).craters < 0.6 * len(circles)


def test_bad_circles_are_named():
    image, circles = landscape()
    with pytest.raises(DataError, match=r"shape \(90, 2\)"):
        registration.estimate(image, circles[:, :2])
    with pytest.raises(DataError, match="2 images, but 1 lists"):
        registration.estimate([image, image], [circles])


def test_pyramid_levels_count_in_pixels_of_level_0():
    image, circles = landscape()
    height, width = (side // 2 * 2 for side in image.shape)
    half = image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    wrong = displaced(circles, 6, -4, 1)
    half_a_pixel = np.array([0.5, 0.5, 0])
    coarse = (wrong + half_a_pixel) / 2 - half_a_pixel
    found = registration.estimate(
        [image, half.astype(np.uint8)], [wrong[::2], coarse[1::2]], scales=[1, 2]
    )
    assert (found.row, found.col) == pytest.approx((-6, 4), abs=0.3)


def test_a_prepared_split_is_audited(tmp_path):
    image, circles = landscape()
    wrong = displaced(circles, 3, -2, 1)
    rows, crops, marks = [], [], []
    for row0 in range(0, 760 - 223, 168):
        for col0 in range(0, 760 - 223, 168):
            near = wrong - [row0, col0, 0]
            near = near[(np.abs(near[:, :2] - 111.5) < 111.5 + near[:, 2:]).all(axis=1)]
            marks.append(
                pd.DataFrame(near, columns=["row", "col", "radius"]).assign(tile=len(rows))
            )
            rows.append(("b", "q", 0, row0, col0, 100.0, 1.0, 1.0, "", "", "", ""))
            crops.append(image[row0 : row0 + 224, col0 : col0 + 224])
    planes = pd.DataFrame(
        [("q", "a map", 1, 0, 0, 0, -1, 0)], columns=list(tiles.QUADRANGLE_COLUMNS)
    )
    tiles.write_split(
        tmp_path,
        [np.stack(crops)],
        pd.DataFrame(rows, columns=list(tiles.TILE_COLUMNS)),
        pd.concat(marks).assign(kind=0, flag=0, crater_id="c", degradation=np.nan, ejecta=""),
        planes,
        attributes={"simulated": True},
    )
    pytest.importorskip("matplotlib")
    table = registration.audit_split(tmp_path, figures=tmp_path / "figures")
    assert table["quadrangle"].tolist() == ["q"]
    assert table["row"].iloc[0] == pytest.approx(-3, abs=0.3)
    assert table["col"].iloc[0] == pytest.approx(2, abs=0.3)
    assert (tmp_path / "figures" / "q.png").read_bytes().startswith(b"\x89PNG")


def test_mean_craters_become_symmetric():
    """What the figure shows: after registration the two halves of the mean crater balance."""
    image, circles = landscape()
    wrong = displaced(circles, 2, 3, 1)
    found = registration.estimate(image, wrong)

    def lopsided(shown: np.ndarray) -> float:
        mean, count = registration.mean_craters(image, shown, low=5, high=25)
        assert count > 50
        # by day a crater changes sign when it is turned by half a circle
        return float(np.abs(mean + mean[::-1, ::-1]).mean())

    assert lopsided(registration.apply(wrong, found)) < 0.5 * lopsided(wrong)


@pytest.mark.parametrize(
    "condition", ["day infrared", pytest.param("visible", marks=pytest.mark.slow)]
)
def test_simulated_mars(condition):
    from acdc.tracks.craters.simulate import quadrangle

    terrains = ("smooth plains", "cratered highlands")
    plan = quadrangle.Plan("q", "train", 900, 900, 2.0, 1 / 592.7, terrains, ((0, condition),))
    made = quadrangle.make(plan, np.random.SeedSequence(4))
    craters = made.craters[made.craters["type"] != quadrangle.MISIDENTIFIED]
    circles = craters[["row", "col", "radius"]].to_numpy() / [1, 1, 100]
    truth = registration.estimate(made.picture, circles)
    assert abs(truth.radius_ratio) < 0.04
    for row, col, ratio in ((5, -3, 1), (-6, -7.5, 1.1)):
        found = registration.estimate(made.picture, displaced(circles, row, col, ratio))
        assert found.reliable
        assert found.row == pytest.approx(-row, abs=0.3)
        assert found.col == pytest.approx(-col, abs=0.3)
        change = (1 + found.radius_ratio) / (1 + truth.radius_ratio)
        assert change * ratio == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_simulated_mars_by_night():
    """Warm walls give the place, roughly, and no radius."""
    from acdc.tracks.craters.simulate import quadrangle

    terrains = ("smooth plains", "cratered highlands")
    look = ((0, "night infrared"),)
    plan = quadrangle.Plan("q", "train", 1100, 1100, 2.0, 1 / 592.7, terrains, look)
    made = quadrangle.make(plan, np.random.SeedSequence(4))
    craters = made.craters[made.craters["type"] != quadrangle.MISIDENTIFIED]
    circles = craters[["row", "col", "radius"]].to_numpy() / [1, 1, 100]
    found = registration.estimate(made.picture, displaced(circles, 5, -3, 1))
    assert found.contrast == "walls"
    assert (found.row, found.col) == pytest.approx((-5, 3), abs=0.6)
    assert found.radius_ratio == 0
    assert np.isnan(found.radius_ratio_error)


def test_real_mosaic(real):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(real / "craters" / "mosaic" / "mosaic.tif") as source:
        image, affine = source.read(1), source.transform
    table = pd.read_csv(real / "craters" / "mosaic" / "catalogue.csv")
    metres = table[["X", "Y"]].to_numpy() * np.pi / 180 * 3_396_190
    col, row = (metres - [affine.c, affine.f]).T / [[affine.a], [affine.e]]
    circles = np.column_stack([row - 0.5, col - 0.5, table["RADIUS"] / affine.a])
    found = registration.estimate(image, displaced(circles, 5, -3, 1))
    assert found.reliable
    assert (found.row, found.col) == pytest.approx((-5, 3), abs=1)
