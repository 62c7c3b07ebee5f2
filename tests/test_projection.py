import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acdc.errors import DataError
from acdc.tracks.craters.projection import (
    MARS_RADIUS,
    Plane,
    mars_ellipsoid,
    to_planetocentric,
    to_planetographic,
)

SPHERE = (MARS_RADIUS, MARS_RADIUS)
ELLIPSOID = (MARS_RADIUS, 3_376_200.0)


def stereographic_by_hand(lon, lat, radius, lon_0, lat_0, pixel):
    """Row, col, radius of one geodesic circle from spherical trigonometry alone.

    The circle's rim meets the great circle through the projection's centre at angles c - a and
    c + a from it, which the projection puts at 2 R tan(./2); both ends are on the diameter.
    """
    lon, lat, lon_0, lat_0 = np.deg2rad([lon, lat, lon_0, lat_0])
    cos_c = np.sin(lat) * np.sin(lat_0) + np.cos(lat) * np.cos(lat_0) * np.cos(lon - lon_0)
    c, a = np.arccos(cos_c), radius / MARS_RADIUS
    azimuth = np.arctan2(
        np.cos(lat) * np.sin(lon - lon_0),
        np.sin(lat) * np.cos(lat_0) - np.cos(lat) * np.sin(lat_0) * np.cos(lon - lon_0),
    )
    far, near = (2 * MARS_RADIUS * np.tan((c + s * a) / 2) / pixel for s in (1, -1))
    distance = (far + near) / 2
    return -distance * np.cos(azimuth) - 0.5, distance * np.sin(azimuth) - 0.5, (far - near) / 2


@pytest.mark.parametrize(("lon_0", "lat_0"), [(0, 0), (200, 45), (-77, -62), (10, 85)])
def test_geodesic_circles_are_fitted_exactly_also_at_the_corners(lon_0, lat_0):
    plane = Plane.centred(lon_0, lat_0, 100.0, SPHERE)
    corners = [(-2964, -2964), (2964, 2964), (-2964, 2964), (0, 0.5), (2964, 10)]
    for row, col in corners:
        (lon,), (lat,) = (np.atleast_1d(v) for v in plane.pixel_to_point(row, col))
        for radius in (500.0, 2800.0, 40_000.0):
            expected = stereographic_by_hand(lon, lat, radius, lon_0, lat_0, 100.0)
            np.testing.assert_allclose(plane.to_pixels(lon, lat, radius)[0], expected, atol=2e-4)


def test_the_local_scale_matters():
    # at the corner of a quadrangle of 10 degrees: what ignoring it would cost
    plane = Plane.centred(0, 0, 100.0, SPHERE)
    (lon,), (lat,) = (np.atleast_1d(v) for v in plane.pixel_to_point(2964, 2964))
    assert plane.to_pixels(lon, lat, 2000.0)[0, 2] > 20 * 1.003
    (size,) = plane.pixel_size(2964, 2964)
    assert size == pytest.approx(
        100 / (1 + (2964.5**2 * 2) * 100**2 / (4 * MARS_RADIUS**2)), rel=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(
    lon_0=st.floats(-180, 360),
    lat_0=st.floats(-90, 90),
    row=st.floats(-4000, 4000),
    col=st.floats(-4000, 4000),
    radius=st.floats(0.5, 400),
    ellipsoid=st.sampled_from([SPHERE, ELLIPSOID, (3_396_000.0, 3_396_000.0)]),
)
def test_to_the_ground_and_back(lon_0, lat_0, row, col, radius, ellipsoid):
    plane = Plane.centred(lon_0, lat_0, 100.0, ellipsoid).moved(-7, 1200)
    lon, lat, metres = plane.to_ground(row, col, radius)
    assert -180 <= lon[0] < 180
    back = plane.to_pixels(lon, lat, metres)[0]
    np.testing.assert_allclose(back, [row, col, radius], atol=1e-4)


def test_an_ellipsoid_keeps_planetocentric_latitudes_and_lengths_of_the_sphere():
    assert to_planetographic(np.array(45.0), *ELLIPSOID) == pytest.approx(45.3382, abs=1e-3)
    lat = np.linspace(-90, 90, 19)
    there = to_planetographic(lat, *ELLIPSOID)
    np.testing.assert_allclose(to_planetocentric(there, *ELLIPSOID), lat, atol=1e-12)
    plane = Plane.centred(30, 45, 100.0, ELLIPSOID)
    row, col, radius = plane.to_pixels(30, 45, 1000.0)[0]
    assert (row, col) == pytest.approx((-0.5, -0.5), abs=1e-3)
    assert radius == pytest.approx(10, rel=5e-3)


def test_a_moved_plane_shows_the_same_ground():
    plane = Plane.centred(100, -30, 50.0, SPHERE)
    moved = plane.moved(-200, 300)
    np.testing.assert_allclose(
        plane.to_pixels(100.4, -30.2, 900) - moved.to_pixels(100.4, -30.2, 900),
        [[-200, 300, 0]],
        atol=1e-6,
    )


def test_no_circles_are_no_circles():
    plane = Plane.centred(0, 0, 100.0, SPHERE)
    assert plane.to_pixels([], [], []).shape == (0, 3)
    assert [len(v) for v in plane.to_ground([], [], [])] == [0, 0, 0]


@pytest.mark.parametrize(
    ("crs", "body"),
    [
        ("IAU_2015:30100", "the Moon"),
        ("EPSG:4326", "Earth"),
        ("+proj=longlat +R=2439700", "Mercury"),
        ("+proj=longlat +R=100000", "an unknown body"),
        ('LOCAL_CS["bench",UNIT["metre",1]]', "not tied to a planet"),
        ("nonsense", "cannot be read"),
    ],
)
def test_another_planet_is_refused_by_name(crs, body):
    with pytest.raises(DataError, match=body) as caught:
        mars_ellipsoid(crs, "mosaic.tif")
    assert "mosaic.tif" in str(caught.value)


@pytest.mark.parametrize(
    "crs", ["IAU_2015:49900", "IAU_2015:49901", "IAU_2015:49912", "+proj=sinu +R=3396000"]
)
def test_coordinate_systems_of_mars_are_taken(crs):
    a, b = mars_ellipsoid(crs, "mosaic.tif")
    assert 3_376_200 - 1 <= b <= a <= 3_396_190


def test_planes_come_back_from_the_table_of_quadrangles():
    plane = Plane.centred(10, 20, 100.0, SPHERE)
    row = {"name": "q", "crs": plane.crs, **dict(zip("abcdef", plane.affine, strict=True))}
    picture = {"name": "p", "crs": "", **dict.fromkeys("abcdef", np.nan)}
    table = pd.DataFrame([row, picture])
    assert Plane.of_quadrangle(table, "q") == plane
    with pytest.raises(DataError, match="has no coordinates"):
        Plane.of_quadrangle(table, "p")
    with pytest.raises(DataError, match="0 times"):
        Plane.of_quadrangle(table, "x")
