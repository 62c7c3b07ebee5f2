"""The invented Mars against published numbers, independent implementations and itself."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats

from acdc.errors import DataError
from acdc.metrics.size_frequency import HARTMANN_NEUKUM_2001, IVANOV_2001
from acdc.tracks.craters.simulate import (
    emplacement,
    imaging,
    morphology,
    planet,
    population,
    quadrangle,
    simulate,
)
from acdc.tracks.craters.simulate.emplacement import Stamp, Surface, emplace

FILES = ["README.txt", "catalogue.csv", "mosaic.tif", "quadrangles.csv", "units.geojson"]


def flat(size: int) -> Surface:
    return Surface(*(np.zeros((size, size), np.float32) for _ in range(4)))


def ring(surface: Surface, row: float, col: float, radius: float, squash: float = 1.0) -> float:
    """Mean height on a circle on the ground."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    at = [row + radius * np.sin(angle), col + radius * np.cos(angle) / squash]
    return float(ndimage.map_coordinates(surface.height, at, order=1).mean())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("tiny")
    simulate(out, seed=11, size="tiny", progress=False, processes=1)
    return out


@pytest.fixture(scope="module")
def made() -> quadrangle.Quadrangle:
    plan = planet.Plan(
        "here", "train", 900, 800, 1.0, planet.DEGREES_PER_PIXEL,
        ("intercrater plains", "ridged plains"), ((0, "day infrared"), (600, "visible")),
    )  # fmt: skip
    return quadrangle.make(plan, np.random.SeedSequence(3))


def test_primaries_follow_production_function_and_chronology():
    rng = np.random.default_rng(0)
    area, age = 4e5, 3.7
    diameter, when = population.primaries(rng, area, age, smallest=1.0, largest=50.0)
    n1 = HARTMANN_NEUKUM_2001.density
    span = IVANOV_2001.cumulative(1.0) - IVANOV_2001.cumulative(50.0)
    expected = area * float(n1(age) * span)
    assert abs(diameter.size - expected) < 4 * np.sqrt(expected)
    below = stats.kstest(diameter, lambda d: (1 - IVANOV_2001.cumulative(d)) / span)
    assert below.pvalue > 1e-3
    assert stats.kstest(when, lambda t: n1(t) / n1(age)).pvalue > 1e-3
    edges = np.geomspace(1, 8, 13)
    counts = np.histogram(diameter, edges)[0]
    model = area * float(n1(age)) * -np.diff(IVANOV_2001.cumulative(edges))
    assert stats.chi2.sf(((counts - model) ** 2 / model).sum(), counts.size) > 1e-3


def test_basement_craters_are_older_than_what_buried_them():
    rng = np.random.default_rng(1)
    _, age = population.primaries(rng, 1e5, 3.8, since=3.5, smallest=1.0, largest=50.0)
    assert age.size > 50 and age.min() >= 3.5 and age.max() <= 3.8


def test_secondaries_are_small_far_and_radial():
    rng = np.random.default_rng(2)
    y, x, diameter, azimuth = population.secondaries(rng, 60.0, smallest=0.4)
    assert diameter.size > 100
    assert diameter.max() < 0.08 * 60 and diameter.min() >= 0.4
    assert np.hypot(x, y).min() > 0.8 * 60
    off = np.angle(np.exp(1j * (np.arctan2(y, x) - azimuth)))
    assert np.median(np.abs(off)) < np.radians(10)
    assert all(part.size == 0 for part in population.secondaries(rng, 5.0, smallest=0.4))


@pytest.mark.parametrize("diameter", [1.0, 3.0, 6.0, 12.0, 40.0])
def test_fresh_crater_has_published_depth_and_rim(diameter):
    # Finer than the mosaic's pixels, which cut the sharp crest of a small crater.
    radius = 80.0
    surface = flat(660)
    emplace(surface, Stamp(330.3, 329.8, radius, morphology.fresh_profile(diameter, peak=False)))
    rim = max(ring(surface, 330.3, 329.8, r * radius) for r in np.linspace(0.95, 1.05, 41))
    floor = ring(surface, 330.3, 329.8, 0.02 * radius)
    assert rim - floor == pytest.approx(float(morphology.fresh_depth(diameter)), rel=0.02)
    assert rim == pytest.approx(float(morphology.rim_height(diameter)), rel=0.05)


def test_published_values():
    # Garvin et al. 2003: 0.21 D^0.81 and 0.36 D^0.49 km; McGetchin et al. 1973: 0.14 R^0.74 m.
    assert morphology.fresh_depth(2.0) == pytest.approx(1000 * 0.21 * 2**0.81, rel=1e-3)
    assert morphology.fresh_depth(30.0) == pytest.approx(1000 * 0.36 * 30**0.49, rel=1e-3)
    assert morphology.ejecta_thickness(1000.0) == pytest.approx(0.14 * 1000**0.74)
    profile = morphology.fresh_profile(30.0)
    peak = profile[0] - morphology.fresh_profile(30.0, peak=False)[0]
    assert peak == pytest.approx(40 * 30**0.51, rel=0.05)


@pytest.mark.parametrize("squash", [1.0, 0.9])
def test_rim_crest_lies_where_the_catalogue_says(squash):
    surface = flat(160)
    row, col, radius = 79.37, 80.81, 14.6
    profile = morphology.diffused(morphology.fresh_profile(2.92), 0.1)
    emplace(surface, Stamp(row, col, radius, profile, squash=squash))
    tried = np.arange(0.8, 1.3, 0.005) * radius
    heights = [ring(surface, row, col, r, squash) for r in tried]
    crest = morphology.crest(profile) * radius
    assert crest > radius  # diffusion moves crests outwards
    assert tried[int(np.argmax(heights))] == pytest.approx(crest, abs=0.3)
    # The hollow's centre of mass.
    depth = np.maximum(-surface.height, 0)
    found = ndimage.center_of_mass(depth)
    assert found == pytest.approx((row, col), abs=0.05)


def test_outline_moves_neither_centre_nor_size():
    rng = np.random.default_rng(4)
    surface = flat(200)
    outline = 0.04 * emplacement.around(rng, 2, 24, 1.3)
    stamp = Stamp(100.2, 99.4, 20.0, morphology.fresh_profile(4.0), outline=outline)
    emplace(surface, stamp)
    hollow = surface.height < -200
    assert ndimage.center_of_mass(hollow) == pytest.approx((100.2, 99.4), abs=0.3)
    plain = flat(200)
    emplace(plain, Stamp(100.2, 99.4, 20.0, morphology.fresh_profile(4.0)))
    assert hollow.sum() == pytest.approx((plain.height < -200).sum(), rel=0.02)


@pytest.mark.parametrize("length", [0.1, 0.3])
def test_diffusion_equals_gaussian_filter(length):
    profile = morphology.fresh_profile(3.0)
    radius, n = 30.0, 401
    y, x = np.mgrid[:n, :n] - n // 2
    rho = np.hypot(y, x) / radius
    relief = np.interp(rho, morphology.RHO, profile, right=0)
    expected = ndimage.gaussian_filter(relief, length * radius, truncate=6)[n // 2]
    got = np.interp(rho[n // 2], morphology.RHO, morphology.diffused(profile, length))
    inner = rho[n // 2] < 3
    depth = np.ptp(profile)
    assert np.abs(got - expected)[inner].max() < 0.01 * depth
    volume = (profile * morphology.RHO).sum()
    assert (morphology.diffused(profile, length) * morphology.RHO).sum() == pytest.approx(volume)


def test_degradation_grows_with_age_and_spares_large_craters():
    lengths = morphology.diffusion_length([0.5, 2.0, 3.5, 3.8])
    assert (np.diff(lengths) > 0).all()

    def depth(diameter: float, age: float) -> float:
        length = float(morphology.diffusion_length(age)) / (500 * diameter)
        aged = morphology.diffused(morphology.fresh_profile(diameter, peak=False), length)
        return float(np.ptp(aged) / morphology.fresh_depth(diameter))

    assert depth(1.0, 3.8) < 0.25 < depth(1.0, 2.0)
    assert depth(10.0, 3.8) > 0.7


def test_fill_is_level_and_burial_leaves_the_rim():
    profile = morphology.fresh_profile(4.0)
    level = profile[0] + 0.5 * np.ptp(profile)
    fill = morphology.filled(profile, level, 5.0)
    assert fill[0] == pytest.approx(level, abs=1)
    assert np.ptp(fill[morphology.RHO < 0.5]) < 5
    assert morphology.crest(fill) == pytest.approx(1, abs=0.03)
    ghost = morphology.buried(profile, 0.6 * profile.max(), 5.0, 0.0)
    assert 0.3 * profile.max() < ghost.max() < 0.5 * profile.max()
    assert np.abs(ghost[morphology.RHO < 0.7]).max() < 0.05 * profile.max()


def test_young_cuts_old():
    surface = flat(300)
    old = Stamp(150.0, 130.0, 40.0, morphology.fresh_profile(8.0))
    young = Stamp(150.0, 175.0, 20.0, morphology.fresh_profile(4.0))
    emplace(surface, old)
    before = surface.height.copy()
    emplace(surface, young)
    # Inside the young crater nothing of the old rim is left: what remains is a plane.
    alone = flat(300)
    emplace(alone, young)
    y, x = np.mgrid[:300, :300]
    inside = np.hypot(y - 150, x - 175) < 17
    rest = (surface.height - alone.height)[inside]
    design = np.stack([np.ones(rest.size), y[inside], x[inside]], 1)
    residual = rest - design @ np.linalg.lstsq(design, rest, rcond=None)[0]
    assert residual.std() < 0.02 * before[inside].std()
    # Far from it the old crater is untouched.
    far = np.hypot(y - 150, x - 175) > 20 * 4.1
    assert np.array_equal(surface.height[far], before[far])


def test_crater_at_the_border_is_cut_off():
    whole, part = flat(200), flat(200)
    profile = morphology.fresh_profile(4.0)
    emplace(whole, Stamp(100.0, 100.0, 20.0, profile))
    emplace(part, Stamp(100.0, 10.0, 20.0, profile))
    assert np.allclose(part.height[:, :100], whole.height[:, 90:190], atol=1e-2)
    before = part.height.copy()
    emplace(part, Stamp(-500.0, 10.0, 20.0, profile))
    assert np.array_equal(part.height, before)


@pytest.mark.parametrize("name", ["day infrared", "visible"])
def test_afternoon_sun_lights_the_eastern_wall(name):
    surface = flat(200)
    emplace(surface, Stamp(100.0, 100.0, 20.0, morphology.fresh_profile(4.0)))
    rng = np.random.default_rng(5)
    strips = imaging.Strips(rng, surface.height.shape)
    scene = imaging.SCENES[name](rng, surface, strips, 1.0)
    picture = imaging.stretched(rng, scene, strips, imaging.CONDITIONS[name]).astype(float)
    east, west = picture[95:106, 112:116].mean(), picture[95:106, 85:89].mean()
    plain = np.median(picture[:, :30])
    assert west < plain - 30 and east > plain + 30
    hill = flat(200)
    emplace(hill, Stamp(100.0, 100.0, 20.0, -morphology.fresh_profile(4.0)))
    scene = imaging.SCENES[name](rng, hill, strips, 1.0)
    assert scene[95:106, 112:116].mean() < scene[95:106, 85:89].mean()


def test_night_shows_rock_rather_than_shade():
    surface = flat(200)
    emplace(surface, Stamp(100.0, 100.0, 20.0, morphology.fresh_profile(4.0), freshness=1.0))
    rng = np.random.default_rng(5)
    strips = imaging.Strips(rng, surface.height.shape)
    night = imaging.night_infrared(rng, surface, strips, 1.0)
    day = imaging.day_infrared(rng, surface, strips, 1.0)

    def shade(scene: np.ndarray) -> float:
        east, west = scene[95:106, 112:116].mean(), scene[95:106, 85:89].mean()
        return abs(east - west) / scene.mean()

    assert shade(night) < 0.3 * shade(day)
    assert night[95:106, 112:116].mean() > night[:, :30].mean()  # rocky walls are warm


def test_cast_shadow_has_the_right_length():
    height = np.zeros((60, 300), np.float32)
    height[:, 100] = 1000.0
    shade = imaging.shadow(height, 1.0, 270.0, 60.0)
    # 1000 m under a sun 30 degrees high: 1732 m, seventeen pixels to the east.
    dark = np.flatnonzero(shade[30] > 0.5)
    assert dark[0] == 101 and dark[-1] in (116, 117)


def test_pictures_use_no_zero_and_look_stretched(made):
    assert made.picture.dtype == np.uint8 and made.picture.min() >= 1
    for part in (made.picture[:, :600], made.picture[:, 600:]):
        assert 100 < np.median(part) < 150 and 15 < part.std() < 60


def test_catalogued_craters_stand_in_the_relief(made):
    craters = made.craters[(made.craters.type == quadrangle.OTHER) & (made.craters.radius > 500)]
    assert len(craters) >= 15
    tried = np.arange(0.7, 1.4, 0.02)
    ratios = []
    for crater in craters.itertuples():
        r = crater.radius / 100
        squash = made.plan.squash(crater.row)
        if not (1.4 * r < crater.row < 899 - 1.4 * r and 1.4 * r < crater.col < 799 - 1.4 * r):
            continue
        heights = [ring(made.surface, crater.row, crater.col, k * r, squash) for k in tried]
        ratios.append(tried[np.argmax(heights)])
    assert np.median(ratios) == pytest.approx(1, abs=0.03)
    assert np.mean(np.abs(np.array(ratios) - 1) < 0.12) > 0.8


def test_unit_counts_follow_their_age():
    """Young surfaces keep what fell on them: counts of one unit against its model age."""
    plan = planet.Plan(
        "here", "train", 2000, 2000, 1.0, planet.DEGREES_PER_PIXEL, ("lava plains",),
        ((0, "day infrared"),),
    )  # fmt: skip
    units = np.zeros((250, 250), np.int8)
    hits = quadrangle.impacts(np.random.default_rng(6), plan, units, np.array([3.0]))
    inside = (hits.row > -0.5) & (hits.row < 1999.5) & (hits.col > -0.5) & (hits.col < 1999.5)
    chosen = hits[inside & ~hits.secondary & (hits.buried == 0) & (hits.diameter >= 1)]
    expected = 40000 * float(HARTMANN_NEUKUM_2001.density(3.0))
    assert abs(len(chosen) - expected) < 4 * np.sqrt(expected)
    assert (np.diff(hits.age) <= 0).all()  # oldest first


def test_files_are_those_of_a_real_source(tiny):
    import rasterio
    import shapely
    from rasterio.crs import CRS

    assert sorted(p.name for p in tiny.iterdir()) == FILES
    assert "SIMULATED" in (tiny / "README.txt").read_text()
    quadrangles = pd.read_csv(tiny / "quadrangles.csv")
    assert list(quadrangles.columns) == [
        "name", "lon_min", "lat_min", "lon_max", "lat_max", "part",
    ]  # fmt: skip
    assert sorted(quadrangles.part) == ["test", "train", "train"]
    catalogue = pd.read_csv(tiny / "catalogue.csv")
    assert list(catalogue.columns) == ["CRATER_ID", "X", "Y", "RADIUS", "TYPE"]
    assert catalogue.CRATER_ID.is_unique and set(catalogue.TYPE) <= {1, 2, 3, 4, 5}
    assert catalogue.RADIUS.min() >= 390 and len(catalogue) > 100
    with rasterio.open(tiny / "mosaic.tif") as mosaic:
        assert mosaic.dtypes == ("uint8",) and mosaic.nodata == 0
        assert mosaic.crs.to_dict()["proj"] == "eqc"
        assert mosaic.crs.to_dict()["R"] == 3396190
        assert mosaic.res == (100.0, 100.0)
        sphere = CRS.from_proj4("+proj=longlat +R=3396190 +no_defs")
        from rasterio.warp import transform

        x, y = transform(sphere, mosaic.crs, catalogue.X, catalogue.Y)
        rows, cols = rasterio.transform.rowcol(mosaic.transform, x, y)
        grey = mosaic.read(1)
        assert (grey[np.asarray(rows, int), np.asarray(cols, int)] > 0).all()
        for box in quadrangles.itertuples():
            (left, right), (bottom, top) = transform(
                sphere, mosaic.crs, [box.lon_min, box.lon_max], [box.lat_min, box.lat_max]
            )
            (r0, r1), (c0, c1) = (
                [round((mosaic.transform.f - v) / 100) for v in (top, bottom)],
                [round((v - mosaic.transform.c) / 100) for v in (left, right)],
            )
            assert (r1 - r0, c1 - c0) == (1200, 1200)
            assert (grey[r0 - 20 : r1 + 20, c0 - 20 : c1 + 20] > 0).all()
            assert (grey[r0 - 21, c0:c1] == 0).all()
    features = json.loads((tiny / "units.geojson").read_text())["features"]
    shapes = [shapely.geometry.shape(f["geometry"]) for f in features]
    assert all(s.is_valid and s.area > 0 for s in shapes)
    keys = {"sensor", "light", "terrain", "region", "model_age_ga"}
    assert all(set(f["properties"]) == keys for f in features)
    area = sum(s.area for s in shapes)
    assert area == pytest.approx(3 * (1240 * planet.DEGREES_PER_PIXEL) ** 2, rel=1e-4)
    looks = {(f["properties"]["sensor"], f["properties"]["light"]) for f in features}
    assert len(looks) >= 2


def test_pixel_convention(tiny):
    """A catalogue position leads to the crater's centre, not to its pixel's corner."""
    import rasterio

    catalogue = pd.read_csv(tiny / "catalogue.csv")
    catalogue = catalogue[(catalogue.TYPE == 1) & catalogue.RADIUS.between(500, 1500)]
    with rasterio.open(tiny / "mosaic.tif") as mosaic:
        grey = mosaic.read(1).astype(float)
        col = ((catalogue.X - 180) * np.pi / 180 * 3396190 - mosaic.transform.c) / 100 - 0.5
        row = (mosaic.transform.f - catalogue.Y * np.pi / 180 * 3396190) / 100 - 0.5
    # The mean crater, turned by half a turn with its contrast reversed, falls on itself.
    grid = np.linspace(-1.5, 1.5, 61)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    stack = [
        ndimage.map_coordinates(grey, [r + y * s, c + x * s], order=1) - 125
        for r, c, s in zip(row, col, catalogue.RADIUS / 100, strict=True)
    ]
    mean = np.median(stack, axis=0)
    mean -= np.median(mean)
    shifts = np.arange(-6, 7)
    fit = [
        (np.roll(mean, k, 1)[:, 10:-10] * -np.roll(mean[::-1, ::-1], -k, 1)[:, 10:-10]).sum()
        for k in shifts
    ]
    best = shifts[int(np.argmax(fit))] * 3 / 60
    assert abs(best) <= 0.1  # radii; half a pixel would be .07 for the commonest


def test_same_seed_same_bytes_whatever_the_processes(tiny, tmp_path):
    simulate(tmp_path / "again", seed=11, size="tiny", progress=False, processes=2)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tiny / name).read_bytes(), name


def test_other_seed_other_planet():
    draws = []
    for seed in (1, 2, 2**127 + 5):
        rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        draws.append(planet._plans(rng, "default")[0])
    assert draws[0] != draws[1] != draws[2]


@pytest.mark.parametrize("size", ["default", "large"])
def test_plans_cover_terrains_and_conditions(size):
    plans, corners, shape = planet._plans(np.random.default_rng(0), size)
    n_train, n_test = planet.SIZES[size][:2]
    assert sum(p.part == "train" for p in plans) == n_train
    assert sum(p.part == "test" for p in plans) == n_test
    for part in ("train", "test"):
        mine = [p for p in plans if p.part == part]
        assert len({name for p in mine for _, name in p.conditions}) >= 2
        assert len({t for p in mine for t in p.terrains}) >= 4
    boxes = [(r, c, r + p.rows, c + p.cols) for p, (r, c) in zip(plans, corners, strict=True)]
    assert all(b[2] <= shape[0] and b[3] <= shape[1] for b in boxes)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_bad_arguments(tmp_path):
    with pytest.raises(DataError, match="huge"):
        simulate(tmp_path, seed=1, size="huge", progress=False)
    with pytest.raises(DataError, match="-1"):
        simulate(tmp_path, seed=-1, size="tiny", progress=False)


def test_nothing_half_written(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no space")

    monkeypatch.setattr(planet, "_make", broken)
    (tmp_path / "catalogue.csv").write_text("mine")
    with pytest.raises(RuntimeError, match="no space"):
        simulate(tmp_path, seed=1, size="tiny", progress=False, processes=1)
    assert [p.name for p in tmp_path.iterdir()] == ["catalogue.csv"]
    assert (tmp_path / "catalogue.csv").read_text() == "mine"
