"""Crater catalogues of Mars: whose columns they carry decides how they are read.

Lagain et al. 2021 (Mars Crater Database, a review of Robbins & Hynek 2012)
    CRATER_ID; X, Y in degrees; RADIUS in metres; TYPE 1 valid, 2 layered ejecta, 3 ghost, 4
    secondary, 5 misidentified; LRD_MORPH (type of layered ejecta). CSV, or GeoJSON (.json,
    .geojson, also zipped), where X and Y may stand in the geometry alone. The case of the keys
    varies.
Robbins & Hynek 2012 (384,343 craters of at least 1 km)
    CRATER_ID, LATITUDE_CIRCLE_IMAGE, LONGITUDE_CIRCLE_IMAGE in degrees, DIAM_CIRCLE_IMAGE in km,
    DEGRADATION_STATE (1 heavily degraded to 4 fresh), MORPHOLOGY_EJECTA_1. Tab separated, latin-1.

Latitudes are planetocentric and longitudes run eastward, -180 to 180 or 0 to 360, as both
catalogues have them.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from acdc.errors import DataError

# TYPE of Lagain et al. 2021 -> index into tiles.KINDS; misidentified ones keep kind 0 and a flag
_KIND_OF_TYPE = {1: 0, 2: 1, 3: 2, 4: 3, 5: 0}
_MISIDENTIFIED = 5
# no crater on Mars is wider than Utopia, some 3,300 km
_LARGEST_RADIUS = 2.0e6
_LAGAIN = ("X", "Y", "RADIUS", "TYPE")
_ROBBINS = ("LATITUDE_CIRCLE_IMAGE", "LONGITUDE_CIRCLE_IMAGE", "DIAM_CIRCLE_IMAGE")


def read_catalogue(path: Path) -> pd.DataFrame:
    """Read a crater catalogue, recognised by its columns.

    Parameters
    ----------
    path : Path
        CSV or tab-separated text, GeoJSON, or a zip archive or gzip file that holds one of these.

    Returns
    -------
    craters : DataFrame
        crater_id (str), lon (degrees east, -180 to below 180), lat (planetocentric degrees), radius
        (metres), kind (int, index into `tiles.KINDS`; 0 where the catalogue tells no kinds), flag
        (1: misidentified, to be ignored; else 0), degradation (1 heavily degraded to 4 fresh, NaN
        unknown), ejecta (str, "" unknown); in the order of the file.

    Raises
    ------
    DataError
        When the file cannot be read, its columns belong to no known catalogue, or a value is
        impossible; the message names the file, the row (line of the file for text) and column.
    """
    path = Path(path)
    table, first_row = _read_table(path)
    names: dict[str, str] = {}
    for column in table.columns:
        key = str(column).strip().upper()
        if key in names:
            raise DataError(
                f"{path}: the columns {names[key]!r} and {column!r} differ only in their case; "
                "remove one of them."
            )
        names[key] = str(column)
    table.columns = pd.Index(list(names))
    check = _Checked(path, table, first_row, names)
    # Lagain's review may carry Robbins' columns along; its TYPE says more
    if set(_LAGAIN) <= set(names):
        craters = _lagain(check)
    elif set(_ROBBINS) <= set(names):
        craters = _robbins(check)
    else:
        raise DataError(_unknown_columns(path, names))
    craters["lon"] = (craters["lon"] + 180) % 360 - 180
    return craters


class _Checked:
    """Columns of a raw table as numbers, or an error that says where the bad one stands."""

    def __init__(
        self, path: Path, table: pd.DataFrame, first_row: int, names: dict[str, str]
    ) -> None:
        self.path, self.table, self.first_row, self.names = path, table, first_row, names

    def number(self, key: str, low: float, high: float, expected: str) -> np.ndarray:
        raw = self.table[key]
        values = pd.to_numeric(raw, errors="coerce").to_numpy(dtype=float)
        bad = ~((values >= low) & (values <= high))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{self.path}, row {first + self.first_row}, column {self.names[key]}: "
                f"{raw.iloc[first]!r} is impossible; expected {expected}"
                f" ({int(bad.sum())} such rows in all)."
            )
        return values

    def optional_number(self, key: str) -> np.ndarray:
        if key not in self.table:
            return np.full(len(self.table), np.nan)
        return pd.to_numeric(self.table[key], errors="coerce").to_numpy(dtype=float)

    def text(self, key: str) -> np.ndarray:
        if key not in self.table:
            return np.full(len(self.table), "", dtype=object)
        values = self.table[key].astype(object)
        return values.where(values.notna(), "").astype(str).str.strip().to_numpy(dtype=object)

    def identity(self) -> np.ndarray:
        texts = self.text("CRATER_ID")
        rows = np.arange(len(texts)) + self.first_row
        return np.array([t or f"row {r}" for t, r in zip(texts, rows, strict=True)], dtype=object)


def _lagain(check: _Checked) -> pd.DataFrame:
    type_ = check.number("TYPE", 1, 5, "1 valid, 2 layered, 3 ghost, 4 secondary or 5 ignored")
    if (type_ != np.rint(type_)).any():
        first = int(np.flatnonzero(type_ != np.rint(type_))[0])
        raise DataError(
            f"{check.path}, row {first + check.first_row}, column {check.names['TYPE']}: "
            f"{type_[first]} is no whole number from 1 to 5."
        )
    radius = check.number(
        "RADIUS", np.nextafter(0, 1), _LARGEST_RADIUS, "metres above 0, below 2,000 km"
    )
    _refuse_another_unit(check, radius)
    return pd.DataFrame(
        {
            "crater_id": check.identity(),
            "lon": check.number("X", -180, 360, "degrees east, -180 to 360"),
            "lat": check.number("Y", -90, 90, "degrees north, -90 to 90"),
            "radius": radius,
            "kind": pd.Series(type_.astype(int)).map(_KIND_OF_TYPE).to_numpy(dtype=int),
            "flag": (type_ == _MISIDENTIFIED).astype(int),
            "degradation": check.optional_number("DEGRADATION_STATE"),
            "ejecta": check.text("LRD_MORPH"),
        }
    )


def _refuse_another_unit(check: _Checked, radius: np.ndarray) -> None:
    # some copies give RADIUS in kilometres or hold a diameter in it; a diameter beside it tells
    for key in check.names:
        if not key.startswith("DIAM"):
            continue
        ratio = np.nanmedian(check.optional_number(key) / radius) if len(radius) else np.nan
        allowed = (0.002,) if "KM" in key else (2, 0.002)
        if np.isfinite(ratio) and not any(np.isclose(ratio, r, rtol=0.02) for r in allowed):
            raise DataError(
                f"{check.path}: column {check.names[key]} is {ratio:.4g} times "
                f"{check.names['RADIUS']}; expected {' or '.join(map(str, allowed))}, which a "
                "diameter is of a radius in metres. Correct or remove one of the columns."
            )


def _robbins(check: _Checked) -> pd.DataFrame:
    diameter = check.number(
        "DIAM_CIRCLE_IMAGE",
        np.nextafter(0, 1),
        2 * _LARGEST_RADIUS / 1000,
        "kilometres above 0, below 4,000",
    )
    return pd.DataFrame(
        {
            "crater_id": check.identity(),
            "lon": check.number("LONGITUDE_CIRCLE_IMAGE", -180, 360, "degrees east, -180 to 360"),
            "lat": check.number("LATITUDE_CIRCLE_IMAGE", -90, 90, "degrees north, -90 to 90"),
            "radius": diameter * 500,
            "kind": 0,
            "flag": 0,
            "degradation": check.optional_number("DEGRADATION_STATE"),
            "ejecta": check.text("MORPHOLOGY_EJECTA_1"),
        }
    )


def _unknown_columns(path: Path, names: dict[str, str]) -> str:
    expected = (
        f"expected those of Lagain et al. 2021 ({', '.join(_LAGAIN)}) or of Robbins & Hynek 2012 "
        f"({', '.join(_ROBBINS)})"
    )
    message = f"{path}: the columns {', '.join(names.values())} are of no known catalogue; "
    if "RADIUS" not in names and any(key.startswith("DIAM") for key in names):
        # a diameter read as a radius would double every crater: never guess
        return (
            message + f"{expected}. It has a diameter and no RADIUS: convert it to a radius in "
            "metres and name the column RADIUS."
        )
    lagain = [key for key in _LAGAIN if key not in names]
    if len(lagain) < len(_LAGAIN):
        return message + f"{expected}. For the former it lacks {', '.join(lagain)}."
    return message + expected + "."


def _read_table(path: Path) -> tuple[pd.DataFrame, int]:
    """The raw table and the number by which its first row is known to a reader of the file."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such catalogue.")
    name, content = path.name.lower(), path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(content)):
        name, content = _unzip(path, content)
    elif name.endswith(".gz"):
        import gzip

        try:
            content, name = gzip.decompress(content), name[:-3]
        except (OSError, EOFError) as error:
            raise DataError(f"{path} is no whole gzip file ({error}); fetch it again.") from error
    if not content.strip():
        raise DataError(f"{path} is empty.")
    if content.lstrip()[:1] in (b"{", b"["):
        return _read_geojson(path, content), 1
    header = content.split(b"\n", 1)[0]
    separator = max("\t", ",", ";", key=lambda s: header.count(s.encode()))
    try:
        table = pd.read_csv(
            io.BytesIO(content), sep=separator, encoding="latin-1", dtype=object, index_col=False
        )
    except (pd.errors.ParserError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    return table, 2


def _unzip(path: Path, content: bytes) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [
            m
            for m in archive.namelist()
            if m.lower().endswith((".json", ".geojson", ".csv", ".txt", ".tsv"))
            and not m.startswith("__MACOSX")
        ]
        if len(members) != 1:
            raise DataError(
                f"{path} holds {len(members)} tables ({', '.join(members[:5])}); expected exactly "
                "one .json, .geojson, .csv, .tsv or .txt file."
            )
        try:
            return members[0].lower(), archive.read(members[0])
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{path} is a damaged zip archive ({error}); fetch it again."
            ) from error


def _read_geojson(path: Path, content: bytes) -> pd.DataFrame:
    try:
        document = json.loads(content)
        features = document["features"]
        table = pd.DataFrame([feature["properties"] for feature in features])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no GeoJSON FeatureCollection with properties ({error!r})."
        ) from error
    keys = {str(column).strip().upper() for column in table.columns}
    if not {"X", "Y"} & keys:
        points = [_point(path, i, feature) for i, feature in enumerate(features, start=1)]
        table["X"], table["Y"] = zip(*points, strict=True) if points else ((), ())
    return table.astype(object)


def _point(path: Path, row: int, feature: dict) -> tuple[float, float]:
    geometry = feature.get("geometry") or {}
    if geometry.get("type") != "Point" or len(geometry.get("coordinates", ())) < 2:
        raise DataError(
            f"{path}, feature {row}: has neither X and Y among its properties nor a Point."
        )
    return geometry["coordinates"][0], geometry["coordinates"][1]
