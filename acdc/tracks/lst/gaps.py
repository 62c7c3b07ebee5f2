"""What is lost between cross-validation and test, and why: the scale gap and the sensor gap.

Every scene is sharpened three times by a model that was trained on other ground, one scale up:

- *coarse*: MODIS 4 km to 1 km, against MODIS: what cross-validation sees;
- *aggregated*: the truth's own flux aggregate, 1 km to 250 m: another scale, the same sensor;
- *fine*: MODIS 1 km to 250 m, against the truth: what the test sees.

The scale gap is aggregated minus coarse: whether a law learned at one scale holds at the next. The
sensor gap is fine minus aggregated: how much the two instruments differ.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acdc import sensor
from acdc.errors import DataError
from acdc.folds import block_folds
from acdc.tracks.lst import samples
from acdc.tracks.lst.evaluation import Evaluation, evaluate
from acdc.tracks.lst.fields import check
from acdc.tracks.lst.scenes import FACTOR, Scene, coarsen

N_FOLDS = 7
_TIE = 1e-4  # K; predictions are stored in single precision


@dataclass(frozen=True)
class Gaps:
    """One element on all scenes, each of them held out once.

    Attributes
    ----------
    coarse, aggregated, fine : Evaluation
        The three ways that the module describes.
    """

    coarse: Evaluation
    aggregated: Evaluation
    fine: Evaluation

    @property
    def scale_gap(self) -> float:
        """K of unbiased RMSE that one scale down costs with the same sensor."""
        return self.aggregated.over_groups("ubrmse") - self.coarse.over_groups("ubrmse")

    @property
    def sensor_gap(self) -> float:
        """K of unbiased RMSE that another sensor costs at the same scale."""
        return self.fine.over_groups("ubrmse") - self.aggregated.over_groups("ubrmse")

    @property
    def wins(self) -> float:
        """Share of the scenes in which it beats bicubic interpolation at the test's scale."""
        better = self.fine.scenes["bicubic_ubrmse"] - self.fine.scenes["ubrmse"]
        return float((better > _TIE).mean())


def measure(
    train: Callable[[Any, Any], Any], scenes: Sequence[Scene], n_folds: int = N_FOLDS
) -> Gaps:
    """Train on the coarse scenes of some groups, sharpen those of the others; all groups in turn.

    Parameters
    ----------
    train : callable
        (X, y) -> a trained element with `predict`.
    scenes : sequence of Scene
        Clean and of one size; those without a reference are left out.
    n_folds : int
        Folds of whole groups.

    Raises
    ------
    DataError
        When no scene has a reference.
    """
    with_truth = [scene for scene in scenes if scene.reference is not None]
    if not with_truth:
        raise DataError("no scene has a reference, so nothing can be said about the fine scale")
    ways = {
        "coarse": [coarsen(scene) for scene in with_truth],
        "aggregated": [_from_reference(scene) for scene in with_truth],
        "fine": with_truth,
    }
    parts: dict[str, list[Evaluation]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        splits = {}
        for way, some in ways.items():
            samples.write_split(Path(folder, way), some, attributes={})
            splits[way] = samples.read_split(Path(folder, way))
        X, y = splits["coarse"]
        for learned, held_out in block_folds(y.group, n_folds):
            element = train(X.subset(learned), y[learned])
            for way, (inputs, targets) in splits.items():
                fields = check(element.predict(inputs.subset(held_out)), len(held_out))
                parts[way].append(evaluate(targets.take(held_out), fields))
        return Gaps(**{way: Evaluation.join(part) for way, part in parts.items()})


def _from_reference(scene: Scene) -> Scene:
    assert scene.reference is not None
    return replace(scene, lst=sensor.aggregate_flux(scene.reference, FACTOR))
