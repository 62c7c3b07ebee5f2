"""Scores of super-resolved images beside their peers, measured in one run.

    python benchmarks/superresolution.py
    python benchmarks/superresolution.py --opensr PYTHON    # an environment with opensr-test

Every contender runs alone in a child process on one thread, on the same simulated images of 4 bands
and 256 x 256 pixels, of which the masked ones lack some 6 percent. Times are processor time
(wall-clock where that is less), the best of many calls. Memory is the peak of the first call above
what the images take just before.

Peers: scikit-image's `structural_similarity`; the method of the scorer published with HighRes-net
(all 49 windows of the truth, cut out one after the other, numpy on all bands at a time), written
anew for this table; opensr-test, without matching histograms and moving images as this kit has it,
and as it is. In its environment run `pip install opensr-test`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from acdc.metrics import consistency, fidelity
from acdc.sensor import SENTINEL2, Imager

BANDS = ("B04", "B03", "B02", "B08")
SIDE = 256
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Images = dict[str, np.ndarray]
Score = Callable[[], list[float]]


def make_images() -> Images:
    """Simulate a truth, its observation, something like a prediction, and clouds."""
    random = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(random.standard_normal((4, SIDE, SIDE)), (0, 1.5, 1.5))
    truth = 0.2 + 0.05 * texture / texture.std()
    observed = Imager.of([SENTINEL2[name] for name in BANDS], 2.5).forward(truth)
    bicubic = ndimage.zoom(observed, (1, 4, 4), order=3, grid_mode=True, mode="nearest")
    predicted = 0.5 * (truth + bicubic) + 0.01 * random.standard_normal(truth.shape)
    field = ndimage.gaussian_filter(random.standard_normal((SIDE, SIDE)), 8)
    return {
        "truth": truth,
        "predicted": np.roll(predicted, (1, -2), (1, 2)),
        "observed": observed,
        "clear": field < np.quantile(field, 0.94),
    }


def in_single_precision(images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth, predicted, observed = (
        images[name].astype(np.float32) for name in ("truth", "predicted", "observed")
    )
    return truth, predicted, observed


# --- contenders: prepare returns what is timed, which returns figures to compare ---------------


def prepare_ssim(images: Images) -> Score:
    return lambda: [fidelity.ssim(images["truth"], images["predicted"])]


def prepare_ssim_single(images: Images) -> Score:
    truth, predicted, _ = in_single_precision(images)
    return lambda: [fidelity.ssim(truth, predicted)]


def similarity_of_skimage(truth: np.ndarray, predicted: np.ndarray) -> Score:
    from skimage.metrics import structural_similarity

    return lambda: [
        float(
            structural_similarity(
                truth,
                predicted,
                data_range=1,
                channel_axis=0,
                gaussian_weights=True,
                use_sample_covariance=False,
            )
        )
    ]


def prepare_skimage(images: Images) -> Score:
    return similarity_of_skimage(images["truth"], images["predicted"])


def prepare_skimage_single(images: Images) -> Score:
    return similarity_of_skimage(*in_single_precision(images)[:2])


def prepare_cssim(images: Images) -> Score:
    return lambda: [fidelity.cssim(images["truth"], images["predicted"], images["clear"]).score]


def prepare_cpsnr(images: Images) -> Score:
    def score() -> list[float]:
        found = fidelity.cpsnr(images["truth"], images["predicted"], images["clear"])
        return found.per_band.tolist()

    return score


def prepare_cpsnr_clear(images: Images) -> Score:
    truth, predicted = images["truth"], images["predicted"]
    return lambda: fidelity.cpsnr(truth, predicted).per_band.tolist()


def prepare_all_windows(images: Images) -> Score:
    """Do what HighRes-net's scorer does: every window, all of its pixels, in numpy."""
    border = fidelity.MAX_SHIFT
    size = SIDE - 2 * border
    clear = np.broadcast_to(images["clear"], images["truth"].shape)

    def score() -> list[float]:
        inner = images["predicted"][:, border:-border, border:-border]
        decibels = []
        for row in range(2 * border + 1):
            for col in range(2 * border + 1):
                window = np.s_[:, row : row + size, col : col + size]
                truth, counts = images["truth"][window], clear[window]
                n = counts.sum(axis=(1, 2))
                error = truth - inner
                bias = (error * counts).sum(axis=(1, 2)) / n
                power = np.square((error - bias[:, None, None]) * counts).sum(axis=(1, 2)) / n
                decibels.append(-10 * np.log10(power))
        # one shift for all bands, as here; the published one takes the best of each image
        best = int(np.argmax(np.mean(decibels, axis=1)))
        return [float(value) for value in decibels[best]]

    return score


def prepare_triangle(images: Images) -> Score:
    truth, predicted, observed = in_single_precision(images)
    return lambda: list(consistency.triangle(truth, predicted, observed))


def prepare_chip(images: Images) -> Score:
    """Everything that is scored on one chip but the use of it."""
    truth, predicted, observed = in_single_precision(images)
    clear = images["clear"]
    see = Imager.of([SENTINEL2[name] for name in BANDS], 2.5).forward

    def score() -> list[float]:
        registered = fidelity.cpsnr(truth, predicted, clear)
        means = [fidelity.local_mean(image, clear) for image in (truth, predicted)]
        return [
            registered.score,
            fidelity.cssim(truth, predicted, clear, registered.shift).score,
            fidelity.psnr(truth, predicted, clear),
            fidelity.ssim(truth, predicted, clear),
            fidelity.sam(means[0][0], means[1][0], means[0][1]),
            fidelity.ergas(truth, predicted, clear),
            fidelity.spectrum_error(truth, predicted, clear),
            consistency.consistency(predicted, observed, see),
            consistency.spectral_consistency(predicted, observed, see),
            *consistency.triangle(truth, predicted, observed, clear),
        ]

    return score


def prepare_imager(images: Images) -> Score:
    imager = Imager.of([SENTINEL2[name] for name in BANDS], 2.5)
    return lambda: [float(imager.forward(images["truth"])[0, 0, 0])]


def prepare_sub_pixel(images: Images) -> Score:
    return lambda: [
        fidelity.sub_pixel_shift(images["truth"], images["predicted"], images["clear"]).row
    ]


OURS: dict[str, tuple[str, Callable[[Images], Score]]] = {
    "ssim32": ("SSIM, float32: this kit", prepare_ssim_single),
    "ssim": ("SSIM, float64: this kit", prepare_ssim),
    "cpsnr": ("cPSNR, masked, 49 shifts: this kit", prepare_cpsnr),
    "triangle": ("triangle, float32: this kit", prepare_triangle),
}
PEERS: dict[str, tuple[str, Callable[[Images], Score], str]] = {
    "skimage32": ("SSIM, float32: scikit-image", prepare_skimage_single, "ssim32"),
    "skimage": ("SSIM, float64: scikit-image", prepare_skimage, "ssim"),
    "windows": ("cPSNR, masked, 49 shifts: HighRes-net's method", prepare_all_windows, "cpsnr"),
}
ALSO: dict[str, tuple[str, Callable[[Images], Score]]] = {
    "clear": ("cPSNR, nothing masked, 49 shifts", prepare_cpsnr_clear),
    "cssim": ("cSSIM, masked, registration included", prepare_cssim),
    "sub_pixel": ("sub-pixel shift, masked", prepare_sub_pixel),
    "imager": ("the truth seen by Sentinel-2", prepare_imager),
    "chip": ("twelve scores of a chip, masked, float32", prepare_chip),
}

OPENSR = """
import ctypes, json, pathlib, sys, time
import numpy as np, torch, opensr_test
torch.set_num_threads(1)
images = np.load(sys.argv[1])
truth, predicted, observed = (
    torch.from_numpy(images[name].astype(np.float32)) for name in ("truth", "predicted", "observed")
)
as_it_is = sys.argv[2] == "as it is"
metrics = opensr_test.Metrics(harm_apply_spectral=as_it_is, harm_apply_spatial=as_it_is)

def memory(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

ctypes.CDLL(None).malloc_trim(0)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before, peak, times = memory("VmRSS"), 0.0, []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter(), time.process_time()
    found = metrics.correctness(
        lr=observed, sr=predicted, hr=truth, gradient_threshold="auto75"
    )
    times.append(min(time.perf_counter() - start[0], time.process_time() - start[1]))
    peak = peak or memory("VmHWM")
scores = [found["ha_metric"], found["om_metric"], found["im_metric"]]
print(json.dumps({"seconds": min(times), "megabytes": peak - before, "scores": scores}))
"""


def memory(field: str) -> float:
    """Return a figure of this process in MB: VmRSS (now) or VmHWM (its peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}.")


def run_child(name: str, repeat: int) -> None:
    """Measure one contender in this process and print the result as JSON."""
    prepare = PEERS[name][1] if name in PEERS else {**OURS, **ALSO}[name][1]
    score = prepare(make_images())
    ctypes.CDLL(None).malloc_trim(0)  # what making the images has left behind
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, peak = memory("VmRSS"), 0.0
    times: list[float] = []
    scores: list[float] = []
    for _ in range(repeat):
        start = time.perf_counter(), time.process_time()
        scores = score()
        times.append(min(time.perf_counter() - start[0], time.process_time() - start[1]))
        peak = peak or memory("VmHWM")
    print(json.dumps({"seconds": min(times), "megabytes": peak - before, "scores": scores}))


def measure(command: list[str]) -> dict[str, Any]:
    """Run one contender in a child process."""
    output = subprocess.run(
        command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def show(title: str, found: dict[str, Any], ours: dict[str, Any] | None = None) -> None:
    """Print a row; a peer's beside that of this kit."""
    slower = gap = ""
    if ours:
        slower = f"{found['seconds'] / ours['seconds']:.1f}"
        gap = f"{np.abs(np.subtract(found['scores'], ours['scores'])).max():.1e}"
    print(
        f"| {title} | {1e3 * found['seconds']:.2f} | {slower} | {found['megabytes']:.1f} | {gap} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=60, help="calls; the best one counts")
    parser.add_argument(
        "--opensr", metavar="PYTHON", help="interpreter of an environment with opensr-test"
    )
    parser.add_argument("--child", choices=[*OURS, *ALSO, *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, options.repeat)
        return

    def child(name: str) -> dict[str, Any]:
        repeat = str(options.repeat)
        return measure([sys.executable, __file__, "--child", name, "--repeat", repeat])

    print(f"One simulated image of 4 x {SIDE} x {SIDE}\n")
    print("| contender | ms | times slower | MB above the images | largest difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    ours = {}
    for name, (title, _) in OURS.items():
        ours[name] = child(name)
        show(title, ours[name])
    for name, (title, _, of) in PEERS.items():
        show(title, child(name), ours[of])
    if options.opensr:
        with tempfile.TemporaryDirectory() as folder:
            images: Any = make_images()
            np.savez(Path(folder) / "images.npz", **images)
            for how in ("the same", "as it is"):
                command = [options.opensr, "-c", OPENSR, str(Path(folder) / "images.npz"), how]
                found = measure([*command, str(max(options.repeat // 2, 1))])
                show(f"triangle, float32: opensr-test, {how}", found, ours["triangle"])
    for name, (title, _) in ALSO.items():
        show(title, child(name))


if __name__ == "__main__":
    main()
