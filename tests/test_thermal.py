"""Scores of temperature fields, against other implementations and by their properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.metrics import structural_similarity

from acdc.metrics import thermal

FIELDS = arrays(np.float32, (12, 16), elements=st.floats(-20, 20, width=32))


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    truth = 8 * ndimage.gaussian_filter(random.standard_normal((64, 48)), 2)
    return truth, truth + 0.5 * random.standard_normal(truth.shape)


def punched(field, seed=1):
    """The field with a hole, a border and a few single pixels missing."""
    field = field.copy()
    field[20:26, 10:14] = np.nan
    field[:, :2] = np.nan
    field[np.random.default_rng(seed).random(field.shape) < 0.002] = np.nan
    return field


def test_ssim_equals_scikit_image(pair):
    expected = structural_similarity(
        *pair, data_range=20, gaussian_weights=True, use_sample_covariance=False
    )
    assert thermal.ssim(*pair) == pytest.approx(expected, abs=1e-12)


def test_ssim_keeps_its_digits_at_300_kelvin(pair):
    """Removing the level changes luminance only; scikit-image is less exact at this level."""
    warm = [field + 300 for field in pair]
    expected = structural_similarity(
        *warm, data_range=20, gaussian_weights=True, use_sample_covariance=False
    )
    assert thermal.ssim(*warm) == pytest.approx(expected, abs=1e-8)


def test_masked_ssim_is_the_mean_over_full_windows(pair):
    truth, predicted = pair
    masked = punched(truth)
    _, every = structural_similarity(
        *pair, data_range=20, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    full = np.array(
        [
            [np.isfinite(masked[i - 5 : i + 6, j - 5 : j + 6]).all() for j in range(5, 43)]
            for i in range(5, 59)
        ]
    )
    assert 0 < full.sum() < full.size
    assert thermal.ssim(masked, predicted) == pytest.approx(every[5:-5, 5:-5][full].mean(), 1e-12)
    assert thermal.ssim(truth, np.where(np.isnan(masked), np.nan, predicted)) == pytest.approx(
        thermal.ssim(masked, predicted), abs=1e-14
    )


def test_masked_pixels_do_not_count(pair):
    truth, predicted = pair
    masked = punched(truth)
    wild = np.where(np.isnan(masked), 1e6, predicted)
    for score in (
        thermal.rmse,
        thermal.unbiased_rmse,
        thermal.bias,
        thermal.ssim,
        thermal.gradient_correlation,
        thermal.spectrum_error,
    ):
        assert score(masked, wild) == pytest.approx(score(masked, predicted), rel=1e-12)
        assert np.isfinite(score(masked, wild))


def test_errors_by_hand():
    truth = np.array([[300.0, 301.0], [np.nan, 303.0]])
    predicted = np.array([[302.0, 302.0], [290.0, 308.0]])
    assert thermal.rmse(truth, predicted) == pytest.approx(np.sqrt((4 + 1 + 25) / 3))
    assert thermal.bias(truth, predicted) == pytest.approx(8 / 3)
    assert thermal.unbiased_rmse(truth, predicted) == pytest.approx(
        np.sqrt((4 + 1 + 25) / 3 - (8 / 3) ** 2)
    )


@settings(max_examples=40, deadline=None)
@given(FIELDS, FIELDS, st.floats(-30, 30))
def test_properties(truth, predicted, offset):
    assert thermal.rmse(truth, truth) == 0
    ubrmse = thermal.unbiased_rmse(truth, predicted)
    assert thermal.rmse(truth, predicted) ** 2 == pytest.approx(
        ubrmse**2 + thermal.bias(truth, predicted) ** 2, abs=1e-6
    )
    moved = predicted.astype(float) + offset
    assert thermal.unbiased_rmse(truth, moved) == pytest.approx(ubrmse, abs=1e-6)
    assert thermal.ssim(truth, truth) == pytest.approx(1)
    assert thermal.ssim(truth, predicted) <= 1 + 1e-9
    assert thermal.ssim(truth, predicted) == pytest.approx(thermal.ssim(predicted, truth), abs=1e-9)
    gradient = thermal.gradient_correlation(truth, predicted)
    assert np.isnan(gradient) or -1 - 1e-9 <= gradient <= 1 + 1e-9
    assert thermal.spectrum_error(truth, truth) == 0


def test_gradients_by_numpy(pair):
    truth, predicted = pair
    inner = np.s_[1:-1, 1:-1]
    one, other = (np.concatenate([g[inner].ravel() for g in np.gradient(field)]) for field in pair)
    # the mean gradient is not removed: it is part of the field
    expected = one @ other / np.sqrt((one @ one) * (other @ other))
    assert thermal.gradient_correlation(truth, predicted) == pytest.approx(expected, rel=1e-12)
    assert thermal.gradient_correlation(truth, 5 - 2 * truth) == pytest.approx(-1)
    assert np.isnan(thermal.gradient_correlation(truth, np.full_like(truth, 300)))


def test_spectrum_against_the_full_transform(pair):
    truth, predicted = pair
    side = 48
    powers = []
    for field in pair:
        taper = np.outer(*(np.hanning(n + 2)[1:-1] for n in field.shape))
        anomaly = (field - np.average(field, weights=taper)) * taper
        power = np.abs(np.fft.fft2(anomaly)) ** 2
        fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in field.shape), indexing="ij")
        ring = np.rint(np.hypot(fy, fx) * side).astype(int)
        powers.append(ndimage.sum(power, ring, np.arange(7, 25)))
    expected = np.mean(np.abs(10 * np.log10(powers[1] / powers[0])))
    assert thermal.spectrum_error(truth, predicted) == pytest.approx(expected, rel=1e-9)


def test_spectrum_in_decibels(pair):
    truth, _ = pair
    assert thermal.spectrum_error(truth, 300 + 2 * truth) == pytest.approx(20 * np.log10(2))
    assert thermal.spectrum_error(truth, np.full_like(truth, 300)) > 50


def test_what_is_undefined_is_nan():
    nothing = np.full((16, 16), np.nan)
    field = np.random.default_rng(0).normal(300, 1, (16, 16))
    for score in (
        thermal.rmse,
        thermal.unbiased_rmse,
        thermal.bias,
        thermal.ssim,
        thermal.gradient_correlation,
        thermal.spectrum_error,
    ):
        assert np.isnan(score(nothing, field))
        with pytest.raises(ValueError, match="one shape"):
            score(field, field[:8])
    assert np.isnan(thermal.ssim(field[:8, :8], field[:8, :8]))
