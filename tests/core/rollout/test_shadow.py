"""A shadow: pairs in time order, harm after each quarter, honest when rows depend on each other."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import signal, stats

from airflow_mlops.core.evaluation.comparison import compare
from airflow_mlops.core.rollout import Begun
from airflow_mlops.core.rollout.arms import Arm
from airflow_mlops.core.rollout.looks import Look
from airflow_mlops.core.rollout.shadow import LOOKS, look_at_pairs
from airflow_mlops.policy import Shadow

SINCE = datetime(2024, 1, 1, tzinfo=UTC)
END = SINCE + timedelta(days=8)
STAGE = Begun("m", Shadow("8d"), 1, 2, SINCE.isoformat(), "brier", 0.2, experiment="m@2/5")


def times(rows, days=8):
    step = np.timedelta64(days * 86_400_000 // rows, "ms")
    return np.datetime64("2024-01-01T00:00:00") + step * np.arange(rows)


def pairs(rows, shift=0.0, seed=0, rho=0.0):
    noise = np.random.default_rng(seed).normal(size=rows + 100) * np.sqrt(1 - rho**2)
    gap = signal.lfilter([1], [1, -rho], noise)[100:]
    return np.ones(rows), 1 + gap + shift


def test_no_harm_passes_at_the_end_and_not_before():
    losses = pairs(800)
    for days in (0, 1, 3, 7.9):
        found = look_at_pairs(STAGE, times(800), losses, now=SINCE + timedelta(days=days))
        assert found.status == "running"
        assert found.left == pytest.approx((8 - days) * 86_400)
    found = look_at_pairs(STAGE, times(800), losses, now=END)
    assert (found.status, found.answer) == ("passed", "held")
    assert str(compare("brier", *losses)) in found.reasons[0]
    assert Look.from_dict(found.to_dict()) == found


def test_harm_stops_it_after_the_first_quarter_that_shows_it():
    losses = pairs(800, shift=1.0)
    early = SINCE + timedelta(days=1.9)
    assert look_at_pairs(STAGE, times(800), losses, now=early).status == "running"
    found = look_at_pairs(STAGE, times(800), losses, now=SINCE + timedelta(days=2))
    assert (found.status, found.answer) == ("stopped", "harm")
    assert found.reasons[0].startswith("m@2 is surely worse after 1 of 4 quarters: brier")


def test_harm_in_an_early_quarter_is_remembered_whenever_somebody_looks():
    champion, candidate = pairs(800, shift=1.0)
    candidate[200:] -= 1.3  # better ever after
    found = look_at_pairs(STAGE, times(800), (champion, candidate), now=END + timedelta(days=9))
    assert found.answer == "harm"


def test_rows_of_an_unfinished_quarter_change_nothing():
    losses, now = pairs(800), SINCE + timedelta(days=5)
    before = look_at_pairs(STAGE, times(800), losses, now=now)
    losses[1][400:] += 100
    assert look_at_pairs(STAGE, times(800), losses, now=now) == before


def test_late_labels_are_waited_for():
    late = replace(STAGE, lateness=86_400.0)
    found = look_at_pairs(late, times(800), pairs(800), now=END)
    assert (found.status, found.left) == ("running", 86_400)
    assert look_at_pairs(late, times(800), pairs(800), now=END + timedelta(days=1)).answer == "held"


def test_too_few_labels_wait_and_say_how_many_more():
    found = look_at_pairs(STAGE, times(40), pairs(40), now=END + timedelta(days=1))
    assert (found.status, found.left) == ("running", None)
    assert found.reasons == ("40 rows have a label, 60 more are needed",)
    later = look_at_pairs(STAGE, times(120, 24), pairs(120), now=END + timedelta(days=16))
    assert (later.status, "on 100 rows" in later.reasons[0]) == ("passed", True)


def test_a_candidate_that_does_not_answer_is_stopped():
    arm = Arm(100, 100, failed=20)
    found = look_at_pairs(STAGE, times(800), pairs(800), now=SINCE, candidate=arm)
    assert (found.status, found.answer) == ("stopped", "failures")


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_harm_is_rarely_seen_where_there_is_none_even_if_rows_depend(rho):
    runs, at = 300, times(336)
    stopped = sum(
        look_at_pairs(STAGE, at, pairs(336, seed=seed, rho=rho), now=END).status == "stopped"
        for seed in range(runs)
    )
    assert stopped <= stats.binom.ppf(0.99, runs, 0.06)


def test_each_quarter_has_its_share_of_the_error_rate():
    losses = pairs(800, shift=0.1)
    quarter = compare("brier", *(part[:200] for part in losses))
    found = look_at_pairs(STAGE, times(800), losses, now=SINCE + timedelta(days=2))
    assert LOOKS == 4
    assert (found.status == "stopped") == (quarter.bound(0.0125, upper=False) > 0)
