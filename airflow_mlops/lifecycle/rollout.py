"""From a candidate to a champion, and back: the Dag of the rollout, and a button to roll back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param, chain

from airflow_mlops.lifecycle.frame import connections, new_dag
from airflow_mlops.operators.approval import ApproveModelOperator
from airflow_mlops.operators.candidates import (
    PromoteModelOperator,
    SmokeTestModelOperator,
)
from airflow_mlops.operators.deployment import RollbackModelOperator
from airflow_mlops.operators.flips import ReportFlipsOperator
from airflow_mlops.policy import Full
from airflow_mlops.sensors.rollout import RolloutStageSensor

if TYPE_CHECKING:
    from airflow_mlops.lifecycle.declaration import Lifecycle


def rollout(life: "Lifecycle") -> DAG:
    """A candidate -> tried, approved by people -> champion."""
    common = connections(life)
    with new_dag(life, "rollout", [life.asset("candidate")]) as dag:
        smoke = SmokeTestModelOperator(
            task_id="smoke", data=life.name, policy=life.standard, **common
        )
        flips = ReportFlipsOperator(task_id="flips", smoke=smoke.output, **common)
        approve = ApproveModelOperator(
            task_id="approve",
            smoke=smoke.output,
            flips=flips.output,
            trigger_rule="none_failed_min_one_success",
            by=life.approve.by,
            within=life.approve.within,
            quorum=life.approve.quorum,
            separate=life.approve.separate,
            notifiers=list(life.notify),
            **common,
        )
        promote = PromoteModelOperator(
            task_id="promote",
            smoke=smoke.output,
            answer=approve.output,
            policy=life.standard,
            inlets=[life.asset("candidate")],
            trigger_rule="none_failed_min_one_success",
            outlets=[life.asset("champion")],
            **common,
        )
        chain(approve, *_stages(life, smoke.output, approve.output, common), promote)
    return dag


def _stages(
    life: "Lifecycle", smoke: Any, answer: Any, common: Mapping[str, Any]
) -> list[RolloutStageSensor]:
    """One task for each stage in which a candidate meets some of the rows."""
    tried = [stage for stage in life.rollout if not isinstance(stage, Full)]
    names = [type(stage).__name__.lower() for stage in tried]
    return [
        RolloutStageSensor(
            task_id=name if names.count(name) == 1 else f"{name}_{place + 1}",
            smoke=smoke,
            answer=answer,
            stage=stage.to_dict(),
            place=place,
            data=life.raw,
            labels=life.labels,
            label_column=life.data.label,
            metric=life.metric,
            lateness=life.data.lateness or "0d",
            policy=life.standard,
            trigger_rule="none_failed_min_one_success",
            **common,
        )
        for place, (name, stage) in enumerate(zip(names, tried, strict=True))
    ]


def rollback(life: "Lifecycle") -> DAG:
    """A form: who presses its button returns to an earlier champion; who, and why, is on record."""
    to = Param(
        None,
        type=["null", "string"],
        title="Version, or moment",
        description="such as 4, or 1997-05-01: whoever was champion then, by the clock of the "
        "data; empty: the champion before this one",
    )
    reason = Param("", type="string", minLength=3, description="why; everybody can read it later")
    force = Param(False, type="boolean", description="go back although a check fails")
    params = {"to": to, "reason": reason, "force": force}
    with new_dag(life, "rollback", None, params=params) as dag:
        RollbackModelOperator(
            task_id="rollback",
            to="{{ params.to or '' }}",
            reason="{{ params.reason }}",
            force="{{ params.force }}",
            outlets=[life.asset("champion")],
            **connections(life),
        )
    return dag
