"""Draw docs/tiles.jpg: test tiles with true and predicted circles, after `make demo`."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle

from acdc.tracks.craters import detections, tiles
from acdc.tracks.craters.evaluation import evaluate

ROOT = Path(__file__).resolve().parents[1]
TRUE, FOUND, FALSE = "#4db2ff", "#5dff5d", "#ff9933"
CONFIDENCE = 0.5


def main() -> None:
    """Read the stored predictions of a submission, bag them, and draw the busiest tiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submission", default="starting_kit")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "craters" / "test")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "tiles.jpg")
    options = parser.parse_args()
    X, y = tiles.read_images(options.data), tiles.read_targets(options.data)
    output = ROOT / "submissions" / options.submission / "training_output"
    models = [detections.load(file) for file in sorted(output.glob("fold_*/y_pred_test.npz"))]
    bagged = detections.combine([(model, np.arange(len(y))) for model in models], len(y))
    evaluation = evaluate(y, bagged)
    fig, axes = plt.subplots(2, 4, figsize=(12, 6.35))
    for axis, tile in zip(axes.flat, _busy_tiles(X, y, axes.size), strict=True):
        _draw(axis, X, y, evaluation, int(tile))
    fig.legend(
        handles=[
            Line2D([], [], color=TRUE, lw=2, label="true, scored"),
            Line2D([], [], color=TRUE, lw=1, ls=":", label="true, not scored"),
            Line2D([], [], color=FOUND, lw=2, label="found"),
            Line2D([], [], color=FALSE, lw=2, ls="--", label="false"),
            Line2D([], [], color="w", lw=0.7, label="scored window", alpha=0.6),
        ],
        loc="lower center",
        ncols=5,
        frameon=False,
        labelcolor="w",
    )
    fig.patch.set_facecolor("#222222")
    fig.subplots_adjust(0.005, 0.06, 0.995, 0.96, 0.02, 0.12)
    fig.savefig(options.out, dpi=90, pil_kwargs={"quality": 88, "optimize": True})
    print(f"{options.out} drawn from {len(models)} models of {options.submission}")


def _busy_tiles(X: tiles.TileArray, y: tiles.Targets, n: int) -> np.ndarray:
    """Tiles with several scored circles, alternating between the lights."""
    scored = np.array([len(craters) for craters in y])
    chosen: list[int] = []
    lights = sorted(set(X.light))
    ranked = {
        light: [i for i in np.argsort(-scored, kind="stable") if X.light[i] == light]
        for light in lights
    }
    while len(chosen) < n:
        for light in lights:
            if ranked[light]:
                chosen.append(ranked[light].pop(0))
    return np.array(chosen[:n])


def _draw(axis, X, y, evaluation, tile: int) -> None:
    axis.imshow(X[tile], cmap="gray", vmin=0, vmax=255)
    low, high = tiles.WINDOW
    axis.add_patch(
        Rectangle(
            (low - 0.5, low - 0.5), high - low, high - low, fill=False, ec="w", lw=0.7, alpha=0.6
        )
    )
    for craters, style in ((y[tile], {"lw": 1.6}), (y.ignored[tile], {"lw": 0.8, "ls": ":"})):
        for row, col, radius in craters:
            axis.add_patch(Circle((col, row), radius + 1, fill=False, ec=TRUE, **style))
    matches = evaluation.matches
    here = (matches.sample == tile) & (matches.confidence >= CONFIDENCE)
    right, ignored = matches.true_positive(), matches.ignored()
    for i in np.flatnonzero(here & ~ignored):
        _, row, col, radius = matches.detections[i]
        style = {"ec": FOUND} if right[i] else {"ec": FALSE, "ls": "--"}
        axis.add_patch(Circle((col, row), radius - 1, fill=False, lw=1.6, **style))
    axis.set(xlim=(-0.5, 223.5), ylim=(223.5, -0.5), xticks=[], yticks=[])
    axis.set_title(f"{X.sensor[tile]}, {X.light[tile]}", color="w", fontsize=9, pad=3)


if __name__ == "__main__":
    main()
