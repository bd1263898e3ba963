"""Exposures and outcomes in PostgreSQL: written once, added up by entity, forgotten."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.rollout import Begun, Split, assign_all, begin
from airflow_mlops.core.rollout.arms import Arm, Arms
from airflow_mlops.core.rollout.exposures import Exposures
from airflow_mlops.policy import AB, Shadow

pytestmark = pytest.mark.services

SINCE = datetime(2024, 1, 1, tzinfo=UTC)
NAMES = ("champion", "candidate")


@pytest.fixture
def exposures(observations):
    return Exposures(observations)


@pytest.fixture
def begun(model, ledger):
    return started(ledger, model, AB(percent=50.0, p95_ms=50.0))


def started(ledger, model, stage):
    for op, version in (("promote", 1), ("propose", 2)):
        draft = Entry(model, op, "", "tests", "because", version)
        ledger.record(model, f"{op} {version}", {}, lambda _, draft=draft: draft)
    asked = Begun(model, stage, 1, 2, SINCE.isoformat(), "brier", 0.2)
    return begin(ledger, asked, key="begin", by="tests")


@pytest.fixture
def split(begun, ledger):
    return Split.of(ledger.state(begun.model))


def shown(rows, **replaced):
    """Rows of ``(key, entity, arm)``, a minute apart."""
    keys, entities, arms = zip(*rows, strict=True)
    at = [SINCE + timedelta(minutes=i) for i in range(len(rows))]
    columns = {
        "key": list(keys),
        "entity": list(entities),
        "arm": list(arms),
        "exposed_at": pa.array(at, pa.timestamp("us", "UTC")),
        "latency_ms": pa.array([10.0 * (i + 1) for i in range(len(rows))], pa.float64()),
        "failed": [False] * len(rows),
    }
    return pa.table({**columns, **replaced})


def outcomes(**values):
    return pa.table({"key": list(values), "value": pa.array(list(values.values()), pa.float64())})


ROWS = [
    ("r1", "ann", "champion"),
    ("r2", "ann", "champion"),
    ("r3", "bob", "champion"),
    ("r4", "cem", "candidate"),
    ("r5", "dia", "candidate"),
    ("r6", "dia", "candidate"),
]


def test_an_entity_counts_once_by_the_mean_of_its_outcomes(exposures, begun, split):
    failed = [False] * 5 + [True]
    assert exposures.write(split, shown(ROWS, failed=failed)) == 6
    known = outcomes(r1=1.0, r2=0.0, r3=0.25, r5=0.5, r6=1.0, elsewhere=9.0)
    assert exposures.write_outcomes(begun, "brier", known) == 6
    exposures.write_outcomes(begun, "conversion", outcomes(r4=1.0))
    assert exposures.arms(begun) == Arms(
        Arm(2, 3, 2, 0.375, 0.03125, 0, 3, 0, 29.0),
        Arm(2, 3, 1, 0.75, None, 1, 3, 1, 59.0),
        0,
        "2024-01-01T00:05:00+00:00",
    )
    assert exposures.arms(begun).candidate.waiting == 1


def test_both_arms_carry_the_version_that_served(exposures, begun, split, services):
    exposures.write(split, shown(ROWS))
    with psycopg.connect(services.dsn("mlops")) as connection:
        found = connection.execute(
            "select distinct arm, version, experiment from mlops.exposures where model = %s",
            (begun.model,),
        ).fetchall()
    assert sorted(found) == [("candidate", 2, split.experiment), ("champion", 1, split.experiment)]


def test_a_retry_changes_nothing_and_the_first_stays(exposures, begun, split):
    exposures.write(split, shown(ROWS))
    exposures.write_outcomes(begun, "brier", outcomes(r1=1.0))
    before = exposures.arms(begun)
    assert exposures.write(split, shown([(k, "eve", a) for k, _, a in ROWS])) == 0
    assert exposures.write_outcomes(begun, "brier", outcomes(r1=0.0)) == 0
    assert exposures.arms(begun) == before
    assert exposures.write(split, shown([("r7", "x", "champion"), ("r7", "y", "candidate")])) == 1


def test_an_entity_in_both_arms_is_in_neither(exposures, begun, split):
    exposures.write(split, shown([*ROWS, ("r7", "ann", "candidate")]))
    exposures.write_outcomes(begun, "brier", outcomes(r1=1.0, r3=0.5, r7=0.0))
    found = exposures.arms(begun)
    assert (found.crossed, found.champion.units, found.candidate.units) == (1, 1, 2)
    assert (found.champion.mean, found.candidate.mean) == (0.5, None)


def test_what_is_not_known_may_be_left_out(exposures, begun, split):
    few = shown(ROWS).select(["exposed_at", "arm", "entity", "key"])
    assert exposures.write(split, few) == 6
    found = exposures.arms(begun).candidate
    assert (found.requests, found.failed, found.timed, found.p95_ms) == (3, 0, 0, None)
    rows = shown([("r8", "a,\"b\n'🙂\\N", "champion")], failed=pa.array([None], pa.bool_()))
    assert exposures.write(split, rows) == 1


def test_two_stages_do_not_mix(exposures, begun, split):
    exposures.write(split, shown(ROWS))
    other = replace(begun, experiment=f"{begun.model}@2/99")
    assert exposures.arms(other) == Arms()


@pytest.mark.parametrize(
    "replaced",
    [
        {"arm": ["control"] * 6},
        {"entity": [""] * 6},
        {"entity": pa.nulls(6, pa.string())},
        {"latency_ms": [float("nan")] * 6},
        {"latency_ms": [-1.0] * 6},
        {"key": ["a\0b"] * 6},
    ],
    ids=["arm", "empty", "null", "NaN", "negative", "NUL"],
)
def test_an_exposure_that_is_none_is_refused_and_nothing_stays(exposures, begun, split, replaced):
    with pytest.raises(ConfigurationError, match="refuses what has no place in it"):
        exposures.write(split, shown(ROWS, **replaced))
    assert exposures.arms(begun) == Arms()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_an_outcome_that_is_no_number_is_refused(exposures, begun, value):
    rows = pa.table({"key": ["r1"], "value": pa.array([value], pa.float64())})
    with pytest.raises(ConfigurationError, match="refuses what has no place in it"):
        exposures.write_outcomes(begun, "brier", rows)


def test_without_a_stage_there_is_nothing_to_be_exposed_to(exposures, model):
    with pytest.raises(ConfigurationError, match=f"no stage of {model} is running"):
        exposures.write(Split(model, 1), shown(ROWS))


def test_a_person_is_forgotten_by_key_and_by_entity(exposures, observations, begun, split):
    exposures.write(split, shown(ROWS))
    exposures.write_outcomes(begun, "brier", outcomes(r1=1.0, r3=0.5, r5=0.5, r6=0.5))
    assert observations.forget(begun.model, ["dia", "r3"]) == 3 + 3
    found = exposures.arms(begun)
    assert (found.champion.units, found.candidate.units) == (1, 1)
    assert (found.champion.outcomes, found.candidate.outcomes) == (1, 0)
    assert observations.forget(begun.model, ["dia", "r3"]) == 0


def test_a_page_may_read_and_not_write(services, begun, exposures, split):
    exposures.write(split, shown(ROWS))
    with psycopg.connect(services.dsn("mlops"), autocommit=True) as connection:
        connection.execute("set role mlops_reader")
        for table in ("exposures", "outcomes"):
            connection.execute(f"select count(*) from mlops.{table}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"delete from mlops.{table}")
        connection.execute("set role mlops_writer")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("update mlops.exposures set arm = 'champion'")


def test_100_000_rows_are_written_in_seconds_and_looked_at_in_less(exposures, begun, split):
    rng, n = np.random.default_rng(0), 100_000
    entities = rng.integers(0, 30_000, n)
    inside = assign_all(entities, split)
    at = np.datetime64("2024-01-01") + np.arange(n).astype("timedelta64[s]")
    keys = [f"r{i}" for i in range(n)]
    rows = pa.table(
        {
            "key": keys,
            "entity": [str(e) for e in entities.tolist()],
            "arm": [NAMES[i] for i in inside.tolist()],
            "exposed_at": pa.array(at.astype("datetime64[us]"), pa.timestamp("us", "UTC")),
            "latency_ms": rng.gamma(2, 10, n),
        }
    )
    value = rng.random(n)
    start = time.monotonic()
    assert exposures.write(split, rows) == n
    exposures.write_outcomes(begun, "brier", pa.table({"key": keys, "value": value}))
    written = time.monotonic()
    found = exposures.arms(begun)
    read = time.monotonic()
    for arm, mask in ((found.candidate, inside), (found.champion, ~inside)):
        who = entities[mask]
        sums, counts = np.bincount(who, value[mask]), np.bincount(who)
        means = (sums / np.maximum(counts, 1))[counts > 0]
        assert (arm.units, arm.requests, arm.outcomes) == (len(means), mask.sum(), len(means))
        assert arm.mean == pytest.approx(means.mean(), rel=1e-12)
        assert arm.variance == pytest.approx(means.var(ddof=1), rel=1e-9)
        latency = rows["latency_ms"].to_numpy()[mask]
        assert arm.p95_ms == pytest.approx(np.quantile(latency, 0.95))
        assert arm.slow == (latency > 50).sum()
    assert found.crossed == 0
    assert exposures.look(begun).status in ("running", "stopped")
    print(f"written in {written - start:.1f} s, read in {read - written:.2f} s")
    assert written - start < 20
    assert read - written < 5


def test_the_losses_of_a_batch_are_settled_as_its_labels_come(
    exposures, observations, begun, split
):
    exposures.write(split, shown(ROWS))
    for version, p in ((1, 0.2), (2, 0.6)):
        rows = shown(ROWS).select(["key"]).append_column("prediction", pa.array([p] * 6))
        rows = rows.append_column("observed_at", shown(ROWS)["exposed_at"])
        ref = ModelRef(begun.model, version)
        observations.write_predictions(ref, rows, dataset="d@1", run="r")
    first = pa.table({"key": ["r1", "r4", "r5", "none"], "label": [1, 1, None, 1]})
    assert exposures.settle(begun, first) == 2
    later = pa.table({"key": ["r1", "r5", "r6"], "label": [0, 0, 1]})  # a label that was corrected
    assert exposures.settle(begun, later) == 2
    assert exposures.settle(begun, later) == 0
    found = exposures.arms(begun)
    assert found.champion.mean == pytest.approx(0.8**2)  # ann, by the champion's prediction
    assert found.candidate.mean == pytest.approx((0.4**2 + (0.6**2 + 0.4**2) / 2) / 2)
    assert (found.champion.waiting, found.candidate.waiting) == (1, 0)


def test_a_shadow_is_looked_at_by_predictions_and_labels(exposures, observations, ledger, model):
    begun = started(ledger, model, Shadow("4d"))
    rng, n = np.random.default_rng(1), 400
    y = (rng.random(n) < 0.5).astype(float)
    at = [SINCE + timedelta(minutes=14.4 * i) for i in range(n)]
    keys = [f"k{i:03}" for i in range(n)]
    for version, noise in ((1, 0.2), (2, 0.6)):
        predicted = np.clip(y + noise * rng.normal(size=n), 0, 1)
        rows = pa.table(
            {
                "key": keys,
                "observed_at": pa.array(at, pa.timestamp("us", "UTC")),
                "prediction": predicted,
            }
        )
        observations.write_predictions(ModelRef(model, version), rows, dataset="d@1", run="r")
    known = pa.table({"key": [*keys[:300], "other"], "label": pa.array([*y[:300].astype(int), 1])})
    young = exposures.look_at_shadow(begun, known, now=SINCE + timedelta(hours=20))
    assert (young.status, young.reasons) == ("running", ("300 rows have a label",))
    found = exposures.look_at_shadow(begun, known, now=SINCE + timedelta(days=1))
    assert (found.status, found.answer) == ("stopped", "harm")
    assert "after 1 of 4 quarters" in found.reasons[0]
    assert "on 100 rows" in found.reasons[0]
    unknown = pa.table({"key": keys, "label": pa.nulls(n, pa.float64())})
    none = exposures.look_at_shadow(begun, unknown, now=SINCE + timedelta(days=9))
    assert none.reasons == ("0 rows have a label, 100 more are needed",)
