"""What a decision rests on: named in its entry, and compared with what is there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from airflow_mlops.core.entries import Entry
from airflow_mlops.core.monitoring.citations import (
    CITED,
    MOST,
    check_citations,
    cite,
    digest_of,
    sums,
)
from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.rollout.assignment import Split
from airflow_mlops.core.rollout.exposures import Exposures
from airflow_mlops.core.rollout.looks import Look
from airflow_mlops.core.rollout.stages import Begun, begin, end
from airflow_mlops.policy import Canary

NOW = datetime(2024, 1, 1, tzinfo=UTC)
services = pytest.mark.services


def seen(number, at):
    return Observation("drift", f"m@1:{number}", {"window": number}, at.isoformat())


def test_what_was_there_at_the_decision_before_is_not_named_again():
    found = [seen(i, NOW + timedelta(hours=i)) for i in range(5)]
    said = cite(found, (NOW + timedelta(hours=4)).isoformat())
    assert [subject for _, subject, _ in said["findings"]] == ["m@1:3", "m@1:4"]
    assert said["findings"][0][2] == digest_of({"window": 3})
    assert len(cite(found)["findings"]) == 5


def test_what_an_entry_has_no_room_for_is_counted():
    said = cite(seen(i, NOW + timedelta(seconds=i)) for i in range(MOST + 7))
    assert (len(said["findings"]), said["left_out"]) == (MOST, 7)
    assert said["findings"][-1][1] == f"m@1:{MOST + 6}"


@pytest.fixture
def decided(ledger, observations, model):
    """A decision that rests on two findings; returns its entry."""
    for number in range(2):
        observations.record(model, "drift", f"{model}@1:{number}", {"window": number, "p": 0.25})
    said = cite(observations.read(model, "drift"))
    draft = Entry(model, "keep", "", "decide", "nothing asks for it", evidence={CITED: said})
    return ledger.record(model, "k", {}, lambda _: draft)[0]


@pytest.fixture
def meddle(services):
    """Run a statement as the owner of the database, past every trigger."""

    def run(statement, *values):
        with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            for table, trigger in (
                ("observations", "keep_finding"),
                ("exposures", "keep_deletion"),
            ):
                connection.execute(f"alter table mlops.{table} disable trigger {trigger}")
            try:
                connection.execute(statement, values)
            finally:
                for table, trigger in (
                    ("observations", "keep_finding"),
                    ("exposures", "keep_deletion"),
                ):
                    connection.execute(f"alter table mlops.{table} enable always trigger {trigger}")

    return run


@services
def test_a_monitor_may_look_again(ledger, observations, model, decided):
    observations.record(model, "drift", f"{model}@1:0", {"window": 0, "p": 0.5})
    observations.record(model, "drift", f"{model}@1:0", {"window": 0, "p": 0.75})
    assert check_citations(ledger, observations, model) == ()


@services
@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            'update mlops.observations set body = \'{"window": 0, "p": 1}\' '
            "where model = %s and subject like '%%:0'",
            "says something else now",
        ),
        ("delete from mlops.observations where model = %s and subject like '%%:0'", "is gone"),
    ],
)
def test_a_finding_that_was_tampered_with_is_named(
    ledger, observations, model, decided, meddle, statement, what
):
    meddle(statement, model)
    (line,) = check_citations(ledger, observations, model)
    assert f"entry {decided.seq} rests on the finding of drift on {model}@1:0" in line
    assert what in line


@services
def test_the_login_of_tasks_cannot_make_the_database_forget_what_is_named(services, model, decided):
    with (
        psycopg.connect(services.dsn("mlops", user="mlops_task")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("delete from mlops.cited where model = %s", (model,))


@pytest.fixture
def stage(ledger, observations, model):
    """A canary that ended; returns its begin and the entry of its end."""
    for op, version in (("promote", 1), ("propose", 2)):
        draft = Entry(model, op, "", "t", "r", version)
        ledger.record(model, op, {}, lambda _, d=draft: d)
    canary = Canary(percent=50, hold="1d")
    begun = begin(
        ledger, Begun(model, canary, 1, 2, NOW.isoformat(), "brier", 0.2), key="stage", by="t"
    )
    exposures, split = Exposures(observations), Split.of(ledger.standing(model))
    keys = [f"k{i}" for i in range(10)]
    rows = {"key": keys, "entity": keys, "arm": ["champion", "candidate"] * 5}
    exposures.write(split, pa.table({**rows, "exposed_at": [NOW] * 10, "latency_ms": [1.5] * 10}))
    exposures.write_outcomes(begun, "brier", pa.table({"key": keys, "value": [0.25] * 10}))
    look = replace(exposures.look(begun, now=NOW), status="passed", reasons=("held",))
    cited = exposures.cited(begun)
    entry = end(ledger, begun, look, key="end", by="t", cited=cited)
    assert isinstance(look, Look)
    return begun, entry


@services
def test_the_end_of_a_stage_names_its_rows_in_any_order_and_zone(
    services, ledger, observations, model, stage
):
    _, entry = stage
    rows = entry.evidence[CITED]["rows"]
    assert [rows[table][0] for table in ("exposures", "outcomes")] == [10, 10]
    assert check_citations(ledger, observations, model) == ()
    elsewhere = replace(observations, dsn=f"{observations.dsn} options='-c timezone=Asia/Tokyo'")
    assert sums(elsewhere, entry.evidence[CITED]["of"], {"exposures": ""})["exposures"] == [
        *rows["exposures"][:2],
        sums(elsewhere, entry.evidence[CITED]["of"], {"exposures": ""})["exposures"][2],
    ]


@services
def test_rows_that_came_in_later_change_nothing(ledger, observations, model, stage):
    begun, _ = stage
    late = pa.table({"key": ["late"], "value": [0.5]})
    Exposures(observations).write_outcomes(begun, "brier", late)
    assert check_citations(ledger, observations, model) == ()


@services
def test_a_row_of_a_stage_that_was_changed_is_named(ledger, observations, model, stage, meddle):
    meddle("update mlops.exposures set failed = true where model = %s and key = 'k3'", model)
    (line,) = check_citations(ledger, observations, model)
    assert "10 exposures" in line
    assert "they differ" in line


@services
def test_rows_that_are_gone_without_a_trace_are_named(ledger, observations, model, stage, meddle):
    meddle("delete from mlops.exposures where model = %s and key = 'k3'", model)
    (line,) = check_citations(ledger, observations, model)
    assert "10 exposures" in line
    assert "9 are there now" in line


@services
def test_a_person_who_was_forgotten_is_no_tampering(ledger, observations, model, stage):
    assert observations.forget(model, ["k3"]) == 2
    assert check_citations(ledger, observations, model) == ()


@services
def test_what_is_no_list_of_findings_names_nothing(ledger, observations, model):
    for number, said in enumerate(({"findings": "x"}, {"findings": [["drift"], 7]}, "x", None)):
        draft = Entry(model, "keep", "", "t", "r", evidence={CITED: said})
        ledger.record(model, f"k{number}", {}, lambda _, d=draft: d)
    assert check_citations(ledger, observations, model) == ()


@services
@pytest.mark.parametrize("of", [None, {}, {"model": "m", "experiment": "e"}])
@pytest.mark.parametrize("rows", [{"exposures": [1]}, {"nowhere": [1, "2", "3"]}, [1], "x"])
def test_rows_named_in_another_way_are_said(ledger, observations, model, of, rows):
    evidence = {CITED: {"of": of, "rows": rows}}
    draft = Entry(model, "stage", "", "t", "r", 1, evidence=evidence)
    ledger.record(model, "k", {}, lambda _: draft)
    (line,) = check_citations(ledger, observations, model)
    assert "entry 1 names the rows that it rests on in another way" in line
