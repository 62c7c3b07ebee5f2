"""How like real ones the simulated landscapes are, in figures: spectra and texture.

    python benchmarks/simulated_landscapes.py --earth DIR [--places 12]

DIR holds `sentinel2_patch/` (REFERENCE_SCENES.npy and LULC.npy of the eo-learn example patch) and
`worldview_crops/` (ms1.tif and pan1.tif of the SpaceNet sample in solaris). The real Sentinel-2
patch is top-of-atmosphere reflectance: its blue is brighter, and its infrared a tenth darker, than
the surface that is simulated.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

from acdc import sensor
from acdc.tracks.worldstrat import archive, chips, simulate
from acdc.tracks.worldstrat.simulate import landscape, places

SHOWN = ("B02", "B03", "B04", "B05", "B08", "B11", "B12")
L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
REAL_CLASSES = {1: "cropland", 2: "forest", 3: "grassland"}
CLEAR_SCENE = 3
RANGES = ((64, 16), (16, 8), (8, 4), (4, 2))  # wavelengths in pixels


def texture(image: np.ndarray) -> list[float]:
    """Deviation over mean, and the share of the variance in each of RANGES."""
    n = min(image.shape)
    image = image[:n, :n] / image.mean()
    window = np.hanning(n)
    power = np.abs(np.fft.fft2((image - 1) * window[:, None] * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n))
    inside = (frequency >= 1 / RANGES[0][0]) & (frequency < 0.5)
    shares = [
        power[(frequency >= 1 / low) & (frequency < 1 / high)].sum() / power[inside].sum()
        for low, high in RANGES
    ]
    return [float(image.std()), *map(float, shares)]


def tell(name: str, figures: np.ndarray | list[float]) -> None:
    print(f"{name:34}" + "".join(f"{figure:8.3f}" for figure in figures))


def compare(earth: Path, raw: Path) -> None:
    opened = archive.Archive(raw)
    spectra: dict[int, list[np.ndarray]] = {}
    textures, found = [], []
    for name in opened.places:
        place, _ = opened.read(name)
        if place is None:
            continue
        with np.load(raw / "truth" / f"{name}.npz") as truth:
            cover = truth["cover"].reshape(68, 4, 68, 4)
            expected = truth["spot_shift"] / 2.5 - 4 * truth["shifts"].mean(axis=0)
        for revisit in place.revisits:
            if not revisit.clear.all():
                continue
            for k in range(len(landscape.CLASSES)):
                pure = (cover == k).mean(axis=(1, 3)) > 0.95
                if pure.any():
                    spectra.setdefault(k, []).append(np.median(revisit.bands[:, pure], axis=1))
        with rasterio.open(raw / "hr_dataset" / name / f"{name}_pan.tiff") as file:
            textures.append(texture(file.read(1)[:200, :200].astype(float)))
        made, _ = chips.make(place)
        found += [np.abs(np.array(chip.shift) - expected) for chip in made]
    print(" " * 34 + "".join(f"{name:>8}" for name in SHOWN))
    chosen = [archive.BANDS.index(name) for name in SHOWN]
    for k in sorted(spectra):
        tell(f"simulated {landscape.CLASSES[k]}", np.median(spectra[k], axis=0)[chosen])
    scene = np.load(earth / "sentinel2_patch" / "REFERENCE_SCENES.npy")[CLEAR_SCENE]
    classes = np.load(earth / "sentinel2_patch" / "LULC.npy").squeeze()
    chosen = [L1C.index(name) for name in SHOWN]
    for k, name in REAL_CLASSES.items():
        tell(f"real {name}, top of atmosphere", np.median(scene[classes == k], axis=0)[chosen])
    print(
        "\n"
        + "wavelength in pixels".ljust(34)
        + "contrast"
        + "".join(f"{f'{a}-{b}':>8}" for a, b in RANGES)
    )
    tell("simulated SPOT pan, median", np.median(textures, axis=0))
    with rasterio.open(earth / "worldview_crops" / "pan1.tif") as file:
        real = file.read()[:, :600, :600].astype(float)
    tell("real city seen as by SPOT pan", texture(seen_by_spot(real)))
    print(
        f"\nSPOT's offset as found against the mean of all revisits: median "
        f"{np.median(found):.2f}, at most {np.max(found):.2f} pixels of 2.5 m"
    )


def seen_by_spot(pan: np.ndarray) -> np.ndarray:
    """A panchromatic image of 0.5 m pixels at 1.5 m."""
    return np.asarray(sensor.Imager.of([sensor.SPOT["pan"]], 0.5).forward(pan)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--earth", type=Path, required=True, help="real images to compare with")
    parser.add_argument("--places", type=int, default=12, help="simulated places")
    options = parser.parse_args()
    places.SIZES["benchmark"] = (options.places, 0)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter(), time.process_time()
        simulate.simulate(Path(folder), size="benchmark", progress=False)
        took = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"{options.places} places in {took[0]:.0f} s, {took[1]:.0f} s of processor\n")
        compare(options.earth, Path(folder))


if __name__ == "__main__":
    main()
