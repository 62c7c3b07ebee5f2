"""RAMP's `Predictions` for any track: which model answers for which sample, evaluated once.

RAMP asks for every score of every fold and of every bag separately. Here a `Predictions` only
remembers whose answer counts for which sample; samples with the same set of answers are evaluated
together, once, and the records are shared by all scores and by all bags in which they stand.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from acdc.track import Answer, Samples, Track

_REMEMBERED = 48  # groups of samples: the folds and bag prefixes of one submission


class Answers:
    """Which stored predictions (or truths) answer for each of n samples.

    Parameters
    ----------
    members : sequence of (samples, ndarray of int (n,))
        What is stored, and for each of the n samples the row in it, -1 where it has no answer.
    n : int
        Number of samples.
    """

    def __init__(self, members: Sequence[Answer], n: int) -> None:
        self.members, self.n = list(members), n

    def __len__(self) -> int:
        return self.n

    def answered(self) -> np.ndarray:
        """Whether a sample has any answer, bool (n,)."""
        answered = np.zeros(self.n, dtype=bool)
        for _, rows in self.members:
            answered |= rows >= 0
        return answered

    def select(self, kept: Any) -> Answers:
        """The answers for some of the samples (index array, mask or slice)."""
        kept = np.arange(self.n)[kept]
        members = [(stored, rows[kept]) for stored, rows in self.members]
        return Answers([(stored, rows) for stored, rows in members if (rows >= 0).any()], len(kept))

    def scatter(self, positions: np.ndarray, n: int) -> Answers:
        """The same answers for samples at `positions` among n."""
        members = []
        for stored, rows in self.members:
            spread = np.full(n, -1)
            spread[positions] = rows
            members.append((stored, spread))
        return Answers(members, n)

    def materialise(self, track: Track) -> Samples:
        """The predictions themselves, combined where several models answer."""
        if len(self.members) == 1 and (self.members[0][1] >= 0).all():
            stored, rows = self.members[0]
            return stored.take(rows)
        return track.combine(self.members, self.n)

    def key(self) -> tuple[Any, ...]:
        """What identifies these answers while the stored predictions live."""
        return tuple(
            (id(stored), hashlib.blake2b(rows.tobytes(), digest_size=16).digest())
            for stored, rows in self.members
        )


class Records:
    """The evaluations that were made, the latest ones first to be found again."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Any, ...], tuple[Any, ...]] = OrderedDict()

    def of(self, track: Track, truth: Answers, predicted: Answers) -> Any:
        """Records of all samples; each group with the same models is evaluated once."""
        parts = [
            self._evaluated(track, truth.select(group), predicted.select(group))
            for group in _groups(predicted)
        ]
        return parts[0] if len(parts) == 1 else track.join(parts)

    def _evaluated(self, track: Track, truth: Answers, predicted: Answers) -> Any:
        key = (track.name, truth.key(), predicted.key())
        if key not in self._known:
            records = track.evaluate(truth.materialise(track), predicted.materialise(track))
            # what the key names by id is kept alive with it
            self._known[key] = (records, truth, predicted)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key][0]


def _groups(predicted: Answers) -> list[np.ndarray]:
    """Rows of the samples that are answered by the same models, group by group."""
    if len(predicted.members) <= 1 or not predicted.n:
        return [np.arange(predicted.n)]
    present = np.stack([rows >= 0 for _, rows in predicted.members], axis=1)
    _, group = np.unique(np.packbits(present, axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    return [np.flatnonzero(group == number) for number in range(group.max() + 1)]


RECORDS = Records()


def make_predictions(track: Track) -> type:
    """Make the class `Predictions` that ramp-workflow uses for a track."""

    class Predictions:
        """Truth or predictions of n samples, as ramp-workflow wants them."""

        def __init__(
            self,
            y_pred: Any = None,
            y_true: Any = None,
            n_samples: int | None = None,
            fold_is: Any = None,
        ) -> None:
            if n_samples is not None:
                self.y_pred = Answers([], n_samples)
                return
            stored = y_true if y_pred is None else y_pred
            if stored is None:
                raise ValueError("Predictions needs one of y_pred, y_true and n_samples")
            if not isinstance(stored, Answers):
                stored = Answers([(stored, np.arange(len(stored)))], len(stored))
            self.y_pred = stored if fold_is is None else stored.select(fold_is)

        def __deepcopy__(self, memo: dict[int, Any]) -> Predictions:
            copied = type(self)(n_samples=0)
            copied.y_pred = self.y_pred  # answers are never changed in place
            return copied

        @property
        def valid_indexes(self) -> np.ndarray:
            """Whether any model has answered for a sample, bool (n,)."""
            return self.y_pred.answered()

        def set_valid_in_train(self, predictions: Predictions, test_is: Any) -> None:
            """Take over the answers of a fold for the samples `test_is`."""
            n = len(self.y_pred)
            if isinstance(test_is, range):
                test_is = np.asarray(test_is, dtype=int)
            self.y_pred = predictions.y_pred.scatter(np.arange(n)[test_is], n)

        def set_slice(self, valid_indexes: Any) -> None:
            """Keep only some of the samples."""
            self.y_pred = self.y_pred.select(valid_indexes)

        @classmethod
        def combine(
            cls, predictions_list: Sequence[Predictions], index_list: Any = None
        ) -> Predictions:
            """Let several predictions of the same samples answer together (bagging)."""
            if index_list is None:
                index_list = range(len(predictions_list))
            chosen = [predictions_list[i].y_pred for i in index_list]
            combined = cls(n_samples=0)
            members = [member for answers in chosen for member in answers.members]
            combined.y_pred = Answers(members, len(chosen[0]))
            return combined

    return Predictions
