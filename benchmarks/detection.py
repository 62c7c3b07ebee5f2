"""Detection scores, circles, merging and model ages, beside their peers, measured in one run.

    python benchmarks/detection.py
    python benchmarks/detection.py --tiles 2000 --merge 50000    # in seconds

Every contender runs alone in a child process on one thread, on the same simulated truths and
detections: circles for this kit and ramp-workflow, their bounding squares for the others (and for
this kit's box mode, which has to agree with pycocotools). Time is that of the scoring alone: what a
peer needs to build its own structures from ready lists is not counted. Times are processor time
(wall-clock where that is less), so that other work on the machine hardly counts. Memory is the peak
above what the data take in the contender's own form just before.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from acdc.metrics import circles, detection, size_frequency

TRUTHS, DETECTIONS = 2, 10  # per tile
AREAS = [((2 * low) ** 2, (2 * high) ** 2) for low, high in detection.RANGES]
AREA_NAMES = ["all", "small", "medium", "large"]
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


def make_data(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Simulate n tiles: truths, and detections of which three in ten lie near a truth."""
    random = np.random.default_rng(0)

    def anywhere(k: int) -> np.ndarray:
        return np.c_[random.uniform(0, 224, (k, 2)), np.exp(random.uniform(1.4, 3.5, k))]

    truth = anywhere(TRUTHS * n)
    found = anywhere(DETECTIONS * n)
    confidence = random.random(DETECTIONS * n)
    for row, target in ((0, 0), (1, 1), (2, 0)):
        near = truth[target::TRUTHS]
        place = near[:, :2] + random.normal(0, 0.12, (n, 2)) * near[:, 2:]
        found[row::DETECTIONS] = np.c_[place, near[:, 2] * np.exp(random.normal(0, 0.12, n))]
        confidence[row::DETECTIONS] **= 0.5
    offsets = np.arange(n + 1)
    return truth, offsets * TRUTHS, np.c_[confidence, found], offsets * DETECTIONS


def as_boxes(rows: np.ndarray) -> np.ndarray:
    """Return the bounding squares (x, y, width, height) of circles (row, col, radius)."""
    row, col, radius = rows.T
    return np.c_[col - radius, row - radius, 2 * radius, 2 * radius]


# --- contenders: prepare returns what is timed, which returns the scores ---------------------


def prepare_circles(n: int) -> Callable[[], list[float]]:
    truth, truth_offsets, detections, offsets = make_data(n)
    ignored = np.zeros(len(truth), bool)

    def score() -> list[float]:
        matches = detection.match_circles(truth, truth_offsets, ignored, detections, offsets)
        return [
            float(detection.average_precision(matches, r)) for r in range(len(detection.RANGES))
        ]

    return score


def prepare_boxes(n: int) -> Callable[[], list[float]]:
    truth, truth_offsets, detections, offsets = make_data(n)
    boxes = as_boxes(truth)
    found = np.c_[detections[:, 0], as_boxes(detections[:, 1:])]
    area, size = boxes[:, 2] * boxes[:, 3], found[:, 3] * found[:, 4]

    def score() -> list[float]:
        matches = detection.match(
            boxes,
            truth_offsets,
            np.array([(area < low) | (area > high) for low, high in AREAS]),
            found,
            offsets,
            np.array([(size < low) | (size > high) for low, high in AREAS]),
            overlap=circles.box_iou,
        )
        return [float(detection.average_precision(matches, r)) for r in range(len(AREAS))]

    return score


def coco_lists(n: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return truth and detections as the lists of dictionaries that COCO's tools read."""
    truth, _, detections, _ = make_data(n)
    boxes, found = as_boxes(truth), as_boxes(detections[:, 1:])
    annotations = [
        {
            "id": i + 1,
            "image_id": i // TRUTHS + 1,
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, box in enumerate(boxes.tolist())
    ]
    results = [
        {"image_id": i // DETECTIONS + 1, "category_id": 1, "bbox": box, "score": score}
        for i, (box, score) in enumerate(
            zip(found.tolist(), detections[:, 0].tolist(), strict=True)
        )
    ]
    images = [{"id": i + 1, "width": 224, "height": 224} for i in range(n)]
    dataset = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "crater"}],
    }
    return dataset, results


def coco_score(evaluation: Any) -> Callable[[], list[float]]:
    """Return what runs an evaluation of either COCO tool in this benchmark's ranges."""
    evaluation.params.areaRng = AREAS
    evaluation.params.areaRngLbl = AREA_NAMES
    evaluation.params.maxDets = [100]

    def score() -> list[float]:
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"]
        return [float(precision[:, :, 0, r, -1].mean()) for r in range(len(AREAS))]

    return score


def prepare_pycocotools(n: int) -> Callable[[], list[float]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset, results = coco_lists(n)
    truth = COCO()
    truth.dataset = dataset
    truth.createIndex()
    return coco_score(COCOeval(truth, truth.loadRes(results), "bbox"))


def prepare_faster_coco_eval(n: int) -> Callable[[], list[float]]:
    from faster_coco_eval import COCO, COCOeval_faster

    dataset, results = coco_lists(n)
    truth = COCO(dataset)
    return coco_score(COCOeval_faster(truth, truth.loadRes(results), "bbox"))


def prepare_rampwf(n: int) -> Callable[[], list[float]]:
    from rampwf.score_types.detection.average_precision import DetectionAveragePrecision

    truth, truth_offsets, detections, offsets = make_data(n)
    true = [[tuple(row) for row in truth[a:b].tolist()] for a, b in pairwise(truth_offsets)]
    found = [[tuple(row) for row in detections[a:b].tolist()] for a, b in pairwise(offsets)]
    stock = DetectionAveragePrecision()
    return lambda: [float(stock(true, found))]


CONTENDERS: dict[str, tuple[str, Callable[[int], Callable[[], list[float]]]]] = {
    "circles": ("this kit, circles", prepare_circles),
    "boxes": ("this kit, boxes", prepare_boxes),
    "pycocotools": ("pycocotools, boxes", prepare_pycocotools),
    "faster-coco-eval": ("faster-coco-eval, boxes", prepare_faster_coco_eval),
    "rampwf": ("ramp-workflow AP (1 threshold, 1 range, wrong overlap)", prepare_rampwf),
}


class Timer:
    """Seconds of a block: processor time of this process, or wall-clock time if that is less."""

    def __enter__(self) -> Timer:
        self.start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, processor = self.start
        self.seconds = min(time.perf_counter() - wall, time.process_time() - processor)


def memory(field: str) -> float:
    """Return a figure of this process in MB: VmRSS (now) or VmHWM (its peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}.")


def run_child(name: str, n: int, repeat: int) -> None:
    """Measure one contender in this process and print the result as JSON."""
    with contextlib.redirect_stdout(io.StringIO()):
        score = CONTENDERS[name][1](n)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        times, scores = [], []
        peak = 0.0
        for _ in range(repeat):
            with Timer() as timer:
                scores = score()
            times.append(timer.seconds)
            peak = peak or memory("VmHWM")
    print(json.dumps({"seconds": min(times), "megabytes": peak - before, "scores": scores}))


def measure(name: str, n: int, repeat: int) -> dict[str, Any]:
    """Run one contender in a child process."""
    command = [sys.executable, __file__, "--child", name, "--tiles", str(n)]
    output = subprocess.run(
        [*command, "--repeat", str(repeat)],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def report_matching(n: int, repeat: int, skip: list[str]) -> None:
    print(
        f"{n:,} tiles, {TRUTHS * n:,} truths, {DETECTIONS * n:,} detections, "
        f"{len(detection.RANGES)} ranges x {len(detection.THRESHOLDS)} thresholds\n"
    )
    print("| contender | seconds | times slower | MB above the data | AP, all sizes |")
    print("| --- | ---: | ---: | ---: | ---: |")
    results: dict[str, dict[str, Any]] = {}
    for name, (title, _) in CONTENDERS.items():
        if name in skip:
            continue
        ours = name in ("circles", "boxes")
        results[name] = found = measure(name, n, repeat if ours else 1)
        slower = found["seconds"] / results["circles"]["seconds"]
        print(
            f"| {title} | {found['seconds']:.2f} | {slower:.1f} "
            f"| {found['megabytes']:.0f} | {found['scores'][0]:.6f} |",
            flush=True,
        )
    if {"boxes", "pycocotools"} <= set(results):
        gap = np.subtract(results["boxes"]["scores"], results["pycocotools"]["scores"])
        print(f"\nBox mode minus pycocotools, largest of all ranges: {np.abs(gap).max():.1e}")


def hard_circles(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n pairs: nearly touching from outside or inside, nested, identical, tiny."""
    random = np.random.default_rng(1)
    radius = np.exp(random.uniform(-3, 6, (n, 2)))
    kind = np.arange(n) % 5
    total, gap = radius.sum(axis=1), np.abs(radius[:, 0] - radius[:, 1])
    nudge = 1 + random.choice([0, 1, -1], n) * 10.0 ** random.uniform(-16, -3, n)
    distance = np.choose(
        kind, [total * nudge, gap * nudge, gap * random.random(n), np.zeros(n), total / 2]
    )
    radius[kind == 3, 1] = radius[kind == 3, 0]
    scale = np.where(kind == 4, 1e-150, 1.0)
    direction = random.uniform(0, 2 * np.pi, n)
    step = np.c_[distance * np.sin(direction), distance * np.cos(direction)]
    a = np.c_[np.zeros((n, 2)), radius[:, 0]] * scale[:, None]
    return a, np.c_[step, radius[:, 1]] * scale[:, None]


def exact_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the overlap of two circles from circular segments in 50 digits."""
    from mpmath import mp, mpf

    with mp.workdps(50):
        (y1, x1, r1), (y2, x2, r2) = ([mpf(float(v)) for v in circle] for circle in (a, b))
        d = mp.sqrt((y1 - y2) ** 2 + (x1 - x2) ** 2)
        if d >= r1 + r2:
            return 0.0
        if d <= abs(r1 - r2):
            return float((min(r1, r2) / max(r1, r2)) ** 2)
        lens = mpf(0)
        for r, other in ((r1, r2), (r2, r1)):
            angle = mp.acos((d * d + r * r - other * other) / (2 * d * r))
            lens += r * r * (angle - mp.sin(angle) * mp.cos(angle))
        return float(lens / (mp.pi * (r1 * r1 + r2 * r2) - lens))


def report_circles(n_exact: int) -> None:
    a, b = hard_circles(1_000_000)
    with Timer() as timer:
        iou = circles.circle_iou(a, b)
    good = bool(((iou >= 0) & (iou <= 1)).all())
    error = max(abs(iou[i] - exact_iou(a[i], b[i])) for i in range(n_exact))
    print(
        "| circle IoU of 1,000,000 touching, nested, identical and tiny pairs "
        f"| {timer.seconds:.2f} s, {'all' if good else 'NOT all'} numbers in [0, 1] |"
    )
    print(f"| its largest error against mpmath, {n_exact:,} pairs | {error:.1e} |")


def report_merging(n: int, repeat: int) -> None:
    random = np.random.default_rng(2)
    n_craters = max(n // 4, 1)
    side = 6000 * np.sqrt(n_craters)  # metres; one crater in 36 km2
    radius = 500 + 500 * random.pareto(1.8, n_craters)
    craters = np.c_[random.uniform(0, side, (n_craters, 2)), radius]
    seen = craters[random.integers(0, n_craters, n)]
    seen[:, :2] += random.normal(0, 0.08, (n, 2)) * seen[:, 2:]
    seen[:, 2] *= np.exp(random.normal(0, 0.08, n))
    tile = 168 * 100  # metres from tile to tile; detections come tile by tile
    seen = seen[np.lexsort((seen[:, 1] // tile, seen[:, 0] // tile))]
    confidence = random.random(n)
    times = []
    for _ in range(repeat):
        with Timer() as timer:
            keep, _ = circles.merge_circles(seen, confidence)
        times.append(timer.seconds)
    print(
        f"| merging {n:,} detections of {n_craters:,} craters on the ground into {len(keep):,} "
        f"| {min(times):.2f} s |"
    )


CRATERSTATS = """
import json, pathlib, sys, craterstats
path = str(pathlib.Path(craterstats.__file__).parent / "config" / "functions.txt")
production = craterstats.Productionfn(path, "Mars, Ivanov (2001)")
chronology = craterstats.Chronologyfn(path, "Mars, Hartmann & Neukum (2001)")
ages = []
for diameters, low, high, area in json.load(sys.stdin):
    count = craterstats.Cratercount()
    count.diam, count.area = diameters, area
    pdf = craterstats.Craterpdf(production, chronology, count, (low, high))
    ages.append(float(pdf.t(0.5)))
print(json.dumps(ages))
"""


def report_ages(interpreter: str | None, repeat: int) -> None:
    random = np.random.default_rng(3)
    cases = []
    for n, area in ((10, 1e4), (100, 1e4), (1000, 2e5), (3000, 3e6), (100, 2e6), (1000, 1e5)):
        diameters = (1 - random.random(n)) ** (-1 / 2.5)
        cases.append((diameters.tolist(), 1.0, 32.0, area))
    times, ages = [], []
    for diameters, low, high, area in cases:
        for _ in range(10 * repeat):
            with Timer() as timer:
                found = size_frequency.model_age(diameters, [(low, high, area)])
            times.append(timer.seconds)
        ages.append(found.age)
    print(
        f"| model age with interval, {min(ages):.2g} to {max(ages):.2g} Ga, median time "
        f"| {1e3 * np.median(times):.2f} ms |"
    )
    if interpreter:
        output = subprocess.run(
            [interpreter, "-c", CRATERSTATS],
            input=json.dumps(cases),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        reference = json.loads(output.splitlines()[-1])
        worst = np.abs(np.divide(ages, reference) - 1).max()
        print(f"| its largest difference from craterstats, {len(ages)} counts | {worst:.2%} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--merge", type=int, default=1_000_000, help="detections to merge")
    parser.add_argument("--exact", type=int, default=2000, help="pairs to compare with mpmath")
    parser.add_argument("--repeat", type=int, default=5, help="rounds of this kit; the best counts")
    parser.add_argument("--skip", nargs="*", default=[], choices=list(CONTENDERS)[1:])
    parser.add_argument(
        "--craterstats", metavar="PYTHON", help="interpreter of an environment with craterstats"
    )
    parser.add_argument("--child", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, options.tiles, options.repeat)
        return
    report_matching(options.tiles, options.repeat, options.skip)
    print("\n| also | |\n| --- | ---: |")
    report_circles(options.exact)
    report_merging(options.merge, options.repeat)
    report_ages(options.craterstats, options.repeat)


if __name__ == "__main__":
    main()
