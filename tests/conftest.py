import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

from acdc.tracks.craters import tiles

# who works on the kit explores new examples in every run; what decides over a landing is repeatable
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("explore"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "explore")


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data beside the repository; tests that want it are skipped without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("no real data beside the repository")
    return folder


@pytest.fixture
def write_tiles():
    """Write a split of made-up tiles with drawn rings; gives the circles table back."""
    return write_made_up_split


def write_made_up_split(folder: Path, n: int = 12, blocks: int = 4, seed: int = 0, **attributes):
    """Tiles of noise with rings drawn where the circles are: enough to exercise the pipeline."""
    random = np.random.default_rng(seed)
    images = random.integers(90, 110, (n, tiles.TILE, tiles.TILE), dtype=np.uint8)
    rows = []
    grid = np.mgrid[: tiles.TILE, : tiles.TILE]
    for tile in range(n):
        for number in range(random.integers(1, 6)):
            row, col = random.uniform(0, tiles.TILE, 2)
            radius = random.uniform(3, 32)
            distance = np.hypot(grid[0] - row, grid[1] - col)
            images[tile][np.abs(distance - radius) < 1.5] = 220
            rows.append(
                {
                    "tile": tile,
                    "row": row,
                    "col": col,
                    "radius": radius,
                    "kind": int(random.integers(0, 4)),
                    "flag": int(random.random() < 0.1),
                    "crater_id": f"{tile}-{number}",
                    "degradation": np.nan,
                    "ejecta": "",
                }
            )
    table = pd.DataFrame(
        {
            "block": [f"{seed}/b{i * blocks // n}" for i in range(n)],
            "quadrangle": f"q{seed}",
            "level": 0,
            "row0": np.arange(n) * 168,
            "col0": 0,
            "pixel_size": 100.0,
            "valid": 1.0,
            "window_area": (168 * 0.1) ** 2,
            "region": f"q{seed}",
            "sensor": "invented",
            "light": "day",
            "terrain": "plains",
        }
    )
    circles = pd.DataFrame(rows)
    quadrangles = pd.DataFrame(
        [{"name": f"q{seed}", "crs": "", "a": 100.0, "b": 0, "c": 0, "d": 0, "e": -100.0, "f": 0}]
    )
    tiles.write_split(
        folder, [images], table, circles, quadrangles, attributes={"simulated": True, **attributes}
    )
    return circles
