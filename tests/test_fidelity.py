"""Scores of images: against scikit-image, plain loops and their own properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.registration import phase_cross_correlation

from acdc.errors import DataError, PredictionError
from acdc.metrics import fidelity
from acdc.sensor import SENTINEL2, Imager, Shift, aggregate

SCORES = {
    "psnr": fidelity.psnr,
    "cpsnr": lambda *images: fidelity.cpsnr(*images).score,
    "ssim": fidelity.ssim,
    "cssim": lambda *images: fidelity.cssim(*images).score,
    "sam": fidelity.sam,
    "ergas": fidelity.ergas,
    "spectrum_error": fidelity.spectrum_error,
    "sub_pixel_shift": lambda *images: fidelity.sub_pixel_shift(*images).length,
}
BEST = {"psnr": 80, "cpsnr": 80, "ssim": 1, "cssim": 1}


def scene(seed=0, shape=(4, 72, 64), sigma=1.5):
    """A simulated scene of reflectances around .2, textured, all positive."""
    random = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(random.standard_normal(shape), (0, sigma, sigma))
    return 0.2 + 0.04 * texture / texture.std() + 0.05 * np.arange(shape[0])[:, None, None]


def pair(seed=0, shape=(4, 72, 64), noise=0.01):
    truth = scene(seed, shape)
    return truth, truth + noise * np.random.default_rng(seed + 1).standard_normal(shape)


def clouds(seed=0, shape=(72, 64), share=0.1):
    """Blobs where it is not clear, and a few single pixels."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.standard_normal(shape), 4)
    return (field < np.quantile(field, 1 - share)) & (random.random(shape) > 0.001)


def similarity_of_skimage(truth, predicted, **options):
    return structural_similarity(
        truth,
        predicted,
        data_range=1,
        gaussian_weights=True,
        use_sample_covariance=False,
        **options,
    )


def registered_by_slicing(truth, predicted, clear, reach=3):
    """All shifts one after the other, plainly; the shorter one where two are equally good."""
    height, width = clear.shape
    inner = predicted[:, reach : height - reach, reach : width - reach]
    best = (-np.inf, (0, 0), None)
    shifts = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    for i, j in sorted(shifts, key=lambda s: math.hypot(*s)):
        rows = slice(reach + i, height - reach + i)
        cols = slice(reach + j, width - reach + j)
        counts = clear[rows, cols]
        if not counts.any():
            continue
        per_band = []
        for t, p in zip(truth, inner, strict=True):
            power = np.var((t[rows, cols] - p)[counts])
            per_band.append(-10 * math.log10(max(power, 1e-8)))
        if np.mean(per_band) > best[0] + 1e-9:
            best = (np.mean(per_band), (i, j), per_band)
    return best


# --- structural similarity --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 72, 64), (1, 11, 11), (2, 12, 31), (3, 26, 19), (1, 27, 90)])
def test_ssim_equals_scikit_image(shape):
    truth, predicted = pair(0, shape)
    expected = similarity_of_skimage(truth, predicted, channel_axis=0)
    assert fidelity.ssim(truth, predicted) == pytest.approx(expected, abs=1e-12)
    assert fidelity.ssim(truth[0], predicted[0]) == pytest.approx(
        similarity_of_skimage(truth[0], predicted[0]), abs=1e-12
    )
    single = fidelity.ssim(truth.astype(np.float32), predicted.astype(np.float32))
    assert single == pytest.approx(expected, abs=1e-5)


def test_ssim_of_any_range():
    truth, predicted = (300 + 100 * image for image in pair())
    expected = [
        structural_similarity(
            t, p, data_range=50, gaussian_weights=True, use_sample_covariance=False
        )
        for t, p in zip(truth, predicted, strict=True)
    ]
    assert_allclose(fidelity.ssim_per_band(truth, predicted, None, 50), expected, atol=1e-8)


def test_masked_ssim_is_the_mean_over_clear_windows():
    (truth, predicted), clear = pair(), clouds()
    _, every = similarity_of_skimage(truth, predicted, channel_axis=0, full=True)
    full = np.array(
        [[clear[i - 5 : i + 6, j - 5 : j + 6].all() for j in range(5, 59)] for i in range(5, 67)]
    )
    assert 0.1 < full.mean() < 0.9
    expected = every[:, 5:-5, 5:-5][:, full].mean(axis=1)
    assert_allclose(fidelity.ssim_per_band(truth, predicted, clear), expected, atol=1e-12)


def test_cssim_is_that_of_the_moved_image_without_its_bias():
    truth, clear = scene(), clouds(3)
    bias = np.array([0.03, -0.02, 0.0, 0.1])[:, None, None]
    noise = 0.01 * np.random.default_rng(5).standard_normal(truth.shape)
    predicted = np.roll(truth, (-2, 1), (1, 2)) + bias + noise
    found = fidelity.cssim(truth, predicted, clear)
    assert found.shift == (2, -1) == fidelity.cpsnr(truth, predicted, clear).shift
    back = (np.roll(predicted, (2, -1), (1, 2)))[:, 5:-1, 2:-4]
    t, counts = truth[:, 5:-1, 2:-4], clear[5:-1, 2:-4]
    back = back - (back[:, counts].mean(1) - t[:, counts].mean(1))[:, None, None]
    assert_allclose(found.per_band, fidelity.ssim_per_band(t, back, counts), atol=1e-12)
    assert fidelity.cssim(truth, predicted, clear, shift=(2, -1)).score == found.score
    assert found.score > fidelity.ssim(truth, predicted, clear)


# --- signal to noise --------------------------------------------------------------------------


def test_psnr_equals_scikit_image():
    (truth, predicted), clear = pair(), clouds()
    expected = [
        peak_signal_noise_ratio(t, p, data_range=1) for t, p in zip(truth, predicted, strict=True)
    ]
    assert_allclose(fidelity.psnr_per_band(truth, predicted), expected, rtol=1e-12)
    assert fidelity.psnr(truth, predicted) == pytest.approx(np.mean(expected))
    masked = [
        peak_signal_noise_ratio(t[clear], p[clear], data_range=2)
        for t, p in zip(truth, predicted, strict=True)
    ]
    assert_allclose(fidelity.psnr_per_band(truth, predicted, clear, 2), masked, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shift=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    noise=st.sampled_from([0.0, 1e-4, 1e-3, 0.02, 0.5]),
    share=st.sampled_from([0.0, 0.1, 0.6, 0.999]),
    single=st.booleans(),
)
def test_cpsnr_equals_slicing(seed, shift, noise, share, single):
    random = np.random.default_rng(seed)
    shape = (int(random.integers(1, 5)), *random.integers(8, 40, 2).tolist())
    truth = scene(seed, shape, sigma=float(random.uniform(0.3, 3)))
    predicted = np.roll(truth, shift, (1, 2)) + noise * random.standard_normal(shape)
    predicted += random.normal(0, 0.1, (shape[0], 1, 1))
    clear = clouds(seed, shape[1:], share) if share else np.ones(shape[1:], bool)
    if single:
        truth, predicted = truth.astype(np.float32), predicted.astype(np.float32)
    expected = registered_by_slicing(truth.astype(float), predicted.astype(float), clear)
    found = fidelity.cpsnr(truth, predicted, clear)
    if expected[2] is None:
        assert np.isnan(found.score) and found.shift == (0, 0)
    else:
        assert found.score == pytest.approx(expected[0], abs=1e-6)
        assert found.shift == expected[1]
        assert_allclose(found.per_band, expected[2], atol=1e-5)


def test_cpsnr_tells_the_shift_and_forgives_the_bias():
    truth = scene(1)
    for shift in ((0, 0), (3, -3), (-1, 2)):
        moved = np.roll(truth, (-shift[0], -shift[1]), (1, 2)) + 0.3
        assert fidelity.cpsnr(truth, moved)[:2] == (80.0, shift)
    assert fidelity.cpsnr(truth, np.roll(truth, 4, 1)).score < 40
    without = fidelity.cpsnr(truth, np.roll(truth, 1, 1), max_shift=0)
    assert without.shift == (0, 0) and without.score < 40
    # all shifts are equally good: the shortest
    assert fidelity.cpsnr(np.full((1, 20, 20), 0.2), np.full((1, 20, 20), 0.4)).shift == (0, 0)


def test_a_shift_in_fractions_of_a_pixel_is_not_found_for_free():
    truth = scene(2, sigma=1)
    assert fidelity.cpsnr(truth, Shift(0.5, 0).forward(truth)).score < 45


# --- spectra, spectral angles, relative errors ------------------------------------------------


def test_sam_pixel_by_pixel():
    (truth, predicted), clear = pair(), clouds()
    angles = []
    for row, col in np.argwhere(clear):
        x, y = truth[:, row, col].tolist(), predicted[:, row, col].tolist()
        product = sum(a * b for a, b in zip(x, y, strict=True))
        angles.append(math.degrees(math.acos(product / math.hypot(*x) / math.hypot(*y))))
    assert fidelity.sam(truth, predicted, clear) == pytest.approx(np.mean(angles), rel=1e-9)


def test_angles_that_are_known():
    x = np.ones((2, 3, 3))
    assert fidelity.sam(x, np.stack([x[0], 0 * x[0]])) == pytest.approx(45)
    assert fidelity.sam(x, np.stack([x[0], -x[0]])) == pytest.approx(90)
    assert fidelity.sam(x, -x) == pytest.approx(180)
    assert fidelity.sam(x, 7 * x) < 1e-13
    tiny = np.stack([x[0], x[0] * (1 + 1e-9)])
    assert fidelity.sam(x, tiny) == pytest.approx(math.degrees(5e-10), rel=1e-4)
    y = x.copy()
    y[:, 1, 1] = 0  # no spectrum, no angle
    y[:, 0, 0] = [1, 0]
    assert fidelity.sam(x, y) == pytest.approx(45 / 8)
    assert np.isnan(fidelity.sam(x, 0 * x))


def test_ergas_by_hand():
    truth = np.stack([np.full((4, 4), 0.2), np.full((4, 4), 0.5)])
    predicted = truth + np.array([0.02, -0.1])[:, None, None]
    expected = 100 / 4 * math.sqrt((0.1**2 + 0.2**2) / 2)
    assert fidelity.ergas(truth, predicted) == pytest.approx(expected)
    assert fidelity.ergas(truth, predicted, ratio=4) == pytest.approx(16 * expected)
    clear = np.ones((4, 4), bool)
    clear[0] = False
    predicted[:, 0] = 3
    assert fidelity.ergas(truth, predicted, clear) == pytest.approx(expected)
    assert np.isnan(fidelity.ergas(truth - 0.3, predicted))


def test_spectrum_error_against_the_full_transform():
    truth, predicted = pair(3, (2, 64, 48))
    expected = []
    for images in zip(truth, predicted, strict=True):
        powers = []
        for image in images:
            taper = np.outer(*(np.hanning(n + 2)[1:-1] for n in image.shape))
            anomaly = (image - np.average(image, weights=taper)) * taper
            power = np.abs(np.fft.fft2(anomaly)) ** 2
            fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
            ring = np.rint(np.hypot(fy, fx) * 48).astype(int)
            powers.append(ndimage.sum(power, ring, np.arange(7, 25)))
        expected.append(np.mean(np.abs(10 * np.log10(powers[1] / powers[0]))))
    assert_allclose(fidelity.spectrum_error_per_band(truth, predicted), expected, rtol=1e-9)
    louder = truth.mean((1, 2), keepdims=True) + 3 * (truth - truth.mean((1, 2), keepdims=True))
    assert fidelity.spectrum_error(truth, louder) == pytest.approx(20 * math.log10(3), rel=1e-9)


# --- shifts in fractions of a pixel -----------------------------------------------------------


@pytest.mark.parametrize("shift", [(0, 0), (0.5, -0.25), (-1.3, 2.7), (3.2, -3.6)])
def test_sub_pixel_shift(shift):
    truth, clear = scene(6, (4, 96, 80)), clouds(6, (96, 80))
    moved = 0.7 * Shift(-shift[0], -shift[1]).forward(truth) + 0.1
    for counts in (None, clear):
        found = fidelity.sub_pixel_shift(truth, moved, counts)
        assert (found.row, found.col) == pytest.approx(shift, abs=0.02)
        assert found.correlation > 0.999
        assert found.length == pytest.approx(math.hypot(*shift), abs=0.03)
    theirs, _, _ = phase_cross_correlation(
        truth[0], moved[0], upsample_factor=50, normalization=None
    )
    assert (found.row, found.col) == pytest.approx(tuple(theirs), abs=0.2)


def test_sub_pixel_shift_of_what_a_sensor_saw():
    """Blurred, aliased and interpolated: what registration at preparation has to deal with."""
    truth = scene(7, (4, 128, 128), sigma=2)
    imager = Imager.of([SENTINEL2[name] for name in ("B04", "B03", "B02", "B08")], 2.5)
    for shift in ((0, 0), (1.4, -2.2)):
        seen = imager.forward(Shift(-shift[0], -shift[1]).forward(truth))
        bicubic = ndimage.zoom(seen, (1, 4, 4), order=3, grid_mode=True, mode="nearest")
        found = fidelity.sub_pixel_shift(truth, bicubic, clouds(7, (128, 128)))
        assert (found.row, found.col) == pytest.approx(shift, abs=0.15)


def test_no_shift_without_detail():
    truth = scene(shape=(2, 32, 32))
    for one, other in ((truth, 0 * truth + 0.3), (0 * truth, truth), (0 * truth, 0 * truth)):
        assert np.isnan(fidelity.sub_pixel_shift(one, other).length)
    with pytest.raises(DataError, match="too small"):
        fidelity.sub_pixel_shift(truth[:, :15], truth[:, :15])


# --- what holds for all of them ---------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_the_truth_is_best(name):
    truth, predicted = pair()
    best = BEST.get(name, 0)
    for images in ((truth, truth), (truth.astype(np.float32),) * 2, (truth, truth, clouds())):
        assert SCORES[name](*images) == pytest.approx(best, abs=2e-3)
    if name != "sub_pixel_shift":
        assert abs(SCORES[name](truth, predicted) - best) > 0.01


@pytest.mark.parametrize("name", SCORES)
def test_what_lies_under_clouds_does_not_count(name):
    (truth, predicted), clear = pair(), clouds()
    score = SCORES[name]
    expected = score(truth, predicted, clear)
    for wild in (np.nan, np.inf, 1e30, -7.0):
        marred = np.where(clear, truth, wild)
        assert score(marred, predicted, clear) == pytest.approx(expected, rel=1e-6)
        single = score(marred.astype(np.float32), predicted.astype(np.float32), clear)
        assert single == pytest.approx(expected, rel=1e-3, abs=1e-4)
        if not np.isfinite(wild):
            one_band = truth.copy()
            one_band[2] = marred[2]
            assert score(one_band, predicted) == pytest.approx(expected, rel=1e-9)
    if name not in ("cpsnr", "cssim", "sub_pixel_shift"):
        for wild in (np.nan, -np.inf, 1e200):
            assert score(truth, np.where(clear, predicted, wild), clear) == expected


@pytest.mark.parametrize("name", SCORES)
def test_nothing_clear_is_nan(name):
    truth, predicted = pair()
    nothing = np.zeros(truth.shape[1:], bool)
    assert np.isnan(SCORES[name](truth, predicted, nothing))
    assert np.isnan(SCORES[name](np.full_like(truth, np.nan), predicted))


@pytest.mark.parametrize("name", SCORES)
def test_a_prediction_must_be_finite(name):
    truth, predicted = pair()
    predicted[2, 30, 40] = np.nan
    with pytest.raises(PredictionError, match="nan in band 2 at row 30, column 40"):
        SCORES[name](truth, predicted)


@pytest.mark.parametrize("name", SCORES)
def test_shapes(name):
    truth, predicted = pair()
    for wrong in (predicted[:3], predicted[:, :60], predicted[None]):
        with pytest.raises(DataError, match="of one shape"):
            SCORES[name](truth, wrong)
    with pytest.raises(DataError, match="clear mask"):
        SCORES[name](truth, predicted, np.ones(truth.shape, bool))
    with pytest.raises(DataError, match="at least one pixel"):
        SCORES[name](truth[:, :0], predicted[:, :0])


def test_small_images():
    truth, predicted = pair(0, (2, 10, 10))
    assert np.isnan(fidelity.ssim(truth, predicted))
    assert np.isfinite(fidelity.cpsnr(truth, predicted).score)
    assert np.isnan(fidelity.cssim(truth, predicted).score)
    with pytest.raises(DataError, match="no inner part 3 pixels"):
        fidelity.cpsnr(truth[:, :6], predicted[:, :6])
    with pytest.raises(DataError, match="more than the 3 pixels"):
        fidelity.cssim(*pair(), shift=(4, 0))


@pytest.mark.parametrize("huge", [1e15, 1e25, 3e38])
def test_huge_predictions_are_bad_and_no_more(huge):
    truth = scene()
    for dtype in (np.float32, np.float64):
        predicted = scene(9).astype(dtype)
        predicted[1, 20, 20] = huge
        images = truth.astype(dtype), predicted
        assert fidelity.psnr_per_band(*images)[1] < -200
        assert fidelity.cpsnr(*images).per_band[1] < -200
        assert np.isfinite(fidelity.psnr(*images)) and np.isfinite(fidelity.cpsnr(*images).score)
        # nothing alike in the 121 windows that hold the pixel, no harm to the others
        others = np.ones(truth.shape[1:], bool)
        others[20, 20] = False
        rest = fidelity.ssim_per_band(truth, scene(9), others)[1] * (1 - 121 / (62 * 54))
        assert fidelity.ssim_per_band(*images)[1] == pytest.approx(rest, abs=1e-4)


def test_a_bias_that_drowns_the_truth_wins_nothing():
    """The difference of 1e17 and a truth of .2 is 1e17: no variance is left of it."""
    truth = scene()
    for dtype in (np.float32, np.float64):
        drowned = np.full_like(truth, 1e17, dtype)
        assert fidelity.cpsnr(truth.astype(dtype), drowned).score < -200
        assert fidelity.cssim(truth.astype(dtype), drowned).score < 0.01
    assert fidelity.cpsnr(truth, truth + 900).score > 79.9


def test_inputs_are_left_alone_and_calls_do_not_disturb_each_other():
    truth, predicted = pair()
    clear = clouds()
    kept = truth.copy(), predicted.copy(), clear.copy()
    first = {name: score(truth, predicted, clear) for name, score in SCORES.items()}
    per_band = fidelity.ssim_per_band(truth, predicted, clear)
    again = per_band.copy()
    for name, score in reversed(SCORES.items()):
        score(*pair(5))
        score(*pair(6, (1, 40, 41)))
        assert score(truth, predicted, clear) == first[name]
    assert_array_equal(per_band, again)
    for now, before in zip((truth, predicted, clear), kept, strict=True):
        assert_array_equal(now, before)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.003, 0.3))
def test_bounds_and_symmetry(seed, noise):
    truth, predicted = pair(seed, (3, 24, 28), noise)
    assert -1 <= fidelity.ssim(truth, predicted) <= 1
    assert fidelity.ssim(truth, predicted) == pytest.approx(fidelity.ssim(predicted, truth))
    assert fidelity.psnr(truth, predicted) == pytest.approx(fidelity.psnr(predicted, truth))
    inner = np.s_[:, 3:-3, 3:-3]
    unregistered = fidelity.psnr(truth[inner], predicted[inner])
    assert fidelity.cpsnr(truth, predicted).score >= unregistered - 1e-9
    assert 0 <= fidelity.sam(truth, predicted) <= 180
    for score in (fidelity.ergas, fidelity.spectrum_error):
        assert score(truth, predicted) > 0
    wider = fidelity.psnr(10 * truth, 10 * predicted, value_range=10)
    assert wider == pytest.approx(fidelity.psnr(truth, predicted))


def test_local_means():
    image, clear = scene(shape=(2, 14, 12)), clouds(1, (14, 12), 0.2)
    mean, whole = fidelity.local_mean(image, clear)
    for row in range(14):
        for col in range(12):
            window = np.s_[max(row - 1, 0) : row + 2, max(col - 1, 0) : col + 2]
            inside = clear[window].size == 9 and clear[window].all()
            assert whole[row, col] == inside
            if inside:
                assert_allclose(mean[:, row, col], image[:, *window].mean((1, 2)), rtol=1e-12)
    with pytest.raises(DataError, match="odd size"):
        fidelity.local_mean(image, clear, 4)


def test_real_scenes_rank_as_they_should(real):
    """WorldView-3 seen through Sentinel-2's eyes: the better restored, the better scored."""
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(real / "earth" / "worldview_crops" / "ms3.tif") as file:
        scene = file.read().astype(float)
    truth = aggregate(scene[:4, :288, :288] / 4000, 2)
    imager = Imager.of([SENTINEL2[name] for name in ("B04", "B03", "B02", "B08")], 2.5)
    seen = imager.forward(truth)
    bicubic = ndimage.zoom(seen, (1, 4, 4), order=3, grid_mode=True, mode="nearest")
    blurred = ndimage.gaussian_filter(bicubic, (0, 4, 4))
    sharper = 0.5 * (truth + bicubic)
    ranks = [truth, sharper, bicubic, blurred]
    for name, falls in (("cpsnr", 1), ("cssim", 1), ("psnr", 1), ("ssim", 1), ("ergas", -1)):
        scores = [SCORES[name](truth, image) for image in ranks]
        assert (np.diff(scores) * falls < 0).all(), (name, scores)
