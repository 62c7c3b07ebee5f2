"""Scenes from the products themselves: MOD11A1 and MOD13Q1 (MODIS) and AST_08 (ASTER), one moment.

MOD11A1 v061: daily LST, tiles of 1200 x 1200 pixels of 926.6 m on the sinusoidal grid, counts
times 0.02 are kelvin, 0 is no data. MOD13Q1 v061: NDVI of 16 days, 4800 x 4800 pixels of 231.7 m on
the same tiles, so that 4 x 4 divide one of LST; counts times 0.0001, -3000 is no data. AST_08:
surface kinetic temperature at 90 m, 60 x 60 km, counts times 0.1 are kelvin, 0 is no data. Terra
carries both instruments, so what they see is simultaneous. All three come from NASA's LP DAAC, free
after registration.

Files are found by their names; HDF-EOS files are read through GDAL's HDF4 driver where there is
one. Many builds have none: the layers exported as GeoTIFF, whose names keep the product's name and
add the layer's, serve as well (`gdal_translate` of one layer, or what AppEEARS delivers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from acdc.errors import DataError
from acdc.tracks.lst.scenes import (
    FACTOR,
    SIDE,
    Scene,
    clean,
    overlapping,
    pixel_size,
    read_band,
    refuse_misfit,
)

_LAYERS = {
    "MOD11A1": ("LST_Day_1km", 0.02),
    "MOD13Q1": ("250m_16_days_NDVI", 0.0001),
    "AST_08": ("KineticTemperature", 0.1),
}
_COMPOSITE = timedelta(days=16)
_COVERED = 0.25


@dataclass(frozen=True)
class Product:
    """One file of a product.

    Attributes
    ----------
    file : Path
    kind : str
        MOD11A1, MOD13Q1 or AST_08.
    day : date
        When it was seen; the first day of a composite.
    tile : str
        hXXvYY of the sinusoidal grid, "" where the name does not say.
    """

    file: Path
    kind: str
    day: date
    tile: str


def read(folder: Path) -> list[Scene]:
    """Cut a scene of 64 x 64 LST pixels around every ASTER image that MODIS saw on the same day.

    Parameters
    ----------
    folder : Path
        MOD11A1, MOD13Q1 and AST_08 files (HDF-EOS or single layers as GeoTIFF), at any depth.

    Returns
    -------
    list of Scene
        Clean; scenes that share ground have one group.

    Raises
    ------
    DataError
        When a product is missing, can't be read, or no image of ASTER has its MODIS partners.
    """
    products = find(Path(folder))
    scenes, bounds = [], {}
    for aster in products["AST_08"]:
        for lst in products["MOD11A1"]:
            ndvi = _composite(products["MOD13Q1"], lst)
            if lst.day != aster.day or ndvi is None:
                continue
            found = _cut(aster, lst, ndvi)
            if found is not None:
                scene, bounds[scene.name] = found
                scenes.append(scene)
    if not scenes:
        raise DataError(
            f"{folder}: no AST_08 image lies on a MOD11A1 file of the same day with a MOD13Q1 file "
            "of its 16 days on the same tile"
        )
    groups = overlapping(bounds)
    return [clean(replace(scene, group=groups[scene.name])) for scene in scenes]


def find(folder: Path) -> dict[str, list[Product]]:
    """Find product files by their names, as published or as AppEEARS writes them.

    Raises
    ------
    DataError
        When one of the three products is missing.
    """
    found: dict[str, list[Product]] = {kind: [] for kind in _LAYERS}
    for file in sorted(Path(folder).rglob("*")):
        product = _parse(file)
        if product is not None:
            found[product.kind].append(product)
    missing = [kind for kind, products in found.items() if not products]
    if missing:
        raise DataError(
            f"{folder} holds no {' and no '.join(missing)}; expected names like "
            "MOD11A1.A2019182.h18v04.061.*.hdf, MOD13Q1.A2019177.h18v04.061.*.hdf, "
            "AST_08_00307012019104530_*.hdf, or GeoTIFFs of the layers "
            f"{', '.join(layer for layer, _ in _LAYERS.values())} named NAME.LAYER.tif"
        )
    return found


def _parse(file: Path) -> Product | None:
    kind = next((kind for kind in _LAYERS if file.name.startswith(kind)), None)
    if kind is None or file.suffix.lower() not in (".hdf", ".tif", ".tiff"):
        return None
    if file.suffix.lower() != ".hdf" and _LAYERS[kind][0] not in file.name:
        return None
    tile = re.search(r"h\d\dv\d\d", file.name)
    if kind == "AST_08":
        # AST_08_ and three digits of the version, then month, day, year, hour, minute, second
        when, layout = re.search(r"AST_08_\d{3}(\d{8})", file.name), "%m%d%Y"
    else:
        when, layout = re.search(r"(?:A|doy)(\d{7})", file.name), "%Y%j"
    if when is None:
        raise DataError(f"{file}: the name tells no date; keep the names under which it came")
    day = datetime.strptime(when.group(1), layout).date()
    return Product(file, kind, day, tile.group() if tile else "")


def _composite(candidates: list[Product], lst: Product) -> Product | None:
    """The composite of the 16 days in which a day lies, on the same tile."""
    for ndvi in candidates:
        same = not (ndvi.tile and lst.tile) or ndvi.tile == lst.tile
        if same and timedelta(0) <= lst.day - ndvi.day < _COMPOSITE:
            return ndvi
    return None


def _cut(
    aster: Product, lst: Product, ndvi: Product
) -> tuple[Scene, tuple[float, float, float, float]] | None:
    """Scene around an image and its bounds; None where it lies (nearly) beside the tile."""
    from rasterio.windows import Window, bounds

    with _open(lst) as coarse, _open(ndvi) as fine, _open(aster) as image:
        row, col = _centre(image, coarse)
        row0, col0 = (round(c) - SIDE // 2 for c in (row, col))
        row0 = min(max(row0, 0), coarse.height - SIDE)
        col0 = min(max(col0, 0), coarse.width - SIDE)
        if row0 < 0 or col0 < 0 or max(abs(row - row0), abs(col - col0)) > 2 * SIDE:
            return None
        window = Window(col0, row0, SIDE, SIDE)
        refuse_misfit(ndvi.file, fine, coarse.transform, coarse.crs)
        nested = Window(*(FACTOR * n for n in (col0, row0, SIDE, SIDE)))
        finer = fine.window_transform(nested)
        reference = _average_flux(image, aster, finer, fine.crs)
        if np.isfinite(reference).mean() < _COVERED:
            return None
        scene = Scene(
            name=f"{aster.file.name.split('.')[0]}_{lst.tile or lst.day}",
            group="",
            lst=_values(coarse, lst, window),
            ndvi=_values(fine, ndvi, nested),
            reference=reference,
            pixel_size=pixel_size(coarse),
        )
        return scene, bounds(window, coarse.transform)


def _open(product: Product) -> Any:
    """Open the layer of a product that is wanted."""
    import rasterio
    from rasterio.errors import RasterioIOError

    layer = _LAYERS[product.kind][0]
    file = product.file
    if file.suffix.lower() == ".hdf":
        with rasterio.Env() as environment:
            if "HDF4" not in environment.drivers():
                raise DataError(
                    f"{file} is HDF4, which GDAL {rasterio.__gdal_version__} of this rasterio "
                    "can't read. Use a build with HDF4 (conda-forge has one), or export the layer "
                    f"{layer} as {file.stem}.{layer}.tif beside it and take the .hdf away"
                )
    try:
        if file.suffix.lower() != ".hdf":
            return rasterio.open(file)
        with rasterio.open(file) as container:
            layers = [name for name in container.subdatasets if _is_layer(name, layer)]
        if not layers:
            raise DataError(f"{file} has no layer {layer}; is it a whole {product.kind} file?")
        return rasterio.open(layers[0])
    except RasterioIOError as error:
        raise DataError(f"{file} can't be read ({error}); fetch it again") from error


def _is_layer(subdataset: str, layer: str) -> bool:
    return subdataset.replace(" ", "_").endswith(layer)


def _values(raster: Any, product: Product, window: Any = None) -> np.ndarray:
    """Kelvin or NDVI: counts are scaled, physical values (floats) are left."""
    values = read_band(raster, window=window)
    if np.issubdtype(np.dtype(raster.dtypes[0]), np.integer):
        # the file's own scale is not used: MOD13Q1 states the inverse of what it means
        values = np.where(values == _no_data(product), np.nan, values)
        values = values * _LAYERS[product.kind][1]
    return values


def _no_data(product: Product) -> int:
    return -3000 if product.kind == "MOD13Q1" else 0


def _centre(image: Any, coarse: Any) -> tuple[float, float]:
    """Where the middle of an ASTER image lies, in pixels of a MODIS tile."""
    from rasterio.transform import rowcol, xy
    from rasterio.warp import transform

    points, crs = image.gcps
    if image.crs is None and points:
        x, y = float(np.mean([p.x for p in points])), float(np.mean([p.y for p in points]))
    else:
        crs = image.crs
        x, y = xy(image.transform, image.height / 2, image.width / 2, offset="ul")
    if crs is None:
        raise DataError(f"{image.name} says nothing about where it lies; export it with its grid")
    xs, ys = transform(crs, coarse.crs, [x], [y])
    (row,), (col,) = rowcol(coarse.transform, xs, ys, op=float)
    return row, col


def _average_flux(image: Any, aster: Product, transform: Any, crs: Any) -> np.ndarray:
    """ASTER on the fine grid of a scene: the mean of T^4 over what lies in a pixel."""
    from rasterio.warp import Resampling, reproject

    values = _values(image, aster)
    known = np.isfinite(values) & (values > 0)
    flux = np.where(known, values, np.nan) ** 4
    side = SIDE * FACTOR
    target = np.full((side, side), np.nan)
    points, point_crs = image.gcps
    by_points = image.crs is None and bool(points)
    reproject(
        flux,
        target,
        src_transform=None if by_points else image.transform,
        src_crs=point_crs if by_points else image.crs,
        gcps=points if by_points else None,
        src_nodata=np.nan,
        dst_transform=transform,
        dst_crs=crs,
        dst_nodata=np.nan,
        resampling=Resampling.average,
    )
    return np.sqrt(np.sqrt(target))
