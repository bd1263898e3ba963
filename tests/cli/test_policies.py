"""Verbs about a policy: what it would do, and what it would have done."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.ledger import Entry
from airflow_mlops.policy import Growth, OnRequest, Probe, Regret, Retrain
from tests.conftest import MONDAY

pytestmark = [pytest.mark.airflow]

DAG_FILE = """
from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import Approval, AtLeast, Drift, NotWorse, Probe, Regret, Table, Window

def life(name, **changed):
    usual = dict(
        data=Table("warehouse", "public.t", key="id", time="at", labels="public.l", label="y"),
        select=Window("60d", "5d"),
        features="simulated_features:build",
        train="simulated_train:fit",
        gates=[AtLeast("roc_auc", 0.6), NotWorse("brier")],
        retrain=[Probe(), Regret()],
        cooldown="5d",
        budget="9 per 30d",
        approve=Approval(by=["ann"]),
        schedule=None,
    )
    return Lifecycle(name=name, **{**usual, **changed})

"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a Dag file, its two functions and a history in which a relation turns."""
    (tmp_path / "simulated_features.py").write_text(
        "def build(rows):\n    return rows[['x']]\n", "utf-8"
    )
    (tmp_path / "simulated_train.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n\n"
        "def fit(X, y, *, seed):\n    return LogisticRegression(random_state=seed).fit(X, y)\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    rng, n = np.random.default_rng(0), 20 * 120
    x = rng.normal(size=n)
    y = (np.where(np.arange(n) < 12 * 120, x, -x) + 0.3 * rng.normal(size=n) > 0).astype(int)
    at = [MONDAY + timedelta(hours=i) for i in range(n)]
    pq.write_table(pa.table({"at": at, "x": x, "y": y}), tmp_path / "past.parquet")

    def write(text, name="dags.py"):
        path = tmp_path / name
        path.write_text(DAG_FILE + text, "utf-8")
        return str(path)

    return write


ROOT = Path(__file__).parents[2]
SHIPPED = {"bike": (168, "absolute_error"), "electricity": (336, "brier")}


class TestSimulate:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_every_shipped_dag_can_be_replayed(self, mlops, tmp_path, name):
        window, metric = SHIPPED[name]
        rows = pq.read_table(ROOT / "include" / name / f"{name}.parquet").slice(0, window * 45)
        past = tmp_path / "past.parquet"
        pq.write_table(rows, past)
        dags = str(ROOT / "dags" / f"{name}.py")
        asked = ("--data", str(past), "--window", str(window), "--warmup", "36", "--json")
        done = mlops("simulate", dags, *asked)
        assert done.code == 0, done.err
        found = done.json
        assert (found["model"], found["metric"], found["windows"]) == (name, metric, 9)
        assert found["loss"] < 1.02 * found["loss_never"]

    def test_quantities_that_are_whole_numbers_are_no_classes(self, mlops, project, tmp_path):
        (tmp_path / "simulated_train.py").write_text(
            "from sklearn.linear_model import LinearRegression\n\n"
            "def fit(X, y, *, seed):\n    return LinearRegression().fit(X, y)\n\n"
            "def loss(y, p):\n    return abs(y - p)\n"
        )
        past = pq.read_table(tmp_path / "past.parquet")
        whole = np.round(3 * past["x"].to_numpy() + 20)
        past = past.set_column(2, "y", pa.array(whole))
        pq.write_table(past, tmp_path / "past.parquet")
        for metric in ("absolute_error", "simulated_train:loss"):
            gates = f'gates=[NotWorse("{metric}")], retrain=[Probe("{metric}"), Regret()]'
            dags = project(f'life("m", metric="{metric}", {gates})', f"d{metric[:3]}.py")
            done = mlops(
                "simulate", dags, "--data", str(tmp_path / "past.parquet"), "--warmup", "8"
            )
            assert done.code == 0, done.err
            assert f"mean {metric}" in done.out

    def test_it_prints_what_a_policy_is_worth(self, mlops, project, tmp_path):
        dags, data = project('life("m")'), str(tmp_path / "past.parquet")
        plot = tmp_path / "p.png"
        arguments = ("simulate", dags, "--data", data, "--warmup", "8")
        done = mlops(*arguments, "--json", "--plot", str(plot))
        assert done.code == 0, done.err
        found = done.json
        assert (found["model"], found["windows"]) == ("m", 12)
        assert found["loss"] < found["loss_never"]
        assert found["promotions"][0]["trigger"] == "first"
        assert plot.stat().st_size > 5_000
        text = mlops(*arguments, "--window", "120").out
        assert f"{found['attempts']} retrains asked for" in text
        assert "of never retraining" in text

    def test_another_policy_lives_another_life(self, mlops, project, tmp_path):
        dags, data = project('life("m")'), str(tmp_path / "past.parquet")
        quiet = project('life("other", retrain=[Regret(1e6)])', "quiet.py")
        done = mlops("simulate", dags, "--data", data, "--warmup", "8", "--policy", quiet, "--json")
        assert done.json["attempts"] == 0
        assert done.json["loss"] == done.json["loss_never"]

    @pytest.mark.parametrize(
        ("text", "arguments", "says"),
        [
            ("", (), "declares no Lifecycle"),
            ("1 / 0", (), "ZeroDivisionError"),
            (
                'life("a"); life("b")',
                (),
                "declares a, b; name one of them (--model",
            ),
            ('life("m")', ("--window", "soon"), "window 'soon'"),
            ('life("m")', ("--window", "0"), "window '0'"),
            ('life("m")', ("--warmup", "1"), "warm-up 1"),
            ('life("m")', ("--label-delay", "-1"), "label delay -1"),
            ('life("m")', ("--label", "nope"), "no column 'nope'"),
            ('life("m")', ("--policy", "missing.py"), "no Dag file missing.py"),
            ('life("m")', ("--plot", "p.jpg"), "cannot draw into p.jpg"),
            (
                'life("m", data=Table("w", "t", key="id", time="at", labels="l", label="y",'
                ' columns=("x", "gone")))',
                (),
                "lacks 'gone' of Table(columns=...)",
            ),
            (
                'life("m", retrain=[Regret(), Drift(ignore=["month"])])',
                (),
                "lacks 'month' of Drift(ignore=...)",
            ),
        ],
    )
    def test_what_cannot_be_replayed_is_named(
        self, mlops, project, tmp_path, text, arguments, says
    ):
        data = str(tmp_path / "past.parquet")
        done = mlops("simulate", project(text), "--data", data, *arguments)
        assert done.code == 2
        assert says in done.err

    def test_a_policy_in_another_loss_is_refused(self, mlops, project, tmp_path):
        other = project(
            'life("o", metric="log_loss", retrain=[Regret()], gates=[NotWorse("log_loss")])', "o.py"
        )
        data = str(tmp_path / "past.parquet")
        done = mlops("simulate", project('life("m")'), "--data", data, "--policy", other)
        assert done.code == 2
        assert "m is measured in brier, the policy in log_loss" in done.err


@pytest.mark.services
class TestPlan:
    @pytest.fixture
    def decided(self, ledger, model):
        """A tick that has decided; its policy is on record."""
        policy = Retrain((Probe(), Regret(), Growth(), OnRequest()))
        evidence = {"thresholds": policy.to_dict(), "data": "d@0", "labels": "l@0"}
        entry = Entry(model, "keep", "", "monitor", "nothing asks", evidence=evidence)
        ledger.record(model, "k1", {"op": "decide"}, lambda _: entry)
        return model

    def test_it_says_what_the_next_tick_would_do_and_records_nothing(
        self, mlops, decided, ledger, dataset_store, labelled_weeks
    ):
        take = {"time": "at", "key": "id", "window": timedelta(days=7)}
        weeks = labelled_weeks(5)
        for name, rows in ((decided, weeks.rows), (f"{decided}.labels", weeks.labels)):
            source = ArrowSource(rows, "id", "at")
            dataset_store.append(name, source, app_key="k", **take)
        done = mlops("plan", decided)
        assert done.code == 0, done.err
        assert "the next tick would say retrain (first): there is no champion yet" in done.out
        assert f"{decided}@1" in done.out
        found = mlops("plan", decided, "--json").json
        assert (found["decision"]["op"], found["new"]) == ("retrain", True)
        assert len(ledger.state(decided).entries) == 1

    def test_without_data_or_decision_it_says_what_is_missing(self, mlops, decided, ledger):
        done = mlops("plan", decided)
        assert (done.code, f"no dataset '{decided}' yet" in done.err) == (2, True)
        entry = Entry("other", "request", "", "ann", "please")
        ledger.record("other", "k", {"op": "request"}, lambda _: entry)
        done = mlops("plan", "other")
        assert (done.code, "its policy is not on record" in done.err) == (2, True)


@pytest.mark.services
def test_why_shows_what_each_rule_said(mlops, ledger, model):
    said = [
        {"trigger": "probe", "asks": False, "text": "a small model is no better"},
        {"trigger": "regret", "asks": True, "text": "waiting has cost 0.7"},
    ]
    evidence = {"facts": {"regret": 0.7, "conditions": said}}
    entry = Entry(model, "retrain", "", "monitor", "waiting has cost 0.7", evidence=evidence)
    ledger.record(model, "k1", {"op": "decide"}, lambda _: entry)
    out = mlops("why", model).out
    assert "         probe        a small model is no better" in out
    assert "       * regret       waiting has cost 0.7" in out
    assert 'facts: {"regret": 0.7}' in out
    json.dumps(mlops("why", model, "--json").json)
