"""The loop of ``Lifecycle``, wired by hand: the same operators in three plain Dags."""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.definitions.asset import Asset, Model

from airflow_mlops.operators.approval import ApproveModelOperator
from airflow_mlops.operators.candidates import (
    PromoteModelOperator,
    SmokeTestModelOperator,
    SubmitCandidateOperator,
)
from airflow_mlops.operators.data import (
    CheckContractOperator,
    SelectRowsOperator,
    SnapshotTableOperator,
)
from airflow_mlops.operators.dependencies import CheckDependenciesOperator
from airflow_mlops.operators.deployment import ScoreBatchOperator
from airflow_mlops.operators.evaluation import (
    EvaluateModelOperator,
    JudgeCandidateOperator,
    RetryRoundOperator,
)
from airflow_mlops.operators.flips import ReportFlipsOperator
from airflow_mlops.operators.health import CheckHealthOperator
from airflow_mlops.operators.housekeeping import HousekeepOperator
from airflow_mlops.operators.monitoring import DetectDriftOperator, MeasurePerformanceOperator
from airflow_mlops.operators.retraining import DecideRetrainOperator, RequestTrainingOperator
from airflow_mlops.operators.training import (
    ArchiveFeaturesOperator,
    ChooseHistoryOperator,
    TrainModelOperator,
)
from airflow_mlops.policy import AtLeast, Growth, Health, NotWorse, OnRequest, Probe, Retrain

MODEL = "example_electricity"
POLICY = Retrain(triggers=(Probe("brier"), Growth(1.5), OnRequest()), cooldown="7d")
GATES = [AtLeast("roc_auc", 0.6), NotWorse("brier", margin=0.02)]

request = Asset(name="example/request", uri="mlops://example/request")
candidate = Model(name="example/candidate", uri="mlops://example/candidate")

with DAG("example_monitor", schedule=None, catchup=False, max_active_runs=1, tags=["example"]):
    snapshot = SnapshotTableOperator(
        task_id="snapshot",
        model=MODEL,
        table="public.electricity",
        dataset=MODEL,
        key="id",
        time="observed_at",
        window="7d",
    )
    labels = SnapshotTableOperator(
        task_id="labels",
        model=MODEL,
        table="public.electricity_labels",
        dataset=f"{MODEL}.labels",
        windows_of=MODEL,
        key="id",
        time="observed_at",
        window="7d",
    )
    snapshot >> labels
    contract = CheckContractOperator(
        task_id="contract", model=MODEL, snapshot=snapshot.output, skip=["performance"]
    )
    dependencies = CheckDependenciesOperator(
        task_id="dependencies", model=MODEL, skip=["performance"]
    )
    [contract, dependencies] >> EmptyOperator(task_id="may_serve", trigger_rule="none_failed")
    score = ScoreBatchOperator(task_id="score", model=MODEL, snapshot=snapshot.output)
    drift = DetectDriftOperator(task_id="drift", model=MODEL, snapshot=snapshot.output)
    performance = MeasurePerformanceOperator(
        task_id="performance",
        model=MODEL,
        snapshot=snapshot.output,
        labels=labels.output,
        label_column="price_up",
    )
    decide = DecideRetrainOperator(
        task_id="decide",
        model=MODEL,
        snapshot=snapshot.output,
        labels=labels.output,
        policy=POLICY.to_dict(),
        trigger_rule="none_failed",
    )
    [contract, dependencies] >> score
    score >> performance
    [performance, drift] >> decide
    RequestTrainingOperator(
        task_id="request", model=MODEL, decision=decide.output, outlets=[request]
    )
    HousekeepOperator(task_id="housekeep", model=MODEL)
    CheckHealthOperator(task_id="system", model=MODEL, rules=Health(duration="1h").to_dict())

with DAG("example_train", schedule=[request], catchup=False, max_active_runs=1, tags=["example"]):
    select = SelectRowsOperator(task_id="select", model=MODEL, label_column="price_up", span="730d")
    features = ArchiveFeaturesOperator(
        task_id="features",
        model=MODEL,
        features="include.electricity.features:build",
        selection=select.output,
    )
    history = ChooseHistoryOperator(
        task_id="history",
        model=MODEL,
        features="include.electricity.features:build",
        feature_set=features.output,
        train="include.electricity.train:fit",
        selection=select.output,
        seed=7,
    )
    train = TrainModelOperator(
        task_id="train",
        model=MODEL,
        features="include.electricity.features:build",
        feature_set=features.output,
        train="include.electricity.train:fit",
        selection=history.output,
        seed=7,
    )
    gates = [gate.to_dict() for gate in GATES]
    evaluate = EvaluateModelOperator(
        task_id="evaluate",
        model=MODEL,
        trained=train.output,
        selection=history.output,
        gates=gates,
    )
    gate = JudgeCandidateOperator(
        task_id="gate",
        model=MODEL,
        evaluation=evaluate.output,
        selection=history.output,
        gates=gates,
    )
    SubmitCandidateOperator(
        task_id="submit",
        model=MODEL,
        evaluation=evaluate.output,
        verdict=gate.output,
        selection=history.output,
        outlets=[candidate],
    )
    RetryRoundOperator(
        task_id="another_round",
        model=MODEL,
        verdict=gate.output,
        selection=history.output,
        outlets=[request],
    )

with DAG(
    "example_rollout", schedule=[candidate], catchup=False, max_active_runs=1, tags=["example"]
):
    smoke = SmokeTestModelOperator(task_id="smoke", model=MODEL, data=MODEL)
    flips = ReportFlipsOperator(task_id="flips", model=MODEL, smoke=smoke.output)
    approve = ApproveModelOperator(
        task_id="approve",
        model=MODEL,
        smoke=smoke.output,
        flips=flips.output,
        by=["ml-lead"],
        trigger_rule="none_failed_min_one_success",
    )
    PromoteModelOperator(task_id="promote", model=MODEL, smoke=smoke.output, answer=approve.output)
