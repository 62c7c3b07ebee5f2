"""Maps of units: which sensor, light, terrain and region a point of the planet belongs to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from acdc.errors import DataError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

PROPERTIES = ("sensor", "light", "terrain", "region")


@dataclass(frozen=True)
class Units:
    """Polygons in degrees with what is known about the ground inside them."""

    polygons: tuple[BaseGeometry, ...] = ()
    properties: tuple[dict[str, str], ...] = ()

    def at(self, lon: np.ndarray, lat: np.ndarray) -> pd.DataFrame:
        """What is known about points.

        Parameters
        ----------
        lon, lat : ndarray of float (n,)
            Degrees east (any turn) and planetocentric degrees north.

        Returns
        -------
        DataFrame
            sensor, light, terrain, region, "" where unknown. Of several polygons around a point,
            the first that states a property counts.
        """
        import shapely

        known = {name: np.full(len(lon), "", dtype=object) for name in PROPERTIES}
        if not self.polygons:
            return pd.DataFrame(known)
        tree = shapely.STRtree(self.polygons)
        inside: set[tuple[int, int]] = set()
        for turn in (-360.0, 0.0, 360.0):
            points = shapely.points(np.asarray(lon) + turn, np.asarray(lat))
            inside.update(zip(*tree.query(points, predicate="intersects").tolist(), strict=True))
        for point, polygon in sorted(inside):
            for name, text in self.properties[polygon].items():
                if not known[name][point]:
                    known[name][point] = text
        return pd.DataFrame(known)


def read_units(path: Path) -> Units:
    """Read a GeoJSON FeatureCollection of polygons in degrees.

    Of the properties, sensor, light, terrain and region are used; all are optional.

    Raises
    ------
    DataError
        When the file is missing or no GeoJSON, or a feature is no valid polygon in degrees.
    """
    import shapely
    from shapely.geometry import shape

    path = Path(path)
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no GeoJSON FeatureCollection ({error!r}).") from error
    polygons, properties = [], []
    for number, feature in enumerate(features, start=1):
        where = f"{path}, feature {number}"
        try:
            polygon = shape(feature["geometry"])
        except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as e:
            raise DataError(f"{where}: its geometry cannot be read ({e!r}).") from e
        if polygon.geom_type not in ("Polygon", "MultiPolygon") or polygon.is_empty:
            raise DataError(f"{where}: a {polygon.geom_type}; expected polygons with an area.")
        west, south, east, north = polygon.bounds
        if not (-180 <= west <= east <= 540 and -90 <= south <= north <= 90):
            raise DataError(
                f"{where}: reaches from ({west}, {south}) to ({east}, {north}); expected degrees "
                "east (-180 to 360) and north."
            )
        polygons.append(polygon if polygon.is_valid else shapely.make_valid(polygon))
        properties.append(_texts(feature.get("properties") or {}))
    return Units(tuple(polygons), tuple(properties))


def _texts(properties: dict[str, Any]) -> dict[str, str]:
    return {
        name: str(properties[name]) for name in PROPERTIES if properties.get(name) not in (None, "")
    }
