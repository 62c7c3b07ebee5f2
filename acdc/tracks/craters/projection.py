"""From the planet to the plane of a quadrangle and back, so that craters are round.

A quadrangle is mapped by a stereographic projection centred on it. On a sphere that projection
turns every circle into a circle, on an ellipsoid very nearly so; the circle's centre and radius in
the plane are fitted to its projected rim, which takes care of the local scale.

Longitudes run eastward; latitudes are planetocentric and lengths are metres on the IAU sphere of
3,396.19 km (IAU Working Group on Cartographic Coordinates, Archinal et al. 2018), as in the
catalogues and the mosaics of Mars. For a mosaic on the ellipsoid, latitudes are converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from acdc.errors import DataError

MARS_RADIUS = 3_396_190.0
# polar radius 3,376.2 km to the equatorial radius 3,397.2 km of the Viking mosaics
_MARS_RADII = (3_370_000.0, 3_400_000.0)
_BODIES = {
    "Mercury": 2_439_700.0,
    "Venus": 6_051_800.0,
    "Earth": 6_378_137.0,
    "the Moon": 1_737_400.0,
    "Phobos": 11_100.0,
    "Deimos": 6_200.0,
    "Ceres": 470_000.0,
    "Vesta": 262_700.0,
    "Io": 1_821_500.0,
    "Europa": 1_560_800.0,
    "Ganymede": 2_631_200.0,
    "Callisto": 2_410_300.0,
    "Titan": 2_575_000.0,
    "Pluto": 1_188_300.0,
}
_RIM = 12


def mars_ellipsoid(crs: Any, where: str) -> tuple[float, float]:
    """The semi-axes of the ellipsoid of a coordinate system of Mars.

    Parameters
    ----------
    crs : any
        What `pyproj.CRS` understands: WKT, PROJ string, IAU code, a rasterio CRS.
    where : str
        The file it belongs to, for errors.

    Returns
    -------
    a, b : float
        Equatorial and polar semi-axis, metres.

    Raises
    ------
    DataError
        When it is no coordinate system on Mars; the message names the body that it is on.
    """
    import pyproj

    try:
        parsed = pyproj.CRS.from_user_input(crs)
        ellipsoid = parsed.ellipsoid
    except pyproj.exceptions.CRSError as error:
        raise DataError(f"{where}: its coordinate system cannot be read: {error}") from error
    if ellipsoid is None or not (parsed.is_projected or parsed.is_geographic):
        raise DataError(
            f"{where}: its coordinate system ({parsed.name}) is not tied to a planet; expected one "
            "on Mars, for instance IAU_2015:49910. Set it with gdal_edit -a_srs."
        )
    a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    if not (_MARS_RADII[0] <= b <= a <= _MARS_RADII[1]):
        name, radius = min(_BODIES.items(), key=lambda item: abs(item[1] - a))
        body = name if abs(radius - a) < 0.02 * radius else "an unknown body"
        raise DataError(
            f"{where}: its coordinate system ({parsed.name}) lies on {body} (radius "
            f"{a / 1000:,.1f} km); expected Mars (3,396.2 km)."
        )
    return a, b


@dataclass(frozen=True)
class Plane:
    """The plane of a quadrangle: a map projection and the grid of its level-0 pixels.

    Parameters
    ----------
    crs : str
        WKT of the projection, on the sphere or ellipsoid of the mosaic.
    affine : tuple of 6 floats
        a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f for the *corners* of
        pixels (as rasterio has it); rows and columns of everything else here count from the
        centre of the first pixel.
    """

    crs: str
    affine: tuple[float, float, float, float, float, float]

    @classmethod
    def centred(
        cls, lon: float, lat: float, pixel_size: float, ellipsoid: tuple[float, float]
    ) -> Plane:
        """Stereographic plane around a point, with that point at the corner of pixel (0, 0).

        Parameters
        ----------
        lon, lat : float
            Centre, degrees east and planetocentric degrees north.
        pixel_size : float
            Metres per pixel at the centre.
        ellipsoid : (float, float)
            Semi-axes in metres, from `mars_ellipsoid`.
        """
        import pyproj

        a, b = ellipsoid
        lat_0 = float(to_planetographic(np.array(lat), a, b))
        crs = pyproj.CRS.from_proj4(
            f"+proj=stere +lat_0={lat_0:.12f} +lon_0={lon:.12f} +k=1 +a={a!r} +b={b!r} +units=m"
        )
        return cls(crs.to_wkt(), (pixel_size, 0.0, 0.0, 0.0, -pixel_size, 0.0))

    @classmethod
    def of_quadrangle(cls, quadrangles: pd.DataFrame, name: str) -> Plane:
        """The plane of a quadrangle from the `quadrangles` table of prepared data.

        Raises
        ------
        DataError
            When there is no such quadrangle, or it is a picture without coordinates.
        """
        rows = quadrangles[quadrangles["name"].astype(str) == name]
        if len(rows) != 1:
            raise DataError(
                f"quadrangle {name!r} stands {len(rows)} times in the table; expected 1"
            )
        row = rows.iloc[0]
        affine = tuple(float(row[key]) for key in "abcdef")
        if not str(row["crs"]) or not np.isfinite(affine).all():
            raise DataError(
                f"quadrangle {name!r} has no coordinates: its tiles are pictures, and what is "
                "found there cannot be placed on the planet."
            )
        return cls(str(row["crs"]), affine)  # type: ignore[arg-type]

    def moved(self, row: float, col: float) -> Plane:
        """The same plane with its first pixel at (row, col) of this one."""
        a, b, c, d, e, f = self.affine
        return Plane(self.crs, (a, b, c + a * col + b * row, d, e, f + d * col + e * row))

    def to_pixels(self, lon: Any, lat: Any, radius: Any) -> np.ndarray:
        """Circles on the ground as circles in the plane.

        Parameters
        ----------
        lon, lat : array_like of float (n,)
            Centres, degrees east and planetocentric degrees north.
        radius : array_like of float (n,)
            Metres along the ground.

        Returns
        -------
        circles : ndarray of float (n, 3)
            Row, col (level-0 pixels, (0, 0) at the centre of the first) and radius (pixels), fitted
            to the projected rim.
        """
        import pyproj

        lon, lat, radius = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(v, float)) for v in (lon, lat, radius))
        )
        if not lon.size:
            return np.empty((0, 3))
        geod = pyproj.Geod(a=MARS_RADIUS, b=MARS_RADIUS)
        azimuth = np.arange(_RIM) * (360 / _RIM)
        shape = (len(lon), _RIM)
        start_lon, start_lat, heading, distance = (
            np.broadcast_to(v, shape).ravel()
            for v in (lon[:, None], lat[:, None], azimuth[None], radius[:, None])
        )
        rim_lon, rim_lat, _ = geod.fwd(start_lon, start_lat, heading, distance)
        row, col = self.point_to_pixel(rim_lon, rim_lat)
        return _fit_circles(row.reshape(shape), col.reshape(shape))

    def to_ground(self, row: Any, col: Any, radius: Any) -> tuple[np.ndarray, ...]:
        """Circles in the plane as circles on the ground; the inverse of `to_pixels`.

        Parameters
        ----------
        row, col, radius : array_like of float (n,)
            Level-0 pixels.

        Returns
        -------
        lon, lat, radius : ndarray of float (n,)
            Degrees east (-180 to below 180), planetocentric degrees north, metres along the ground.
        """
        row, col, radius = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(v, float)) for v in (row, col, radius))
        )
        azimuth = np.arange(_RIM) * (2 * np.pi / _RIM)
        lon, lat = self.pixel_to_point(
            (row[:, None] + radius[:, None] * np.cos(azimuth)).ravel(),
            (col[:, None] + radius[:, None] * np.sin(azimuth)).ravel(),
        )
        lon, lat, angle = _fit_caps(*(np.deg2rad(v).reshape(len(row), _RIM) for v in (lon, lat)))
        return (np.rad2deg(lon) + 180) % 360 - 180, np.rad2deg(lat), angle * MARS_RADIUS

    def point_to_pixel(self, lon: Any, lat: Any) -> tuple[np.ndarray, np.ndarray]:
        """Row and col (level-0 pixels) of points given in degrees east and planetocentric north."""
        forward, _, (a, b) = _transformers(self.crs)
        x, y = forward(np.asarray(lon, float), to_planetographic(np.asarray(lat, float), a, b))
        row, col = solve_affine(self.affine, np.asarray(x), np.asarray(y))
        return row - 0.5, col - 0.5

    def pixel_to_point(self, row: Any, col: Any) -> tuple[np.ndarray, np.ndarray]:
        """Degrees east and planetocentric north of points given in level-0 pixels."""
        _, inverse, (a, b) = _transformers(self.crs)
        x, y = self.plane_coordinates(np.asarray(row, float) + 0.5, np.asarray(col, float) + 0.5)
        lon, lat = inverse(x, y)
        return np.asarray(lon), to_planetocentric(np.asarray(lat), a, b)

    def plane_coordinates(self, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Metres x, y in the projection of points counted from the first pixel's *corner*."""
        return apply_affine(self.affine, row, col)

    def pixel_size(self, row: Any, col: Any) -> np.ndarray:
        """True metres on the ground per level-0 pixel at the given pixels, (n,)."""
        one = np.ones_like(np.atleast_1d(np.asarray(row, float)))
        return self.to_ground(row, col, one)[2]


@lru_cache(maxsize=64)
def _transformers(crs: str) -> tuple[Any, Any, tuple[float, float]]:
    """Degrees on the projection's own ellipsoid to metres, the way back, and its semi-axes."""
    import pyproj

    plane = pyproj.CRS.from_wkt(crs)
    a, b = mars_ellipsoid(plane, plane.name)
    degrees = geographic(a, b)
    forward = pyproj.Transformer.from_crs(degrees, plane, always_xy=True)
    inverse = pyproj.Transformer.from_crs(plane, degrees, always_xy=True)
    return forward.transform, inverse.transform, (a, b)


def geographic(a: float, b: float) -> Any:
    """The `pyproj.CRS` of eastward longitude and planetographic latitude on an ellipsoid."""
    import pyproj

    return pyproj.CRS.from_proj4(f"+proj=longlat +a={a!r} +b={b!r}")


def to_planetographic(lat: np.ndarray, a: float, b: float) -> np.ndarray:
    """Planetographic latitude of planetocentric ones on the ellipsoid (a, b), degrees."""
    return _stretch_latitude(lat, (a / b) ** 2)


def to_planetocentric(lat: np.ndarray, a: float, b: float) -> np.ndarray:
    """Planetocentric latitude of planetographic ones on the ellipsoid (a, b), degrees."""
    return _stretch_latitude(lat, (b / a) ** 2)


def _stretch_latitude(lat: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1:
        return lat
    angle = np.deg2rad(lat)
    return np.rad2deg(np.arctan2(factor * np.sin(angle), np.cos(angle)))


def apply_affine(
    affine: tuple[float, ...], row: np.ndarray, col: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The x and y of rows and columns that count from the first pixel's corner."""
    a, b, c, d, e, f = affine
    return a * col + b * row + c, d * col + e * row + f


def solve_affine(
    affine: tuple[float, ...], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, from the first pixel's corner, of x and y."""
    a, b, c, d, e, f = affine
    determinant = a * e - b * d
    # what lies on the far side of the planet is projected to infinity
    with np.errstate(invalid="ignore"):
        row = (a * (y - f) - d * (x - c)) / determinant
        col = (e * (x - c) - b * (y - f)) / determinant
    return row, col


def _fit_circles(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Least-squares circles (n, 3) through the points (n, m): exact where they lie on a circle.

    The algebraic fit of Kåsa (1976), in coordinates around the points' mean.
    """
    mean_row, mean_col = row.mean(axis=1), col.mean(axis=1)
    u, v = row - mean_row[:, None], col - mean_col[:, None]
    uu, vv, uv = (u * u).sum(axis=1), (v * v).sum(axis=1), (u * v).sum(axis=1)
    square = u * u + v * v
    p, q = (u * square).sum(axis=1) / 2, (v * square).sum(axis=1) / 2
    determinant = uu * vv - uv * uv
    du, dv = (p * vv - q * uv) / determinant, (q * uu - p * uv) / determinant
    radius = np.sqrt(du * du + dv * dv + (uu + vv) / row.shape[1])
    return np.column_stack([mean_row + du, mean_col + dv, radius])


def _fit_caps(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres and angular radii (radians) of the circles through points on the unit sphere."""
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    mean = points.mean(axis=1)
    around = points - mean[:, None]
    # a circle on a sphere lies in a plane; its normal is the direction without spread
    normal = np.linalg.eigh(np.einsum("nij,nik->njk", around, around))[1][:, :, 0]
    normal *= np.sign((normal * mean).sum(axis=1, keepdims=True))
    chord = np.linalg.norm(points - normal[:, None], axis=2).mean(axis=1)
    centre_lat = np.arctan2(normal[:, 2], np.hypot(normal[:, 0], normal[:, 1]))
    return np.arctan2(normal[:, 1], normal[:, 0]), centre_lat, 2 * np.arcsin(chord / 2)
