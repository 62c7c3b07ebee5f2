"""How far the label audit can be trusted, and where its constant `CREST` comes from.

    python benchmarks/label_audit.py [--real FOLDER]

For simulated Mars, whose catalogue is right, under each light; and, given the folder of real data,
for the registered mosaic and the development part of the THEMIS pictures. Printed: what the audit
finds for the catalogue as it is, and the worst error in finding it again after it was displaced on
purpose. A radius that is off by the same share under every light says how far `CREST` is off.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from acdc.tracks.craters import pictures, registration

ON_PURPOSE = ((5.0, -3.0, 1.0), (-7.0, 6.0, 1.1), (2.0, 8.0, 0.9))


def simulated() -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
    """Two quadrangles of all terrains under each light."""
    from acdc.tracks.craters.simulate import imaging, quadrangle, relief

    for condition in imaging.CONDITIONS:
        images, circles = [], []
        for seed in (0, 1):
            plan = quadrangle.Plan(
                "q", "train", 1400, 1400, 2.0, 1 / 592.7, tuple(relief.TERRAINS), ((0, condition),)
            )
            made = quadrangle.make(plan, np.random.SeedSequence(seed))
            table = made.craters[made.craters["type"] != quadrangle.MISIDENTIFIED]
            images.append(made.picture)
            circles.append(table[["row", "col", "radius"]].to_numpy() / [1, 1, relief.PIXEL])
        yield f"simulated, {condition}", images, circles


def real(folder: Path) -> Iterator[tuple[str, list[np.ndarray], list[np.ndarray]]]:
    """The registered mosaic and the development pictures."""
    import rasterio

    with rasterio.open(folder / "mosaic" / "mosaic.tif") as source:
        image, affine = source.read(1), source.transform
    table = pd.read_csv(folder / "mosaic" / "catalogue.csv")
    metres = table[["X", "Y"]].to_numpy() * np.pi / 180 * 3_396_190
    col, row = (metres - [affine.c, affine.f]).T / [[affine.a], [affine.e]] - 0.5
    yield "real, CTX mosaic", [image], [np.column_stack([row, col, table["RADIUS"] / affine.a])]

    source = folder / "themis_tiles"
    collection = pictures.Pictures(source / "images")
    labels = pictures.read_labels(source / "labels.csv", collection)
    part = pd.read_csv(source / "split.csv").set_index("image")["part"]
    sure = labels[~labels["ignore"]]
    chosen = [i for i, name in enumerate(collection.names) if part[name] == "dev"]
    columns = ["row", "col", "radius"]
    circles = [sure.loc[sure["picture"] == i, columns].to_numpy() for i in chosen]
    yield "real, THEMIS pictures (dev)", [collection[i] for i in chosen], circles


def main() -> None:
    """Print one line a data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder with mosaic/ and themis_tiles/")
    options = parser.parse_args()
    print(f"CREST = {registration.CREST}")
    for source in (simulated(), real(options.real) if options.real else ()):
        for name, images, circles in source:
            start = time.perf_counter()
            asis = registration.estimate(images, circles)
            seconds = time.perf_counter() - start
            worst = np.zeros(3)
            for row, col, ratio in ON_PURPOSE:
                moved = [c * [1, 1, ratio] + [row, col, 0] for c in circles]
                found = registration.estimate(images, moved)
                by_day = found.contrast == "shaded"
                change = (1 + found.radius_ratio) * ratio / (1 + asis.radius_ratio) - 1
                change = change if by_day else np.nan
                errors = [found.row + row - asis.row, found.col + col - asis.col, change]
                worst = np.maximum(worst, np.abs(errors))
            print(f"{name}: {asis}; {seconds:.1f} s")
            print(
                f"    displaced on purpose, found again within {worst[0]:.2f} and "
                f"{worst[1]:.2f} px and {100 * worst[2]:.1f} %"
            )


if __name__ == "__main__":
    main()
