"""Production functions, chronologies and model ages against published figures and craterstats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from acdc.errors import DataError
from acdc.metrics.size_frequency import (
    HARTMANN_2005,
    HARTMANN_2005_CHRONOLOGY,
    HARTMANN_NEUKUM_2001,
    IVANOV_2001,
    age_of_count,
    cumulative,
    differential,
    expected_per_density,
    model_age,
    relative,
    root2_bins,
)

SYSTEMS = {
    "ivanov": (IVANOV_2001, HARTMANN_NEUKUM_2001),
    "hartmann": (HARTMANN_2005, HARTMANN_2005_CHRONOLOGY),
}

# Made with craterstats 3.2.1 (and SciPy 1.13), for each production and chronology function:
#   cc = craterstats.Cratercount(); cc.area = area
#   craterstats.Craterpdf(pf, cf, cc, (lower, upper), k=n, n_samples=100001).median1sigma()
# with pf, cf read from its config/functions.txt. Columns: n, lower, upper (km), area (km2), and
# the median, lower and upper age (Ga).
CRATERSTATS = {
    "ivanov": [
        (1, 1, 4, 1e4, 0.3590849875, 0.1515180313, 0.7059278898),
        (7, 1, 4, 1e4, 1.6241120957, 1.1125087887, 2.2486641081),
        (40, 1, 5, 2e4, 3.2987136721, 3.1152121012, 3.4055767057),
        (300, 0.5, 20, 1e5, 0.5472875846, 0.5166007627, 0.5797961982),
        (3000, 1, 50, 1e6, 3.5221015613, 3.5161995905, 3.5278867807),
        (120, 2, 30, 2e4, 4.0158900119, 4.0020728699, 4.0296501576),
    ],
    "hartmann": [
        (1, 1, 4, 1e4, 0.3099167519, 0.1307707457, 0.6092755967),
        (7, 1, 4, 1e4, 1.4118330398, 0.9642946501, 1.9739391092),
        (40, 1, 5, 2e4, 3.1137514436, 2.8310230799, 3.2933022787),
        (300, 0.5, 20, 1e5, 0.5221398396, 0.4928631642, 0.5531546603),
        (3000, 1, 50, 1e6, 3.4595395208, 3.4519911208, 3.4668705240),
        (120, 2, 30, 2e4, 3.9051607673, 3.8905942712, 3.9195997516),
    ],
}
# pf.evaluate("cumulative", d, 0.) of the same version, relative to 1 km.
DIAMETERS = [0.1, 0.5, 1, 2, 10, 50]
PROPORTIONS = {
    "ivanov": [3691.300246, 11.26662073, 1, 0.1472839037, 0.01429078934, 0.0007181145020],
    "hartmann": [2199.894029, 9.856877935, 1, 0.2530756712, 0.01383183528, 0.0006175376099],
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_proportions_are_those_of_craterstats(name):
    production, _ = SYSTEMS[name]
    assert_allclose(production.cumulative(DIAMETERS), PROPORTIONS[name], rtol=1e-8)


@pytest.mark.parametrize("name", SYSTEMS)
def test_ages_are_those_of_craterstats(name):
    production, chronology = SYSTEMS[name]
    for n, lower, upper, area, age, youngest, oldest in CRATERSTATS[name]:
        expected = expected_per_density([(lower, upper, area)], production)
        found = age_of_count(n, expected, chronology)
        # Its steps of 15/100000 decades put all of its ages low by .02 %.
        assert_allclose([found.age, found.lower, found.upper], [age, youngest, oldest], rtol=5e-4)


def test_ages_beside_an_installed_craterstats():
    craterstats = pytest.importorskip("craterstats")
    from pathlib import Path

    functions = str(Path(craterstats.__file__).parent / "config" / "functions.txt")
    rng = np.random.default_rng(0)
    for production, chronology in SYSTEMS.values():
        diameters = 0.9 * (1 - rng.random(400)) ** (-1 / 2.5)
        count = craterstats.Cratercount()
        count.area, count.diam = 3e4, diameters.tolist()
        reference = craterstats.Craterpdf(
            craterstats.Productionfn(functions, production.name),
            craterstats.Chronologyfn(functions, chronology.name),
            count,
            (1.0, 16.0),
        )
        found = model_age(diameters, [(1, 16, 3e4)], production=production, chronology=chronology)
        assert_allclose(found.age, reference.t(0.5), rtol=5e-3)


def test_ivanov_is_the_published_polynomial():
    # log10 N(1 km, 1 Ga) is the first coefficient, and the chronology gives the same at 1 Ga.
    assert_allclose(10 ** IVANOV_2001.coefficients[0], 4.13e-4, rtol=2e-3)
    slope = np.log10(IVANOV_2001.cumulative(1.001) / IVANOV_2001.cumulative(0.999))
    assert_allclose(slope / np.log10(1.001 / 0.999), IVANOV_2001.coefficients[1], rtol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_differential_is_the_derivative(name):
    production, _ = SYSTEMS[name]
    d = np.exp(np.linspace(np.log(0.02), np.log(40), 50)) * 1.001
    step = 1e-6 * d
    expected = (production.cumulative(d - step) - production.cumulative(d + step)) / (2 * step)
    assert_allclose(production.differential(d), expected, rtol=1e-6)


def test_chronology_is_the_published_formula():
    for t in (0.1, 1.0, 3.0, 4.0):
        expected = 3.22e-14 * (np.exp(6.93 * t) - 1) + 4.875e-4 * t
        assert_allclose(HARTMANN_NEUKUM_2001.density(t), expected, rtol=1e-12)


@given(st.floats(1e-9, 4.99))
@settings(max_examples=80, deadline=None)
def test_age_inverts_density(age):
    for _, chronology in SYSTEMS.values():
        assert_allclose(chronology.age(chronology.density(age)), age, rtol=1e-9)


def test_density_beyond_the_oldest_age_is_the_oldest():
    assert_array_equal(HARTMANN_NEUKUM_2001.age([0, 1e9]), [0, 5])


@pytest.mark.parametrize("age", [0.1, 1.0, 3.0, 3.8])
def test_counts_drawn_for_an_age_give_it_back(age):
    bins = [(1.0, 2.0, 3e5), (2.0, 4.0, 9e5), (4.0, 16.0, 4e6)]
    mean = expected_per_density(bins) * HARTMANN_NEUKUM_2001.density(age)
    counts = np.random.default_rng(int(10 * age)).poisson(mean, 300)
    ages = [age_of_count(int(n), expected_per_density(bins)) for n in counts]
    covered = np.mean([a.lower < age < a.upper for a in ages])
    assert 0.58 < covered < 0.78  # the interval holds 68 %
    assert_allclose(np.median([a.age for a in ages]), age, rtol=0.1)


def test_area_may_depend_on_diameter():
    rng = np.random.default_rng(8)
    diameters = (1 - rng.random(500)) ** (-1 / 2.2)
    one = model_age(diameters, [(1, 8, 5e4)])
    split = model_age(diameters, [(2, 8, 5e4), (1, 2, 5e4)])
    assert_allclose(split.age, one.age, rtol=1e-9)
    assert split.n_craters == one.n_craters == ((diameters >= 1) & (diameters < 8)).sum()
    # Half of the small ones on half of the ground is as old.
    small = diameters < 2
    fewer = np.concatenate([diameters[~small], diameters[small][::2]])
    assert_allclose(model_age(fewer, [(1, 2, 2.5e4), (2, 8, 5e4)]).age, one.age, rtol=0.02)


def test_errors_of_detection_shift_the_age_as_documented():
    bins = [(1.0, 8.0, 2e6)]
    mean = expected_per_density(bins) * HARTMANN_NEUKUM_2001.density(1.0)
    exact = age_of_count(round(mean), expected_per_density(bins)).age
    assert_allclose(exact, 1, rtol=0.02)
    assert_allclose(age_of_count(round(0.8 * mean), expected_per_density(bins)).age, 0.8, rtol=0.02)
    assert_allclose(
        age_of_count(round(1.25 * mean), expected_per_density(bins)).age, 1.27, rtol=0.03
    )


def test_no_crater_gives_an_upper_limit():
    empty = model_age([], [(1, 8, 1e4)])
    assert np.isnan(empty.age)
    assert (empty.lower, empty.most_likely, empty.n_craters) == (0, 0, 0)
    # Probability exp(-E N1(T)) over T: linear in T where young, so the limit is -ln(.1587) / E.
    assert_allclose(
        HARTMANN_NEUKUM_2001.density(empty.upper) * expected_per_density([(1, 8, 1e4)]),
        -np.log(0.15865),
        rtol=0.02,
    )


def test_more_craters_than_any_surface_can_carry():
    full = age_of_count(10**9, 1e3)
    assert full.age == full.lower == full.upper == full.most_likely == 5
    nearly = age_of_count(25_000, 1e3)
    assert 4.5 < nearly.lower <= nearly.age <= nearly.upper <= 5


@given(st.integers(0, 100_000), st.floats(1e-3, 1e9))
@settings(max_examples=80, deadline=None)
def test_ages_are_ordered_and_finite(n, expected):
    found = age_of_count(n, expected)
    assert 0 <= found.lower <= found.upper <= 5
    assert 0 <= found.most_likely <= 5
    if n:
        assert found.lower <= found.age <= found.upper


def test_distributions():
    diameters = [1.0, 1.2, 1.9, 2.0, 3.9, 4.0, 0.5]
    edges = [1, 2, 4]
    total = cumulative(diameters, edges, 10)
    assert total.count.tolist() == [5, 2]  # 4.0 lies beyond the last edge, 0.5 before the first
    assert_allclose(total.density, [0.5, 0.2])
    assert_allclose(total.error, np.sqrt([5, 2]) / 10)
    assert_array_equal(total.diameter, [1, 2])
    by_width = differential(diameters, edges, 10)
    assert_allclose(by_width.density, [0.3, 0.1])
    assert_allclose(by_width.error, [0.3 / np.sqrt(3), 0.1 / np.sqrt(2)])
    plot = relative(diameters, edges, 10)
    assert_allclose(plot.diameter, np.sqrt([2, 8]))
    assert_allclose(plot.density, [0.3 * 2**1.5, 0.1 * 8**1.5])
    # Each bin on its own ground.
    assert_allclose(cumulative(diameters, edges, [10, 5]).density, [0.3 + 0.4, 0.4])


def test_relative_plot_of_an_inverse_cube_is_flat():
    edges = root2_bins(1, 16)
    counts = np.round(1e6 * -np.diff(edges**-2.0)).astype(int)
    diameters = np.repeat(np.sqrt(edges[:-1] * edges[1:]), counts)
    plot = relative(diameters, edges, 1.0)
    assert_allclose(plot.density / plot.density.mean(), 1, rtol=2e-3)


def test_root2_bins_cover():
    assert_allclose(root2_bins(1, 4), 2.0 ** np.arange(0, 2.5, 0.5))
    edges = root2_bins(0.9, 30)
    assert edges[0] <= 0.9
    assert edges[-1] >= 30


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: model_age([1.0, -2.0], [(1, 2, 1e3)]),
        lambda: model_age([np.nan], [(1, 2, 1e3)]),
        lambda: model_age([1.5], [(1, 3, 1e3), (2, 4, 1e3)]),
        lambda: model_age([1.5], [(1, 3, 0)]),
        lambda: model_age([1.5], [(3, 1, 1e3)]),
        lambda: model_age([1.5], []),
        lambda: model_age([1.5], [(0.001, 1, 1e3)]),
        lambda: age_of_count(-1, 1.0),
        lambda: age_of_count(1, np.nan),
        lambda: age_of_count(1, 1.0, level=1),
        lambda: cumulative([1.0], [1, 1], 5.0),
        lambda: cumulative([1.0], [1, 2], -5.0),
        lambda: cumulative([1.0], [1, 2, 3], [1.0]),
        lambda: root2_bins(0, 1),
    ],
)
def test_impossible_input_is_refused(wrong):
    with pytest.raises(DataError):
        wrong()
