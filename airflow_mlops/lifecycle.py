"""
The front door: one declaration of policy becomes three Dags of ordinary operators.

``Lifecycle`` holds frozen data; :func:`build` is a pure function from it to Dags. Nothing is read
or asked while a Dag file is parsed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, BaseNotifier
from airflow.sdk.definitions._internal.contextmanager import DagContext
from airflow.sdk.definitions.asset import Dataset, Model

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import check_name, plain_params
from airflow_mlops.operators.approval import ApproveModelOperator
from airflow_mlops.operators.data import (
    CheckContractOperator,
    MaterializeFeaturesOperator,
    SelectRowsOperator,
    SnapshotTableOperator,
)
from airflow_mlops.operators.deployment import (
    PromoteModelOperator,
    ScoreBatchOperator,
    SmokeTestModelOperator,
    SubmitCandidateOperator,
)
from airflow_mlops.operators.evaluation import (
    EvaluateModelOperator,
    JudgeCandidateOperator,
    RetryRoundOperator,
)
from airflow_mlops.operators.housekeeping import HousekeepOperator
from airflow_mlops.operators.monitoring import DetectDriftOperator, MeasurePerformanceOperator
from airflow_mlops.operators.retraining import DecideRetrainOperator, RequestTrainingOperator
from airflow_mlops.operators.training import ArchiveFeaturesOperator, TrainModelOperator
from airflow_mlops.policy import (
    LOSSES,
    Approval,
    AtLeast,
    Better,
    Drift,
    Gate,
    Growth,
    Loads,
    NotWorse,
    OnRequest,
    Probe,
    Regret,
    Retrain,
    Sql,
    Table,
    Trigger,
    Window,
    Word,
)

RETRY_DELAY = timedelta(seconds=30)
"""Airflow's own five minutes are long for a server that restarts."""


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """
    The whole life of one model, as policy.

    Makes the Dags ``<name>__monitor``, ``<name>__train`` and ``<name>__rollout``; in a Dag file
    nothing else is needed.

    :param name: name of the model; lower case letters, digits, underscores.
    :param data: where rows and labels come from.
    :param select: which rows to learn from.
    :param sql: SQL that makes the rows to learn from and to score; none: those of ``data``.
    :param features: ``module:function`` of ``build(rows, **params) -> frame``.
    :param feature_params: parameters of ``build``, such as ``{"lags": 3}``; plain JSON types.
    :param train: ``module:function`` of ``fit(X, y, *, seed, **params) -> estimator``.
    :param params: parameters for the training function.
    :param seed: seed handed to the training function.
    :param metric: per-row loss in which models are compared: ``brier``, ``log_loss``,
        ``absolute_error`` or ``squared_error``.
    :param retrain: reasons to retrain.
    :param cooldown: shortest time between two attempts, by the clock of the data.
    :param budget: most attempts in a span, by the clock of the data.
    :param rounds: most rounds of one attempt; each further round learns from half the history.
    :param gates: conditions a candidate has to meet.
    :param approve: who may say yes; ``None`` is refused: a person approves every champion.
    :param schedule: schedule of the monitor Dag.
    :param notify: notifiers, called when a Dag fails and when a candidate waits for its approval.
    :param tags: tags of the Dags, beside ``mlops`` and the name.
    :param retries: tries after the first one, for errors that may pass.
    """

    name: str
    data: Table
    select: Window
    features: str
    train: str
    approve: Approval
    sql: Sql | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    feature_params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    metric: str = "brier"
    retrain: Sequence[Trigger] = (Probe(), Regret(), Growth(), Drift(), OnRequest())
    cooldown: str = "7d"
    budget: str = "4 per 30d"
    rounds: int = 2
    gates: Sequence[Gate] = (Loads(), AtLeast("roc_auc", 0.6), NotWorse("brier"))
    schedule: str | None = "@daily"
    notify: Sequence[Any] = ()
    tags: Sequence[str] = ()
    retries: int = 2
    mlflow_conn_id: str = "mlflow_default"
    dataset_conn_id: str = "dataset_default"
    ledger_conn_id: str = "mlops_default"
    dags: tuple[DAG, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        functions: tuple[Any, ...] = (self.features, self.train)
        for what in functions:
            if not isinstance(what, str) or what.count(":") != 1:
                msg = f"Lifecycle {self.name!r}: {what!r} is not 'module:function'"
                raise ConfigurationError(msg)
        plain_params(f"Lifecycle {self.name!r}: feature_params", self.feature_params)
        for problem in _problems(self):
            msg = f"Lifecycle {self.name!r}: {problem}"
            raise ConfigurationError(msg)
        _refuse_twin(f"{self.name}__monitor")
        object.__setattr__(self, "dags", build(self))

    @property
    def policy(self) -> Retrain:
        """When to retrain, as one word."""
        return Retrain(tuple(self.retrain), self.cooldown, self.budget)

    @property
    def raw(self) -> str:
        """Name of the dataset of rows as they arrive: the model's own, unless SQL makes those."""
        return self.name if self.sql is None else f"{self.name}.raw"

    @property
    def labels(self) -> str:
        """Name of the dataset of labels."""
        return f"{self.name}.labels"

    def asset(self, what: str) -> Asset:
        """Return one of the model's assets: ``data``, ``request``, ``candidate``, ``champion``."""
        kind: Any = {"data": Dataset, "request": Asset}.get(what, Model)
        found: Asset = kind(name=f"{self.name}/{what}", uri=f"mlops://{self.name}/{what}")
        return found


def build(life: Lifecycle) -> tuple[DAG, DAG, DAG]:
    """Turn a policy into its three Dags."""
    return _monitor(life), _train(life), _rollout(life)


def _monitor(life: Lifecycle) -> DAG:
    """New rows -> versioned, checked, scored, watched -> one decision."""
    common = _common(life)
    with _dag(life, "monitor", life.schedule) as dag:
        rows, labels = _snapshots(life, common)
        contract = CheckContractOperator(task_id="contract", snapshot=rows, **common)
        score = ScoreBatchOperator(
            task_id="score",
            snapshot=rows,
            inlets=[life.asset("data"), life.asset("champion")],
            **common,
        )
        drift = DetectDriftOperator(task_id="drift", snapshot=rows, **common)
        performance = MeasurePerformanceOperator(
            task_id="performance",
            snapshot=rows,
            labels=labels,
            label_column=life.data.label,
            metric=life.metric,
            **common,
        )
        decide = DecideRetrainOperator(
            task_id="decide",
            snapshot=rows,
            labels=labels,
            contract=contract.output,
            policy=life.policy.to_dict(),
            metric=life.metric,
            trigger_rule="none_failed",
            **common,
        )
        request = RequestTrainingOperator(
            task_id="request",
            decision=decide.output,
            inlets=[life.asset("data")],
            outlets=[life.asset("request")],
            **common,
        )
        contract >> score >> performance >> decide >> request
        contract >> drift >> decide
        HousekeepOperator(task_id="housekeep", **common)  # alone: no decision waits for it
    return dag


def _snapshots(life: Lifecycle, common: Mapping[str, Any]) -> tuple[Any, Any]:
    """Version rows and labels; return what the two tasks will return."""
    table, raw = life.data, life.raw
    shared = {"key": table.key, "time": table.time, "window": life.select.step, **common}
    shared |= {"lateness": table.lateness}
    rows = SnapshotTableOperator(
        task_id="snapshot" if raw == life.name else "raw",
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


def _train(life: Lifecycle) -> DAG:
    """A decision -> rows, features, model -> judged -> submitted, or another round."""
    common = _common(life)
    with _dag(life, "train", [life.asset("request")]) as dag:
        select = SelectRowsOperator(
            task_id="select", label_column=life.data.label, span=life.select.span, **common
        )
        features = ArchiveFeaturesOperator(
            task_id="features",
            features=life.features,
            feature_params=dict(life.feature_params),
            selection=select.output,
            **common,
        )
        train = TrainModelOperator(
            task_id="train",
            features=life.features,
            feature_set=features.output,
            train=life.train,
            selection=select.output,
            metric=life.metric,
            train_params=dict(life.params),
            seed=life.seed,
            inlets=[life.asset("data"), life.asset("request")],
            **common,
        )
        _judge(life, train.output, {"selection": select.output, **common})
    return dag


def _judge(life: Lifecycle, trained: Any, common: Mapping[str, Any]) -> None:
    """Measure and judge what was trained; submit it, or go back."""
    evaluate = EvaluateModelOperator(
        task_id="evaluate", trained=trained, metric=life.metric, **common
    )
    gate = JudgeCandidateOperator(
        task_id="gate",
        evaluation=evaluate.output,
        gates=[gate.to_dict() for gate in life.gates],
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
        rounds=life.rounds,
        outlets=[life.asset("request")],
        **common,
    )


def _rollout(life: Lifecycle) -> DAG:
    """A candidate -> tried, approved by people -> champion."""
    common = _common(life)
    with _dag(life, "rollout", [life.asset("candidate")]) as dag:
        smoke = SmokeTestModelOperator(task_id="smoke", data=life.name, **common)
        approve = ApproveModelOperator(
            task_id="approve",
            model=life.name,
            smoke=smoke.output,
            by=life.approve.by,
            notifiers=[n for n in life.notify if isinstance(n, BaseNotifier)],
            within=life.approve.within,
        )
        PromoteModelOperator(
            task_id="promote",
            smoke=smoke.output,
            answer=approve.output,
            inlets=[life.asset("candidate")],
            outlets=[life.asset("champion")],
            **common,
        )
    return dag


def _dag(life: Lifecycle, stage: str, schedule: Any) -> DAG:
    return DAG(
        f"{life.name}__{stage}",
        schedule=schedule,
        start_date=datetime(2020, 1, 1),  # noqa: DTZ001  (Airflow's default time zone applies)
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        default_args={
            "retries": life.retries,
            "retry_delay": RETRY_DELAY,
            "owner": life.name,
        },
        on_failure_callback=list(life.notify) or None,
        tags=["mlops", life.name, *life.tags],
        doc_md=f"Stage *{stage}* of model **{life.name}**. Who decided what: "
        f"`airflow mlops history {life.name}`",
    )


def _common(life: Lifecycle) -> dict[str, Any]:
    return {
        "model": life.name,
        "mlflow_conn_id": life.mlflow_conn_id,
        "dataset_conn_id": life.dataset_conn_id,
        "ledger_conn_id": life.ledger_conn_id,
    }


def _problems(life: Lifecycle) -> Iterator[str]:
    """Say what cannot work; found at night, it would be a failed task."""
    if life.metric not in LOSSES:
        yield f"unknown metric {life.metric!r}; known: {', '.join(LOSSES)}"
    lists = {"gates": life.gates, "retrain": life.retrain}
    yield from (
        f"{what}={words!r} is no list of words; write {what}=[...]"
        for what, words in lists.items()
        if not isinstance(words, list | tuple)
    )
    if not isinstance(life.approve, Approval):
        yield f"approve={life.approve!r}: a person approves every champion, name one: Approval(by)"
    if life.rounds < 1:
        yield f"rounds={life.rounds!r}: an attempt has one round or more"
    if not life.gates:
        yield "there are no gates, and a candidate needs a standard"
    yield from (f"{word!r} is not a trigger" for word in life.retrain if not _is(word, Trigger))
    yield from (f"{word!r} is not a gate" for word in life.gates if not _is(word, Gate))
    for word in (*life.gates, *life.retrain):
        if isinstance(word, NotWorse | Better | Probe) and word.metric != life.metric:
            yield f"{word} compares in another loss than metric={life.metric!r}; give them one"


def _is(word: object, kind: type[Word]) -> bool:
    """Say whether this is one of the words of a kind; the kind itself says nothing."""
    return isinstance(word, kind) and type(word) is not kind


def _refuse_twin(dag_id: str) -> None:
    """
    Refuse a second lifecycle of one name in one Dag file: Airflow would keep one of them silently.

    :raises ConfigurationError: if a Dag of that id was made by the file that is being parsed.
    """
    module = DagContext.current_autoregister_module_name
    for dag, found in DagContext.autoregistered_dags:
        if module is not None and dag.dag_id == dag_id and found.__name__ == module:
            name = dag_id.removesuffix("__monitor")
            msg = f"two lifecycles are named {name!r} in one Dag file; give each model its own name"
            raise ConfigurationError(msg)
