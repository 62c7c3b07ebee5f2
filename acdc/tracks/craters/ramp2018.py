"""The prepared arrays of the RAMP challenge on Mars craters of 2018, as splits of this kit.

What the arrays are: ``data_train.npy`` and ``data_test.npy``, uint8 (n, 224, 224), THEMIS daytime
infrared, one quadrangle after the other in a local projection, within a quadrangle one pyramid
level after the other, within a level row by row, neighbours overlapping by 56 pixels;
``labels_train.csv`` and ``labels_test.csv`` with ``i`` (tile), ``row_p``, ``col_p``, ``radius_p``
in pixels. Neither quadrangle, level, position nor kind is given.

What is made of it:

- The positions within a level come back from the pixels: the 56 columns (rows) that two neighbours
  share are equal, byte for byte. A level found in this way stands as one quadrangle of the tables.
- A label counts for every tile that its circle touches; the original lists it only where its
  centre lies.
- Label positions are whole pixels and taken as indices: (0, 0) is the centre of the first pixel.
  They sit 1 to 2.5 px beside the rims, so the label audit is worth its minute here.
- Blocks are contiguous runs of the training array: as in 2018 the thirds, but cut between two
  quadrangles, where no ground is shared, if such a place is near. Else tiles that share ground
  across the cut are left out. Whether a coarse and a fine level of one run overlap cannot be seen,
  and need not be: they are in one block. The test array is one block, one quadrangle at most
  being in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from acdc.download import load_manifest
from acdc.errors import DataError
from acdc.tracks.craters.tiles import OVERLAP, TILE, write_split

BLOCKS = {"train": 3, "test": 1}
LABEL_COLUMNS = ("i", "row_p", "col_p", "radius_p")
_STEP = TILE - OVERLAP
_BATCH = 64


def prepare(folder: Path, out: Path, *, progress: bool = True) -> None:
    """Turn the arrays of 2018 into ``out/train`` and ``out/test``.

    Parameters
    ----------
    folder : Path
        Holds ``data_train.npy``, ``labels_train.csv``, ``data_test.npy`` and ``labels_test.csv``;
        the public kit's excerpts (``data_train_mini.npy`` ...) are read too. Only one split may be
        there; then only that is made.
    out : Path
        Where the splits are written.
    progress : bool
        Show progress bars.

    Raises
    ------
    DataError
        Files that are missing, damaged or of another shape, labels for tiles that are not there or
        with impossible values.
    """
    folder, out = Path(folder), Path(out)
    found = {split: _find(folder, split) for split in BLOCKS}
    if not any(found.values()):
        raise DataError(
            f"{folder}: neither data_train.npy nor data_test.npy is there (nor a _mini of them); "
            "fetch them with `python download_data.py --track craters --source ramp2018`"
        )
    source = load_manifest(Path(__file__).with_name("sources.toml"))["ramp2018"]
    # both splits are worked out before the first is written: bad input leaves nothing behind
    arrays = {
        split: (_read_images(files[0]), _read_labels(files[1]))
        for split, files in found.items()
        if files
    }
    tables = {
        split: _tables(images, labels, split, progress)
        for split, (images, labels) in arrays.items()
    }
    for split, (tiles, circles, rows) in tables.items():
        write_split(
            out / split,
            _batches(arrays[split][0], rows, f"write {split}", progress),
            tiles,
            circles,
            _levels(tiles),
            attributes={
                "simulated": False,
                "source": source.title,
                "citation": source.citation,
                "licence": source.licence,
                "units": "THEMIS infrared, stretched to 8 bits",
            },
        )


def _find(folder: Path, split: str) -> tuple[Path, Path] | None:
    for ending in ("", "_mini"):
        images, labels = (
            folder / f"data_{split}{ending}.npy",
            folder / f"labels_{split}{ending}.csv",
        )
        if images.is_file() != labels.is_file():
            missing = labels if images.is_file() else images
            raise DataError(f"{missing} is missing; images and labels belong together")
        if images.is_file():
            return images, labels
    return None


def _read_images(path: Path) -> NDArray[np.uint8]:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: no whole .npy file ({error}); fetch it again") from error
    if (
        images.dtype != np.uint8
        or images.ndim != 3
        or images.shape[1:] != (TILE, TILE)
        or not len(images)
    ):
        raise DataError(
            f"{path}: {images.dtype} {images.shape}; expected uint8 (n, {TILE}, {TILE}), n > 0"
        )
    return images


def _read_labels(path: Path) -> pd.DataFrame:
    try:
        labels = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
    missing = [name for name in LABEL_COLUMNS if name not in labels]
    if missing:
        raise DataError(f"{path}: columns {', '.join(missing)} missing; expected i,row_p ...")
    labels = labels[list(LABEL_COLUMNS)].apply(pd.to_numeric, errors="coerce").astype(float)
    bad = ~np.isfinite(labels).all(axis=1) | (labels["radius_p"] <= 0)
    # a centre beside its tile would be another convention than the one that is assumed
    bad |= (labels[["row_p", "col_p"]].sub((TILE - 1) / 2).abs() > TILE / 2).any(axis=1)
    bad |= labels["i"] % 1 != 0
    if bad.any():
        line = int(np.argmax(bad)) + 2
        raise DataError(
            f"{path}, line {line}: {labels.iloc[line - 2].to_dict()} ({int(bad.sum())} such "
            "lines); expected a tile's number, row and col within the tile and a positive radius"
        )
    return labels.astype({"i": int})


def _tables(
    images: NDArray[np.uint8], labels: pd.DataFrame, split: str, progress: bool
) -> tuple[pd.DataFrame, pd.DataFrame, NDArray[np.intp]]:
    """Tables of tiles and circles, and which rows of the array the tiles are."""
    n = len(images)
    beyond = (labels["i"] < 0) | (labels["i"] >= n)
    if beyond.any():
        raise DataError(
            f"labels_{split}: {int(beyond.sum())} labels for tiles that are not there, the first "
            f"for tile {labels['i'][beyond].iloc[0]}; the array has {n}"
        )
    links, valid = _neighbours(_batches(images, np.arange(n), f"read {split}", progress), n)
    level, corner = _layout(n, links)
    block = _blocks(n, links[:, :2], BLOCKS[split])
    kept = ~_on_a_cut(block, level, corner)
    tiles = pd.DataFrame(
        {
            "block": [f"ramp2018/{split}/{b}" for b in block],
            "quadrangle": [f"ramp2018/{split}/{x:04d}" for x in level],
            "level": 0,
            "row0": corner[:, 0],
            "col0": corner[:, 1],
            "pixel_size": np.nan,
            "valid": valid,
            "window_area": np.nan,
            "region": "",
            "sensor": "THEMIS IR",
            # the public notebook says night, but slopes are lit and shaded as by day
            "light": "day",
            "terrain": "",
        }
    )
    circles = _touching(labels, level, corner)
    circles["crater_id"] = [f"ramp2018/{split}/{k}" for k in circles["crater_id"]]
    circles = circles[kept[circles["tile"]]]
    circles = circles.assign(tile=(np.cumsum(kept) - 1)[circles["tile"]])
    return tiles[kept].reset_index(drop=True), circles, np.flatnonzero(kept)


def _batches(
    images: NDArray[np.uint8], rows: NDArray[np.intp], title: str, progress: bool
) -> Iterator[NDArray[np.uint8]]:
    for start in tqdm(range(0, len(rows), _BATCH), title, disable=not progress):
        yield images[rows[start : start + _BATCH]]


def _neighbours(
    batches: Iterator[NDArray[np.uint8]], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find tiles whose shared strips are equal; also each tile's share of pixels with data.

    Returns
    -------
    links : int array (m, 4)
        Tile, neighbour, and the neighbour's rows and columns further on, px.
    valid : float array (n,)
    """
    strips: dict[str, list[bytes]] = {side: [] for side in ("left", "right", "top", "bottom")}
    valid: list[float] = []
    for batch in batches:
        valid.extend(np.count_nonzero(batch, axis=(1, 2)) / TILE**2)
        for tile in batch:
            strips["left"].append(_digest(tile[:, :OVERLAP]))
            strips["right"].append(_digest(tile[:, -OVERLAP:]))
            strips["top"].append(_digest(tile[:OVERLAP]))
            strips["bottom"].append(_digest(tile[-OVERLAP:]))
    links = [
        (tile, neighbour, *step)
        for first, second, step in (("right", "left", (0, _STEP)), ("bottom", "top", (_STEP, 0)))
        for tile, neighbour in _pairs(strips[first], strips[second])
    ]
    return np.array(links, dtype=np.int64).reshape(-1, 4), np.array(valid).reshape(n)


def _digest(strip: NDArray[np.uint8]) -> bytes:
    """Hash of a strip; empty where it is uniform, because such strips say nothing."""
    if strip.min() == strip.max():
        return b""
    return hashlib.blake2b(strip.tobytes(), digest_size=16).digest()


def _pairs(first: list[bytes], second: list[bytes]) -> Iterator[tuple[int, int]]:
    """Indices of equal digests that stand once: repeated pictures prove no neighbourhood."""
    one, other = (
        pd.Series(np.arange(len(x)), index=pd.Index(x, dtype=object)) for x in (first, second)
    )
    one, other = (x[(x.index != b"") & ~x.index.duplicated(keep=False)] for x in (one, other))
    common = one.index.intersection(other.index)
    return zip(one[common].tolist(), other[common].tolist(), strict=True)


def _layout(n: int, links: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Walk along the links: the level (connected tiles) of each tile and its corner in it, px."""
    steps: list[list[tuple[int, int, int]]] = [[] for _ in range(n)]
    for tile, neighbour, rows, cols in links.tolist():
        steps[tile].append((neighbour, rows, cols))
        steps[neighbour].append((tile, -rows, -cols))
    level, corner = np.full(n, -1), np.zeros((n, 2), dtype=np.int64)
    found = 0
    for start in range(n):
        if level[start] >= 0:
            continue
        level[start] = found
        waiting = [start]
        while waiting:
            tile = waiting.pop()
            for neighbour, rows, cols in steps[tile]:
                place = corner[tile] + (rows, cols)
                if level[neighbour] < 0:
                    level[neighbour], corner[neighbour] = found, place
                    waiting.append(neighbour)
                elif (corner[neighbour] != place).any():
                    raise DataError(
                        f"tiles {tile} and {neighbour} overlap in a way that contradicts their "
                        "other neighbours; the array is damaged or no cut of a mosaic"
                    )
        found += 1
    lowest = np.full((found, 2), np.iinfo(np.int64).max)
    np.minimum.at(lowest, level, corner)
    return level, corner - lowest[level]


def _blocks(n: int, pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Contiguous runs of about equal length, cut where no neighbours are parted if one is near."""
    change = np.zeros(n + 1, dtype=np.int64)
    np.add.at(change, pairs.min(axis=1) + 1, 1)
    np.add.at(change, pairs.max(axis=1) + 1, -1)
    parted = np.cumsum(change)  # neighbours on both sides of a cut before tile k
    free = np.flatnonzero(parted[1:n] == 0) + 1
    length = np.diff(np.r_[0, free, n])
    # A quadrangle begins with its finest, largest level; between its own levels nothing is linked
    # either, but a cut there would put the same ground on both sides.
    begins = free[length[1:] > length[:-1]]
    candidates = begins if len(begins) else free
    cuts = []
    for even in (n * k // count for k in range(1, count)):
        near = candidates[np.abs(candidates - even) <= n // (2 * count)]
        cuts.append(int(near[np.argmin(np.abs(near - even))]) if len(near) else even)
    return np.searchsorted(np.unique(cuts), np.arange(n), side="right")


def _on_a_cut(
    block: NDArray[np.int64], level: NDArray[np.int64], corner: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tiles that share ground with a tile of an earlier block."""
    apart = level * (corner.max() + 2 * TILE)  # tiles of two levels are no neighbours
    place = corner + np.stack([apart, np.zeros_like(apart)], axis=1)
    pairs = cKDTree(place).query_pairs(TILE - 1, p=np.inf, output_type="ndarray")
    pairs = pairs[block[pairs[:, 0]] != block[pairs[:, 1]]]
    dropped = np.zeros(len(block), dtype=bool)
    dropped[pairs.max(axis=1)] = True
    return dropped


def _touching(
    labels: pd.DataFrame, level: NDArray[np.int64], corner: NDArray[np.int64]
) -> pd.DataFrame:
    """Every labelled crater once per tile that its circle touches."""
    tile = labels["i"].to_numpy()
    craters = pd.DataFrame(
        {
            "level": level[tile],
            "row": labels["row_p"].to_numpy() + corner[tile, 0],
            "col": labels["col_p"].to_numpy() + corner[tile, 1],
            "radius": labels["radius_p"].to_numpy(),
        }
    ).drop_duplicates(ignore_index=True)
    members = pd.Series(np.arange(len(level))).groupby(level).indices
    parts = []
    # a few at a time: all craters against all tiles of a level would be gigabytes
    for (name, _), those in craters.groupby(["level", craters.index // 256]):
        tiles = members[name]
        centre = those[["row", "col"]].to_numpy()[:, None] - corner[tiles]
        outside = np.maximum(np.abs(centre - (TILE - 1) / 2) - TILE / 2, 0)
        crater, near = np.nonzero(
            np.hypot(outside[..., 0], outside[..., 1]) < those["radius"].to_numpy()[:, None]
        )
        parts.append(
            pd.DataFrame(
                {
                    "tile": tiles[near],
                    "row": centre[crater, near, 0],
                    "col": centre[crater, near, 1],
                    "radius": those["radius"].to_numpy()[crater],
                    "crater_id": those.index.to_numpy()[crater],
                }
            )
        )
    empty = pd.DataFrame(
        {name: pd.Series(dtype=float) for name in ("row", "col", "radius")}
        | {name: pd.Series(dtype=int) for name in ("tile", "crater_id")}
    )
    table = pd.concat(parts, ignore_index=True) if parts else empty
    return table.sort_values(["tile", "crater_id"], ignore_index=True).assign(
        kind=0, flag=0, degradation=np.nan, ejecta=""
    )


def _levels(tiles: pd.DataFrame) -> pd.DataFrame:
    names = tiles["quadrangle"].unique()
    nowhere = {axis: np.full(len(names), np.nan) for axis in "abcdef"}
    return pd.DataFrame({"name": names, "crs": "", **nowhere})
