"""Where tiles lie: quadrangles on the planet, blocks in a quadrangle, tiles in a block.

A block is the unit of independence: a square of tiles with a buffer around it, so that no pixel of
one block is seen from another. Its side is 56 + 168 n level-0 pixels; n x n tiles fit at level 0,
and as many as fit, centred, at the coarser levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from acdc.errors import DataError
from acdc.tracks.craters.tiles import OVERLAP, TILE

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

STRIDE = TILE - OVERLAP
BUFFER = 28
PARTS = ("train", "test")
# as many blocks as this in a quadrangle are worth more than larger blocks with more levels
_ENOUGH_BLOCKS = 16
_EDGE_POINTS = 65


@dataclass(frozen=True)
class Quadrangle:
    """A piece of the planet between two meridians and two parallels.

    Parameters
    ----------
    name : str
    lon_min, lat_min, lon_max, lat_max : float
        Degrees east and planetocentric degrees north; lon_max is larger than lon_min, by at most
        360 degrees, and may exceed 180.
    part : str
        train or test; "" where that is not decided.
    """

    name: str
    lon_min: float
    lat_min: float
    lon_max: float
    lat_max: float
    part: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the middle; the pole for a polar cap."""
        if self.lon_max - self.lon_min >= 360 and max(abs(self.lat_min), abs(self.lat_max)) == 90:
            return 0.0, 90.0 if self.lat_max == 90 else -90.0
        return (self.lon_min + self.lon_max) / 2, (self.lat_min + self.lat_max) / 2

    def outline(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes along the border, closed."""
        edge = np.linspace(0, 1, _EDGE_POINTS)
        if self.lon_max - self.lon_min >= 360:
            circle = np.linspace(self.lon_min, self.lon_min + 360, 8 * _EDGE_POINTS)
            inner = self.lat_min if self.lat_max == 90 else self.lat_max
            return circle, np.full(len(circle), inner)
        lon, lat = self.lon_max - self.lon_min, self.lat_max - self.lat_min
        one, zero = np.ones(_EDGE_POINTS), np.zeros(_EDGE_POINTS)
        return (
            self.lon_min + lon * np.concatenate([edge, one, 1 - edge, zero]),
            self.lat_min + lat * np.concatenate([zero, edge, one, 1 - edge]),
        )


def read_quadrangles(path: Path) -> list[Quadrangle]:
    """Read quadrangles from a CSV: name, lon_min, lat_min, lon_max, lat_max and perhaps part.

    Raises
    ------
    DataError
        When the file is missing, lacks a column, or a row is impossible: limits that are no
        degrees or in the wrong order, a name given twice, a part other than train or test,
        quadrangles that overlap. The message names the row.
    """
    path = Path(path)
    columns = ["name", "lon_min", "lat_min", "lon_max", "lat_max"]
    try:
        table = pd.read_csv(path, dtype={"name": str, "part": str}, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a CSV: {error}") from error
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        raise DataError(
            f"{path} {'lacks ' + ', '.join(missing) if missing else 'has no rows'}; expected the "
            f"columns {', '.join(columns)} and perhaps part."
        )
    found: list[Quadrangle] = []
    for number, row in enumerate(table.to_dict("records"), start=2):
        where = f"{path}, row {number}"
        limits = [pd.to_numeric(row[column], errors="coerce") for column in columns[1:]]
        lon_min, lat_min, lon_max, lat_max = (float(value) for value in limits)
        if not np.isfinite([lon_min, lat_min, lon_max, lat_max]).all():
            raise DataError(f"{where}: {row} has limits that are no numbers.")
        if lon_max <= lon_min:
            lon_max += 360  # across the meridian where longitudes begin anew
        if not (-180 <= lon_min <= 360 and lon_max - lon_min <= 360):
            raise DataError(f"{where}: longitudes {lon_min} to {lon_max}; expected -180 to 360.")
        if not -90 <= lat_min < lat_max <= 90:
            raise DataError(f"{where}: latitudes {lat_min} to {lat_max}; expected -90 to 90.")
        part = row.get("part", "")
        part = part.strip() if isinstance(part, str) else ""
        if part not in ("", *PARTS):
            raise DataError(f"{where}: part {part!r}; expected train, test or nothing.")
        found.append(Quadrangle(str(row["name"]), lon_min, lat_min, lon_max, lat_max, part))
    names = [quadrangle.name for quadrangle in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the names {', '.join(twice)} stand more than once.")
    for i, one in enumerate(found):
        for other in found[:i]:
            if _overlap(one, other):
                raise DataError(
                    f"{path}: {other.name} and {one.name} overlap; ground must not be shared."
                )
    return found


def _overlap(one: Quadrangle, other: Quadrangle) -> bool:
    # limits written with some decimals may overlap by a rounding error
    slack = 1e-6
    if min(one.lat_max, other.lat_max) - max(one.lat_min, other.lat_min) <= slack:
        return False
    return any(
        min(one.lon_max, other.lon_max + turn) - max(one.lon_min, other.lon_min + turn) > slack
        for turn in (-360, 0, 360)
    )


def grid(footprint: tuple[float, float, float, float], size: float) -> list[Quadrangle]:
    """Divide the footprint of a mosaic into quadrangles of at most `size` degrees of arc.

    Parameters
    ----------
    footprint : (lon_min, lat_min, lon_max, lat_max)
        Degrees.
    size : float
        Largest side, degrees of latitude; meridians are spaced wider towards the poles.
    """
    lon_min, lat_min, lon_max, lat_max = footprint
    bands = max(1, int(np.ceil((lat_max - lat_min) / size - 1e-6)))
    found = []
    for south, north in _steps(lat_min, lat_max, bands):
        widest = 0.0 if south < 0 < north else min(abs(south), abs(north))
        width = (lon_max - lon_min) * np.cos(np.deg2rad(widest))
        for west, east in _steps(lon_min, lon_max, max(1, int(np.ceil(width / size - 1e-6)))):
            lon, lat = (west + east) / 2 % 360, (south + north) / 2
            name = f"{'N' if lat >= 0 else 'S'}{abs(lat):05.2f}E{lon:06.2f}"
            found.append(Quadrangle(name, west, south, east, north))
    return found


def _steps(low: float, high: float, n: int) -> Iterable[tuple[float, float]]:
    limits = [low + (high - low) * i / n for i in range(n)] + [high]
    return itertools.pairwise(limits)


def side(n: int) -> int:
    """Side in level-0 pixels of a block of n x n tiles."""
    return OVERLAP + STRIDE * n


def tiles_across(length: float, level: int = 0) -> int:
    """How many tiles of a level fit side by side into `length` level-0 pixels."""
    return max(0, int((length / 2**level - OVERLAP) // STRIDE))


def tiles_of_block(row: int, col: int, n: int, levels: int) -> np.ndarray:
    """The tiles of the block of n x n tiles whose first pixel is (row, col).

    Returns
    -------
    ndarray of int (k, 3)
        Level, row and col of the tile's first pixel, in pixels of that level.
    """
    tiles: list[tuple[int, int, int]] = []
    for level in range(levels):
        length = side(n) // 2**level
        across = tiles_across(side(n), level)
        start = (length - side(across)) // 2
        steps = start + STRIDE * np.arange(across)
        for row0 in row // 2**level + steps:
            tiles.extend((level, int(row0), int(col0)) for col0 in col // 2**level + steps)
    return np.array(tiles, dtype=int).reshape(-1, 3)


def lay_blocks(area: BaseGeometry, n: int, levels: int) -> list[tuple[int, int]]:
    """Lay as many blocks as fit into an area: rows of blocks, buffers between them, centred.

    Parameters
    ----------
    area : shapely geometry
        In level-0 pixels of the plane, x = col and y = row from the first corner.
    n, levels : int
        Tiles across a block at level 0, and levels of the pyramid.

    Returns
    -------
    list of (row, col)
        First pixels of the blocks, multiples of 2**(levels - 1) so that every level's pixels end
        at a block's border.
    """
    length, align = side(n), 2 ** (levels - 1)
    pitch = int(np.ceil((length + BUFFER) / align)) * align
    area = area.buffer(-BUFFER / 2, join_style="mitre")
    if area.is_empty:
        return []
    _, low, _, high = area.bounds
    first, last = _first_row(area, low, high, length), _first_row(area, high, low, -length)
    if first is None or last is None:
        return []
    blocks: list[tuple[int, int]] = []
    for row in _centred(first, last, length, pitch, align):
        span = _clear_span(area, row, row + length)
        if span is not None:
            blocks.extend((row, col) for col in _centred(*span, length, pitch, align))
    return blocks


def _first_row(area: BaseGeometry, start: float, stop: float, length: int) -> float | None:
    """The first y from `start` towards `stop` where a block fits (upward if length is negative)."""
    step = np.copysign(8.0, length)
    for y in np.arange(start, stop - length + step / 8, step):
        span = _clear_span(area, min(y, y + length), max(y, y + length))
        if span is not None and span[1] - span[0] >= abs(length):
            return float(y)
    return None


def _clear_span(area: BaseGeometry, top: float, bottom: float) -> tuple[float, float] | None:
    """The widest range of x that lies inside the area all the way from top to bottom."""
    from shapely.geometry import LineString

    low, _, high, _ = area.bounds
    left, right = low, high
    for y in np.linspace(top, bottom, 9):
        crossing = area.intersection(LineString([(low - 1, y), (high + 1, y)]))
        pieces = [p for p in getattr(crossing, "geoms", [crossing]) if p.length > 0]
        if not pieces:
            return None
        bounds = max(pieces, key=lambda piece: piece.length).bounds
        left, right = max(left, bounds[0]), min(right, bounds[2])
    return (left, right) if right > left else None


def _centred(low: float, high: float, length: int, pitch: int, align: int) -> Sequence[int]:
    """Starts of as many pieces of `length` as fit between low and high, at equal pitch, centred."""
    first = int(np.ceil(low / align)) * align
    room = np.floor(high) - first
    count = int((room - length) // pitch) + 1 if room >= length else 0
    if count <= 0:
        return []
    spare = int(room - (count - 1) * pitch - length)
    start = first + spare // 2 // align * align
    return [start + pitch * i for i in range(count)]


def choose_block_tiles(areas: Sequence[BaseGeometry], levels: int) -> int:
    """How many tiles across a block should have, in quadrangles of these areas.

    Large blocks have more levels, but blocks are what scores are averaged over: the largest of 15,
    7 and 3 tiles that leaves 16 blocks to the average quadrangle; 3 otherwise, and 1 where not
    even that fits.
    """
    for n in (15, 7):
        # more tiles than the coarsest level needs only cost blocks
        if tiles_across(side(n), levels) > 0:
            continue
        if sum(len(lay_blocks(area, n, levels)) for area in areas) >= _ENOUGH_BLOCKS * len(areas):
            return n
    return 3 if any(lay_blocks(area, 3, levels) for area in areas) else 1
