"""Flux aggregation and its inverse projection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acdc import sensor

FIELDS = arrays(np.float64, (3, 8, 12), elements=st.floats(220, 335))


def by_hand(field, factor):
    h, w = field.shape[0] // factor, field.shape[1] // factor
    out = np.full((h, w), np.nan)
    for i in range(h):
        for j in range(w):
            block = field[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].ravel()
            known = [float(v) for v in block if np.isfinite(v)]
            if 2 * len(known) >= len(block):
                out[i, j] = (sum(v**4 for v in known) / len(known)) ** 0.25
    return out


def test_aggregation_equals_the_sum_of_fluxes():
    random = np.random.default_rng(0)
    field = random.uniform(260, 330, (32, 48))
    np.testing.assert_allclose(sensor.aggregate_flux(field, 4), by_hand(field, 4), rtol=1e-12)
    field[random.random(field.shape) < 0.45] = np.nan
    masked = sensor.aggregate_flux(field, 4)
    np.testing.assert_allclose(masked, by_hand(field, 4), rtol=1e-12)
    assert np.isnan(masked).any() and np.isfinite(masked).any()


def test_flux_differs_from_the_mean_by_hundredths_of_a_kelvin():
    field = np.random.default_rng(1).normal(300, 2, (64, 64))
    difference = sensor.aggregate_flux(field, 4) - sensor.aggregate(field, 4)
    assert (difference > 0).all() and difference.mean() == pytest.approx(0.02, abs=0.005)


@settings(max_examples=30, deadline=None)
@given(FIELDS, st.sampled_from([1, 2, 4]))
def test_an_aggregate_lies_between_its_pixels_and_aggregates_further(field, factor):
    coarse = sensor.aggregate_flux(field, factor)
    blocks = field.reshape(3, 8 // factor, factor, 12 // factor, factor)
    assert (coarse >= blocks.min(axis=(2, 4)) - 1e-9).all()
    assert (coarse <= blocks.max(axis=(2, 4)) + 1e-9).all()
    if factor == 2:
        np.testing.assert_allclose(
            sensor.aggregate_flux(coarse, 2), sensor.aggregate_flux(field, 4), atol=1e-9
        )


@settings(max_examples=30, deadline=None)
@given(FIELDS, arrays(np.float64, (3, 2, 3), elements=st.floats(220, 335)))
def test_projection_is_inverted_by_aggregation(field, coarse):
    projected = sensor.project_flux(field, coarse)
    np.testing.assert_allclose(sensor.aggregate_flux(projected, 4), coarse, atol=1e-9)
    np.testing.assert_allclose(sensor.project_flux(projected, coarse), projected, atol=1e-9)
    np.testing.assert_allclose(
        sensor.project_flux(field, sensor.aggregate_flux(field, 4)), field, atol=1e-9
    )


def test_projection_leaves_what_is_unknown():
    field = np.full((8, 8), 300.0)
    field[0, 0] = np.nan
    field[:4, 4:] = np.nan
    coarse = np.array([[305.0, 310.0], [np.nan, 290.0]])
    projected = sensor.project_flux(field, coarse)
    np.testing.assert_array_equal(np.isnan(projected), np.isnan(field))
    assert np.nanmax(np.abs(projected[:4, :4] - 305)) < 1e-9
    np.testing.assert_array_equal(projected[4:, :4], field[4:, :4])


@pytest.mark.parametrize("factor", [0, 3, 16])
def test_grids_that_cannot_be_divided_are_refused(factor):
    with pytest.raises(ValueError, match="8 x 8 pixels"):
        sensor.aggregate_flux(np.zeros((8, 8)), factor)
    with pytest.raises(ValueError, match="not nested"):
        sensor.project_flux(np.zeros((8, 8)), np.zeros((3, 3)))


def test_repeat_is_undone_by_aggregation():
    coarse = np.arange(6.0).reshape(2, 3) + 280
    np.testing.assert_array_equal(sensor.aggregate(sensor.repeat(coarse, 4), 4), coarse)
