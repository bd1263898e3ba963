"""Fingerprints of features: the same rows have the same one, and a difference names its column."""

import json

import numpy as np
import pandas as pd
import pytest

from airflow_mlops.core.training.fingerprints import Fingerprint

ROWS = 200


@pytest.fixture
def frame():
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "x": rng.normal(size=ROWS),
            "small": rng.normal(size=ROWS).astype("float32"),
            "gaps": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(size=ROWS)),
            "far": np.where(rng.random(ROWS) < 0.1, np.inf, rng.normal(size=ROWS) * 1e300),
            "whole": rng.integers(0, 9, ROWS),
            "text": rng.choice(["a", "b"], ROWS),
            "kind": pd.Categorical(rng.choice(["c", "d"], ROWS)),
            "when": pd.date_range("2024-01-01", periods=ROWS, tz="UTC"),
            "nothing": np.full(ROWS, np.nan),
        }
    )


def differs(one, two):
    return Fingerprint.of(one).differs(Fingerprint.of(two))


def test_a_frame_does_not_differ_from_itself(frame):
    found = Fingerprint.of(frame)
    assert found == Fingerprint.of(frame.copy())
    assert found.differs(found) == ()


def test_round_trips_through_json(frame):
    found = Fingerprint.of(frame)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert Fingerprint.from_dict(json.loads(text)) == found


def test_no_value_travels(frame):
    text = json.dumps(Fingerprint.of(frame[["x", "text"]]).to_dict())
    largest = frame["x"].abs().idxmax()
    values = [repr(v) for v in frame["x"].drop(largest)]
    assert not [v for v in values if v.lstrip("-") in text]


@pytest.mark.parametrize(("name", "digits"), [("x", 1e-16), ("small", 1e-7), ("gaps", 1e-16)])
def test_the_last_digits_are_no_difference(frame, name, digits):
    noise = 1 + np.random.default_rng(1).choice([-8, 8], ROWS) * digits
    other = frame.assign(**{name: (frame[name] * noise).astype(frame[name].dtype)})
    assert Fingerprint.of(other).digest != Fingerprint.of(frame).digest
    assert differs(frame, other) == ()


@pytest.mark.parametrize(
    ("name", "size"),
    [("x", 1e-10), ("small", 1e-3), ("gaps", 1e-10), ("far", 1e-10), ("whole", 1)],
)
@pytest.mark.parametrize("place", [0, 100, ROWS - 1])
def test_one_value_that_moved_names_its_column(frame, name, size, place):
    other = frame.copy()
    while not np.isfinite(other.loc[place, name]):
        place -= 1
    largest = other[name].replace([np.inf, -np.inf], np.nan).abs().max()
    other.loc[place, name] -= np.sign(other.loc[place, name]) * size * (largest if size < 1 else 1)
    assert differs(frame, other) == (name,)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", lambda s: s.shift().fillna(0.0)),
        ("x", lambda s: s.sample(frac=1, random_state=1).reset_index(drop=True)),
        ("x", lambda s: s.where(s.index != 7)),
        ("gaps", lambda s: s.fillna(0.0)),
        ("gaps", lambda s: s.sample(frac=1, random_state=1).reset_index(drop=True)),
        ("far", lambda s: s.replace(np.inf, -np.inf)),
        ("far", lambda s: s.replace(np.inf, np.nan)),
        ("text", lambda s: s.replace("a", "A")),
        ("when", lambda s: s + pd.Timedelta("1us")),
        ("whole", lambda s: s.astype(float)),
        ("nothing", lambda s: s.fillna(0.0)),
    ],
)
def test_another_computation_names_its_column(frame, name, change):
    assert differs(frame, frame.assign(**{name: change(frame[name])})) == (name,)


def test_a_column_more_or_less_is_named(frame):
    assert differs(frame, frame.drop(columns=["x"])) == ("x",)
    assert differs(frame.drop(columns=["x"]), frame) == ("x",)
    assert differs(frame, frame.rename(columns={"x": "z"})) == ("x", "z")


def test_the_storage_of_text_does_not_matter(frame):
    other = frame.assign(text=frame["text"].astype("category"), kind=frame["kind"].astype(object))
    assert differs(frame, other) == ()


def test_an_empty_frame_has_one():
    empty = pd.DataFrame({"x": np.empty(0)})
    assert differs(empty, empty) == ()
