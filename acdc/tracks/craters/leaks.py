"""Leak audit: no ground is shared between blocks, and so not between folds, nor train and test.

Two proofs, since either can fail. Footprints: no tile's square, widened by a buffer, meets one of
another block, in the plane of its quadrangle or, between quadrangles, on the sphere. Pixels: no
tile shows the same ground as one of another block (`duplicates`), which is all there is for
pictures without a map, and finds what a map with a wrong georeference hides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from acdc.errors import DataError
from acdc.tracks.craters import duplicates, tiles

SPLITS = ("train", "test")
COLUMNS = ("how", "first", "second", "first_block", "second_block", "detail")


@dataclass(frozen=True)
class LeakReport:
    """What the audit looked at and what it found.

    Attributes
    ----------
    tiles, blocks : int
        Number of tiles and of blocks, over both splits.
    quadrangles : int
        Number of planes or pictures they lie in.
    leaks : pandas.DataFrame
        ``how`` (block, footprint or image), ``first`` and ``second`` (split and tile, as in
        ``train:17``), their blocks, and ``detail``; empty where all is well.
    """

    tiles: int
    blocks: int
    quadrangles: int
    leaks: pd.DataFrame

    def __str__(self) -> str:
        """A line or a few for people."""
        looked = f"{self.tiles} tiles in {self.blocks} blocks of {self.quadrangles} quadrangles"
        if self.leaks.empty:
            return f"no ground is shared between blocks ({looked})"
        first = [
            f"  {leak.how}: {leak.first} ({leak.first_block}) and {leak.second} "
            f"({leak.second_block}): {leak.detail}"
            for leak in self.leaks.head(5).itertuples()
        ]
        more = [f"  and {len(self.leaks) - 5} more"] if len(self.leaks) > 5 else []
        return "\n".join([f"{len(self.leaks)} pairs share ground ({looked}):", *first, *more])


def audit(out: Path, *, buffer: float = 0, progress: bool = False) -> LeakReport:
    """Prove that blocks share no ground.

    Parameters
    ----------
    out : Path
        Folder of the prepared splits; ``train`` and ``test``, or one of them.
    buffer : float
        Least gap between the footprints of different blocks, in pixels of level 0 of the first
        one's quadrangle.
    progress : bool
        Show a progress bar.

    Returns
    -------
    LeakReport
        The report of a clean data set.

    Raises
    ------
    DataError
        A leak, with the first pairs of tiles; or no data.
    """
    report = find(out, buffer=buffer, progress=progress)
    if not report.leaks.empty:
        raise DataError(
            f"{out}: {report}\nPrepare the data again with blocks that are apart, or drop one of "
            "each pair; scores on leaking data mean nothing"
        )
    return report


def find(out: Path, *, buffer: float = 0, progress: bool = False) -> LeakReport:
    """Like `audit`, but a leak is reported, not raised."""
    folders = {name: Path(out) / name for name in SPLITS if (Path(out) / name).is_dir()}
    if not folders:
        raise DataError(f"{out}: neither train nor test there; expected a prepared data set")
    targets = {name: tiles.read_targets(folder) for name, folder in folders.items()}
    table = pd.concat(
        [
            target.tiles.assign(split=name, number=np.arange(len(target.tiles)))
            for name, target in targets.items()
        ],
        ignore_index=True,
    )
    planes = pd.concat([target.quadrangles for target in targets.values()], ignore_index=True)
    planes = planes.drop_duplicates().reset_index(drop=True)
    if planes["name"].duplicated().any():
        name = planes["name"][planes["name"].duplicated()].iloc[0]
        raise DataError(f"{out}: quadrangle {name} has one georeference in train, another in test")
    images = _Joined([tiles.read_images(folder) for folder in folders.values()])
    # a block in both splits is two here, so that its own tiles are held against each other
    block = pd.factorize(table["split"].astype(str) + "\n" + table["block"].astype(str))[0]
    leaks = [
        *_shared_blocks(table),
        *_in_planes(table, block, buffer),
        *_between_planes(table, planes, buffer),
        *_images(images, table, block, progress),
    ]
    return LeakReport(
        tiles=len(table),
        blocks=int(table["block"].nunique()),
        quadrangles=int(table["quadrangle"].nunique()),
        leaks=pd.DataFrame(leaks, columns=list(COLUMNS)),
    )


class _Joined(Sequence[NDArray[np.uint8]]):
    """Tiles of several splits, one after the other."""

    def __init__(self, parts: Sequence[tiles.TileArray]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        self.reads = 0

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads += 1
        if self.reads % 1000 == 0:
            # what was read of a memory map counts as memory until it is mapped anew
            self.parts = [copy(part) for part in self.parts]
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][int(index - (self.ends[part - 1] if part else 0))]


def _leak(how: str, table: pd.DataFrame, first: int, second: int, detail: str) -> tuple[str, ...]:
    one, two = table.iloc[first], table.iloc[second]
    return (
        how,
        f"{one['split']}:{one['number']}",
        f"{two['split']}:{two['number']}",
        str(one["block"]),
        str(two["block"]),
        detail,
    )


def _shared_blocks(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for name, members in table.groupby("block", observed=True):
        if members["split"].nunique() > 1:
            first, second = members.drop_duplicates("split").index[:2]
            yield _leak("block", table, first, second, f"block {name} is in train and in test")


def _squares(table: pd.DataFrame) -> NDArray[np.float64]:
    """First row, first col, end row, end col of each tile in pixels of level 0, corner based."""
    size = 2.0 ** table["level"].to_numpy(float)
    corner = table[["row0", "col0"]].to_numpy(float) * size[:, None]
    return np.hstack([corner, corner + tiles.TILE * size[:, None]])


def _in_planes(
    table: pd.DataFrame, block: NDArray[np.int64], buffer: float
) -> Iterator[tuple[str, ...]]:
    squares = _squares(table)
    for _, members in table.groupby("quadrangle", observed=True):
        index = members.index.to_numpy()
        square, owner = squares[index], block[index]
        for start in range(0, len(index), 500):
            low, high = np.split(square[start : start + 500, None], 2, axis=-1)
            meets = ((low < square[:, 2:] + buffer) & (square[:, :2] < high + buffer)).all(axis=-1)
            meets &= owner[start : start + 500, None] < owner
            for i, j in np.argwhere(meets).tolist():
                gap = np.maximum(
                    square[j, :2] - square[start + i, 2:], square[start + i, :2] - square[j, 2:]
                )
                detail = f"footprints in {members['quadrangle'].iloc[0]} " + (
                    "overlap" if gap.max() < 0 else f"are {gap.max():g} px apart, not {buffer:g}"
                )
                yield _leak("footprint", table, index[start + i], index[j], detail)


def _between_planes(
    table: pd.DataFrame, planes: pd.DataFrame, buffer: float
) -> Iterator[tuple[str, ...]]:
    """Tiles of different quadrangles that meet on the sphere."""
    mapped = planes[planes["crs"].astype(str) != ""]
    if len(mapped) < 2:
        return
    from pyproj import CRS, Transformer

    quadrangle = table["quadrangle"].astype(str).to_numpy()
    squares = _squares(table) + buffer * np.array([-1, -1, 1, 1]) / 2
    systems, members, outlines, centres, reaches = {}, {}, {}, {}, {}
    for plane in mapped.to_dict("records"):
        name = str(plane["name"])
        systems[name] = CRS.from_wkt(plane["crs"])
        members[name] = np.flatnonzero(quadrangle == name)
        row = squares[members[name]][:, [0, 0, 2, 2]]
        col = squares[members[name]][:, [1, 3, 3, 1]]
        x = plane["a"] * col + plane["b"] * row + plane["c"]
        y = plane["d"] * col + plane["e"] * row + plane["f"]
        outlines[name] = np.stack([x, y], axis=-1)
        geodetic = Transformer.from_crs(systems[name], systems[name].geodetic_crs, always_xy=True)
        lon, lat = np.radians(geodetic.transform(x, y))
        direction = np.stack(
            [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1
        )
        centres[name] = direction.mean(axis=1)
        reaches[name] = np.linalg.norm(direction - centres[name][:, None], axis=2).max(axis=1)
    # tiles that come near each other first, then the exact squares, in the first one's plane
    for one, two in combinations(systems, 2):
        if not (len(members[one]) and len(members[two])):
            continue
        reach = reaches[two] + reaches[one].max()
        near = cKDTree(centres[one]).query_ball_point(centres[two], reach)
        second = np.repeat(np.arange(len(near)), [len(group) for group in near])
        if not len(second):
            continue
        first = np.concatenate([np.asarray(group, dtype=int) for group in near])
        over = Transformer.from_crs(systems[two], systems[one], always_xy=True)
        x, y = over.transform(outlines[two][second, :, 0], outlines[two][second, :, 1])
        meets = _quadrilaterals_meet(outlines[one][first], np.stack([x, y], axis=-1))
        for i, j in zip(members[one][first[meets]], members[two][second[meets]], strict=True):
            yield _leak("footprint", table, i, j, f"footprints in {one} and {two} meet")


def _quadrilaterals_meet(one: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether convex quadrilaterals (n, 4, 2) overlap, pair by pair (separating axes)."""
    apart = np.zeros(len(one), dtype=bool)
    for shape in (one, two):
        edge = np.roll(shape, -1, axis=1) - shape
        normal = np.stack([-edge[..., 1], edge[..., 0]], axis=-1)
        first = np.einsum("nij,nkj->nik", normal, one)
        second = np.einsum("nij,nkj->nik", normal, two)
        gap = np.maximum(second.min(2) - first.max(2), first.min(2) - second.max(2))
        # touching edges meet in rounding only
        size = first.max(2) - first.min(2)
        apart |= (gap > -1e-6 * size).any(axis=1)
    return ~apart


def _images(
    images: Sequence[NDArray[np.uint8]],
    table: pd.DataFrame,
    block: NDArray[np.int64],
    progress: bool,
) -> Iterator[tuple[str, ...]]:
    pairs = duplicates.find(images, block, progress=progress)
    for pair in pairs.to_dict("records"):
        detail = (
            f"same ground, {pair['turn']}, displaced by ({pair['drow']}, {pair['dcol']}) px, "
            f"correlation {pair['correlation']:.2f} over {pair['overlap']:.0%} of a tile"
        )
        yield _leak("image", table, int(pair["first"]), int(pair["second"]), detail)
