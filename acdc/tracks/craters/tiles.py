"""Tiles and the circles on them: how a split of the crater track is stored, read and handed out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from acdc import store
from acdc.errors import DataError

TILE = 224
OVERLAP = 56
WINDOW = (28, 196)
RANGES = {"all": (5.0, 28.0), "small": (5.0, 8.0), "medium": (8.0, 14.0), "large": (14.0, 28.0)}
KINDS = ("valid", "layered", "ghost", "secondary")
REASONS = ("scored", "uncertain", "level", "size", "window")

TILE_COLUMNS = (
    "block",
    "quadrangle",
    "level",
    "row0",
    "col0",
    "pixel_size",
    "valid",
    "window_area",
    "region",
    "sensor",
    "light",
    "terrain",
)
CIRCLE_COLUMNS = (
    "tile",
    "row",
    "col",
    "radius",
    "kind",
    "flag",
    "crater_id",
    "degradation",
    "ejecta",
)
QUADRANGLE_COLUMNS = ("name", "crs", "a", "b", "c", "d", "e", "f")
# what a participant may know about a tile lies beside the pixels
_CONDITIONS = ("sensor", "light")


class Crater(tuple):
    """A circle (row, col, radius) in pixels of its tile; (0, 0) is the centre of the first pixel.

    Attributes
    ----------
    kind : str
        valid, layered, ghost or secondary.
    reason : str
        "scored", or why it is ignored: uncertain, level (it belongs to a coarser or finer level of
        the pyramid), size (outside the scored radii) or window (its centre lies near the border).
    """

    kind: str
    reason: str

    def __new__(  # noqa: D102
        cls,
        row: float,
        col: float,
        radius: float,
        kind: str = "valid",
        reason: str = "scored",
    ) -> Crater:
        self = super().__new__(cls, (row, col, radius))
        self.kind, self.reason = kind, reason
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Crater, (*self, self.kind, self.reason)


class TileArray(store.LazyArray):
    """The tiles of a split: uint8 (n, 224, 224), read lazily; 0 is no data.

    Attributes
    ----------
    sensor, light : ndarray of str (n,)
        What took the picture and under which light ("" where unknown).
    """

    def __init__(self, path: Path, rows: np.ndarray | None = None) -> None:
        super().__init__(path, "tiles", rows)
        with store.open_file(self.path) as file:
            conditions = store.read_table(file, "conditions")
        self._conditions = {
            name: conditions[name].astype(object).to_numpy() for name in _CONDITIONS
        }

    @property
    def sensor(self) -> np.ndarray:
        """Instrument of each tile, (n,)."""
        return self._condition("sensor")

    @property
    def light(self) -> np.ndarray:
        """Light of each tile (for instance day or night), (n,)."""
        return self._condition("light")

    def _condition(self, name: str) -> np.ndarray:
        values = self._conditions[name]
        return values if self.rows is None else values[self.rows]


class Targets:
    """What is known about the tiles of a split, held in columns; the `y` that participants get.

    `y[i]` is the list of scored `Crater` of tile i and `y.ignored[i]` the list of those that are
    visible, but not scored: they are no background to learn from. A slice, index array or mask
    gives the targets of those tiles. To numpy it looks like an object array of lists.

    Parameters
    ----------
    tiles : DataFrame
        One row a tile, columns as in `TILE_COLUMNS`.
    circles : DataFrame
        One row per circle and tile, sorted by tile, columns as in `CIRCLE_COLUMNS`.
    quadrangles : DataFrame
        The planes in which tiles lie, columns as in `QUADRANGLE_COLUMNS`.

    Attributes
    ----------
    offsets : ndarray of int (n + 1,)
        Circles of tile i are `offsets[i]` to `offsets[i + 1]`.
    row_col_radius : ndarray (T, 3)
        All circles as (row, col, radius), px.
    kind : ndarray of int (T,)
        Index into `KINDS`.
    reason : ndarray of int (T,)
        Index into `REASONS`.
    """

    dtype = np.dtype(object)
    ndim = 1

    def __init__(
        self, tiles: pd.DataFrame, circles: pd.DataFrame, quadrangles: pd.DataFrame
    ) -> None:
        self.tiles, self.circles, self.quadrangles = tiles, circles, quadrangles
        tile = circles["tile"].to_numpy()
        self.offsets = np.searchsorted(tile, np.arange(len(tiles) + 1))
        self.row_col_radius = circles[["row", "col", "radius"]].to_numpy(dtype=float)
        self.kind = circles["kind"].to_numpy()
        self.reason = why_ignored(self.row_col_radius, circles["flag"].to_numpy())

    @property
    def shape(self) -> tuple[int]:
        """The number of tiles, as a tuple."""
        return (len(self),)

    @property
    def ignored(self) -> IgnoredCircles:
        """Per tile, the circles that are not scored."""
        return IgnoredCircles(self)

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, key: Any) -> Any:
        if hasattr(key, "__index__") and np.ndim(key) == 0:
            return self._list(range(len(self))[index(key)], scored=True)
        return self.take(np.arange(len(self))[key])

    def _list(self, tile: int, *, scored: bool) -> list[Crater]:
        span = slice(self.offsets[tile], self.offsets[tile + 1])
        return [
            Crater(row, col, radius, KINDS[kind], REASONS[reason])
            for (row, col, radius), kind, reason in zip(
                self.row_col_radius[span].tolist(), self.kind[span], self.reason[span], strict=True
            )
            if bool(reason == 0) == scored
        ]

    def __iter__(self) -> Iterator[list[Crater]]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(len(self), dtype=object)
        for i, craters in enumerate(self):
            array[i] = craters
        return array

    def take(self, rows: np.ndarray) -> Targets:
        """The targets of the tiles `rows`, in that order."""
        circles = self.circles.iloc[spans(self.offsets, rows)].copy()
        counts = np.diff(self.offsets)[rows]
        circles["tile"] = np.repeat(np.arange(len(rows)), counts)
        tiles = self.tiles.iloc[rows].reset_index(drop=True)
        return Targets(tiles, circles.reset_index(drop=True), self.quadrangles)

    @staticmethod
    def join(parts: Sequence[Targets]) -> Targets:
        """Put the targets of groups of tiles of one data set behind each other."""
        starts = np.cumsum([0] + [len(part) for part in parts])
        circles = [
            part.circles.assign(tile=part.circles["tile"] + start)
            for part, start in zip(parts, starts[:-1], strict=True)
        ]
        return Targets(
            pd.concat([part.tiles for part in parts], ignore_index=True),
            pd.concat(circles, ignore_index=True),
            parts[0].quadrangles,
        )

    def __repr__(self) -> str:
        scored = int((self.reason == 0).sum())
        return f"Targets({len(self)} tiles, {scored} scored circles of {len(self.reason)})"


class IgnoredCircles:
    """Per tile, the list of circles that are visible but not scored; indexed like the targets."""

    def __init__(self, targets: Targets) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: Any) -> Any:
        if hasattr(key, "__index__") and np.ndim(key) == 0:
            return self.targets._list(range(len(self))[index(key)], scored=False)
        return IgnoredCircles(self.targets[key])

    def __iter__(self) -> Iterator[list[Crater]]:
        return (self[i] for i in range(len(self)))


def spans(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where the elements of some rows of a ragged table lie.

    Parameters
    ----------
    offsets : ndarray of int (n + 1,)
        Row i owns the elements offsets[i] .. offsets[i + 1] - 1.
    rows : ndarray of int (m,)
        In any order, also repeated.

    Returns
    -------
    ndarray of int
        Indices of all elements of these rows, row after row.
    """
    counts = np.diff(offsets)[rows]
    starts = np.repeat(offsets[:-1][rows] - np.r_[0, np.cumsum(counts)[:-1]], counts)
    return starts + np.arange(counts.sum())


def why_ignored(circles: np.ndarray, flag: np.ndarray) -> np.ndarray:
    """Why circles are not scored, as indices into `REASONS` (0: they are scored).

    Parameters
    ----------
    circles : ndarray (T, 3)
        Row, col, radius, px.
    flag : ndarray of int (T,)
        1 uncertain, 2 not at its home level, 0 neither.
    """
    low, high = RANGES["all"]
    row, col, radius = circles.T
    inside = (row >= WINDOW[0]) & (row < WINDOW[1]) & (col >= WINDOW[0]) & (col < WINDOW[1])
    sized = (radius >= low) & (radius <= high)
    return np.select([flag == 1, flag == 2, ~sized, ~inside], [1, 2, 3, 4], default=0)


def write_split(
    folder: Path,
    images: Iterable[np.ndarray],
    tiles: pd.DataFrame,
    circles: pd.DataFrame,
    quadrangles: pd.DataFrame,
    *,
    attributes: Mapping[str, store.Attribute],
    shuffle_seed: int | None = None,
) -> None:
    """Write `inputs.h5` and `targets.h5` of one split; the targets last, so that a pair is whole.

    Parameters
    ----------
    folder : Path
        Where the two files go; made if missing.
    images : iterable of ndarray of uint8 (k, 224, 224)
        The tiles in the order of `tiles`, a few at a time.
    tiles, circles, quadrangles : DataFrame
        Columns as in `TILE_COLUMNS`, `CIRCLE_COLUMNS`, `QUADRANGLE_COLUMNS`. `circles.tile` counts
        rows of `tiles`. In `flag`, 1 marks uncertain circles, 2 those not at their home level.
    attributes : mapping
        What a participant may know: simulated, source, licence, units ...
    shuffle_seed : int or None
        Shuffle the tiles, so that their order tells nothing.

    Raises
    ------
    DataError
        When a column is missing, a circle impossible, or the disk full.
    """
    for name, table, columns in (
        ("tiles", tiles, TILE_COLUMNS),
        ("circles", circles, CIRCLE_COLUMNS),
        ("quadrangles", quadrangles, QUADRANGLE_COLUMNS),
    ):
        missing = [column for column in columns if column not in table]
        if missing:
            raise DataError(f"{folder}: table {name} lacks the columns {', '.join(missing)}")
    _check_circles(folder, circles, len(tiles))
    order = np.arange(len(tiles))
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(len(tiles))
    stored_tiles = tiles.iloc[np.argsort(order)].reset_index(drop=True)
    stored_circles = circles.assign(tile=order[circles["tile"].to_numpy(dtype=int)])
    stored_circles = stored_circles.sort_values(["tile", "row", "col"], kind="stable")

    folder = Path(folder)
    targets = folder / store.TARGETS
    targets.unlink(missing_ok=True)
    inputs = folder / store.INPUTS
    # the checksum is known when the pixels are written: the attribute is set in the same file
    with store.write_file(inputs, {"track": "craters", **attributes}) as file:
        shape = (len(tiles), TILE, TILE)
        store.write_rows(file, "tiles", images, shape, np.uint8, order)
        store.write_table(file, "conditions", stored_tiles[list(_CONDITIONS)])
        digest = store.checksum(file["tiles"])
        file.attrs["checksum"] = digest
    with store.write_file(targets, {"track": "craters", "inputs_checksum": digest}) as file:
        store.write_table(file, "tiles", stored_tiles[list(TILE_COLUMNS)])
        store.write_table(file, "circles", stored_circles[list(CIRCLE_COLUMNS)])
        store.write_table(file, "quadrangles", quadrangles[list(QUADRANGLE_COLUMNS)])
        offsets = np.searchsorted(stored_circles["tile"], np.arange(len(tiles) + 1))
        file.create_dataset("offsets", data=offsets)


def _check_circles(folder: Path, circles: pd.DataFrame, n_tiles: int) -> None:
    values = circles[["row", "col", "radius"]].to_numpy(dtype=float)
    bad = ~np.isfinite(values).all(axis=1) | (values[:, 2] <= 0)
    tile = circles["tile"].to_numpy(dtype=int)
    bad |= (tile < 0) | (tile >= n_tiles)
    if bad.any():
        first = circles.iloc[int(np.flatnonzero(bad)[0])]
        raise DataError(
            f"{folder}: {int(bad.sum())} circles are impossible, the first is {first.to_dict()}; "
            f"expected finite row and col, a positive radius and a tile below {n_tiles}"
        )


def read_images(folder: Path, rows: np.ndarray | None = None) -> TileArray:
    """Open the tiles of a split; nothing is read before it is asked for.

    Parameters
    ----------
    folder : Path
        Folder of the split.
    rows : ndarray of int or None
        Only these tiles.
    """
    return TileArray(Path(folder) / store.INPUTS, rows)


def read_targets(folder: Path, rows: np.ndarray | None = None) -> Targets:
    """Read the targets of a split.

    Parameters
    ----------
    folder : Path
        Folder of the split.
    rows : ndarray of int or None
        Only these tiles; of the others nothing but their number is read.

    Raises
    ------
    DataError
        When the files are missing, damaged or do not belong together.
    """
    with store.open_targets(folder) as file:
        quadrangles = store.read_table(file, "quadrangles")
        if rows is None:
            tiles, circles = store.read_table(file, "tiles"), store.read_table(file, "circles")
            return Targets(tiles, circles, quadrangles)
        rows = np.asarray(rows)
        offsets = file["offsets"][:]
        tiles = store.read_table(file, "tiles", [(r, r + 1) for r in rows])
        circles = store.read_table(file, "circles", [(offsets[r], offsets[r + 1]) for r in rows])
    circles["tile"] = np.repeat(np.arange(len(rows)), np.diff(offsets)[rows])
    return Targets(tiles, circles, quadrangles)


def choose_blocks(folder: Path, n_blocks: int, n_tiles: int, seed: int = 0) -> np.ndarray:
    """Choose a few tiles out of a few blocks, for quick tests; always the same ones.

    Returns
    -------
    rows : ndarray of int
        At most `n_blocks` times `n_tiles` rows, sorted.
    """
    with store.open_file(Path(folder) / store.TARGETS) as file:
        block = file["tiles/block"][:]
    random = np.random.default_rng(seed)
    names = np.unique(block)
    chosen = random.choice(names, min(n_blocks, len(names)), replace=False)
    rows = [random.permutation(np.flatnonzero(block == name))[:n_tiles] for name in chosen]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=int)
