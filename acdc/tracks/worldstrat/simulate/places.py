"""Simulated places written as WorldStrat publishes real ones, and their truth beside them.

    metadata.csv, stratified_train_val_test_split.csv
    hr_dataset/<AOI>/, lr_dataset/<AOI>/L2A/      as `acdc.tracks.worldstrat.archive` reads them
    truth/<AOI>.npz                               what no satellite sees, see `write_truth`

Places are smaller than real ones: SPOT 448 x 448 pixels of 1.5 m, Sentinel-2 68 x 68 of 10 m.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from acdc import sensor
from acdc.errors import DataError
from acdc.tracks.worldstrat.archive import METADATA, SPLIT
from acdc.tracks.worldstrat.simulate import landscape, overpass, spectra

SIZES = {"tiny": (4, 2), "default": (48, 16), "large": (384, 64)}
REVISITS = 8
N_THREADS = 2
_REPEAT = 5  # days between overpasses of the two Sentinel-2
_METRES = 111_320.0  # per degree of latitude
_WEST = -5.0
_IPCC = (
    "Agriculture",
    "Grassland",
    "Forest",
    "Forest",
    "Water",
    "Other",
    "Settlement",
    "Settlement",
)


def simulate(folder: Path, *, seed: int = 0, size: str = "default", progress: bool = True) -> Path:
    """Write simulated places in the raw layout of WorldStrat.

    Parameters
    ----------
    folder : Path
        Made if missing; the tables are written last, so that with them it is whole.
    seed : int
        Other landscapes, same kind.
    size : str
        tiny, default or large.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    n_train, n_test = SIZES[size]
    names = [f"Simulated-{i:04d}" for i in range(n_train + n_test)]
    split = ["train"] * n_train + ["test"] * n_test
    streams = np.random.SeedSequence(seed).spawn(len(names))
    spectra.canopies()  # once, before the threads ask for it
    rows: list[dict[str, object]] = []
    # numpy releases the lock in nearly all of this, so threads share the cores
    with _quiet(), ThreadPoolExecutor(N_THREADS) as threads:
        places = threads.map(
            lambda name, number, stream: _place(
                folder, name, number, np.random.default_rng(stream)
            ),
            names,
            range(len(names)),
            streams,
        )
        for described in tqdm(places, total=len(names), desc="places", disable=not progress):
            rows += described
    table = pd.DataFrame({"tile": names, "split": split})
    first = {str(row["tile"]): row for row in reversed(rows)}
    table["IPCC Class"] = [str(first[name]["IPCC Class"]) for name in names]
    table["SMOD"], table["source"] = 11, "Simulated"
    table["joint_class"] = "Simulated/" + table["IPCC Class"] + "/11"
    table["split"] = table.pop("split")
    _write_csv(folder / SPLIT, table)
    _write_csv(folder / METADATA, pd.DataFrame(rows))
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that SPOT's files do not say where they lie: they shall not.

    Around all threads, as filters of warnings are one for the whole process.
    """
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        yield


def _write_csv(file: Path, table: pd.DataFrame) -> None:
    temporary = file.with_name(file.name + ".part")
    table.to_csv(temporary, index=file.name == SPLIT)
    temporary.replace(file)


def _place(
    folder: Path, name: str, number: int, random: np.random.Generator
) -> list[dict[str, object]]:
    """Invent and write one place; returns its rows of metadata.csv."""
    latitude = float(random.uniform(38, 54))
    spot_day = float(random.uniform(95, 285))
    # overpasses come every five days; clouds and archives leave some of them
    possible = spot_day + random.uniform(-2.5, 2.5) + _REPEAT * np.arange(-8, 9)
    days = np.sort(random.choice(possible, REVISITS, replace=False))
    ground = landscape.make(random, overpass.GROUND)
    passes, spot, truth = overpass.observe(ground, random, days, spot_day, latitude)
    centre = (_WEST + 0.1 * number, latitude)
    wide = _bounds(centre, passes[0].data.shape[0] * overpass.PIXEL)
    fine = _bounds(centre, overpass.SPOT_PIXELS * 1.5)
    high = folder / "hr_dataset" / name
    for kind, image in (("ps", spot.ps), ("pan", spot.pan), ("rgbn", spot.rgbn)):
        _write_tiff(high / f"{name}_{kind}.tiff", image, None)
    rows = []
    cover = int(np.bincount(truth.cover.ravel()).argmax())
    for n, seen in enumerate(passes, start=1):
        stem = folder / "lr_dataset" / name / "L2A" / f"{name}-{n}"
        _write_tiff(Path(f"{stem}-L2A_data.tiff"), seen.bands, wide)
        _write_tiff(Path(f"{stem}-CLM.tiff"), seen.cloud[None], wide)
        _write_tiff(Path(f"{stem}-dataMask.tiff"), seen.data[None], wide)
        rows.append(
            {
                "tile": name,
                "lowres_date": _date(seen.day),
                "highres_date": _date(spot_day),
                "n": n,
                "delta": round(seen.day - spot_day),
                "cloud_cover": round(100 * float(seen.cloud.mean()), 2),
                "bounds": str(fine),
                "lon": centre[0],
                "lat": centre[1],
                "LCCS": "",
                "LCCS class": "",
                "IPCC Class": _IPCC[cover],
                "SMOD": 11,
                "SMOD Class": "Rural: Very Low Density",
            }
        )
    write_truth(folder / "truth" / f"{name}.npz", passes, spot, truth)
    return rows


def _bounds(centre: tuple[float, float], side: float) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees of a square with a side in m."""
    up = side / 2 / _METRES
    right = up / math.cos(math.radians(centre[1]))
    return (centre[0] - right, centre[1] - up, centre[0] + right, centre[1] + up)


def _date(day: float) -> str:
    date = datetime(2019, 1, 1, tzinfo=UTC) + timedelta(days=day - 1)
    return date.replace(microsecond=0).isoformat()


def _write_tiff(
    file: Path, image: np.ndarray, bounds: tuple[float, float, float, float] | None
) -> None:
    """Write bands as a GeoTIFF; SPOT's do not say where they lie, as the published ones."""
    import rasterio
    from rasterio.transform import from_bounds

    height, width = image.shape[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        count=len(image),
        height=height,
        width=width,
        dtype=image.dtype,
        crs="EPSG:4326",
        transform=None if bounds is None else from_bounds(*bounds, width, height),
    ) as raster:
        raster.update_tags(simulated="yes")
        raster.write(image)


def write_truth(
    file: Path, passes: list[overpass.Overpass], spot: overpass.Spot, truth: overpass.Truth
) -> None:
    """Write what is known of a simulated place only: an .npz of plain arrays.

    `reflectance` (4, 272, 272) uint16 x 10,000, `cover` (272, 272) uint8, `leaf_area` (272, 272)
    float32: on a fourth of Sentinel-2's pixels. `shifts` (T, 2) pixels of 10 m, `spot_shift` (2,)
    m, `gain`, `offset` (4,): what displaces and distorts the images. `classes`: names of `cover`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".part")
    with temporary.open("wb") as out:
        np.savez(
            out,
            reflectance=np.round(truth.reflectance * 10_000).clip(0, 65_535).astype(np.uint16),
            cover=truth.cover,
            leaf_area=truth.leaf_area,
            shifts=np.array([seen.shift for seen in passes]),
            spot_shift=np.array(spot.shift),
            gain=spot.gain,
            offset=spot.offset,
            classes=np.array(landscape.CLASSES),
            about=np.array(json.dumps({"simulated": True})),
        )
    temporary.replace(file)


def read_truth(
    file: Path, row: int, col: int, shift: tuple[float, float], side: int = 256
) -> overpass.Truth:
    """Cut the truth of a simulated place to a chip, where the chip's target shows the ground.

    Sentinel-2's revisits lie off the ground by parts of a pixel, and the target was displaced onto
    them; so is this.

    Parameters
    ----------
    file : Path
        truth/<AOI>.npz.
    row, col : int
        The chip's first pixel of 10 m.
    shift : tuple of float
        (row, col) in pixels of 2.5 m by which SPOT was found to lie off Sentinel-2.
    side : int
        Pixels of 2.5 m along the chip.

    Returns
    -------
    Truth
        Of `side` x `side` pixels; the cover is that of the nearest pixel.

    Raises
    ------
    DataError
        When the file is missing or no such truth, or the chip reaches beyond the place.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            reflectance = stored["reflectance"].astype(np.float32) / np.float32(10_000)
            cover, area = stored["cover"], stored["leaf_area"]
            off = np.asarray(shift) - stored["spot_shift"] / overpass.MIXED
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{file} is missing or no truth of a simulated place ({error})") from error
    factor = int(overpass.PIXEL / overpass.MIXED)
    box = np.s_[row * factor : row * factor + side, col * factor : col * factor + side]
    if min(row, col) < 0 or cover[box].shape != (side, side):
        raise DataError(f"{file}: a chip of {side} pixels at {row}, {col} leaves the place")
    # the target shows at a pixel what lies `off` further on
    moved = sensor.Shift(-float(off[0]), -float(off[1]))
    nearest = [
        np.clip(np.arange(n) + round(float(by)), 0, n - 1)
        for n, by in zip(cover.shape, off, strict=True)
    ]
    return overpass.Truth(
        np.clip(moved.forward(reflectance)[(slice(None), *box)], 0, None),
        cover[np.ix_(*nearest)][box],
        np.clip(moved.forward(area)[box], 0, None),
    )
