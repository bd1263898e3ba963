"""Retention: old rows go in batches; what a decision names, or the next one reads, stays."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from airflow_mlops.core.entries import Entry
from airflow_mlops.core.monitoring import keeping
from airflow_mlops.core.monitoring.citations import CITED, cite
from airflow_mlops.core.monitoring.keeping import find_old, prune
from airflow_mlops.policy import Keep

pytestmark = pytest.mark.services

NOW = datetime.now(UTC)


@pytest.fixture
def owner(services):
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        yield connection


@pytest.fixture
def found(owner, model):
    """``found("drift", "m@1:0", days=400)``: a finding of so many days ago."""

    def make(monitor, subject, days):
        owner.execute(
            "insert into mlops.observations (model, monitor, subject, body, recorded_at) "
            "values (%s, %s, %s, '{}', %s)",
            (model, monitor, subject, NOW - timedelta(days=days)),
        )

    return make


def subjects(observations, model, *monitors):
    return [o.subject for monitor in monitors for o in observations.read(model, monitor)]


def test_old_findings_go_and_young_and_newest_ones_stay(ledger, observations, model, found):
    for monitor in ("drift", "usage"):
        for number, days in enumerate((400, 100, 20, 1)):
            found(monitor, f"{monitor}{number}", days)
    found("dependencies", "the newest of its monitor", 900)
    keep = Keep(findings="90d", usages="10d")
    counted = find_old(ledger, observations, model, keep, now=NOW)
    assert [(old.what, old.rows) for old in counted] == [("findings", 2), ("usages", 3)]
    assert prune(ledger, observations, model, keep, now=NOW) == counted
    assert subjects(observations, model, "drift", "usage") == ["drift2", "drift3", "usage3"]
    assert subjects(observations, model, "dependencies") == ["the newest of its monitor"]
    assert all(old.rows == 0 for old in prune(ledger, observations, model, keep, now=NOW))


def test_what_a_decision_names_and_what_is_about_the_champion_stays(
    ledger, observations, model, found
):
    for version in (1, 2):
        for number in range(3):
            found("drift", f"{model}@{version}:{number}", 400 - number)
    found("drift", "now", 0)
    named = [o for o in observations.read(model, "drift") if o.subject == f"{model}@1:1"]
    for op, evidence in (("promote", {}), ("keep", {CITED: cite(named)})):
        draft = Entry(model, op, "", "t", "r", 2, evidence=evidence)
        ledger.record(model, op, {}, lambda _, d=draft: d)
    (old,) = prune(ledger, observations, model, Keep(findings="90d"), now=NOW)
    assert old.rows == 2
    left = sorted(subjects(observations, model, "drift"))
    assert left == [f"{model}@1:1", *(f"{model}@2:{n}" for n in range(3)), "now"]


def test_what_was_written_over_goes_with_it(ledger, observations, owner, model):
    for value in (1, 2):
        observations.record(model, "drift", "d@1", {"n": value})
    owner.execute(
        "update mlops.rewritten set rewritten_at = %s where model = %s",
        (NOW - timedelta(days=400), model),
    )
    prune(ledger, observations, model, Keep(findings="90d"), now=NOW)
    left = owner.execute("select 1 from mlops.rewritten where model = %s", (model,)).fetchall()
    assert (left, subjects(observations, model, "drift")) == ([], ["d@1"])


@pytest.fixture
def predicted(owner, model):
    """``predicted(50, version=1, days=800)``: so many predictions of so many days ago."""

    def make(number, version, days, shadow=False):
        owner.execute(
            "insert into mlops.predictions (model, version, key, observed_at, prediction, dataset, "
            "run, scored_at, shadow) select %s, %s, %s || '-' || k, %s, 0.5, 'd@1', 'r', %s, %s "
            "from generate_series(1, %s) k",
            (
                *(model, version, f"{version}-{days}", NOW - timedelta(days=days)),
                *(NOW - timedelta(days=days), shadow, number),
            ),
        )

    return make


def counted(owner, table, model):
    return owner.execute(
        f"select count(*) from mlops.{table} where model = %s", (model,)
    ).fetchone()


def test_predictions_go_in_batches_and_a_kill_loses_nothing(
    ledger, observations, owner, model, predicted, monkeypatch
):
    monkeypatch.setattr(keeping, "BATCH", 10)
    predicted(35, 1, 800), predicted(5, 1, 3)
    keep = Keep(predictions="730d")
    batches = keeping._batches
    monkeypatch.setattr(keeping, "_batches", lambda o, part: [next(batches(o, part))])
    assert [old.rows for old in prune(ledger, observations, model, keep, now=NOW)] == [10]
    monkeypatch.setattr(keeping, "_batches", batches)
    assert [old.rows for old in prune(ledger, observations, model, keep, now=NOW)] == [25]
    assert counted(owner, "predictions", model) == (5,)
    traces = owner.execute("select rows from mlops.deleted where model = %s order by 1", (model,))
    assert [rows for (rows,) in traces if rows] == [5, 10, 10, 10]


def test_the_predictions_of_a_shadow_that_ended_stay(ledger, observations, owner, model, predicted):
    predicted(4, 1, 900), predicted(4, 1, 800), predicted(4, 2, 800, shadow=True)
    day = timedelta(days=1)
    of = {"model": model, "experiment": "e", "champion": 1, "candidate": 2}
    of["since"] = (NOW - 850 * day).isoformat()
    rows = {"predictions": [8, "1", (NOW - 799 * day).isoformat()]}
    evidence = {"status": "passed", "experiment": "e", CITED: {"of": of, "rows": rows}}
    draft = Entry(model, "stage", "", "t", "r", 2, evidence=evidence)
    ledger.record(model, "s", {}, lambda _: draft)
    (old,) = find_old(ledger, observations, model, Keep(predictions="730d"), now=NOW)
    assert old.rows == 4
    assert prune(ledger, observations, model, Keep(predictions="730d"), now=NOW) == (old,)
    assert counted(owner, "predictions", model) == (8,)


def test_rows_set_aside_go(ledger, observations, owner, model):
    for days in (100, 1):
        owner.execute(
            "insert into mlops.quarantine (model, dataset, key, observed_at, reason, row, run, "
            "recorded_at) values (%s, 'd@1', %s, now(), 'r', '{}', 'r', %s)",
            (model, str(days), NOW - timedelta(days=days)),
        )
    (old,) = prune(ledger, observations, model, Keep(quarantine="30d"), now=NOW)
    assert (old.what, old.rows) == ("quarantine", 1)
    assert counted(owner, "quarantine", model) == (1,)


def test_another_model_keeps_all(ledger, observations, owner, model, found, predicted):
    found("drift", "a", 400), found("drift", "b", 0), predicted(3, 1, 900)
    keep = Keep(findings="90d", predictions="90d", usages="90d", quarantine="90d")
    assert not any(old.rows for old in prune(ledger, observations, f"{model}x", keep, now=NOW))
    assert counted(owner, "observations", model) == (2,)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from mlops.observations where model = 'm'",
        "select mlops.prune_findings('m', '{}', true, now() - interval '6 days', '', 10)",
        "select mlops.prune_findings('m', '{}', true, null, '', 10)",
        "insert into mlops.cited values ('m', 'drift', 'x')",
    ],
)
def test_the_login_of_tasks_can_delete_no_finding_but_an_old_one(services, statement):
    with (
        psycopg.connect(services.dsn("mlops", user="mlops_task")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_no_batch_reads_the_whole_table(owner, model, predicted):
    predicted(60_000, 1, 800)
    owner.execute("analyze mlops.predictions")
    plan = owner.execute(
        "explain select ctid from mlops.predictions where model = %s and scored_at < %s "
        "and true order by scored_at limit 10000",
        (model, NOW - timedelta(days=730)),
    ).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Scan using predictions_scored" in text, text
    assert "Seq Scan" not in text
