"""Large mosaics, read piece by piece into the plane of a quadrangle."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from acdc.errors import DataError
from acdc.tracks.craters.projection import (
    MARS_RADIUS,
    Plane,
    apply_affine,
    geographic,
    mars_ellipsoid,
    solve_affine,
    to_planetocentric,
    to_planetographic,
)

# pieces of the plane that are read at once: wide and low, because the large mosaics store rows
_CHUNK = (256, 1024)
# pixels of the mosaic held for one piece (as float32: 8 MiB); more, and the piece is halved
_SOURCE_LIMIT = 2_097_152
_SMALLEST_CHUNK = 16
_CACHE_MB = 16
# pixels of the mosaic by which a projected position may be wrong
_TOLERANCE = 0.01


class Raster:
    """A georeferenced 8-bit mosaic of Mars, open for reading.

    Parameters
    ----------
    path : Path
        Any raster that GDAL reads, with one band of 8 bits, and perhaps an alpha band.
    nodata : int or None
        The value of pixels without data. None: what the file says, or else 0, the null value of
        8-bit planetary images (ISIS).

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    ellipsoid : (float, float)
        Semi-axes, metres.
    pixel_size : float
        Metres on the ground from one row to the next, in the middle of the mosaic.
    nodata : int or None
        The value without data; None where the file has a mask instead.

    Raises
    ------
    DataError
        When the file is missing, damaged, of another type, not georeferenced or not on Mars.
    """

    def __init__(self, path: Path, nodata: int | None = None) -> None:
        import pyproj
        import rasterio

        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"{path}: there is no such mosaic.")
        # direct reading takes the wanted part of a row only; by default GDAL reads whole blocks,
        # and a block of the global mosaics is a row of 200,000 pixels
        self._environment = rasterio.Env(
            GDAL_CACHEMAX=_CACHE_MB, GTIFF_DIRECT_IO=True, GDAL_PAM_ENABLED=False
        )
        with self._environment:
            try:
                self._file = rasterio.open(self.path)
            except rasterio.errors.RasterioError as error:
                raise DataError(f"{path} is no raster that can be read: {error}") from error
        self._check_bands()
        if self._file.crs is None or self._file.transform.is_identity:
            raise DataError(
                f"{path} has no coordinate system or no georeference; expected a map of Mars. "
                "Set both with gdal_edit -a_srs ... -a_ullr ..., or use --tiles for plain pictures."
            )
        self._check_length()
        a, b, c, d, e, f = tuple(self._file.transform)[:6]
        self._affine = (a, b, c, d, e, f)
        self.shape = (int(self._file.height), int(self._file.width))
        # WKT 2 as GDAL understands the file: an IAU code alone would turn some axes westward
        self._crs = pyproj.CRS.from_wkt(self._file.crs.to_wkt(version="WKT2_2019"))
        self.ellipsoid = mars_ellipsoid(self._crs, str(path))
        if any(axis.direction == "west" for axis in self._crs.axis_info):
            raise DataError(
                f"{path}: its coordinate system ({self._crs.name}) counts westward; expected "
                "longitudes eastward. Set an eastward one with gdal_edit -a_srs."
            )
        degrees = geographic(*self.ellipsoid)
        self._from_degrees = pyproj.Transformer.from_crs(degrees, self._crs, always_xy=True)
        self._to_degrees = pyproj.Transformer.from_crs(self._crs, degrees, always_xy=True)
        self._masked = rasterio.enums.MaskFlags.all_valid not in self._file.mask_flag_enums[0]
        declared = self._file.nodata
        self.nodata = int(nodata) if nodata is not None else None
        if nodata is None and not self._masked:
            self.nodata = 0
        elif nodata is None and declared is not None:
            self.nodata = int(declared)
        self.pixel_size = self._row_step()
        self.period = self._columns_around()

    def _check_bands(self) -> None:
        bands, kind = self._file.count, self._file.dtypes[0]
        alpha = bands == 2 and self._file.colorinterp[1].name == "alpha"
        if bands != 1 and not alpha:
            raise DataError(
                f"{self.path} has {bands} bands; expected one. Extract it with gdal_translate -b 1."
            )
        if kind != "uint8":
            raise DataError(
                f"{self.path} has values of type {kind}; expected 8 bits (uint8). Stretch it with "
                "gdal_translate -ot Byte -scale LOW HIGH 1 255 -a_nodata 0."
            )

    def _check_length(self) -> None:
        # read directly, pixels beyond the end of a file that was cut short would be 0
        if self._file.driver != "GTiff" or not self.path.is_file():
            return
        rows, cols = self._file.block_shapes[0]
        down, right = -(-self._file.height // rows) - 1, -(-self._file.width // cols) - 1
        length = self.path.stat().st_size
        for i, j in {(0, 0), (down // 2, right // 2), (down, 0), (down, right)}:
            offset, size = (
                self._file.get_tag_item(f"BLOCK_{what}_{j}_{i}", "TIFF", bidx=1)
                for what in ("OFFSET", "SIZE")
            )
            if offset is not None and int(offset) + int(size) > length:
                raise DataError(
                    f"{self.path} is cut short: it has {length:,} bytes, and some of its pixels "
                    f"lie at byte {int(offset):,}. Fetch it again."
                )

    def __enter__(self) -> Raster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def pixel_to_point(self, row: Any, col: Any) -> tuple[np.ndarray, np.ndarray]:
        """Degrees east and planetocentric north of positions counted from the first corner."""
        x, y = apply_affine(self._affine, np.asarray(row, float), np.asarray(col, float))
        lon, lat = self._to_degrees.transform(x, y)
        return np.asarray(lon), to_planetocentric(np.asarray(lat), *self.ellipsoid)

    def point_to_pixel(self, lon: Any, lat: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns, from the first corner, of degrees east and planetocentric north."""
        lat = to_planetographic(np.asarray(lat, float), *self.ellipsoid)
        x, y = self._from_degrees.transform(np.asarray(lon, float), lat)
        return solve_affine(self._affine, np.asarray(x), np.asarray(y))

    def outline(self, points: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns (from the first corner) along the border of the mosaic, closed."""
        rows, cols = self.shape
        step = np.linspace(0, 1, points, endpoint=False)
        zero, one = np.zeros(points), np.ones(points)
        row = np.concatenate([zero, step, one, 1 - step, [0]]) * rows
        col = np.concatenate([step, one, 1 - step, zero, [0]]) * cols
        return row, col

    def footprint(self) -> tuple[float, float, float, float]:
        """Bounds in degrees: lon_min, lat_min, lon_max, lat_max (planetocentric).

        lon_max exceeds 180 where the mosaic crosses that meridian; a mosaic all around the planet
        goes from -180 to 180.
        """
        rows, cols = self.shape
        row, col = np.meshgrid(np.linspace(0, rows, 65), np.linspace(0, cols, 65))
        lon, lat = self.pixel_to_point(row.ravel(), col.ravel())
        inside = np.isfinite(lon) & np.isfinite(lat)
        if not inside.any():
            raise DataError(f"{self.path}: none of its pixels lies on the planet.")
        lon, lat = lon[inside], lat[inside]
        lat_min, lat_max = float(lat.min()), float(lat.max())
        polar = False
        for pole in (-90.0, 90.0):
            at_row, at_col = self.point_to_pixel([0.0], [pole])
            if (0 <= at_row[0] <= rows) and (0 <= at_col[0] <= cols):
                lat_min, lat_max = min(lat_min, pole), max(lat_max, pole)
                polar = True
        around = np.sort(lon % 360)
        gaps = np.diff(np.r_[around, around[0] + 360])
        widest = int(gaps.argmax())
        # a mosaic around the planet shows the gaps of the sampled grid only
        if (
            (self.period is not None and cols >= 0.999 * self.period)
            or polar
            or gaps[widest] < 360 / 64
        ):
            return -180.0, max(lat_min, -90.0), 180.0, min(lat_max, 90.0)
        lon_min = float(around[(widest + 1) % len(around)])
        lon_max = lon_min + 360 - float(gaps[widest])
        if lon_min >= 180:
            lon_min, lon_max = lon_min - 360, lon_max - 360
        return lon_min, max(lat_min, -90.0), lon_max, min(lat_max, 90.0)

    def _row_step(self) -> float:
        import pyproj

        rows, cols = self.shape
        middle = np.array([rows / 2 - 0.5, rows / 2 + 0.5])
        lon, lat = self.pixel_to_point(middle, np.full(2, cols / 2))
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            raise DataError(f"{self.path}: its middle does not lie on the planet.")
        geod = pyproj.Geod(a=MARS_RADIUS, b=MARS_RADIUS)
        step = geod.inv(lon[0], lat[0], lon[1], lat[1])[2]
        return float(f"{step:.6g}")

    def _columns_around(self) -> float | None:
        """Columns that go once around the planet, where columns are meridians; else None."""
        rows, cols = self.shape
        # off the middle, because there a meridian is straight in other projections too
        col = 0.3 * cols
        lon, _ = self.pixel_to_point(
            np.array([0.25, 0.6, 0.6]) * rows, np.array([col, col, col + 1])
        )
        step = (lon[2] - lon[1] + 180) % 360 - 180
        if not np.isfinite(lon).all() or abs(lon[0] - lon[1]) > 1e-6 or step == 0:
            return None
        return 360 / abs(step)

    def view(self, plane: Plane) -> View:
        """The mosaic as seen in a plane."""
        return View(self, plane)


class _Window(NamedTuple):
    """A window of the file, and the column of the projection's grid where its first one stands.

    `jumps` says that longitudes jump by a turn somewhere in the piece of the plane it belongs to.
    """

    row: int
    col: int
    height: int
    width: int
    grid_col: float
    jumps: bool


class View:
    """A mosaic resampled into the plane of a quadrangle, piece by piece.

    Where a pixel of the plane covers several of the mosaic it is their area average, over those
    that hold data; only where it is clearly smaller than one, values are interpolated linearly.
    """

    def __init__(self, raster: Raster, plane: Plane) -> None:
        import pyproj
        import rasterio

        self.raster, self.plane = raster, plane
        self._file = raster._file
        # the mosaic's own grid is a plane, too
        self._source = Plane("", raster._affine)
        self._to_source = pyproj.Transformer.from_crs(
            pyproj.CRS.from_wkt(plane.crs), raster._crs, always_xy=True
        )
        self._crs = rasterio.crs.CRS.from_wkt(plane.crs)
        self._poles = [
            (float(row), float(col))
            for row, col in (plane.point_to_pixel(0.0, pole) for pole in (-90.0, 90.0))
            if np.isfinite(row) and np.isfinite(col)
        ]
        enlarged = plane.affine[0] < 0.8 * raster.pixel_size
        self._resampling = "bilinear" if enlarged else "average"

    def read(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a window of the plane.

        Parameters
        ----------
        row, col, height, width : int
            Level-0 pixels of the plane.

        Returns
        -------
        image : ndarray of uint8 (height, width)
            0 where there is no data.
        valid : ndarray of bool (height, width)
        """
        image = np.zeros((height, width), dtype=np.uint8)
        valid = np.zeros((height, width), dtype=bool)
        with self.raster._environment:
            for top in range(0, height, _CHUNK[0]):
                for left in range(0, width, _CHUNK[1]):
                    rows = min(_CHUNK[0], height - top)
                    cols = min(_CHUNK[1], width - left)
                    self._fill(image, valid, (row, col), (top, left, rows, cols))
        return image, valid

    def _fill(
        self,
        image: np.ndarray,
        valid: np.ndarray,
        origin: tuple[int, int],
        chunk: tuple[int, int, int, int],
    ) -> None:
        top, left, rows, cols = chunk
        windows = self._windows(origin[0] + top, origin[1] + left, rows, cols)
        largest = max((window.height * window.width for window in windows), default=0)
        if largest > _SOURCE_LIMIT and max(rows, cols) > _SMALLEST_CHUNK:
            half = (rows + 1) // 2 if rows >= cols else (cols + 1) // 2
            if rows >= cols:
                parts = [(top, left, half, cols), (top + half, left, rows - half, cols)]
            else:
                parts = [(top, left, rows, half), (top, left + half, rows, cols - half)]
            for part in parts:
                self._fill(image, valid, origin, part)
            return
        values = np.full((rows, cols), np.nan, dtype=np.float32)
        plane = self.plane.moved(origin[0] + top, origin[1] + left)
        for window in windows:
            seen = self._warp(window, plane, rows, cols, self._resampling)
            np.copyto(values, seen, where=np.isnan(values))
        if len(windows) > 1:
            # a mosaic around the planet meets itself at its left and right border; pixels across
            # that seam lie fully in neither window
            for window in windows:
                seen = self._warp(window, plane, rows, cols, "nearest")
                np.copyto(values, seen, where=np.isnan(values))
        found = np.isfinite(values)
        target = (slice(top, top + rows), slice(left, left + cols))
        valid[target] = found
        image[target] = np.where(found, np.clip(np.rint(values), 0, 255), 0).astype(np.uint8)

    def _windows(self, row: int, col: int, rows: int, cols: int) -> list[_Window]:
        """The windows of the mosaic that hold the pixels of a piece of the plane."""
        at_row = np.linspace(row, row + rows, 9)
        at_col = np.linspace(col, col + cols, max(9, cols // 64 + 1))
        grid = np.meshgrid(at_row, at_col, indexing="ij")
        x, y = self._to_source.transform(*self.plane.plane_coordinates(*grid))
        down, right = solve_affine(self.raster._affine, np.asarray(x), np.asarray(y))
        inside = np.isfinite(down) & np.isfinite(right)
        if not inside.any():
            return []
        down, right = down[inside], right[inside]
        top, bottom = float(down.min()), float(down.max())
        period = self.raster.period
        if period is None:
            span = self._clip(top, bottom, float(right.min()), float(right.max()))
            return [] if span is None else [_Window(*span, float(span[1]), False)]
        # longitudes jump by 360 degrees somewhere: first columns without the jump, then every
        # place where the file and the projection (seldom the same) have these columns
        middle = float(right[len(right) // 2])
        jumps = np.rint((right - middle) / period)
        right = right - period * jumps
        left, end = float(right.min()), float(right.max())
        for pole_row, pole_col in self._poles:
            if row - 1 <= pole_row <= row + rows and col - 1 <= pole_col <= col + cols:
                # all meridians run through the pole
                left, end = middle - period / 2, middle + period / 2
                edge = min(0, self.raster.shape[0], key=lambda e: abs(e - float(down.mean())))
                top, bottom = min(top, edge), max(bottom, edge)
        windows: list[_Window] = []
        for turn in (0.0, -period, period):
            span = self._clip(top, bottom, left + turn, end + turn)
            if span is not None:
                windows.extend(
                    _Window(*span, span[1] - turn + period * jump, True)
                    for jump in np.unique(jumps)
                )
        if len(windows) == 1:
            return [windows[0]._replace(jumps=False)]
        return windows

    def _clip(
        self, top: float, bottom: float, left: float, right: float
    ) -> tuple[int, int, int, int] | None:
        """Row, col, height and width of what the file has of a range, with a margin."""
        margin = 3
        rows, cols = self.raster.shape
        first, last = max(0, int(np.floor(top)) - margin), min(rows, int(np.ceil(bottom)) + margin)
        begin, end = max(0, int(np.floor(left)) - margin), min(cols, int(np.ceil(right)) + margin)
        return (first, begin, last - first, end - begin) if first < last and begin < end else None

    def _warp(
        self,
        window: _Window,
        plane: Plane,
        rows: int,
        cols: int,
        resampling: str,
    ) -> np.ndarray:
        import rasterio
        from rasterio.vrt import WarpedVRT
        from rasterio.windows import Window

        row, col, height, width, grid_col, _ = window
        read = Window(col, row, width, height)
        try:
            source = self._file.read(1, window=read).astype(np.float32)
            missing = self._missing(source, read)
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self.raster.path}: rows {row} to {row + height} cannot be read ({error}); the "
                "file is damaged or cut short. Fetch it again."
            ) from error
        if missing.all():
            return np.full((rows, cols), np.nan, dtype=np.float32)
        source[missing] = np.nan
        grid = rasterio.Affine(*self._source.moved(row, grid_col).affine)
        # GDAL interpolates between exactly projected points; rasterio's `reproject` lets it be
        # wrong by an eighth of a pixel and offers no choice, a WarpedVRT does
        with rasterio.MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                dtype="float32",
                count=1,
                height=height,
                width=width,
                crs=self._file.crs,
                transform=grid,
                nodata=np.nan,
            ) as file:
                file.write(source, 1)
            del source
            with (
                memory.open() as file,
                WarpedVRT(
                    file,
                    crs=self._crs,
                    transform=rasterio.Affine(*plane.affine),
                    height=rows,
                    width=cols,
                    nodata=np.nan,
                    resampling=rasterio.enums.Resampling[resampling],
                    tolerance=_TOLERANCE,
                    # GDAL guesses the part of the file it needs from a few points, which goes
                    # wrong where longitudes jump: there it gets all of the window
                    SOURCE_EXTRA=max(height, width) if window.jumps else 1,
                ) as warped,
            ):
                return warped.read(1)

    def _missing(self, source: np.ndarray, window: Any) -> np.ndarray:
        if self.raster.nodata is not None:
            return source == self.raster.nodata
        return self._file.read_masks(1, window=window) == 0
