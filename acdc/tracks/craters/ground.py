"""From tiles to the ground: merging what tiles and levels see, ages of regions, catalogues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from acdc.metrics.circles import merge_circles
from acdc.tracks.craters.detections import Detections
from acdc.tracks.craters.tiles import KINDS, RANGES, WINDOW, Targets

SECONDARY = KINDS.index("secondary")
WORST_AGE_ERROR = 3.0


def to_plane(tiles: pd.DataFrame, tile: np.ndarray, circles: np.ndarray) -> np.ndarray:
    """Circles on tiles in the level-0 pixels of their quadrangle.

    Parameters
    ----------
    tiles : DataFrame
        The tiles of the split, with level, row0 and col0.
    tile : ndarray of int (k,)
        The tile of each circle.
    circles : ndarray (k, 3)
        Row, col, radius in pixels of the tile.

    Returns
    -------
    ndarray of float (k, 3)
        Row, col, radius in level-0 pixels; (0, 0) is the centre of the first pixel.
    """
    scale = 2.0 ** tiles["level"].to_numpy()[tile]
    corner = tiles[["row0", "col0"]].to_numpy()[tile]
    centre = (circles[:, :2] + corner + 0.5) * scale[:, None] - 0.5
    return np.column_stack([centre, circles[:, 2] * scale])


def at_home(tiles: pd.DataFrame, tile: np.ndarray, circles: np.ndarray) -> np.ndarray:
    """Whether a circle is counted on this tile: inside the window, on its home level, and sized.

    Parameters
    ----------
    tiles : DataFrame
    tile : ndarray of int (k,)
    circles : ndarray (k, 3)
        Row, col, radius in pixels of the tile.

    Returns
    -------
    ndarray of bool (k,)
    """
    low, high = RANGES["all"]
    row, col, radius = circles.T
    # a crater above the finest level is at home only where the next finer one can't hold it
    least = np.where(tiles["level"].to_numpy()[tile] > 0, np.nextafter(high / 2, np.inf), low)
    inside = (np.minimum(row, col) >= WINDOW[0]) & (np.maximum(row, col) < WINDOW[1])
    return inside & (radius >= least) & (radius <= high)


def merge(
    targets: Targets, tile: np.ndarray, circles: np.ndarray, confidence: np.ndarray
) -> np.ndarray:
    """Which circles remain when those of overlapping tiles and levels are merged on the ground.

    Greedy by falling confidence within each quadrangle, IoU above .5 is the same crater.

    Returns
    -------
    ndarray of int
        Indices of the circles that are kept, rising.
    """
    if not len(tile):
        return np.empty(0, dtype=int)
    quadrangle = pd.factorize(targets.tiles["quadrangle"])[0][tile]
    plane = to_plane(targets.tiles, tile, circles)
    kept, _ = merge_circles(plane, confidence, group=quadrangle)
    return np.sort(kept)


def age_error(evaluation):
    return float("nan")
