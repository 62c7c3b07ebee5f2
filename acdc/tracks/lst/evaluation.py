"""Predicted fields beside the truth: every scene is measured once, scores read the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from acdc.errors import PredictionError
from acdc.metrics import thermal
from acdc.metrics.uncertainty import miscalibration
from acdc.tracks.lst.fields import Fields
from acdc.tracks.lst.samples import Sample, Targets, consistency
from acdc.tracks.lst.scenes import FACTOR


@dataclass(frozen=True)
class Evaluation:
    """What was measured on some scenes.

    Attributes
    ----------
    scenes : DataFrame
        One row a scene: scene, group, pixel_size, bicubic_ubrmse, truth_consistency and one column
        per measure (ubrmse, rmse, bias, ssim, gradient, spectrum, consistency, calibration).
    """

    scenes: pd.DataFrame

    @staticmethod
    def join(parts: Sequence[Evaluation]) -> Evaluation:
        """The evaluations of groups of scenes as one."""
        return Evaluation(pd.concat([part.scenes for part in parts], ignore_index=True))

    def over_groups(self, measure: str) -> float:
        """Median over pieces of ground of the mean over the scenes there; NaN where undefined."""
        groups = self.scenes[measure].groupby(self.scenes["group"].astype(str)).mean().dropna()
        return float(groups.median()) if len(groups) else np.nan


def evaluate(targets: Targets, fields: Fields) -> Evaluation:
    """Measure predicted fields against the truth, scene by scene.

    Parameters
    ----------
    targets : Targets
    fields : Fields
        Of the same scenes, in the same order.

    Raises
    ------
    PredictionError
        When the fields have another size than the truth.
    """
    expected, got = targets.truth.shape[1:], fields.mean.shape[1:]
    if expected != got:
        given = targets.inputs.lst.shape[1:]
        raise PredictionError(
            f"the predictions have {got[0]} x {got[1]} pixels, expected {expected[0]} x "
            f"{expected[1]}: {FACTOR} times finer than the lst of {given[0]} x {given[1]}"
        )
    deviations = [None] * len(fields) if fields.deviation is None else fields.deviation
    measured = [
        _measure(truth, field.astype(np.float64), deviation, sample)
        for truth, field, deviation, sample in zip(
            targets, fields.mean, deviations, targets.inputs, strict=True
        )
    ]
    return Evaluation(pd.concat([targets.scenes, pd.DataFrame(measured)], axis=1))


def _measure(
    truth: np.ndarray, field: np.ndarray, deviation: np.ndarray | None, sample: Sample
) -> dict[str, float]:
    bias = thermal.bias(truth, field)
    error = field - bias - truth
    return {
        "ubrmse": thermal.unbiased_rmse(truth, field),
        "rmse": thermal.rmse(truth, field),
        "bias": bias,
        "ssim": thermal.ssim(truth, field - bias),
        "gradient": thermal.gradient_correlation(truth, field),
        "spectrum": thermal.spectrum_error(truth, field, FACTOR),
        "consistency": consistency(field, sample.lst, sample.valid),
        "calibration": np.nan if deviation is None else miscalibration(error, deviation),
    }


def gain(evaluation: Evaluation) -> float:
    """How much of bicubic's unbiased RMSE is gone: 1 - ubrmse / ubrmse of bicubic; 1 is best."""
    reference = evaluation.over_groups("bicubic_ubrmse")
    return 1 - evaluation.over_groups("ubrmse") / reference if reference > 0 else np.nan
