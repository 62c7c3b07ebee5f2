"""The arrays of 2018, made anew from mosaics whose layout is known."""

import numpy as np
import pandas as pd
import pytest

from acdc.errors import DataError
from acdc.tracks.craters import ramp2018, tiles

STEP = tiles.TILE - tiles.OVERLAP


class Array:
    """What 2018's preparation did: levels of quadrangles, row by row, labels where centres lie."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.images, self.labels, self.craters, self.place = [], [], [], []
        self.levels = 0

    def add_level(self, rows, cols, craters=5, empty=()):
        """Cut a mosaic of rows x cols tiles; tiles in `empty` hold no data."""
        size = np.array([rows, cols]) * STEP + tiles.OVERLAP
        mosaic = self.random.integers(1, 255, size, dtype=np.uint8)
        drawn = np.column_stack(
            [
                self.random.integers(0, size[0], craters),
                self.random.integers(0, size[1], craters),
                self.random.uniform(5, 28, craters),
            ]
        )
        for i in empty:
            row, col = np.array(divmod(i, cols)) * STEP
            mosaic[row : row + tiles.TILE, col : col + tiles.TILE] = 0
        for row in range(0, rows * STEP, STEP):
            for col in range(0, cols * STEP, STEP):
                number = len(self.images)
                self.images.append(mosaic[row : row + tiles.TILE, col : col + tiles.TILE])
                self.place.append((self.levels, row, col))
                for y, x, r in drawn - (row, col, 0):
                    if 0 <= y < tiles.TILE and 0 <= x < tiles.TILE:
                        self.labels.append((number, y, x, r))
        self.craters += [(self.levels, *crater) for crater in drawn]
        self.levels += 1

    def save(self, folder, split="train", ending=""):
        np.save(folder / f"data_{split}{ending}.npy", np.array(self.images, dtype=np.uint8))
        table = pd.DataFrame(self.labels, columns=["i", "row_p", "col_p", "radius_p"])
        table.to_csv(folder / f"labels_{split}{ending}.csv", index=False)

    def touching(self, number):
        """Craters that touch a tile, by painting them: (row, col, radius) in its pixels."""
        level, row0, col0 = self.place[number]
        side = np.linspace(-0.5, tiles.TILE - 0.5, 2 * tiles.TILE + 1)
        found = []
        for crater_level, row, col, radius in self.craters:
            row, col = row - row0, col - col0
            if crater_level == level and radius > np.hypot(
                np.abs(side - row).min(), np.abs(side - col).min()
            ):
                found.append((row, col, radius))
        return sorted(found)


def prepared(folder, split="train"):
    ramp2018.prepare(folder, folder / "out", progress=False)
    return tiles.read_targets(folder / "out" / split), tiles.read_images(folder / "out" / split)


def circles_of(targets, tile):
    table = targets.circles[targets.circles["tile"] == tile]
    return sorted(table[["row", "col", "radius"]].itertuples(index=False, name=None))


def test_levels_positions_and_circles_come_back(tmp_path):
    array = Array()
    for sizes in (((5, 6), (2, 3), (1, 1)), ((5, 5), (3, 2), (1, 2)), ((6, 5), (3, 3), (1, 1))):
        for size in sizes:
            array.add_level(*size)
    array.save(tmp_path)
    y, X = prepared(tmp_path)
    np.testing.assert_array_equal(X[:], array.images)
    table = y.tiles
    assert table["quadrangle"].nunique() == array.levels
    found = list(zip(table["quadrangle"].cat.codes, table["row0"], table["col0"], strict=True))
    assert found == array.place
    # the blocks are the three quadrangles, although they have different sizes
    assert table["block"].cat.codes.tolist() == [0] * 37 + [1] * 33 + [2] * 40
    for tile in range(len(X)):
        np.testing.assert_allclose(circles_of(y, tile), array.touching(tile), atol=1e-9)
    same = y.circles.groupby("crater_id", observed=True)["radius"].nunique()
    assert (same == 1).all() and len(same) == len(array.craters)


@pytest.mark.parametrize("seed", range(5))
def test_no_ground_is_shared_between_blocks_even_if_a_level_must_be_cut(tmp_path, seed):
    array = Array(seed)
    array.add_level(*np.random.default_rng(seed).integers(4, 9, 2))
    array.save(tmp_path)
    y, X = prepared(tmp_path)
    table = y.tiles
    assert table["block"].nunique() == 3
    corner, block = table[["row0", "col0"]].to_numpy(), table["block"].cat.codes.to_numpy()
    common = (np.abs(corner[:, None] - corner) < tiles.TILE).all(axis=-1)
    assert not common[block[:, None] != block].any()
    assert len(array.images) / 4 < len(X) < len(array.images)
    kept = {place: number for number, place in enumerate(array.place)}
    for tile, place in enumerate(zip(table["row0"], table["col0"], strict=True)):
        number = kept[(0, *place)]
        np.testing.assert_array_equal(X[tile], array.images[number])
        np.testing.assert_allclose(circles_of(y, tile), array.touching(number), atol=1e-9)


def test_tiles_without_data_link_nothing(tmp_path):
    array = Array()
    array.add_level(4, 4, empty=(5, 6, 9, 10))
    array.add_level(1, 1, empty=(0,))
    array.save(tmp_path)
    y, X = prepared(tmp_path)
    assert y.tiles["valid"].min() == 0
    # the border around the hole hangs together; tiles 5, 6, 9, 10 and the last one stand alone
    assert y.tiles["quadrangle"].nunique() <= 6
    assert len(X) > 0


def test_repeated_pictures_prove_nothing(tmp_path):
    array = Array()
    array.add_level(2, 2)
    array.images += array.images
    array.save(tmp_path)
    y, _ = prepared(tmp_path)
    assert y.tiles["quadrangle"].nunique() == 8


def test_contradicting_neighbours_are_refused():
    # tile 1 to the right of tile 0, tile 2 below both of them
    links = np.array([(0, 1, 0, STEP), (0, 2, STEP, 0), (1, 2, STEP, 0)])
    with pytest.raises(DataError, match="contradicts"):
        ramp2018._layout(3, links)


def test_both_splits_and_the_public_excerpts(tmp_path):
    for split in ("train", "test"):
        array = Array()
        array.add_level(3, 3)
        array.save(tmp_path, split, "_mini")
    (tmp_path / "labels_test_mini.csv").rename(tmp_path / "kept")
    label(tmp_path, "9,1,1,5", "labels_test_mini.csv")
    with pytest.raises(DataError, match="labels_test: 1 labels for tiles that are not there"):
        prepared(tmp_path)
    assert not (tmp_path / "out").exists()  # a bad test split stops the good training split
    (tmp_path / "kept").rename(tmp_path / "labels_test_mini.csv")
    y, X = prepared(tmp_path, "test")
    assert len(X) == 9 and y.tiles["block"].nunique() == 1
    assert (tmp_path / "out" / "train" / "targets.h5").exists()


def test_real_excerpt(real, tmp_path):
    ramp2018.prepare(real / "craters" / "ramp_mini", tmp_path, progress=False)
    y, X = tiles.read_targets(tmp_path / "train"), tiles.read_images(tmp_path / "train")
    images = np.load(real / "craters" / "ramp_mini" / "data_train_mini.npy")
    labels = pd.read_csv(real / "craters" / "ramp_mini" / "labels_train_mini.csv")
    np.testing.assert_array_equal(X[:], images)
    # three rows of ten tiles from three places
    assert y.tiles["block"].cat.codes.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert y.tiles["col0"].tolist() == 3 * list(range(0, 10 * STEP, STEP))
    listed = y.circles[y.circles[["row", "col"]].isin(range(tiles.TILE)).all(axis=1)]
    merged = listed.merge(
        labels, left_on=["tile", "row", "col", "radius"], right_on=[*ramp2018.LABEL_COLUMNS]
    )
    assert len(merged) == len(labels) <= len(y.circles)
    # a crater that 2018 listed in two tiles is one crater
    assert y.circles["crater_id"][:2].nunique() == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "data_train.npy").unlink(), r"data_train\.npy is missing"),
        (lambda f: (f / "labels_train.csv").unlink(), r"labels_train\.csv is missing"),
        (lambda f: (f / "data_train.npy").write_bytes(b"hello"), "no whole .npy file"),
        (
            lambda f: (f / "data_train.npy").write_bytes(
                (f / "data_train.npy").read_bytes()[:5000]
            ),
            "no whole .npy file",
        ),
        (
            lambda f: np.save(f / "data_train.npy", np.zeros((3, 64, 64), np.uint8)),
            r"\(3, 64, 64\)",
        ),
        (lambda f: np.save(f / "data_train.npy", np.zeros((3, 224, 224))), "float64"),
        (lambda f: np.save(f / "data_train.npy", np.zeros((0, 224, 224), np.uint8)), "n > 0"),
        (lambda f: (f / "labels_train.csv").write_text(""), "not a readable CSV"),
        (
            lambda f: (f / "labels_train.csv").write_text("i,row_p\n1,2\n"),
            "col_p, radius_p missing",
        ),
        (lambda f: label(f, "4,1,1,5"), "tiles that are not there, the first for tile 4"),
        (lambda f: label(f, "-1,1,1,5"), "tiles that are not there"),
        (lambda f: label(f, "0.5,1,1,5"), "line 2"),
        (lambda f: label(f, "0,1,1,0"), "line 2.*positive radius"),
        (lambda f: label(f, "0,1,nan,5"), "line 2"),
        (lambda f: label(f, "0,1,300,5"), "line 2"),
        (lambda f: label(f, "0,one,1,5"), "line 2"),
    ],
)
def test_bad_files(tmp_path, damage, message):
    array = Array()
    array.add_level(2, 2)
    array.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        ramp2018.prepare(tmp_path, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def label(folder, line, name="labels_train.csv"):
    (folder / name).write_text(f"i,row_p,col_p,radius_p\n{line}\n")


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=r"neither data_train\.npy nor .* --source ramp2018"):
        ramp2018.prepare(tmp_path, tmp_path / "out", progress=False)


def test_no_labels_at_all(tmp_path):
    array = Array()
    array.add_level(3, 3, craters=0)
    array.save(tmp_path)
    y, _ = prepared(tmp_path)
    assert len(y.circles) == 0
