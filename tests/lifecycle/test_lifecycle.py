"""One declaration of policy becomes four Dags; a bad one is an import error that names it."""

import ast
import re
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_mlops import policy as words
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.metrics import LOSSES, SCORES
from airflow_mlops.lifecycle import Lifecycle

pytestmark = pytest.mark.airflow

ROOT = Path(__file__).parents[2]
TASKS = {
    "monitor": "snapshot labels contract dependencies may_serve score drift performance decide "
    "request housekeep system",
    "train": "select features history train evaluate gate submit another_round",
    "rollout": "smoke flips approve promote",
    "rollback": "rollback",
}


def by_stage(life):
    return {dag.dag_id.partition("__")[2]: dag for dag in life.dags}


def edges(dag):
    return {(t.task_id, d) for t in dag.tasks for d in t.downstream_task_ids}


class TestDags:
    def test_are_four_with_the_loops_tasks(self, policy):
        dags = by_stage(Lifecycle(**policy()))
        assert {s: {t.task_id for t in d.tasks} for s, d in dags.items()} == {
            stage: set(tasks.split()) for stage, tasks in TASKS.items()
        }
        assert [d.dag_id for d in dags.values()] == [f"churn__{s}" for s in TASKS]

    def test_sql_makes_the_rows_that_all_others_read(self, policy):
        sql = words.Sql("select * from rows", {"weather": "weather"}, {"labels": "7d"})
        monitor = by_stage(Lifecycle(**policy(sql=sql)))["monitor"]
        raw, labels, made = (monitor.get_task(t) for t in ("raw", "labels", "snapshot"))
        assert (raw.dataset, labels.windows_of, made.windows_of) == ("churn.raw",) * 3
        assert (made.dataset, made.sql) == ("churn", "select * from rows")
        assert made.inputs == {"rows": "churn.raw", "labels": "churn.labels", "weather": "weather"}
        assert made.known_after == {"labels": "7d"}
        assert raw.outlets == []
        assert [a.uri for a in made.outlets] == ["mlops://churn/data"]
        assert raw.downstream_task_ids == {"labels"}
        assert "snapshot" in labels.downstream_task_ids
        assert len(monitor.tasks) == 13
        plain = by_stage(Lifecycle(**policy(name="plain")))["monitor"]
        assert edges(monitor) - {("raw", "labels"), ("labels", "snapshot")} == edges(plain) - {
            ("snapshot", "labels")
        }

    def test_are_started_by_the_clock_then_by_each_other(self, policy):
        dags = by_stage(Lifecycle(**policy(schedule="@hourly")))
        assert dags["monitor"].timetable.expression == "0 * * * *"
        outlets = {
            asset.uri: f"{stage}.{task.task_id}"
            for stage, dag in dags.items()
            for task in dag.tasks
            for asset in task.outlets
            if task.task_id != "another_round"
        }
        assert outlets == {
            "mlops://churn/data": "monitor.snapshot",
            "mlops://churn/request": "monitor.request",
            "mlops://churn/candidate": "train.submit",
            "mlops://churn/champion": "rollback.rollback",
        }
        promote = dags["rollout"].get_task("promote")
        assert [a.uri for a in promote.outlets] == ["mlops://churn/champion"]
        again = dags["train"].get_task("another_round")
        assert [a.uri for a in again.outlets] == ["mlops://churn/request"]
        started_by = {
            s: [a.uri for a in dags[s].timetable.asset_condition.objects]
            for s in ("train", "rollout")
        }
        assert started_by == {
            "train": ["mlops://churn/request"],
            "rollout": ["mlops://churn/candidate"],
        }

    def test_lineage_leads_from_the_data_to_the_champion_and_its_scores(self, policy):
        dags = by_stage(Lifecycle(**policy()))
        made = {
            f"{stage}.{task.task_id}": tuple(
                " ".join(a.uri.removeprefix("mlops://churn/") for a in assets)
                for assets in (task.inlets, task.outlets)
            )
            for stage, dag in dags.items()
            for task in dag.tasks
            if task.inlets
        }
        assert made == {
            "monitor.score": ("data champion", ""),
            "monitor.request": ("data", "request"),
            "train.train": ("data request", ""),
            "train.submit": ("data request", "candidate"),
            "rollout.promote": ("candidate", "champion"),
        }

    def test_score_and_decide_only_after_the_contract(self, policy):
        dag = by_stage(Lifecycle(**policy()))["monitor"]
        assert edges(dag) >= {
            ("snapshot", "contract"),
            ("contract", "score"),
            ("dependencies", "score"),
            ("dependencies", "may_serve"),
            ("contract", "may_serve"),
            ("snapshot", "drift"),
            ("score", "performance"),
            ("labels", "performance"),
            ("performance", "decide"),
            ("drift", "decide"),
            ("decide", "request"),
        }
        assert ("contract", "drift") not in edges(dag)  # rows that stop scoring still drift
        # without a champion three monitors are skipped, and there is still a decision
        assert dag.get_task("decide").trigger_rule == "none_failed"
        assert dag.get_task("snapshot").upstream_task_ids == set()
        assert dag.get_task("dependencies").upstream_task_ids == set()
        # a champion that may not serve fails the run, and there is still a decision
        assert dag.get_task("dependencies").skip == ["performance"]
        assert dag.get_task("score").trigger_rule == "all_success"
        serve = dag.get_task("may_serve")
        assert (serve.trigger_rule, serve.downstream_task_ids) == ("none_failed", set())
        # whatever becomes of it, there is a decision
        for alone in map(dag.get_task, ("housekeep", "system")):
            assert alone.upstream_task_ids == alone.downstream_task_ids == set()

    def test_the_age_of_rows_is_judged_when_they_are_looked_at_and_only_if_somebody_asks(
        self, policy
    ):
        def drift(**changes):
            return by_stage(Lifecycle(**policy(**changes)))["monitor"].get_task("drift")

        assert (drift().now, drift().stale) == (None, None)
        table = replace(policy()["data"], stale="2h")
        for sql, task in ((None, "snapshot"), (words.Sql("select * from rows"), "raw")):
            asked = drift(data=table, sql=sql)
            assert asked.now == f"{{{{ ti.xcom_pull(task_ids='{task}')['looked_at'] }}}}"
            assert asked.stale == "2h"
            assert "now" in asked.template_fields

    def test_columns_weigh_by_importance_if_training_measures_it(self, policy):
        dags = by_stage(Lifecycle(**policy(retrain=[words.Drift(weights="importance")])))
        assert dags["train"].get_task("train").importance is True
        assert dags["monitor"].get_task("drift").weights == "importance"
        assert by_stage(Lifecycle(**policy()))["train"].get_task("train").importance is False

    def test_a_schedule_by_arrival_is_an_asset_that_watches_the_table(self, policy):
        made = by_stage(Lifecycle(**policy(schedule=words.Arrival("90s"))))["monitor"]
        (asset,) = made.timetable.asset_condition.objects
        (watcher,) = asset.watchers
        assert asset.uri == "mlops://churn/rows"
        path, arguments = watcher.trigger.serialize()
        assert path.endswith("polling.RowsArrivedTrigger")
        table = policy()["data"]
        assert (arguments["table"], arguments["time"]) == (table.table, table.time)
        assert (arguments["warehouse_conn_id"], arguments["interval"]) == (table.conn_id, 90.0)

    def test_hold_what_the_policy_says(self, policy):
        gates = [words.AtLeast("roc_auc", 0.7), words.Better("log_loss")]
        life = Lifecycle(
            **policy(
                params={"depth": 3},
                feature_params={"lags": 3},
                seed=11,
                metric="log_loss",
                gates=gates,
                rounds=3,
                retrain=[words.Growth(2.0), words.Regret(challenger="code.train:quick")],
                cooldown="3d",
                budget="2 per 10d",
                approve=words.Approval(by=["ann", "bob"], within="36h"),
                contract=words.Contract("warn", ["null"]),
                dependencies=words.Dependencies("warn", "/opt/constraints.txt"),
                mlflow_conn_id="my_mlflow",
                health=words.Health(rss_mb=900.0),
                keep=words.Keep(usages="30d"),
                allow_pickle=True,
            )
        )
        dags = by_stage(life)
        train = dags["train"].get_task("train")
        assert (train.train_params, train.seed, train.metric) == ({"depth": 3}, 11, "log_loss")
        assert train.allow_pickle is True
        assert dags["train"].get_task("features").feature_params == {"lags": 3}
        assert dags["train"].get_task("gate").gates == [g.to_dict() for g in gates]
        assert dags["train"].get_task("another_round").rounds == 3
        decide = dags["monitor"].get_task("decide").policy
        assert words.Retrain.from_dict(decide) == life.policy
        assert (decide["cooldown"], decide["budget"]) == ("3d", "2 per 10d")
        assert dags["monitor"].get_task("performance").challenger == "code.train:quick"
        checked = dags["monitor"].get_task("contract")
        assert (checked.fail_on, checked.fail_kinds) == ("warn", ("null",))
        asked = dags["monitor"].get_task("dependencies")
        assert (asked.fail_on, asked.constraints) == ("warn", "/opt/constraints.txt")
        rules = dags["monitor"].get_task("system").rules
        assert words.Health.from_dict(rules) == words.Health(rss_mb=900.0)
        keep = dags["monitor"].get_task("housekeep").keep
        assert words.Keep.from_dict(keep) == words.Keep(usages="30d")
        approve = dags["rollout"].get_task("approve")
        assert [u["id"] for u in approve.assigned_users] == ["ann", "bob"]
        assert approve.response_timeout == timedelta(hours=36)
        snapshot, labels = (dags["monitor"].get_task(t) for t in ("snapshot", "labels"))
        assert (snapshot.dataset, snapshot.window, snapshot.columns) == ("churn", "7d", None)
        assert (labels.dataset, labels.columns) == ("churn.labels", ("id", "at", "up"))
        everywhere = [t for d in dags.values() for t in d.tasks if hasattr(t, "mlflow_conn_id")]
        assert {t.mlflow_conn_id for t in everywhere} == {"my_mlflow"}
        assert {t.model for t in everywhere} == {"churn"}

    def test_run_one_at_a_time_and_retry_what_may_pass(self, policy):
        def tell(context):
            """Tell people."""

        life = Lifecycle(**policy(retries=5, notify=[tell], tags=["team-a"]))
        for dag in life.dags:
            assert dag.max_active_runs == 1
            assert dag.catchup is False
            assert dag.is_paused_upon_creation is False
            assert dag.tags == {"mlops", "churn", "team-a"}
            assert dag.on_failure_callback == [tell]
            assert "airflow mlops history churn" in dag.doc_md
            for task in dag.tasks:
                assert (task.retries, task.owner) == (5, "churn")
                assert task.retry_delay == timedelta(seconds=30)
                assert task.retry_policy is not None

    def test_can_be_read_by_the_scheduler_and_hold_no_object_of_ours(self, policy):
        from airflow.serialization.serialized_objects import DagSerialization

        for dag in Lifecycle(**policy()).dags:
            text = str(DagSerialization.to_dict(dag))
            assert "object at 0x" not in text


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"name": "Not A Name"}, "Not A Name"),
            ({"features": "module.function"}, "module.function"),
            ({"train": "a:b:c"}, "a:b:c"),
            ({"gates": []}, "no gates"),
            ({"retrain": [words.Probe("costs:missed")]}, "another loss than metric='brier'"),
            ({"cooldown": "soon"}, "soon"),
            ({"budget": "many"}, "many"),
            ({"budget": "4 per week"}, "week"),
            ({"metric": "accuracy"}, "accuracy"),
            ({"approve": None}, "person"),
            ({"features": len}, "'module:function'"),
            ({"gates": words.Loads()}, "write gates=[...]"),
            ({"retrain": words.Probe()}, "write retrain=[...]"),
            ({"rounds": 0}, "0"),
            ({"contract": "warn"}, "contract='warn'; write contract=Contract(...)"),
            ({"dependencies": None}, "write dependencies=Dependencies(...)"),
            (
                {"feature_params": {"x": {1}}},
                "'churn': feature_params: {'x': {1}} is not plain JSON",
            ),
            ({"feature_params": ["lags"]}, "no mapping of parameters"),
            ({"retrain": [words.Gate()]}, "Gate"),
            ({"gates": [words.Probe()]}, "Probe"),
            ({"gates": [words.NotWorse("squared_error")]}, "does not go with metric='brier'"),
            ({"gates": [words.AtLeast("r2", 0.5)]}, "does not go with metric='brier'"),
            ({"metric": "absolute_error"}, "absolute_error"),
            (
                {"metric": "absolute_error", "retrain": [], "gates": [words.AtLeast("f1", 0.5)]},
                "AtLeast(metric='f1', value=0.5) does not go with metric='absolute_error'",
            ),
            ({"gates": [words.Loads(fail_on="never")]}, "no gates that count"),
            ({"metric": "costs:a b", "retrain": []}, "'costs:a b'; it has to be 'module:function'"),
        ],
        ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
    )
    def test_a_bad_policy_is_an_import_error_that_names_it(self, policy, changes, word):
        with pytest.raises((ConfigurationError, ValueError), match=re.escape(word)):
            Lifecycle(**policy(**changes))

    @pytest.mark.parametrize(
        ("word", "value"),
        [
            (lambda: words.Window("3 days"), "3 days"),
            (lambda: words.Window("7d", step="7d"), "7d"),
            (lambda: words.Probe(alpha=0.9), "0.9"),
            (lambda: words.Probe(margin=-1), "-1"),
            (lambda: words.Regret(0), "0"),
            (lambda: words.Growth(1.0), "1.0"),
            (lambda: words.Drift("3 of 2"), "3 of 2"),
            (lambda: words.Drift("often"), "often"),
            (lambda: words.Approval(by=[]), "by"),
            (lambda: words.Approval(by="ml-lead"), "by=['ml-lead']"),
            (lambda: words.AtLeast("brier", 0.2), "AtMost('brier', 0.2)"),
            (lambda: words.AtMost("roc_auc", 0.7), "AtLeast('roc_auc', 0.7)"),
            (lambda: words.Table("c", "t", "k", "t", "l", None), "labels is None"),
            (lambda: words.Table("c", "t", "", "t", "l", "ls"), "key is ''"),
            (lambda: words.Approval(by=["a"], within="2 days"), "2 days"),
            (lambda: words.Dependencies("always"), "'always'; known: 'error', 'warn', 'never'"),
            (lambda: words.Table("c", "t", "k", "t", "l", "ls", lateness="late"), "late"),
        ],
    )
    def test_a_word_names_the_value_it_cannot_use(self, word, value):
        with pytest.raises(ValueError, match=re.escape(value)):
            word()

    def test_the_metrics_are_those_of_the_core(self):
        assert sorted(words.LOSSES) == sorted(LOSSES)
        assert sorted(words.SCORES) == sorted(SCORES)

    def test_a_metric_of_the_user_goes_wherever_one_of_ours_does(self, policy):
        own = "costs:missed"
        gates = [words.NotWorse(own), words.AtMost(own, 0.5), words.Better("log_loss")]
        life = Lifecycle(**policy(metric=own, retrain=[words.Probe(own)], gates=gates))
        assert life.dags[1].get_task("evaluate").metric == own

    def test_the_embargo_is_as_long_as_labels_may_be_late(self, policy):
        def select(**changes):
            task = Lifecycle(**policy(**changes)).dags[1].get_task("select")
            return task.embargo

        late = replace(policy()["data"], lateness="36h")
        assert select() == "0d"
        assert select(data=late) == "36h"
        known = words.Sql("select * from rows", known_after={"labels": "3d"})
        assert select(data=late, sql=known) == "3d"
        assert select(data=late, select=words.Window("70d", embargo="1h")) == "1h"

    def test_two_lifecycles_of_one_name_in_one_file(self, tmp_path):
        path = tmp_path / "twins.py"
        path.write_text(TWINS.format(first="churn", second="churn"))
        bag = bag_of(path)
        assert not bag.dags
        (error,) = bag.import_errors.values()
        assert "two lifecycles are named 'churn'" in error

    def test_two_names_in_one_file_are_fine(self, tmp_path):
        path = tmp_path / "two.py"
        path.write_text(TWINS.format(first="churn", second="fraud"))
        bag = bag_of(path)
        assert bag.import_errors == {}
        assert len(bag.dags) == 8

    def test_a_file_may_be_parsed_again(self, tmp_path):
        path = tmp_path / "one.py"
        path.write_text(TWINS.format(first="churn", second="fraud"))
        assert [bag_of(path).import_errors for _ in range(2)] == [{}, {}]


def test_a_policy_is_frozen(policy):
    life = Lifecycle(**policy())
    with pytest.raises(FrozenInstanceError):
        life.name = "other"


class TestDagFiles:
    def test_a_lifecycle_fits_on_a_screen(self):
        for path in (ROOT / "dags").glob("*.py"):
            text = path.read_text("utf-8")
            if "Lifecycle(" in text:
                assert len(text.splitlines()) <= 40, path

    def test_the_loop_wired_by_hand_has_the_same_operators(self):
        def operators(path):
            names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
            return {n for n in names if n.endswith("Operator")}

        by_hand = operators(ROOT / "dags" / "example_operators.py")
        for name in ("features", "rollback"):
            by_hand |= operators(ROOT / "dags" / f"example_{name}.py")
        made = ROOT / "airflow_mlops" / "lifecycle"
        assert by_hand == operators(made / "dags.py") | operators(made / "rollout.py")

    def test_the_loop_wired_by_hand_has_the_same_shape(self, policy):
        life = by_stage(Lifecycle(**policy()))
        bags = [bag_of(ROOT / "dags" / f"example_{n}.py") for n in ("operators", "rollback")]
        assert [bag.import_errors for bag in bags] == [{}, {}]
        dags = bags[0].dags | bags[1].dags
        for stage in TASKS:
            by_hand = dags[f"example_{stage}"]
            assert {t.task_id: type(t) for t in by_hand.tasks} == {
                t.task_id: type(t) for t in life[stage].tasks
            }
            assert edges(by_hand) == edges(life[stage])


def bag_of(path):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=path, bundle_path=path.parent, bundle_name="tests")


TWINS = """
'Two models: six Dags.'
from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import Approval, Table, Window

for name in ("{first}", "{second}"):
    Lifecycle(
        name=name,
        data=Table("warehouse", "rows", "id", "at", "up", "labels"),
        select=Window("182d"),
        features="f:build",
        train="t:fit",
        approve=Approval(by=["ml-lead"]),
    )
"""
