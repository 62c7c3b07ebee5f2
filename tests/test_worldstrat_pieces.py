import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_bounds

from acdc import store
from acdc.errors import DataError
from acdc.tracks.worldstrat import archive, chips, pieces, samples

WEST, SOUTH, SIDE = 7.0, 46.0, 66


def write_tiff(path, image, bounds=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    transform = None if bounds is None else from_bounds(*bounds, width, height)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=image.dtype,
        crs="EPSG:4326", transform=transform,
    ) as file:  # fmt: skip
        file.write(image)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three places: a good one, one without SPOT, one that is always cloudy."""
    root = tmp_path_factory.mktemp("raw")
    random = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(("Landcover-1", "no spot", "cloudy")):
        west = WEST + 0.1 * number
        bounds = (west, SOUTH, west + SIDE * 1e-4, SOUTH + SIDE * 1e-4)
        coarse = random.uniform(0.05, 0.4, (4, SIDE, SIDE))
        low = np.full((12, SIDE, SIDE), 0.1, np.float32)
        low[list(chips.LIKE_SPOT)] = coarse
        if name != "no spot":
            fine = np.repeat(np.repeat(coarse, 6, axis=1), 6, axis=2)
            image = np.round(fine * 1e4).astype(np.uint16)
            write_tiff(root / "hr_dataset" / name / f"{name}_ps.tiff", image)
        for n in (1, 2):
            stem = root / "lr_dataset" / name / "L2A"
            write_tiff(stem / f"{name}-{n}-L2A_data.tiff", low, bounds)
            cloud = np.full((1, SIDE, SIDE), float(name == "cloudy"), np.float32)
            write_tiff(stem / f"{name}-{n}-CLM.tiff", cloud, bounds)
            rows.append(
                {
                    "tile": name,
                    "n": n,
                    "lowres_date": f"2019-06-{10 + n}",
                    "highres_date": "2019-06-15",
                    "bounds": str(bounds),
                    "IPCC Class": "Forest",
                }
            )
    pd.DataFrame(rows).to_csv(root / archive.METADATA, index=False)
    return root


@pytest.fixture
def tasks(root, tmp_path):
    opened = archive.Archive(root)
    return pieces.plan(opened, list(opened.places), tmp_path / "pieces")


def test_piece_holds_the_chips(root, tasks):
    for task in tasks:
        assert pieces.prepare_piece(task) == task.piece
    raw, _ = archive.Archive(root).read("Landcover-1")
    (made,), _ = chips.make(raw)
    (read,), defects = pieces.read_piece(tasks[0])
    assert defects == []
    assert read.place == made.place
    np.testing.assert_allclose(read.bands, made.bands, atol=0.51e-4)
    np.testing.assert_allclose(read.target, made.target, atol=0.51e-4)
    for name in ("clear", "days", "valid", "gain", "offset"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    for name in ("row", "col", "lon", "lat", "shift", "registered", "correlation"):
        assert getattr(read, name) == getattr(made, name)


def test_report_says_what_was_dropped_and_why(tasks):
    for task in tasks:
        pieces.prepare_piece(task)
    told = pieces.report(tasks)
    assert told["place"].tolist() == ["no spot", "cloudy"]
    assert told["reason"].tolist() == [
        "SPOT image is missing",
        "only 0% was ever clear in 2 revisits",
    ]
    assert told["dropped"].all()
    assert pieces.report(tasks[:1]).empty


def test_split_of_pieces(tasks, tmp_path):
    for task in tasks:
        pieces.prepare_piece(task)
    pieces.write_split(tmp_path / "train", tasks, attributes={"simulated": False}, shuffle_seed=1)
    X, y = samples.read_split(tmp_path / "train")
    assert len(X) == 1 and y.chips["place"].tolist() == ["Landcover-1"]
    (chip,), _ = pieces.read_piece(tasks[0])
    np.testing.assert_array_equal(X[0].bands, chip.bands)
    with pytest.raises(DataError, match="no chips"):
        pieces.write_split(tmp_path / "none", tasks[1:], attributes={})
    assert not (tmp_path / "none" / store.INPUTS).exists()


def test_finished_pieces_are_kept_and_others_not_taken_for_them(root, tasks):
    piece = pieces.prepare_piece(tasks[0])
    before = piece.stat().st_mtime_ns
    assert pieces.prepare_piece(tasks[0]).stat().st_mtime_ns == before
    different = [
        replace(tasks[0], across=2),
        replace(tasks[0], sources="other data"),
        tasks[1],
    ]
    assert len({task.piece for task in (tasks[0], *different)}) == 4
    opened = archive.Archive(root)
    assert pieces.plan(opened, ["Landcover-1"], tasks[0].folder)[0].piece == piece


def test_unfinished_and_damaged_pieces(root, tasks):
    with pytest.raises(DataError, match="not finished"):
        pieces.read_piece(tasks[0])
    tasks[0].piece.write_bytes(b"half of it")
    with pytest.raises(DataError, match="damaged"):
        pieces.read_piece(tasks[0])
    with pytest.raises(DataError, match="no place 'nowhere'"):
        pieces.plan(archive.Archive(root), ["nowhere"], tasks[0].folder)


def test_interrupted_piece_leaves_nothing(tasks, monkeypatch):
    def full(*args, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pieces.np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        pieces.prepare_piece(tasks[0])
    assert list(tasks[0].folder.iterdir()) == []


def test_description_is_plain_json(tasks):
    with np.load(pieces.prepare_piece(tasks[0]), allow_pickle=False) as file:
        described = json.loads(str(file["described"]))
    assert described["chips"][0]["registered"] is True
