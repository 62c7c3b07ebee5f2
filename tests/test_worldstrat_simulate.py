import numpy as np
import pytest

from acdc import sensor
from acdc.errors import DataError
from acdc.tracks.worldstrat import archive, chips, simulate
from acdc.tracks.worldstrat.simulate import landscape, overpass, places, spectra

prosail = pytest.importorskip("prosail")
SPOT_DAY, LATITUDE = 171.0, 46.0


@pytest.fixture(scope="module")
def ground():
    return landscape.make(np.random.default_rng(1), overpass.GROUND)


@pytest.fixture(scope="module")
def observed(ground):
    days = np.array([150.0, 165.0, 170.0, 185.0])
    return overpass.observe(ground, np.random.default_rng(2), days, SPOT_DAY, LATITUDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes, simulate_sizes = places.SIZES, {"pair": (1, 1)}
    places.SIZES = {**sizes, **simulate_sizes}
    try:
        return simulate.simulate(
            tmp_path_factory.mktemp("raw"), seed=3, size="pair", progress=False
        )
    finally:
        places.SIZES = sizes


def test_bands_weigh_their_wavelengths():
    weights = spectra.responses()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    centre = weights @ spectra.WAVELENGTH
    wanted = [442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1613.7, 2202.4]
    np.testing.assert_allclose(centre[spectra.SENTINEL2], wanted, atol=0.5)
    np.testing.assert_allclose(centre[spectra.SPOT], [660, 560, 490, 825], atol=0.5)
    # the panchromatic band sees no near infrared
    assert weights[spectra.PAN, spectra.WAVELENGTH > 770].sum() < 1e-3


@pytest.mark.parametrize("lai", [0.5, 1.5, 3.0, 6.0])
def test_table_of_canopies_follows_prosail(lai):
    direct = prosail.run_prosail(
        1.6, 40, 8, 0, 0.012, 0.007, lai, 50, 0.1, 40, 0, 0,
        prospect_version="D", rsoil=1.0, psoil=0.3,
    )  # fmt: skip
    table = spectra.of_canopies(np.array([[50, 40, 0.012, 0, lai, 0.3, 40]]))[0]
    np.testing.assert_allclose(table, spectra.responses() @ direct, atol=0.025)


def test_canopy_without_leaves_is_soil():
    bare = spectra.of_canopies(np.array([[50, 40, 0.01, 0, 0, 0, 40], [50, 40, 0.01, 0, 0, 1, 40]]))
    np.testing.assert_allclose(bare, spectra.soils(), atol=1e-3)


def test_plants_grow_ripen_and_go():
    wheat = landscape.Plants(0.1, 5.0, 100, 205, True, 60, 45, 0.012, 0.5)
    area = [wheat.leaf_area(day) for day in (40, 100, 150, 215)]
    assert area[0] < 0.2 < area[1] < area[2]
    assert area[3] < 1
    assert wheat.brown(150) < 0.05 < 0.9 < wheat.brown(204)


def test_shadow_is_as_long_as_the_sun_makes_it():
    height = np.zeros((160, 160), np.float32)
    height[100:104, 80:84] = 10.0
    shadow = overpass.cast_shadow(height, overpass.Sun(45.0, 180.0))  # sun in the south
    rows, cols = np.nonzero(shadow)
    assert cols.min() == 80 and cols.max() == 83
    # 10 m tall at 45 degrees: 10 m to the north, that is 20 pixels above the block
    assert rows.max() == 99
    assert abs(100 - rows.min() - 20) <= 2
    east = overpass.cast_shadow(height, overpass.Sun(45.0, 90.0))
    assert np.nonzero(east)[1].max() == 79
    assert not overpass.cast_shadow(height * 0, overpass.Sun(45.0, 90.0)).any()


@pytest.mark.parametrize(("day", "declination"), [(80.5, 0.0), (172.0, 23.4)])
def test_sun_at_noon(day, declination):
    sun = overpass.Sun.at(day, 46.0, 12.0)
    assert sun.zenith == pytest.approx(46.0 - declination, abs=0.6)
    assert sun.azimuth == pytest.approx(180, abs=0.1)
    assert overpass.Sun.at(day, 46.0, 10.5).azimuth < 160


def test_landscape_is_whole(ground):
    n = overpass.GROUND
    assert ground.material.shape == ground.cover.shape == ground.height.shape == (n, n)
    assert ground.material.min() >= 0 and ground.material.max() < len(ground.materials)
    assert len(np.unique(ground.cover)) >= 5
    table = ground.reflectance(SPOT_DAY, 0.3, 30.0)
    assert (table > 0).all() and (table < 1).all()


def test_mixing_equals_drawing_and_averaging(ground):
    lit = overpass.Lit(ground, overpass.Sun.at(SPOT_DAY, LATITUDE))
    table = lit.table(SPOT_DAY, 0.2)
    side = overpass.GROUND // 5
    mixed = (lit.mixing() @ table).T.reshape(-1, side, side)
    for band in (3, 7, spectra.PAN):
        drawn = sensor.aggregate(lit.draw(table, band), 5)
        np.testing.assert_allclose(mixed[band], drawn, rtol=1e-4, atol=1e-6)


def test_spot_shows_the_truth_displaced_and_distorted(observed):
    _, spot, truth = observed
    # SPOT begins 24 m inside the ground, the truth 20 m
    shift = np.round(np.array(spot.shift) / 0.5).astype(int)
    sharp = np.repeat(np.repeat(spot.ps / 1e4, 3, axis=1), 3, axis=2)
    fine = np.repeat(np.repeat(truth.reflectance, 5, axis=1), 5, axis=2)
    inner = slice(100, 1200)
    moved = slice(100 - 8 + shift[0], 1200 - 8 + shift[0])
    across = slice(100 - 8 + shift[1], 1200 - 8 + shift[1])
    for band in range(3):
        seen = sensor.aggregate(sharp[band, moved, across], 20)
        known = sensor.aggregate(fine[band, inner, inner], 20)
        slope, offset = np.polyfit(known.ravel(), seen.ravel(), 1)
        assert np.corrcoef(known.ravel(), seen.ravel())[0, 1] > 0.97
        assert slope == pytest.approx(spot.gain[band], rel=0.15)
        assert offset == pytest.approx(spot.offset[band], abs=0.02)


def test_sentinel2_shows_the_ground_where_it_is_clear(observed):
    passes, _, truth = observed
    near = min((p for p in passes if p.cloud.mean() < 0.5), key=lambda p: abs(p.day - SPOT_DAY))
    known = sensor.aggregate(truth.reflectance, 4)
    red, nir = near.bands[3], near.bands[7]
    seen_index, index = (nir - red) / (nir + red), (known[3] - known[0]) / (known[3] + known[0])
    clear = near.cloud == 0
    assert np.corrcoef(seen_index[clear], index[clear])[0, 1] > 0.8
    assert {p.bands.shape for p in passes} == {(12, 68, 68)}
    # coarser bands repeat their pixels
    b11 = near.bands[10]
    np.testing.assert_array_equal(b11[::2, ::2], b11[1::2, 1::2])


def test_clouds_are_bright_and_marked(observed):
    cloudy, shade = overpass._clouds(np.random.default_rng(8), 288)
    assert cloudy.shape == shade.shape == (288, 288)
    assert (cloudy >= 0).all() and (cloudy <= 1).all()
    for seen in observed[0]:
        blue = seen.bands[1]
        bright = blue > 0.35
        if bright.sum() > 30:
            assert (seen.cloud[bright] == 1).mean() > 0.5


def test_simulated_places_are_read_like_real_ones(folder):
    opened = archive.Archive(folder)
    assert [place.split for place in opened.places.values()] == ["train", "test"]
    assert len({place.site for place in opened.places.values()}) == 2
    assert opened.defects == []
    for name in opened.places:
        raw, defects = opened.read(name)
        assert defects == []
        assert raw.spot.shape == (4, 448, 448)
        assert len(raw.revisits) == places.REVISITS
        assert all(abs(revisit.days) < 45 for revisit in raw.revisits)
        with np.load(folder / "truth" / f"{name}.npz") as truth:
            assert truth["cover"].max() < len(truth["classes"])
            assert truth["reflectance"].shape == (4, 272, 272)
            assert truth["leaf_area"].max() > 1


def test_the_seed_decides(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "SIZES", {"one": (1, 0)})
    again = simulate.simulate(tmp_path / "again", seed=3, size="one", progress=False)
    for file in sorted((folder / "hr_dataset" / "Simulated-0000").iterdir()):
        assert file.read_bytes() == (again / file.relative_to(folder)).read_bytes()
    truth = np.load(folder / "truth" / "Simulated-0000.npz")["cover"]
    other = simulate.simulate(tmp_path / "other", seed=4, size="one", progress=False)
    assert (np.load(other / "truth" / "Simulated-0000.npz")["cover"] != truth).mean() > 0.2


def test_chips_of_simulated_places_hold_the_truth(folder):
    opened = archive.Archive(folder)
    for name in opened.places:
        raw, _ = opened.read(name)
        (chip,), defects = chips.make(raw)
        assert not any(d.dropped for d in defects)
        assert chip.registered and chip.correlation > 0.8
        with np.load(folder / "truth" / f"{name}.npz") as truth:
            known = truth["reflectance"][:, 8:-8, 8:-8] / 1e4
            displaced = truth["spot_shift"] / 2.5 - 4 * truth["shifts"].mean(axis=0)
        # against the mean of all revisits; the composite takes the few nearest clear ones
        assert np.abs(chip.shift - displaced).max() < 2
        for band in range(4):
            seen = sensor.aggregate(np.where(chip.valid, chip.target[band], np.nan), 16)
            truth_seen = sensor.aggregate(np.where(chip.valid, known[band], np.nan), 16)
            both = np.isfinite(seen) & np.isfinite(truth_seen)
            assert np.corrcoef(seen[both], truth_seen[both])[0, 1] > 0.9
            assert seen[both].mean() == pytest.approx(truth_seen[both].mean(), rel=0.2, abs=0.02)


def test_truth_is_displaced_as_the_target_is(folder):
    raw, _ = archive.Archive(folder).read("Simulated-0000")
    (chip,), _ = chips.make(raw)
    file = folder / "truth" / "Simulated-0000.npz"
    with np.load(file) as stored:
        spot_shift = tuple(stored["spot_shift"] / 2.5)
        still = stored["reflectance"][:, 8:264, 8:264] / 1e4
    same = simulate.read_truth(file, 2, 2, spot_shift)
    np.testing.assert_allclose(same.reflectance, still, atol=1e-6)
    near = simulate.read_truth(file, chip.row, chip.col, chip.shift)
    assert near.cover.shape == near.leaf_area.shape == (256, 256)

    def apart(other):
        inner = np.s_[16:-16, 16:-16]
        known = chip.valid[inner]
        pairs = zip(chip.target, other, strict=True)
        return np.mean([np.corrcoef(a[inner][known], b[inner][known])[0, 1] for a, b in pairs])

    # the target agrees best with the truth that is displaced by what was found
    best = apart(near.reflectance)
    for wrong in ((2.0, 0.0), (-2.0, 0.0), (0.0, 2.0), (0.0, -2.0)):
        shift = (chip.shift[0] + wrong[0], chip.shift[1] + wrong[1])
        assert apart(simulate.read_truth(file, chip.row, chip.col, shift).reflectance) < best


def test_truth_that_is_none(folder, tmp_path):
    with pytest.raises(DataError, match="missing or no truth"):
        simulate.read_truth(tmp_path / "none.npz", 0, 0, (0, 0))
    with pytest.raises(DataError, match="leaves the place"):
        simulate.read_truth(folder / "truth" / "Simulated-0000.npz", 10, 0, (0, 0))
