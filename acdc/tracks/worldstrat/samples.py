"""How a split of the track is stored, read and handed out: revisits to sharpen and their truths.

Reflectance lies on disk as uint16 x 10,000 and is mapped, not loaded: what is asked for is read,
and becomes float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from acdc import store
from acdc.errors import DataError
from acdc.tracks.worldstrat.archive import BANDS, SPOT_BANDS
from acdc.tracks.worldstrat.chips import (
    FACTOR,
    REVISITS,
    SIDE,
    Chip,
    to_counts,
    to_reflectance,
)
from acdc.tracks.worldstrat.simulate.overpass import Truth

_FINE = SIDE * FACTOR
_INPUTS: dict[str, tuple[tuple[int, ...], type]] = {
    "bands": ((REVISITS, len(BANDS), SIDE, SIDE), np.uint16),
    "clear": ((REVISITS, SIDE, SIDE), np.bool_),
    "days": ((REVISITS,), np.float32),
}
_TARGETS: dict[str, tuple[tuple[int, ...], type]] = {
    "truth": ((len(SPOT_BANDS), _FINE, _FINE), np.uint16),
    "valid": ((_FINE, _FINE), np.bool_),
}
_SIMULATED: dict[str, tuple[tuple[int, ...], type]] = {
    "ground": ((len(SPOT_BANDS), _FINE, _FINE), np.uint16),
    "cover": ((_FINE, _FINE), np.uint8),
    "leaf_area": ((_FINE, _FINE), np.float32),
}


@dataclass(frozen=True)
class Sample:
    """What a submission sees of one chip.

    Attributes
    ----------
    bands : ndarray of float32 (T, 12, 64, 64)
        Reflectance of T revisits, rising days; finite everywhere, 0 where nothing was measured.
    clear : ndarray of bool (T, 64, 64)
        Neither cloud nor fill value. Missing revisits are clear nowhere.
    days : ndarray of float32 (T,)
        Days from the wanted image, negative before it.
    band_names : tuple of str
        Of the second axis of `bands`.
    """

    bands: np.ndarray
    clear: np.ndarray
    days: np.ndarray
    band_names: tuple[str, ...] = BANDS


class SampleArray(Sequence[Any]):
    """The samples of a split, read lazily: `X[i]` is a `Sample`, `X[rows]` some of them.

    It pickles as the path and rows.

    Parameters
    ----------
    path : Path
        The split's inputs.h5.
    rows : ndarray of int or None
        Only these samples.
    """

    band_names = BANDS

    def __init__(self, path: Path, rows: np.ndarray | None = None) -> None:
        self.path = Path(path)
        self._bands = store.LazyArray(self.path, "bands", rows)
        self._clear = store.LazyArray(self.path, "clear", rows)
        self._days = store.LazyArray(self.path, "days", rows)

    def __len__(self) -> int:
        return len(self._bands)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer):
            return self.subset(key)
        i = range(len(self))[key]
        return Sample(to_reflectance(self._bands[i]), self._clear[i], self._days[i])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def subset(self, rows: Any) -> SampleArray:
        """The samples `rows` (slice, index array or boolean mask), without reading them."""
        view = object.__new__(type(self))
        view.path = self.path
        view._bands, view._clear = self._bands.subset(rows), self._clear.subset(rows)
        view._days = self._days.subset(rows)
        return view

    def __repr__(self) -> str:
        return f"SampleArray({len(self)} samples, bands {self._bands.shape[1:]})"


class Targets(Sequence[Any]):
    """The truths of a split: `y[i]` is float32 (4, 256, 256) reflectance, NaN where unknown.

    Red, green, blue, near infrared. `y[rows]` gives some of them, unread.

    Parameters
    ----------
    inputs : SampleArray
        The samples to which they belong.
    path : Path
        The split's targets.h5.
    chips : DataFrame
        One row a sample, see `write_split`.
    rows : ndarray of int or None
        Rows of the file.

    Attributes
    ----------
    extra : dict of str to LazyArray
        Of simulated data: ground (n, 4, 256, 256) uint16 x 10,000, the light that the ground
        itself reflects; cover (n, 256, 256), index into the land-cover classes; leaf_area
        (n, 256, 256). Empty for real data.
    """

    def __init__(
        self,
        inputs: SampleArray,
        path: Path,
        chips: pd.DataFrame,
        rows: np.ndarray | None = None,
    ) -> None:
        self.inputs, self.path, self.chips = inputs, Path(path), chips
        self._rows = np.arange(len(chips)) if rows is None else np.asarray(rows)
        self._truth = store.LazyArray(self.path, "truth", self._rows)
        self._valid = store.LazyArray(self.path, "valid", self._rows)
        with store.open_file(self.path) as file:
            there = [name for name in _SIMULATED if name in file]
        self.extra = {name: store.LazyArray(self.path, name, self._rows) for name in there}

    @property
    def site(self) -> np.ndarray:
        """Names of the sites, (n,); the unit of independence."""
        return self.chips["site"].astype(str).to_numpy()

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer):
            i = range(len(self))[key]
            return np.where(self._valid[i], to_reflectance(self._truth[i]), np.float32(np.nan))
        return self.take(np.arange(len(self))[key])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: np.ndarray) -> Targets:
        """The truths of the samples `rows`, in that order."""
        rows = np.asarray(rows)
        chips = self.chips.iloc[rows].reset_index(drop=True)
        return Targets(self.inputs.subset(rows), self.path, chips, self._rows[rows])

    def __repr__(self) -> str:
        return f"Targets({len(self)} chips on {len(set(self.site))} sites)"


def write_split(
    folder: Path,
    chips: Iterable[tuple[Chip, Truth | None]],
    n: int,
    *,
    attributes: Mapping[str, store.Attribute],
    order: np.ndarray | None = None,
) -> None:
    """Write `inputs.h5` and `targets.h5` of one split, one chip in memory at a time.

    The table of chips: place, site, row, col, lon, lat, ipcc, smod, lccs, shift_row, shift_col
    (target pixels), registered, correlation, gain_* and offset_* per band. It goes to the targets:
    who knows the place knows the truth.

    Parameters
    ----------
    folder : Path
        Where the two files go; made if missing.
    chips : iterable of (Chip, Truth or None)
        The truth beyond the target, of simulated places; all have one or none has.
    n : int
        How many there are.
    attributes : mapping
        What a participant may know: simulated, source, licence ...
    order : ndarray of int (n,) or None
        The row in which each incoming chip is stored; None: as they come.

    Raises
    ------
    DataError
        When there are no chips or other than `n`, only some have a truth of their own, or the disk
        is full; nothing is left then.
    """
    folder = Path(folder)
    if n < 1:
        raise DataError(f"{folder}: there are no chips for this split")
    row_of = np.arange(n) if order is None else np.asarray(order)
    described: dict[int, dict[str, Any]] = {}
    simulated: bool | None = None
    with (
        store.write_file(folder / store.TARGETS, {}) as targets,
        store.write_file(folder / store.INPUTS, attributes) as inputs,
    ):
        _create(inputs, _INPUTS, n)
        _create(targets, _TARGETS, n)
        for count, (chip, truth) in enumerate(chips):
            if count >= n:
                raise DataError(f"{folder}: more than the {n} chips that were announced")
            if simulated is None:
                simulated = truth is not None
                _create(targets, _SIMULATED if simulated else {}, n)
            if simulated != (truth is not None):
                raise DataError(f"{folder}: {chip.place.name} is simulated or not unlike the rest")
            row = int(row_of[count])
            inputs["bands"][row] = to_counts(chip.bands)
            inputs["clear"][row] = chip.clear
            inputs["days"][row] = chip.days
            targets["truth"][row] = to_counts(chip.target)
            targets["valid"][row] = chip.valid
            if truth is not None:
                targets["ground"][row] = to_counts(truth.reflectance)
                targets["cover"][row] = truth.cover
                targets["leaf_area"][row] = truth.leaf_area
            described[row] = _describe(chip)
        if len(described) != n:
            raise DataError(f"{folder}: {len(described)} chips came, {n} were announced")
        store.write_table(targets, "chips", pd.DataFrame([described[row] for row in range(n)]))
        digest = store.checksum(inputs["bands"])
        inputs.attrs["checksum"] = digest
        targets.attrs["inputs_checksum"] = digest


def _create(file: Any, fields: dict[str, tuple[tuple[int, ...], type]], n: int) -> None:
    for name, (shape, dtype) in fields.items():
        file.create_dataset(name, shape=(n, *shape), dtype=dtype)


def _describe(chip: Chip) -> dict[str, Any]:
    place = chip.place
    return {
        "place": place.name,
        "site": place.site,
        "row": chip.row,
        "col": chip.col,
        "lon": chip.lon,
        "lat": chip.lat,
        **{label: place.labels.get(label, "") for label in ("ipcc", "smod", "lccs")},
        "shift_row": chip.shift[0],
        "shift_col": chip.shift[1],
        "registered": chip.registered,
        "correlation": chip.correlation,
        **{f"gain_{name}": chip.gain[i] for i, name in enumerate(SPOT_BANDS)},
        **{f"offset_{name}": chip.offset[i] for i, name in enumerate(SPOT_BANDS)},
    }


def read_split(folder: Path, rows: np.ndarray | None = None) -> tuple[SampleArray, Targets]:
    """Open the samples and truths of a split; images are read when they are asked for.

    Parameters
    ----------
    folder : Path
        Holds inputs.h5 and targets.h5.
    rows : ndarray of int or None
        Only these samples.

    Raises
    ------
    DataError
        When the files are missing, damaged or do not belong together.
    """
    folder = Path(folder)
    with store.open_targets(folder) as file:
        chips = store.read_table(file, "chips")
    if rows is not None:
        chips = chips.iloc[rows].reset_index(drop=True)
    inputs = SampleArray(folder / store.INPUTS, rows)
    return inputs, Targets(inputs, folder / store.TARGETS, chips, rows)
