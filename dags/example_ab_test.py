"""A rollout in three stages, in a plain Dag: beside the champion, for few, then for half."""

from airflow.sdk import DAG, chain
from airflow.sdk.definitions.asset import Model

from airflow_mlops.operators.candidates import PromoteModelOperator, SmokeTestModelOperator
from airflow_mlops.policy import AB, Canary, Shadow
from airflow_mlops.sensors.rollout import RolloutStageSensor

MODEL = "example_electricity"

# [START example_ab_test]
# No Full() at the end: PromoteModelOperator is it.
# Stages are data. Whoever scores reads the ledger: `ScoreBatchOperator` does, and an endpoint does
# through `airflow_mlops.core.rollout`, see docs/rollout.md.
PLAN = [
    Shadow(hold="7d"),
    Canary(percent=10, hold="7d", failures=0.01),
    AB(percent=50, within="28d", min_effect=0.1, otherwise="promote"),
]

candidate = Model(name="example/tested", uri="mlops://example/tested")

with DAG("example_ab_test", schedule=[candidate], catchup=False, tags=["example"]):
    policy = {"rollout": [stage.to_dict() for stage in PLAN]}
    smoke = SmokeTestModelOperator(task_id="smoke", model=MODEL, data=MODEL, policy=policy)
    stages = [
        RolloutStageSensor(
            task_id=type(stage).__name__.lower(),
            model=MODEL,
            smoke=smoke.output,
            stage=stage.to_dict(),
            place=place,
            data=MODEL,
            labels=f"{MODEL}.labels",
            label_column="price_up",
            metric="brier",
            trigger_rule="none_failed_min_one_success",
        )
        for place, stage in enumerate(PLAN)
    ]
    # No person is asked here: what the A/B test proves is the answer, and it is on record as that.
    promote = PromoteModelOperator(
        task_id="promote",
        model=MODEL,
        smoke=smoke.output,
        answer=None,
        unasked="passed its A/B test",
        policy=policy,
        trigger_rule="none_failed_min_one_success",  # the first model skips its stages
    )
    chain(smoke, *stages, promote)
# [END example_ab_test]
