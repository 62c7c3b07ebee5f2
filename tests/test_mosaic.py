"""The way from a mosaic and a catalogue to tiles, on small rasters that are drawn here."""

import dataclasses
import json
import shutil

import h5py
import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from shapely.geometry import Polygon, box

from acdc.errors import DataError
from acdc.tracks.craters import blocks as layout
from acdc.tracks.craters import leaks, mosaic, pieces, registration, tiles
from acdc.tracks.craters.projection import (
    MARS_RADIUS,
    Plane,
    geographic,
    to_planetocentric,
)
from acdc.tracks.craters.raster import Raster
from acdc.tracks.craters.units import Units, read_units

EQUIRECTANGULAR = "+proj=eqc +lon_0=180 +R=3396190"
CIRCUMFERENCE = 2 * np.pi * MARS_RADIUS


def write_raster(path, values, crs, transform, **profile):
    options = {"driver": "GTiff", "dtype": values.dtype, "nodata": 0, "blockysize": 1} | profile
    rows, cols = values.shape[-2:]
    with rasterio.open(
        path,
        "w",
        height=rows,
        width=cols,
        count=1 if values.ndim == 2 else len(values),
        crs=crs,
        transform=transform,
        **options,
    ) as file:
        file.write(values if values.ndim == 3 else values[None])
    return path


def waves(lon, lat, pixel):
    """A pattern that is smooth on the whole planet, with waves of 24 pixels."""
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    k = 2 * np.pi * MARS_RADIUS / (24 * pixel)
    x, y, z = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    return 128 + 40 * (np.sin(k * x) + np.sin(k * y + 1) + np.sin(k * z + 2))


PIXEL = CIRCUMFERENCE / 1000
AROUND = (500, 1000), (PIXEL, -CIRCUMFERENCE / 2, CIRCUMFERENCE / 4)
DEGREES = (500, 1000), (0.36, -180, 90)
LOCAL = (400, 400), (PIXEL, -200 * PIXEL, 200 * PIXEL)


@pytest.mark.parametrize(
    ("crs", "grid", "points"),
    [
        (EQUIRECTANGULAR, AROUND, [(180, 0), (0.2, 10), (90, 84), (0, 90), (30, -88)]),
        ("IAU_2015:49900", DEGREES, [(180, 0), (179.9, -45), (20, 89)]),
        ("+proj=longlat +R=3396190", ((500, 1000), (0.36, 0, 90)), [(180, 0), (0, 50)]),
        ("IAU_2015:49912", AROUND, [(0, 45), (20, -70)]),
        ("+proj=eqc +a=3396190 +b=3376200", AROUND, [(0, 45)]),
        ("IAU_2015:49930", LOCAL, [(0, 90), (45, 75)]),
        ("+proj=lcc +lat_1=20 +lat_2=40 +lat_0=30 +lon_0=100 +R=3396190", LOCAL, [(100, 30)]),
        ("+proj=sinu +lon_0=-60 +R=3396190", LOCAL, [(-60, 5)]),
    ],
)
def test_any_projection_is_seen_where_it_is(tmp_path, crs, grid, points):
    (rows, cols), (step, left, top) = grid
    transform = rasterio.Affine(step, 0, left, 0, -step, top)
    system = pyproj.CRS.from_user_input(crs)
    a, b = system.ellipsoid.semi_major_metre, system.ellipsoid.semi_minor_metre
    y, x = np.mgrid[:rows, :cols] + 0.5
    x, y = left + step * x, top - step * y
    to_degrees = pyproj.Transformer.from_crs(system, geographic(a, b), always_xy=True)
    lon, lat = to_degrees.transform(x, y)
    values = waves(lon, to_planetocentric(lat, a, b), PIXEL)
    values = np.where(np.isfinite(values), np.rint(values), 0).astype(np.uint8)
    path = write_raster(tmp_path / "m.tif", values, crs, transform)
    with Raster(path) as raster:
        for at in points:
            plane = Plane.centred(*at, PIXEL, raster.ellipsoid).moved(-45, -45)
            image, valid = raster.view(plane).read(0, 0, 90, 90)
            assert valid.mean() > 0.999, at
            lon, lat = plane.pixel_to_point(*np.mgrid[:90, :90])
            difference = image - waves(lon, lat, PIXEL)
            # a shift by a tenth of a pixel would be an error of 1.3; averaging dampens the waves
            amplitude = np.std(waves(lon, lat, PIXEL))
            assert np.sqrt(np.mean(difference**2)) < 0.08 * amplitude, at
            for shift in (-1, 1):
                for axis in (0, 1):
                    moved = np.roll(image, shift, axis)[2:-2, 2:-2].astype(float)
                    worse = np.std(moved - waves(lon, lat, PIXEL)[2:-2, 2:-2])
                    assert worse > 2 * np.std(difference)


def flat_mosaic(tmp_path, values, **profile):
    """A mosaic around the equator at 100 m per pixel."""
    left = -values.shape[-1] * 50.0
    transform = rasterio.Affine(100, 0, left, 0, -100, values.shape[-2] * 50.0)
    return write_raster(tmp_path / "flat.tif", values, "+proj=eqc +R=3396190", transform, **profile)


def test_averages_are_over_pixels_with_data(tmp_path):
    values = np.full((400, 400), 200, dtype=np.uint8)
    values[100:140, 50:90] = 0
    values[::7, ::5] = 0
    with Raster(flat_mosaic(tmp_path, values)) as raster:
        plane = Plane.centred(0, 0, 400.0, raster.ellipsoid).moved(-50, -50)
        image, valid = raster.view(plane).read(0, 0, 100, 100)
    assert set(np.unique(image[valid])) == {200}
    assert not image[~valid].any()
    assert not valid[26:34, 14:21].any()
    assert valid.mean() > 0.9


def test_downsampling_is_an_area_average(tmp_path):
    values = np.random.default_rng(0).integers(1, 255, (400, 400), dtype=np.uint8)
    with Raster(flat_mosaic(tmp_path, values)) as raster:
        plane = Plane.centred(0, 0, 400.0, raster.ellipsoid).moved(-50, -50)
        image, _ = raster.view(plane).read(0, 0, 100, 100)
    expected = values.reshape(100, 4, 100, 4).mean(axis=(1, 3))
    assert np.abs(image - expected)[2:-2, 2:-2].max() < 2


def test_a_mask_band_and_a_given_nodata_value_count(tmp_path):
    values = np.full((2, 300, 300), 90, dtype=np.uint8)
    values[1] = 255
    values[0, :, :100] = 0
    values[1, :, 200:] = 0
    path = flat_mosaic(
        tmp_path, values, nodata=None, photometric="minisblack", alpha="yes", interleave="pixel"
    )
    for nodata, columns in ((None, slice(0, 200)), (0, slice(100, 300))):
        with Raster(path, nodata) as raster:
            plane = Plane.centred(0, 0, 100.0, raster.ellipsoid).moved(-150, -150)
            _, valid = raster.view(plane).read(0, 0, 300, 300)
        expected = np.zeros((300, 300), dtype=bool)
        expected[:, columns] = True
        assert (valid == expected)[:, 2:-2].mean() > 0.98


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": None}, "no coordinate system"),
        ({"crs": "IAU_2015:30100"}, "the Moon"),
        ({"crs": "EPSG:4326"}, "Earth"),
        ({"dtype": np.uint16}, "uint16.*gdal_translate"),
        ({"bands": 3}, "3 bands"),
        ({"transform": rasterio.Affine.identity()}, "no georeference"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_impossible_mosaics_are_refused(tmp_path, change, message):
    shape = (50, 50) if "bands" not in change else (change["bands"], 50, 50)
    values = np.ones(shape, dtype=change.get("dtype", np.uint8))
    path = write_raster(
        tmp_path / "m.tif",
        values,
        change.get("crs", EQUIRECTANGULAR),
        change.get("transform", rasterio.Affine(100, 0, 0, 0, -100, 0)),
    )
    with pytest.raises(DataError, match=message) as caught:
        Raster(path)
    assert "m.tif" in str(caught.value)


def test_missing_unreadable_and_truncated_mosaics_are_named(tmp_path):
    with pytest.raises(DataError, match="no such mosaic"):
        Raster(tmp_path / "absent.tif")
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    with pytest.raises(DataError, match=r"text\.tif is no raster"):
        Raster(text)
    values = np.random.default_rng(0).integers(1, 255, (600, 600), dtype=np.uint8)
    path = flat_mosaic(tmp_path, values)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"flat\.tif is cut short"):
        Raster(path)
    path = flat_mosaic(tmp_path, values, compress="deflate")
    content = bytearray(path.read_bytes())
    content[100_000:101_000] = bytes(1000)
    path.write_bytes(content)
    with Raster(path) as raster:
        plane = Plane.centred(0, 0, 100.0, raster.ellipsoid).moved(-300, -300)
        with pytest.raises(DataError, match="damaged or cut short"):
            raster.view(plane).read(0, 0, 600, 600)


def test_footprints_cross_the_meridian_where_longitudes_begin_anew(tmp_path):
    transform = rasterio.Affine(0.1, 0, 170, 0, -0.1, 20)
    values = np.ones((100, 200), dtype=np.uint8)
    path = write_raster(tmp_path / "m.tif", values, "IAU_2015:49900", transform)
    with Raster(path) as raster:
        assert raster.footprint() == pytest.approx((170, 10, 190, 20))
        assert raster.pixel_size == pytest.approx(0.1 * np.pi / 180 * MARS_RADIUS, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(100, 4000),
    height=st.integers(100, 4000),
    n=st.integers(1, 7),
    levels=st.integers(1, 4),
    lean=st.floats(0, 150),
)
def test_blocks_lie_inside_and_apart(width, height, n, levels, lean):
    area = Polygon([(lean, 0), (width, 0), (width - lean, height), (0, height)])
    found = layout.lay_blocks(area, n, levels)
    length = layout.side(n)
    inner = area.buffer(-layout.BUFFER / 2 + 1e-6, join_style="mitre")
    for row, col in found:
        assert inner.contains(box(col, row, col + length, row + length))
        assert row % 2 ** (levels - 1) == col % 2 ** (levels - 1) == 0
    for i, one in enumerate(found):
        for other in found[:i]:
            apart = max(abs(one[0] - other[0]), abs(one[1] - other[1])) - length
            assert apart >= layout.BUFFER
    if min(width, height) - 2 * lean > length + layout.BUFFER + 40:
        assert found


@pytest.mark.parametrize("n", [1, 3, 7, 15])
def test_tiles_stay_inside_their_block_at_every_level(n):
    found = layout.tiles_of_block(160, 320, n, 4)
    length = layout.side(n)
    for level, row, col in found:
        for start, first in ((row, 160), (col, 320)):
            assert first <= start * 2**level
            assert (start + tiles.TILE) * 2**level <= first + length
    assert (found[:, 0] == 0).sum() == n * n
    assert len(np.unique(found, axis=0)) == len(found)
    if n == 3:
        assert found[found[:, 0] == 1].tolist() == [[1, 80 + 28, 160 + 28]]


def test_larger_quadrangles_get_larger_blocks():
    def chosen(side):
        return layout.choose_block_tiles([box(0, 0, side, side)], 3)

    assert [chosen(side) for side in (260, 600, 2400, 5928)] == [1, 3, 3, 7]


def test_a_grid_covers_the_planet_without_overlap(tmp_path):
    found = layout.grid((-180, -90, 180, 90), 10)
    assert all(q.lat_max - q.lat_min <= 10 for q in found)
    area = sum(
        (q.lon_max - q.lon_min) * (np.sin(np.deg2rad(q.lat_max)) - np.sin(np.deg2rad(q.lat_min)))
        for q in found
    )
    assert area == pytest.approx(720)
    table = pd.DataFrame([dataclasses.asdict(q) for q in found])
    table.to_csv(tmp_path / "grid.csv", index=False)
    assert len(layout.read_quadrangles(tmp_path / "grid.csv")) == len(found)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,0,10,10,5", "row 2: latitudes 10.0 to 5.0"),
        ("a,0,0,10,95", "row 2: latitudes"),
        ("a,0,0,ten,5", "row 2.*no numbers"),
        ("a,0,0,10,5\na,20,0,30,5", "names a stand more than once"),
        ("a,0,0,10,5\nb,9,4,30,8", "a and b overlap"),
        ("a,350,0,10,5\nb,0,0,20,5", "a and b overlap"),
        ("", "has no rows"),
    ],
)
def test_impossible_quadrangles_are_refused(tmp_path, rows, message):
    path = tmp_path / "q.csv"
    path.write_text(f"name,lon_min,lat_min,lon_max,lat_max\n{rows}\n")
    with pytest.raises(DataError, match=message) as caught:
        layout.read_quadrangles(path)
    assert "q.csv" in str(caught.value)


def test_shrinking_averages_what_has_data():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (16, 24), dtype=np.uint8)
    valid = random.random((16, 24)) < 0.6
    small, found = pieces.shrink(image, valid, 2)
    for i in range(4):
        for j in range(6):
            part = (slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
            assert found[i, j] == (valid[part].mean() >= 0.5)
            if found[i, j]:
                assert abs(small[i, j] - image[part][valid[part]].mean()) <= 0.5 + 1e-9


def test_circles_touch_tiles_as_by_brute_force():
    random = np.random.default_rng(1)
    circles = np.column_stack([random.uniform(-200, 1400, (200, 2)), random.uniform(1, 120, 200)])
    craters = pd.DataFrame(
        {"crater_id": [f"{i}" for i in range(200)], "kind": 0, "degradation": np.nan, "ejecta": ""}
    ).assign(flag=(random.random(200) < 0.1).astype(int))
    table = pd.DataFrame(layout.tiles_of_block(0, 0, 7, 3), columns=["level", "row0", "col0"])
    placed = pieces.place_circles(circles, craters, table)
    for number in (0, 5, 24, 48, 50, len(table) - 1):
        level, row0, col0 = table.iloc[number]
        square = box(col0 - 0.5, row0 - 0.5, col0 + 223.5, row0 + 223.5)
        scale = 2**level
        expected = {}
        for i, (row, col, radius) in enumerate(circles):
            at = (row + 0.5) / scale - 0.5, (col + 0.5) / scale - 0.5, radius / scale
            from_tile = square.distance(Polygon([(at[1], at[0])] * 3).centroid)
            if from_tile < at[2]:
                home = 0 if radius <= 28 else 1 if radius <= 56 else 2 if radius <= 112 else 3
                flag = 1 if craters["flag"][i] else 2 * (home != level)
                expected[f"{i}"] = (at[0] - row0, at[1] - col0, at[2], flag)
        found = placed[placed["tile"] == number].set_index("crater_id")
        assert set(found.index) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(
                found.loc[name, ["row", "col", "radius", "flag"]].astype(float), values
            )


# --- from end to end ---------------------------------------------------------------------------

LON, LAT = (99.0, 103.0), (55.0, 56.6)
HOLE = (101.9, 55.9)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A mosaic far from the equator, where a pixel is 100 by 56 m, with discs for craters."""
    folder = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(0)
    step = np.rad2deg(100 / MARS_RADIUS)
    rows, cols = (int((end - start) / step) for start, end in (LAT, LON))
    lon = LON[0] + (np.arange(cols) + 0.5) * step
    lat = LAT[1] - (np.arange(rows) + 0.5) * step
    # every place looks different, but for a flat ground around the discs
    texture = ndimage.gaussian_filter(random.standard_normal((rows, cols)), 2)
    image = np.clip(60 + 40 * texture / texture.std(), 1, 250).astype(np.uint8)
    craters = []
    geod = pyproj.Geod(a=MARS_RADIUS, b=MARS_RADIUS)
    while len(craters) < 60:
        at = random.uniform(LON[0] + 0.05, LON[1] - 0.05), random.uniform(*LAT)
        radius = float(random.choice([800, 1500, 2500, 4500]))
        others = [geod.inv(*at, *crater[:2])[2] - radius - crater[2] for crater in craters]
        if min(others, default=9e9) < 1200 or abs(at[1] - HOLE[1]) < 0.12 > abs(at[0] - HOLE[0]):
            continue
        craters.append((*at, radius, 1 + len(craters) % 5))
        reach = np.rad2deg((radius + 800) / MARS_RADIUS)
        down = np.flatnonzero(np.abs(lat - at[1]) < reach)
        right = np.flatnonzero(np.abs(lon - at[0]) < reach / np.cos(np.deg2rad(57)))
        if not (len(down) and len(right)):
            continue
        part = np.ix_(down, right)
        grid_lon, grid_lat = np.meshgrid(lon[right], lat[down])
        same = np.full(grid_lon.shape, 1.0)
        distance = geod.inv(grid_lon, grid_lat, at[0] * same, at[1] * same)[2]
        cover = np.clip((radius - distance) / 100 + 0.5, 0, 1)
        disc = (60 + np.rint(140 * cover)).astype(np.uint8)
        image[part] = np.where(distance < radius + 500, disc, image[part])
    hole = np.hypot(*np.meshgrid((lon - HOLE[0]) * 0.56, lat - HOLE[1])) < 0.1
    image[hole] = 0
    craters.append((*HOLE, 2000.0, 1))
    transform = rasterio.Affine(step, 0, LON[0], 0, -step, LAT[1])
    write_raster(folder / "mosaic.tif", image, "+proj=longlat +R=3396190", transform)
    table = pd.DataFrame(craters, columns=["X", "Y", "RADIUS", "TYPE"])
    table.insert(0, "CRATER_ID", [f"c{i}" for i in range(len(table))])
    table.to_csv(folder / "catalogue.csv", index=False)
    (folder / "units.geojson").write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    unit((99, 55, 100, 57), sensor="A", light="day"),
                    unit((100, 55, 103, 57), sensor="B"),
                    unit((90, 50, 110, 60), terrain="plains", region="r1"),
                ],
            }
        )
    )
    (folder / "quadrangles.csv").write_text(
        "name,lon_min,lat_min,lon_max,lat_max,part\n"
        "west,99.0,55.0,101.0,56.6,train\n"
        "east,101.0,55.0,103.0,56.6,test\n"
    )
    return folder


def unit(bounds, **properties):
    ring = [list(point) for point in box(*bounds).exterior.coords]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def prepare(drawn, out, **options):
    options = {"quadrangles": drawn / "quadrangles.csv", "workers": 1, "progress": False} | options
    mosaic.prepare(drawn / "mosaic.tif", drawn / "catalogue.csv", out, **options)
    return out


@pytest.fixture(scope="module")
def prepared(drawn, tmp_path_factory):
    return prepare(drawn, tmp_path_factory.mktemp("out"), units=drawn / "units.geojson")


def contents(folder):
    """All data sets and attributes of a preparation, as bytes."""
    found = {}
    for part in ("train", "test"):
        for name in ("inputs.h5", "targets.h5"):
            with h5py.File(folder / part / name) as file:

                def keep(path, item, of=(part, name)):
                    if isinstance(item, h5py.Dataset):
                        values = item[()]
                        if values.dtype == object:
                            values = values.astype("S")
                        found[*of, path] = values.tobytes()

                file.visititems(keep)
                found[part, name, "attributes"] = sorted(map(str, file.attrs.items()))
    return found


def test_drawn_craters_are_found_round_and_in_their_place(drawn, prepared):
    catalogue = pd.read_csv(drawn / "catalogue.csv").set_index("CRATER_ID")
    measured = 0
    for part in ("train", "test"):
        images, y = tiles.read_images(prepared / part), tiles.read_targets(prepared / part)
        rows, cols = np.mgrid[: tiles.TILE, : tiles.TILE]
        circles = y.circles[(y.circles["flag"] == 0) & (y.circles["radius"] > 7)]
        for circle in circles.itertuples():
            room = circle.radius + 3
            if not (room < min(circle.row, circle.col)) & (
                max(circle.row, circle.col) < 223 - room
            ):
                continue
            near = np.hypot(rows - circle.row, cols - circle.col) < room
            cover = np.where(near, (images[circle.tile].astype(float) - 60) / 140, 0)
            area = cover.sum()
            at = (cover * rows).sum() / area, (cover * cols).sum() / area
            assert np.hypot(at[0] - circle.row, at[1] - circle.col) < 0.1
            assert np.sqrt(area / np.pi) == pytest.approx(circle.radius, rel=0.005)
            # roundness: second moments along rows and columns agree
            spread = [
                (cover * (grid - c) ** 2).sum() for grid, c in zip((rows, cols), at, strict=True)
            ]
            assert spread[0] == pytest.approx(spread[1], rel=0.02)
            size = y.tiles["pixel_size"].iloc[circle.tile] * circle.radius
            assert size == pytest.approx(catalogue.loc[circle.crater_id, "RADIUS"], rel=1e-3)
            measured += 1
    assert measured > 25


def test_kinds_flags_scale_and_units_are_kept(drawn, prepared):
    catalogue = pd.read_csv(drawn / "catalogue.csv").set_index("CRATER_ID")
    for part in ("train", "test"):
        y = tiles.read_targets(prepared / part)
        type_ = catalogue.loc[y.circles["crater_id"].astype(str), "TYPE"].to_numpy()
        assert (y.circles["flag"][type_ == 5] == 1).all()
        assert (y.circles["kind"] == np.where(type_ == 5, 0, type_ - 1)).all()
        level = y.tiles["level"].to_numpy()
        np.testing.assert_allclose(y.tiles["pixel_size"], 100.0 * 2**level, rtol=2e-3)
        full = y.tiles["valid"] == 1
        expected = (168 * y.tiles["pixel_size"] / 1000) ** 2
        np.testing.assert_allclose(y.tiles["window_area"][full], expected[full], rtol=1e-6)
        assert (y.tiles["window_area"][~full] <= expected[~full]).all()
        assert set(y.tiles["terrain"]) == {"plains"}
        assert set(y.tiles["region"]) == {"r1"}
        assert set(y.tiles["sensor"]) <= {"A", "B"}
        assert ((y.tiles["light"] == "day") == (y.tiles["sensor"] == "A")).all()
        assert set(y.tiles["quadrangle"]) == {"west" if part == "train" else "east"}


def test_craters_without_data_are_ignored_and_empty_tiles_dropped(prepared):
    y = tiles.read_targets(prepared / "test")
    in_hole = y.circles[y.circles["crater_id"] == "c60"]
    assert len(in_hole)
    assert (in_hole["flag"] == 1).all()
    assert (y.tiles["valid"] < 1).any()
    assert (y.tiles["valid"] >= 0.5).all()


def test_records_tell_where_the_blocks_are(prepared):
    footprints = json.loads((prepared / "footprints.json").read_text())
    assert set(footprints["sources"]) == {
        "mosaic.tif",
        "catalogue.csv",
        "quadrangles.csv",
        "units.geojson",
    }
    assert all(value.startswith("sha256:") for value in footprints["sources"].values())
    for block in footprints["blocks"]:
        lon, lat = np.transpose(block["corners"])
        west, east = (99.0, 101.0) if block["part"] == "train" else (101.0, 103.0)
        assert west < lon.min() < lon.max() < east
        assert LAT[0] < lat.min() < lat.max() < LAT[1]
    audit = json.loads((prepared / "label_audit.json").read_text())
    assert [entry["quadrangle"] for entry in audit["quadrangles"]] == ["west", "east"]
    assert not (prepared / ".work").exists()


def test_an_interrupted_preparation_goes_on(drawn, prepared, tmp_path, monkeypatch):
    true = pieces.prepare_piece

    def killed_at_the_second(task):
        if task.name == "east":
            raise KeyboardInterrupt
        return true(task)

    units = drawn / "units.geojson"
    with monkeypatch.context() as patch:
        patch.setattr(mosaic, "prepare_piece", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            prepare(drawn, tmp_path, units=units)
    assert not (tmp_path / "train").exists()
    assert len(list((tmp_path / ".work").glob("*.h5"))) == 1

    done = []
    monkeypatch.setattr(mosaic, "prepare_piece", lambda task: done.append(task.name) or true(task))
    prepare(drawn, tmp_path, units=units)
    assert done == ["east"]
    assert contents(tmp_path) == contents(prepared)
    assert not (tmp_path / ".work").exists()


def test_other_input_is_not_mixed_with_unfinished_work(drawn, tmp_path, monkeypatch):
    for name in ("mosaic.tif", "catalogue.csv", "quadrangles.csv"):
        shutil.copy(drawn / name, tmp_path)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(leaks, "audit", lambda folder, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(tmp_path, out)
    catalogue = pd.read_csv(tmp_path / "catalogue.csv")
    catalogue.assign(RADIUS=2 * catalogue["RADIUS"]).to_csv(tmp_path / "catalogue.csv", index=False)
    prepare(tmp_path, out)
    y = tiles.read_targets(out / "train")
    ground = y.circles["radius"] * y.tiles["pixel_size"].to_numpy()[y.circles["tile"]]
    assert ground.max() == pytest.approx(9000, rel=0.01)


@pytest.mark.slow
def test_contents_do_not_depend_on_the_workers(drawn, prepared, tmp_path):
    prepare(drawn, tmp_path, units=drawn / "units.geojson", workers=2)
    assert contents(tmp_path) == contents(prepared)


@pytest.mark.slow
def test_a_cluster_does_the_same(drawn, prepared, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, processes=False, dashboard_address=None, protocol="tcp", host="127.0.0.1"
    ) as cluster:
        address = cluster.scheduler_address
        prepare(drawn, tmp_path, units=drawn / "units.geojson", dask=address)
    assert contents(tmp_path) == contents(prepared)


def test_a_leak_stops_the_preparation(drawn, tmp_path, monkeypatch):
    def found(folder, **options):
        raise DataError("blocks a and b show the same ground")

    monkeypatch.setattr(leaks, "audit", found)
    with pytest.raises(DataError, match="the same ground"):
        prepare(drawn, tmp_path)
    assert not (tmp_path / "train").exists()
    assert not (tmp_path / "test").exists()


def test_a_registered_catalogue_is_displaced(drawn, prepared, tmp_path, monkeypatch):
    shift = registration.Displacement(2.0, -3.0, 0.1, 0.1, 0.1, 0.01, 50, "shaded", True)
    monkeypatch.setattr(registration, "estimate", lambda image, circles: shift)
    prepare(drawn, tmp_path, register=True)
    keys = ["tile", "crater_id"]
    before, after = (tiles.read_targets(f / "train").circles for f in (prepared, tmp_path))
    both = before.merge(after, on=keys, suffixes=("", "_after"))
    scale = 2 ** tiles.read_targets(tmp_path / "train").tiles["level"].to_numpy()
    scale = scale[both["tile"]]
    np.testing.assert_allclose((both["row_after"] - both["row"]) * scale, 2, atol=1e-6)
    np.testing.assert_allclose((both["col_after"] - both["col"]) * scale, -3, atol=1e-6)
    np.testing.assert_allclose(both["radius_after"] / both["radius"], 1.1, rtol=1e-6)
    audit = json.loads((tmp_path / "label_audit.json").read_text())["quadrangles"]
    assert all(entry["corrected"] and entry["row"] == 2.0 for entry in audit)


def test_shuffled_tiles_are_the_same_tiles(drawn, prepared, tmp_path):
    prepare(drawn, tmp_path, units=drawn / "units.geojson", shuffle_seed=2**127 + 5)
    plain, shuffled = (tiles.read_targets(f / "test") for f in (prepared, tmp_path))
    keys = ["level", "row0", "col0"]
    assert plain.tiles[keys].to_numpy().tolist() != shuffled.tiles[keys].to_numpy().tolist()
    order = shuffled.tiles.reset_index().merge(plain.tiles.reset_index(), on=keys)
    images = tiles.read_images(prepared / "test")[:], tiles.read_images(tmp_path / "test")[:]
    assert (images[1][order["index_x"]] == images[0][order["index_y"]]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": ["north"]}, "no quadrangle north"),
        ({"test": 1.5}, "a share between 0 and 1"),
        ({"levels": 0}, "levels is 0"),
        ({"quadrangles": None, "quadrangle_size": -1.0}, "quadrangle_size is -1"),
        ({"dask": "tcp://127.0.0.1:9"}, "no dask scheduler answers"),
    ],
)
def test_impossible_options_are_refused(drawn, tmp_path, options, message, monkeypatch):
    monkeypatch.setattr(mosaic, "_DASK_PATIENCE", "1s")
    with pytest.raises(DataError, match=message):
        prepare(drawn, tmp_path, **options)
    assert not (tmp_path / "train").exists()


def test_a_catalogue_of_other_ground_is_refused(drawn, tmp_path):
    catalogue = pd.read_csv(drawn / "catalogue.csv").assign(X=lambda t: -t["X"])
    catalogue.to_csv(tmp_path / "mirrored.csv", index=False)
    with pytest.raises(DataError, match="none of its 61 craters lies on"):
        mosaic.prepare(
            drawn / "mosaic.tif", tmp_path / "mirrored.csv", tmp_path / "out", progress=False
        )


def test_a_quadrangle_elsewhere_is_refused(drawn, tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("name,lon_min,lat_min,lon_max,lat_max\nfar,10,10,12,12\n")
    with pytest.raises(DataError, match="no block of tiles fits into far"):
        prepare(drawn, tmp_path / "out", quadrangles=path)


def test_a_full_disk_is_told_before_the_work(drawn, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(DataError, match=r"tiles need up to .* MB"):
        prepare(drawn, tmp_path)
    assert not list(tmp_path.rglob("*.h5"))


def test_one_quadrangle_is_divided_by_blocks(drawn, tmp_path):
    prepare(drawn, tmp_path, quadrangles=None, test=0.3)
    parts = [tiles.read_targets(tmp_path / part).tiles for part in ("train", "test")]
    assert {len(set(part["quadrangle"])) for part in parts} == {1}
    blocks = [set(part["block"].astype(str)) for part in parts]
    assert not blocks[0] & blocks[1]
    assert len(blocks[1]) == round(0.3 * (len(blocks[0]) + len(blocks[1])))


def test_units_know_any_turn_of_longitude_and_refuse_what_is_no_area(tmp_path):
    path = tmp_path / "units.geojson"
    features = [unit((350, 0, 370, 5), sensor="A"), unit((-180, -90, 180, 0), sensor="B")]
    path.write_text(json.dumps({"features": features}))
    known = read_units(path).at(np.array([-5.0, 5.0, 355.0, 100.0, 100.0]), np.full(5, 2.0))
    assert known["sensor"].tolist() == ["A", "A", "A", "", ""]
    assert read_units(path).at(np.array([200.0]), np.array([-2.0]))["sensor"].tolist() == ["B"]
    assert Units().at(np.array([1.0]), np.array([2.0]))["light"].tolist() == [""]
    features[0]["geometry"] = {"type": "Point", "coordinates": [0, 0]}
    path.write_text(json.dumps({"features": features}))
    with pytest.raises(DataError, match="feature 1: a Point"):
        read_units(path)


@pytest.mark.slow
def test_frames_of_a_stitched_mosaic_are_never_cut(real, tmp_path):
    folder = real / "craters" / "mosaic"
    mosaic.prepare(
        folder / "mosaic.tif",
        folder / "catalogue.csv",
        tmp_path,
        block_size=1248,
        workers=1,
        progress=False,
    )
    corners = [
        b["corners"] for b in json.loads((tmp_path / "footprints.json").read_text())["blocks"]
    ]
    assert len(corners) == 9
    with Raster(folder / "mosaic.tif") as raster:
        for corner in corners:
            row, col = raster.point_to_pixel(*np.transpose(corner))
            assert len(set(zip(row // 1248, col // 1248, strict=True))) == 1
    y = tiles.read_targets(tmp_path / "train")
    assert (y.reason == 0).sum() > 150
