import gzip
import json
import zipfile

import numpy as np
import pytest

from acdc.errors import DataError
from acdc.tracks.craters.catalogue import read_catalogue

LAGAIN = "CRATER_ID,X,Y,RADIUS,TYPE,LRD_MORPH\n01-1,350.5,-12.25,1500,1,\n01-2,-9.5,80,700,2,SLE\n"
ROBBINS = (
    "CRATER_ID\tLATITUDE_CIRCLE_IMAGE\tLONGITUDE_CIRCLE_IMAGE\tDIAM_CIRCLE_IMAGE"
    "\tDEGRADATION_STATE\tMORPHOLOGY_EJECTA_1\tCRATER_NAME\n"
    "01-000000\t84.367\t108.746\t82.10\t2\tRd/MLERS\tKorol\xebv\n"
    "01-000001\t-45.2\t270\t1.02\t\t\t\n"
)


def write(tmp_path, text, name="catalogue.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_lagain_columns_become_kinds_and_radii_in_metres(tmp_path):
    rows = "".join(f"{i},10,{i},{100 * i},{i}\n" for i in range(1, 6))
    craters = read_catalogue(write(tmp_path, "crater_id,x,y,Radius,Type\n" + rows))
    assert craters["kind"].tolist() == [0, 1, 2, 3, 0]
    assert craters["flag"].tolist() == [0, 0, 0, 0, 1]
    assert craters["radius"].tolist() == [100, 200, 300, 400, 500]
    assert craters["degradation"].isna().all()


def test_longitudes_are_wrapped_and_ejecta_kept(tmp_path):
    craters = read_catalogue(write(tmp_path, LAGAIN))
    assert craters["lon"].tolist() == [-9.5, -9.5]
    assert craters["ejecta"].tolist() == ["", "SLE"]
    assert craters["crater_id"].tolist() == ["01-1", "01-2"]


def test_robbins_is_tab_separated_latin_1_with_diameters_in_kilometres(tmp_path):
    craters = read_catalogue(write(tmp_path, ROBBINS, "RobbinsCraters_tab.txt", "latin-1"))
    np.testing.assert_allclose(craters["radius"], [41050, 510])
    np.testing.assert_allclose(craters["lon"], [108.746, -90])
    assert craters["degradation"].tolist()[0] == 2
    assert np.isnan(craters["degradation"][1])
    assert craters["ejecta"].tolist() == ["Rd/MLERS", ""]


def test_gzip_is_read(tmp_path):
    path = tmp_path / "RobbinsCraters_tab.txt.gz"
    path.write_bytes(gzip.compress(ROBBINS.encode("latin-1")))
    assert len(read_catalogue(path)) == 2


@pytest.mark.parametrize("with_columns", [True, False])
def test_geojson_also_zipped(tmp_path, with_columns):
    properties = {"Crater_ID": "7", "Radius": 510, "type": "2", "lrd_morph": "SLE"}
    if with_columns:
        properties |= {"X": 37.695, "Y": -53.809}
    document = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": properties,
                "geometry": {"type": "Point", "coordinates": [37.695, -53.809]},
            }
        ],
    }
    path = tmp_path / "lagain_db.json.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lagain_db.json", json.dumps(document))
    plain = write(tmp_path, json.dumps(document), "lagain_db.json")
    for craters in (read_catalogue(path), read_catalogue(plain)):
        row = craters.iloc[0]
        assert (row["lat"], row["radius"]) == (-53.809, 510)
        assert row["lon"] == pytest.approx(37.695, abs=1e-12)
        assert (row["kind"], row["ejecta"]) == (1, "SLE")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,0,0,10,1\n2,0,0,-3,1\n", ["row 3", "RADIUS", "-3"]),
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,0,120,10,1\n", ["row 2", "column Y", "120", "-90 to 90"]),
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,0,,10,1\n", ["row 2", "column Y", "nan"]),
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,400,0,10,1\n", ["row 2", "column X", "400"]),
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,0,0,ten,1\n", ["row 2", "RADIUS", "ten"]),
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,0,0,inf,1\n", ["row 2", "RADIUS", "inf"]),
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,0,0,10,6\n", ["row 2", "TYPE", "6"]),
        ("CRATER_ID,X,Y,RADIUS,TYPE\n1,0,0,10,1.5\n", ["row 2", "TYPE", "1.5"]),
        ("CRATER_ID,X,Y,DIAMETER,TYPE\n1,0,0,10,1\n", ["DIAMETER", "radius", "metres"]),
        ("lon,lat,size\n0,0,10\n", ["lon, lat, size", "Lagain", "Robbins"]),
        ("X,Y,RADIUS,radius,TYPE\n0,0,10,10,1\n", ["'RADIUS' and 'radius'"]),
        ("X,Y,RADIUS,TYPE,Diam_km\n0,0,10,1,20\n1,1,5,1,10\n", ["Diam_km is 2 times RADIUS"]),
        ("", ["empty"]),
        ("{}", ["GeoJSON"]),
    ],
)
def test_errors_name_file_row_and_column(tmp_path, text, parts):
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_catalogue(path)
    for part in [str(path), *parts]:
        assert part in str(caught.value)


def test_a_missing_file_and_a_crowded_archive_are_named(tmp_path):
    with pytest.raises(DataError, match="no such catalogue"):
        read_catalogue(tmp_path / "absent.csv")
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", LAGAIN)
        archive.writestr("b.csv", LAGAIN)
    with pytest.raises(DataError, match=r"holds 2 tables"):
        read_catalogue(path)


def test_the_real_catalogue(real):
    craters = read_catalogue(real / "craters" / "mosaic" / "catalogue.csv")
    assert len(craters) == 577
    assert craters["radius"].between(499, 16000).all()
