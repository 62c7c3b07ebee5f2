import pickle
from dataclasses import replace

import numpy as np
import pytest

from acdc import store
from acdc.errors import DataError
from acdc.tracks.worldstrat import samples
from acdc.tracks.worldstrat.archive import BANDS, Place
from acdc.tracks.worldstrat.chips import Chip
from acdc.tracks.worldstrat.simulate.overpass import Truth


def made_up(number):
    random = np.random.default_rng(number)
    valid = random.random((256, 256)) < 0.9
    name = f"Amnesty POI-{number // 2}-1-{number}"
    place = Place(name, f"Amnesty POI-{number // 2}", "train", (0, 0, 1, 1), {}, {"ipcc": "Forest"})
    return Chip(
        place=place,
        row=2,
        col=number,
        lon=7.5,
        lat=46.0,
        bands=random.random((8, 12, 64, 64), dtype=np.float32),
        clear=random.random((8, 64, 64)) < 0.6,
        days=np.arange(8, dtype=np.float32) - 3.5,
        target=np.where(valid, random.random((4, 256, 256), dtype=np.float32), 0),
        valid=valid,
        shift=(0.25, -1.5),
        registered=number % 2 == 0,
        gain=np.arange(4) + 0.5,
        offset=np.zeros(4),
        correlation=0.9,
    )


def truth_of(number):
    random = np.random.default_rng(number + 50)
    ground = random.random((4, 256, 256), dtype=np.float32)
    cover = random.integers(0, 8, (256, 256)).astype(np.uint8)
    return Truth(ground, cover, random.random((256, 256), dtype=np.float32) * 6)


@pytest.fixture
def folder(tmp_path):
    pairs = ((made_up(i), truth_of(i)) for i in range(5))
    samples.write_split(tmp_path, pairs, 5, attributes={"simulated": True, "source": "made up"})
    return tmp_path


def test_what_is_written_is_read(folder):
    X, y = samples.read_split(folder)
    assert len(X) == len(y) == 5
    for i in range(5):
        chip, truth = made_up(i), truth_of(i)
        sample = X[i]
        assert sample.band_names == BANDS
        assert sample.bands.dtype == np.float32
        np.testing.assert_allclose(sample.bands, chip.bands, atol=0.51e-4)
        np.testing.assert_array_equal(sample.clear, chip.clear)
        np.testing.assert_array_equal(sample.days, chip.days)
        known = np.isfinite(y[i])
        np.testing.assert_array_equal(known, np.broadcast_to(chip.valid, known.shape))
        np.testing.assert_allclose(y[i][known], chip.target[known], atol=0.51e-4)
        np.testing.assert_array_equal(y.extra["cover"][i], truth.cover)
        np.testing.assert_array_equal(y.extra["leaf_area"][i], truth.leaf_area)
        np.testing.assert_allclose(y.extra["ground"][i] / 1e4, truth.reflectance, atol=0.51e-4)
    assert list(y.site) == [f"Amnesty POI-{i // 2}" for i in range(5)]
    assert y.chips["registered"].tolist() == [True, False, True, False, True]
    assert y.chips["gain_nir"].tolist() == [3.5] * 5
    assert np.array_equal(X[-1].bands, X[4].bands)
    with pytest.raises(IndexError):
        X[5]


def test_inputs_do_not_tell_the_place(folder):
    with store.open_file(folder / store.INPUTS) as file:
        assert set(file) == {"bands", "clear", "days"}
        assert set(file.attrs) == {"format_version", "simulated", "source", "checksum"}


def test_subsets_are_views(folder):
    X, y = samples.read_split(folder)
    rows = np.array([3, 1])
    for some_x, some_y in (
        (X[rows], y[rows]),
        samples.read_split(folder, rows),
        (X[[4, 3, 1]][1:], y[[4, 3, 1]][1:]),
        (pickle.loads(pickle.dumps(X[rows])), pickle.loads(pickle.dumps(y[rows]))),
    ):
        assert len(some_x) == len(some_y) == 2
        for k, row in enumerate(rows):
            np.testing.assert_array_equal(some_x[k].bands, X[int(row)].bands)
            np.testing.assert_array_equal(some_y[k], y[int(row)])
            np.testing.assert_array_equal(some_y.inputs[k].clear, X[int(row)].clear)
            np.testing.assert_array_equal(some_y.extra["cover"][k], y.extra["cover"][int(row)])
        assert some_y.chips["col"].tolist() == [3, 1]
    assert [sample.days[0] for sample in X[rows]] == [-3.5, -3.5]
    assert sum(np.isfinite(truth).any() for truth in y) == 5


def test_order_hides_what_came_when(tmp_path):
    order = np.array([2, 0, 1])
    pairs = ((made_up(i), None) for i in range(3))
    samples.write_split(tmp_path, pairs, 3, attributes={}, order=order)
    X, y = samples.read_split(tmp_path)
    assert y.extra == {}
    assert y.chips["col"].tolist() == [1, 2, 0]
    np.testing.assert_allclose(X[2].bands, made_up(0).bands, atol=0.51e-4)


@pytest.mark.parametrize(
    ("pairs", "n", "told"),
    [
        ([], 0, "no chips"),
        ([(made_up(0), None)], 2, "1 chips came, 2 were announced"),
        ([(made_up(0), None), (made_up(1), None)], 1, "more than the 1"),
        ([(made_up(0), None), (made_up(1), truth_of(1))], 2, "unlike the rest"),
    ],
)
def test_what_does_not_fit_leaves_nothing(tmp_path, pairs, n, told):
    with pytest.raises(DataError, match=told):
        samples.write_split(tmp_path, pairs, n, attributes={})
    assert list(tmp_path.iterdir()) == []


def test_pair_of_different_splits_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    changed = replace(made_up(7), bands=made_up(8).bands)
    samples.write_split(other, [(changed, None)], 1, attributes={})
    (other / store.TARGETS).replace(folder / store.TARGETS)
    with pytest.raises(DataError):
        samples.read_split(folder)
