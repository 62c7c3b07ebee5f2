"""What a track is: one task with everything that RAMP needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Samples(Protocol):
    """Truths or predictions of n samples, kept together: they can be counted and selected."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Samples:
        """The samples `rows`, in that order."""
        ...


Answer = tuple[Any, np.ndarray]
"""Predictions of one model, and for each sample the row among them that answers it (-1: none)."""


@dataclass(frozen=True)
class Score:
    """One column of the leaderboard: an aggregate over the records of the evaluated samples.

    Attributes
    ----------
    name : str
        Column name.
    aggregate : callable
        Records (what `Track.evaluate` returns) -> float; NaN where the score is undefined.
    precision : int
        Decimals shown.
    lower_is_better : bool
    minimum, maximum : float
        Bounds; the worse of the two is what a failed submission gets.
    unit : str
    """

    name: str
    aggregate: Callable[[Any], float]
    precision: int = 3
    lower_is_better: bool = False
    minimum: float = 0.0
    maximum: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Track:
    """A task: its data, its element, how predictions are checked, combined and scored.

    Attributes
    ----------
    name : str
        The word by which the track is chosen.
    title : str
        One line for people.
    element, element_class : str
        File (without .py) and class that a submission provides.
    read : callable
        (folder of a split, quick) -> (inputs, targets); quick reads a small fixed subset.
    folds : callable
        targets -> list of (training rows, validation rows); blocks are never divided.
    check : callable
        (what predict returned, inputs that it was given) -> predictions, or a `PredictionError`.
    combine : callable
        (answers of several models, number of samples) -> predictions; bagging.
    save, load : callable
        (predictions, file) -> None and file -> predictions.
    evaluate : callable
        (targets, predictions) -> records of these samples.
    join : callable
        Records of several groups of samples -> records of all of them.
    scores : tuple of Score
        The columns in their order; the first one is official.
    """

    name: str
    title: str
    element: str
    element_class: str
    read: Callable[[Path, bool], tuple[Any, Samples]]
    folds: Callable[[Any], list[tuple[np.ndarray, np.ndarray]]]
    check: Callable[[Any, Any], Samples]
    combine: Callable[[Sequence[Answer], int], Samples]
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Samples]
    evaluate: Callable[[Any, Any], Any]
    join: Callable[[Sequence[Any]], Any]
    scores: tuple[Score, ...]
