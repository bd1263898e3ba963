"""Approval, in a plain Dag: two of three people say yes, and not whoever asked for the retrain."""

import logging
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.definitions.asset import Model

from airflow_mlops.operators.approval import ApproveModelOperator
from airflow_mlops.operators.candidates import (
    PromoteModelOperator,
    SmokeTestModelOperator,
)
from airflow_mlops.operators.flips import ReportFlipsOperator

MODEL = "example_electricity"
STANDARD = {"quorum": 2, "reviewed": "card, flips"}  # changed while people think: no yes counts

candidate = Model(name="example/reviewed", uri="mlops://example/reviewed")


def tell(context: Any) -> None:
    """Send it where your people read: ``line`` says what is asked, ``link`` leads to the form."""
    logging.getLogger(__name__).warning("%(line)s %(link)s", context["mlops"])


# [START example_approval]
with DAG("example_approval", schedule=[candidate], catchup=False, tags=["example"]):
    smoke = SmokeTestModelOperator(task_id="smoke", model=MODEL, data=MODEL, policy=STANDARD)
    flips = ReportFlipsOperator(task_id="flips", model=MODEL, smoke=smoke.output)
    approve = ApproveModelOperator(
        task_id="approve",
        model=MODEL,
        smoke=smoke.output,
        flips=flips.output,
        by=["ml-lead", "risk", "owner"],
        quorum=2,
        within="2d",
        notifiers=[tell],
        trigger_rule="none_failed_min_one_success",  # there may be no champion to compare with
    )
    PromoteModelOperator(
        task_id="promote",
        model=MODEL,
        smoke=smoke.output,
        answer=approve.output,
        policy=STANDARD,
    )
# [END example_approval]
