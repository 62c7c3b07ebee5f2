"""The leak audit catches planted leaks and is silent where there are none."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from acdc.errors import DataError
from acdc.tracks.craters import duplicates, leaks, tiles

SPHERE = "+proj=stere +lat_0={lat} +lon_0={lon} +R=3396190 +units=m +no_defs"


@functools.cache
def ground(seed: int, shape: tuple[int, int] = (616, 616)) -> np.ndarray:
    """Invented relief in grey levels."""
    rng = np.random.default_rng(seed)
    field = sum(2**k * ndimage.gaussian_filter(rng.normal(size=shape), 2**k) for k in range(6))
    return np.clip(125 + 30 * field / field.std(), 1, 255).astype(np.uint8)


def wkt(lat: float, lon: float) -> str:
    crs = pytest.importorskip("pyproj").CRS
    return crs.from_proj4(SPHERE.format(lat=lat, lon=lon)).to_wkt()


class Data:
    """A small clean data set: two blocks of 2 x 2 tiles in each of two quadrangles a split."""

    def __init__(self) -> None:
        self.images: dict[str, list[np.ndarray]] = {}
        self.tables: dict[str, pd.DataFrame] = {}
        self.planes: dict[str, pd.DataFrame] = {}
        for k, split in enumerate(leaks.SPLITS):
            images, rows, planes = [], [], []
            for q in range(2):
                number = 2 * k + q
                relief = ground(number, (392, 1200))
                # 112 km of ground each, two degrees apart
                planes.append((f"q{number}", wkt(0, 2.5 * number), 100, 0, -6e4, 0, -100, 6e4))
                for b in range(2):
                    for row0 in (0, 168):
                        for col0 in (800 * b, 800 * b + 168):
                            images.append(relief[row0 : row0 + 224, col0 : col0 + 224])
                            rows.append((f"q{number}/{b}", f"q{number}", 0, row0, col0))
            self.images[split] = images
            columns = ["block", "quadrangle", "level", "row0", "col0"]
            self.tables[split] = pd.DataFrame(rows, columns=columns).assign(
                pixel_size=100.0,
                valid=1.0,
                window_area=282.0,
                region="",
                sensor="",
                light="",
                terrain="",
            )
            self.planes[split] = pd.DataFrame(planes, columns=list(tiles.QUADRANGLE_COLUMNS))

    def write(self, folder: Path) -> Path:
        circles = pd.DataFrame(columns=list(tiles.CIRCLE_COLUMNS)).astype(
            {
                "tile": int,
                "row": float,
                "col": float,
                "radius": float,
                "kind": int,
                "flag": int,
                "degradation": float,
                "crater_id": object,
                "ejecta": object,
            }
        )
        circles.loc[0] = [0, 100.0, 100.0, 9.0, 0, 0, "c", np.nan, ""]
        for split in self.tables:
            tiles.write_split(
                folder / split,
                [np.stack(self.images[split])],
                self.tables[split],
                circles,
                self.planes[split],
                attributes={"simulated": True},
            )
        return folder


@pytest.fixture
def data():
    return Data()


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    pillow = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    pillow.fromarray(image).save(buffer, "jpeg", quality=quality)
    return np.asarray(pillow.open(buffer))


def test_clean_data_pass(data, tmp_path):
    report = leaks.audit(data.write(tmp_path), buffer=28)
    assert (report.tiles, report.blocks, report.quadrangles) == (32, 8, 4)
    assert report.leaks.empty
    assert "no ground is shared" in str(report)


def test_flat_and_empty_tiles_are_no_leak(data, tmp_path):
    rng = np.random.default_rng(0)
    edge = np.where(np.arange(224) < 80, 0, 100) * np.ones((224, 1))
    for split in leaks.SPLITS:
        for i in (0, 4, 8, 12):
            data.images[split][i] = np.full((224, 224), 90 + i, np.uint8)
            data.images[split][i + 1] = np.clip(rng.normal(90, 3, (224, 224)), 1, 255).astype(
                np.uint8
            )
            data.images[split][i + 2] = (edge + (edge > 0) * rng.normal(0, 2, edge.shape)).astype(
                np.uint8
            )
    assert leaks.audit(data.write(tmp_path)).leaks.empty


def test_large_craters_that_look_alike_are_no_leak(data, tmp_path, monkeypatch):
    """Under one sun craters of one size resemble each other; the ground around them does not."""
    from acdc.tracks.craters import duplicates

    v, u = (np.mgrid[:224, :224] - 112.0) / 80
    shade = np.clip((1.05 - np.hypot(u, v)) / 0.1, 0, 1) * 90 * (u + 0.5 * v)
    for split, tile in (("train", 3), ("test", 9)):
        texture = 0.2 * (data.images[split][tile].astype(float) - 125)
        data.images[split][tile] = np.clip(120 + texture + shade, 1, 255).astype(np.uint8)
    folder = data.write(tmp_path)
    assert leaks.audit(folder).leaks.empty
    monkeypatch.setattr(duplicates, "_alike_everywhere", lambda *_: True)
    assert not leaks.find(folder).leaks.empty  # the craters alone would raise an alarm


COPIES = {
    "copied": lambda relief: relief[168:392, :224],
    "encoded again": lambda relief: jpeg(np.ascontiguousarray(relief[168:392, :224]), 40),
    "mirrored": lambda relief: relief[168:392, :224][:, ::-1],
    "turned": lambda relief: jpeg(np.ascontiguousarray(np.rot90(relief[168:392, :224])), 60),
    "displaced": lambda relief: relief[131:355, 30:254],
    "stretched": lambda relief: np.clip(relief[168:392, :224] * 0.7 + 40, 1, 255).astype(np.uint8),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_found(how, data, tmp_path):
    data.images["test"][5] = COPIES[how](ground(0, (392, 1200)))
    report = leaks.find(data.write(tmp_path))
    assert {("image", "train:2", "test:5")} <= set(
        report.leaks[["how", "first", "second"]].itertuples(index=False, name=None)
    )
    assert set(report.leaks["second"]) == {"test:5"}
    with pytest.raises(DataError, match=r"train:2 \(q0/0\) and test:5"):
        leaks.audit(tmp_path)


def test_overlapping_footprints_are_found(data, tmp_path):
    table = data.tables["train"]
    moved = table["block"] == "q0/1"
    table.loc[moved, "col0"] -= 800 - 392 - 20  # 20 px from the other block
    folder = data.write(tmp_path)
    assert leaks.audit(folder).leaks.empty
    assert leaks.audit(folder, buffer=20).leaks.empty
    with pytest.raises(DataError, match="are 20 px apart, not 28"):
        leaks.audit(folder, buffer=28)


def test_levels_of_the_pyramid_are_compared(data, tmp_path):
    table = data.tables["train"]
    # one level-2 tile covers 896 x 896 pixels of level 0, the first block among them
    table.loc[4, ["level", "row0", "col0"]] = [2, 0, 90]
    found = leaks.find(data.write(tmp_path)).leaks
    assert set(found["first"]) == {"train:1", "train:3"}
    assert set(found["second"]) == {"train:4"}


def test_quadrangles_that_meet_on_the_ground_are_found(data, tmp_path):
    # 2.5 degrees are 148 km: push the second quadrangle's plane onto the first one's ground
    data.planes["train"].loc[1, "crs"] = wkt(0.0, 0.3)
    found = leaks.find(data.write(tmp_path)).leaks
    assert not found.empty
    assert set(found["how"]) == {"footprint"}
    # 0.3 degrees are 17.8 km, 178 pixels: tile 0 meets what was shifted by 168 and 178 pixels
    pairs = set(zip(found["first"], found["second"], strict=True))
    assert ("train:0", "train:8") in pairs
    assert ("train:1", "train:8") in pairs
    assert ("train:0", "train:9") not in pairs


def test_a_block_in_both_splits_is_found(data, tmp_path):
    data.tables["test"].loc[:3, "block"] = "q0/0"
    found = leaks.find(data.write(tmp_path)).leaks
    assert found["how"].tolist() == ["block"]


def test_one_split_alone_and_none(data, tmp_path):
    del data.tables["train"]
    assert leaks.audit(data.write(tmp_path)).tiles == 16
    with pytest.raises(DataError, match="neither train nor test"):
        leaks.audit(tmp_path / "nothing")


def test_groups_of_pictures():
    one, two = ground(1), ground(2)
    images = [one[:300, :300], two[:300, :260], one[100:400, 50:350], one[::-1][200:500, 50:350]]
    assert duplicates.group(images).tolist() == [0, 1, 0, 0]
    assert duplicates.group([]).tolist() == []
