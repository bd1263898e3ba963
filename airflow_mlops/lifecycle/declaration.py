"""``Lifecycle``: the whole life of one model, as one declaration of policy."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk import DAG, Asset
from airflow.sdk.definitions.asset import Dataset, Model

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.refs import check_name, plain_params
from airflow_mlops.lifecycle.dags import build
from airflow_mlops.lifecycle.problems import problems, refuse_twin
from airflow_mlops.policy import (
    Approval,
    Arrival,
    AtLeast,
    Contract,
    Decay,
    Dependencies,
    Drift,
    Full,
    Gate,
    Growth,
    Health,
    Keep,
    Loads,
    NoLeak,
    NotWorse,
    OnRequest,
    Probe,
    Regret,
    Retrain,
    Round,
    Sql,
    Stage,
    Table,
    Trigger,
    Window,
    duration,
)

declared: "ContextVar[list[Lifecycle] | None]" = ContextVar("declared", default=None)
"""Where the lifecycles of a Dag file are gathered, while somebody reads it for them."""


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """
    The whole life of one model, as policy.

    Makes the Dags ``<name>__monitor``, ``<name>__train`` and ``<name>__rollout``, and
    ``<name>__rollback`` for a person to trigger; in a Dag file nothing else is needed.

    :param name: name of the model; lower case letters, digits, underscores.
    :param data: where rows and labels come from.
    :param select: which rows to learn from.
    :param sql: SQL that makes the rows to learn from and to score; none: those of ``data``.
    :param features: ``module:function`` of ``build(rows, **params) -> frame``.
    :param feature_params: parameters of ``build``, such as ``{"lags": 3}``; plain JSON types.
    :param train: ``module:function`` of ``fit(X, y, *, seed, **params) -> estimator``.
    :param params: parameters for the training function.
    :param allow_pickle: consent to an estimator that only pickle can store: opening it runs code.
    :param seed: seed handed to the training function.
    :param metric: per-row loss in which models are compared: ``brier``, ``log_loss``,
        ``absolute_error`` or ``squared_error``, or your own, ``module:function`` of ``(y, p) ->
        losses``.
    :param slices: columns by which the served loss is measured, too, such as ``("day",)``.
    :param retrain: reasons to retrain.
    :param cooldown: shortest time between two attempts, by the clock of the data.
    :param budget: most attempts in a span, by the clock of the data.
    :param rounds: most rounds of one attempt, each on half the history of the one before; or what
        each further round changes, such as ``[Round(window="91d"), Round(params={"depth": 3})]``.
    :param gates: conditions a candidate has to meet.
    :param contract: which rows stop scoring, when they do not look like those of training.
    :param dependencies: where the champion may serve, when packages change.
    :param approve: who may say yes; ``None`` is refused: a person approves every champion.
    :param rollout: stages through which a candidate goes after its approval, ``Full()`` last.
    :param rollback: when the champion makes way for the one before it, such as ``Decay("brier")``;
        only if that one is better on the same rows.
    :param health: what tasks may use, and what has to be up; task ``system`` of the monitor looks.
    :param keep: for how long findings, usages, predictions and rows set aside are kept, such as
        ``Keep(usages="30d", predictions="730d")``; ``None``: for ever.
    :param schedule: schedule of the monitor Dag; ``Arrival("5m")``: whenever there are newer rows.
    :param deadline: time within which a run of the monitor has to succeed, such as ``"6h"``, else
        the notifiers are called; ``None``: no alarm.
    :param notify: notifiers, called when a Dag fails, when a candidate waits for its approval, for
        each decision to retrain, and with a weekly digest of the decisions not to.
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
    allow_pickle: bool = False
    seed: int = 0
    metric: str = "brier"
    slices: Sequence[str] = ()
    retrain: Sequence[Trigger] = (Probe(), Regret(), Growth(), Drift(), OnRequest())
    cooldown: str = "7d"
    budget: str = "4 per 30d"
    rounds: int | Sequence[Round] = 2
    gates: Sequence[Gate] = (Loads(), NoLeak(), AtLeast("roc_auc", 0.6), NotWorse("brier"))
    contract: Contract = field(default_factory=Contract)
    dependencies: Dependencies = field(default_factory=Dependencies)
    rollout: Sequence[Stage] = (Full(),)
    rollback: Sequence[Decay] = ()
    health: Health = field(default_factory=Health)
    keep: Keep | None = None
    schedule: str | Arrival | None = "@daily"
    deadline: str | None = None
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
        for problem in problems(self):
            msg = f"Lifecycle {self.name!r}: {problem}"
            raise ConfigurationError(msg)
        refuse_twin(f"{self.name}__monitor")
        found = declared.get()
        if found is not None:
            found.append(self)
        object.__setattr__(self, "dags", build(self))

    @property
    def policy(self) -> Retrain:
        """When to retrain, as one word."""
        return Retrain(tuple(self.retrain), self.cooldown, self.budget)

    @property
    def standard(self) -> dict[str, Any]:
        """What a candidate is judged, approved and rolled out by, as plain JSON types."""
        lists = {"gates": self.gates, "rollout": self.rollout, "rollback": self.rollback}
        words = {name: [word.to_dict() for word in found] for name, found in lists.items()}
        entity = self.data.entity
        approve = self.approve.to_dict()
        return {**words, "approve": approve, "metric": self.metric, "entity": entity}

    @property
    def raw(self) -> str:
        """Name of the dataset of rows as they arrive: the model's own, unless SQL makes those."""
        return self.name if self.sql is None else f"{self.name}.raw"

    @property
    def labels(self) -> str:
        """Name of the dataset of labels."""
        return f"{self.name}.labels"

    @property
    def embargo(self) -> str:
        """How long before the hold-out the rows to learn from end."""
        if self.select.embargo is not None:
            return self.select.embargo
        late = [self.data.lateness or "0d"]
        if self.sql is not None:
            late.append(self.sql.known_after.get("labels", "0d"))
        return max(late, key=duration)

    def asset(self, what: str) -> Asset:
        """Return one of the model's assets: ``data``, ``request``, ``candidate``, ``champion``."""
        kind: Any = {"data": Dataset, "request": Asset}.get(what, Model)
        found: Asset = kind(name=f"{self.name}/{what}", uri=f"mlops://{self.name}/{what}")
        return found
