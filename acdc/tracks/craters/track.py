"""The crater track: what RAMP asks of it, in one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from acdc.folds import block_folds
from acdc.metrics import detection
from acdc.track import Score, Track
from acdc.tracks.craters import detections, ground, tiles
from acdc.tracks.craters.evaluation import Evaluation, evaluate

N_FOLDS = 3
_QUICK_BLOCKS, _QUICK_TILES = 6, 6


def read(folder: Path, quick: bool = False) -> tuple[tiles.TileArray, tiles.Targets]:
    """Tiles and targets of a split; for quick tests a few tiles of a few blocks.

    Parameters
    ----------
    folder : Path
        Holds inputs.h5 and targets.h5.
    quick : bool
        Read a small subset, always the same one, and nothing else.
    """
    rows = tiles.choose_blocks(folder, _QUICK_BLOCKS, _QUICK_TILES) if quick else None
    return tiles.read_images(folder, rows), tiles.read_targets(folder, rows)


def folds(y: tiles.Targets) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three folds of whole blocks with nearly the same number of tiles.

    Returns
    -------
    list of (ndarray of int, ndarray of int)
        Training and validation rows, rising.

    Raises
    ------
    DataError
        When there are fewer blocks than folds.
    """
    return block_folds(y.tiles["block"].astype(str).to_numpy(), N_FOLDS)


def check(returned: Any, X: tiles.TileArray) -> detections.Detections:
    """Detections from what `predict` returned for the tiles X; see `detections.check`."""
    return detections.check(returned, len(X))


def ap_by_stratum(evaluation: Evaluation, column: str) -> dict[str, float]:
    """The official score within each sensor, light, terrain, level, region or quadrangle.

    Parameters
    ----------
    evaluation : Evaluation
    column : str
        A column of the table of tiles.

    Returns
    -------
    dict of str to float
        NaN where a stratum has no scored crater.
    """
    values = evaluation.targets.tiles[column].astype(str).to_numpy()
    strata = sorted(set(values))
    weights = np.stack([values == stratum for stratum in strata]).astype(float)
    scores = detection.average_precision(evaluation.matches, weights=weights)
    return dict(zip(strata, np.asarray(scores).tolist(), strict=True))


def _of_matches(function: Callable[[detection.Matches], Any]) -> Callable[[Evaluation], float]:
    return lambda evaluation: float(function(evaluation.matches))


def _average_precision(name: str) -> Callable[[Evaluation], float]:
    number = list(tiles.RANGES).index(name)
    return _of_matches(partial(detection.average_precision, range_index=number))


def _kind_f1(evaluation: Evaluation) -> float:
    return detection.kind_f1(
        evaluation.matches, evaluation.targets.kind, evaluation.detections.kind
    )


TRACK = Track(
    name="craters",
    title="Find and characterise impact craters on Mars",
    element="object_detector",
    element_class="ObjectDetector",
    read=read,
    folds=folds,
    check=check,
    combine=detections.combine,
    save=detections.save,
    load=detections.load,
    evaluate=evaluate,
    join=Evaluation.join,
    scores=(
        Score("ap", _average_precision("all")),
        Score("ap50", _of_matches(partial(detection.average_precision, thresholds=[0.5]))),
        Score("ap_small", _average_precision("small")),
        Score("ap_medium", _average_precision("medium")),
        Score("ap_large", _average_precision("large")),
        Score("f1", _of_matches(detection.f1)),
        Score("iou", _of_matches(detection.mean_iou)),
        Score(
            "centre_error",
            _of_matches(detection.centre_error),
            lower_is_better=True,
            maximum=np.inf,
            unit="radii",
        ),
        Score(
            "radius_bias",
            _of_matches(lambda matches: abs(detection.radius_bias(matches))),
            lower_is_better=True,
            maximum=np.inf,
        ),
        Score("kind_f1", _kind_f1),
        Score(
            "age_error",
            ground.age_error,
            lower_is_better=True,
            maximum=ground.WORST_AGE_ERROR,
        ),
    ),
)
