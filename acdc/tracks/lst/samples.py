"""How a split of the track is stored, read and handed out: samples to sharpen and their truths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from acdc import sensor, store
from acdc.errors import DataError
from acdc.metrics import thermal
from acdc.tracks.lst.interpolation import bicubic
from acdc.tracks.lst.scenes import FACTOR, Scene, fill

_MIN_SCORED = 0.05


@dataclass(frozen=True)
class Sample:
    """What a submission sees of one scene.

    Attributes
    ----------
    lst : ndarray of float32 (h, w)
        Land surface temperature, kelvin. Finite everywhere: gaps hold their nearest neighbour.
    ndvi : ndarray of float32 (4h, 4w)
        On the grid that is wanted. Finite everywhere, gaps filled likewise.
    valid : ndarray of bool (h, w)
        Where `lst` was measured (no cloud, no border of the swath).
    pixel_size : float
        Side of a pixel of `lst`, m; `ndvi` and the answer have pixels of a quarter of it.
    """

    lst: np.ndarray
    ndvi: np.ndarray
    valid: np.ndarray
    pixel_size: float


class SampleArray(Sequence[Any]):
    """The samples of a split, read lazily: `X[i]` is a `Sample`, `X[rows]` some of them.

    All samples of a split have one size; those of training and test differ: 16 x 16 pixels of 4 km
    there, 64 x 64 pixels of 1 km here. It pickles as the path and rows.

    Parameters
    ----------
    path : Path
        The split's inputs.h5.
    rows : ndarray of int or None
        Only these samples.

    Attributes
    ----------
    lst, ndvi, valid : LazyArray (n, ...)
        The fields of all samples.
    pixel_size : ndarray of float (n,)
    """

    def __init__(self, path: Path, rows: np.ndarray | None = None) -> None:
        self.path = Path(path)
        self.lst = store.LazyArray(self.path, "lst", rows)
        self.ndvi = store.LazyArray(self.path, "ndvi", rows)
        self.valid = store.LazyArray(self.path, "valid", rows)
        with store.open_file(self.path) as file:
            sizes = file["pixel_size"][:]
        self.pixel_size = sizes if rows is None else sizes[rows]

    def __len__(self) -> int:
        return len(self.lst)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, int | np.integer):
            return self.subset(key)
        i = range(len(self))[key]
        return Sample(self.lst[i], self.ndvi[i], self.valid[i], float(self.pixel_size[i]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def subset(self, rows: Any) -> SampleArray:
        """The samples `rows` (slice, index array or boolean mask), without reading them."""
        view = object.__new__(type(self))
        view.path = self.path
        view.lst, view.ndvi = self.lst.subset(rows), self.ndvi.subset(rows)
        view.valid, view.pixel_size = self.valid.subset(rows), self.pixel_size[rows]
        return view

    def __repr__(self) -> str:
        return f"SampleArray({len(self)} samples, lst {self.lst.shape[1:]}, path='{self.path}')"


class Targets(Sequence[Any]):
    """The truths of a split: `y[i]` is a float32 array (4h, 4w) in kelvin, NaN where unknown.

    `y[rows]` gives some of them, unread; to numpy all of them are one array (n, 4h, 4w).

    Parameters
    ----------
    inputs : SampleArray
        The samples to which they belong.
    truth : LazyArray (n, 4h, 4w)
    scenes : DataFrame
        One row a sample: scene, group, pixel_size (m), bicubic_ubrmse (K) and truth_consistency
        (K), the scores against which others are read.
    """

    def __init__(self, inputs: SampleArray, truth: store.LazyArray, scenes: pd.DataFrame) -> None:
        self.inputs, self.truth, self.scenes = inputs, truth, scenes

    @property
    def group(self) -> np.ndarray:
        """Names of the pieces of ground, (n,)."""
        return self.scenes["group"].astype(str).to_numpy()

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer):
            return self.truth[range(len(self))[key]]
        return self.take(np.arange(len(self))[key])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.truth, dtype=dtype)

    def take(self, rows: np.ndarray) -> Targets:
        """The truths of the samples `rows`, in that order."""
        rows = np.asarray(rows)
        scenes = self.scenes.iloc[rows].reset_index(drop=True)
        return Targets(self.inputs.subset(rows), self.truth.subset(rows), scenes)

    def __repr__(self) -> str:
        return f"Targets({len(self)} scenes in {len(set(self.group))} groups)"


def write_split(
    folder: Path,
    scenes: Sequence[Scene],
    *,
    attributes: Mapping[str, store.Attribute],
    order: np.ndarray | None = None,
) -> None:
    """Write `inputs.h5` and `targets.h5` of one split; the targets last, so that a pair is whole.

    Truth counts where the reference, the LST above it and the NDVI beside it were all measured.

    Parameters
    ----------
    folder : Path
        Where the two files go; made if missing.
    scenes : sequence of Scene
        Clean, of one size, each with a reference.
    attributes : mapping
        What a participant may know: simulated, source, licence ...
    order : ndarray of int or None
        The order in which scenes are stored; None: as they come.

    Raises
    ------
    DataError
        When the scenes differ in size or one has nothing to score, or the disk is full.
    """
    if not scenes:
        raise DataError(f"{folder}: there are no scenes for this split")
    scenes = [scenes[i] for i in order] if order is not None else list(scenes)
    sizes = {scene.lst.shape for scene in scenes}
    if len(sizes) > 1:
        raise DataError(f"{folder}: scenes of one split have one size, not {sorted(sizes)}")
    lst = np.stack([fill(scene.lst) for scene in scenes]).astype(np.float32)
    ndvi = np.stack([fill(scene.ndvi) for scene in scenes]).astype(np.float32)
    valid = np.stack([np.isfinite(scene.lst) for scene in scenes])
    truth = np.stack([_truth(scene) for scene in scenes]).astype(np.float32)
    table = pd.DataFrame(
        {
            "scene": [scene.name for scene in scenes],
            "group": [scene.group for scene in scenes],
            "pixel_size": [scene.pixel_size for scene in scenes],
            "bicubic_ubrmse": [
                thermal.unbiased_rmse(field, bicubic(coarse, FACTOR))
                for field, coarse in zip(truth, lst, strict=True)
            ],
            "truth_consistency": [
                consistency(field, coarse, known)
                for field, coarse, known in zip(truth, lst, valid, strict=True)
            ],
        }
    )
    folder = Path(folder)
    digest = store.checksum(ndvi)
    with store.write_file(folder / store.INPUTS, {**attributes, "checksum": digest}) as file:
        for name, array in (("lst", lst), ("ndvi", ndvi), ("valid", valid)):
            store.write_rows(file, name, [array], array.shape, array.dtype)
        file["pixel_size"] = table["pixel_size"].to_numpy()
    with store.write_file(folder / store.TARGETS, {"inputs_checksum": digest}) as file:
        store.write_rows(file, "truth", [truth], truth.shape, truth.dtype)
        store.write_table(file, "scenes", table)


def _truth(scene: Scene) -> np.ndarray:
    if scene.reference is None:
        raise DataError(f"scene {scene.name} has no reference, so it can't be in this split")
    measured = sensor.repeat(np.isfinite(scene.lst), FACTOR) & np.isfinite(scene.ndvi)
    truth = np.where(measured, scene.reference, np.nan)
    share = float(np.isfinite(truth).mean())
    if share < _MIN_SCORED:
        raise DataError(
            f"scene {scene.name}: lst, ndvi and reference are known together on {share:.1%} of "
            f"the pixels, expected at least {_MIN_SCORED:.0%}; leave it out"
        )
    return truth


def consistency(fine: np.ndarray, coarse: np.ndarray, valid: np.ndarray) -> float:
    """RMSE between the flux aggregate of a fine field and the measured coarse one, K.

    Parameters
    ----------
    fine : ndarray of float (4h, 4w)
        Kelvin; NaN where unknown.
    coarse : ndarray of float (h, w)
        Kelvin.
    valid : ndarray of bool (h, w)
        Where `coarse` was measured.
    """
    return thermal.rmse(np.where(valid, coarse, np.nan), sensor.aggregate_flux(fine, FACTOR))


def read_split(folder: Path, rows: np.ndarray | None = None) -> tuple[SampleArray, Targets]:
    """Open the samples and truths of a split; fields are read when they are asked for.

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
        scenes = store.read_table(file, "scenes")
    if rows is not None:
        scenes = scenes.iloc[rows].reset_index(drop=True)
    inputs = SampleArray(folder / store.INPUTS, rows)
    return inputs, Targets(inputs, store.LazyArray(folder / store.TARGETS, "truth", rows), scenes)
