"""Predicted temperature fields: checked as they come back, averaged over models, stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acdc.errors import PredictionError
from acdc.track import Answer

_COLDEST, _HOTTEST = 150.0, 400.0


@dataclass(frozen=True)
class Fields:
    """Fields of n samples.

    Attributes
    ----------
    mean : ndarray of float32 (n, H, W)
        Kelvin; NaN throughout where a sample has no answer.
    deviation : ndarray of float32 (n, H, W) or None
        Standard deviation, K, where the submission gives one.
    """

    mean: np.ndarray
    deviation: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.mean)

    def take(self, rows: np.ndarray) -> Fields:
        """The samples `rows`, in that order."""
        deviation = None if self.deviation is None else self.deviation[rows]
        return Fields(self.mean[rows], deviation)


def check(returned: Any, n: int, shape: tuple[int, ...] | None = None) -> Fields:
    """Turn what a submission returned into `Fields`, or say what is wrong with it.

    Parameters
    ----------
    returned : ndarray (n, H, W), iterable of n arrays (H, W), or a tuple of two of these
        Kelvin; a tuple is (mean, standard deviation). Finite everywhere.
    n : int
        Number of samples that were given.
    shape : (int, int), optional
        Pixels (4h, 4w) that every field must have.

    Raises
    ------
    PredictionError
        When there are too few or many, shapes differ, or values are no temperatures in kelvin.
    """
    if isinstance(returned, tuple) and len(returned) == 2 and np.ndim(returned[0]) != 2:
        mean, deviation = (_stack(part, n, shape) for part in returned)
        if mean.shape != deviation.shape:
            raise PredictionError(
                f"means have the shape {mean.shape}, deviations {deviation.shape}; expected the "
                "same"
            )
        wrong = ~(np.isfinite(deviation) & (deviation >= 0))
        if wrong.any():
            where = np.argwhere(wrong)[0]
            raise PredictionError(
                f"deviation {where[0]} is {deviation[tuple(where)]} at row {where[1]}, col "
                f"{where[2]}; expected finite kelvin, not negative"
            )
    else:
        mean, deviation = _stack(returned, n, shape), None
    _refuse_impossible(mean)
    return Fields(mean, deviation)


def _stack(returned: Any, n: int, shape: tuple[int, ...] | None) -> np.ndarray:
    """Collect fields one by one, so that a generator needs no second copy."""
    if not isinstance(returned, Iterable):
        raise PredictionError(
            f"predict returned a {type(returned).__name__}, expected an array (n, 4h, 4w), or a "
            "list or generator of n arrays (4h, 4w), in kelvin"
        )
    fields: np.ndarray | None = None
    count = 0
    for field in returned:
        try:
            field = np.asarray(field, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise PredictionError(f"prediction {count} is no array of numbers ({error})") from error
        if field.ndim != 2:
            raise PredictionError(
                f"prediction {count} has the shape {field.shape}, expected two axes (4h, 4w)"
            )
        if shape is not None and field.shape != shape:
            raise PredictionError(
                f"prediction {count} has {field.shape[0]} x {field.shape[1]} pixels, expected "
                f"{shape[0]} x {shape[1]}: those of the ndvi, 4 times finer than the lst"
            )
        if fields is None:
            fields = np.empty((n, *field.shape), dtype=np.float32)
        if field.shape != fields.shape[1:]:
            raise PredictionError(
                f"prediction {count} has the shape {field.shape}, the ones before it "
                f"{fields.shape[1:]}; expected one shape"
            )
        if count < n:
            fields[count] = field
        count += 1
    if count != n:
        raise PredictionError(f"predict returned {count} fields for {n} samples")
    return np.empty((0, 0, 0), np.float32) if fields is None else fields


def _refuse_impossible(mean: np.ndarray) -> None:
    for i, field in enumerate(mean):
        unknown = int((~np.isfinite(field)).sum())
        if unknown:
            raise PredictionError(
                f"prediction {i} holds {unknown} NaN or infinite pixels of {field.size}; expected "
                "kelvin everywhere, also where the input has a gap"
            )
        if not field.size:
            raise PredictionError(f"prediction {i} is empty, expected (4h, 4w) pixels")
        middle = float(np.median(field))
        if -90 < middle < 90:
            raise PredictionError(
                f"prediction {i} has a median of {middle:.1f}, which looks like Celsius; expected "
                "kelvin (add 273.15)"
            )
        if field.min() < _COLDEST or field.max() > _HOTTEST:
            raise PredictionError(
                f"prediction {i} reaches from {field.min():.1f} to {field.max():.1f}, expected "
                f"kelvin between {_COLDEST:.0f} and {_HOTTEST:.0f}"
            )


def combine(answers: Sequence[Answer], n: int) -> Fields:
    """Average the fields of several models, sample by sample (bagging).

    Where all models give deviations, the mean's is sqrt(mean variance + variance of the means).

    Parameters
    ----------
    answers : sequence of (Fields, ndarray of int (n,))
        For each model the row that answers each sample, -1 where it does not.
    n : int

    Returns
    -------
    Fields
        NaN where no model answers.
    """
    shape = next((fields.mean.shape[1:] for fields, _ in answers), (0, 0))
    count = np.zeros((n, 1, 1))
    total, square, variance = (np.zeros((n, *shape)) for _ in range(3))
    with_deviation = bool(answers) and all(fields.deviation is not None for fields, _ in answers)
    for fields, rows in answers:
        answered = np.flatnonzero(rows >= 0)
        mean = fields.mean[rows[answered]].astype(np.float64)
        count[answered] += 1
        total[answered] += mean
        if with_deviation:
            # centred first: squares of kelvin would swallow small variances
            square[answered] += (mean - 300.0) ** 2
            variance[answered] += np.square(fields.deviation[rows[answered]], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        mean = total / count
        if not with_deviation:
            return Fields(mean.astype(np.float32))
        between = np.maximum(square / count - (mean - 300.0) ** 2, 0)
        deviation = np.sqrt(variance / count + between)
    return Fields(mean.astype(np.float32), deviation.astype(np.float32))


def save(fields: Fields, file: Path) -> None:
    """Store fields as an uncompressed `.npz`."""
    temporary = Path(file).with_name(Path(file).name + ".part")
    with temporary.open("wb") as stream:
        if fields.deviation is None:
            np.savez(stream, mean=fields.mean)
        else:
            np.savez(stream, mean=fields.mean, deviation=fields.deviation)
    temporary.replace(file)


def load(file: Path) -> Fields:
    """Load what `save` stored.

    Raises
    ------
    PredictionError
        When the file is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Fields(arrays["mean"], arrays.get("deviation"))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise PredictionError(f"{file} holds no predictions of this track ({error})") from error
