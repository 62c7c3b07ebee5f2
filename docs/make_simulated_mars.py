"""Draw docs/simulated_mars.png: one piece of simulated ground under three cameras, and its truth.

Run from the repository's root: python docs/make_simulated_mars.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from acdc.tracks.craters.simulate import imaging, planet, quadrangle

SIDE = 300
SEED = 12
COLOURS = {1: "#40d060", 2: "#40d0ff", 3: "#ff60ff", 4: "#ffe040", 5: "#ff4040"}
TERRAINS = ("ridged plains", "intercrater plains")


def main() -> None:
    """Simulate 100 x 100 km, look at it in three ways and save the four panels."""
    plan = planet.Plan(
        "example",
        "train",
        1000,
        1000,
        0.0,
        planet.DEGREES_PER_PIXEL,
        TERRAINS,
        ((0, "day infrared"),),
    )
    made = quadrangle.make(plan, np.random.SeedSequence(SEED))
    assert made.surface is not None
    rng = np.random.default_rng(SEED)
    panels = []
    top, left = _busiest(made.craters.row.to_numpy(), made.craters.col.to_numpy(), plan.rows)
    window = (slice(top, top + SIDE), slice(left, left + SIDE))
    for name, scene in imaging.SCENES.items():
        strips = imaging.Strips(rng, made.surface.height.shape)
        seen = scene(rng, made.surface, strips, 1.0)
        grey = imaging.stretched(rng, seen, strips, imaging.CONDITIONS[name])
        panels.append(Image.fromarray(grey[window]).convert("RGB"))
    truth = panels[0].copy()
    draw = ImageDraw.Draw(truth)
    for crater in made.craters.itertuples():
        row, col, radius = crater.row - top, crater.col - left, crater.radius / 100
        box = (col - radius, row - radius, col + radius, row + radius)
        draw.ellipse(box, outline=COLOURS[crater.type])
    sheet = Image.new("RGB", (4 * SIDE + 12, SIDE), "white")
    for k, panel in enumerate([truth, *panels]):
        sheet.paste(panel, (k * (SIDE + 4), 0))
    out = Path(__file__).with_name("simulated_mars.png")
    sheet.quantize(96, method=Image.Quantize.MAXCOVERAGE).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def _busiest(row: np.ndarray, col: np.ndarray, size: int) -> tuple[int, int]:
    """Corner of the window that holds most craters."""
    starts = range(0, size - SIDE + 1, 50)
    return max(
        ((r, c) for r in starts for c in starts),
        key=lambda at: int(
            ((row > at[0]) & (row < at[0] + SIDE) & (col > at[1]) & (col < at[1] + SIDE)).sum()
        ),
    )


if __name__ == "__main__":
    main()
