"""The track of land surface temperature: what RAMP asks of it, in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from acdc.folds import block_folds
from acdc.track import Score, Track
from acdc.tracks.lst import fields, samples
from acdc.tracks.lst.evaluation import Evaluation, evaluate, gain

N_FOLDS = 3
_QUICK_GROUPS = 4


def read(folder: Path, quick: bool = False) -> tuple[samples.SampleArray, samples.Targets]:
    """Samples and truths of a split; for quick tests one scene of a few groups.

    Parameters
    ----------
    folder : Path
        Holds inputs.h5 and targets.h5.
    quick : bool
        Open a small subset, always the same one.
    """
    inputs, targets = samples.read_split(folder)
    if not quick:
        return inputs, targets
    _, first = np.unique(targets.group, return_index=True)
    rows = np.sort(first[:_QUICK_GROUPS])
    return inputs.subset(rows), targets.take(rows)


def folds(y: samples.Targets) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three folds of whole pieces of ground: training and validation rows."""
    return block_folds(y.group, N_FOLDS)


def check(returned: Any, X: samples.SampleArray) -> fields.Fields:
    """Fields from what `predict` returned for the samples X; see `fields.check`."""
    return fields.check(returned, len(X), X.ndvi.shape[1:])


def _over_groups(measure: str) -> Callable[[Evaluation], float]:
    return lambda evaluation: evaluation.over_groups(measure)


def _kelvin(name: str) -> Score:
    return Score(name, _over_groups(name), lower_is_better=True, maximum=np.inf, unit="K")


TRACK = Track(
    name="lst",
    title="Sharpen land surface temperature from 1 km to 250 m",
    element="thermal_sharpener",
    element_class="ThermalSharpener",
    read=read,
    folds=folds,
    check=check,
    combine=fields.combine,
    save=fields.save,
    load=fields.load,
    evaluate=evaluate,
    join=Evaluation.join,
    scores=(
        _kelvin("ubrmse"),
        _kelvin("rmse"),
        Score("gain", gain, minimum=-np.inf),
        Score("ssim", _over_groups("ssim"), minimum=-1.0),
        Score("gradient", _over_groups("gradient"), minimum=-1.0),
        Score(
            "spectrum",
            _over_groups("spectrum"),
            precision=2,
            lower_is_better=True,
            maximum=np.inf,
            unit="dB",
        ),
        _kelvin("consistency"),
        _kelvin("truth_consistency"),
        Score("calibration", _over_groups("calibration"), lower_is_better=True, maximum=0.5),
    ),
)
