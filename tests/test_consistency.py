"""Agreement with the observation, and the triangle against opensr-test and pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import ndimage

from acdc.errors import DataError, PredictionError
from acdc.metrics import consistency, fidelity
from acdc.metrics.consistency import Triangle, triangle, upsampled
from acdc.sensor import SENTINEL2, Imager, aggregate

RGBN = Imager.of([SENTINEL2[name] for name in ("B04", "B03", "B02", "B08")], 2.5)
SIDE = 128

# opensr-test 1.3.3 on the images of `chip(number)`: hallucination, omission, improvement from
#   metrics = opensr_test.Metrics(harm_apply_spectral=False, harm_apply_spatial=False)
#   metrics.correctness(lr=observed, sr=predicted, hr=truth, gradient_threshold="auto75")
# and reflectance and spectral from metrics.consistency(lr=observed, sr=predicted), float32 tensors.
# Again by: python benchmarks/superresolution.py --opensr PYTHON
OPENSR = (
    (0.5136192, 0.1825112, 0.3038696, 0.0034251, 0.7216568),
    (0.5844133, 0.2602443, 0.1553424, 0.003745, 0.6409218),
    (0.8943878, 0.0365032, 0.069109, 0.0067308, 1.6310605),
)


def chip(number):
    """Truth, prediction and observation by formula, so that anybody can make them again."""
    row, col = np.mgrid[:SIDE, :SIDE] + 0.5
    truth, extra = np.zeros((2, 4, SIDE, SIDE))
    for band in range(4):
        for wave in range(1, 7):
            phase = 0.7 * band + 1.3 * wave + number
            along = row * math.cos(wave + number) + col * math.sin(wave + number)
            truth[band] += np.sin(along * 0.11 * wave + phase) / wave
            extra[band] += np.sin(along * 0.31 * wave + 2 * phase) / 6
    truth = 0.25 + 0.05 * truth
    observed = aggregate(truth, 4)
    # partly the truth, partly the blurred observation, partly made up
    share = [(0.6, 0.4, 0.02), (0.1, 0.9, 0.0), (0.9, 0.1, 0.06)][number]
    blurred = np.repeat(np.repeat(observed, 4, 1), 4, 2)
    predicted = share[0] * truth + share[1] * blurred + share[2] * extra
    return tuple(image.astype(np.float32) for image in (truth, predicted, observed))


def triangle_by_loops(truth, predicted, blurred, kept_share=0.75):
    def distance(a, b):
        return sum(abs(x - y) / abs(x + y + 1e-8) for x, y in zip(a, b, strict=True)) / len(a)

    pixels = [
        tuple(image[:, i, j].tolist() for image in (truth, predicted, blurred))
        for i, j in np.ndindex(truth.shape[1:])
    ]
    distances = [(distance(b, t), distance(p, t), distance(p, b)) for t, p, b in pixels]
    threshold = sorted(d[0] for d in distances)[int(kept_share * len(distances)) - 1]
    shares = []
    for reference, missed, added in distances:
        if max(reference, missed, added) <= threshold:
            continue
        d_im, d_om = missed / reference, added / reference
        damping = 1 - math.exp(-0.05 * (d_im + d_om - 1))
        values = math.exp(-0.05 * d_im * d_om), d_om + d_im * damping, d_im + d_om * damping
        weights = [math.exp(-value / 0.25) for value in values]
        shares.append([weight / sum(weights) for weight in weights])
    return np.mean(shares, axis=0)


@pytest.mark.parametrize("number", range(3))
def test_triangle_equals_opensr_test(number):
    images = chip(number)
    assert_allclose(triangle(*images), OPENSR[number][:3], atol=1e-5)
    assert_allclose(triangle(*(i.astype(float) for i in images)), OPENSR[number][:3], atol=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_consistency_equals_opensr_test(number):
    """With the eyes that opensr-test has: a triangle of 8 pixels, inside of the border."""
    _, predicted, observed = (image.astype(float) for image in chip(number))
    place = (np.arange(SIDE - 32) + 0.5) / 4
    weights = np.maximum(1 - np.abs(place - (np.arange(SIDE // 4 - 8)[:, None] + 0.5)), 0)
    weights /= weights.sum(axis=1, keepdims=True)

    def see(image):
        return weights @ image @ weights.T

    inner = predicted[:, 16:-16, 16:-16], observed[:, 4:-4, 4:-4], see
    assert consistency.consistency(*inner) == pytest.approx(OPENSR[number][3], rel=1e-4)
    assert consistency.spectral_consistency(*inner) == pytest.approx(OPENSR[number][4], rel=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 0.1))
def test_triangle_pixel_by_pixel(seed, noise):
    random = np.random.default_rng(seed)
    truth = random.uniform(0.02, 0.6, (3, 16, 12))
    observed = aggregate(truth, 4)
    predicted = truth + noise * random.standard_normal(truth.shape)
    found = triangle(truth, predicted, observed, border=0)
    expected = triangle_by_loops(truth, predicted, upsampled(observed, 4))
    assert_allclose(found, expected, atol=1e-9)
    assert sum(found) == pytest.approx(1) and min(found) >= 0


def test_corners_of_the_triangle():
    truth, _, observed = chip(0)
    blurred = upsampled(observed, 4)
    extra = 0.2 * np.sign(np.random.default_rng(0).standard_normal(truth.shape))
    corners = {
        "improvement": truth,
        "omission": blurred,
        "hallucination": truth + extra.astype(np.float32),
    }
    for name, predicted in corners.items():
        found = triangle(truth, predicted, observed)._asdict()
        assert max(found, key=found.get) == name and found[name] > 0.85


def test_a_bias_is_no_longer_forgiven():
    truth, predicted, observed = chip(0)
    honest = triangle(truth, predicted, observed)
    biased = triangle(truth, predicted + 0.15, observed)
    assert biased.improvement < 0.3 * honest.improvement
    assert biased.hallucination > honest.hallucination


def test_clouds_border_and_gaps():
    truth, predicted, observed = chip(2)
    clear = np.ones(truth.shape[1:], bool)
    clear[40:70, 30:80] = False
    expected = triangle(truth, predicted, observed, clear)
    assert expected != triangle(truth, predicted, observed)
    for wild in (np.nan, np.inf, 1e30, -5):
        marred = np.where(clear, truth, np.float32(wild))
        assert triangle(marred, predicted, observed, clear) == expected
        if not np.isfinite(wild):
            assert triangle(marred, predicted, observed) == expected
    edge = truth.copy()
    edge[:, :16] = edge[:, :, -16:] = 0.9
    assert triangle(edge, predicted, observed) == triangle(truth, predicted, observed)
    # a gap in the observation takes away the pixels interpolated from it
    gap = observed.copy()
    gap[1, 15, 15] = np.nan
    hidden = np.ones_like(clear)
    hidden[58:66, 58:66] = False
    assert_allclose(
        triangle(truth, predicted, gap), triangle(truth, predicted, observed, hidden), atol=1e-3
    )
    assert np.isnan(triangle(truth, predicted, observed, ~np.ones_like(clear))).all()
    assert np.isnan(triangle(truth, predicted, observed * np.nan)).all()


def test_flat_chips():
    flat = np.full((4, 64, 64), 0.2)
    assert np.isnan(triangle(flat, flat, np.full((4, 16, 16), 0.2))).all()
    # detail where there is none: all of it is made up
    invented = flat + 0.05 * np.random.default_rng(0).random(flat.shape)
    assert triangle(flat, invented, np.full((4, 16, 16), 0.2)) == pytest.approx((1, 0, 0), abs=1e-6)
    nothing = np.zeros((4, 64, 64))
    assert np.isnan(triangle(nothing, nothing, np.zeros((4, 16, 16)))).all()


def test_upsampling_is_linear_between_centres():
    image = np.random.default_rng(1).random((2, 5, 7))
    row, col = ((np.arange(n * 4) + 0.5) / 4 - 0.5 for n in image.shape[1:])
    grid = np.meshgrid(row, col, indexing="ij")
    for band, fine in zip(image, upsampled(image, 4), strict=True):
        expected = ndimage.map_coordinates(band, grid, order=1, mode="nearest")
        assert_allclose(fine, expected, atol=1e-12)


# --- consistency ------------------------------------------------------------------------------


def test_the_observed_ground_is_consistent():
    truth, predicted, _ = (image.astype(float) for image in chip(0))
    seen = RGBN.forward(truth)
    assert consistency.consistency(truth, seen, RGBN.forward) == 0
    assert consistency.spectral_consistency(truth, seen, RGBN.forward) < 1e-6
    assert consistency.consistency(truth + 0.03, seen, RGBN.forward) == pytest.approx(0.03)
    assert consistency.spectral_consistency(2 * truth, seen, RGBN.forward) < 1e-6
    differs = consistency.consistency(predicted, seen, RGBN.forward)
    assert differs == pytest.approx(np.abs(RGBN.forward(predicted) - seen).mean())
    angle = consistency.spectral_consistency(predicted, seen, RGBN.forward)
    assert angle == pytest.approx(fidelity.sam(seen, RGBN.forward(predicted)))


def test_clouds_in_the_observation_do_not_count():
    truth = chip(0)[0].astype(float)
    seen = RGBN.forward(truth)
    clear = np.ones(seen.shape[1:], bool)
    clear[3:9, 20:] = False
    for score in (consistency.consistency, consistency.spectral_consistency):
        assert score(truth, np.where(clear, seen, 0.9), RGBN.forward, clear) < 1e-6
        assert score(truth, np.where(clear, seen, np.nan), RGBN.forward) < 1e-6
        assert np.isnan(score(truth, seen, RGBN.forward, ~np.ones_like(clear)))
        assert np.isnan(score(truth, seen * np.nan, RGBN.forward))


def test_what_cannot_be_compared_is_refused():
    truth, predicted, observed = chip(0)
    broken = predicted.copy()
    broken[0, 0, 0] = np.nan
    for score in (consistency.consistency, consistency.spectral_consistency):
        with pytest.raises(PredictionError, match="not finite at 1 places"):
            score(broken, observed, RGBN.forward)
        with pytest.raises(DataError, match="sees the prediction"):
            score(predicted, observed[:, 1:], RGBN.forward)
        with pytest.raises(DataError, match="sees the prediction"):
            score(predicted, observed, lambda image: image[0, ::4, ::4])
    broken[0, 0, 0], broken[0, 60, 60] = 0.1, np.inf
    with pytest.raises(PredictionError, match="inf in band 0 at row 60, column 60"):
        triangle(truth, broken, observed)
    for wrong in (observed[:3], observed[:, 1:], observed[0]):
        with pytest.raises(DataError, match="not nested"):
            triangle(truth, predicted, wrong)
    for border in (-4, 6, 64):
        with pytest.raises(DataError, match="a border of"):
            triangle(truth, predicted, observed, border=border)
    with pytest.raises(DataError, match="clear mask"):
        consistency.consistency(predicted, observed, RGBN.forward, np.ones(3, bool))
    assert Triangle._fields == ("hallucination", "omission", "improvement")
