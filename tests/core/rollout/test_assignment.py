"""Assignment: even, sticky, the same for one key and for many, the same in other languages."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xxhash
from scipy import stats

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.rollout import Assigned, Split, assign, assign_all

KEYS = [f"customer-{i}" for i in range(100_000)]


def split(percent=50.0, salt=42):
    return Split("m", 1, 2, "m@2/5", salt, round(percent * 100) * 2**64 // 10_000)


def share(keys, percent, salt=42):
    return assign_all(keys, split(percent, salt))


@pytest.mark.parametrize("percent", [0.01, 1.0, 10.0, 50.0, 99.99])
def test_the_share_is_the_planned_one(percent):
    found = int(share(KEYS, percent).sum())
    assert stats.binomtest(found, len(KEYS), percent / 100).pvalue > 0.001


@pytest.mark.parametrize("keys", [KEYS, range(100_000), [f"{i:032x}" for i in range(100_000)]])
def test_hashes_fill_the_whole_range_evenly(keys):
    cuts = [share(keys, percent).sum() for percent in range(1, 100)]
    assert stats.chisquare(np.diff([0, *cuts, len(KEYS)])).pvalue > 0.001


def test_two_salts_are_independent():
    table = pd.crosstab(share(KEYS, 50, 1), share(KEYS, 50, 2))
    assert stats.chi2_contingency(table, correction=False).pvalue > 0.001


def test_who_met_the_candidate_keeps_it_when_the_share_grows():
    before = np.zeros(len(KEYS), bool)
    for percent in (0.01, 1, 10, 10, 50, 99.99):
        now = share(KEYS, percent)
        assert not (before & ~now).any()
        before = now


def test_one_key_gets_the_same_answer_alone_and_among_others():
    among = share(KEYS[:500], 50)
    alone = [assign(key, split()).arm == "candidate" for key in KEYS[:500]]
    assert among.tolist() == alone
    assert {assign(key, split()) for key in KEYS} == {
        Assigned("champion", 1),
        Assigned("candidate", 2),
    }


def test_a_number_is_the_text_that_it_is_written_as():
    numbers = list(range(-500, 500))
    wanted = share([str(n) for n in numbers], 50).tolist()
    for keys in (
        numbers,
        tuple(numbers),
        np.array(numbers, np.int16),
        np.array([str(n) for n in numbers]),
        pd.Series(numbers),
        pd.Series(numbers, dtype="Int64"),
        pd.Series([str(n) for n in numbers], dtype="category"),
        pa.array(numbers),
        pa.chunked_array([numbers]),
        pa.array([str(n) for n in numbers]),
        [np.int64(n) for n in numbers],
    ):
        assert share(keys, 50).tolist() == wanted
    assert assign(7, split()) == assign("7", split())


@pytest.mark.parametrize(
    "key",
    [None, float("nan"), "", 7.0, True, b"7", pd.NA, pd.NaT, np.float64(7), ("a",), "\ud800"],
    ids=repr,
)
def test_what_stands_for_nobody_is_refused(key):
    with pytest.raises(ConfigurationError, match="key"):
        assign(key, split())
    with pytest.raises(ConfigurationError, match="key"):
        assign_all(["a", 7, key], split())


@pytest.mark.parametrize("keys", [[None], [""], [1.5]])
def test_keys_are_looked_at_when_no_stage_is_running_too(keys):
    with pytest.raises(ConfigurationError, match="key 0 is"):
        assign_all(keys, Split("m", 1))


def test_a_text_is_not_taken_for_a_list_of_letters():
    with pytest.raises(ConfigurationError, match="is one key"):
        assign_all("customer", split())


def test_the_rule_is_the_documented_one():
    for key in ("customer-1", "🙂", "7"):
        hashed = xxhash.xxh3_64(key.encode("utf-8"), seed=42).intdigest()
        for percent in (1, 10, 33.33, 90):
            wanted = hashed < round(percent * 100) * 2**64 // 10_000
            assert (assign(key, split(percent)).arm == "candidate") == wanted
    # worked example of docs/rollout.md, computed by xxHash's own library
    assert xxhash.xxh3_64_intdigest(b"customer-1", 42) == 10866148976888927887


def test_a_split_round_trips_through_json_with_all_its_digits():
    found = split(33.33, 2**64 - 1)
    text = json.loads(json.dumps(found.to_dict()))
    assert Split.from_dict(text) == found
    assert text["salt"] == "18446744073709551615"


def test_no_keys_are_no_answers():
    assert assign_all([], split()).tolist() == []


def test_an_endpoint_that_assigns_loads_nothing_heavy():
    code = (
        "import sys; from airflow_mlops.core.rollout import Split, assign; "
        "assign('a', Split('m', 1, 2, 'e', 1, 2**63)); "
        "heavy = {'pandas', 'mlflow', 'airflow', 'scipy', 'pyarrow'}; "
        "print(sorted(heavy & {*sys.modules}))"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
