"""Memory and time of preparing a large mosaic: stored row by row, without overviews, as THEMIS.

    python benchmarks/preparation.py

The mosaic (20,000 x 20,000 pixels of 100 m, around 30 degrees north) and its catalogue are made
first, from noise with rings. The preparation runs in a process of its own; the memory of it and of
its workers is read from the system 20 times a second. "RSS" counts pages that several processes
share (libraries) once for each of them, "PSS" once in all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

PIXEL = 100.0
RADIUS = 3_396_190.0
LATITUDE = 30.0

PREPARE = """
import sys
from pathlib import Path
from acdc.tracks.craters.mosaic import prepare

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    prepare(
        folder / "mosaic.tif",
        folder / "catalogue.csv",
        folder / "out",
        workers=int(sys.argv[2]),
        progress=False,
    )
"""


def make(folder: Path, size: int, compress: str | None) -> None:
    """Write a mosaic of size x size pixels and a catalogue of size / 2 craters."""
    import rasterio

    random = np.random.default_rng(0)
    top = np.deg2rad(LATITUDE) * RADIUS + size / 2 * PIXEL
    rows, cols = random.uniform(0, size, (2, size // 2))
    radius = np.minimum(5 * random.random(size // 2) ** -0.5, 120)
    transform = rasterio.Affine(PIXEL, 0, 0, 0, -PIXEL, top)
    with rasterio.open(
        folder / "mosaic.tif",
        "w",
        driver="GTiff",
        width=size,
        height=size,
        count=1,
        dtype="uint8",
        nodata=0,
        blockysize=1,
        compress=compress,
        crs=f"+proj=eqc +lon_0=0 +R={RADIUS}",
        transform=transform,
    ) as file:
        strip = 500
        for start in range(0, size, strip):
            texture = random.standard_normal((strip, size), dtype=np.float32)
            texture = ndimage.gaussian_filter(texture, 2, mode="wrap")
            image = np.clip(110 + 30 / texture.std() * texture, 1, 255).astype(np.uint8)
            for row, col, r in zip(rows, cols, radius, strict=True):
                if start - r - 2 < row < start + strip + r + 2:
                    _ring(image, row - start, col, r)
            file.write(image, 1, window=rasterio.windows.Window(0, start, size, strip))
    degrees = np.rad2deg(PIXEL / RADIUS)
    pd.DataFrame(
        {
            "CRATER_ID": np.arange(len(rows)),
            "X": (cols + 0.5) * degrees,
            "Y": np.rad2deg(top / RADIUS) - (rows + 0.5) * degrees,
            "RADIUS": radius * PIXEL,
            "TYPE": 1,
        }
    ).to_csv(folder / "catalogue.csv", index=False)


def _ring(image: np.ndarray, row: float, col: float, radius: float) -> None:
    top, left = (max(0, int(v - radius - 2)) for v in (row, col))
    part = image[top : max(0, int(row + radius + 3)), left : int(col + radius + 3)]
    down, right = np.ogrid[: part.shape[0], : part.shape[1]]
    distance = np.hypot(down + top - row, right + left - col)
    part[np.abs(distance - radius) < 1.5] = 180


def watch(command: list[str]) -> tuple[float, float, float]:
    """Run a command; its seconds, and the peak RSS and PSS of all of its processes, MB."""
    import psutil

    begin = time.perf_counter()
    process = subprocess.Popen(command)
    rss = pss = 0.0
    while process.poll() is None:
        found = np.zeros(2)
        try:
            root = psutil.Process(process.pid)
            for one in [root, *root.children(recursive=True)]:
                try:
                    memory = one.memory_full_info()
                    found += memory.rss, memory.pss
                except psutil.Error:  # it ended meanwhile
                    continue
        except psutil.Error:
            break
        rss, pss = max(rss, found[0] / 1e6), max(pss, found[1] / 1e6)
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - begin, rss, pss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000, help="pixels, a multiple of 500")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--compress", default=None, help="deflate, lzw ...; default: none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.size, options.compress)
        script = folder / "run.py"
        script.write_text(PREPARE)
        megabytes = (folder / "mosaic.tif").stat().st_size / 1e6
        print(f"mosaic of {options.size} x {options.size} pixels, {megabytes:.0f} MB\n")
        print("| workers | seconds | peak RSS, MB | peak PSS, MB | tiles |")
        print("| ---: | ---: | ---: | ---: | ---: |")
        for workers in options.workers:
            taken, rss, pss = watch([sys.executable, str(script), str(folder), str(workers)])
            from acdc.tracks.craters.tiles import read_targets

            count = sum(len(read_targets(folder / "out" / part)) for part in ("train", "test"))
            print(f"| {workers} | {taken:.0f} | {rss:.0f} | {pss:.0f} | {count} |", flush=True)


if __name__ == "__main__":
    main()
