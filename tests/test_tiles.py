import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from acdc import store
from acdc.errors import DataError
from acdc.tracks.craters import tiles


@pytest.fixture
def split(tmp_path, write_tiles):
    write_tiles(tmp_path / "train")
    return tmp_path / "train"


def test_tiles_behave_like_an_array(split):
    X = tiles.read_images(split)
    with h5py.File(split / store.INPUTS) as file:
        stored = file["tiles"][:]
    assert (X.shape, X.dtype, X.ndim, len(X)) == (stored.shape, np.uint8, 3, len(stored))
    assert type(X[3]) is np.ndarray
    mask = np.arange(len(X)) % 2 == 0
    keys = (3, -1, slice(2, 7), slice(None, None, -3), [4, 1, 1], mask, np.array([5]), (2, 0, 3))
    for view, expected in ((X, stored), (X.subset(mask), stored[mask])):
        for key in keys[:-3]:
            key = 1 if key == 3 else key
            if isinstance(key, list):
                key = [2, 1, 1]
            np.testing.assert_array_equal(view[key], expected[key])
        np.testing.assert_array_equal(view[:, 10:20, 5], expected[:, 10:20, 5])
        np.testing.assert_array_equal(np.asarray(view), expected)
        np.testing.assert_array_equal(view / 2.0, expected / 2.0)
        np.testing.assert_array_equal(np.stack(list(view)), expected)
    for key in keys[-3:]:
        np.testing.assert_array_equal(X[key], stored[key])
    with pytest.raises(IndexError):
        X[len(X)]


def test_a_tile_that_was_read_can_be_changed_and_the_file_stays(split):
    X = tiles.read_images(split)
    tile = X[0]
    tile[:] = 0
    assert X[0].any()


def test_tiles_are_not_changed_in_place(split):
    X = tiles.read_images(split)
    with pytest.raises(TypeError, match=r"write X = X / 255"):
        X /= 255.0


def test_a_subset_pickles_as_path_and_rows(split):
    X = tiles.read_images(split).subset([4, 2])
    X[0]  # the open map must not travel
    data = pickle.dumps(X)
    assert len(data) < 4000
    np.testing.assert_array_equal(pickle.loads(data)[:], X[:])


def test_only_what_is_scored_stands_in_y(split, write_tiles, tmp_path):
    circles = write_tiles(tmp_path / "again")
    y = tiles.read_targets(split)
    inside = circles.row.between(28, 196, "left") & circles.col.between(28, 196, "left")
    scored = circles[inside & circles.radius.between(5, 28) & (circles.flag == 0)]
    assert sum(map(len, y)) == len(scored)
    assert sum(map(len, y)) + sum(map(len, y.ignored)) == len(circles)
    crater = next(crater for craters in y for crater in craters)
    row, col, radius = crater
    assert crater == (row, col, radius)
    assert crater.kind in tiles.KINDS
    assert crater.reason == "scored"
    assert {c.reason for craters in y.ignored for c in craters} <= set(tiles.REASONS[1:])
    copy = pickle.loads(pickle.dumps(crater))
    assert (copy, copy.kind) == (crater, crater.kind)


def test_targets_look_like_an_object_array(split):
    y = tiles.read_targets(split)
    array = np.asarray(y)
    assert array.shape == y.shape == (len(y),)
    assert array.dtype == y.dtype
    rows = [7, 3, 3]
    for part in (y[rows], y[np.array(rows)], pickle.loads(pickle.dumps(y))[rows]):
        assert list(part) == [y[i] for i in rows]
        assert list(part.ignored) == [y.ignored[i] for i in rows]
    assert list(y[2:5]) == list(y)[2:5]
    assert list(y[np.arange(len(y)) < 2]) == list(y)[:2]
    assert list(y.ignored[2:5]) == list(y.ignored)[2:5]


def test_part_of_the_targets_reads_the_same_circles(split):
    rows = np.array([1, 5, 8])
    part, whole = tiles.read_targets(split, rows), tiles.read_targets(split)[rows]
    pd.testing.assert_frame_equal(part.tiles, whole.tiles)
    pd.testing.assert_frame_equal(part.circles, whole.circles)


def test_shuffling_keeps_tiles_and_circles_together(tmp_path, write_tiles):
    write_tiles(tmp_path / "plain")
    plain, X = tiles.read_targets(tmp_path / "plain"), tiles.read_images(tmp_path / "plain")
    tiles.write_split(
        tmp_path / "shuffled",
        [X[:5], X[5:]],
        plain.tiles,
        plain.circles,
        plain.quadrangles,
        attributes={},
        shuffle_seed=5,
    )
    shuffled = tiles.read_targets(tmp_path / "shuffled")
    rows = shuffled.tiles.row0.to_numpy() // 168  # says which tile it was
    assert (np.sort(rows) == np.arange(len(X))).all()
    assert (rows != np.arange(len(X))).any()
    np.testing.assert_array_equal(tiles.read_images(tmp_path / "shuffled")[:], X[:][rows])
    assert [sorted(c) for c in shuffled] == [sorted(plain[i]) for i in rows]


def test_quick_tests_take_a_few_tiles_of_a_few_blocks(split):
    rows = tiles.choose_blocks(split, 2, 2)
    assert len(rows) == 4
    assert tiles.read_targets(split, rows).tiles.block.nunique() == 2
    np.testing.assert_array_equal(rows, tiles.choose_blocks(split, 2, 2))


def test_inputs_tell_nothing_about_the_ground(split):
    with h5py.File(split / store.INPUTS) as file:
        names: list[str] = []
        file.visit(names.append)
        assert set(names) <= {
            "tiles",
            "conditions",
            *(f"conditions/{n}{s}" for n in ("sensor", "light") for s in ("", ".texts")),
        }
        assert set(file.attrs) == {"format_version", "track", "simulated", "checksum"}


@pytest.mark.parametrize("name", [store.INPUTS, store.TARGETS])
def test_damaged_files_are_named(split, name):
    file = split / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{name} is damaged"):
        tiles.read_targets(split)
    file.unlink()
    with pytest.raises(DataError, match=f"{name} is missing.*download_data.py"):
        tiles.read_targets(split)


def test_an_older_format_is_refused(split):
    with h5py.File(split / store.INPUTS, "a") as file:
        file.attrs["format_version"] = 0
    with pytest.raises(DataError, match="format version 0, this kit reads 1"):
        tiles.read_images(split)


def test_targets_of_other_tiles_are_refused(split, write_tiles, tmp_path):
    write_tiles(tmp_path / "other", seed=1)
    (tmp_path / "other" / store.TARGETS).replace(split / store.TARGETS)
    with pytest.raises(DataError, match="belongs to other samples"):
        tiles.read_targets(split)


@pytest.mark.parametrize(
    ("column", "value"), [("radius", -1.0), ("radius", 0.0), ("row", np.nan), ("tile", 99)]
)
def test_impossible_circles_are_refused_and_nothing_is_written(
    tmp_path, write_tiles, column, value
):
    write_tiles(tmp_path / "good")
    y, X = tiles.read_targets(tmp_path / "good"), tiles.read_images(tmp_path / "good")
    circles = y.circles.copy()
    circles.loc[3, column] = value
    with pytest.raises(DataError, match="1 circles are impossible"):
        tiles.write_split(tmp_path / "bad", [X[:]], y.tiles, circles, y.quadrangles, attributes={})
    assert not list((tmp_path / "bad").glob("*"))


def test_a_full_disk_leaves_nothing_behind(tmp_path, write_tiles, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_rows", full)
    with pytest.raises(DataError, match="disk is full"):
        write_tiles(tmp_path / "split")
    assert not list((tmp_path / "split").glob("*"))


def test_a_disk_that_really_fills_up_is_told(tmp_path):
    """In a process of its own: HDF5 used to crash there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        code = (
            "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import conftest;"
            "conftest.write_made_up_split(pathlib.Path(sys.argv[2], 'split'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, Path(__file__).parent, disk],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "DataError" in done.stderr
        assert "the disk is full; nothing was written" in done.stderr
        assert not list((disk / "split").glob("*"))
    finally:
        subprocess.run(["umount", disk], check=True)
