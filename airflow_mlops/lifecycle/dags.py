"""From a declaration to its Dags, a pure function: nothing is read or asked meanwhile."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, chain

from airflow_mlops.lifecycle.deadlines import alarms
from airflow_mlops.lifecycle.frame import connections, new_dag
from airflow_mlops.lifecycle.rollout import rollback, rollout
from airflow_mlops.operators._base import RETRY_POLICY
from airflow_mlops.operators.candidates import SubmitCandidateOperator
from airflow_mlops.operators.data import (
    CheckContractOperator,
    MaterializeFeaturesOperator,
    SelectRowsOperator,
    SnapshotTableOperator,
)
from airflow_mlops.operators.dependencies import CheckDependenciesOperator
from airflow_mlops.operators.deployment import GuardChampionOperator, ScoreBatchOperator
from airflow_mlops.operators.evaluation import (
    EvaluateModelOperator,
    JudgeCandidateOperator,
    RetryRoundOperator,
)
from airflow_mlops.operators.health import CheckHealthOperator
from airflow_mlops.operators.housekeeping import HousekeepOperator
from airflow_mlops.operators.monitoring import DetectDriftOperator, MeasurePerformanceOperator
from airflow_mlops.operators.retraining import DecideRetrainOperator, RequestTrainingOperator
from airflow_mlops.operators.training import (
    ArchiveFeaturesOperator,
    ChooseHistoryOperator,
    TrainModelOperator,
)
from airflow_mlops.policy import Arrival, duration

if TYPE_CHECKING:
    from airflow_mlops.lifecycle.declaration import Lifecycle


def build(life: "Lifecycle") -> tuple[DAG, DAG, DAG, DAG]:
    """Turn a policy into its Dags: monitor, training, rollout, and the button to roll back."""
    return _monitor(life), _train(life), rollout(life), rollback(life)


def _monitor(life: "Lifecycle") -> DAG:
    """New rows -> versioned, checked, scored, watched -> one decision."""
    common = connections(life)
    with new_dag(life, "monitor", _schedule(life), deadline=alarms(life)) as dag:
        rows, labels = _snapshots(life, common)
        contract = CheckContractOperator(
            task_id="contract",
            snapshot=rows,
            fail_on=life.contract.fail_on,
            fail_kinds=life.contract.fail_kinds,
            skip=["performance"],
            **common,
        )
        score = ScoreBatchOperator(
            task_id="score",
            snapshot=rows,
            entity=life.data.entity,
            inlets=[life.asset("data"), life.asset("champion")],
            **common,
        )
        drift = DetectDriftOperator(
            task_id="drift", snapshot=rows, **_drift(life), **_freshness(life), **common
        )
        performance = MeasurePerformanceOperator(
            task_id="performance",
            snapshot=rows,
            labels=labels,
            label_column=life.data.label,
            metric=life.metric,
            slices=list(life.slices),
            challenger=life.policy.challenger,
            **common,
        )
        decide = _decide(life, rows, labels, common)
        asked = [contract, _dependencies(life, common)]
        asked >> score >> performance
        chain(performance, *_guard(life, rows, labels, common), decide)
        drift >> decide
        asked >> _last()
        _alone(life, common)
    return dag


def _schedule(life: "Lifecycle") -> Any:
    """What starts the monitor: a schedule, or an asset that watches the table."""
    if not isinstance(life.schedule, Arrival):
        return life.schedule
    from airflow.sdk import Asset, AssetWatcher

    from airflow_mlops.triggers.polling import RowsArrivedTrigger

    table = life.data
    trigger = RowsArrivedTrigger(
        table=table.table,
        time=table.time,
        key=table.key,
        warehouse_conn_id=table.conn_id,
        interval=duration(life.schedule.interval).total_seconds(),
        name=life.name,
    )
    watcher = AssetWatcher(name=f"{life.name}__rows", trigger=trigger)
    return [Asset(f"{life.name}/rows", uri=f"mlops://{life.name}/rows", watchers=[watcher])]


def _drift(life: "Lifecycle") -> dict[str, Any]:
    """When a window counts as drifted, in the words of the policy."""
    word = life.policy.drift
    weights = dict(word.weights) if isinstance(word.weights, Mapping) else word.weights
    lists = {"important": list(word.important), "ignore": list(word.ignore)}
    return {"share": word.share, "weights": weights, **lists}


def _freshness(life: "Lifecycle") -> dict[str, Any]:
    """How old the newest row may be when the table was looked at; nothing if nobody asks."""
    if life.data.stale is None:
        return {}
    # The moment of the look, not of the run: rows come while a run waits, or is tried again.
    looked = f"{{{{ ti.xcom_pull(task_ids='{_first(life)}')['looked_at'] }}}}"
    return {"now": looked, "stale": life.data.stale}


def _first(life: "Lifecycle") -> str:
    """Name the task that reads the table."""
    return "snapshot" if life.sql is None else "raw"


def _dependencies(life: "Lifecycle", common: Mapping[str, Any]) -> Any:
    """Ask the champion what it was asked in training."""
    return CheckDependenciesOperator(
        task_id="dependencies",
        fail_on=life.dependencies.fail_on,
        constraints=life.dependencies.constraints,
        skip=["performance"],
        **common,
    )


def _last() -> EmptyOperator:
    """
    Fail the run if its champion may not serve.

    Airflow judges a run by its last tasks: a run that scored nothing would end well, for decide
    does.
    """
    return EmptyOperator(task_id="may_serve", trigger_rule="none_failed", retry_policy=RETRY_POLICY)


def _decide(life: "Lifecycle", rows: Any, labels: Any, common: Mapping[str, Any]) -> Any:
    """Weigh what was found, and ask for a training run if that is the decision."""
    decide = DecideRetrainOperator(
        task_id="decide",
        snapshot=rows,
        labels=labels,
        policy=life.policy.to_dict(),
        metric=life.metric,
        notifiers=list(life.notify),
        trigger_rule="none_failed",
        **common,
    )
    RequestTrainingOperator(
        task_id="request",
        decision=decide.output,
        inlets=[life.asset("data")],
        outlets=[life.asset("request")],
        **common,
    )
    return decide


def _guard(life: "Lifecycle", rows: Any, labels: Any, common: Mapping[str, Any]) -> list[Any]:
    """Go back to the champion before, if the policy says when."""
    if not life.rollback:
        return []
    guard = GuardChampionOperator(
        task_id="guard",
        snapshot=rows,
        labels=labels,
        label_column=life.data.label,
        rules=[word.to_dict() for word in life.rollback],
        metric=life.metric,
        notifiers=list(life.notify),
        outlets=[life.asset("champion")],
        **common,
    )
    return [guard]


def _alone(life: "Lifecycle", common: Mapping[str, Any]) -> None:
    """What no decision waits for."""
    keep = None if life.keep is None else life.keep.to_dict()
    HousekeepOperator(task_id="housekeep", keep=keep, **common)
    CheckHealthOperator(task_id="system", rules=life.health.to_dict(), **common)


def _snapshots(life: "Lifecycle", common: Mapping[str, Any]) -> tuple[Any, Any]:
    """Version rows and labels; return what the two tasks will return."""
    table, raw = life.data, life.raw
    shared = {"key": table.key, "time": table.time, "window": life.select.step, **common}
    shared |= {"lateness": table.read_again, "ahead": table.ahead}
    rows = SnapshotTableOperator(
        task_id=_first(life),
        table=table.table,
        dataset=raw,
        columns=table.columns,
        adopt=table.adopt,
        outlets=[life.asset("data")] if raw == life.name else [],
        warehouse_conn_id=table.conn_id,
        **shared,
    )
    labels = SnapshotTableOperator(
        task_id="labels",
        table=table.labels,
        dataset=life.labels,
        columns=(table.key, table.time, table.label),
        windows_of=raw,
        warehouse_conn_id=table.conn_id,
        **shared,
    )
    rows >> labels
    if life.sql is None:
        return rows.output, labels.output
    made = MaterializeFeaturesOperator(
        task_id="snapshot",
        sql=life.sql.select,
        inputs={"rows": raw, "labels": life.labels, **life.sql.inputs},
        known_after={"labels": "1s", **life.sql.known_after},  # no row knows its own label
        dataset=life.name,
        windows_of=raw,
        outlets=[life.asset("data")],
        **shared,
    )
    labels >> made
    return made.output, labels.output


def _train(life: "Lifecycle") -> DAG:
    """A decision -> rows, features, model -> judged -> submitted, or another round."""
    common = connections(life)
    with new_dag(life, "train", [life.asset("request")]) as dag:
        select = SelectRowsOperator(
            task_id="select",
            label_column=life.data.label,
            span=life.select.span,
            embargo=life.embargo,
            **common,
        )
        features = ArchiveFeaturesOperator(
            task_id="features",
            features=life.features,
            feature_params=dict(life.feature_params),
            selection=select.output,
            **common,
        )
        selection = _history(life, select.output, features.output, common)
        train = TrainModelOperator(
            task_id="train",
            features=life.features,
            feature_set=features.output,
            train=life.train,
            selection=selection,
            metric=life.metric,
            train_params=dict(life.params),
            allow_pickle=life.allow_pickle,
            seed=life.seed,
            importance=_drift(life)["weights"] == "importance",
            inlets=[life.asset("data"), life.asset("request")],
            **common,
        )
        _judge(life, train.output, {"selection": selection, **common})
    return dag


def _history(life: "Lifecycle", selection: Any, features: Any, common: Mapping[str, Any]) -> Any:
    """See which history helps now, if the policy wants to know."""
    if not life.select.shorter:
        return selection
    return ChooseHistoryOperator(
        task_id="history",
        selection=selection,
        features=life.features,
        feature_set=features,
        train=life.train,
        shorter=life.select.shorter,
        metric=life.metric,
        train_params=dict(life.params),
        seed=life.seed,
        **common,
    ).output


def _judge(life: "Lifecycle", trained: Any, common: Mapping[str, Any]) -> None:
    """Measure and judge what was trained; submit it, or go back."""
    gates = [gate.to_dict() for gate in life.gates]
    evaluate = EvaluateModelOperator(
        task_id="evaluate", trained=trained, metric=life.metric, gates=gates, **common
    )
    gate = JudgeCandidateOperator(
        task_id="gate",
        evaluation=evaluate.output,
        gates=gates,
        **common,
    )
    SubmitCandidateOperator(
        task_id="submit",
        evaluation=evaluate.output,
        verdict=gate.output,
        inlets=[life.asset("data"), life.asset("request")],
        outlets=[life.asset("candidate")],
        **common,
    )
    RetryRoundOperator(
        task_id="another_round",
        verdict=gate.output,
        rounds=_rounds(life),
        outlets=[life.asset("request")],
        **common,
    )


def _rounds(life: "Lifecycle") -> int | list[dict[str, Any]]:
    """Return the rounds as plain JSON types."""
    return life.rounds if isinstance(life.rounds, int) else [r.to_dict() for r in life.rounds]
