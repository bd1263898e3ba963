"""Continuous training of the bicycle rental model: regression, one policy, three Dags."""

from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import (
    Approval,
    Drift,
    Growth,
    Loads,
    NotWorse,
    OnRequest,
    Probe,
    Regret,
    Table,
    Window,
)

LOSS = "absolute_error"
CALENDAR = ("season", "yr", "mnth")

Lifecycle(
    name="bike",
    data=Table(
        conn_id="warehouse",
        table="public.bike",
        key="id",
        time="observed_at",
        labels="public.bike_labels",
        label="cnt",
    ),
    select=Window(span="730d", step="7d"),
    features="include.bike.features:build",
    train="include.bike.train:fit",
    seed=7,
    metric=LOSS,
    retrain=[Probe(LOSS), Regret(0.5), Growth(1.5), Drift(ignore=CALENDAR), OnRequest()],
    gates=[Loads(p95_ms=500), NotWorse(LOSS, margin=0.02)],
    approve=Approval(by=["ml-lead"], within="2d"),
    schedule=None,  # there is no table of it in the demo: simulate it, or deliver the rows
)
