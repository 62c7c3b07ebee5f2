"""What each image score makes of known faults: it has to rank them as its definition says.

    python benchmarks/image_scores.py
    python benchmarks/image_scores.py --scene ms3.tif    # any GeoTIFF with R, G, B, NIR bands

The truth is a simulated scene, or a real one scaled to a mean reflectance of .2. Sentinel-2's
imager makes the observation of it, without noise; every fault is put on the truth or on the bicubic
interpolation of that observation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from acdc.metrics import consistency, fidelity, uncertainty
from acdc.sensor import SENTINEL2, Imager, Noise, Shift

BANDS = [SENTINEL2[name] for name in ("B04", "B03", "B02", "B08")]
SIDE = 256


def simulated_scene(random: np.random.Generator) -> np.ndarray:
    """Fields with straight borders, rows in some of them, and texture."""
    seeds = random.uniform(0, SIDE, (60, 2))
    row, col = np.mgrid[:SIDE, :SIDE]
    field = np.argmin([(row - r) ** 2 + (col - c) ** 2 for r, c in seeds], axis=0)
    level = random.uniform(0.05, 0.35, (4, len(seeds)))
    angle = random.uniform(0, np.pi, len(seeds))[field]
    rows = np.sin(2 * np.pi * (row * np.sin(angle) + col * np.cos(angle)) / 5)
    ploughed = (random.random(len(seeds)) < 0.4)[field]
    texture = ndimage.gaussian_filter(random.standard_normal((4, SIDE, SIDE)), (0, 1, 1))
    return level[:, field] * (1 + 0.15 * rows * ploughed) + 0.02 * texture / texture.std()


def real_scene(path: Path) -> np.ndarray:
    """The inner part of the first four bands, its sides a multiple of 4."""
    import rasterio

    with rasterio.open(path) as file:
        image = file.read((1, 2, 3, 4)).astype(np.float64)
    height, width = (min(side // 4 * 4, SIDE) for side in image.shape[1:])
    return image[:, :height, :width] * (0.2 / image.mean())


def predictions(
    truth: np.ndarray, observed: np.ndarray, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the truth with one fault each, by name."""
    bicubic = ndimage.zoom(observed, (1, 4, 4), order=3, grid_mode=True, mode="nearest")
    detail = truth - ndimage.gaussian_filter(truth, (0, 2, 2))
    elsewhere = np.roll(detail[:, ::-1], truth.shape[2] // 3, 2)
    return {
        "truth": truth,
        "half of the detail": 0.5 * (truth + bicubic),
        "bicubic": bicubic,
        "bicubic, blurred": ndimage.gaussian_filter(bicubic, (0, 4, 4)),
        "truth + noise .02": truth + 0.02 * random.standard_normal(truth.shape),
        "truth + bias .05": truth + 0.05,
        "truth x 1.2": 1.2 * truth,
        "truth, 2 px off": Shift(2, 0).forward(truth),
        "truth, half a px off": Shift(0.5, 0).forward(truth),
        "bicubic + wrong texture": bicubic + elsewhere,
        "red and green swapped": truth[[1, 0, 2, 3]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scene", type=Path, metavar="TIF", help="a real scene in place of it")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    truth = real_scene(options.scene) if options.scene else simulated_scene(random)
    imager = Imager.of(BANDS, 2.5)
    observed = imager.forward(truth)
    everywhere = np.ones(truth.shape[1:], bool)
    smooth, inner = fidelity.local_mean(truth, everywhere)

    columns = ["cpsnr", "shift", "cssim", "psnr", "ssim", "sam", "ergas", "spectrum"]
    columns += ["consistency", "spectral", *consistency.Triangle._fields]
    print("| prediction | " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name, image in predictions(truth, observed, random).items():
        registered = fidelity.cpsnr(truth, image)
        figures = [
            f"{registered.score:.2f}",
            f"{np.hypot(*registered.shift):.1f}",
            f"{fidelity.cssim(truth, image, shift=registered.shift).score:.3f}",
            f"{fidelity.psnr(truth, image):.2f}",
            f"{fidelity.ssim(truth, image):.3f}",
            f"{fidelity.sam(smooth, fidelity.local_mean(image, everywhere)[0], inner):.2f}",
            f"{fidelity.ergas(truth, image):.2f}",
            f"{fidelity.spectrum_error(truth, image):.1f}",
            f"{consistency.consistency(image, observed, imager.forward):.4f}",
            f"{consistency.spectral_consistency(image, observed, imager.forward):.2f}",
            *(f"{share:.2f}" for share in consistency.triangle(truth, image, observed)),
        ]
        print(f"| {name} | " + " | ".join(figures) + " |")

    noise = Noise.of(BANDS)
    error = noise.add(observed, random) - observed
    stated = noise.deviation(observed)
    print("\n| stated deviation of Sentinel-2's noise | miscalibration |\n| --- | ---: |")
    for name, factor in (("as it is", 1.0), ("half", 0.5), ("twice", 2.0), ("none", 0.0)):
        print(f"| {name} | {uncertainty.miscalibration(error, factor * stated):.3f} |")


if __name__ == "__main__":
    main()
