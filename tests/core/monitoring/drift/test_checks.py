"""What is looked at in one column agrees with scipy on the rows themselves."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from airflow_mlops.core.data.profile import CategoryProfile, Profile
from airflow_mlops.core.data.profiling import ProfileBuilder, centres
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.drift.checks import Marked, Share, _homogeneity, checks

SHAPES = {
    "normal": lambda g, n: g.normal(size=n),
    "moved": lambda g, n: g.normal(0.5, 1, n),
    "wider": lambda g, n: g.normal(0, 3, n),
    "far": lambda g, n: g.normal(1e6, 1, n),
    "small": lambda g, n: g.normal(0, 1e-9, n),
    "uniform": lambda g, n: g.random(n),
    "exponential": lambda g, n: g.exponential(size=n),
    "lognormal": lambda g, n: g.lognormal(0, 2, n),
    "pareto": lambda g, n: g.pareto(1.2, n),
    "cauchy": lambda g, n: g.standard_cauchy(n),
    "whole": lambda g, n: g.integers(0, 50, n).astype(float),
    "two modes": lambda g, n: np.where(g.random(n) < 0.4, g.normal(0, 1, n), g.normal(50, 1, n)),
    "zeros": lambda g, n: np.where(g.random(n) < 0.5, 0.0, g.exponential(size=n)),
    "constant": lambda g, n: np.full(n, 7.5),
    "sorted": lambda g, n: np.sort(g.normal(size=n)),
}
DRIFTS = {
    "none": lambda x, g: x,
    "moved": lambda x, g: x + 0.3 * np.std(x),
}


def profiles(before, now):
    first = pa.record_batch({"x": before})
    like = centres(first)
    found = []
    for values in (before, now):
        builder = ProfileBuilder(like)
        builder.update(pa.record_batch({"x": values}))
        found.append(builder.finish().columns["x"])
    return found


def by_name(before, now):
    return {c.statistic: c for c in checks(*profiles(before, now))}


@pytest.mark.parametrize("drift", list(DRIFTS))
@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_gap_agrees_with_kolmogorov_smirnov_at_thirty_shapes(shape, drift):
    rng = np.random.default_rng(0)
    before, now = (SHAPES[shape](rng, 100_000) for _ in range(2))
    now = DRIFTS[drift](now, rng)
    moved = by_name(before, now)["moved"]
    gap = moved.tests[1].value
    assert gap == pytest.approx(stats.ks_2samp(before, now, method="asymp").statistic, abs=3e-4)
    assert moved.effect >= gap


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_lift_agrees_with_mann_and_whitney(shape):
    rng = np.random.default_rng(1)
    before, now = (SHAPES[shape](rng, n) for n in (3_000, 400))
    now = DRIFTS["moved"](now, rng)
    lift = by_name(before, now)["moved"].tests[2]
    theirs = stats.mannwhitneyu(now, before, use_continuity=False, method="asymptotic")
    assert lift.value == pytest.approx(abs(2 * theirs.statistic / (3_000 * 400) - 1), abs=2e-3)
    same = 1.0 if np.isnan(theirs.pvalue) else theirs.pvalue  # one value only: nobody exceeds
    assert lift.p == pytest.approx(same, rel=0.2, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_of_the_gap_is_near_scipys(seed):
    rng = np.random.default_rng(seed)
    before, now = rng.normal(size=2000), rng.normal(0.05, 1, 1500)
    share = by_name(before, now)["moved"].tests[1]
    expected = stats.ks_2samp(before, now, method="asymp").pvalue
    assert share.p == pytest.approx(expected, rel=0.15, abs=0.01)


@pytest.mark.parametrize("seed", range(10))
def test_homogeneity_agrees_with_scipys_contingency_test(seed):
    rng = np.random.default_rng(seed)
    before, now = rng.integers(0, 50, 12).astype(float), rng.integers(0, 50, 12).astype(float)
    used = before + now > 0
    expected = stats.chi2_contingency([before[used], now[used]], correction=False)
    (moved,), (p,) = _homogeneity(before, now)
    assert p == pytest.approx(expected.pvalue, rel=1e-9)
    assert moved == pytest.approx(np.abs(before / before.sum() - now / now.sum()).sum() / 2)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_column_compared_with_itself_did_not_move(shape):
    x = SHAPES[shape](np.random.default_rng(1), 3000)
    found = by_name(x, x)
    assert found["moved"].effect == 0
    assert found["missing"].effect == 0
    assert found["out of range"].effect == 0
    assert found["one value"].effect == 0


def test_the_decile_effect_is_a_total_variation():
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=50_000), rng.normal(0, 3, 50_000)
    edges = np.quantile(before, np.linspace(0, 1, 11)[1:-1])
    shares = [np.bincount(np.searchsorted(edges, x), minlength=10) / len(x) for x in (before, now)]
    expected = np.abs(shares[0] - shares[1]).sum() / 2
    assert by_name(before, now)["moved"].tests[0].value == pytest.approx(expected, abs=0.01)


def test_missing_rows_are_a_share():
    before, now = np.ones(100), np.ones(100)
    now[:7] = np.nan
    found = by_name(before, now)["missing"]
    assert found.effect == pytest.approx(0.07)
    assert found.tests == (Marked(0, 100, 7, 100),)


def test_rows_beyond_the_widened_range_are_counted():
    before, now = np.linspace(0, 10, 101), np.linspace(0, 10, 101)
    now[:3] = 15.5, -5.5, 14.0
    assert by_name(before, now)["out of range"].tests[0].now == 2


def test_a_dead_sensor_is_one_value():
    rng = np.random.default_rng(0)
    now = rng.normal(size=1000)
    now[:600] = 0.25
    found = by_name(rng.normal(size=1000), now)["one value"]
    assert found.effect == pytest.approx(0.6, abs=0.01)


def test_infinite_values_are_compared_like_others():
    before = np.array([1.0, 2.0, np.inf, -np.inf] * 50)
    found = by_name(before, before)
    assert found["moved"].effect == 0
    only = np.full(50, np.inf)
    assert by_name(only, only)["moved"].effect == 0


def test_a_column_without_values_is_only_asked_what_is_missing():
    empty = np.full(50, np.nan)
    assert list(by_name(empty, empty)) == ["missing"]
    assert by_name(np.ones(50), empty)["missing"].effect == 1


def category(**values):
    return CategoryProfile(sum(values.values()), 0, 0, values)


def test_categories_move_by_total_variation_with_the_rare_pooled():
    before = category(a=500, b=480, **{f"r{i}": 2 for i in range(10)})
    now = category(a=300, b=680, **{f"r{i}": 2 for i in range(10)})
    found = {c.statistic: c for c in checks(before, now)}
    assert found["moved"].effect == pytest.approx(0.2)
    expected = stats.chi2_contingency([[500, 480, 20], [300, 680, 20]], correction=False).pvalue
    share = found["moved"].tests[0]
    assert isinstance(share, Share)
    assert share.p == pytest.approx(expected)


def test_new_values_are_counted():
    found = {c.statistic: c for c in checks(category(a=100), category(a=90, z=10))}
    assert found["new values"].effect == pytest.approx(0.1)


def test_profiles_around_different_centres_are_not_compared():
    rng = np.random.default_rng(0)
    one = profiles(rng.normal(size=100), rng.normal(size=100))[0]
    two = profiles(rng.normal(50, 1, 100), rng.normal(size=100))[0]
    with pytest.raises(ConfigurationError, match=r"around .* and .* cannot be compared"):
        list(checks(one, two))


def test_an_empty_profile_has_nothing_to_ask():
    assert Profile().columns == {}
