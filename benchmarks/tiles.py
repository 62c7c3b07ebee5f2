"""Random access to tiles: the kit's HDF5 split against a raw memory map and against h5py.

    python benchmarks/tiles.py

All three hand out a fresh array in memory, as a detector needs it. "warm": the file lies in the
system's cache, as in every epoch but the first; "cold": it was dropped from there before each
round. Rounds of the three take turns; the best round of each counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from acdc import store
from acdc.tracks.craters.tiles import TILE, TileArray

BATCH = 64


def write(folder: Path, n: int) -> None:
    """Write n tiles of noise, once as a split's inputs.h5 and once as tiles.npy."""
    random = np.random.default_rng(0)
    raw = np.lib.format.open_memmap(
        folder / "tiles.npy", mode="w+", dtype=np.uint8, shape=(n, TILE, TILE)
    )
    for start in range(0, n, BATCH):
        raw[start : start + BATCH] = random.integers(
            0, 256, raw[start : start + BATCH].shape, np.uint8
        )
    raw.flush()
    with store.write_file(folder / store.INPUTS, {}) as file:
        batches = (raw[start : start + BATCH] for start in range(0, n, BATCH))
        store.write_rows(file, "tiles", batches, raw.shape, np.uint8)
        store.write_table(file, "conditions", pd.DataFrame({"sensor": [""] * n, "light": ""}))


def open_h5py(folder: Path) -> Any:
    """Open the data set as most code does: one open file, indexed."""
    return h5py.File(folder / store.INPUTS, "r")["tiles"]


def in_order(dataset: Any, rows: np.ndarray) -> np.ndarray:
    """Read `rows` from an h5py data set, which wants them increasing and without repetition."""
    unique, place = np.unique(rows, return_inverse=True)
    return dataset[unique][place]


OPENERS: dict[str, Callable[[Path], Any]] = {
    "kit": lambda folder: TileArray(folder / store.INPUTS),
    "raw memmap": lambda folder: np.load(folder / "tiles.npy", mmap_mode="r"),
    "h5py": open_h5py,
}
# How each hands out a fresh array: a memory map's single tiles and slices are views of the file.
READERS: dict[str, Callable[[Any, Any], np.ndarray]] = {
    "kit": lambda X, key: X[key],
    "raw memmap": lambda X, key: X[key] if isinstance(key, np.ndarray) else np.array(X[key]),
    "h5py": lambda X, key: in_order(X, key) if isinstance(key, np.ndarray) else X[key],
}
# Tiles per access, and its index from the random places that are next.
ACCESSES: dict[str, tuple[int, Callable[[np.ndarray, int], Any]]] = {
    "one tile": (1, lambda rows, n: int(rows[0])),
    f"{BATCH} tiles at random places": (BATCH, lambda rows, n: rows),
    f"{BATCH} tiles in a row": (
        BATCH,
        lambda rows, n: slice(min(int(rows[0]), n - BATCH), min(int(rows[0]), n - BATCH) + BATCH),
    ),
}


def forget(folder: Path) -> None:
    """Drop both files from the system's cache (where the system can)."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_per_tile(folder: Path, kind: str, access: str, cold: bool, order: np.ndarray) -> float:
    """Time of one round over `order`; opening is not counted."""
    if cold:
        forget(folder)
    X, read = OPENERS[kind](folder), READERS[kind]
    batch, index = ACCESSES[access]
    keys = [
        index(order[start : start + batch], len(order))
        for start in range(0, len(order) - batch + 1, batch)
    ]
    begin = time.perf_counter()
    for key in keys:
        read(X, key)
    return (time.perf_counter() - begin) / (len(keys) * batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    random = np.random.default_rng(1)
    print(f"{options.tiles} tiles, microseconds per tile, best of {options.rounds} rounds\n")
    print("| access | cache | kit | raw memmap | h5py | speed, kit / raw memmap |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, options.tiles)
        for access in ACCESSES:
            for cold in (False, True):
                best = dict.fromkeys(OPENERS, np.inf)
                for _ in range(options.rounds):
                    order = random.permutation(options.tiles)
                    for kind in OPENERS:
                        taken = seconds_per_tile(folder, kind, access, cold, order)
                        best[kind] = min(best[kind], taken)
                times = " | ".join(f"{1e6 * taken:.1f}" for taken in best.values())
                ratio = best["raw memmap"] / best["kit"]
                print(f"| {access} | {'cold' if cold else 'warm'} | {times} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
