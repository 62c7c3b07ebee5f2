"""Imagers, shifts and noise: adjoints, energy, the published MTF, and what sinusoids become."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from acdc.errors import DataError
from acdc.sensor import SENTINEL2, SPOT, Band, Chain, Imager, Noise, Shift, aggregate, point_spread

RGBN = [SENTINEL2[name] for name in ("B04", "B03", "B02", "B08")]
RED_EDGE = [SENTINEL2[name] for name in ("B05", "B06", "B07", "B8A")]
AEROSOL = [SENTINEL2[name] for name in ("B01", "B09", "B01", "B09")]
OPERATORS = {
    "Sentinel-2, 10 m": Imager.of(RGBN, 2.5),
    "Sentinel-2, 20 m": Imager.of(RED_EDGE, 2.5),
    "Sentinel-2, 60 m, mirrored many times": Imager.of(AEROSOL, 2.5),
    "SPOT": Imager.of([SPOT[name] for name in ("red", "green", "blue", "nir")], 2.0),
    "SPOT, pan on its own grid": Imager((SPOT["pan"].mtf,) * 4, 1),
    "shift": Shift(0.37, -1.81),
    "shift beyond the image": Shift(61.5, -130.2),
    "moved, then seen": Chain((Shift(-0.6, 0.25), Imager.of(RGBN, 2.5))),
    "nothing": Chain(()),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoints(name):
    operator, random = OPERATORS[name], np.random.default_rng(0)
    x = random.standard_normal((2, 4, 48, 72))
    seen = operator.forward(x)
    y = random.standard_normal(seen.shape)
    back = operator.adjoint(y)
    assert back.shape == x.shape
    scale = np.linalg.norm(seen) * np.linalg.norm(y)
    assert abs(np.vdot(seen, y) - np.vdot(x, back)) < 1e-10 * scale


@pytest.mark.parametrize("name", OPERATORS)
def test_energy_is_conserved(name):
    operator = OPERATORS[name]
    assert_allclose(operator.forward(np.full((4, 48, 72), 0.3)), 0.3, rtol=1e-12)
    if "shift" not in name and "moved" not in name:
        image = np.random.default_rng(1).random((4, 48, 72))
        assert_allclose(operator.forward(image).mean((1, 2)), image.mean((1, 2)), rtol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_linear_and_keep_single_precision(name):
    operator, random = OPERATORS[name], np.random.default_rng(2)
    a, b = random.random((2, 4, 48, 72))
    whole = operator.forward(2 * a - b)
    assert_allclose(whole, 2 * operator.forward(a) - operator.forward(b), atol=1e-12)
    single = operator.forward((2 * a - b).astype(np.float32))
    assert single.dtype == np.float32
    assert_allclose(single, whole, atol=2e-6)


@pytest.mark.parametrize("band", [*SENTINEL2, *SPOT])
def test_the_mtf_at_nyquist_is_the_published_one(band):
    """Measured on what comes out, as on an optical bench: a sinusoid of two coarse pixels."""
    known = {**SENTINEL2, **SPOT}[band]
    fine = 0.5 if band in SPOT else 2.5
    imager = Imager.of([known], fine)
    n = 20 * imager.factor * 2
    for phase in (0.0, 0.4, 1.1):
        ground = np.cos(np.pi * (np.arange(n) + 0.5) / imager.factor + np.pi / 2 - phase)
        for image in (np.tile(ground, (n, 1)), np.tile(ground, (n, 1)).T):
            seen = imager.forward(image[None])[0, 18:22, 18:22]
            expected = known.mtf * np.cos(phase)
            assert np.abs(seen).max() == pytest.approx(expected, abs=1e-9)
            assert np.abs(seen).min() == pytest.approx(expected, abs=1e-9)


def test_point_spread_equals_a_numerical_convolution():
    """Box and Gaussian, convolved on a grid a hundred times finer, at the sampled places."""
    kernel = point_spread(0.26, 4)
    assert kernel.sum() == pytest.approx(1) and (kernel > 0).all()
    assert_allclose(kernel, kernel[::-1], atol=1e-15)
    # the optics' part of .26, by the continuous formula for a Gaussian
    optics = 0.26 * 4 * np.sin(np.pi / 8)
    sigma = 4 / np.pi * np.sqrt(-2 * np.log(optics))
    place = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    offset = np.arange(4) - 1.5
    expected = np.exp(-0.5 * ((place[:, None] - offset) / sigma) ** 2).sum(axis=1)
    assert_allclose(kernel, expected / expected.sum(), atol=1e-6)


def test_a_perfect_detector_is_the_mean_of_its_pixels():
    image = np.random.default_rng(3).random((1, 32, 32))
    detector = 1 / (4 * np.sin(np.pi / 8))
    seen = Imager((detector - 1e-9,), 4).forward(image)
    assert_allclose(seen, aggregate(image, 4), atol=1e-6)


def test_pixels_are_where_they_should_be():
    """The centre of mass of a point stays where it is on the ground."""
    imager = Imager.of(RGBN, 2.5)
    image = np.zeros((4, 96, 96))
    image[:, 41, 54] = 1
    seen = imager.forward(image)
    rows, cols = np.indices(seen.shape[1:])
    for band in seen:
        # coarse pixel i is centred on the fine coordinate (i + .5) factor - .5
        assert ((rows + 0.5) * band).sum() / band.sum() * 4 - 0.5 == pytest.approx(41, abs=0.2)
        assert ((cols + 0.5) * band).sum() / band.sum() * 4 - 0.5 == pytest.approx(54, abs=0.2)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 0.63), st.integers(2, 24))
def test_any_mtf_below_the_detectors(mtf, factor):
    kernel = point_spread(mtf, factor)
    place = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    transfer = np.sum(kernel * np.cos(np.pi / factor * place))
    assert transfer == pytest.approx(mtf, abs=1e-9)
    assert kernel.sum() == pytest.approx(1) and len(kernel) % 2 == factor % 2


@pytest.mark.parametrize("mtf", [0.0, -0.1, 0.654, 1.0, np.nan])
def test_impossible_mtf(mtf):
    with pytest.raises(DataError, match="impossible for a detector of 4 pixels"):
        Imager((0.2, mtf), 4)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_shifts_of_smooth_images(row, col):
    r, c = np.mgrid[:64, :64].astype(float)

    def ground(r, c):
        return np.sin(2 * np.pi * (r / 9 + c / 31)) + np.cos(2 * np.pi * (r / 23 - c / 7))

    moved = Shift(row, col).forward(ground(r, c))
    inner = np.s_[10:-10, 10:-10]
    assert_allclose(moved[inner], ground(r - row, c - col)[inner], atol=6e-3)
    back = Shift(-row, -col).forward(moved)
    assert_allclose(back[20:-20, 20:-20], ground(r, c)[20:-20, 20:-20], atol=1.2e-2)


def test_whole_pixels_are_moved_exactly():
    image = np.random.default_rng(4).random((16, 20))
    moved = Shift(2, -3).forward(image)
    assert_allclose(moved[2:, :-3], image[:-2, 3:], atol=1e-15)
    assert_allclose(moved[:2, :-3], image[1::-1, 3:], atol=1e-15)  # mirrored


def test_noise_has_the_published_ratio():
    noise, random = Noise.of(RGBN), np.random.default_rng(5)
    reference = np.array([band.reference for band in RGBN])
    assert_allclose(reference, [0.2244, 0.2206, 0.2052, 0.3106], atol=2e-4)
    image = np.broadcast_to(reference[:, None, None], (4, 100, 100))
    drawn = noise.add(image, random)
    snr = reference / (drawn - image).std(axis=(1, 2))
    assert_allclose(snr, [142, 168, 154, 174], rtol=0.03)
    dark, bright = (noise.deviation(k * image)[:, 0, 0] for k in (0, 4))
    assert_allclose(dark**2, 0.2 * (reference / snr) ** 2, rtol=0.06)
    assert_allclose(bright**2 - dark**2, 4 * 0.8 * (reference / noise.snr) ** 2, rtol=1e-9)
    assert np.isfinite(noise.add(-image, random)).all()


def test_what_cannot_be_is_refused():
    imager = Imager.of(RGBN, 2.5)
    with pytest.raises(DataError, match=r"62 x 64 pixels can't be seen"):
        imager.forward(np.zeros((4, 62, 64)))
    for wrong in (np.zeros((3, 64, 64)), np.zeros((64, 64))):
        with pytest.raises(DataError, match="4 bands"):
            imager.forward(wrong)
        with pytest.raises(DataError, match="4 bands"):
            Noise.of(RGBN).add(wrong, np.random.default_rng())
    with pytest.raises(DataError, match="one pixel size"):
        Imager.of([SENTINEL2["B02"], SENTINEL2["B05"]], 2.5)
    with pytest.raises(DataError, match="multiple"):
        Imager.of(RGBN, 3.0)
    with pytest.raises(DataError, match="at least one band"):
        Imager((), 4)
    with pytest.raises(DataError, match="state your own"):
        Noise.of([SPOT["red"]])
    with pytest.raises(DataError, match="state your own"):
        Noise((100.0,), (0.2,), dark=1.5)
    with pytest.raises(DataError, match="rows, columns"):
        Shift(1, 1).forward(np.zeros(5))
    assert Band(10, 0.3).snr != Band(10, 0.3).snr  # nothing published is NaN
