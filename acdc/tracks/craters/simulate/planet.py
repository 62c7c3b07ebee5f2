"""An invented piece of Mars, written as the raw data of a real mosaic and catalogue."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from acdc.errors import DataError

from . import quadrangle
from .imaging import CONDITIONS
from .quadrangle import CELL, Plan, Quadrangle
from .relief import PIXEL, TERRAINS

MARS_RADIUS = 3_396_190.0
"""Radius of the IAU 2000 sphere of Mars, metres."""

MERIDIAN = 180.0
"""Central meridian of the mosaic, degrees east, as in the THEMIS global mosaics."""

CRS = (
    'PROJCS["SimpleCylindrical Mars",GEOGCS["GCS_Mars_2000_Sphere",'
    'DATUM["D_Mars_2000_Sphere",SPHEROID["Mars_2000_Sphere_IAU_IAG",3396190,0]],'
    'PRIMEM["Reference_Meridian",0],UNIT["degree",0.0174532925199433]],'
    'PROJECTION["Equirectangular"],PARAMETER["standard_parallel_1",0],'
    f'PARAMETER["central_meridian",{MERIDIAN:g}],PARAMETER["false_easting",0],'
    'PARAMETER["false_northing",0],UNIT["metre",1]]'
)

DEGREES_PER_PIXEL = float(np.degrees(PIXEL / MARS_RADIUS))

MARGIN = 20
"""Ground beyond the quadrangle's border, pixels."""

GAP = 200
"""No data between neighbouring quadrangles, pixels."""

BLOCK_PITCH = 588
"""Pitch of the blocks of tiles; imaging conditions change between blocks, not within."""

SIZES: dict[str, tuple[int, int, tuple[int, int], tuple[int, int], int]] = {
    "tiny": (2, 1, (1200, 1200), (1200, 1200), 2),
    "default": (3, 1, (2400, 2400), (2400, 3000), 4),
    "large": (15, 5, (2400, 2400), (2400, 3000), 4),
}
"""Training quadrangles, test quadrangles, rows and columns of each, units in each."""


def simulate(
    out: Path,
    *,
    seed: int,
    size: str = "default",
    progress: bool = True,
    processes: int = 2,
) -> None:
    """Write an invented Mars as raw data: a mosaic, a catalogue and maps.

    Parameters
    ----------
    out : Path
        Folder to write ``mosaic.tif``, ``catalogue.csv``, ``quadrangles.csv``, ``units.geojson``
        and ``README.txt`` into; made if missing. Existing files of these names are replaced, each
        only when all are complete.
    seed : int
        Not negative, up to 128 bits; the same seed gives the same bytes on any number of
        processes (with the same versions of numpy, scipy and GDAL).
    size : {"default", "tiny", "large"}
        How much ground: 3 training quadrangles of 240 x 240 km and a test quadrangle of 300 x
        240 km; three of 120 x 120 km for tests; or five times the default.
    progress : bool
        Show a progress bar.
    processes : int
        Quadrangles are made in so many processes; 1 stays in this one.

    Raises
    ------
    DataError
        If the seed is negative or the size unknown.
    """
    if size not in SIZES:
        raise DataError(f"size {size!r} of the simulated planet is not one of {sorted(SIZES)}")
    if seed < 0:
        raise DataError(f"the seed of the simulated planet must not be negative, got {seed}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    root = np.random.SeedSequence(seed)
    plan_seed, *seeds = root.spawn(1 + SIZES[size][0] + SIZES[size][1])
    plans, corners, shape = _plans(np.random.default_rng(plan_seed), size)
    partial = {name: out / f".{name}.partial" for name in FILES}
    bar = tqdm(total=len(plans), desc="simulated Mars", unit="quadrangle", disable=not progress)
    try:
        with bar:
            _write(partial, plans, corners, shape, seeds, processes, bar)
        partial["README.txt"].write_text(_readme(seed, size), encoding="utf-8")
        for name in FILES:
            partial[name].replace(out / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


FILES = (
    "catalogue.csv",
    "quadrangles.csv",
    "units.geojson",
    "README.txt",
    "mosaic.tif",
)
"""What :func:`simulate` writes, the mosaic last."""


def _plans(
    rng: np.random.Generator, size: str
) -> tuple[list[Plan], list[tuple[int, int]], tuple[int, int]]:
    """Quadrangles, the mosaic row and column of their corners, and the mosaic's shape."""
    n_train, n_test, train_shape, test_shape, n_units = SIZES[size]
    parts = ["train"] * n_train + ["test"] * n_test
    if size == "large":
        # Three of training and one of test in every row of the mosaic.
        parts = (["train"] * 3 + ["test"]) * n_test
    names = list(TERRAINS)
    deck: list[str] = []
    plans, corners = [], []
    per_row = 4 if size != "tiny" else 3
    height = train_shape[0] + 2 * MARGIN
    n_rows = -(-len(parts) // per_row)
    total = n_rows * height + (n_rows + 1) * GAP
    seen = {"train": 0, "test": 0}
    col = GAP
    width = 0
    for i, part in enumerate(parts):
        if i % per_row == 0:
            col = GAP
        row = GAP + (i // per_row) * (height + GAP)
        rows, cols = test_shape if part == "test" else train_shape
        units = n_units + (part == "test")
        terrains: list[str] = []
        while len(terrains) < units:
            if not deck:
                deck = [names[k] for k in rng.permutation(len(names))]
            # Not the same terrain twice in a quadrangle: units have one terrain each.
            fresh = [name for name in deck if name not in terrains]
            chosen = fresh[0] if fresh else deck[0]
            deck.remove(chosen)
            terrains.append(chosen)
        seen[part] += 1
        latitude = (total / 2 - 0.5 - row) * DEGREES_PER_PIXEL
        plans.append(
            Plan(
                f"{part}-{seen[part]}",
                part,
                rows + 2 * MARGIN,
                cols + 2 * MARGIN,
                latitude,
                DEGREES_PER_PIXEL,
                tuple(terrains),
                _conditions(part, seen[part], cols),
            )
        )
        corners.append((row, col))
        col += cols + 2 * MARGIN + GAP
        width = max(width, col)
    return plans, corners, (total, width)


def _conditions(part: str, number: int, cols: int) -> tuple[tuple[int, str], ...]:
    """Imaging conditions from left to right: day infrared first and most."""
    blocks = (cols + 28) // BLOCK_PITCH
    left = MARGIN + (cols - (blocks * BLOCK_PITCH - 28)) // 2 - 14
    day, night, visible = CONDITIONS
    if part == "test":
        others = [night, visible] if blocks > 2 else [night]
    else:
        others = (
            [[], [night], [visible]][(number - 1) % 3]
            if blocks > 2
            else [[], [night]][(number - 1) % 2]
        )
    start = blocks - len(others)
    return (
        (0, day),
        *((left + (start + k) * BLOCK_PITCH, c) for k, c in enumerate(others)),
    )


def _make(job: tuple[Plan, np.random.SeedSequence]) -> Quadrangle:
    made = quadrangle.make(*job)
    made.surface = None  # the relief is not handed back from another process
    return made


def _made(
    plans: list[Plan], seeds: list[np.random.SeedSequence], processes: int
) -> Iterator[Quadrangle]:
    """Quadrangles in the order of the plans, whoever makes them."""
    jobs = list(zip(plans, seeds, strict=True))
    if processes <= 1 or len(jobs) == 1:
        yield from map(_make, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        yield from pool.map(_make, jobs)


def _write(
    paths: dict[str, Path],
    plans: list[Plan],
    corners: list[tuple[int, int]],
    shape: tuple[int, int],
    seeds: list[np.random.SeedSequence],
    processes: int,
    bar: tqdm,
) -> None:
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    # The mosaic is centred on the equator, somewhat east of 100 degrees.
    origin_x = np.round((120.0 - MERIDIAN) / DEGREES_PER_PIXEL) * PIXEL
    origin_y = shape[0] / 2 * PIXEL
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": shape[0],
        "width": shape[1],
        "nodata": 0,
        "crs": CRS,
        "transform": from_origin(origin_x, origin_y, PIXEL, PIXEL),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "if_safer",
    }
    left_degrees = MERIDIAN + origin_x / PIXEL * DEGREES_PER_PIXEL
    top_degrees = shape[0] / 2 * DEGREES_PER_PIXEL

    def degrees(row: NDArray, col: NDArray) -> tuple[NDArray, NDArray]:
        """Longitude and latitude of positions counted from the corner of the mosaic."""
        return (
            left_degrees + col * DEGREES_PER_PIXEL,
            top_degrees - row * DEGREES_PER_PIXEL,
        )

    catalogue: list[pd.DataFrame] = []
    boxes: list[tuple[str, float, float, float, float, str]] = []
    features: list[dict] = []
    with rasterio.open(paths["mosaic.tif"], "w", **profile) as mosaic:
        for made, (row, col) in zip(_made(plans, seeds, processes), corners, strict=True):
            plan = made.plan
            mosaic.write(made.picture, 1, window=Window(col, row, plan.cols, plan.rows))
            craters = made.craters
            # Half a pixel: crater positions count from pixel centres.
            lon, lat = degrees(
                craters["row"].to_numpy() + 0.5 + row,
                craters["col"].to_numpy() + 0.5 + col,
            )
            catalogue.append(
                pd.DataFrame(
                    {
                        "CRATER_ID": [f"{plan.name}-{k:05d}" for k in range(len(craters))],
                        "X": lon,
                        "Y": lat,
                        "RADIUS": craters["radius"].to_numpy(),
                        "TYPE": craters["type"].to_numpy(),
                    }
                )
            )
            edges = (
                np.array([MARGIN, plan.rows - MARGIN]),
                np.array([MARGIN, plan.cols - MARGIN]),
            )
            lons, lats = degrees(edges[0] + row, edges[1] + col)
            boxes.append((plan.name, lons[0], lats[1], lons[1], lats[0], plan.part))
            features.extend(_features(made, row, col, degrees))
            bar.update()
    pd.concat(catalogue).to_csv(
        paths["catalogue.csv"], index=False, float_format="%.7f", lineterminator="\n"
    )
    pd.DataFrame(
        boxes, columns=["name", "lon_min", "lat_min", "lon_max", "lat_max", "part"]
    ).to_csv(paths["quadrangles.csv"], index=False, float_format="%.9f", lineterminator="\n")
    paths["units.geojson"].write_text(
        json.dumps({"type": "FeatureCollection", "features": features}),
        encoding="utf-8",
    )


def _features(made: Quadrangle, row: int, col: int, degrees: object) -> Iterator[dict]:
    """Polygons of one unit under one imaging condition, in degrees."""
    from rasterio.features import shapes

    plan = made.plan
    starts = [start for start, _ in plan.conditions] + [plan.cols]
    # Cells are finer than units where imaging conditions change within one.
    for k, (start, name) in enumerate(plan.conditions):
        end = starts[k + 1]
        part = np.repeat(made.units, CELL, axis=1)[:, start:end].astype(np.uint8)
        # One row a cell, one column a pixel.
        for geometry, value in shapes(part, connectivity=4):
            unit = int(value)
            rings = []
            for ring in geometry["coordinates"]:
                xy = np.asarray(ring, float)
                rows = np.minimum(xy[:, 1] * CELL, plan.rows)
                lon, lat = degrees(rows + row, xy[:, 0] + start + col)  # type: ignore[operator]
                rings.append(np.column_stack([lon, lat]).round(7).tolist())
            yield {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": rings},
                "properties": {
                    "sensor": CONDITIONS[name].sensor,
                    "light": CONDITIONS[name].light,
                    "terrain": plan.terrains[unit],
                    "region": f"{plan.name}-{unit + 1}",
                    "model_age_ga": round(float(made.ages[unit]), 3),
                },
            }


def _readme(seed: int, size: str) -> str:
    return f"""SIMULATED - this is no place on Mars.

An invented piece of Mars in the format of real raw data, made by

    acdc.tracks.craters.simulate.simulate(out, seed={seed}, size={size!r})

mosaic.tif       uint8, 0 = no data, simple cylindrical, sphere of radius {MARS_RADIUS:.0f} m,
                 100 m per pixel
catalogue.csv    every crater of at least 0.8 km that can be seen: CRATER_ID, X and Y (degrees east
                 and north), RADIUS (metres), TYPE (1 other, 2 layered ejecta, 3 degraded,
                 4 secondary, 5 misidentified: no crater) as in Lagain et al. 2021
quadrangles.csv  name, bounds in degrees, and part: train or test
units.geojson    geologic units under one imaging condition each: sensor, light, terrain, region
                 (one piece of ground of one age) and model_age_ga

Whoever has the seed has the truth: keep that of a private set secret.
"""
