"""The reader against archives written here file by file in the published layout."""

import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_bounds

from acdc.errors import DataError, DownloadError
from acdc.tracks.worldstrat import archive

WEST, SOUTH, SIZE = 7.0, 46.0, 0.0031


def write_tiff(path, array, bounds=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[None]
    transform = None if bounds is None else from_bounds(*bounds, array.shape[2], array.shape[1])
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(array),
        height=array.shape[1],
        width=array.shape[2],
        dtype=array.dtype,
        crs=CRS.from_epsg(4326),
        transform=transform,
    ) as file:
        file.write(array)


def bounds_of(number):
    west = WEST + 0.1 * number
    return (west, SOUTH, west + SIZE, SOUTH + SIZE)


class Published:
    """A few places on disk, and what was put into them."""

    def __init__(self, root, names=("Amnesty POI-20-2-2", "Landcover-1"), revisits=(1, 2, 10)):
        self.root, self.names, self.revisits = Path(root), list(names), revisits
        self.spot, self.bands, self.cloud = {}, {}, {}
        self.high, self.low = self.root / "hr_dataset", self.root / "lr_dataset"
        random = np.random.default_rng(0)
        rows = []
        for number, name in enumerate(self.names):
            spot = random.integers(300, 4000, (4, 140, 138), dtype=np.uint16)
            self.spot[name] = spot
            write_tiff(self.high / name / f"{name}_ps.tiff", spot)
            write_tiff(self.high / name / f"{name}_pan.tiff", spot[:1])
            for n in revisits:
                bands = random.uniform(0.02, 0.4, (12, 21, 20)).astype(np.float32)
                bands[:, :2] = 0  # not measured
                cloud = (random.random((21, 20)) < 0.3).astype(np.float32)
                self.bands[name, n], self.cloud[name, n] = bands, cloud
                self.write_revisit(number, name, n)
                rows.append(
                    {
                        "tile": name,
                        "n": n,
                        "lowres_date": f"2019-06-{10 + n}T10:20:30+00:00",
                        "highres_date": "2019-06-15T10:20:30+00:00",
                        "delta": n - 5,
                        "cloud_cover": 12.5,
                        "bounds": str(bounds_of(number)),
                        "lon": 7.0,
                        "lat": 46.0,
                        "LCCS": 10,
                        "LCCS class": "Cropland",
                        "IPCC Class": "Agriculture",
                        "SMOD": 11,
                        "SMOD Class": "Rural",
                    }
                )
        self.metadata = pd.DataFrame(rows)
        self.write_tables([(name, "train") for name in self.names])

    def file(self, name, n, kind):
        return self.low / name / "L2A" / f"{name}-{n}-{kind}.tiff"

    def write_revisit(self, number, name, n):
        bounds = bounds_of(number)
        write_tiff(self.file(name, n, "L2A_data"), self.bands[name, n], bounds)
        write_tiff(self.file(name, n, "CLM"), self.cloud[name, n], bounds)
        data = (self.bands[name, n][0] > 0).astype(np.float32)
        write_tiff(self.file(name, n, "dataMask"), data, bounds)

    def write_tables(self, split, first_release=False):
        table = self.metadata
        if first_release:
            table = table.rename(columns={"tile": ""})
        table.to_csv(self.root / archive.METADATA, index=False)
        pd.DataFrame(split, columns=["tile", "split"]).to_csv(self.root / archive.SPLIT)

    def zip(self):
        for folder, name in ((self.high, "hr_dataset"), (self.low, "lr_dataset_l2a")):
            with zipfile.ZipFile(self.root / f"{name}.zip", "w") as file:
                for path in sorted(folder.rglob("*.tiff")):
                    file.write(path, path.relative_to(self.root))
            shutil.rmtree(folder)

    def tar(self):
        for folder, name in ((self.high, "hr_dataset"), (self.low, "lr_dataset_l2a")):
            with tarfile.open(self.root / f"{name}.tar.gz", "w:gz") as file:
                file.add(folder, folder.name)
            shutil.rmtree(folder)


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path)


def same(published, opened):
    for number, name in enumerate(published.names):
        raw, defects = opened.read(name)
        assert defects == []
        np.testing.assert_array_equal(raw.spot, published.spot[name])
        a, b, c, d, e, f = raw.transform
        west, south, east, north = bounds_of(number)
        corners = (c, f, c + 138 * a, f + 140 * e)
        np.testing.assert_allclose(corners, (west, north, east, south), atol=1e-12)
        assert b == d == 0
        assert [revisit.n for revisit in raw.revisits] == [1, 2, 10]
        assert [revisit.days for revisit in raw.revisits] == [-4, -3, 5]
        for revisit in raw.revisits:
            wrote = published.bands[name, revisit.n]
            np.testing.assert_array_equal(revisit.bands[:, 2:], wrote[:, 2:])
            assert np.isnan(revisit.bands[:, :2]).all()
            expected = (published.cloud[name, revisit.n] == 0) & (wrote[0] > 0)
            np.testing.assert_array_equal(revisit.clear, expected)
            assert revisit.crs == "EPSG:4326"
            np.testing.assert_allclose(revisit.transform[2::3], (west, north))


def test_folders(published):
    same(published, archive.Archive(published.root))


@pytest.mark.parametrize("inner", ["12bit", "hr_dataset", "some/where"])
def test_wrapped_folders(published, inner):
    aside = published.root / "aside"
    published.high.rename(aside)
    (published.high / inner).parent.mkdir(parents=True)
    aside.rename(published.high / inner)
    same(published, archive.Archive(published.root))


def test_zip(published):
    published.zip()
    opened = archive.Archive(published.root)
    same(published, opened)
    same(published, pickle.loads(pickle.dumps(opened)))


def test_tar_is_staged_once(published):
    published.tar()
    with pytest.raises(DataError, match="stage"):
        archive.Archive(published.root)
    (published.root / "hr_dataset.part").mkdir()  # of a pass that was interrupted
    archive.stage(published.root)
    # the archive of v1 unpacks to a folder of its own name
    same(published, archive.Archive(published.root))
    before = sorted((path, path.stat().st_mtime_ns) for path in published.root.rglob("*"))
    archive.stage(published.root)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in published.root.rglob("*"))


def test_broken_tar_leaves_nothing(published):
    published.tar()
    file = published.root / "hr_dataset.tar.gz"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(DownloadError, match="damaged"):
        archive.stage(published.root)
    assert not (published.root / "hr_dataset").exists()
    assert not (published.root / "hr_dataset.part").exists()


def test_first_release_names_tiles_in_an_unnamed_column(published):
    published.write_tables([], first_release=True)
    opened = archive.Archive(published.root)
    assert list(opened.places) == published.names
    assert opened.places["Landcover-1"].labels == {
        "ipcc": "Agriculture",
        "smod": "11",
        "lccs": "10",
    }


def test_what_is_missing_is_left_out_and_told(published):
    name = "Landcover-1"
    published.file(name, 1, "L2A_data").unlink()
    published.file(name, 2, "L2A_data").write_bytes(b"II*\0 no tiff")
    raw, defects = archive.Archive(published.root).read(name)
    assert [revisit.n for revisit in raw.revisits] == [10]
    assert [(d.what, d.dropped) for d in defects] == [("L2A 1", True), ("L2A 2", True)]
    assert defects[0].reason == "is missing"
    published.file(name, 10, "L2A_data").unlink()
    raw, defects = archive.Archive(published.root).read(name)
    assert raw is None
    assert defects[-1].reason == "no readable revisit"
    (published.high / name / f"{name}_ps.tiff").unlink()
    raw, defects = archive.Archive(published.root).read(name)
    assert raw is None
    assert [(d.what, d.reason) for d in defects] == [("ps", "SPOT image is missing")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda bands: bands * 10_000, "digital numbers"),
        (lambda bands: bands * 100, "percent"),
        (lambda bands: np.concatenate([bands, bands[:1]]), "expected the 12 of L2A"),
        (lambda bands: bands * 0, "is empty"),
        (lambda bands: bands[:, :5, :5], "expected the 12 of L2A"),
    ],
)
def test_impossible_revisits_are_named(published, change, reason):
    name = "Landcover-1"
    wrong = change(published.bands[name, 2]).astype(np.float32)
    write_tiff(published.file(name, 2, "L2A_data"), wrong, bounds_of(1))
    raw, defects = archive.Archive(published.root).read(name)
    assert [revisit.n for revisit in raw.revisits] == [1, 10]
    assert reason in defects[0].reason


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.full((3, 140, 138), 400, np.uint16), "expected 4 bands"),
        (np.full((4, 140, 138), 0.4, np.float32), "expected counts"),
        (np.full((4, 140, 138), 40, np.uint16), "8 bits"),
    ],
)
def test_impossible_spot_images_are_named(published, wrong, reason):
    write_tiff(published.high / "Landcover-1" / "Landcover-1_ps.tiff", wrong)
    raw, defects = archive.Archive(published.root).read("Landcover-1")
    assert raw is None
    assert reason in defects[0].reason


def test_clouds_without_their_mask(published):
    name = "Landcover-1"
    published.file(name, 1, "CLM").unlink()
    probability = np.zeros((21, 20), np.float32)
    probability[5:9] = 110
    write_tiff(published.file(name, 1, "CLP"), probability, bounds_of(1))
    published.file(name, 2, "CLM").unlink()
    bright = published.bands[name, 2].copy()
    bright[:, 2:] = 0.1
    bright[:, 7] = 0.6
    write_tiff(published.file(name, 2, "L2A_data"), bright, bounds_of(1))
    write_tiff(published.file(name, 10, "CLM"), np.repeat([[0], [1], [0]], 4, 1), bounds_of(1))
    raw, defects = archive.Archive(published.root).read(name)
    first, second, third = (revisit.clear for revisit in raw.revisits)
    np.testing.assert_array_equal(~first.any(axis=1), np.isin(np.arange(21), [0, 1, 5, 6, 7, 8]))
    np.testing.assert_array_equal(~second.any(axis=1), np.isin(np.arange(21), [0, 1, 7]))
    # a mask on a coarser grid covers the pixels below it
    np.testing.assert_array_equal(~third.any(axis=1), np.isin(np.arange(21), [0, 1, *range(7, 14)]))
    assert [d.reason[:12] for d in defects] == ["has no CLM; ", "has neither "]
    assert not any(d.dropped for d in defects)


def test_split_defects_are_healed_by_site(tmp_path):
    names = (
        "Amnesty POI-2-1-1",
        "Amnesty POI-2-1-2",
        "Amnesty POI-22-1-1",
        "Landcover-7",
        "UNHCR-X",
    )
    published = Published(tmp_path, names, revisits=(1,))
    published.write_tables(
        [
            ("Amnesty POI-2-1-1", "test"),
            ("Amnesty POI-2-1-2", "train"),
            ("Amnesty POI-22-1-1", "val"),
            ("Landcover-7", "val"),
            ("Landcover-7", "test"),
            ("Landcover-8", "test"),
        ]
    )
    opened = archive.Archive(tmp_path)
    place = opened.places
    assert place["Amnesty POI-2-1-1"].site == place["Amnesty POI-2-1-2"].site == "Amnesty POI-2"
    assert place["Amnesty POI-22-1-1"].site == "Amnesty POI-22"
    assert [p.split for p in place.values()] == ["train", "train", "val", "val", ""]
    told = {(d.place, d.reason) for d in opened.defects}
    assert told == {
        ("Amnesty POI-2", "its tiles are in test and train; all go to train"),
        ("Landcover-7", "stands there 2 times, in val and test"),
        ("Landcover-7", "its tiles are in test and val; all go to val"),
        ("Landcover-8", "is not in metadata.csv"),
        ("UNHCR-X", "has no split"),
    }


def test_neighbours_share_a_site_whatever_their_names():
    step = 0.021
    bounds = {
        "a": (7.0, 46.0, 7.02, 46.02),
        "b": (7.0 + step, 46.0, 7.02 + step, 46.02),  # 80 m on
        "c": (7.0 + 2 * step, 46.0, 7.02 + 2 * step, 46.02),
        "far": (7.2, 46.0, 7.22, 46.02),
        # 0.008 degrees of longitude are far apart at the equator, near at 70 degrees
        "north1": (7.0, 70.0, 7.02, 70.02),
        "north2": (7.028, 70.0, 7.04, 70.02),
        "south1": (7.0, 0.0, 7.02, 0.02),
        "south2": (7.028, 0.0, 7.04, 0.02),
    }
    site = archive.group_sites(bounds)
    assert site["a"] == site["b"] == site["c"] == "a"
    assert site["far"] == "far"
    assert site["north1"] == site["north2"]
    assert site["south1"] != site["south2"]
    assert archive.group_sites({}) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nan",
        "1 2 3",
        "(8.0, 46.0, 7.0, 46.1)",
        "(7, 46, 8, 91)",
        "(500000, 5e6, 501580, 5.1e6)",
    ],
)
def test_impossible_bounds(published, text):
    assert archive.parse_bounds(text) is None
    published.metadata.loc[published.metadata.tile == "Landcover-1", "bounds"] = text
    published.write_tables([])
    opened = archive.Archive(published.root)
    assert list(opened.places) == published.names[:1]
    assert any(d.place == "Landcover-1" and d.dropped for d in opened.defects)


def test_tables_that_are_no_tables(published):
    file = published.root / archive.METADATA
    published.metadata.drop(columns="bounds").to_csv(file, index=False)
    with pytest.raises(DataError, match="lacks the columns bounds"):
        archive.Archive(published.root)
    published.metadata.assign(n="x").to_csv(file, index=False)
    with pytest.raises(DataError, match="line 2"):
        archive.Archive(published.root)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        archive.Archive(published.root)
    file.unlink()
    with pytest.raises(DataError, match="missing"):
        archive.Archive(published.root)


def test_without_pictures(published):
    shutil.rmtree(published.low)
    with pytest.raises(DataError, match=r"lr_dataset_l2a\.zip"):
        archive.Archive(published.root)
    (published.root / "lr_dataset_l2a.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="damaged"):
        archive.Archive(published.root)


def test_damage_inside_a_zip_is_told(published):
    published.zip()
    file = published.root / "hr_dataset.zip"
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as opened:
        start = opened.getinfo("hr_dataset/Landcover-1/Landcover-1_ps.tiff").header_offset
    data[start + 5000 : start + 5100] = bytes(100)
    file.write_bytes(data)
    raw, defects = archive.Archive(published.root).read("Landcover-1")
    assert raw is None
    assert "CRC" in defects[0].reason
