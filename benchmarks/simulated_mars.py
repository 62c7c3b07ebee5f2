"""How like the real Mars is the simulated one? Numbers of two prepared splits side by side.

python benchmarks/simulated_mars.py SIMULATED/craters/train REAL/craters/train
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from acdc.tracks.craters import tiles

OCTAVES = np.array([2, 4, 8, 16, 32, 64, 112])
SIZES = ((5, 7), (7, 10), (10, 16), (16, 28))
MOST = 400


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("splits", type=Path, nargs="+", help="folders with inputs.h5, targets.h5")
    columns = [numbers(folder) for folder in parser.parse_args().splits]
    for k, name in enumerate(columns[0]):
        if k == 1:
            print("| --- " * (1 + len(columns)) + "|")
        print("| " + " | ".join([name, *(column[name] for column in columns)]) + " |")


def numbers(folder: Path) -> dict[str, str]:
    """Grey levels, texture and mean craters of the day infrared tiles of level 0 of a split."""
    targets = tiles.read_targets(folder)
    table = targets.tiles
    chosen = (table["level"] == 0) & (table["valid"] > 0.99)
    chosen &= ~table["light"].eq("night") & ~table["sensor"].eq("visible")
    index = np.flatnonzero(chosen.to_numpy())
    rng = np.random.default_rng(0)
    images = np.stack([tiles.read_images(folder)[int(i)] for i in index]).astype(np.float32)
    some = rng.choice(len(images), min(MOST, len(images)), replace=False)
    result = {"": folder.parts[-3] if len(folder.parts) > 2 else str(folder)}
    result["tiles"] = str(len(images))
    result["grey levels: 1, 5, 25, 50, 75, 95, 99 %"] = _row(
        np.percentile(images[some], [1, 5, 25, 50, 75, 95, 99]), 0
    )
    result["contrast of a tile: 10, 50, 90 %"] = _row(
        np.percentile(images.std((1, 2)), [10, 50, 90]), 0
    )
    for low, high, power in zip(OCTAVES[:-1], OCTAVES[1:], _spectrum(images[some]), strict=True):
        result[f"log10 power, wavelength {224 / high:.0f} to {224 / low:.0f} px"] = f"{power:.2f}"
    circles = targets.circles
    inner = circles["row"].between(28, 196) & circles["col"].between(28, 196)
    circles = circles[inner & (circles["flag"] == 0) & circles["tile"].isin(index)]
    place = {tile: k for k, tile in enumerate(index)}
    for low, high in SIZES:
        size = circles[circles["radius"].between(low, high)]
        result[f"craters a tile, radius {low} to {high} px"] = f"{len(size) / len(index):.2f}"
        profiles = [
            _profile(images[place[c.tile]], c.row, c.col, c.radius)
            for c in size.iloc[:MOST].itertuples()
        ]
        result[f"west to east at -1.25, -.75, -.25, .25, .75, 1.25 r, radius {low} to {high}"] = (
            _row(np.median(profiles, axis=0), 0)
        )
    return result


def _row(values: np.ndarray, digits: int) -> str:
    return " ".join(f"{v:.{digits}f}" for v in np.atleast_1d(values))


def _spectrum(images: np.ndarray) -> np.ndarray:
    """Median over tiles of the log10 power in octaves of wavenumber."""
    n = images.shape[1]
    window = np.hanning(n)[:, None] * np.hanning(n)
    k = np.fft.fftfreq(n) * n
    octave = np.digitize(np.hypot(k[:, None], k), OCTAVES)
    power = [
        np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2 for image in images.astype(float)
    ]
    return np.array(
        [np.median([np.log10(p[octave == i].mean()) for p in power]) for i in range(1, 7)]
    )


def _profile(image: np.ndarray, row: float, col: float, radius: float) -> np.ndarray:
    """Grey levels along the row through a crater, relative to its surroundings."""
    x = np.array([-1.25, -0.75, -0.25, 0.25, 0.75, 1.25])
    y = np.linspace(-0.25, 0.25, 5)[:, None]
    line = [row + y * radius + 0 * x, col + x * radius + 0 * y]
    far = np.linspace(0, 2 * np.pi, 32)
    ring = [row + 2.2 * radius * np.sin(far), col + 2.2 * radius * np.cos(far)]
    grey = ndimage.map_coordinates(image, line, order=1, mode="nearest").mean(0)
    level = np.median(ndimage.map_coordinates(image, ring, order=1, mode="nearest"))
    return np.asarray(grey - level, float)


if __name__ == "__main__":
    main()
