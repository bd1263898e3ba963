"""Findings and predictions: written once, read in order, refused with a reason."""

from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import ConfigurationError, UnavailableError
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef

NOW = datetime(2024, 1, 1, tzinfo=UTC)

services = pytest.mark.services


def scored(*rows):
    keys, values = zip(*rows, strict=True)
    at = [NOW + timedelta(hours=i) for i in range(len(rows))]
    return pa.table(
        {
            "prediction": pa.array(values, pa.float64()),
            "key": list(keys),
            "observed_at": pa.array(at, pa.timestamp("us", "UTC")),
        }
    )


@services
def test_findings_come_back_oldest_first(observations, model):
    for i in range(3):
        observations.record(model, "drift", f"d@{i}", {"n": i, "text": "</script>'\"🙂"})
    observations.record(model, "other", "d@0", {})
    found = observations.read(model, "drift")
    assert [o.subject for o in found] == ["d@0", "d@1", "d@2"]
    assert found[0].body == {"n": 0, "text": "</script>'\"🙂"}
    assert [o.subject for o in observations.read(model, "drift", last=2)] == ["d@1", "d@2"]


@services
def test_findings_about_one_version_are_all_there_and_only_they(observations, model):
    for i in range(203):
        observations.record(model, "drift", f"{model}@1:{i}", {"window": i})
    observations.record(model, "drift", f"{model}@11:0", {"window": 0})
    found = observations.read(model, "drift", of=ModelRef(model, 1))
    assert [o.body["window"] for o in found] == list(range(203))


@services
def test_a_finding_about_the_same_subject_is_written_over(observations, model):
    observations.record(model, "drift", "d@1", {"n": 1})
    observations.record(model, "drift", "d@1", {"n": 2})
    assert [o.body for o in observations.read(model, "drift")] == [{"n": 2}]


@services
def test_a_finding_that_says_the_same_keeps_its_time_unless_another_came_after_it(
    observations, model
):
    def record(subject, body):
        observations.record(model, "drift", subject, body)
        return observations.read(model, "drift")[-1]

    old = record(f"{model}@1:a", {"x": 1})
    other = record(f"{model}@2:a", {"x": 1})
    assert record(f"{model}@1:a", {"x": 1}) == other  # about another version: nothing is new
    assert observations.read(model, "drift")[0] == old
    record(f"{model}@1:b", {"x": 2})
    again = record(f"{model}@1:a", {"x": 1})  # as an environment that is back
    assert again.subject == old.subject
    assert record(f"{model}@1:a", {"x": 1}) == again


@services
@pytest.mark.parametrize(
    ("subject", "body"),
    [("d@1", {"x": float("nan")}), ("d@1", {"x": "a\0b"}), ("a\0b", {})],
    ids=["NaN", "NUL in the body", "NUL in the subject"],
)
def test_what_the_database_cannot_hold_is_a_configuration_error(observations, model, subject, body):
    with pytest.raises(ConfigurationError, match="refuses what has no place in it"):
        observations.record(model, "drift", subject, body)
    assert observations.read(model, "drift") == ()


@services
def test_a_prediction_that_is_there_stays_as_it_is(observations, model):
    ref = ModelRef(model, 1)
    assert (
        observations.write_predictions(ref, scored(("a", 0.1), ("b", 0.2)), dataset="d", run="r")
        == 2
    )
    assert (
        observations.write_predictions(ref, scored(("b", 0.9), ("c", 0.3)), dataset="d", run="r")
        == 1
    )
    found = observations.predictions(ref, NOW, NOW + timedelta(days=1))
    assert dict(zip(found["key"].to_pylist(), found["p"].to_pylist(), strict=True)) == {
        "a": 0.1, "b": 0.2, "c": 0.3
    }  # fmt: skip
    other = ModelRef(model, 2)
    assert observations.write_predictions(other, scored(("a", 0.5)), dataset="d", run="r") == 1


@services
def test_predictions_honour_the_edges_of_the_span(observations, model):
    ref = ModelRef(model, 1)
    observations.write_predictions(
        ref, scored(*((str(i), i / 9) for i in range(9))), dataset="d", run="r"
    )
    found = observations.predictions(ref, NOW + timedelta(hours=2), NOW + timedelta(hours=4))
    assert found["key"].to_pylist() == ["2", "3"]
    assert observations.predictions(ref, NOW, NOW).num_rows == 0


@services
@pytest.mark.parametrize(
    "key", ["a'b", 'a"b', "a,b", "a\nb", "🙂", "\\N", "", "x; drop table mlops.predictions"]
)
def test_a_hostile_key_is_only_a_key(observations, model, key):
    ref = ModelRef(model, 1)
    observations.write_predictions(ref, scored((key, 0.5)), dataset="d", run="r")
    assert observations.predictions(ref, NOW, NOW + timedelta(1))["key"].to_pylist() == [key]


@services
def test_rows_set_aside_twice_are_there_once(services, observations, model):
    row = {"key": "1", "observed_at": NOW, "reason": "null", "row": {"x": None}}
    for _ in range(2):
        observations.quarantine(model, "d@1", [row], run="r")
    with psycopg.connect(services.dsn("mlops")) as connection:
        count = "select count(*) from mlops.quarantine where model = %s"
        assert connection.execute(count, (model,)).fetchone() == (1,)


def test_a_server_that_is_down_is_unavailable_and_the_password_is_not_shown():
    down = Observations("host=127.0.0.1 port=9 user=u password=hidden dbname=d")
    with pytest.raises(
        UnavailableError, match="database of schema mlops does not answer"
    ) as caught:
        down.read("m", "drift")
    assert "hidden" not in str(caught.value) + repr(down)


@services
def test_a_wrong_password_is_a_configuration_error(password_login):
    with pytest.raises(ConfigurationError, match="cannot log in to the database of schema mlops"):
        Observations(password_login("mlops", "wrong-secret")).read("m", "drift")


@services
def test_a_database_without_the_schema_says_how_to_make_it(services):
    with pytest.raises(ConfigurationError, match="make it: airflow mlops migrate"):
        Observations(services.dsn("warehouse")).read("m", "drift")


@services
def test_a_login_without_the_role_says_which_one(services, model):
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        connection.execute(f"create role {model} login")
        try:
            with pytest.raises(
                ConfigurationError, match="lacks a right, grant it role mlops_writer"
            ):
                Observations(services.dsn("mlops", user=model)).read("m", "drift")
        finally:
            connection.execute(f"drop role {model}")


OLD = """
select * from (select distinct on (model, key) * from mlops.predictions where not shadow
  order by model, key, scored_at, version) served where {} order by key
"""


@pytest.fixture
def history(services, model):
    """Twenty thousand keys; some were predicted several times, in ties, too, or by a shadow."""
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        connection.execute(
            "insert into mlops.predictions (model, version, key, observed_at, prediction, dataset, "
            "run, scored_at, shadow) select %s, v, k::text, timestamptz '2024-01-01Z' + "
            "(k + v %% 2) * interval '1 h', v, 'd@1', 'r', timestamptz '2024-01-02Z' + "
            "(k + v * k %% 3) * interval '1 h', (v + k) %% 4 = 0 from generate_series(1, 20000) k "
            "cross join generate_series(1, 3) v where v = 1 or k %% 5 = v",
            (model,),
        )
        connection.execute("analyze mlops.predictions")
        yield connection


DAY = "{0} >= timestamptz '2024-07-01Z' and {0} < timestamptz '2024-07-02Z'"


@services
@pytest.mark.parametrize(
    "asked", ["key = '4710'", DAY.format("observed_at"), DAY.format("scored_at"), "version > 1"]
)
def test_what_was_served_is_the_earliest_prediction_of_each_key(history, model, asked):
    where = f"model = '{model}' and {asked}"
    now = f"select * from mlops.served where {where} order by key"
    found = history.execute(now).fetchall()
    assert found == history.execute(OLD.format(where)).fetchall()
    assert found


@services
@pytest.mark.parametrize("asked", [DAY.format("observed_at"), DAY.format("scored_at")])
def test_a_day_of_what_was_served_is_read_without_the_other_days(history, model, asked):
    statement = f"select * from mlops.served where model = '{model}' and {asked}"
    plan = history.execute(f"explain (analyze, format json) {statement}").fetchone()[0][0]

    def read(node):
        own = 0
        if "Relation Name" in node:
            gone = node.get("Rows Removed by Filter", 0)
            own = (node["Actual Rows"] + gone) * node["Actual Loops"]
        return own + sum(map(read, node.get("Plans", ())))

    assert 0 < read(plan["Plan"]) < 200  # of 24 hours, and 20,000 keys


@services
def test_a_finding_that_is_written_over_leaves_its_trace(services, observations, model):
    for n in (1, 2, 2):
        observations.record(model, "drift", "d@1", {"n": n})
    asked = "select body, rewritten_by from mlops.rewritten where model = %s"
    with psycopg.connect(services.dsn("mlops")) as connection:
        assert connection.execute(asked, (model,)).fetchall() == [({"n": 1}, "mlops_task")]


@services
def test_what_is_deleted_leaves_its_trace_without_its_keys(services, observations, model):
    rows = scored(("a", 0.1), ("b", 0.2))
    observations.write_predictions(ModelRef(model, 1), rows, dataset="d", run="r")
    assert observations.forget(model, ["a", "z"]) == 1
    asked = "select what, rows, deleted_by, to_jsonb(d) from mlops.deleted d where model = %s"
    with psycopg.connect(services.dsn("mlops")) as connection:
        (found,) = connection.execute(asked, (model,)).fetchall()
    assert found[:3] == ("predictions", 1, "mlops_task")
    assert set(found[3]) == {
        "what", "model", "rows", "since", "until", "deleted_at", "deleted_by"
    }  # fmt: skip


SHOWN = {
    "status": "broken",
    "line": "x is 918273645, such as 77",
    "fatal": ["x is 918273645, such as 77"],
    "plain": {"line": "x is wrong", "fatal": ["x is wrong"], "status": "ok", "more": 1},
}


@services
def test_what_findings_show_of_rows_is_forgotten_also_in_those_written_over(
    services, observations, model
):
    """Their time and their status stay, and that it was done is on record."""
    observations.record(model, "contract", "a", SHOWN)
    observations.record(model, "contract", "a", {**SHOWN, "status": "warn"})
    observations.record(model, "late", "a", {"status": "warn", "line": "such as 77"})  # before 0008
    observations.record(model, "drift", "a", {"status": "ok", "line": "nothing"})
    before = {
        o.monitor: o for m in ("contract", "late", "drift") for o in observations.read(model, m)
    }
    observations.forget(model, ["77"])
    (now,) = observations.read(model, "contract")
    said = {"line": "x is wrong", "fatal": ["x is wrong"], "examples": "(forgotten)"}
    assert now.body == {**said, "status": "warn"}
    assert now.recorded_at == before["contract"].recorded_at
    assert observations.read(model, "late")[0].body["line"] == "(forgotten)"
    assert observations.read(model, "drift")[0] == before["drift"]
    asked = (
        "select to_jsonb(r) from mlops.rewritten r where model = %s",
        "select what, rows, deleted_by from mlops.deleted where model = %s",
    )
    with psycopg.connect(services.dsn("mlops")) as connection:
        kept, gone = (connection.execute(one, (model,)).fetchall() for one in asked)
    assert [row["body"] for (row,) in kept] == [{**said, "status": "broken"}]
    assert gone == [("examples", 3, "mlops_task")]
    observations.forget(model, ["77"])
    assert observations.read(model, "contract") == (now,)


@services
@pytest.mark.parametrize(
    "statement",
    [
        "update mlops.predictions set prediction = 1",
        "update mlops.quarantine set reason = ''",
        "update mlops.exposures set arm = 'champion'",
        "update mlops.outcomes set value = 1",
        "update mlops.observations set recorded_at = now()",
        "update mlops.observations set subject = 'x'",
        "delete from mlops.observations",
        "truncate mlops.predictions",
        "insert into mlops.observations (model, monitor, subject, body, recorded_at) "
        "values ('m', 'm', 's', '{}', '2020-01-01Z')",
        "insert into mlops.predictions (model, version, key, observed_at, prediction, dataset, "
        "run, scored_at) values ('m', 1, 'k', now(), 1, 'd', 'r', '2020-01-01Z')",
        "insert into mlops.outcomes (model, experiment, key, metric, value, recorded_at) "
        "values ('m', 'e', 'k', 'm', 1, '2020-01-01Z')",
        "insert into mlops.exposures (model, experiment, key, entity, arm, version, exposed_at, "
        "recorded_at) values ('m', 'e', 'k', 'e', 'champion', 1, now(), '2020-01-01Z')",
        "insert into mlops.rewritten (model, monitor, subject, body, recorded_at) "
        "values ('m', 'm', 's', '{}', now())",
        "delete from mlops.rewritten",
        "delete from mlops.deleted",
        "update mlops.deleted set rows = 0",
        "alter table mlops.predictions disable trigger keep_deletion",
        "drop view mlops.served",
        "set session_replication_role = replica",
        "select mlops.keep_finding()",
        "select mlops.without_examples('{}')",
        "set role mlops_owner",
    ],
)
def test_the_login_of_tasks_rewrites_no_evidence(services, statement):
    with (
        psycopg.connect(services.dsn("mlops", user="mlops_task")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)
