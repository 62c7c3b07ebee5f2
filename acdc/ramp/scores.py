"""RAMP's score types, made from the scores of a track."""

from __future__ import annotations

from typing import Any

from acdc.ramp.predictions import RECORDS
from acdc.track import Score, Track


class ScoreType:
    """One score of a track in the shape that ramp-workflow and ramp-board read.

    Parameters
    ----------
    track : Track
    score : Score
    """

    def __init__(self, track: Track, score: Score) -> None:
        self._track, self._score = track, score
        self.name, self.precision = score.name, score.precision
        self.is_lower_the_better = score.lower_is_better
        self.minimum, self.maximum = score.minimum, score.maximum

    @property
    def worst(self) -> float:
        """The score of a submission that failed."""
        return self.maximum if self.is_lower_the_better else self.minimum

    def score_function(self, ground_truths: Any, predictions: Any) -> float:
        """Score `Predictions` against the `Predictions` that hold the truth."""
        truth, predicted = ground_truths.y_pred, predictions.y_pred
        if len(truth) != len(predicted):
            raise ValueError(f"{len(predicted)} predictions for {len(truth)} samples")
        return float(self._score.aggregate(RECORDS.of(self._track, truth, predicted)))


def make_score_types(track: Track) -> list[ScoreType]:
    """All scores of a track in the order of their columns, the official one first."""
    return [ScoreType(track, score) for score in track.scores]
