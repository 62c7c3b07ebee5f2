"""The HDF5 files of a split: `inputs.h5` (what a participant may know) beside `targets.h5`.

Arrays lie contiguous and uncompressed, so that a sample is read straight through a memory map, as
fast as from a raw file; tables are one data set per column, texts stored once and referred to by
number. Files are written under a temporary name and renamed when they are complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from acdc.errors import DataError

FORMAT = 1
INPUTS, TARGETS = "inputs.h5", "targets.h5"
Attribute = str | int | float | bool


class LazyArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A read-only array (n, ...) in an HDF5 file; what is indexed is read, nothing else.

    Indexing with an int, slice, index array or boolean mask reads those samples and returns a plain
    writable `numpy.ndarray`; `subset` selects samples without reading them. `len`, iteration,
    `numpy.asarray`, arithmetic and numpy's ufuncs work as on an array. It pickles as its path and
    rows and reopens the file in every process.

    Parameters
    ----------
    path : Path
        HDF5 file.
    name : str
        Data set in it; contiguous, first axis counts samples.
    rows : ndarray of int or None
        The samples that this view holds, in order; None: all.
    """

    def __init__(self, path: Path, name: str, rows: np.ndarray | None = None) -> None:
        self.path, self.name = Path(path), name
        with open_file(self.path) as file:
            dataset = file[name]
            offset = dataset.id.get_offset()
            if offset is None and dataset.size:
                raise DataError(
                    f"{path}: {name} is stored in chunks; this kit maps contiguous data. "
                    "Prepare the data again with download_data.py."
                )
            self._stored = (dataset.shape, dataset.dtype, offset or 0)
        self.rows = None if rows is None else np.asarray(rows, dtype=np.int64)
        self._map: np.ndarray | None = None

    @property
    def _array(self) -> np.ndarray:
        if self._map is None:
            shape, dtype, offset = self._stored
            self._map = (
                np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=shape)
                if np.prod(shape)
                else np.empty(shape, dtype)
            )
        return self._map

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples first, then the shape of one sample."""
        n = self._stored[0][0] if self.rows is None else len(self.rows)
        return (int(n), *self._stored[0][1:])

    @property
    def dtype(self) -> np.dtype:
        """The type of the elements."""
        return np.dtype(self._stored[1])

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if self.rows is None:
            return _own(self._array[key])
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if first is Ellipsis:
            return np.array(self)[key]
        rows = self.rows[first]
        if rest and np.ndim(rows):
            return _own(self._array[rows][(slice(None), *rest)])
        return _own(self._array[(rows, *rest)] if rest else self._array[rows])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the samples lie in a file; they cannot be had without a copy")
        return np.asarray(self[:], dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, LazyArray) for x in options.get("out", ())):
            raise TypeError("the samples of a file can't be changed in place; write X = X / 255")
        arrays = [np.asarray(x) if isinstance(x, LazyArray) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def astype(self, dtype: Any) -> np.ndarray:
        """All samples as an array of another type (reads everything)."""
        return np.asarray(self).astype(dtype)

    def subset(self, rows: Any) -> LazyArray:
        """The samples `rows` (slice, index array or boolean mask), without reading them."""
        view = self.__class__.__new__(self.__class__)
        view.__dict__.update(self.__dict__)
        own = np.arange(len(self)) if self.rows is None else self.rows
        view.rows = own[rows]
        return view

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype}, path='{self.path}')"


def _own(values: Any) -> Any:
    """Copy what is a view of the file; index arrays and masks have copied already."""
    return np.array(values) if isinstance(values, np.memmap) else values


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open one of the kit's HDF5 files for reading.

    Raises
    ------
    DataError
        When the file is missing, damaged, of another kind or of another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} is missing. Make simulated data with `python download_data.py`, "
            "or prepare your own (see `python download_data.py --help`)."
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path} is damaged or no HDF5 file ({error}). Run download_data.py again."
        ) from error
    with file:
        version = file.attrs.get("format_version")
        if version != FORMAT:
            raise DataError(
                f"{path} has format version {version}, this kit reads {FORMAT}. "
                "Run download_data.py again."
            )
        yield file


@contextmanager
def open_targets(folder: Path) -> Iterator[h5py.File]:
    """Open the targets of a split, if they belong to its inputs.

    Raises
    ------
    DataError
        When a file is missing or damaged, or the two come from different preparations.
    """
    with open_file(Path(folder) / INPUTS) as file:
        digest = file.attrs.get("checksum")
    with open_file(Path(folder) / TARGETS) as file:
        if file.attrs.get("inputs_checksum") != digest:
            raise DataError(
                f"{folder}: {TARGETS} belongs to other samples than {INPUTS} holds. "
                "Prepare the split again."
            )
        yield file


@contextmanager
def write_file(path: Path, attributes: Mapping[str, Attribute]) -> Iterator[h5py.File]:
    """Write an HDF5 file under a temporary name and rename it when the block ends without error.

    Raises
    ------
    DataError
        When the disk is full; nothing is left behind then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        with h5py.File(temporary, "w", libver="v110") as file:
            try:
                file.attrs["format_version"] = FORMAT
                for key, value in attributes.items():
                    file.attrs[key] = value
                yield file
                file.flush()
            except BaseException:
                # HDF5 crashes the process if it cannot flush what it holds when the file is
                # closed; on a full disk it can once the file's own space is given back
                os.truncate(temporary, 0)
                raise
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if _disk_is_full(error):
            raise DataError(
                f"{path}: the disk is full; nothing was written. Free some space or choose "
                "another folder."
            ) from error
        raise


def _disk_is_full(error: BaseException) -> bool:
    # h5py reports most failed writes as an OSError without errno, or as a RuntimeError on closing,
    # which hides the true one
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) == errno.ENOSPC or (
            isinstance(seen, OSError | RuntimeError)
            and ("errno = 28" in str(seen) or "No space left" in str(seen))
        ):
            return True
        seen = seen.__context__
    return False


def write_rows(
    file: h5py.File,
    name: str,
    batches: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: Any,
    order: np.ndarray | None = None,
) -> None:
    """Fill the contiguous data set `name` of `shape` (n, ...) from batches of samples.

    Parameters
    ----------
    order : ndarray of int (n,) or None
        The row in which each incoming sample is stored; None: as they come.

    Raises
    ------
    ValueError
        When the batches hold more or fewer samples than `shape` says.
    """
    dataset = file.create_dataset(name, shape=shape, dtype=dtype)
    start = 0
    for batch in batches:
        stop = start + len(batch)
        if stop > shape[0]:
            raise ValueError(f"{name}: more than the {shape[0]} samples that were announced")
        if order is None:
            dataset[start:stop] = batch
        else:
            for row, sample in zip(order[start:stop], batch, strict=True):
                dataset[row] = sample
        start = stop
    if start != shape[0]:
        raise ValueError(f"{name}: {start} samples came, {shape[0]} were announced")


def write_table(file: h5py.File, name: str, table: pd.DataFrame) -> None:
    """Store a table column by column: numbers as they are, texts as codes and their values."""
    group = file.create_group(name)
    group.attrs["columns"] = list(table.columns)
    for column in table.columns:
        values = table[column]
        if pd.api.types.is_numeric_dtype(values.dtype):
            group.create_dataset(column, data=values.to_numpy())
            continue
        codes, texts = pd.factorize(values.astype(str), sort=True)
        dataset = group.create_dataset(column, data=codes.astype(np.int32))
        dataset.attrs["texts"] = f"{column}.texts"
        group.create_dataset(f"{column}.texts", data=list(texts), dtype=h5py.string_dtype())


def read_table(
    file: h5py.File, name: str, ranges: Iterable[tuple[int, int]] | None = None
) -> pd.DataFrame:
    """Read a table of `write_table`; only the given row ranges [start, stop), if any are given."""
    group = file[name]
    spans = None if ranges is None else list(ranges)
    columns: dict[str, Any] = {}
    for column in group.attrs["columns"]:
        dataset = group[column]
        values = _read_spans(dataset, spans)
        if "texts" in dataset.attrs:
            texts = group[dataset.attrs["texts"]].asstr()[:]
            columns[column] = pd.Categorical.from_codes(values, categories=pd.Index(texts))
        else:
            columns[column] = values
    return pd.DataFrame(columns)


def _read_spans(dataset: h5py.Dataset, spans: list[tuple[int, int]] | None) -> np.ndarray:
    if spans is None:
        return dataset[:]
    parts = [dataset[start:stop] for start, stop in spans]
    return np.concatenate(parts) if parts else dataset[:0]


def checksum(array: Any, progress: Callable[[int], Any] | None = None) -> str:
    """SHA-256 over the bytes of the samples of an array, read a few at a time."""
    digest = hashlib.sha256()
    for start in range(0, len(array), 64):
        block = np.ascontiguousarray(array[start : start + 64])
        digest.update(block.data)
        if progress is not None:
            progress(len(block))
    return f"sha256:{digest.hexdigest()}"
