"""The track of land surface temperature, from stored samples to scores."""

import argparse
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from acdc import folds, sensor, tracks
from acdc.errors import DataError, KitError, PredictionError
from acdc.metrics import thermal
from acdc.ramp.predictions import make_predictions
from acdc.ramp.scores import make_score_types
from acdc.ramp.workflow import make_workflow
from acdc.tracks.lst import (
    evaluation,
    fields,
    gaps,
    interpolation,
    multiscale,
    prepare,
    samples,
    scenes,
    simulate,
)
from acdc.tracks.lst.track import TRACK

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = sorted(file.parent.name for file in ROOT.glob("submissions/*/thermal_sharpener.py"))


@pytest.fixture(scope="session")
def raw():
    """Two days on each of four small simulated grounds."""
    found = []
    for number in range(4):
        random = np.random.default_rng(number)
        found += simulate.simulate_group(f"g{number}", random, n_days=2, side=32)
    return [scenes.clean(scene) for scene in found]


@pytest.fixture
def split(raw, tmp_path):
    samples.write_split(tmp_path, raw, attributes={"simulated": True})
    return samples.read_split(tmp_path)


@pytest.fixture
def coarse(raw, tmp_path):
    samples.write_split(tmp_path, [scenes.coarsen(s) for s in raw], attributes={})
    return samples.read_split(tmp_path)


def perfect(X, y):
    """The truth, filled where it is unknown."""
    return [np.where(np.isfinite(t), t, 300.0) for t in y]


# interpolation


def test_bicubic_equals_pillow():
    field = np.random.default_rng(0).normal(300, 5, (16, 12)).astype(np.float32)
    resized = Image.fromarray(field).resize((48, 64), Image.Resampling.BICUBIC)
    inner = np.s_[8:-8, 8:-8]
    np.testing.assert_allclose(
        interpolation.bicubic(field)[inner], np.asarray(resized)[inner], atol=1e-3
    )


def test_bilinear_equals_scipy():
    field = np.random.default_rng(0).normal(300, 5, (16, 12))
    expected = ndimage.zoom(field, 4, order=1, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(interpolation.bilinear(field), expected, atol=1e-9)


@pytest.mark.parametrize("interpolate", [interpolation.bilinear, interpolation.bicubic])
def test_interpolation_keeps_planes_and_stacks(interpolate):
    row, col = np.mgrid[:8, :8]
    plane = 300.0 + 2 * row - col
    fine_row, fine_col = (np.mgrid[:32, :32] + 0.5) / 4 - 0.5
    inner = np.s_[8:-8, 8:-8]
    expected = 300.0 + 2 * fine_row - fine_col
    np.testing.assert_allclose(interpolate(plane)[inner], expected[inner], atol=1e-9)
    stack = np.stack([plane, -plane])
    np.testing.assert_allclose(interpolate(stack), [interpolate(plane), -interpolate(plane)])


# samples


def test_stored_samples(split, raw):
    X, y = split
    assert len(X) == len(y) == 8
    sample = X[1]
    assert sample.lst.shape == (32, 32) and sample.ndvi.shape == (128, 128)
    assert sample.pixel_size == 1000 and sample.valid.dtype == bool
    assert np.isfinite(sample.lst).all() and np.isfinite(sample.ndvi).all()
    np.testing.assert_array_equal(sample.valid, np.isfinite(raw[1].lst))
    known = sensor.repeat(sample.valid, 4) & np.isfinite(raw[1].ndvi)
    np.testing.assert_array_equal(np.isfinite(y[1]), known & np.isfinite(raw[1].reference))
    assert list(y.group) == [s.group for s in raw]
    with pytest.raises(IndexError):
        X[8]


def test_subsets_stay_lazy_and_pickle(split):
    X, y = split
    part, truth = X.subset([5, 2]), y[np.array([5, 2])]
    np.testing.assert_array_equal(part[1].lst, X[2].lst)
    np.testing.assert_array_equal(X[2:6][1].ndvi, X[3].ndvi)
    np.testing.assert_array_equal(truth[0], y[5])
    np.testing.assert_array_equal(np.asarray(truth), np.asarray(y)[[5, 2]])
    copied = pickle.loads(pickle.dumps(part))
    np.testing.assert_array_equal(copied[0].lst, X[5].lst)
    assert len(pickle.dumps(part)) < 5000


def test_inputs_tell_nothing_of_the_truth(split, raw):
    import h5py

    with h5py.File(split[0].path) as file:
        assert set(file) == {"lst", "ndvi", "valid", "pixel_size"}
        assert set(file.attrs) == {"format_version", "checksum", "simulated"}


def test_training_is_the_same_scene_one_scale_up(raw):
    scene = scenes.coarsen(raw[0])
    assert scene.lst.shape == (8, 8) and scene.ndvi.shape == (32, 32)
    assert scene.pixel_size == 4000
    np.testing.assert_array_equal(scene.reference, raw[0].lst)
    np.testing.assert_allclose(sensor.aggregate_flux(scene.reference, 4), scene.lst)


def test_impossible_splits_are_refused(raw, tmp_path):
    with pytest.raises(DataError, match="no scenes"):
        samples.write_split(tmp_path, [], attributes={})
    with pytest.raises(DataError, match=r"one size, not \[\(8, 8\), \(32, 32\)\]"):
        samples.write_split(tmp_path, [raw[0], scenes.coarsen(raw[1])], attributes={})
    with pytest.raises(DataError, match="has no reference"):
        samples.write_split(tmp_path, [replace(raw[0], reference=None)], attributes={})
    reference = np.full_like(raw[0].reference, np.nan)
    reference[:4, :4] = 300
    with pytest.raises(DataError, match=r"known together on 0\.\d% of the pixels"):
        samples.write_split(tmp_path, [replace(raw[0], reference=reference)], attributes={})
    assert not list(tmp_path.iterdir())


def test_files_of_two_preparations_do_not_mix(raw, tmp_path):
    samples.write_split(tmp_path / "a", raw[:2], attributes={})
    samples.write_split(tmp_path / "b", raw[2:4], attributes={})
    shutil.copy(tmp_path / "a" / "inputs.h5", tmp_path / "b")
    with pytest.raises(DataError, match="belongs to other samples"):
        samples.read_split(tmp_path / "b")


# predictions


@pytest.mark.parametrize("form", ["array", "list", "generator"])
def test_forms_of_predictions(form):
    means = np.random.default_rng(0).normal(300, 3, (3, 8, 8))
    returned = {"array": means, "list": list(means), "generator": (m for m in means)}[form]
    found = fields.check(returned, 3)
    assert found.mean.dtype == np.float32 and found.deviation is None
    np.testing.assert_allclose(found.mean, means, atol=1e-4)
    np.testing.assert_array_equal(found.take(np.array([2, 0])).mean, found.mean[[2, 0]])


def test_pairs_have_deviations(tmp_path):
    means = np.full((2, 4, 4), 300.0)
    found = fields.check((list(means), np.ones((2, 4, 4))), 2)
    np.testing.assert_array_equal(found.deviation, 1)
    fields.save(found, tmp_path / "y_pred.npz")
    back = fields.load(tmp_path / "y_pred.npz")
    np.testing.assert_array_equal(back.mean, found.mean)
    np.testing.assert_array_equal(back.deviation, found.deviation)
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(PredictionError, match="no predictions"):
        fields.load(tmp_path / "bad.npz")


def with_nan():
    field = np.full((2, 8, 8), 300.0)
    field[1, 0, :3] = np.nan
    return field


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned a NoneType"),
        (np.full((3, 8, 8), 300.0), "3 fields for 2 samples"),
        (np.full((1, 8, 8), 300.0), "1 fields for 2 samples"),
        ([], "0 fields for 2 samples"),
        (np.full((2, 8, 8, 1), 300.0), r"prediction 0 has the shape \(8, 8, 1\)"),
        ([np.full((8, 8), 300.0), np.full((8, 4), 300.0)], r"shape \(8, 4\), the ones before"),
        (with_nan(), "prediction 1 holds 3 NaN or infinite pixels of 64"),
        (np.full((2, 8, 8), 26.85), "Celsius"),
        (np.full((2, 8, 8), 1.2), "Celsius"),
        (np.full((2, 8, 8), 15_000.0), "kelvin between 150 and 400"),
        (np.full((2, 0, 0), 300.0), "is empty"),
        ([["warm"], ["cold"]], "no array of numbers"),
        (({"mean": 1}), "no array of numbers|has the shape"),
        ((np.full((2, 8, 8), 300.0), np.ones((2, 4, 4))), r"deviations \(2, 4, 4\)"),
        ((np.full((2, 8, 8), 300.0), -np.ones((2, 8, 8))), "not negative"),
    ],
)
def test_wrong_predictions_are_named(returned, message):
    with pytest.raises(PredictionError, match=message):
        fields.check(returned, 2)


def test_the_wrong_factor_is_named(split):
    X, y = split
    twice = fields.check([np.kron(sample.lst, np.ones((2, 2))) for sample in X], len(X))
    with pytest.raises(PredictionError, match=r"64 x 64 pixels, expected 128 x 128: 4 times finer"):
        evaluation.evaluate(y, twice)
    with pytest.raises(PredictionError, match=r"prediction 0 has 64 x 64 pixels, expected 128"):
        TRACK.check(list(twice.mean), X)


def test_bagging_averages_and_widens():
    random = np.random.default_rng(0)
    means = [random.normal(300, 2, (3, 4, 4)).astype(np.float32) for _ in range(3)]
    spreads = [random.uniform(0.1, 1, (3, 4, 4)).astype(np.float32) for _ in range(3)]
    models = [fields.Fields(m, s) for m, s in zip(means, spreads, strict=True)]
    rows = [np.array([0, 1, 2]), np.array([2, -1, 0]), np.array([-1, -1, 1])]
    bagged = fields.combine(list(zip(models, rows, strict=True)), 3)
    chosen = [m.mean[r] for m, r in zip(models, rows, strict=True)]
    np.testing.assert_allclose(bagged.mean[1], means[0][1], rtol=1e-6)
    np.testing.assert_allclose(bagged.mean[0], (chosen[0][0] + chosen[1][0]) / 2, rtol=1e-6)
    np.testing.assert_allclose(bagged.mean[2], np.mean([c[2] for c in chosen], axis=0), rtol=1e-6)
    variances = np.mean([s.deviation[r][2] ** 2 for s, r in zip(models, rows, strict=True)], axis=0)
    between = np.var([c[2].astype(float) for c in chosen], axis=0)
    np.testing.assert_allclose(bagged.deviation[2], np.sqrt(variances + between), rtol=1e-4)
    np.testing.assert_allclose(bagged.deviation[1], spreads[0][1], rtol=1e-4)
    unanswered = fields.combine([(models[0], np.array([0, -1]))], 2)
    assert np.isnan(unanswered.mean[1]).all() and np.isfinite(unanswered.mean[0]).all()
    without = fields.combine([(models[0], rows[0]), (fields.Fields(means[1]), rows[0])], 3)
    assert without.deviation is None


# evaluation


def test_the_truth_is_perfect_and_keeps_its_own_consistency(split):
    X, y = split
    found = evaluation.evaluate(y, fields.check(perfect(X, y), len(X)))
    table = found.scenes
    assert table.ubrmse.max() < 1e-4 and table.spectrum.max() < 1e-2
    assert table.ssim.min() > 0.9999 and table.gradient.min() > 0.9999
    assert evaluation.gain(found) > 0.999
    assert (table.truth_consistency > 0.2).all()


def test_bicubic_has_no_gain(split):
    X, y = split
    found = evaluation.evaluate(y, fields.check((interpolation.bicubic(s.lst) for s in X), len(X)))
    assert abs(evaluation.gain(found)) < 1e-6
    np.testing.assert_allclose(found.scenes.ubrmse, found.scenes.bicubic_ubrmse, atol=1e-5)


def test_a_scene_wide_bias_costs_rmse_alone(split):
    X, y = split
    one = [interpolation.bicubic(s.lst) for s in X]
    a, b = (
        evaluation.evaluate(y, fields.check([f + offset for f in one], len(X))).scenes
        for offset in (0, 7)
    )
    for score in ("ubrmse", "ssim", "gradient", "spectrum"):
        np.testing.assert_allclose(a[score], b[score], atol=1e-3)
    assert (b.rmse > a.rmse).all()


def test_scores_are_medians_over_groups_of_means_over_scenes():
    table = pd.DataFrame({"group": ["a", "a", "b", "c"], "ubrmse": [1.0, 3.0, 5.0, 1.0]})
    assert evaluation.Evaluation(table).over_groups("ubrmse") == 2.0
    table["ubrmse"] = [np.nan, 3.0, np.nan, 1.0]
    assert evaluation.Evaluation(table).over_groups("ubrmse") == 2.0


def test_the_track_scores_through_ramp(coarse):
    X, y = coarse
    predictions = make_predictions(TRACK)
    truth = predictions(y_true=y)
    noisy = [f + np.random.default_rng(0).normal(0, 1, f.shape) for f in perfect(X, y)]
    found = predictions(y_pred=fields.check(noisy, len(X)))
    values = {s.name: s.score_function(truth, found) for s in make_score_types(TRACK)}
    assert next(iter(values)) == "ubrmse"
    assert values["ubrmse"] == pytest.approx(1, abs=0.05)
    assert np.isnan(values.pop("calibration"))
    assert all(np.isfinite(value) for value in values.values())
    honest = predictions(y_pred=fields.check((noisy, np.ones((len(X), 32, 32))), len(X)))
    calibration = make_score_types(TRACK)[-1]
    assert calibration.name == "calibration" and calibration.score_function(truth, honest) < 0.02
    bag = predictions.combine([found, predictions(y_pred=fields.check(perfect(X, y), len(X)))])
    half = make_score_types(TRACK)[0].score_function(truth, bag)
    assert half == pytest.approx(values["ubrmse"] / 2, rel=0.01)


def test_folds_keep_groups_whole(coarse):
    _, y = coarse
    seen = []
    for train, valid in TRACK.folds(y):
        assert not set(y.group[train]) & set(y.group[valid])
        seen += valid.tolist()
    assert sorted(seen) == list(range(len(y)))
    with pytest.raises(DataError, match="2 blocks of independent ground, 3 folds"):
        folds.block_folds(np.array(["a", "b", "a"]), 3)


# entries


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_keeps_the_contract(name, coarse, raw, tmp_path):
    X, y = coarse
    workflow = make_workflow(TRACK)
    element = workflow.train_submission(str(ROOT / "submissions" / name), X, y, np.arange(6))
    samples.write_split(tmp_path / "fine", raw[6:], attributes={})
    X_test, y_test = samples.read_split(tmp_path / "fine")
    found = workflow.test_submission(element, X_test)
    table = evaluation.evaluate(y_test, found).scenes
    assert (table.ubrmse < 1.5 * table.bicubic_ubrmse).all()
    again = workflow.test_submission(element, X_test)
    np.testing.assert_array_equal(found.mean, again.mean)


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_survive_scenes_that_tell_nothing(name, raw, tmp_path):
    bare = replace(raw[0], ndvi=np.full_like(raw[0].ndvi, 0.4))
    samples.write_split(tmp_path, [bare, scenes.clean(raw[1])], attributes={})
    X, y = samples.read_split(tmp_path)
    element = make_workflow(TRACK).train_submission(str(ROOT / "submissions" / name), X, y)
    found = fields.check(element.predict(X), 2)
    assert evaluation.evaluate(y, found).scenes.ubrmse[0] < 1.2 * y.scenes.bicubic_ubrmse[0]


def test_area_to_point_kriging_keeps_the_averages():
    """What defines ATPRK: averaged over coarse pixels, it gives the input back."""
    module = {}
    exec((ROOT / "submissions/atprk/thermal_sharpener.py").read_text(), module)
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((24, 24)), 1)
    fine = module["krige"](field, 5.0)
    np.testing.assert_allclose(sensor.aggregate(fine, 4), field, atol=1e-9)
    weights = module["kriging_weights"](5.0)
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1)


def test_the_point_variogram_is_recovered():
    module = {}
    exec((ROOT / "submissions/atprk/thermal_sharpener.py").read_text(), module)
    random, n, reach = np.random.default_rng(1), 256, 6.0
    # a field with the exponential covariance of range 6 coarse pixels, on points
    far = np.minimum(np.arange(n), n - np.arange(n)) / 4
    covariance = module["covariance"](np.hypot(far[:, None], far[None]), reach)
    spectrum = np.maximum(np.fft.fft2(covariance).real, 0)
    found = [
        module["point_reach"](
            sensor.aggregate(
                np.fft.ifft2(np.fft.fft2(random.standard_normal((n, n))) * np.sqrt(spectrum)).real,
                4,
            ),
            np.ones((n // 4, n // 4), bool),
        )
        for _ in range(5)
    ]
    assert np.median(found) == pytest.approx(reach, rel=0.3)


# gaps and scales


class Oracle:
    """Interpolates and adds what it knows: the truth's own detail."""

    def __init__(self, y):
        self.y = y

    def predict(self, X):
        return [interpolation.bicubic(sample.lst) for sample in X]


def test_gaps_by_hand(raw):
    seen = []

    def train(X, y):
        seen.append(set(y.group))
        assert X[0].lst.shape == (8, 8)
        return Oracle(y)

    found = gaps.measure(train, raw, n_folds=2)
    assert len(seen) == 2 and seen[0] | seen[1] == {s.group for s in raw}
    for way, evaluated in (("coarse", found.coarse), ("aggregated", found.aggregated)):
        assert sorted(evaluated.scenes.scene.astype(str)) == sorted(s.name for s in raw), way
    expected = {}
    for scene in raw:
        lst = scenes.fill(sensor.aggregate_flux(scene.reference, 4))
        field = interpolation.bicubic(lst.astype(np.float32))
        known = np.isfinite(scene.ndvi) & sensor.repeat(
            np.isfinite(sensor.aggregate_flux(scene.reference, 4)), 4
        )
        truth = np.where(known, scene.reference, np.nan)
        expected.setdefault(scene.group, []).append(thermal.unbiased_rmse(truth, field))
    aggregated = np.median([np.mean(v) for v in expected.values()])
    assert found.aggregated.over_groups("ubrmse") == pytest.approx(aggregated, abs=1e-4)
    total = found.fine.over_groups("ubrmse") - found.coarse.over_groups("ubrmse")
    assert found.scale_gap + found.sensor_gap == pytest.approx(total)
    assert found.wins == 0
    with pytest.raises(DataError, match="no scene has a reference"):
        gaps.measure(train, [replace(s, reference=None) for s in raw])


def test_multiscale_variances_add_up():
    random = np.random.default_rng(0)
    field = ndimage.gaussian_filter(random.standard_normal((64, 64)), 2) * 20 + 300
    table = multiscale.multiscale_statistics(field, -field / 10, 250.0)
    assert list(table["scale"]) == [250, 500, 1000, 2000, 4000, 8000]
    parts = table.detail_variance[:3].sum() + table.variance[3]
    # flux aggregates are no exact means: hundredths of a kelvin
    assert parts == pytest.approx(table.variance[0], rel=0.01)
    np.testing.assert_allclose(table.correlation[:5], -1, atol=1e-2)
    np.testing.assert_allclose(table.slope[:4], -10, rtol=0.01)


def test_a_slope_is_found_at_its_own_scale():
    """NDVI that cools by 10 K per unit in parcels of 8 pixels and by 30 K in landscapes of 64."""
    random = np.random.default_rng(1)
    large, small = (
        np.kron(random.normal(0, 0.1, (256 // n,) * 2), np.ones((n, n))) for n in (64, 8)
    )
    field = 300 - 30 * large - 10 * small
    table = multiscale.multiscale_statistics(field, large + small, 250.0).set_index("scale")
    assert table.detail_slope[1000.0 * 2] == pytest.approx(-10, rel=0.02)
    assert table.detail_slope[8000] == pytest.approx(-10, rel=0.05)
    deeper = multiscale.multiscale_statistics(field, large + small, 250.0, n_scales=8)
    assert deeper.detail_slope.iloc[6] < -20
    assert np.isnan(
        multiscale.multiscale_statistics(field[:2, :2], field[:2, :2] * np.nan, 1.0).slope[0]
    )


def test_multiscale_without_truth_uses_the_lst(raw):
    table = multiscale.statistics_of_scenes([raw[0], replace(raw[1], reference=None)])
    assert table.groupby("scene")["scale"].min().tolist() == [250, 1000]


# simulation and preparation


def test_simulation_is_seeded_and_like_real_ground(raw):
    again = next(iter(simulate.simulate_group("g0", np.random.default_rng(0), 2, 32)))
    np.testing.assert_array_equal(scenes.clean(again).lst, raw[0].lst)
    other = next(iter(simulate.simulate_group("g0", np.random.default_rng(9), 1, 32)))
    assert not np.array_equal(other.ndvi, again.ndvi)
    table = multiscale.statistics_of_scenes(raw).drop(columns=["scene", "group"])
    median = table.groupby("scale").median()
    assert (median.detail_slope < -4).all()
    assert median.detail_slope[250] > 0.7 * median.detail_slope[2000]
    assert min(np.nanmin(s.reference) for s in raw) > 270
    assert max(np.nanmax(s.reference) for s in raw) < 330


def test_energy_is_balanced():
    ground = simulate.make_ground(np.random.default_rng(0), 64)
    canopy, moisture = np.full((64, 64), 0.3, np.float32), np.full((64, 64), 0.5, np.float32)
    sun, air = np.full((64, 64), 800, np.float32), np.full((64, 64), 295, np.float32)
    warm = simulate.surface_temperature(ground, canopy, moisture, sun, air)
    green = simulate.surface_temperature(ground, canopy + 0.5, moisture, sun, air)
    dry = simulate.surface_temperature(ground, canopy, moisture - 0.4, sun, air)
    dark = simulate.surface_temperature(ground, canopy, moisture, 0 * sun, air)
    land = ground.cover != 4
    assert (green < warm)[land].all() and (dry > warm)[land].all() and (dark < air).all()


def options(tmp_path, **changed):
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    found = parser.parse_args([])
    vars(found).update(
        out=tmp_path,
        private=None,
        reuse=False,
        force=False,
        progress=False,
        arguments=[],
        size="tiny",
        kit=ROOT,
    )
    vars(found).update(changed)
    return found


def test_default_data_is_simulated_and_stays(tmp_path, capsys):
    prepare.run(options(tmp_path))
    X, y = samples.read_split(tmp_path / "lst" / "train")
    X_test, y_test = samples.read_split(tmp_path / "lst" / "test")
    assert X[0].lst.shape == (8, 8) and X_test[0].lst.shape == (32, 32)
    assert not set(y.group) & set(y_test.group)
    assert "Simulating" in capsys.readouterr().out
    with pytest.raises(DataError, match="--reuse"):
        prepare.run(options(tmp_path))
    prepare.run(options(tmp_path, reuse=True))
    assert "as it is" in capsys.readouterr().out
    assert (tmp_path / "lst" / "provenance.json").is_file()


def test_private_data_leaves_no_truth_behind(tmp_path):
    prepare.run(options(tmp_path, private=tmp_path / "hidden"))
    found = sorted(p.name for p in (tmp_path / "hidden").rglob("*") if p.is_file())
    assert found == ["inputs.h5", "inputs.h5", "provenance.json", "targets.h5", "targets.h5"]
    with pytest.raises(KitError, match="inside the kit folder"):
        prepare.run(options(tmp_path, private=ROOT / "hidden"))
    with pytest.raises(KitError, match="exclude each other"):
        prepare.run(options(tmp_path, scenes=tmp_path, products=tmp_path))


def test_the_largest_groups_train(raw):
    many = [replace(raw[i % 8], name=str(i), group=g) for i, g in enumerate("aaaabbbccdef")]
    assert prepare.choose_test(many) == ["d", "e", "f"]
    blind = [replace(s, reference=None) if s.group == "d" else s for s in many]
    assert "d" not in prepare.choose_test(blind)
    with pytest.raises(DataError, match="can't be divided"):
        prepare.choose_test(many[:7])


def test_shifted_scenes_are_refused_or_moved(raw, tmp_path):
    moved = [replace(s, ndvi=np.roll(s.ndvi, 3, 0)) for s in raw]
    with pytest.raises(DataError, match="NDVI is off the grid"):
        prepare.prepare(moved, tmp_path, attributes={}, test=["g0"])
    assert not list(tmp_path.iterdir())
    prepare.prepare(moved, tmp_path, attributes={}, test=["g0"], register=True)
    with pytest.raises(DataError, match="no group nowhere"):
        prepare.prepare(raw, tmp_path, attributes={}, test=["nowhere"])


def test_an_audit_only_tells(raw, tmp_path, capsys):
    scenes.write_npz(tmp_path / "scenes.npz", raw)
    prepare.run(options(tmp_path / "data", audit=True, scenes=tmp_path / "scenes.npz"))
    assert "correlation" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    with pytest.raises(KitError, match="--audit looks at real scenes"):
        prepare.run(options(tmp_path / "data", audit=True))


def test_hidden_scenes_are_shuffled(raw, tmp_path):
    test = ["g0", "g1", "g2"]
    for folder, seed in (("plain", None), ("mixed", 7), ("again", 7)):
        prepare.prepare(raw, tmp_path / folder, attributes={}, test=test, shuffle_seed=seed)
    plain, mixed, again = (
        samples.read_split(tmp_path / folder / "test") for folder in ("plain", "mixed", "again")
    )
    names = [list(y.scenes.scene.astype(str)) for _, y in (plain, mixed, again)]
    assert names[0] == [s.name for s in raw[:6]] != names[1] == names[2]
    where = names[0].index(names[1][0])
    np.testing.assert_array_equal(mixed[0][0].lst, plain[0][where].lst)
    np.testing.assert_array_equal(mixed[1][0], plain[1][where])


def test_the_registry_knows_the_track():
    assert tracks.load("lst") is TRACK


def test_quick_tests_read_a_few_scenes(tmp_path, raw):
    samples.write_split(tmp_path, raw, attributes={})
    X, y = TRACK.read(tmp_path, True)
    assert len(X) == len(y) == 4 and len(TRACK.folds(y)) == 3


def test_the_starting_kit_on_the_real_scenes(real):
    """The figures of docs/lst.md: every real scene held out once."""
    raw = scenes.read(real / "lst" / "modis_aster.npz")
    folder = str(ROOT / "submissions" / "starting_kit")
    found = gaps.measure(lambda X, y: make_workflow(TRACK).train_submission(folder, X, y), raw)
    assert evaluation.gain(found.fine) >= 0.10
    assert found.wins >= 0.90


@pytest.mark.slow
def test_ramp_test_end_to_end(tmp_path):
    shutil.copy(ROOT / "problem.py", tmp_path)
    shutil.copytree(
        ROOT / "submissions" / "starting_kit", tmp_path / "submissions" / "starting_kit"
    )
    prepare.run(options(tmp_path / "data"))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ramp-test"),
            "--submission",
            "starting_kit",
            "--save-output",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAMP_TRACK": "lst"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = tmp_path / "submissions" / "starting_kit" / "training_output"
    scores = pd.read_csv(output / "bagged_scores.csv")
    assert {"ubrmse", "gain", "consistency"} <= set(scores.columns)
    assert (scores["gain"] > 0).all()
