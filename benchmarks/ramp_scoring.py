"""What `ramp-test` does after training: scoring, bagging and saving, this kit against the stock.

    python benchmarks/ramp_scoring.py

The same made-up truths and detections go through ramp-workflow's own functions twice: with the
detection type and the eleven scores of the public Mars craters kit of 2018, and with the types,
the eleven scores and the checks of this kit. Training and prediction cost nothing here, a model
hands out detections that are there already; everything else of three folds is timed: checking
predictions, scoring training, validation and test set, saving, bagging the folds one after the
other with every score. Rounds of the two take turns; the best round of each counts.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import rampwf
from rampwf.utils.submission import bag_submissions, run_submission_on_cv_fold

from acdc.ramp.kit import Kit
from acdc.tracks.craters.tiles import OVERLAP, TILE, WINDOW, Targets

FOLDS = 3
MINIPATCH = [*WINDOW, *WINDOW]


class GivenDetections:
    """A model that has predicted already: detections of the training and of the test tiles."""

    def __init__(self, train: np.ndarray, test: np.ndarray) -> None:
        self.known = {len(train): train, len(test): test}

    def predict(self, X: Sequence[Any]) -> np.ndarray:
        """Hand out the detections of the set that has the length of X."""
        return self.known[len(X)]


def make_targets(random: np.random.Generator, n: int, truths: int) -> Targets:
    """Make up n tiles on neighbouring ground, ten blocks, with `truths` craters each on average."""
    number, side = np.arange(n), int(np.ceil(np.sqrt(n)))
    tiles = pd.DataFrame(
        {
            "block": (number * 10 // n).astype(str),
            "quadrangle": "q",
            "level": 0,
            "row0": number // side * (TILE - OVERLAP),
            "col0": number % side * (TILE - OVERLAP),
            "pixel_size": 100.0,
            "valid": 1.0,
            "window_area": (0.1 * (TILE - OVERLAP)) ** 2,
            "region": (number * 10 // n).astype(str),
            "sensor": "",
            "light": "",
            "terrain": "",
        }
    )
    tile = np.sort(random.integers(0, n, n * truths))
    circles = pd.DataFrame(
        {
            "tile": tile,
            "row": random.uniform(0, TILE - 1, len(tile)),
            "col": random.uniform(0, TILE - 1, len(tile)),
            # steep as real populations are, 5 to 28 px
            "radius": 5.0 * (28 / 5) ** (random.uniform(0, 1, len(tile)) ** 2),
            "kind": random.integers(0, 4, len(tile)),
            "flag": 0,
            "crater_id": "",
            "degradation": np.nan,
            "ejecta": "",
        }
    )
    plane = {"a": 100.0, "b": 0.0, "c": 0.0, "d": 0.0, "e": -100.0, "f": 0.0}
    return Targets(tiles, circles, pd.DataFrame([{"name": "q", "crs": "", **plane}]))


def make_detections(random: np.random.Generator, y: Targets, per_tile: int) -> np.ndarray:
    """Find 80 % of the craters roughly, and something else everywhere: object array of lists."""
    found = random.random(len(y.circles)) < 0.8
    tile, circles = y.circles["tile"].to_numpy()[found], y.row_col_radius[found]
    circles = circles + random.normal(0, 0.1, circles.shape) * circles[:, 2:]
    others = random.integers(0, len(y), per_tile * len(y) - len(tile))
    invented = np.column_stack(
        [
            random.uniform(0, TILE - 1, (len(others), 2)),
            random.uniform(5, 28, len(others)),
        ]
    )
    confidence = np.r_[random.beta(4, 2, len(tile)), random.beta(2, 4, len(others))]
    table = np.column_stack([confidence, np.vstack([circles, invented])])
    table[:, 3] = np.clip(table[:, 3], 3, 40)
    detections = np.empty(len(y), dtype=object)
    detections[:] = [[] for _ in range(len(y))]
    for i, row in zip(np.r_[tile, others], table.tolist(), strict=True):
        detections[i].append(tuple(row))
    return detections


def stock_problem() -> SimpleNamespace:
    """Make what the public kit's problem.py of 2018 exposes."""
    score = rampwf.score_types
    return SimpleNamespace(
        Predictions=rampwf.prediction_types.make_detection(),
        workflow=rampwf.workflows.ObjectDetector(),
        score_types=[
            score.OSPA(minipatch=MINIPATCH),
            score.SCP(shape=(TILE, TILE), minipatch=MINIPATCH),
            score.DetectionAveragePrecision(name="ap"),
            *(
                kind(name=f"{name}({iou})", iou_threshold=iou, minipatch=MINIPATCH)
                for kind, name in ((score.DetectionPrecision, "p"), (score.DetectionRecall, "r"))
                for iou in (0.0, 0.5, 0.9)
            ),
            score.MADCenter(name="madc", minipatch=MINIPATCH),
            score.MADRadius(name="madr", minipatch=MINIPATCH),
        ],
    )


def kit_problem() -> Kit:
    """Make what this kit's problem.py exposes."""
    return Kit(Path(__file__).resolve().parents[1])


def run(
    problem: Any,
    models: list[GivenDetections],
    folds: list[Any],
    y_train: Any,
    y_test: Any,
    folder: Path,
) -> tuple[float, float]:
    """Let ramp-workflow do all but training; return the seconds for the folds and for bagging."""
    waiting = iter(models)
    problem.workflow.train_submission = lambda *arguments: next(waiting)
    X_train, X_test = range(len(y_train)), range(len(y_test))
    valid, test = [], []
    start = time.perf_counter()
    for i, fold in enumerate(folds):
        output = folder / f"fold_{i}"
        output.mkdir()
        on_valid, on_test, scores = run_submission_on_cv_fold(
            problem,
            str(folder),
            fold,
            X_train,
            y_train,
            X_test,
            y_test,
            save_output=True,
            fold_output_path=str(output),
        )
        scores.to_csv(output / "scores.csv")
        valid.append(on_valid)
        test.append(on_test)
    middle = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        bag_submissions(
            problem,
            folds,
            y_train,
            y_test,
            valid,
            test,
            str(folder),
            score_type_index=None,
            save_output=True,
        )
    return middle - start, time.perf_counter() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=5000, help="a quarter of them is the test set")
    parser.add_argument("--truths", type=int, default=2, help="per tile")
    parser.add_argument("--detections", type=int, default=10, help="per tile")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    os.environ["RAMP_TRACK"] = "craters"
    random = np.random.default_rng(0)
    n_test = options.tiles // 4
    y_train = make_targets(random, options.tiles - n_test, options.truths)
    y_test = make_targets(random, n_test, options.truths)
    models = [
        GivenDetections(
            *(make_detections(random, y, options.detections) for y in (y_train, y_test))
        )
        for _ in range(FOLDS)
    ]
    kit = kit_problem()
    folds = kit.get_cv(None, y_train)
    plain = [np.empty(len(y), dtype=object) for y in (y_train, y_test)]
    for array, y in zip(plain, (y_train, y_test), strict=True):
        array[:] = [
            [tuple(circle) for circle in y.row_col_radius[start:stop].tolist()]
            for start, stop in zip(y.offsets[:-1], y.offsets[1:], strict=True)
        ]
    best: dict[str, tuple[float, float]] = {}
    for _ in range(options.rounds):
        for name, problem, truths in (
            ("ramp-workflow", stock_problem(), plain),
            ("kit", kit, (y_train, y_test)),
        ):
            with tempfile.TemporaryDirectory() as folder:
                taken = run(problem, models, folds, *truths, Path(folder))
            best[name] = min(best.get(name, (np.inf, np.inf)), taken, key=sum)
    print(
        f"{options.tiles} tiles (a quarter for testing), {options.truths} craters and "
        f"{options.detections} detections per tile, {FOLDS} folds, "
        f"{len(stock_problem().score_types)} stock scores and {len(kit.score_types)} of the kit; "
        f"seconds, best of {options.rounds} rounds\n"
    )
    print("| | folds: check, score, save | bags: combine, score | together |")
    print("| --- | ---: | ---: | ---: |")
    for name, (scored, bagged) in best.items():
        print(f"| {name} | {scored:.2f} | {bagged:.2f} | {scored + bagged:.2f} |")
    pairs = [*zip(*best.values(), strict=True), [sum(taken) for taken in best.values()]]
    print("| times as fast |", " | ".join(f"{stock / own:.0f}" for stock, own in pairs), "|")


if __name__ == "__main__":
    main()
