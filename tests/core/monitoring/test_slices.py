"""Losses of slices: who got worse, and who did not."""

import json

import numpy as np
import pytest

from airflow_mlops.core.monitoring.slices import Part, SliceLoss, judge_slices


def part(rng, rows=700, worse=(), factor=1.5, **columns):
    """Losses around 0.2; those of the days in ``worse`` are higher."""
    day = np.arange(rows) % 7 + 1
    losses = rng.exponential(0.2, rows) * np.where(np.isin(day, worse), factor, 1.0)
    return Part({"day": day.tolist(), **columns}, losses)


def test_a_slice_that_got_worse_is_named_and_no_other():
    rng = np.random.default_rng(0)
    found = judge_slices(part(rng, worse=[3], factor=2.5), part(rng))
    assert [s.value for s in found if s.decayed] == ["3"]
    assert str(found[2]).startswith("day 3: 0.")
    assert SliceLoss.from_dict(json.loads(json.dumps(found[2].to_dict()))) == found[2]


def test_a_level_that_was_hard_before_is_no_decay():
    rng = np.random.default_rng(1)
    hard = (part(rng, worse=[3], factor=3.0) for _ in range(2))
    assert not [s for s in judge_slices(*hard) if s.decayed]


def test_false_alarms_over_all_slices_are_at_most_one_in_twenty():
    rng = np.random.default_rng(2)
    alarms = [any(s.decayed for s in judge_slices(part(rng), part(rng))) for _ in range(200)]
    assert np.mean(alarms) <= 0.05


def test_fewer_than_fifty_rows_are_measured_and_not_judged():
    rng = np.random.default_rng(3)
    found = judge_slices(part(rng, 336, worse=[3], factor=9.0), part(rng))
    assert {s.rows for s in found} == {48}
    assert [s.p_value for s in found] == [None] * 7
    unknown = judge_slices(part(rng), None)
    assert [(s.before, s.p_value) for s in unknown] == [(None, None)] * 7


def test_numbers_are_cut_at_the_quartiles_of_the_holdout():
    rng = np.random.default_rng(4)
    price = list(range(698))
    found = judge_slices(
        part(rng, price=[-1.0, None, *price]), part(rng, price=[*price, 699.0, 700.0])
    )
    names = {s.value: (s.rows, s.before_rows) for s in found if s.column == "price"}
    assert sum(rows for rows, _ in names.values()) == 700
    assert names["missing"] == (1, 0)
    assert sorted(names) == sorted(
        ["missing", "up to 174.75", "174.75 to 349.5", "349.5 to 524.25", "above 524.25"]
    )


def test_rare_values_are_pooled_and_long_ones_are_cut():
    rng = np.random.default_rng(5)
    texts = [f"value {i}" if i > 99 else "often" * 20 for i in range(700)]
    found = [s.value for s in judge_slices(part(rng, text=texts), None) if s.column == "text"]
    assert len(found) == 11
    assert {len(v) for v in found if v.startswith("often")} == {40}
    assert "other values" in found


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ([1_700_000_000 + i for i in range(400)], [100] * 4),
        (["x" * 45 + "A", "x" * 45 + "B"] * 200, [200] * 2),
        (["missing", None] * 200, [200] * 2),
        ([0.0] * 300 + [float(i) for i in range(100)], [301, 99]),
    ],
    ids=["close numbers", "long texts", "a text like our word", "a number that repeats"],
)
def test_slices_that_differ_have_names_that_differ(values, rows):
    now = Part({"t": values}, np.ones(400))
    found = judge_slices(now, now)
    assert sorted(s.rows for s in found) == sorted(rows)
    assert [s.before_rows for s in found] == [s.rows for s in found]
    assert len({s.value for s in found}) == len(rows)
