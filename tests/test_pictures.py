"""Labelled pictures: three label formats, groups of common ground, splits, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from acdc.errors import DataError
from acdc.tracks.craters import pictures, tiles

Image = pytest.importorskip("PIL.Image")
ATTRIBUTES = {"simulated": True, "source": "test"}


def terrain(seed: int, shape: tuple[int, int] = (240, 300)) -> np.ndarray:
    """Invented texture with power at all scales."""
    rng = np.random.default_rng(seed)
    field = sum(2**k * ndimage.gaussian_filter(rng.normal(size=shape), 2**k) for k in range(5))
    return np.clip(120 + 30 * field / field.std(), 1, 255).astype(np.uint8)


def save(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "pictures", **{f"p{i}": terrain(i) for i in range(4)})


def labels(path: Path, rows: list[tuple], columns="image,row,col,radius") -> Path:
    pd.DataFrame(rows, columns=columns.split(",")).to_csv(path, index=False)
    return path


def run(folder: Path, labels: Path, out: Path, **options) -> dict[str, tiles.Targets]:
    pictures.prepare(folder, labels, out, attributes=ATTRIBUTES, progress=False, **options)
    return {side: tiles.read_targets(out / side) for side in ("train", "test")}


@pytest.mark.filterwarnings("ignore:.*no label")
def test_crops_show_what_the_circles_say(folder, tmp_path):
    marked = terrain(9, (416, 260))
    marked[150, 60] = 255
    marked[300, 200] = 254
    save(folder, p9=marked)
    path = labels(tmp_path / "l.csv", [("p9.png", 150, 60, 9.5), ("p9.png", 300, 200, 12)])
    split = labels(
        tmp_path / "s.csv",
        [(f"p{i}.png", "eval" if i == 9 else "dev") for i in (0, 1, 2, 3, 9)],
        "image,part",
    )
    test = run(folder, path, tmp_path / "out", split=split)["test"]
    images = tiles.read_images(tmp_path / "out" / "test")
    assert test.tiles[["row0", "col0"]].to_numpy().tolist() == [[0, 18], [192, 18]]
    seen = [
        (int(image[int(row), int(col)]), radius)
        for image, tile in zip(images, range(2), strict=True)
        for row, col, radius in [*test[tile], *test.ignored[tile]]
        if 0 <= row < 224
    ]
    assert sorted(seen) == [(254, 12.0), (255, 9.5)]


def test_the_three_formats_say_the_same(folder, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (f"p{i}.png", rng.uniform(20, 220), rng.uniform(20, 280), rng.uniform(5, 15))
        for i in range(4)
        for _ in range(3)
    ]
    (tmp_path / "yolo").mkdir()
    annotations = []
    for number, (name, row, col, radius) in enumerate(rows):
        box = [col + 0.5 - radius, row + 0.5 - radius, 2 * radius, 2 * radius]
        annotations.append({"id": number, "image_id": int(name[1]), "category_id": 0, "bbox": box})
        shares = np.array([col + 0.5, row + 0.5, 2 * radius, 2 * radius]) / [300, 240, 300, 240]
        with (tmp_path / "yolo" / f"{name[:2]}.txt").open("a") as file:
            print(0, *shares, file=file)
    coco = {"images": [{"id": i, "file_name": f"p{i}.png"} for i in range(4)]}
    (tmp_path / "coco.json").write_text(json.dumps(coco | {"annotations": annotations}))
    collection = pictures.Pictures(folder)
    wanted = np.array([row[1:] for row in rows])
    for path in (labels(tmp_path / "l.csv", rows), tmp_path / "coco.json", tmp_path / "yolo"):
        table = pictures.read_labels(path, collection)
        assert table["picture"].tolist() == [int(row[0][1]) for row in rows]
        np.testing.assert_allclose(table[["row", "col", "radius"]], wanted, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*no label")
def test_ignore_and_kind_are_kept(folder, tmp_path):
    path = labels(
        tmp_path / "l.csv",
        [
            ("p0.png", 100, 100, 10, 1, "ghost"),
            ("p0.png", 60, 150, 9, 0, 3),
            ("p1.png", 120, 140, 8, 0, ""),
        ],
        "image,row,col,radius,ignore,kind",
    )
    split = labels(
        tmp_path / "s.csv",
        [(f"p{i}.png", "test" if i > 1 else "train") for i in range(4)],
        "image,part",
    )
    train = run(folder, path, tmp_path / "out", split=split)["train"]
    assert [(c.kind, c.reason) for c in train.ignored[0]] == [("ghost", "uncertain")]
    assert [c.kind for c in train[0]] == ["secondary"]
    assert [c.kind for c in train[1]] == ["valid"]


@pytest.mark.filterwarnings("ignore:.*share ground", "ignore:.*no label")
def test_common_ground_stays_on_one_side(tmp_path):
    ground = terrain(5, (400, 400))
    arrays = {f"p{i}": terrain(20 + i, (240, 240)) for i in range(6)}
    arrays |= {
        "a": ground[:300, :300],
        "b": ground[40:340, 60:360],
        "c": ground[40:340, 60:360][::-1].T,
    }
    folder = save(tmp_path / "pictures", **arrays)
    Image.fromarray(arrays["p0"]).save(folder / "again.jpg", quality=50)
    path = labels(tmp_path / "l.csv", [("a.png", 100, 100, 10)])
    for seed in range(4):
        split = run(folder, path, tmp_path / f"out{seed}", seed=seed, test_share=0.4)
        groups = {side: set(split[side].tiles["block"]) for side in split}
        assert not groups["train"] & groups["test"]
        assert groups["train"] | groups["test"] == {
            "a.png",
            "again.jpg",
            *(f"p{i}.png" for i in range(1, 6)),
        }
        n = split["test"].tiles["quadrangle"].nunique()
        assert n >= 4
    torn = labels(
        tmp_path / "s.csv",
        [(p.name, "test" if p.stem in ("b", "p3") else "train") for p in folder.iterdir()],
        "image,part",
    )
    with pytest.warns(UserWarning, match=r"1 test pictures share ground.*b\.png"):
        split = run(folder, path, tmp_path / "given", split=torn)
    assert set(split["test"].tiles["quadrangle"]) == {"p3.png"}


BAD_ROWS = {
    "no picture": (("gone.png", 50, 50, 8), r"line 3.*'gone.png' is not there"),
    "negative radius": (("p0.png", 50, 50, -8), r"line 3.*radius -8"),
    "not a number": (("p0.png", 50, "x", 8), r"line 3.*col is 'x'"),
    "empty": (("p0.png", 50, None, 8), r"line 3.*col is ''"),
    "outside": (("p0.png", 500, 50, 8), r"line 3.*lies outside p0.png \(240 x 300"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named(case, folder, tmp_path):
    row, message = BAD_ROWS[case]
    path = labels(tmp_path / "l.csv", [("p1.png", 50, 50, 8), row])
    with pytest.raises(DataError, match=message):
        run(folder, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_files_are_named(folder, tmp_path):
    good = labels(tmp_path / "l.csv", [("p1.png", 50, 50, 8)])
    with pytest.raises(DataError, match="unknown: r"):
        run(
            folder,
            labels(tmp_path / "u.csv", [("p1.png", 50, 50, 8, 1)], "image,row,col,radius,r"),
            tmp_path / "out",
        )
    with pytest.raises(DataError, match="missing: radius"):
        run(
            folder,
            labels(tmp_path / "m.csv", [("p1.png", 50, 50)], "image,row,col"),
            tmp_path / "out",
        )
    with pytest.raises(DataError, match="no such file"):
        run(folder, tmp_path / "gone.csv", tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        run(tmp_path / "gone", good, tmp_path / "out")
    (tmp_path / "c.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="not a COCO file"):
        run(folder, tmp_path / "c.json", tmp_path / "out")
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "p0.txt").write_text("0 .5 .5 .1\n")
    with pytest.raises(DataError, match=r"p0.txt, line 1"):
        run(folder, tmp_path / "yolo", tmp_path / "out")
    half = labels(tmp_path / "s.csv", [("p0.png", "dev")], "image,part")
    with (
        pytest.raises(DataError, match="no part for 3 pictures"),
        pytest.warns(UserWarning, match="no label"),
    ):
        run(folder, good, tmp_path / "out", split=half)
    save(folder, small=terrain(3, (200, 300)))
    with pytest.raises(DataError, match=r"small.png: 200 x 300"):
        run(folder, good, tmp_path / "out")
    (folder / "small.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a readable picture"):
        run(folder, good, tmp_path / "out")
    Image.fromarray(np.ones((240, 240), np.uint16)).save(folder / "small.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        run(folder, good, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no label")
def test_real_pictures(real, tmp_path):
    source = real / "craters" / "themis_tiles"
    split = run(source / "images", source / "labels.csv", tmp_path, split=source / "split.csv")
    assert len(split["train"]) == 4 * 534
    assert len(split["test"]) == 4 * 178


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no label")
def test_displaced_labels_are_registered(real, tmp_path):
    source = real / "craters" / "themis_tiles"
    table = pd.read_csv(source / "labels.csv")
    table["row"] += 4
    table["col"] -= 3
    # those that are now outside
    table = table[(table["row"] < 415) & (table["col"] > 0)]
    table.to_csv(tmp_path / "displaced.csv", index=False)
    split = source / "split.csv"
    right = run(source / "images", source / "labels.csv", tmp_path / "right", split=split)
    again = run(
        source / "images",
        tmp_path / "displaced.csv",
        tmp_path / "again",
        split=split,
        register=True,
    )
    scored = [y["train"].row_col_radius[y["train"].reason == 0] for y in (right, again)]
    # where the right labels are themselves within a pixel of the rims, the nearest are close
    gap = np.abs(scored[0][:, None, :2] - scored[1][None, :, :2]).max(axis=2).min(axis=1)
    assert np.median(gap) < 1
