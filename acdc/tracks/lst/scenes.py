"""Scenes: a temperature field, the NDVI on a grid four times finer and, where known, the truth.

Raw scenes come as one `.npz` or as a folder of GeoTIFFs. Their values are checked and cleaned
here: whatever is no land surface temperature becomes NaN, whatever points to a misunderstanding
(Celsius, raw counts, grids that don't fit) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from acdc import sensor
from acdc.errors import DataError

FACTOR = 4
SIDE = 64  # LST pixels along the side of a scene that is cut out of a larger raster
HOTTEST, COLDEST = 335.0, 200.0
MODIS_PIXEL = 926.625433  # m, the "1 km" of the sinusoidal grid
METRES_PER_DEGREE = 111_195.0  # on a sphere of 6371 km
_MIN_KNOWN = 0.25

_NAMES = {
    "lst": ("lst", "lst_lr"),
    "ndvi": ("ndvi", "ndvi_hr"),
    "reference": ("reference", "aster", "aster_hr"),
}


@dataclass(frozen=True)
class Scene:
    """One moment on one piece of ground.

    Attributes
    ----------
    name : str
    group : str
        The piece of ground; scenes of one group overlap, so they are never divided.
    lst : ndarray of float (h, w)
        Land surface temperature, kelvin; NaN where unknown.
    ndvi : ndarray of float (4h, 4w)
        NaN where unknown.
    reference : ndarray of float (4h, 4w) or None
        The truth on the fine grid, kelvin; NaN where unknown. None: there is none.
    pixel_size : float
        Side of a pixel of `lst`, m.
    """

    name: str
    group: str
    lst: np.ndarray
    ndvi: np.ndarray
    reference: np.ndarray | None
    pixel_size: float


def clean(scene: Scene) -> Scene:
    """Set to NaN what is no temperature of land and no NDVI; refuse what is no scene.

    Fill values and clouds are below 200 K, fires, glint and broken pixels above 335 K.

    Raises
    ------
    DataError
        When the grids are not nested, the temperatures are Celsius or raw counts, the NDVI is not
        in [-1, 1], or less than a quarter of the scene is known.
    """
    where = f"scene {scene.name}"
    lst, ndvi = np.asarray(scene.lst, float), np.asarray(scene.ndvi, float)
    if lst.ndim != 2 or lst.shape[0] % FACTOR or lst.shape[1] % FACTOR or not lst.size:
        raise DataError(
            f"{where}: lst has the shape {lst.shape}, expected two sides that are multiples of "
            f"{FACTOR} (training aggregates them once more)"
        )
    fine = (lst.shape[0] * FACTOR, lst.shape[1] * FACTOR)
    if ndvi.shape != fine:
        raise DataError(
            f"{where}: ndvi has the shape {ndvi.shape}, expected {fine}: {FACTOR} times finer than "
            f"lst {lst.shape}"
        )
    lst = _kelvin(lst, where, "lst")
    reference = scene.reference
    if reference is not None:
        reference = np.asarray(reference, float)
        if reference.shape != fine:
            raise DataError(
                f"{where}: reference has the shape {reference.shape}, expected {fine} as ndvi"
            )
        reference = _kelvin(reference, where, "reference") if np.isfinite(reference).any() else None
    return replace(scene, lst=lst, ndvi=_ndvi(ndvi, where), reference=reference)


def _kelvin(field: np.ndarray, where: str, name: str) -> np.ndarray:
    # zero and negative fill values must not pull the median of honest kelvin to Celsius
    positive = field[np.isfinite(field) & (field > 0)]
    typical = float(np.median(positive)) if positive.size else np.nan
    if typical < 100:
        raise DataError(
            f"{where}: {name} has a median of {typical:.1f}, which looks like Celsius; expected "
            "kelvin (add 273.15)"
        )
    if typical > 1000:
        raise DataError(
            f"{where}: {name} has a median of {typical:.0f}, which looks like raw counts; expected "
            "kelvin (MOD11A1 counts times 0.02, AST_08 counts times 0.1)"
        )
    known = np.isfinite(field) & (field >= COLDEST) & (field <= HOTTEST)
    if known.mean() < _MIN_KNOWN:
        raise DataError(
            f"{where}: only {known.mean():.0%} of {name} lies between {COLDEST:.0f} and "
            f"{HOTTEST:.0f} K, expected at least {_MIN_KNOWN:.0%}; leave the scene out"
        )
    return np.where(known, field, np.nan)


def _ndvi(field: np.ndarray, where: str) -> np.ndarray:
    finite = field[np.isfinite(field)]
    # MOD13Q1 marks no data by -3000 and stores NDVI times 10000
    if finite.size and np.percentile(np.abs(finite), 75) > 1.5:
        raise DataError(
            f"{where}: ndvi reaches {np.percentile(finite, 75):.0f}, expected [-1, 1] (MOD13Q1 "
            "counts times 0.0001)"
        )
    known = np.isfinite(field) & (np.abs(field) <= 1)
    if known.mean() < _MIN_KNOWN:
        raise DataError(
            f"{where}: only {known.mean():.0%} of ndvi is known, expected at least {_MIN_KNOWN:.0%}"
        )
    return np.where(known, field, np.nan)


def fill(field: np.ndarray) -> np.ndarray:
    """Give unknown pixels the value of the nearest known one."""
    unknown = ~np.isfinite(field)
    if not unknown.any() or unknown.all():
        return field
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return np.asarray(field[tuple(nearest)])


def coarsen(scene: Scene) -> Scene:
    """The same scene one scale up: its own LST is the truth, its flux aggregate the input."""
    return replace(
        scene,
        lst=sensor.aggregate_flux(scene.lst, FACTOR),
        ndvi=sensor.aggregate(scene.ndvi, FACTOR),
        reference=scene.lst,
        pixel_size=scene.pixel_size * FACTOR,
    )


def read(path: Path) -> list[Scene]:
    """Read and clean raw scenes.

    Parameters
    ----------
    path : Path
        An `.npz` (arrays lst, ndvi, reference, group; see `read_npz`) or a folder of GeoTIFFs (see
        `read_folder`).
    """
    path = Path(path)
    if path.is_dir():
        return [clean(scene) for scene in read_folder(path)]
    if not path.is_file():
        raise DataError(f"{path} is missing; expected an .npz file or a folder of GeoTIFFs")
    return [clean(scene) for scene in read_npz(path)]


def read_npz(path: Path) -> Iterator[Scene]:
    """Read scenes from the arrays of one file.

    Parameters
    ----------
    path : Path
        Arrays `lst` (n, h, w) and `ndvi` (n, 4h, 4w); optional: `reference` (n, 4h, 4w), `group`
        (n,), `scene` (n,) names, `pixel_size` (m, one number). The names lst_lr, ndvi_hr and
        aster_hr (Ait-Bachir et al. 2025) are understood, too.

    Raises
    ------
    DataError
        When the file is damaged or an array is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged or no .npz file of plain arrays ({error})") from error
    lst, ndvi, reference = (
        next((arrays[alias] for alias in known_as if alias in arrays), None)
        for known_as in _NAMES.values()
    )
    if lst is None or ndvi is None:
        raise DataError(
            f"{path} needs arrays lst and ndvi, it holds {', '.join(arrays) or 'nothing'}"
        )
    if "group" not in arrays:
        raise DataError(
            f"{path} has no array group (n,): which scenes show the same piece of ground? Without "
            "it the ground of the test would be learned in training"
        )
    group = arrays["group"]
    names = arrays.get("scene", np.arange(len(lst)))
    lengths = {len(lst), len(ndvi), len(group), len(names)}
    if len(lengths | ({len(reference)} if reference is not None else set())) != 1:
        raise DataError(f"{path}: its arrays differ in their number of scenes")
    for i in range(len(lst)):
        yield Scene(
            name=str(names[i]),
            group=str(group[i]),
            lst=lst[i],
            ndvi=ndvi[i],
            reference=None if reference is None else reference[i],
            pixel_size=float(arrays.get("pixel_size", MODIS_PIXEL)),
        )


def read_folder(folder: Path) -> Iterator[Scene]:
    """Read scenes from GeoTIFFs `<name>_lst.tif`, `<name>_ndvi.tif` and `<name>_reference.tif`.

    All three lie on nested grids; large ones are cut into scenes of 64 x 64 LST pixels. Scenes
    whose ground overlaps form a group, unless `groups.csv` (columns scene, group) says otherwise.

    Raises
    ------
    DataError
        When files are missing or a grid does not fit; the misfit is named in pixels.
    """
    files = sorted(Path(folder).glob("*_lst.tif"))
    if not files:
        raise DataError(f"{folder} holds no file *_lst.tif (beside *_ndvi.tif, *_reference.tif)")
    names = [file.name.removesuffix("_lst.tif") for file in files]
    groups = _groups(Path(folder), names)
    for name in names:
        yield from cut(_read_rasters(Path(folder), name, groups[name]))


def cut(scene: Scene, side: int = SIDE) -> Iterator[Scene]:
    """Cut a scene into squares of `side` LST pixels, counted from the upper left; the rest is left.

    Squares that are mostly unknown are left out.

    Raises
    ------
    DataError
        When the scene is smaller than one square.
    """
    height, width = scene.lst.shape
    if height < side or width < side:
        raise DataError(
            f"scene {scene.name} has {height} x {width} LST pixels, expected at least "
            f"{side} x {side}"
        )
    fine = side * FACTOR
    for i in range(height // side):
        for j in range(width // side):
            lst = scene.lst[i * side : (i + 1) * side, j * side : (j + 1) * side]
            box = np.s_[i * fine : (i + 1) * fine, j * fine : (j + 1) * fine]
            reference = None if scene.reference is None else scene.reference[box]
            useful = [lst] if reference is None else [lst, reference]
            # fill values are not positive; whatever else is wrong with them, `clean` says
            if any((field > 0).mean() < _MIN_KNOWN for field in useful):
                continue
            name = scene.name if (height, width) == (side, side) else f"{scene.name}_{i}_{j}"
            yield replace(scene, name=name, lst=lst, ndvi=scene.ndvi[box], reference=reference)


def _read_rasters(folder: Path, name: str, group: str) -> Scene:
    import rasterio

    fields: dict[str, np.ndarray] = {}
    with rasterio.open(folder / f"{name}_lst.tif") as coarse:
        fields["lst"] = read_band(coarse)
        for what in ("ndvi", "reference"):
            file = folder / f"{name}_{what}.tif"
            if not file.is_file():
                if what == "reference":
                    continue
                raise DataError(f"{file} is missing beside {name}_lst.tif")
            with rasterio.open(file) as fine:
                refuse_misfit(file, fine, coarse.transform, coarse.crs)
                fields[what] = read_band(fine)
        size = pixel_size(coarse)
    return Scene(name, group, fields["lst"], fields["ndvi"], fields.get("reference"), size)


def pixel_size(raster: Any) -> float:
    """Side of a pixel of an open raster, m; on a grid of degrees along the meridian."""
    side = float(abs(raster.transform.e))
    return side * METRES_PER_DEGREE if raster.crs and raster.crs.is_geographic else side


def read_band(raster: Any, **where: Any) -> np.ndarray:
    """First band of an open raster as floats, NaN where it says no data."""
    return np.asarray(raster.read(1, masked=True, **where).astype(float).filled(np.nan))


def refuse_misfit(file: Path, raster: Any, coarse: Any, crs: Any) -> None:
    """Raise a `DataError` when a raster does not divide the pixels of a coarse grid by four."""
    if raster.crs != crs:
        raise DataError(f"{file} is in {raster.crs}, its lst in {crs}; reproject it onto that grid")
    fine = raster.transform
    if not np.allclose([fine.a, fine.e], [coarse.a / FACTOR, coarse.e / FACTOR], rtol=1e-4):
        raise DataError(
            f"{file} has pixels of {fine.a:.2f} x {-fine.e:.2f}, expected {coarse.a / FACTOR:.2f}: "
            f"{FACTOR} times finer than its lst"
        )
    row = round((fine.f - coarse.f) / fine.e, 2) + 0.0  # no minus zero
    col = round((fine.c - coarse.c) / fine.a, 2) + 0.0
    if max(abs(row), abs(col)) > 0.1:
        raise DataError(
            f"{file} is off the grid of its lst by ({row:.2f}, {col:.2f}) of its pixels (row, "
            "col); expected the same upper left corner. Resample it onto that grid"
        )


def _groups(folder: Path, names: list[str]) -> dict[str, str]:
    """Group of each scene: as groups.csv says, or else by the ground that they share."""
    import rasterio
    from rasterio.warp import transform_bounds

    file = folder / "groups.csv"
    if file.is_file():
        table = pd.read_csv(file, dtype=str)
        missing = {"scene", "group"} - set(table)
        if missing:
            raise DataError(f"{file} lacks the columns {', '.join(sorted(missing))}")
        groups = dict(zip(table["scene"], table["group"], strict=True))
        unnamed = sorted(set(names) - set(groups))
        if unnamed:
            raise DataError(f"{file} gives no group for {', '.join(unnamed[:5])}")
        return groups
    bounds: dict[str, tuple[float, float, float, float]] = {}
    for name in names:
        with rasterio.open(folder / f"{name}_lst.tif") as raster:
            bounds[name] = (np.nan,) * 4
            if raster.crs is not None:
                bounds[name] = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds)
    return overlapping(bounds)


def overlapping(bounds: dict[str, tuple[float, float, float, float]]) -> dict[str, str]:
    """Name for each scene a group, such that scenes in different groups share no ground.

    Parameters
    ----------
    bounds : dict of str to (west, south, east, north)
        In one coordinate system. Unknown bounds (NaN) are refused.

    Raises
    ------
    DataError
        When a scene has no place.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = list(bounds)
    box = np.array([bounds[name] for name in names], dtype=float).reshape(-1, 4)
    lost = [name for name, place in zip(names, box, strict=True) if not np.isfinite(place).all()]
    if lost:
        raise DataError(
            f"the place of {', '.join(lost[:5])} is unknown (no coordinate system); say in "
            "groups.csv (scene,group) which scenes show the same ground"
        )
    low, high = box[:, None, :2], box[None, :, 2:]
    touch = (low < high).all(axis=2)
    one, other = np.nonzero(touch & touch.T)
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(names),) * 2)
    _, number = connected_components(graph, directed=False)
    return {name: f"ground{int(i):03d}" for name, i in zip(names, number, strict=True)}


def write_npz(path: Path, scenes: Sequence[Scene]) -> None:
    """Write scenes with references in the layout that `read_npz` reads."""
    temporary = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            np.savez(
                file,
                scene=[scene.name for scene in scenes],
                group=[scene.group for scene in scenes],
                lst=np.stack([scene.lst for scene in scenes]).astype(np.float32),
                ndvi=np.stack([scene.ndvi for scene in scenes]).astype(np.float32),
                reference=np.stack(
                    [np.asarray(scene.reference, dtype=np.float32) for scene in scenes]
                ),
                pixel_size=scenes[0].pixel_size,
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
