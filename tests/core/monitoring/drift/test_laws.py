"""The laws agree with scipy, in the middle and far out."""

import numpy as np
import pytest
from scipy import special, stats

from airflow_mlops.core.monitoring.drift.laws import (
    chi_squared_tail,
    hypergeometric_tail,
    kolmogorov_tail,
    student_tail,
)


@pytest.mark.parametrize("df", [1, 2, 3, 9, 10, 57, 100])
def test_chi_squared_agrees_with_scipy(df):
    for x in (0.0, 0.01, 1.0, 5.0, 30.0, 120.0, 400.0, 3_000.0):
        assert chi_squared_tail(x, df) == pytest.approx(special.chdtrc(df, x), rel=1e-9, abs=1e-280)


def test_kolmogorov_agrees_with_scipy():
    gaps = np.array([0.0, 0.1, 0.25, 0.4, 0.8, 1.2, 2.0, 5.0, 40.0])
    assert kolmogorov_tail(gaps) == pytest.approx(special.kolmogorov(gaps), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 30, 57])
def test_student_agrees_with_scipy(df):
    for t in (-8.0, -1.0, 0.0, 0.3, 2.0, 6.0, 15.0):
        assert student_tail(t, df) == pytest.approx(special.stdtr(df, -t), rel=1e-6, abs=1e-13)


@pytest.mark.parametrize(
    "marks",
    [
        (5, 300, 9, 100),
        (315, 931_219, 32, 49_000),
        (0, 10, 10, 10),
        (0, 336, 1, 1),
        (9_000, 10**6, 700, 49_000),
    ],
)
def test_the_hypergeometric_agrees_with_scipy(marks):
    before, reference, now, current = marks
    total = reference + current
    expected = stats.hypergeom.sf(now - 1, total, before + now, current)
    assert hypergeometric_tail(*marks) == pytest.approx(expected, rel=1e-6)
