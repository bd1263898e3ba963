"""Continuous training of the electricity model: one policy, four Dags."""

from airflow_mlops.lifecycle import Lifecycle
from airflow_mlops.policy import (
    Approval,
    AtLeast,
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

Lifecycle(
    name="electricity",
    data=Table(
        conn_id="warehouse",
        table="public.electricity",
        key="id",
        time="observed_at",
        labels="public.electricity_labels",
        label="price_up",
    ),
    select=Window(span="730d", step="7d"),
    features="include.electricity.features:build",
    train="include.electricity.train:fit",
    seed=7,
    retrain=[Probe("brier"), Regret(0.5), Growth(1.5), Drift(sustained="2 of 3"), OnRequest()],
    cooldown="7d",
    budget="4 per 30d",
    gates=[Loads(p95_ms=500), AtLeast("roc_auc", 0.60), NotWorse("brier", margin=0.02)],
    approve=Approval(by=["ml-lead"], within="2d"),
    schedule=None,  # the demo delivers the weeks; in production "@daily", or new rows
)
