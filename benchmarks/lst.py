"""How methods rank one scale up and at the true scale; the tables of docs/lst.md.

    python benchmarks/lst.py                                  simulated scenes
    python benchmarks/lst.py --scenes modis_aster.npz         real ones, too

Every scene is held out once: folds are whole pieces of ground, models are trained at 4 -> 1 km.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from acdc.metrics import bootstrap
from acdc.ramp.workflow import make_workflow
from acdc.sensor import project_flux
from acdc.tracks import load
from acdc.tracks.lst import gaps, multiscale, scenes, simulate
from acdc.tracks.lst.evaluation import gain

KIT = Path(__file__).resolve().parents[1]
OTHERS = ("rmse", "ssim", "gradient", "spectrum", "consistency")
PROJECTED = "starting_kit, projected"
METHODS = ("bilinear", "bicubic", "tsharp", "atprk", "starting_kit", "local_ridge")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, help="real scenes: .npz or folder")
    parser.add_argument("--size", default="default", choices=simulate.SIZES)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="folders in submissions/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = simulate.simulate(Path(folder, "scenes.npz"), size=options.size, progress=False)
        report("simulated", scenes.read(file), options.methods)
    if options.scenes:
        report(options.scenes.name, scenes.read(options.scenes), options.methods)


class Projected:
    """An element whose fields are made to agree with their input, in flux."""

    def __init__(self, element):
        self.element = element

    def predict(self, X):
        """Sharpen, then project, scene by scene."""
        for sample, field in zip(X, self.element.predict(X), strict=True):
            yield project_flux(field, sample.lst)


def report(title, raw, methods):
    groups = len({scene.group for scene in raw})
    print(f"\n### {title}: {len(raw)} scenes, {groups} pieces of ground\n")
    workflow = make_workflow(load("lst"))

    def trainer(method):
        return partial(workflow.train_submission, str(KIT / "submissions" / method))

    trainers = {method: trainer(method) for method in methods}
    if "starting_kit" in trainers:
        trainers[PROJECTED] = lambda X, y: Projected(trainer("starting_kit")(X, y))
    measured, rows, others = {}, {}, {}
    for method, train in trainers.items():
        start = time.perf_counter()
        found = gaps.measure(train, raw)
        ways = {"4 to 1 km": found.coarse, "aggregated": found.aggregated, "test": found.fine}
        measured[method] = found
        rows[method] = {
            **{f"{way} (K)": e.over_groups("ubrmse") for way, e in ways.items()},
            "scale gap (K)": found.scale_gap,
            "sensor gap (K)": found.sensor_gap,
            **{f"gain {way}": gain(e) for way, e in ways.items()},
            "wins": found.wins,
            "seconds": time.perf_counter() - start,
        }
        others[method] = {name: found.fine.over_groups(name) for name in OTHERS}
    measured.pop(PROJECTED, None)
    others["(truth)"] = {"consistency": found.fine.over_groups("truth_consistency")}
    percent = {name: "{:.0%}" for name in rows[methods[0]] if name.startswith(("gain", "wins"))}
    print("Unbiased RMSE, median over pieces of ground of the mean over their scenes:\n")
    print(markdown(pd.DataFrame(rows).T, {**percent, "seconds": "{:.1f}"}))
    print("\nThe other scores at the test's scale:\n")
    print(markdown(pd.DataFrame(others).T, {}))
    print_ranking(measured)
    statistics = multiscale.statistics_of_scenes(raw).drop(columns=["scene"])
    by_group = statistics.groupby(["scale", "group"]).mean().groupby("scale").median()
    print("From scale (m) to scale, median over pieces of ground:\n")
    columns = [
        "variance",
        "slope",
        "detail_variance",
        "detail_ndvi_variance",
        "detail_slope",
        "detail_correlation",
    ]
    print(markdown(by_group[columns], {}, index="{:.0f}"))


def print_ranking(measured):
    """Say whether the ranking at 4 -> 1 km predicts the one at 1 km -> 250 m."""
    methods = list(measured)
    tables = {
        way: pd.DataFrame(
            {m: getattr(measured[m], way).scenes.groupby("group").ubrmse.mean() for m in methods}
        )
        for way in ("coarse", "aggregated", "fine")
    }
    weights = bootstrap.draw_weights(len(tables["fine"]), 1000).astype(int)
    drawn = [np.repeat(np.arange(len(row)), row) for row in weights]
    print()
    for way, what in (("aggregated", "its own aggregate"), ("fine", "the other sensor")):

        def correlation(rows, way=way):
            one, other = (tables[w].iloc[rows].median() for w in ("coarse", way))
            return stats.spearmanr(one, other).statistic

        all_groups = correlation(np.arange(len(tables["fine"])))
        low, high = np.nanquantile([correlation(rows) for rows in drawn], [0.025, 0.975])
        print(
            f"Spearman correlation of the ranking of {len(methods)} methods at 4 to 1 km with that "
            f"at 1 km to 250 m, sharpened from {what}:\n{all_groups:.2f} "
            f"(95 % over pieces of ground: {low:.2f} to {high:.2f})\n"
        )


def markdown(table, formats, index="{}"):
    lines = ["| | " + " | ".join(table.columns) + " |", "| --- " * (len(table.columns) + 1) + "|"]
    for name, row in table.iterrows():
        cells = [
            "" if pd.isna(value) else formats.get(column, "{:.3f}").format(value)
            for column, value in row.items()
        ]
        cells = ["0%" if cell == "-0%" else cell for cell in cells]
        lines.append(f"| {index.format(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
