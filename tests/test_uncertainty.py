import numpy as np
import pytest
from scipy import integrate, special

from acdc.metrics.uncertainty import miscalibration


def test_honest_deviations_are_calibrated():
    random = np.random.default_rng(0)
    deviation = random.uniform(0.1, 3, 40_000)
    error = random.normal(0, deviation)
    assert miscalibration(error, deviation) < 0.01
    # the same errors with deviations twice too small or too large, by integrating the definition
    for factor in (0.5, 2.0):
        expected, _ = integrate.quad(
            lambda p, f=factor: abs(special.erf(special.erfinv(p) * f) - p), 0, 1
        )
        assert miscalibration(error, factor * deviation) == pytest.approx(expected, abs=0.01)


def test_bounds_and_masks():
    error = np.array([1.0, -2.0, np.nan, 3.0])
    assert miscalibration(error, np.zeros(4)) == pytest.approx(0.5)
    assert miscalibration(error, np.full(4, 1e9)) == pytest.approx(0.5)
    masked = miscalibration(error, np.ones(4))
    assert masked == miscalibration(error[[0, 1, 3]], np.ones(3))
    assert miscalibration(np.zeros(3), np.zeros(3)) == 0.5
    assert np.isnan(miscalibration(np.full(3, np.nan), np.ones(3)))
    with pytest.raises(ValueError, match="differ in shape"):
        miscalibration(error, np.ones(3))
