"""A policy replayed: the past decides, never the future, and nothing happens without a reason."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.data.features import archive
from airflow_mlops.core.errors import (
    ConfigurationError,
    NotEnoughDataError,
    RejectedError,
    UserCodeError,
)
from airflow_mlops.core.retraining.history import History
from airflow_mlops.core.retraining.learner import Learner
from airflow_mlops.core.retraining.picture import draw
from airflow_mlops.core.retraining.replay import simulate
from airflow_mlops.core.retraining.simulation import Setting
from airflow_mlops.policy import AtLeast, Drift, Loads, NotWorse, Probe, Retrain, Round, Schedule

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = 120
"""Rows of a window."""

TURN = 14
"""Window from which the relation is the other way round."""


def table(windows=20, turn=TURN, seed=0):
    rng, n = np.random.default_rng(seed), windows * ROWS
    x, z = rng.normal(size=n), rng.normal(size=n)
    sign = np.where(np.arange(n) < turn * ROWS, 1, -1)
    y = (sign * x + 0.3 * rng.normal(size=n) > 0).astype(int)
    at = [START + timedelta(hours=i) for i in range(n)]
    return pa.table({"at": at, "x": x, "z": z, "y": y})


@pytest.fixture
def history(tmp_path):
    def read(rows=None, window=ROWS, **named):
        path = tmp_path / "history.parquet"
        pq.write_table(table() if rows is None else rows, path)
        columns = {"key": "id", "time": "at", "label": "y", **named}
        return History.read(path, **columns).cut(window)

    return read


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "replayed_features.py").write_text(
        "def build(rows):\n    return rows[['x', 'z']]\n", "utf-8"
    )
    (folder / "replayed_train.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n\n"
        "def fit(X, y, *, seed, c=1.0):\n"
        "    return LogisticRegression(C=c, random_state=seed).fit(X, y)\n",
        "utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield archive("replayed_features:build"), archive("replayed_train:fit")


@pytest.fixture
def setting(code):
    def make(**changed):
        usual = Setting(
            "m",
            Retrain(cooldown="5d", budget="9 per 30d"),
            (Loads(), AtLeast("roc_auc", 0.6), NotWorse("brier")),
            (Round(),),
            "brier",
            timedelta(days=60),
            (0.25,),
            *code,
            {},
            7,
            ("x", "z", "id"),
            warmup=10,
        )
        return replace(usual, **changed)

    return make


def test_a_turned_relation_is_answered_by_a_retrain_that_pays(history, setting):
    found = simulate(history(), setting())
    assert len(found.steps) == 10
    assert found.promotions[0].trigger == "first"
    asked = [step.window for step in found.steps if step.trigger == "probe"]
    assert asked[0] == TURN + 1  # the first challenger that has seen the turn
    later = [p for p in found.promotions if p.trigger != "first"]
    assert later[0].window > TURN  # a model that has not seen the turn is not promoted for it
    assert later[0].gain > 0
    assert found.loss() < 0.7 * found.loss("never")


OWN = """
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

def fit(X, y, *, seed):
    assert list(X) == ["x", "z"] and seed == 0
    return LogisticRegression(random_state=seed).fit(X, y)

def naive(X, y, *, seed):
    return DummyClassifier().fit(X, y)

def broken(X, y, *, seed):
    raise ValueError("no")
"""


def test_a_policy_may_bring_its_own_challenger(history, setting, user_module):
    name = user_module(OWN)

    def asked(function):
        probe = Probe(challenger=f"{name}:{function}")
        policy = Retrain((probe, Schedule("70d")), cooldown="5d", budget="9 per 30d")
        return [
            s.window
            for s in simulate(history(), setting(policy=policy)).steps
            if s.trigger == "probe"
        ]

    assert asked("fit")[0] == TURN + 1
    assert asked("naive")[0] == TURN  # it saw nothing, and beats whom the turn misleads
    with pytest.raises(UserCodeError, match=f"challenger {name}:broken raised ValueError: no"):
        asked("broken")
    with pytest.raises(UserCodeError, match=f"challenger {name}:gone: .* defines no function"):
        asked("gone")


def test_labels_that_come_late_delay_the_answer_by_as_much(history, setting):
    found = simulate(history(), setting(delay=3))
    asked = [step.window for step in found.steps if step.trigger == "probe"]
    assert asked[0] == TURN + 1 + 3


def test_nothing_is_decided_by_what_has_not_happened_yet(history, setting):
    """Two pasts that differ from window 16 on lead to the same life before."""
    one = simulate(history(), setting())
    other = table().to_pandas()
    other.loc[16 * ROWS :, "x"] += 5.0
    two = simulate(history(pa.Table.from_pandas(other, preserve_index=False)), setting())
    assert one.steps[:6] == two.steps[:6]
    assert one.steps[6:] != two.steps[6:]


def test_the_same_past_is_lived_the_same_way_twice(history, setting):
    one, two = (simulate(history(), setting()) for _ in range(2))
    assert one.steps == two.steps
    assert one.promotions == two.promotions


@pytest.mark.parametrize("seed", [1, 2])
def test_shuffled_rows_give_no_reason_to_retrain(history, setting, seed):
    found = simulate(history().shuffled(seed), setting())
    triggers = {p.trigger for p in found.promotions} | {s.trigger for s in found.steps}
    assert not triggers & {"probe", "regret", "drift"}
    assert found.alarms == ()


def test_moved_data_is_named_column_by_column(history, setting):
    rows = table(turn=99).to_pandas()
    rows.loc[15 * ROWS : 16 * ROWS - 1, "z"] += 4.0
    found = simulate(history(pa.Table.from_pandas(rows, preserve_index=False)), setting())
    assert [(a.window, a.monitor, a.columns) for a in found.alarms] == [(15, "drift", ("z",))]


def test_a_column_that_is_worth_nothing_to_the_model_is_no_drift_of_the_dataset(history, setting):
    rows = table(turn=99).to_pandas()
    rows.loc[15 * ROWS :, "z"] += 3.0
    past = history(pa.Table.from_pandas(rows, preserve_index=False))

    def said(weights):
        policy = Retrain((Drift("2 of 3", weights=weights),), "5d", "9 per 30d")
        found = simulate(past, setting(policy=policy))
        assert {a.columns for a in found.alarms} == {("z",)}
        return found.steps[-1].reason

    assert "drifted in 3 of 3 windows" in said(None)
    assert "drifted in 0 of 3 windows" in said("importance")


def test_a_null_where_training_saw_none_is_an_alarm_of_the_contract(history, setting, code):
    rows = table(turn=99).to_pandas()
    rows.loc[13 * ROWS + 3, "z"] = None
    filled = code[0].files["__init__.py"].replace("]]", "]].fillna(0.0)")
    build = replace(code[0], files={"__init__.py": filled})
    past = history(pa.Table.from_pandas(rows, preserve_index=False))
    found = simulate(past, setting(features=build))
    assert [(a.window, a.monitor, a.columns) for a in found.alarms] == [(13, "contract", ("z",))]


def test_only_columns_the_features_are_made_of_are_watched(history, setting):
    found = simulate(history(), setting())
    assert "monitored: x, z" in found.notes


def test_a_standard_nobody_meets_is_said(history, setting):
    with pytest.raises(RejectedError, match="no model passed the gate: roc_auc"):
        simulate(history(), setting(gates=(AtLeast("roc_auc", 0.9999),)))


def test_labels_that_training_refuses_are_refused(history, setting):
    rows = table().to_pandas()
    rows["y"] = 2 * rows["y"] - 1
    with pytest.raises(ConfigurationError, match=r"'y' of m[.]labels@1 has to be a class"):
        simulate(history(pa.Table.from_pandas(rows, preserve_index=False)), setting())


def test_a_shorter_span_of_one_class_is_left_out(history, setting):
    rows = table(turn=99).to_pandas()
    rows.loc[9 * ROWS : 11 * ROWS - 1, "y"] = 1
    asked = setting(spans=(0.05,), policy=Retrain((Schedule("5d"),), "5d", "9 per 30d"))
    found = simulate(history(pa.Table.from_pandas(rows, preserve_index=False)), asked)
    assert found.attempts > 5


def test_gates_that_only_load_let_everything_pass(history, setting):
    assert simulate(history(), setting(gates=(Loads(),))).refused == 0


def test_what_never_served_saved_nothing_and_cost_nothing(history, setting):
    policy = Retrain((Schedule("5d"),), "5d", "9 per 30d")
    found = simulate(history(table(turn=99)), setting(policy=policy, gates=(Loads(),)))
    assert found.promotions[-1].window == 19
    assert found.promotions[-1].gain is None
    perfect = replace(found, steps=tuple(replace(s, loss=0.0, never=0.0) for s in found.steps))
    assert perfect.to_dict()["relative"] is None
    assert "of never" not in str(perfect)


@pytest.mark.parametrize("changed", [{"warmup": 20}, {"warmup": 10, "delay": 9}])
def test_a_past_that_is_too_short_is_refused(history, setting, changed):
    with pytest.raises(NotEnoughDataError, match="20 windows"):
        simulate(history(), setting(**changed))


def test_a_result_is_json_text_and_picture(history, setting, tmp_path):
    found = simulate(history(), setting())
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    wanted = "windows loss loss_never loss_always attempts refused promotions alarms cpu_s useless"
    assert set(wanted.split()) <= set(data)
    assert data["windows"] == 10
    assert set(data["promotions"][0]) >= {"window", "trigger", "reason"}
    assert f"{found.attempts} retrains asked for" in str(found)
    for kind in ("png", "svg"):
        draw(found, tmp_path / f"p.{kind}")
        assert (tmp_path / f"p.{kind}").stat().st_size > 5_000
    with pytest.raises(ConfigurationError, match=r"p\.txt"):
        draw(found, tmp_path / "p.txt")
    with pytest.raises(ConfigurationError, match="cannot write"):
        draw(found, tmp_path / "nowhere" / "p.png")


class TestHistory:
    def test_windows_of_rows_and_of_time_are_the_same_if_rows_are_regular(self, history):
        by_rows, by_time = history(window=120), history(window=timedelta(hours=120))
        assert by_rows.bounds == by_time.bounds

    def test_a_last_window_that_is_not_whole_is_left_out(self, history):
        assert history(table(5).slice(0, 5 * ROWS - 1)).windows == 4

    def test_shuffling_keeps_rows_and_labels_together_and_times_in_order(self, history):
        past = history()
        moved = past.shuffled(3)
        assert moved.times == past.times
        assert moved.rows["at"] == past.rows["at"]
        pairs = [
            set(zip(h.rows["x"].to_pylist(), h.y.tolist(), strict=True)) for h in (past, moved)
        ]
        assert pairs[0] == pairs[1]
        assert moved.rows["x"] != past.rows["x"]

    def test_rows_without_a_label_are_left_out(self, history):
        rows = table(5).to_pandas().astype({"y": "Int64"})
        rows.loc[7, "y"] = None
        found = history(pa.Table.from_pandas(rows, preserve_index=False))
        assert len(found) == 5 * ROWS - 1

    def test_other_names_are_found_and_said(self, history):
        rows = table(5).rename_columns(["clock", "x", "z", "target"])
        found = history(rows, guess=("label", "target"))
        assert found.notes == ("'clock' stands for 'at'", "'target' stands for 'y'")
        assert found.rows.schema.names == ["clock", "x", "z", "id"]

    @pytest.mark.parametrize(
        ("rows", "named", "says"),
        [
            (table(3).drop_columns(["y"]), {}, "no column 'y'.*--label"),
            (table(3).drop_columns(["at"]), {}, "no column 'at'.*--time"),
            (table(3), {"time": "x"}, "time column.*double, not a timestamp"),
            (table(3).take(list(range(3 * ROWS))[::-1]), {}, "order of time"),
            (
                table(3).set_column(3, "y", pa.array(["up"] * 3 * ROWS)),
                {},
                "label 'y'.*is no number",
            ),
        ],
    )
    def test_a_table_that_does_not_fit_is_refused_by_name(self, history, rows, named, says):
        with pytest.raises(ConfigurationError, match=says):
            history(rows, **named)

    def test_one_window_is_too_little(self, history):
        with pytest.raises(NotEnoughDataError, match="1 windows"):
            history(table(1))

    def test_a_file_that_is_no_parquet_is_refused(self, tmp_path):
        path = Path(tmp_path / "x.csv")
        path.write_text("a,b\n1,2\n", "utf-8")
        for missing in (path, tmp_path / "none.parquet"):
            with pytest.raises(ConfigurationError, match="cannot read"):
                History.read(missing, key="id", time="at", label="y")


def test_rows_under_the_embargo_are_not_learnt_from(history, setting, tmp_path):
    past, asked = history(), setting(embargo=timedelta(hours=50))
    plain, shorter = (Learner.load(past, s, tmp_path) for s in (setting(), asked))
    assert plain.rows(3, 10) == slice(3 * ROWS, 10 * ROWS)
    assert shorter.rows(3, 10) == slice(3 * ROWS, 10 * ROWS - 50)


def test_a_metric_of_the_user_is_lived_with_like_one_of_ours(history, setting, user_module):
    """The same loss under another name gives the same life."""
    own = f"{user_module('def loss(y, p):' + chr(10) + '    return (p - y) ** 2')}:loss"
    lives = []
    for metric in ("brier", own):
        policy = Retrain((Probe(metric),), cooldown="5d", budget="9 per 30d")
        gates = (NotWorse(metric), NotWorse("roc_auc", by="x > 0", margin=0.2, fail_on="never"))
        lives.append(simulate(history(), setting(metric=metric, policy=policy, gates=gates)))
    one, two = lives
    assert [s.loss for s in one.steps] == pytest.approx([s.loss for s in two.steps])
    assert [(p.window, p.trigger) for p in one.promotions] == [
        (p.window, p.trigger) for p in two.promotions
    ]
    assert len(one.promotions) > 1


def test_several_classes_are_lived_with(history, setting):
    rows = table(windows=14, turn=99)
    third = np.digitize(rows["x"].to_numpy(), [-0.4, 0.4])
    rows = rows.set_column(rows.schema.get_field_index("y"), "y", pa.array(third))
    gates = (AtLeast("roc_auc", 0.6), NotWorse("brier"), NotWorse("f1", margin=0.1))
    found = simulate(history(rows), setting(gates=gates))
    assert len(found.steps) == 4
    assert found.loss() < 0.2
