"""What a detector returns: checked, stored flat, and combined when several models answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from acdc.errors import DataError, PredictionError
from acdc.metrics.circles import circle_iou
from acdc.track import Answer
from acdc.tracks.craters.tiles import KINDS, spans

COLUMNS = ("confidence", "row", "col", "radius", *(f"p_{kind}" for kind in KINDS))
MAX_PER_TILE = 100
_SAME = 0.5  # circles of two models above this IoU are one crater
_PAIRS = 2_000_000  # compared at a time, bounds the memory


class Detections:
    """Detections on n tiles, stored flat.

    Parameters
    ----------
    values : ndarray of float64 (D, 8)
        Confidence, row, col, radius (px), then the probabilities of the four `KINDS`, NaN where an
        entry does not say.
    offsets : ndarray of int64 (n + 1,)
        The detections of tile i are `values[offsets[i]:offsets[i + 1]]`.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, tile: int) -> np.ndarray:
        tile = range(len(self))[tile]
        return self.values[self.offsets[tile] : self.offsets[tile + 1]]

    def take(self, rows: np.ndarray) -> Detections:
        """The detections on the tiles `rows`, in that order."""
        counts = np.diff(self.offsets)[rows]
        return Detections(self.values[spans(self.offsets, rows)], np.r_[0, np.cumsum(counts)])

    @staticmethod
    def join(parts: Sequence[Detections]) -> Detections:
        """Put the detections on groups of tiles behind each other."""
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        values = np.concatenate([part.values for part in parts])
        return Detections(values, np.r_[0, np.cumsum(counts)])

    @property
    def tile(self) -> np.ndarray:
        """The tile of each detection, int (D,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def kind(self) -> np.ndarray:
        """The most probable kind of each detection as index into `KINDS`, -1 where not said."""
        if not len(self.values):
            return np.empty(0, dtype=int)
        probabilities = self.values[:, 4:]
        said = np.isfinite(probabilities).all(axis=1)
        return np.where(said, np.where(said[:, None], probabilities, 0).argmax(axis=1), -1)

    def __repr__(self) -> str:
        return f"Detections({len(self.values)} on {len(self)} tiles)"


def check(predicted: Any, n_tiles: int) -> Detections:
    """Turn what `predict` returned into `Detections`, or say what is wrong with it.

    Of a tile, the 100 most confident detections are kept; more are not scored.

    Parameters
    ----------
    predicted : sequence or generator of length n_tiles
        Per tile a list or array of (confidence, row, col, radius), or of these four followed by
        the probabilities of the four kinds; an empty list where nothing was found.
    n_tiles : int
        How many tiles were given to `predict`.

    Raises
    ------
    PredictionError
        Names the tile and the value, and says what was expected.
    """
    if isinstance(predicted, Detections):
        predicted = [predicted[i] for i in range(len(predicted))]
    if predicted is None or isinstance(predicted, str | bytes | dict):
        raise PredictionError(
            f"predict returned {_name(predicted)}; expected one list of detections per tile"
        )
    if isinstance(predicted, Iterator):
        predicted = list(predicted)
    try:
        n_returned = len(predicted)
    except TypeError:
        raise PredictionError(
            f"predict returned {_name(predicted)}, which has no length; "
            "expected one list of detections per tile"
        ) from None
    if n_returned != n_tiles:
        raise PredictionError(
            f"predict returned {n_returned} lists of detections for {n_tiles} tiles; "
            "expected one per tile, an empty one where nothing was found"
        )
    parts = [_check_tile(found, tile) for tile, found in enumerate(predicted)]
    counts = [len(part) for part in parts]
    values = np.concatenate(parts) if parts else np.empty((0, len(COLUMNS)))
    offsets = np.r_[0, np.cumsum(counts, dtype=np.int64)].astype(np.int64)
    detections = Detections(values, offsets)
    _check_values(detections)
    return _most_confident(detections)


def _check_tile(found: Any, tile: int) -> np.ndarray:
    """The detections on one tile as float64 (k, 8)."""
    shaped = np.full((0, len(COLUMNS)), np.nan)
    try:
        if len(found) == 0:
            return shaped
        array = np.asarray(found, dtype=float)
    except (TypeError, ValueError, RuntimeError):  # torch raises the last, for tensors with grad
        raise PredictionError(
            f"tile {tile}: {_name(found)} is no list of detections; expected tuples of numbers "
            "(confidence, row, col, radius), all of the same length"
        ) from None
    if array.ndim != 2 or array.shape[1] not in (4, len(COLUMNS)):
        raise PredictionError(
            f"tile {tile}: detections have the shape {array.shape}; expected (k, 4): confidence, "
            f"row, col, radius, or (k, 8): and the probabilities of {', '.join(KINDS)}. One "
            "detection is a list with one tuple"
        )
    shaped = np.full((len(array), len(COLUMNS)), np.nan)
    shaped[:, : array.shape[1]] = array
    if array.shape[1] == len(COLUMNS) and not np.isfinite(array[:, 4:]).all():
        # NaN in all four says "no idea"; anything else is a mistake
        bad = np.isnan(array[:, 4:]).sum(axis=1) % 4 != 0
        bad |= np.isinf(array[:, 4:]).any(axis=1)
        if bad.any():
            raise PredictionError(
                f"tile {tile}: kind probabilities {array[bad][0, 4:]}; expected four numbers in "
                "[0, 1], or four NaN where the entry does not know"
            )
    return shaped


def _check_values(detections: Detections) -> None:
    values = detections.values
    confidence, radius, probabilities = values[:, 0], values[:, 3], values[:, 4:]
    for bad, expected in (
        (~np.isfinite(values[:, :4]).all(axis=1), "finite numbers"),
        (radius <= 0, "a radius above 0 px"),
        (np.abs(values[:, 1:4]).max(axis=1, initial=0) > 1e6, "positions and radii in pixels"),
        ((confidence < 0) | (confidence > 1), "a confidence in [0, 1], first of the four"),
        (((probabilities < 0) | (probabilities > 1)).any(axis=1), "kind probabilities in [0, 1]"),
    ):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise PredictionError(
                f"tile {detections.tile[first]}: detection (confidence, row, col, radius) = "
                f"{tuple(values[first, :4].tolist())}; expected {expected} "
                f"({int(bad.sum())} detections are wrong in this way)"
            )


def _name(thing: Any) -> str:
    return "None" if thing is None else f"an object of type {type(thing).__name__}"


def save(detections: Detections, file: Path) -> None:
    """Write detections to an .npz file (values and offsets, no pickle)."""
    temporary = file.with_name(file.name + ".part")
    try:
        with temporary.open("wb") as handle:
            np.savez(handle, values=detections.values, offsets=detections.offsets)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(file: Path) -> Detections:
    """Read detections that `save` wrote.

    Raises
    ------
    DataError
        When the file is missing, damaged, or holds no detections.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return Detections(stored["values"], stored["offsets"])
    except FileNotFoundError:
        raise DataError(
            f"{file} is missing; run `ramp-test --save-output` for this submission first"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(
            f"{file} holds no detections ({error}); run `ramp-test --save-output` again"
        ) from error


def combine(answers: Sequence[Answer], n_tiles: int) -> Detections:
    """Merge what several models found on the same tiles (bagging).

    On a tile, circles of different models that overlap by an IoU above .5 are one crater, at most
    one circle of each model: the most confident circle takes from every other model the circle of
    the greatest confidence times IoU. Its position and kind are averages weighted by confidence;
    its confidence is the sum of the confidences over the number of models that predicted the tile
    (mean confidence times the share of models that found it). A tile that one model predicted keeps
    its detections.

    Parameters
    ----------
    answers : sequence of (Detections, ndarray of int (n_tiles,))
        A model's detections and the row that answers for each tile, -1 where it predicted none.
    n_tiles : int

    Returns
    -------
    Detections
        On n_tiles tiles, sorted by falling confidence on tiles that several models predicted.
    """
    tiles, models, values = [], [], []
    n_models = np.zeros(n_tiles, dtype=int)
    for number, (detections, rows) in enumerate(answers):
        predicted = np.flatnonzero(rows >= 0)
        n_models[predicted] += 1
        part = _most_confident(detections.take(rows[predicted]))
        tiles.append(predicted[part.tile])
        models.append(np.full(len(part.values), number))
        values.append(part.values)
    tile, model, value = (np.concatenate(parts) for parts in (tiles, models, values))
    # by tile, then by falling confidence; ties stay in the order of the models
    order = np.lexsort((-value[:, 0], tile))
    tile, model, value = tile[order], model[order], value[order]
    crater = _same_crater(tile, model, value)
    merged = _average(crater, value)
    seed = np.unique(crater)
    merged[:, 0] = np.minimum(merged[:, 0] / n_models[tile[seed]], 1)
    order = np.lexsort((-merged[:, 0], tile[seed]))
    offsets = np.searchsorted(tile[seed], np.arange(n_tiles + 1))
    return Detections(merged[order], offsets)


def _most_confident(detections: Detections) -> Detections:
    """At most `MAX_PER_TILE` detections a tile: more are not scored."""
    counts = np.diff(detections.offsets)
    if (counts <= MAX_PER_TILE).all():
        return detections
    tile, values = detections.tile, detections.values
    order = np.lexsort((-values[:, 0], tile))
    rank = np.arange(len(values)) - np.repeat(detections.offsets[:-1], counts)
    kept = np.sort(order[rank < MAX_PER_TILE])
    offsets = np.r_[0, np.cumsum(np.minimum(counts, MAX_PER_TILE))]
    return Detections(values[kept], offsets)


def _same_crater(tile: np.ndarray, model: np.ndarray, value: np.ndarray) -> np.ndarray:
    """For each detection the index of the most confident one that stands for the same crater."""
    first, second, iou = _overlapping_pairs(tile, model, value)
    n = len(value)
    crater = np.arange(n)
    if not len(first):
        return crater
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    # detections are sorted: the first one of a component is its most confident
    _, seed, size = np.unique(component, return_index=True, return_counts=True)
    touching = np.bincount(component[first], seed[component[first]] == first, len(seed))
    _, per_model = np.unique(np.stack([component, model]), axis=1, return_counts=True)
    owner = np.unique(np.stack([component, model]), axis=1)[0]
    most = np.zeros(len(seed), dtype=int)
    np.maximum.at(most, owner, per_model)
    simple = (touching == size - 1) & (most == 1)
    crater[:] = np.where(simple[component], seed[component], crater)
    left = ~simple[component[first]]
    _match_in_order(crater, model, value[:, 0], first[left], second[left], iou[left])
    return crater


def _match_in_order(
    crater: np.ndarray,
    model: np.ndarray,
    confidence: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    iou: np.ndarray,
) -> None:
    """Where circles crowd: the most confident one takes its best partner of each other model."""
    partners: dict[int, list[tuple[float, int]]] = {}
    for one, two, overlap in zip(first.tolist(), second.tolist(), iou.tolist(), strict=True):
        partners.setdefault(one, []).append((-overlap * confidence[two], two))
        partners.setdefault(two, []).append((-overlap * confidence[one], one))
    taken: set[int] = set()
    for seed in sorted(partners):
        if seed in taken:
            continue
        taken.add(seed)
        models = {model[seed]}
        for _, other in sorted(partners[seed]):
            if other not in taken and model[other] not in models:
                taken.add(other)
                models.add(model[other])
                crater[other] = seed


def _overlapping_pairs(
    tile: np.ndarray, model: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (first < second) of one tile and of two models whose circles overlap, and their IoU."""
    n = len(tile)
    later = np.searchsorted(tile, tile, side="right") - np.arange(n) - 1
    firsts, seconds, ious = [], [], []
    total = np.cumsum(later)
    start = 0
    while start < n:
        stop = max(
            int(np.searchsorted(total, total[start] - later[start] + _PAIRS, side="right")),
            start + 1,
        )
        count = later[start:stop]
        first = np.repeat(np.arange(start, stop), count)
        within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
        second = first + 1 + within
        ratio = value[first, 3] / value[second, 3]
        # an IoU above .5 needs radii within a factor of sqrt(2)
        near = (model[first] != model[second]) & (ratio < 1.4143) & (ratio > 0.7071)
        first, second = first[near], second[near]
        iou = circle_iou(value[first, 1:4], value[second, 1:4])
        same = iou > _SAME
        firsts.append(first[same])
        seconds.append(second[same])
        ious.append(iou[same])
        start = stop
    if not firsts:
        return np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty(0)
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(ious)


def _average(crater: np.ndarray, value: np.ndarray) -> np.ndarray:
    """One row per crater: summed confidence, and the rest weighted by confidence."""
    seed, group = np.unique(crater, return_inverse=True)
    merged = value[seed].copy()
    size = np.bincount(group, minlength=len(seed))
    several = size > 1
    confidence = value[:, 0]
    merged[:, 0] = np.bincount(group, confidence, len(seed))
    weight = np.maximum(confidence, 1e-12)
    for column in range(1, value.shape[1]):
        said = np.isfinite(value[:, column])
        total = np.bincount(group[said], weight[said], len(seed))
        mean = np.bincount(group[said], (weight * value[:, column])[said], len(seed))
        averaged = several & (total > 0)
        merged[averaged, column] = mean[averaged] / total[averaged]
    return merged
