"""Reading scenes: what is understood, what is masked and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from acdc.errors import DataError
from acdc.tracks.lst import products, registration, scenes
from acdc.tracks.lst.scenes import Scene

MODIS = "+proj=sinu +lon_0=0 +x_0=0 +y_0=0 +R=6371007.181 +units=m +no_defs"


def made_up(name="a", group="g", side=16, seed=0):
    """A scene in which it is 15 K warmer where nothing grows, plus noise."""
    random = np.random.default_rng(seed)
    ndvi = ndimage.gaussian_filter(random.standard_normal((4 * side, 4 * side)), 1.5)
    ndvi = 0.5 + 0.15 * ndvi / ndvi.std()
    fine = 310 - 15 * ndvi + random.normal(0, 0.3, ndvi.shape)
    coarse = np.sqrt(np.sqrt((fine**4).reshape(side, 4, side, 4).mean(axis=(1, 3))))
    return Scene(name, group, coarse, np.clip(ndvi, -1, 1), fine, 1000.0)


@pytest.fixture
def scene():
    return made_up()


def test_clouds_fires_and_fill_values_are_masked(scene):
    lst, reference, ndvi = (f.copy() for f in (scene.lst, scene.reference, scene.ndvi))
    lst[0, :3] = [0, -9999, 402.12]
    reference[5, :2] = [335.1, 0.0]
    ndvi[7, :2] = [-3000, 1.5]
    cleaned = scenes.clean(replace(scene, lst=lst, reference=reference, ndvi=ndvi))
    assert np.isnan(cleaned.lst[0, :3]).all() and np.isfinite(cleaned.lst).sum() == 16 * 16 - 3
    assert np.isnan(cleaned.reference[5, :2]).all() and np.isnan(cleaned.ndvi[7, :2]).all()
    assert np.nanmax(cleaned.lst) <= 335


def test_a_wholly_unknown_reference_is_none(scene):
    nothing = np.full_like(scene.reference, np.nan)
    assert scenes.clean(replace(scene, reference=nothing)).reference is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lst": lambda s: s.lst - 273.15}, r"scene a: lst has a median of .*Celsius.*273.15"),
        ({"reference": lambda s: s.reference - 273.15}, "reference has a median.*Celsius"),
        ({"lst": lambda s: s.lst * 50}, "raw counts.*0.02"),
        ({"ndvi": lambda s: s.ndvi * 10_000}, r"ndvi reaches \d+.*0.0001"),
        ({"ndvi": lambda s: s.ndvi[:32, :32]}, r"ndvi has the shape \(32, 32\), expected \(64, 64"),
        ({"reference": lambda s: s.reference[1:]}, r"reference has the shape \(63, 64\)"),
        ({"lst": lambda s: s.lst[:15]}, "multiples of 4"),
        ({"lst": lambda s: np.where(np.arange(16) < 13, np.nan, s.lst)}, "only 19% of lst"),
        ({"lst": lambda s: np.zeros((16, 16))}, "only 0% of lst"),
        ({"ndvi": lambda s: np.full((64, 64), np.nan)}, "only 0% of ndvi"),
    ],
)
def test_misunderstandings_are_named(scene, change, message):
    changed = replace(scene, **{name: make(scene) for name, make in change.items()})
    with pytest.raises(DataError, match=message):
        scenes.clean(changed)


def test_celsius_with_fill_values_is_still_celsius(scene):
    lst = scene.lst - 273.15
    lst[:4] = -9999
    with pytest.raises(DataError, match="Celsius"):
        scenes.clean(replace(scene, lst=lst))


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 2), (3, -1), (-2, 3)])
@pytest.mark.parametrize("with_reference", [True, False])
def test_shifted_ndvi_is_named_and_moved_back(shift, with_reference):
    raw = [made_up(str(i), side=32, seed=i) for i in range(5)]
    if not with_reference:
        raw = [replace(s, reference=None) for s in raw]
    moved = [replace(s, ndvi=np.roll(s.ndvi, shift, (0, 1))) for s in raw]
    shifts = registration.audit(moved)
    assert shifts.distinct.all() and (shifts.off == "ndvi").all()
    np.testing.assert_allclose(shifts[["row", "col"]], np.tile(shift, (5, 1)), atol=0.6)
    if shift == (0, 0):
        registration.refuse_shifted(shifts)
        return
    with pytest.raises(DataError, match=r"NDVI is off the grid.*\(-?\d\.\d, -?\d\.\d\)"):
        registration.refuse_shifted(shifts)
    back = registration.register(moved, shifts)
    for one, other in zip(back, raw, strict=True):
        known = np.isfinite(one.ndvi)
        assert known.mean() > 0.9
        np.testing.assert_array_equal(one.ndvi[known], other.ndvi[known])


def test_a_shifted_reference_is_told_from_shifted_ndvi():
    raw = [made_up(str(i), side=32, seed=i) for i in range(3)]
    moved = [replace(s, reference=np.roll(s.reference, (2, 1), (0, 1))) for s in raw]
    shifts = registration.audit(moved)
    with pytest.raises(DataError, match=r"the reference is off .* shifted by \(2\.\d, 1\.\d\)"):
        registration.refuse_shifted(shifts)
    back = registration.register(moved, shifts)
    assert np.nanmax(np.abs(back[0].reference - raw[0].reference)) == 0


def test_one_shifted_scene_is_named():
    raw = [made_up(str(i), side=32, seed=i) for i in range(5)]
    raw[3] = replace(raw[3], ndvi=np.roll(raw[3].ndvi, 3, 1))
    with pytest.raises(DataError, match=r"in 1 of 5 scenes.*: 3 by \(-?0\.\d, [23]\.\d\)"):
        registration.refuse_shifted(registration.audit(raw))


def test_ndvi_that_tells_nothing_is_not_judged(scene):
    random = np.random.default_rng(3)
    blind = replace(scene, ndvi=random.uniform(0, 1, scene.ndvi.shape))
    shifts = registration.audit([blind])
    assert not shifts.distinct.any()
    registration.refuse_shifted(shifts)


def test_npz_comes_back(tmp_path):
    raw = [made_up("a", "x"), made_up("b", "y", seed=1)]
    scenes.write_npz(tmp_path / "scenes.npz", raw)
    assert [file.name for file in tmp_path.iterdir()] == ["scenes.npz"]
    back = scenes.read(tmp_path / "scenes.npz")
    assert [(s.name, s.group, s.pixel_size) for s in back] == [("a", "x", 1000), ("b", "y", 1000)]
    for one, other in zip(back, raw, strict=True):
        np.testing.assert_allclose(one.lst, other.lst, rtol=1e-6)
        np.testing.assert_allclose(one.reference, other.reference, rtol=1e-6)


def test_broken_files_are_named(tmp_path):
    with pytest.raises(DataError, match="missing"):
        scenes.read(tmp_path / "none.npz")
    file = tmp_path / "broken.npz"
    file.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="damaged"):
        scenes.read(file)
    s = made_up()
    np.savez(file, lst=[s.lst], group=["a"])
    with pytest.raises(DataError, match="needs arrays lst and ndvi, it holds lst, group"):
        scenes.read(file)
    np.savez(file, lst=[s.lst], ndvi=[s.ndvi])
    with pytest.raises(DataError, match="no array group"):
        scenes.read(file)
    np.savez(file, lst=[s.lst], ndvi=[s.ndvi], group=["a", "b"])
    with pytest.raises(DataError, match="differ in their number of scenes"):
        scenes.read(file)
    np.savez(file, lst=np.array([None]), ndvi=[s.ndvi], group=["a"])
    with pytest.raises(DataError, match=r"damaged or no \.npz file of plain arrays"):
        scenes.read(file)


def write_tif(file, values, origin, pixel, crs=MODIS, nodata=None, dtype="float32"):
    import rasterio
    from rasterio.transform import from_origin

    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=dtype,
        crs=crs,
        transform=from_origin(*origin, pixel, pixel),
        nodata=nodata,
    ) as raster:
        raster.write(values.astype(dtype), 1)


def write_scene(folder, scene, origin, shift=0.0):
    write_tif(folder / f"{scene.name}_lst.tif", scene.lst, origin, 1000)
    moved = origin[0] + 250 * shift, origin[1]
    write_tif(folder / f"{scene.name}_ndvi.tif", scene.ndvi, moved, 250)
    reference = np.where(np.isnan(scene.reference), -9999, scene.reference)
    write_tif(folder / f"{scene.name}_reference.tif", reference, origin, 250, nodata=-9999)


def test_a_folder_of_geotiffs(tmp_path):
    one, other, far = (made_up(n, side=64, seed=i) for i, n in enumerate("abc"))
    one.reference[:5] = np.nan
    write_scene(tmp_path, one, (3e5, 5.1e6))
    write_scene(tmp_path, other, (3.5e5, 5.1e6))
    write_scene(tmp_path, far, (9e5, 5.1e6))
    (tmp_path / "c_reference.tif").unlink()
    read = scenes.read(tmp_path)
    assert [s.name for s in read] == ["a", "b", "c"]
    assert read[0].group == read[1].group != read[2].group
    assert read[2].reference is None and read[0].pixel_size == 1000
    np.testing.assert_allclose(read[0].lst, one.lst, rtol=1e-6)
    assert np.isnan(read[0].reference[:5]).all()
    (tmp_path / "groups.csv").write_text("scene,group\na,x\nb,y\n")
    with pytest.raises(DataError, match="gives no group for c"):
        scenes.read(tmp_path)


def test_grids_of_degrees_have_pixels_of_metres(tmp_path):
    scene, step = made_up("a", side=64), 1 / 108
    for what, pixel in (("lst", step), ("ndvi", step / 4), ("reference", step / 4)):
        write_tif(tmp_path / f"a_{what}.tif", getattr(scene, what), (10, 45), pixel, "EPSG:4326")
    (read,) = scenes.read(tmp_path)
    assert read.pixel_size == pytest.approx(1029.6, abs=0.1)


def test_large_rasters_are_cut(tmp_path):
    scene = made_up("big", side=132)
    scene.lst[:64, :64] = np.nan
    write_scene(tmp_path, scene, (3e5, 5.1e6))
    read = scenes.read(tmp_path)
    assert [s.name for s in read] == ["big_0_1", "big_1_0", "big_1_1"]
    assert len({s.group for s in read}) == 1
    np.testing.assert_allclose(read[0].ndvi, scene.ndvi[:256, 256:512], rtol=1e-6)
    with pytest.raises(DataError, match="has 16 x 16 LST pixels, expected at least 64 x 64"):
        list(scenes.cut(made_up("small")))


def test_grids_that_do_not_nest_are_named(tmp_path):
    scene = made_up("a", side=64)
    write_scene(tmp_path, scene, (3e5, 5.1e6), shift=2)
    with pytest.raises(DataError, match=r"off the grid of its lst by \(0.00, 2.00\) of its pixels"):
        scenes.read(tmp_path)
    write_scene(tmp_path, scene, (3e5, 5.1e6))
    write_tif(tmp_path / "a_ndvi.tif", scene.ndvi, (3e5, 5.1e6), 240)
    with pytest.raises(DataError, match=r"pixels of 240\.00 x 240\.00, expected 250\.00"):
        scenes.read(tmp_path)
    write_tif(tmp_path / "a_ndvi.tif", scene.ndvi, (3e5, 5.1e6), 250, crs="EPSG:32633")
    with pytest.raises(DataError, match="reproject it"):
        scenes.read(tmp_path)
    (tmp_path / "a_ndvi.tif").unlink()
    with pytest.raises(DataError, match=r"a_ndvi\.tif is missing"):
        scenes.read(tmp_path)
    with pytest.raises(DataError, match="holds no file"):
        scenes.read(tmp_path.parent / tmp_path.name / "..")


def test_groups_share_no_ground():
    bounds = {"a": (0, 0, 2, 2), "b": (1, 1, 3, 3), "c": (2.5, 2.5, 4, 4), "d": (4, 0, 5, 1)}
    groups = scenes.overlapping(bounds)
    assert groups["a"] == groups["b"] == groups["c"] != groups["d"]
    with pytest.raises(DataError, match="place of x is unknown"):
        scenes.overlapping({"x": (np.nan,) * 4})


@pytest.fixture
def product_folder(tmp_path):
    """Layers of products as GeoTIFF, on a small sinusoidal tile, ASTER in UTM."""
    from rasterio.warp import transform

    pixel, side = 926.625433, 120
    origin = (4e5, 5.2e6)
    random = np.random.default_rng(0)
    ndvi = ndimage.gaussian_filter(random.standard_normal((4 * side, 4 * side)), 2)
    ndvi = 0.5 + 0.15 * ndvi / ndvi.std()
    fine = 310 - 15 * ndvi
    lst = np.sqrt(np.sqrt((fine**4).reshape(side, 4, side, 4).mean(axis=(1, 3))))
    counts = np.round(lst / 0.02)
    counts[60, 60] = 0
    stored = np.round(ndvi * 10_000)
    stored[250, 250] = -3000
    layer = "MOD11A1.A2019182.h18v04.061.2020001000000.LST_Day_1km.tif"
    write_tif(tmp_path / layer, counts, origin, pixel, dtype="uint16")
    layer = "MOD13Q1.A2019177.h18v04.061.2020001000000.250m_16_days_NDVI.tif"
    write_tif(tmp_path / layer, stored, origin, pixel / 4, dtype="int16")
    centre = origin[0] + side / 2 * pixel, origin[1] - side / 2 * pixel
    (x,), (y,) = transform(MODIS, "EPSG:32632", [centre[0]], [centre[1]])
    n = 670
    xs, ys = np.meshgrid(x + (np.arange(n) - n / 2) * 90, y - (np.arange(n) - n / 2) * 90)
    east, north = (
        np.array(v).reshape(n, n) for v in transform("EPSG:32632", MODIS, xs.ravel(), ys.ravel())
    )
    row, col = (origin[1] - north) / (pixel / 4) - 0.5, (east - origin[0]) / (pixel / 4) - 0.5
    seen = ndimage.map_coordinates(fine, [row, col], order=1, mode="nearest")
    kinetic = np.round(seen / 0.1)
    kinetic[:20] = 0
    layer = "AST_08_00307012019104530_20200101000000_1234.KineticTemperature.tif"
    corner = x - (n / 2 + 0.5) * 90, y + (n / 2 + 0.5) * 90
    write_tif(tmp_path / layer, kinetic, corner, 90, crs="EPSG:32632", dtype="uint16")
    return tmp_path, fine, lst


def test_scenes_are_cut_out_of_products(product_folder):
    folder, fine, lst = product_folder
    (scene,) = products.read(folder)
    assert scene.lst.shape == (64, 64) and scene.pixel_size == pytest.approx(926.625433)
    first = next(
        (i, j)
        for i in range(20, 36)
        for j in range(20, 36)
        if abs(np.nanmean(np.abs(lst[i : i + 64, j : j + 64] - scene.lst))) < 0.02
    )
    i, j = first
    assert np.isnan(scene.lst[60 - i, 60 - j]) and np.isfinite(scene.lst).sum() == 64 * 64 - 1
    expected = fine[4 * i : 4 * i + 256, 4 * j : 4 * j + 256]
    known = np.isfinite(scene.reference)
    assert 0.8 < known.mean() < 1
    # ASTER's 90 m pixels, resampled and averaged, see the same field a little blurred
    assert np.std((scene.reference - expected)[known]) < 0.25 * np.std(expected)
    assert registration.estimate_shift(scene.reference, scene.ndvi).size < 0.3


def test_missing_partners_are_named(product_folder):
    folder, _, _ = product_folder
    (lst,) = folder.glob("MOD11A1*")
    lst.rename(folder / lst.name.replace("2019182", "2019183"))
    with pytest.raises(DataError, match="no AST_08 image lies on a MOD11A1 file of the same day"):
        products.read(folder)
    next(folder.glob("MOD13Q1*")).unlink()
    with pytest.raises(DataError, match="holds no MOD13Q1; expected names like"):
        products.read(folder)


def test_hdf4_without_a_driver_says_what_to_do(product_folder):
    import rasterio

    with rasterio.Env() as environment:
        if "HDF4" in environment.drivers():
            pytest.skip("this GDAL reads HDF4")
    folder, _, _ = product_folder
    next(folder.glob("MOD11A1*")).unlink()
    (folder / "MOD11A1.A2019182.h18v04.061.hdf").write_bytes(b"\x0e\x03\x13\x01")
    with pytest.raises(DataError, match=r"HDF4, which GDAL .* can't read.*LST_Day_1km.tif"):
        products.read(folder)


def test_appeears_names_are_understood(product_folder):
    folder, _, _ = product_folder
    for kind, name in (
        ("MOD11A1", "MOD11A1.061_LST_Day_1km_doy2019182000000_aid0001.tif"),
        ("MOD13Q1", "MOD13Q1.061__250m_16_days_NDVI_doy2019177000000_aid0001.tif"),
    ):
        next(folder.glob(f"{kind}*")).rename(folder / name)
    assert len(products.read(folder)) == 1
    (folder / "MOD11A1.061_QC_Day_doy2019182_aid0001.tif").write_bytes(b"")
    assert len(products.find(folder)["MOD11A1"]) == 1


def test_the_real_scenes_lie_on_their_grids(real):
    raw = scenes.read(real / "lst" / "modis_aster.npz")
    assert len(raw) == 42 and len({s.group for s in raw}) == 14
    hot = next(s for s in raw if s.name == "15")
    assert np.nanmax(hot.lst) <= 335 and np.isnan(hot.lst).any()
    registration.refuse_shifted(registration.audit(raw[::3]))
    moved = [replace(s, ndvi=np.roll(s.ndvi, (2, 1), (0, 1))) for s in raw[:4]]
    with pytest.raises(DataError, match=r"NDVI is off .* by \([12]\.\d, [01]\.\d\)"):
        registration.refuse_shifted(registration.audit(moved))
