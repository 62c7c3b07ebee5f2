"""From tiles to the ground: merging what tiles and levels see, ages of regions, catalogues."""

from __future__ import annotations

import numpy as np
import pandas as pd

from acdc.metrics import size_frequency
from acdc.metrics.circles import circle_iou, merge_circles
from acdc.tracks.craters.detections import Detections
from acdc.tracks.craters.evaluation import Evaluation
from acdc.tracks.craters.tiles import KINDS, RANGES, REASONS, WINDOW, Targets, spans

SECONDARY = KINDS.index("secondary")
WORST_AGE_ERROR = 3.0
SURE = 0.5  # confidence from which a detection is counted


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


def catalogue(targets: Targets, detections: Detections, confidence: float = 0.5) -> pd.DataFrame:
    """One row per crater on the planet: detections of all tiles and levels, merged on the ground.

    Parameters
    ----------
    targets : Targets
        Where the tiles lie.
    detections : Detections
        On the same tiles.
    confidence : float
        Only detections of at least this count.

    Returns
    -------
    DataFrame
        lon (degrees east, -180 to 180), lat (planetocentric degrees north), diameter_km,
        confidence, kind (text, "" where the entry does not say), quadrangle; by falling
        confidence.

    Raises
    ------
    DataError
        When the tiles are pictures without coordinates.
    """
    from acdc.tracks.craters.projection import Plane

    sure = detections.values[:, 0] >= confidence
    values, tile = detections.values[sure], detections.tile[sure]
    kept = merge(targets, tile, values[:, 1:4], values[:, 0])
    values, tile, kind = values[kept], tile[kept], detections.kind[sure][kept]
    table = pd.DataFrame(
        {
            "lon": np.nan,
            "lat": np.nan,
            "diameter_km": np.nan,
            "confidence": values[:, 0],
            "kind": np.where(kind >= 0, np.array(KINDS)[kind], ""),
            "quadrangle": targets.tiles["quadrangle"].astype(str).to_numpy()[tile],
        }
    )
    plane = to_plane(targets.tiles, tile, values[:, 1:4])
    for name, rows in table.groupby("quadrangle").indices.items():
        lon, lat, radius = Plane.of_quadrangle(targets.quadrangles, str(name)).to_ground(
            *plane[rows].T
        )
        table.loc[rows, "lon"], table.loc[rows, "lat"] = lon, lat
        table.loc[rows, "diameter_km"] = 2e-3 * radius
    return table.sort_values("confidence", ascending=False, kind="stable", ignore_index=True)


def age_error(evaluation: Evaluation) -> float:
    """How far model ages from predicted craters are from those of the true ones.

    Mean over regions of |ln(T_predicted / T_true)|. Both sides count craters inside the windows,
    on their home level, merged on the ground; detections of confidence >= .5 that do not stand for
    an uncertain true circle. Where the truth has secondaries and every such detection says its
    kind, secondaries are left out on both sides. Each level contributes its own range of diameters
    on its own scored area; the ranges are those of the whole evaluation. Ages are those of
    `acdc.metrics.size_frequency` (Ivanov 2001; Hartmann & Neukum 2001; Michael et al. 2016); levels
    with craters below the range of the production function (15 m) are not counted.

    Parameters
    ----------
    evaluation : Evaluation

    Returns
    -------
    float
        From 0 (best) to 3, which is also the error of a region where only one side has craters. NaN
        where no tile has coordinates and belongs to a region, or no region has any crater.
    """
    tiles = evaluation.targets.tiles
    region = tiles["region"].astype(str).to_numpy()
    known = np.isfinite(tiles[["pixel_size", "window_area"]].to_numpy(dtype=float)).all(axis=1)
    dated = (region != "") & known
    if not dated.any():
        return float("nan")
    true_tile, true_kind = _true_craters(evaluation)
    found_tile, found_kind = _found_craters(evaluation)
    if (true_kind == SECONDARY).any() and (found_kind >= 0).all():
        true_tile, found_tile = (
            true_tile[true_kind != SECONDARY],
            found_tile[found_kind != SECONDARY],
        )
    ranges = _diameters_of_levels(tiles[dated])
    levels, errors = tiles["level"].to_numpy(), []
    for name in np.unique(region[dated]):
        here = dated & (region == name)
        area = {
            level: float(tiles["window_area"].to_numpy()[here & (levels == level)].sum())
            for level in ranges
        }
        bins = [(*ranges[level], km2) for level, km2 in area.items() if km2 > 0]
        counted = here & np.isin(levels, list(ranges))
        counts = int(counted[true_tile].sum()), int(counted[found_tile].sum())
        if bins and any(counts):
            errors.append(_age_difference(*counts, bins))
    return float(np.mean(errors)) if errors else float("nan")


def _true_craters(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Tile and kind of the scored true craters, each once."""
    targets = evaluation.targets
    scored = np.flatnonzero(targets.reason == 0)
    tile, circles = targets.circles["tile"].to_numpy()[scored], targets.row_col_radius[scored]
    home = at_home(targets.tiles, tile, circles)
    tile, circles, kind = tile[home], circles[home], targets.kind[scored][home]
    kept = merge(targets, tile, circles, np.ones(len(tile)))
    return tile[kept], kind[kept]


def _found_craters(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Tile and kind (-1 unknown) of the sure detections that are counted, each crater once."""
    targets, found, matches = evaluation.targets, evaluation.detections, evaluation.matches
    sure = (matches.confidence >= SURE) & ~_stands_for_uncertain(evaluation)
    tile, circles = found.tile[sure], found.values[sure, 1:4]
    home = at_home(targets.tiles, tile, circles)
    tile, circles = tile[home], circles[home]
    kept = merge(targets, tile, circles, matches.confidence[sure][home])
    return tile[kept], found.kind[sure][home][kept]


def _stands_for_uncertain(evaluation: Evaluation) -> np.ndarray:
    """Whether a detection overlaps an uncertain true circle, and no scored one, by IoU >= .5."""
    targets, found = evaluation.targets, evaluation.detections
    uncertain = np.flatnonzero(targets.reason == REASONS.index("uncertain"))
    tile = targets.circles["tile"].to_numpy()[uncertain]
    beside = spans(found.offsets, tile)
    truth = np.repeat(uncertain, np.diff(found.offsets)[tile])
    iou = circle_iou(found.values[beside, 1:4], targets.row_col_radius[truth])
    overlapping = np.zeros(len(found.values), dtype=bool)
    overlapping[beside[iou >= 0.5]] = True
    return overlapping & (evaluation.matches.matched_truth < 0)


def _diameters_of_levels(tiles: pd.DataFrame) -> dict[int, tuple[float, float]]:
    """Range of diameters, km, of the levels that are counted; the ranges meet."""
    low, high = RANGES["all"]
    pixel = 1e-3 * tiles.groupby("level")["pixel_size"].median()
    levels = pixel.index.to_numpy(dtype=int)
    smallest = np.where(levels > 0, high / 2, low) * 2 * pixel.to_numpy()
    largest = high * 2 * pixel.to_numpy()
    return {
        level: (float(start), float(end))
        for level, start, end in zip(levels.tolist(), smallest, largest, strict=True)
        if start >= size_frequency.IVANOV_2001.range[0]
    }


def _age_difference(n_true: int, n_found: int, bins: list[tuple[float, float, float]]) -> float:
    if not (n_true and n_found):
        return WORST_AGE_ERROR
    expected = size_frequency.expected_per_density(bins)
    true, found = (size_frequency.age_of_count(n, expected).age for n in (n_true, n_found))
    return min(abs(float(np.log(found / true))), WORST_AGE_ERROR)
