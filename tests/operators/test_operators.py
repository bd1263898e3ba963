"""One operator at a time: what it refuses, how it says so, and whether a retry would help."""

import time
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG

from airflow_mlops.core.entries import Entry
from airflow_mlops.core.errors import (
    ConfigurationError,
    RejectedError,
    UnavailableError,
    UserCodeError,
)
from airflow_mlops.operators.data import (
    SelectRowsOperator,
    SnapshotFilesOperator,
    SnapshotTableOperator,
)
from airflow_mlops.operators.deployment import RollbackModelOperator, ScoreBatchOperator
from airflow_mlops.operators.retraining import RequestTrainingOperator
from airflow_mlops.operators.training import ArchiveFeaturesOperator, TrainModelOperator
from tests.operators.conftest import FEATURES, SECRET
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

IMPORTS = "import numpy as np\nfrom sklearn.linear_model import LogisticRegression"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def snapshot(name, **given):
    return {"dataset": name, "table": f"public.{name}", "key": "id", "time": "at", **given}


class TestSnapshot:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"table": "public.nothing"}, ["'public.nothing'", "database"]),
            ({"key": "uid"}, ["'uid'", "id, at, x"]),
            ({"columns": ["x", "z"]}, ["'z'", "id, at, x"]),
            ({"dataset": "Not a name"}, ["Not a name"]),
        ],
        ids=["table", "key", "column", "dataset"],
    )
    def test_what_is_not_there_is_named_and_not_tried_again(
        self, connections, alone, table, given, words
    ):
        done = run(alone(SnapshotTableOperator, **snapshot(table, **given)))
        assert (done.state, done.tries["t"]) == ("failed", 1)
        assert isinstance(done.error, ConfigurationError)
        assert all(word in str(done.error) for word in words), str(done.error)

    def test_files_are_versioned_like_a_table(
        self, connections, alone, model, labelled_weeks, tmp_path
    ):
        weeks, given = labelled_weeks(2), {"dataset": "meter", "key": "id", "time": "at"}
        pattern = f"{tmp_path}/*.parquet"
        pq.write_table(weeks.part(weeks.rows, 0, 1), tmp_path / "a.parquet")
        first = run(alone(SnapshotFilesOperator, path=pattern, **given)).value("t")
        pq.write_table(weeks.part(weeks.rows, 1, 2), tmp_path / "b.parquet")
        second = run(alone(SnapshotFilesOperator, path=pattern, **given)).value("t")
        assert (first["added"], second["added"], second["rows"]) == (168, 168, 336)
        assert second["origin"] == f"files:{pattern}"
        gone = run(alone(SnapshotFilesOperator, path=f"{tmp_path}/none.csv", **given))
        assert isinstance(gone.error, ConfigurationError)
        assert "none.csv" in str(gone.error)

    def test_a_wrong_password_is_not_tried_again_and_not_shown(
        self, connections, connect, password_login, services, alone, table
    ):
        wrong = {"conn_type": "postgres", "login": "careful", "password": SECRET}
        connect("warehouse", host=services.socket_dir, schema="warehouse", **wrong)
        done = run(alone(SnapshotTableOperator, **snapshot(table)))
        assert (done.state, done.tries["t"]) == ("failed", 1)
        assert isinstance(done.error, ConfigurationError)
        assert "careful" in str(done.error)
        assert "check the connection" in str(done.error)
        assert SECRET not in str(done.error)

    def test_a_server_that_is_down_is_tried_again(
        self, connections, connect, closed_port, alone, table
    ):
        connect("warehouse", conn_type="postgres", host="127.0.0.1", port=closed_port, schema="w")
        done = run(alone(SnapshotTableOperator, **snapshot(table)))
        assert (done.state, done.tries["t"]) == ("failed", 2)
        assert all(isinstance(e, UnavailableError) for e in done.errors)
        assert f"public.{table}" in str(done.errors[0])
        assert str(closed_port) in str(done.errors[0])

    def test_a_connection_of_another_kind_is_named(self, connections, connect, alone, table):
        connect("warehouse", conn_type="mysql", host="h")
        done = run(alone(SnapshotTableOperator, **snapshot(table)))
        assert isinstance(done.error, ConfigurationError)
        assert "'warehouse'" in str(done.error)
        assert "'mysql'" in str(done.error)

    def test_without_new_rows_the_newest_version_is_the_answer(self, connections, alone, table):
        first = run(alone(SnapshotTableOperator, **snapshot(table))).value("t")
        second = run(alone(SnapshotTableOperator, **snapshot(table))).value("t")
        assert (first["added"], second["added"]) == (2, 0)
        assert second["ref"] == first["ref"]

    def test_an_empty_table_is_rejected_and_named(self, connections, alone, table, warehouse):
        warehouse(f"truncate {table}")
        done = run(alone(SnapshotTableOperator, **snapshot(table)))
        assert isinstance(done.error, RejectedError)
        assert table in str(done.error)

    def test_one_operator_is_mapped_over_tables(self, connections, table, warehouse):
        warehouse(f"create table {table}_b as select * from {table} union all select 3, now(), 3")
        with DAG(f"{table}_mapped", schedule=None) as dag:
            SnapshotTableOperator.partial(
                task_id="t", model=table, key="id", time="at"
            ).expand_kwargs(
                [{"table": f"public.{name}", "dataset": name} for name in (table, f"{table}_b")]
            )
        done = run(dag)
        assert done.states["t"] == ["success", "success"]
        assert [v["rows"] for v in done.value("t")] == [2, 3]


class TestRollback:
    @pytest.fixture
    def two_champions(self, trained_champions):
        return trained_champions(2)

    def test_returns_to_the_previous_champion_once(
        self, connections, alone, two_champions, ledger, model, model_store
    ):
        dag, now = alone(RollbackModelOperator, reason="complaints", to=""), datetime.now(UTC)
        first, second = run(dag, at=now), run(dag, at=now)
        assert first.value("t") == second.value("t") == {"model": f"{model}@1", "entry": 3}
        state = ledger.state(model)
        assert [e.op for e in state.entries] == ["promote", "promote", "rollback"]
        assert (state.entries[2].reason, state.champion) == ("complaints", 1)
        assert state.entries[2].by == "dag_test"  # who triggered the run
        assert state.entries[2].evidence["run"] == f"{model}/{first.run_id}"
        assert dict(model_store.client.get_registered_model(model).aliases) == {"champion": "1"}

    def test_two_who_press_at_once_go_back_one_step(
        self, connections, alone, trained_champions, ledger, model
    ):
        trained_champions(3)
        pressed = datetime.now(UTC)
        first = alone(RollbackModelOperator, reason="complaints")
        assert run(first, at=pressed).value("t")["model"] == f"{model}@2"
        second = run(first, at=pressed + timedelta(milliseconds=1))
        assert isinstance(second.error, RejectedError)
        assert "after this rollback was asked for; say to which version" in str(second.error)
        assert ledger.state(model).champion == 2

    @pytest.mark.parametrize(("to", "words"), [("7", ["@7", "never", "1, 2"]), ("2", ["already"])])
    def test_names_what_it_cannot_return_to(
        self, connections, alone, two_champions, ledger, model, to, words
    ):
        done = run(alone(RollbackModelOperator, reason="r", to=to))
        assert (type(done.error), done.tries["t"]) == (ConfigurationError, 1)
        assert all(word in str(done.error) for word in words), str(done.error)
        assert ledger.state(model).champion == 2

    @pytest.mark.parametrize("policy", ["restore", "adopt"])
    def test_a_moved_alias_is_answered_as_the_configuration_says(
        self, connections, model, monkeypatch, policy
    ):
        task = RollbackModelOperator(task_id="t", model=model, reason="r")
        assert task.registry().moved_alias == "restore"
        monkeypatch.setenv("AIRFLOW__MLOPS__MOVED_ALIAS", policy)
        assert task.registry().moved_alias == policy

    def test_says_that_there_is_nothing_to_return_to(self, connections, alone, model):
        done = run(alone(RollbackModelOperator, reason="r"))
        assert isinstance(done.error, ConfigurationError)
        assert f"nothing to roll back to: {model}" in str(done.error)

    def test_mlflow_down_is_noticed_soon_and_may_be_tried_again(
        self, connections, connect, closed_port, alone, two_champions, ledger, model
    ):
        connect("mlflow_default", conn_type="mlflow", host="127.0.0.1", port=closed_port)
        started = time.monotonic()
        done = run(alone(RollbackModelOperator, reason="r", retries=0))
        assert time.monotonic() - started < 40
        assert isinstance(done.error, UnavailableError)
        assert f"{model}@1" in str(done.error)
        assert str(closed_port) in str(done.error)
        assert ledger.state(model).champion == 2

    def test_is_mapped_over_models(self, connections, registry, make_version, ask, model, ledger):
        names = [f"{model}_a", f"{model}_b"]
        for name in names:
            for _ in range(2):
                ref = make_version(name=name)
                registry.promote(ref, ask(f"promote {ref}"), epoch=None, order=None)
        with DAG(model, schedule=None) as dag:
            RollbackModelOperator.partial(task_id="t", reason="both", force=True).expand(
                model=names
            )
        done = run(dag)
        assert done.state == "success"
        last = [ledger.state(name).entries[-1] for name in names]
        assert [e.key for e in last] == [f"rollback:{model}/{done.run_id}/t[{i}]" for i in range(2)]


class TestLedger:
    def test_a_database_without_the_schema_says_how_to_make_it(
        self, connections, connect, services, alone
    ):
        connect(
            "mlops_default",
            conn_type="postgres",
            host=services.socket_dir,
            schema="warehouse",
            login="mlops_task",
        )
        done = run(alone(ScoreBatchOperator, snapshot={}))
        assert (type(done.error), done.tries["t"]) == (ConfigurationError, 1)
        assert "airflow mlops migrate" in str(done.error)

    def test_a_database_that_is_down_is_tried_again(self, connections, connect, closed_port, alone):
        connect("mlops_default", conn_type="postgres", host="127.0.0.1", port=closed_port)
        done = run(alone(ScoreBatchOperator, snapshot={}))
        assert done.tries["t"] == 2
        assert all(isinstance(e, UnavailableError) for e in done.errors)
        assert str(closed_port) in str(done.errors[0])

    def test_nothing_is_selected_without_a_decision(self, connections, alone, model):
        done = run(alone(SelectRowsOperator, label_column="up", span="28d"))
        assert isinstance(done.error, ConfigurationError)
        assert "airflow mlops retrain" in str(done.error)
        assert model in str(done.error)


class TestRequest:
    @pytest.mark.parametrize(
        ("op", "state"), [("retrain", "success"), ("wait", "skipped"), ("ask", "failed")]
    )
    def test_starts_waits_or_tells_people(self, connections, alone, ledger, model, op, state):
        draft = Entry(model, op, "", "decide", "because")
        entry, _ = ledger.record(model, "decide", {}, lambda _: draft)
        decision = {"op": op, "reason": "because", "decision": entry.seq, "fresh": True}
        done = run(alone(RequestTrainingOperator, decision=decision))
        assert (done.states["t"], done.tries["t"]) == (state, 1)
        assert [str(e) for e in done.errors] == (["because"] if op == "ask" else [])


class TestTraining:
    def test_what_is_wrong_with_a_function_is_said_in_its_own_words(
        self, market, user_module, model_store
    ):
        market.deliver(0, 3, labels=(0, 2))
        monitor, *_ = market.lifecycle(select=_window()).dags
        run(monitor)
        random = (
            "y = np.random.default_rng().permutation(y)\n    return LogisticRegression().fit(X, y)"
        )
        bad = {"raises": "raise KeyError('depth')", "nothing": "return None", "random": random}
        build = f"{user_module(FEATURES)}:build"
        again = {"retries": 1, "retry_delay": timedelta(0), "model": market.name}
        with DAG(f"{market.name}_functions", schedule=None, default_args=again) as dag:
            select = SelectRowsOperator(task_id="select", label_column="up", span="14d")
            features = ArchiveFeaturesOperator(
                task_id="features", features=build, selection=select.output
            )
            for name, body in bad.items():
                code = f"{IMPORTS}\ndef fit(X, y, *, seed):\n    {body}\n"
                TrainModelOperator(
                    task_id=name,
                    features=build,
                    feature_set=features.output,
                    train=f"{user_module(code, f'{market.name}_{name}')}:fit",
                    selection=select.output,
                )
        done = run(dag)
        assert {t: done.tries[t] for t in bad} == dict.fromkeys(bad, 1)
        assert all(isinstance(e, UserCodeError) for e in done.errors)
        said = {name: next(str(e) for e in done.errors if f"_{name}:fit" in str(e)) for name in bad}
        assert "KeyError: 'depth' (line 4)" in said["raises"]
        assert "returned NoneType" in said["nothing"]
        assert "not deterministic" in said["random"]
        assert "seed" in said["random"]
        assert list(model_store.client.search_model_versions(f"name='{market.name}'")) == []
        runs = model_store.client.search_runs([model_store.experiment(market.name)])
        assert {r.info.status for r in runs} == {"FAILED"}

    def test_feature_code_that_is_not_there_is_named(self, connections, alone, model):
        done = run(alone(ArchiveFeaturesOperator, features="nowhere:build", selection={}))
        assert (type(done.error), done.tries["t"]) == (ConfigurationError, 1)
        assert "nowhere:build" in str(done.error)

    @pytest.mark.parametrize(
        ("params", "family", "says"),
        [
            ({"lag": 3}, UserCodeError, "takes no parameter 'lag'; it has none"),
            ({"rows": 3}, UserCodeError, "'rows' is its first argument"),
            ({"lags": {1, 2}}, ConfigurationError, "not plain JSON"),
        ],
    )
    def test_feature_parameters_that_cannot_be_are_named(
        self, connections, alone, user_module, params, family, says
    ):
        build = f"{user_module(FEATURES)}:build"
        done = run(
            alone(ArchiveFeaturesOperator, features=build, selection={}, feature_params=params)
        )
        assert (type(done.error), done.tries["t"]) == (family, 1)
        assert build in str(done.error)
        assert says in str(done.error)


def _window():
    from airflow_mlops.policy import Window

    return Window(span="14d", step="7d")
