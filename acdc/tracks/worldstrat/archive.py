"""WorldStrat as published: 3,928 places, each with a SPOT 6/7 image and Sentinel-2 revisits.

Cornebise, Oršolić & Kalaitzis 2022 (doi:10.5281/zenodo.6810792 and, as v1.1, zenodo.15382551);
SPOT imagery CC BY-NC 4.0, the rest CC BY 4.0. A folder holds

    metadata.csv, stratified_train_val_test_split.csv
    hr_dataset/<AOI>/<AOI>_{ps,pan,rgbn}.tiff                  folder, .zip or .tar.gz
    lr_dataset/<AOI>/L2A/<AOI>-<n>-{L2A_data,CLM,...}.tiff      lr_dataset_l2a.zip or .tar.gz

The pictures may lie in one more wrapping folder. Folders and zip files are read place by place;
a tar.gz has no index, so `stage` unpacks it once, from front to back. Sentinel-2 files say where
they lie; SPOT files do not, their place is `bounds` of metadata.csv.

What is missing or broken is left out and told: `Archive.defects` for the tables, the second value
of `Archive.read` for a place's files.
"""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from acdc import archives
from acdc.errors import DataError

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SPOT_BANDS = ("red", "green", "blue", "nir")
METADATA, SPLIT = "metadata.csv", "stratified_train_val_test_split.csv"
SPLITS = ("train", "val", "test")
_HIGH, _LOW = ("hr_dataset",), ("lr_dataset_l2a", "lr_dataset")
_TAR, _ZIP = (".tar.gz", ".tgz"), ".zip"
# tiles of these sources are cut out of one larger image each: <site>-<row>-<col>
_TILED = re.compile(r"^((?:Amnesty|ASMSpotter).*)-\d+-\d+$")
_REVISIT = re.compile(r"^(.+)-(\d+)-(L2A_data|CLM|CLP|dataMask)\.tiff?$")
_NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
_NEIGHBOUR = 0.005  # degrees of latitude, some 550 m
# CLP runs to 252; Sentinel Hub's own CLM is CLP above 40 %
_CLOUDY_CLP = 0.4 * 255
_LEAST_SIDE = 16
_LARGEST = 256 << 20  # bytes; a _ps file has 9 MB


@dataclass(frozen=True)
class Place:
    """What the tables say of one area of interest.

    Attributes
    ----------
    name : str
        The published AOI; may hold spaces and dashes.
    site : str
        Places of one site are neighbours: never divide them.
    split : str
        train, val or test, one for the whole site; "" if the split file does not know the place.
    bounds : tuple of float
        west, south, east, north of the SPOT image, degrees.
    days : dict of int to float
        Revisit number to days from the SPOT image (negative: before); NaN unknown.
    labels : dict of str to str
        IPCC, SMOD and LCCS class as published; "" unknown.
    """

    name: str
    site: str
    split: str
    bounds: tuple[float, float, float, float]
    days: dict[int, float]
    labels: dict[str, str]


@dataclass(frozen=True)
class Revisit:
    """One Sentinel-2 L2A image.

    Attributes
    ----------
    n : int
        Its number, from 1.
    days : float
        From the SPOT image; NaN unknown.
    bands : ndarray of float32 (12, h, w)
        Reflectance in the order of `BANDS`; NaN where there is no data.
    clear : ndarray of bool (h, w)
        Neither cloud nor fill value.
    transform : tuple of float
        rasterio's a, b, c, d, e, f: pixel corners to `crs`.
    crs : str
    """

    n: int
    days: float
    bands: np.ndarray
    clear: np.ndarray
    transform: tuple[float, float, float, float, float, float]
    crs: str


@dataclass(frozen=True)
class Raw:
    """All images of a place.

    Attributes
    ----------
    place : Place
    spot : ndarray of uint16 (4, H, W)
        Pan-sharpened red, green, blue, near infrared, about 1.5 m; 0 is no data. Counts of about
        reflectance x 10,000; whether exactly is unknown.
    transform : tuple of float
        rasterio's a, b, c, d, e, f: SPOT's pixel corners to degrees, from `Place.bounds`.
    revisits : tuple of Revisit
        Rising n.
    """

    place: Place
    spot: np.ndarray
    transform: tuple[float, float, float, float, float, float]
    revisits: tuple[Revisit, ...]


@dataclass(frozen=True)
class Defect:
    """Something in the data that is not as it should be.

    Attributes
    ----------
    place : str
    what : str
        A file, or the table in question.
    reason : str
    dropped : bool
        Whether it (a revisit, or with `what` ps, the place) was left out for that.
    """

    place: str
    what: str
    reason: str
    dropped: bool


class _Files(Protocol):
    def find(self, place: str) -> dict[str, str]: ...

    def read(self, member: str) -> bytes: ...


class Archive:
    """WorldStrat in one folder: tables read, images read place by place.

    It pickles as its path, so workers of a cluster open it themselves.

    Parameters
    ----------
    root : Path
        Holds metadata.csv, the split file (optional), and hr_dataset and lr_dataset as folders,
        zip files or, once they are staged, tar.gz.

    Attributes
    ----------
    places : dict of str to Place
        In the order of metadata.csv.
    defects : list of Defect
        Those of the tables.

    Raises
    ------
    DataError
        When a table or the images are missing, or a tar.gz is not staged.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.places, self.defects = read_tables(self.root)
        self._high = self._open(_HIGH)
        self._low = self._open(_LOW)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root,)

    def _open(self, names: tuple[str, ...]) -> _Files:
        for name in names:
            folder = self.root / name
            if folder.is_dir():
                return _Folder(folder, self.places)
        for name in names:
            file = self.root / (name + _ZIP)
            if file.is_file():
                return _Zip(file)
        tar = [self.root / (n + s) for n in names for s in _TAR if (self.root / (n + s)).is_file()]
        if tar:
            raise DataError(
                f"{tar[0]} has no index and can't be read place by place; unpack it once by "
                "acdc.tracks.worldstrat.archive.stage"
            )
        tried = ", ".join(f"{name}{end}" for name in names for end in ("/", _ZIP, _TAR[0]))
        raise DataError(f"{self.root} holds none of {tried}; download WorldStrat into it")

    def read(self, name: str) -> tuple[Raw | None, list[Defect]]:
        """Read all images of a place.

        Parameters
        ----------
        name : str
            Key of `places`.

        Returns
        -------
        Raw or None
            None when the place can't be used: no SPOT image or no readable revisit.
        list of Defect
            What was left out or replaced, and why.
        """
        place = self.places[name]
        defects: list[Defect] = []
        spot = _read_spot(self._high, name, defects)
        if spot is None:
            return None, defects
        revisits = tuple(_read_revisits(self._low, place, defects))
        if not revisits:
            defects.append(Defect(name, "L2A", "no readable revisit", True))
            return None, defects
        west, south, east, north = place.bounds
        height, width = spot.shape[1:]
        transform = ((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)
        return Raw(place, spot, transform, revisits), defects


def stage(root: Path, *, progress: bool = False) -> None:
    """Unpack each tar.gz beside itself, in one pass; what is unpacked already is left alone.

    An interrupted pass starts that archive anew: it can't be entered in the middle.

    Raises
    ------
    DownloadError
        When an archive is damaged or hostile.
    """
    for name in (*_HIGH, *_LOW):
        for ending in _TAR:
            file, folder = Path(root) / (name + ending), Path(root) / name
            if not file.is_file() or folder.is_dir():
                continue
            part = folder.with_name(name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                archives.unpack(file, part, progress=progress)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)


def read_tables(root: Path) -> tuple[dict[str, Place], list[Defect]]:
    """Read metadata.csv and the split file of either release.

    Parameters
    ----------
    root : Path
        Their folder.

    Returns
    -------
    dict of str to Place
    list of Defect
        Places without bounds (left out), tiles listed twice, in two splits or unknown, sites that
        the published split divides (put whole where most of their tiles are, train at a tie).

    Raises
    ------
    DataError
        When metadata.csv is missing, damaged or lacks a column.
    """
    table = _metadata(Path(root) / METADATA)
    defects: list[Defect] = []
    bounds: dict[str, tuple[float, float, float, float]] = {}
    rows: dict[str, pd.DataFrame] = {}
    for name, part in table.groupby("tile", sort=False):
        found = parse_bounds(str(part["bounds"].iloc[0]))
        if found is None:
            said = str(part["bounds"].iloc[0])[:60]
            reason = f"bounds {said!r} are no west, south, east, north in degrees"
            defects.append(Defect(str(name), METADATA, reason, True))
            continue
        repeated = part["n"][part["n"].duplicated()].tolist()
        if repeated:
            reason = f"revisits {sorted(set(repeated))} stand there twice; the first counts"
            defects.append(Defect(str(name), METADATA, reason, False))
        bounds[str(name)] = found
        rows[str(name)] = part.drop_duplicates("n")
    site = group_sites(bounds)
    listed = _split_table(Path(root) / SPLIT)
    split = _split_by_site(site, listed, defects)
    places = {
        name: Place(
            name=name,
            site=site[name],
            split=split.get(site[name], ""),
            bounds=bounds[name],
            days=dict(zip(part["n"].astype(int), part["days"].astype(float), strict=True)),
            labels={
                label: _text(part, column)
                for label, column in (("ipcc", "IPCC Class"), ("smod", "SMOD"), ("lccs", "LCCS"))
            },
        )
        for name, part in rows.items()
    }
    if not places:
        raise DataError(f"{Path(root) / METADATA} describes no place with bounds")
    return places, defects


def _metadata(file: Path) -> pd.DataFrame:
    table = _read_csv(file)
    if "tile" not in table:
        # the first release has the names in a first column without a name
        table = table.rename(columns={table.columns[0]: "tile"})
    missing = {"n", "bounds", "lowres_date", "highres_date"} - set(table)
    if missing:
        raise DataError(
            f"{file} lacks the columns {', '.join(sorted(missing))}; expected WorldStrat's"
        )
    numbers = pd.to_numeric(table["n"], errors="coerce")
    if numbers.isna().any() or table["tile"].isna().any():
        row = int(np.flatnonzero(numbers.isna() | table["tile"].isna())[0]) + 2
        raise DataError(f"{file}, line {row}: expected a tile and a revisit number n")
    table["n"] = numbers.astype(int)
    low, high = (
        pd.to_datetime(table[c], errors="coerce", utc=True, format="mixed")
        for c in ("lowres_date", "highres_date")
    )
    days = (low - high).dt.total_seconds() / 86400
    if "delta" in table:
        days = days.fillna(pd.to_numeric(table["delta"], errors="coerce"))
    table["days"] = days
    return table


def _read_csv(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise DataError(f"{file} is missing; it belongs to the WorldStrat download")
    try:
        table = pd.read_csv(file, dtype=str, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is damaged or no table ({error})") from error
    return table


def _split_table(file: Path) -> pd.DataFrame:
    if not file.is_file():
        return pd.DataFrame({"tile": [], "split": []}, dtype=str)
    table = _read_csv(file)
    missing = {"tile", "split"} - set(table)
    if missing:
        raise DataError(f"{file} lacks the columns {', '.join(sorted(missing))}")
    unknown = set(table["split"].dropna()) - set(SPLITS)
    if unknown:
        raise DataError(f"{file}: unknown split {sorted(unknown)[0]!r}, expected {SPLITS}")
    return table.dropna(subset=["tile", "split"])


def _split_by_site(
    site: dict[str, str], listed: pd.DataFrame, defects: list[Defect]
) -> dict[str, str]:
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for tile, part in listed.groupby("tile", sort=False):
        name, stated = str(tile), list(dict.fromkeys(part["split"]))
        if name not in site:
            defects.append(Defect(name, SPLIT, f"is not in {METADATA}", True))
            continue
        if len(part) > 1:
            reason = f"stands there {len(part)} times, in {' and '.join(stated)}"
            defects.append(Defect(name, SPLIT, reason, False))
        votes[site[name]].update(stated)
    chosen = {}
    for name, count in votes.items():
        chosen[name] = max(SPLITS, key=lambda split: count[split])
        if len(count) > 1:
            reason = f"its tiles are in {' and '.join(sorted(count))}; all go to {chosen[name]}"
            defects.append(Defect(name, SPLIT, reason, False))
    for name in sorted(set(site) - set(listed["tile"])):
        defects.append(Defect(name, SPLIT, "has no split", False))
    return chosen


def _text(part: pd.DataFrame, column: str) -> str:
    value = part[column].iloc[0] if column in part else None
    return "" if pd.isna(value) else str(value)


def parse_bounds(text: str) -> tuple[float, float, float, float] | None:
    """West, south, east, north in degrees out of four numbers or a WKT polygon; None if neither.

    Examples
    --------
    >>> parse_bounds("(7.1, 46.0, 7.2, 46.1)")
    (7.1, 46.0, 7.2, 46.1)
    >>> parse_bounds("POLYGON ((7.1 46, 7.2 46, 7.2 46.1, 7.1 46.1, 7.1 46))")
    (7.1, 46.0, 7.2, 46.1)
    """
    numbers = [float(number) for number in _NUMBER.findall(text)]
    if len(numbers) == 4:
        west, south, east, north = numbers
    elif len(numbers) >= 8 and len(numbers) % 2 == 0:
        lon, lat = numbers[::2], numbers[1::2]
        west, south, east, north = min(lon), min(lat), max(lon), max(lat)
    else:
        return None
    possible = -180 <= west < east <= 180 and -90 <= south < north <= 90
    return (west, south, east, north) if possible else None


def group_sites(bounds: dict[str, tuple[float, float, float, float]]) -> dict[str, str]:
    """Name a site for each place, such that neighbours share one.

    Neighbours are tiles that by their names were cut out of one image (Amnesty, ASMSpotter), and
    places less than some 500 m apart.

    Parameters
    ----------
    bounds : dict of str to (west, south, east, north)
        Degrees.

    Returns
    -------
    dict of str to str
        Place to site, which is named after its first place.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = list(bounds)
    box = np.array([bounds[name] for name in names]).reshape(-1, 4)
    stretch = 1 / np.maximum(np.cos(np.radians(box[:, 1:4:2]).mean(axis=1)), 0.05)
    margin = _NEIGHBOUR * np.stack([stretch, np.ones(len(box))], axis=1)
    low, high = box[:, :2] - margin, box[:, 2:]
    by_name: dict[str, int] = {}
    one, other = [], []
    for i, name in enumerate(names):
        near = np.flatnonzero(((low[i] <= high) & (box[:, :2] <= high[i] + margin[i])).all(axis=1))
        match = _TILED.match(name)
        first = by_name.setdefault(match.group(1) if match else name, i)
        other += [*near.tolist(), first]
        one += [i] * (len(near) + 1)
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(names),) * 2)
    _, number = connected_components(graph, directed=False)
    title: dict[int, str] = {}
    for i, name in enumerate(names):
        match = _TILED.match(name)
        title.setdefault(int(number[i]), match.group(1) if match else name)
    return {name: title[int(number[i])] for i, name in enumerate(names)}


class _Folder:
    """Files of extracted archives, found place by place."""

    def __init__(self, folder: Path, places: dict[str, Place]) -> None:
        self.bases = [base for base in _wrapped(folder) if _holds_place(base, places)] or [folder]

    def find(self, place: str) -> dict[str, str]:
        files: dict[str, str] = {}
        for base in self.bases:
            for folder in (base / place, base / place / "L2A"):
                if folder.is_dir():
                    files |= {file.name: str(file) for file in folder.iterdir()}
        return files

    def read(self, member: str) -> bytes:
        _refuse_huge(member, Path(member).stat().st_size)
        return Path(member).read_bytes()


def _wrapped(folder: Path) -> Iterator[Path]:
    """The folder and, where it holds but few folders, those in it: there lies what is wrapped."""
    yield folder
    inner = [path for path in folder.iterdir() if path.is_dir()]
    if len(inner) <= 3:
        for path in inner:
            yield from _wrapped(path)


def _holds_place(folder: Path, places: dict[str, Place]) -> bool:
    return any(path.name in places for path in folder.iterdir() if path.is_dir())


class _Zip:
    """Files of a zip archive, found by its index."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.members: dict[str, dict[str, str]] = defaultdict(dict)
        try:
            self.zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{file} is damaged or no zip archive ({error})") from error
        for member in self.zip.namelist():
            *parents, name = member.split("/")
            # L1C has cloud masks of its own; what is read here is L2A
            if name and parents and parents[-1] != "L1C":
                folder = parents[-2] if parents[-1] == "L2A" and len(parents) > 1 else parents[-1]
                self.members[folder][name] = member

    def find(self, place: str) -> dict[str, str]:
        return self.members.get(place, {})

    def read(self, member: str) -> bytes:
        _refuse_huge(member, self.zip.getinfo(member).file_size)
        return self.zip.read(member)


def _refuse_huge(member: str, size: int) -> None:
    if size > _LARGEST:
        raise OSError(f"{member} has {size} bytes, more than any file of WorldStrat")


def _read_spot(files: _Files, name: str, defects: list[Defect]) -> np.ndarray | None:
    found = files.find(name)
    member = found.get(f"{name}_ps.tiff") or found.get(f"{name}_ps.tif")
    if member is None:
        defects.append(Defect(name, "ps", "SPOT image is missing", True))
        return None
    read = _read_tiff(files, member)
    reason = read if isinstance(read, str) else _spot_fault(read[0])
    if reason:
        defects.append(Defect(name, "ps", reason, True))
        return None
    assert not isinstance(read, str)
    return read[0].astype(np.uint16)


def _spot_fault(image: np.ndarray) -> str:
    if len(image) != 4 or min(image.shape[1:]) < _LEAST_SIDE:
        return f"has {image.shape} bands, rows, columns; expected 4 bands"
    if not np.issubdtype(image.dtype, np.integer) or image.min() < 0 or image.max() > 65535:
        return f"holds {image.dtype}, expected counts of 16 bits"
    if image.max() <= 255:
        return "has no count above 255: a picture of 8 bits, not the 12-bit one"
    return ""


def _read_revisits(files: _Files, place: Place, defects: list[Defect]) -> Iterator[Revisit]:
    parts: dict[int, dict[str, str]] = defaultdict(dict)
    for name, member in files.find(place.name).items():
        match = _REVISIT.match(name)
        if match and match.group(1) == place.name:
            parts[int(match.group(2))][match.group(3)] = member
    for n in sorted(set(place.days) | set(parts)):
        what = f"L2A {n}"
        if "L2A_data" not in parts[n]:
            defects.append(Defect(place.name, what, "is missing", True))
            continue
        read = _read_tiff(files, parts[n]["L2A_data"])
        reason = read if isinstance(read, str) else _sentinel_fault(read[0])
        if reason:
            defects.append(Defect(place.name, what, reason, True))
            continue
        assert not isinstance(read, str)
        bands, transform, crs = read
        if transform is None or not crs:
            defects.append(Defect(place.name, what, "has no georeference", True))
            continue
        bands = bands.astype(np.float32)
        # where nothing was measured all bands are 0
        bands[:, ~(np.isfinite(bands).all(axis=0) & (bands != 0).any(axis=0))] = np.nan

        def tell(reason: str, what: str = what) -> None:
            defects.append(Defect(place.name, what, reason, False))

        clear = _clear(files, parts[n], bands, tell)
        yield Revisit(n, place.days.get(n, np.nan), bands, clear, transform, crs)


def _sentinel_fault(image: np.ndarray) -> str:
    if image.ndim != 3 or len(image) != len(BANDS) or min(image.shape[1:]) < _LEAST_SIDE:
        return f"has {image.shape} bands, rows, columns; expected the {len(BANDS)} of L2A"
    known = image[np.isfinite(image) & (image > 0)]
    if not known.size:
        return "is empty"
    typical = float(np.median(known))
    if typical > 100:
        return f"has a median of {typical:.0f}: digital numbers; expected reflectance (/ 10,000)"
    if typical > 2:
        return f"has a median of {typical:.1f}: percent; expected reflectance (/ 100)"
    return ""


def _clear(
    files: _Files, parts: dict[str, str], bands: np.ndarray, tell: Callable[[str], None]
) -> np.ndarray:
    """Where a revisit shows the ground, by its masks or, without, by its brightness."""
    shape = bands.shape[1:]
    clear = np.isfinite(bands[0])
    data = _mask(files, parts, "dataMask", shape, tell)
    if data is not None:
        clear &= data > 0
    cloud = _mask(files, parts, "CLM", shape, tell)
    if cloud is not None:
        return clear & (cloud == 0)
    probability = _mask(files, parts, "CLP", shape, tell)
    if probability is not None:
        tell("has no CLM; clouds are where CLP is above 40 %")
        return clear & (probability <= _CLOUDY_CLP)
    tell("has neither CLM nor CLP; clouds are what is bright (Braaten et al. 2015)")
    green, red = (np.nan_to_num(bands[BANDS.index(name)]) for name in ("B03", "B04"))
    return clear & ~((green > 0.39) | ((green > 0.175) & (green > red)))


def _mask(
    files: _Files,
    parts: dict[str, str],
    kind: str,
    shape: tuple[int, ...],
    tell: Callable[[str], None],
) -> np.ndarray | None:
    if kind not in parts:
        return None
    read = _read_tiff(files, parts[kind])
    if isinstance(read, str):
        tell(f"has a broken {kind}: {read}")
        return None
    mask = read[0][0]
    if mask.shape == shape:
        return mask
    row, col = ((np.arange(n) + 0.5) * have // n for n, have in zip(shape, mask.shape, strict=True))
    return np.asarray(mask[row.astype(int)[:, None], col.astype(int)])


def _read_tiff(
    files: _Files, member: str
) -> tuple[np.ndarray, tuple[float, float, float, float, float, float] | None, str] | str:
    """Bands, transform (None: not stated) and crs of a GeoTIFF, or what is wrong with it."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        data = files.read(member)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.MemoryFile(data) as memory, memory.open() as raster:
                crs = raster.crs.to_string() if raster.crs else ""
                stated = None if raster.transform.is_identity else raster.transform
                bands = raster.read()
    except (RasterioError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return f"can't be read ({error})"
    if stated is None:
        return bands, None, crs
    return bands, (stated.a, stated.b, stated.c, stated.d, stated.e, stated.f), crs
