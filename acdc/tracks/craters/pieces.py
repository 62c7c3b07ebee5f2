"""One quadrangle of a mosaic: blocks read into its plane, cut into tiles, with their circles."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from acdc import store
from acdc.tracks.craters import blocks as layout
from acdc.tracks.craters.projection import Plane
from acdc.tracks.craters.raster import Raster, View
from acdc.tracks.craters.tiles import CIRCLE_COLUMNS, RANGES, TILE, TILE_COLUMNS, WINDOW
from acdc.tracks.craters.units import PROPERTIES, Units

# a tile needs this share of pixels with data, and a crater may miss this share of its disc
_LEAST_VALID, _MOST_MISSING = 0.5, 0.25
# level-0 pixels of a quadrangle that the label audit looks at
_AUDIT_PIXELS = 8_000_000
# raise it when the same task gives other tiles than before: unfinished work is not mixed then
_FORMAT = 1


@dataclass(frozen=True)
class Block:
    """A square of tiles.

    Parameters
    ----------
    name : str
    row, col : int
        Its first pixel in the plane, level 0.
    across : int
        Tiles along a side at level 0.
    """

    name: str
    row: int
    col: int
    across: int

    @property
    def side(self) -> int:
        """Level-0 pixels along a side."""
        return layout.side(self.across)


@dataclass(frozen=True)
class Task:
    """All that is needed to prepare one quadrangle, anywhere.

    Parameters
    ----------
    name : str
        Of the quadrangle.
    plane : Plane
    blocks : tuple of Block
    levels : int
        Levels of the pyramid.
    mosaic : Path
    nodata : int or None
        As for `Raster`.
    craters : DataFrame
        Those of the catalogue that may touch the quadrangle.
    units : Units
    register : bool
        Displace the circles by what the label audit finds.
    folder : Path
        Where the finished piece goes.
    sources : str
        Identity of the input files.
    """

    name: str
    plane: Plane
    blocks: tuple[Block, ...]
    levels: int
    mosaic: Path
    nodata: int | None
    craters: pd.DataFrame
    units: Units
    register: bool
    folder: Path
    sources: str

    @property
    def piece(self) -> Path:
        """The file of the finished piece; its name says what went into it."""
        digest = hashlib.sha256()
        stated = (
            _FORMAT,
            self.name,
            self.plane,
            self.blocks,
            self.levels,
            self.nodata,
            self.register,
            self.sources,
        )
        digest.update(repr(stated).encode())
        return self.folder / f"{digest.hexdigest()[:32]}.h5"


def prepare_piece(task: Task) -> Path:
    """Prepare one quadrangle and keep the result as a file; do nothing if it is there.

    Returns
    -------
    Path
        The piece: data set `tiles`, tables `rows` (of tiles) and `circles`, attribute
        `label_audit` (JSON).

    Raises
    ------
    DataError
        When the mosaic cannot be read or the disk is full; no piece is left then.
    """
    piece = task.piece
    if piece.is_file():
        return piece
    with (
        Raster(task.mosaic, task.nodata) as raster,
        store.write_file(piece, {"quadrangle": task.name}) as file,
    ):
        # room for all tiles; those without data leave the end of it empty
        most = sum(
            len(layout.tiles_of_block(block.row, block.col, block.across, task.levels))
            for block in task.blocks
        )
        images = file.create_dataset("tiles", (most, TILE, TILE), np.uint8)
        rows, masks, audited, count = [], [], _Audited(task.blocks), 0
        for block, image, valid in _blocks(task, raster.view(task.plane)):
            audited.keep(block, image)
            tiles, crops, valid_crops = _cut(block, image, valid, task.levels)
            images[count : count + len(crops)] = crops
            count += len(crops)
            rows.append(tiles)
            # a bit a pixel: they are needed once more, for the circles
            masks.append(np.packbits(valid_crops, axis=-1))
        table = _describe(task, pd.concat(rows, ignore_index=True))
        circles = task.plane.to_pixels(
            *(task.craters[name].to_numpy() for name in ("lon", "lat", "radius"))
        )
        circles, audit = audited.register(task, circles)
        on_tiles = place_circles(circles, task.craters, table)
        on_tiles = _flag_missing(on_tiles, np.concatenate(masks))
        store.write_table(file, "rows", table[list(TILE_COLUMNS)])
        store.write_table(file, "circles", on_tiles[list(CIRCLE_COLUMNS)])
        file.attrs["label_audit"] = json.dumps(audit)
    return piece


def read_piece(task: Task) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The tiles and circles of a finished piece, and its label audit."""
    with store.open_file(task.piece) as file:
        rows, circles = store.read_table(file, "rows"), store.read_table(file, "circles")
        return rows, circles, json.loads(file.attrs["label_audit"])


def read_crops(task: Task, rows: np.ndarray, batch: int = 64) -> Iterator[np.ndarray]:
    """The tiles `rows` (rising) of a finished piece, some at a time."""
    with store.open_file(task.piece) as file:
        for start in range(0, len(rows), batch):
            yield file["tiles"][rows[start : start + batch]]


def _blocks(task: Task, view: View) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
    """Every block with its pixels; those side by side are read together, row by row."""
    by_row: dict[tuple[int, int], list[Block]] = {}
    for block in task.blocks:
        by_row.setdefault((block.row, block.side), []).append(block)
    for (row, side), members in sorted(by_row.items()):
        left = min(block.col for block in members)
        right = max(block.col + block.side for block in members)
        image, valid = view.read(row, left, side, right - left)
        for block in sorted(members, key=lambda block: block.col):
            span = slice(block.col - left, block.col - left + side)
            yield block, image[:, span], valid[:, span]


def _cut(
    block: Block, image: np.ndarray, valid: np.ndarray, levels: int
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The tiles of a block that hold enough data: rows, crops and their valid pixels."""
    pyramid = [shrink(image, valid, level) for level in range(levels)]
    rows, crops, masks = [], [], []
    places = layout.tiles_of_block(block.row, block.col, block.across, levels).tolist()
    for level, row0, col0 in places:
        level_image, level_valid = pyramid[level]
        top, left = row0 - (block.row >> level), col0 - (block.col >> level)
        span = (slice(top, top + TILE), slice(left, left + TILE))
        share = float(level_valid[span].mean())
        if share < _LEAST_VALID:
            continue
        window = level_valid[span][WINDOW[0] : WINDOW[1], WINDOW[0] : WINDOW[1]]
        rows.append((block.name, level, row0, col0, share, int(window.sum())))
        crops.append(level_image[span])
        masks.append(level_valid[span])
    columns = ["block", "level", "row0", "col0", "valid", "window_pixels"]
    shape = (len(rows), TILE, TILE)
    table = pd.DataFrame(rows, columns=columns).astype(
        {"block": object, "level": int, "row0": int, "col0": int, "valid": float}
    )
    return (
        table,
        np.array(crops, dtype=np.uint8).reshape(shape),
        np.array(masks, dtype=bool).reshape(shape),
    )


def shrink(image: np.ndarray, valid: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """A coarser level of a picture: means over 2**level x 2**level pixels, of those with data.

    Parameters
    ----------
    image : ndarray of uint8 (h, w)
        h and w divisible by 2**level.
    valid : ndarray of bool (h, w)
    level : int

    Returns
    -------
    image : ndarray of uint8, valid : ndarray of bool
        A pixel is valid where at least half of those below it are; 0 elsewhere.
    """
    if level == 0:
        return image, valid
    step = 2**level
    shape = (image.shape[0] // step, step, image.shape[1] // step, step)
    count = valid.reshape(shape).sum(axis=(1, 3), dtype=np.int64)
    total = np.where(valid, image, 0).reshape(shape).sum(axis=(1, 3), dtype=np.int64)
    enough = 2 * count >= step * step
    mean = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(enough, mean, 0).astype(np.uint8), enough


def _describe(task: Task, table: pd.DataFrame) -> pd.DataFrame:
    """Scale, area and surroundings of tiles."""
    scale = 2.0 ** table["level"].to_numpy()
    # the middle of a tile lies between pixels: 112 pixel widths from its first corner
    row, col = ((table[name].to_numpy() + TILE / 2) * scale - 0.5 for name in ("row0", "col0"))
    pixel_size = task.plane.pixel_size(row, col) * scale if len(table) else np.empty(0)
    lon, lat = task.plane.pixel_to_point(row, col)
    known = task.units.at(lon, lat)
    if not any("region" in properties for properties in task.units.properties):
        known["region"] = task.name  # nobody says where ages change: one model age per quadrangle
    return table.assign(
        quadrangle=task.name,
        pixel_size=pixel_size,
        window_area=table["window_pixels"].to_numpy(dtype=float) * (pixel_size / 1000) ** 2,
        **{name: known[name].to_numpy() for name in PROPERTIES},
    )


def place_circles(circles: np.ndarray, craters: pd.DataFrame, tiles: pd.DataFrame) -> pd.DataFrame:
    """The circles on every tile that they touch.

    Parameters
    ----------
    circles : ndarray (n, 3)
        Row, col, radius in level-0 pixels of the plane.
    craters : DataFrame (n rows)
        crater_id, kind, flag, degradation and ejecta of each.
    tiles : DataFrame
        level, row0, col0.

    Returns
    -------
    DataFrame
        Columns as in `tiles.CIRCLE_COLUMNS`, sorted by tile; flag 2 where a crater is not at its
        home level, the finest where its radius is at most 28 pixels, unless it is 1.
    """
    found_tiles, found_circles = [], []
    level, row0, col0 = (tiles[name].to_numpy() for name in ("level", "row0", "col0"))
    for number in range(len(tiles)):
        row, col, radius = to_level(circles, int(level[number])).T
        # distance from the centre to the tile, whose pixels reach half a pixel beyond their centres
        down = np.abs(row - row0[number] - (TILE - 1) / 2) - TILE / 2
        right = np.abs(col - col0[number] - (TILE - 1) / 2) - TILE / 2
        touching = np.hypot(np.maximum(down, 0), np.maximum(right, 0)) < radius
        indices = np.flatnonzero(touching)
        found_tiles.append(np.full(len(indices), number))
        found_circles.append(indices)
    tile = np.concatenate(found_tiles) if found_tiles else np.empty(0, dtype=int)
    which = np.concatenate(found_circles) if found_circles else np.empty(0, dtype=int)
    scale = 2.0 ** level[tile]
    placed = craters.iloc[which].reset_index(drop=True)
    radius = circles[which, 2]
    home = np.maximum(np.ceil(np.log2(radius / RANGES["all"][1])), 0)
    return placed.assign(
        tile=tile,
        row=(circles[which, 0] + 0.5) / scale - 0.5 - row0[tile],
        col=(circles[which, 1] + 0.5) / scale - 0.5 - col0[tile],
        radius=radius / scale,
        flag=np.where(placed["flag"] == 1, 1, np.where(home != level[tile], 2, 0)),
    )[list(CIRCLE_COLUMNS)]


def to_level(circles: np.ndarray, level: int) -> np.ndarray:
    """Circles of level 0 in the pixels of another level, (n, 3)."""
    scale = 2.0**level
    return np.column_stack([(circles[:, :2] + 0.5) / scale - 0.5, circles[:, 2] / scale])


def _flag_missing(circles: pd.DataFrame, masks: np.ndarray) -> pd.DataFrame:
    """Flag circles of whose disc, as far as it lies on the tile, too much has no data."""
    # points that cover a disc evenly (a sunflower's seeds)
    number = np.arange(64) + 0.5
    distance, angle = np.sqrt(number / 64), number * np.pi * (1 + np.sqrt(5))
    holes = np.flatnonzero(np.unpackbits(masks, axis=-1).reshape(len(masks), -1).mean(axis=1) < 1)
    affected = np.flatnonzero(circles["tile"].isin(holes))
    if not len(affected):
        return circles
    some = circles.iloc[affected]
    row, col, radius = (some[name].to_numpy()[:, None] for name in ("row", "col", "radius"))
    at_row = np.rint(row + radius * distance * np.cos(angle)).astype(int)
    at_col = np.rint(col + radius * distance * np.sin(angle)).astype(int)
    inside = (np.minimum(at_row, at_col) >= 0) & (np.maximum(at_row, at_col) < TILE)
    at_row, at_col = np.clip(at_row, 0, TILE - 1), np.clip(at_col, 0, TILE - 1)
    octet = masks[some["tile"].to_numpy()[:, None], at_row, at_col // 8]
    missing = inside & ((octet >> (7 - at_col % 8)) & 1 == 0)
    too_many = missing.sum(axis=1) > _MOST_MISSING * np.maximum(inside.sum(axis=1), 1)
    flag = circles["flag"].to_numpy().copy()
    flag[affected[too_many]] = 1
    return circles.assign(flag=flag)


class _Audited:
    """Some blocks of a quadrangle, evenly chosen, on which the label audit looks."""

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        count = max(1, _AUDIT_PIXELS // blocks[0].side ** 2)
        chosen = np.linspace(0, len(blocks) - 1, min(count, len(blocks))).astype(int)
        self._chosen = {blocks[i].name for i in chosen}
        self._kept: list[tuple[Block, np.ndarray]] = []

    def keep(self, block: Block, image: np.ndarray) -> None:
        """Keep the image of a block if it is one of those that were chosen."""
        if block.name in self._chosen:
            self._kept.append((block, image.copy()))

    def register(self, task: Task, circles: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Estimate the displacement of the circles; correct it if the task wants that."""
        from acdc.tracks.craters import registration

        sure = circles[task.craters["flag"].to_numpy() == 0]
        in_blocks = []
        for block, _ in self._kept:
            local = sure - [block.row, block.col, 0]
            middle = np.abs(local[:, :2] - (block.side - 1) / 2).max(axis=1)
            in_blocks.append(local[middle < block.side / 2])
        found = registration.estimate([image for _, image in self._kept], in_blocks)
        # JSON has no NaN: what could not be estimated is null
        stated = {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in dataclasses.asdict(found).items()
        }
        audit = {
            "quadrangle": task.name,
            **stated,
            "reliable": bool(found.reliable),
            "corrected": False,
        }
        if task.register and found.reliable:
            audit["corrected"] = True
            circles = registration.apply(circles, found)
        return circles, audit
