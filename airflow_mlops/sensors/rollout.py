"""Sensor for a rollout: one stage, begun, looked at now and then, and ended by evidence."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException

from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.operators._base import MlopsOperator, Xcom, about_proposal, task_of
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.core.deployment.rolling import Turn
    from airflow_mlops.core.rollout.looks import Look
    from airflow_mlops.core.rollout.stages import Begun

MONITOR = "rollout"
"""Monitor under which the newest look at a stage is kept."""


class RolloutStageSensor(MlopsOperator, BaseSensorOperator):
    """
    One stage of a rollout: it begins, and the task waits until evidence ends it.

    Whoever scores divides the rows by the same entry of the ledger (``ScoreBatchOperator`` does,
    and an endpoint through ``airflow_mlops.core.rollout``). A stage that passes ends the task well;
    one that is stopped refuses the candidate, on record, and fails the task, so that people are
    told. Skipped if the answer was not *promote*, if there is no champion yet to compare with, or
    if the candidate was superseded. Returns the look that ended it.

    :param smoke: what ``SmokeTestModelOperator`` returned (templated).
    :param answer: what ``ApproveModelOperator`` returned; ``None``: nobody was asked (templated).
    :param stage: ``Shadow``, ``Canary`` or ``AB`` of ``policy`` as a dict.
    :param place: its number in the plan, from 0.
    :param data: dataset of the rows, whose newest one tells the time; ``None``: the wall clock
        does, as for an endpoint.
    :param labels: dataset of the labels; ``None``: whoever serves records outcomes.
    :param label_column: column of the labels.
    :param metric: per-row loss, if the stage names no metric of its own.
    :param baseline: mean of the stage's own metric of the champion before.
    :param lateness: how long after its exposure an outcome may come, such as ``"1d"``.
    :param policy: as for ``PromoteModelOperator``: another one than people said yes to begins no
        stage; ``None``: it is not compared.
    """

    template_fields = (*MlopsOperator.template_fields, "smoke", "answer")

    def __init__(
        self,
        *,
        smoke: Xcom,
        stage: Mapping[str, Any],
        answer: Xcom = None,
        place: int = 0,
        data: str | None = None,
        labels: str | None = None,
        label_column: str = "",
        metric: str = "brier",
        baseline: float | None = None,
        lateness: str = "0s",
        policy: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("mode", "reschedule")
        kwargs.setdefault("poke_interval", 300.0)
        kwargs.setdefault("timeout", _patience(stage))
        super().__init__(**kwargs)
        self.smoke = smoke
        self.answer = answer
        self.asks = answer is not None  # when the task runs, an answer that is gone looks like none
        self.stage = stage
        self.place = place
        self.data = data
        self.labels = labels
        self.label_column = label_column
        self.metric = metric
        self.baseline = baseline
        self.lateness = lateness
        self.policy = policy

    def execute(self, context: Context) -> Any:
        """
        Wait; if nobody can look any more, the candidate is refused: it serves nobody unwatched.

        :raises RejectedError: if the stage was stopped: the champion stays.
        """
        try:
            return super().execute(context)
        except (AirflowSensorTimeout, ConfigurationError) as error:
            from airflow_mlops.core.deployment.rolling import give_up

            give_up(self.registry(), self._turn(context), str(error))
            raise

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Look once.

        :raises RejectedError: if the stage was stopped: the champion stays.
        """
        from airflow_mlops.core.deployment.approval import voided
        from airflow_mlops.core.deployment.rolling import advance
        from airflow_mlops.core.rollout.exposures import Exposures

        self._skip_unanswered()
        turn, observations = self._turn(context), self.observations()
        self._skip_void(turn)
        moved = voided(self.answer, turn.proposal, self.policy) if self.asks else ""
        if moved:
            msg = f"{turn.ref} is not what people said yes to: {moved}; no stage begins"
            raise ConfigurationError(msg)
        found = advance(
            self.registry(), Exposures(observations), turn, now=self._now(), labels=self._labels()
        )
        self.log.info("%s: %s", turn.ref, found)
        for warning in found.warnings:
            self.log.warning("%s", warning)
        observations.record(self.model, MONITOR, f"{turn.ref}:{self.place}", _finding(turn, found))
        if found.status in ("stopped", "invalid"):
            msg = f"{self.stage['word']} of {turn.ref}: {found}; {self.model} keeps its champion"
            raise RejectedError(msg)
        return PokeReturnValue(found.status == "passed", found.to_dict())

    def _skip_unanswered(self) -> None:
        """Skip if people did not say yes; what was edited on its way is no answer."""
        self.handed("smoke", about_proposal(self.smoke), self.smoke)
        if not self.asks:
            return
        if not self.answer:
            msg = f"{self.smoke['model']} was not answered"
            raise AirflowSkipException(msg)
        self.handed("approve", about_proposal(self.smoke), self.answer)
        if self.answer["choice"] != "promote":
            msg = f"the answer was {self.answer['choice']}"
            raise AirflowSkipException(msg)

    def _turn(self, context: Context) -> "Turn":
        from airflow_mlops.core.deployment.rolling import Turn
        from airflow_mlops.policy import AB, Canary, Shadow, Stage

        stage = Stage.from_dict(self.stage)
        if not isinstance(stage, Shadow | Canary | AB):
            msg = f"{self.stage['word']} is no stage to wait in; known: Shadow, Canary, AB"
            raise ConfigurationError(msg)
        return Turn(
            self.entry(self.smoke["proposal"]),
            stage,
            self.place,
            self.metric,
            task_of(context),
            self.baseline if self.baseline is not None else stage.baseline,
            duration(self.lateness).total_seconds(),
        )

    def _skip_void(self, turn: "Turn") -> None:
        """Skip if there is nothing to compare with, or the candidate is none any more."""
        from airflow_mlops.core.deployment.approval import void

        end = f"{turn.key}:end"
        state = self.ledger().standing(self.model, end)
        if state.of(end) is not None:
            return  # it has an answer already
        if state.champion is None:
            msg = f"{self.model} has no champion yet: its first model goes to everybody"
            raise AirflowSkipException(msg)
        why = void(state, turn.proposal)
        if why:
            raise AirflowSkipException(why)

    def _now(self) -> datetime:
        """Return the time by the clock of the data."""
        if self.data is None:
            return datetime.now(UTC)
        store = self.datasets()
        newest = store.latest(self.data)
        watermark = store.open(newest).watermark if newest else None
        if watermark is None:
            msg = f"no row of dataset {self.data!r}, so its clock says nothing"
            raise ConfigurationError(msg)
        return watermark

    def _labels(self) -> Callable[["Begun"], "pa.Table"]:
        """Return what reads the labels that are known since a stage began."""
        import pyarrow as pa

        nothing = pa.schema([("key", pa.string()), ("label", pa.float64())]).empty_table()
        name, store = self.labels, self.datasets()

        def read(begun: "Begun") -> "pa.Table":
            newest = store.latest(name) if name else None
            if newest is None:
                return nothing
            table = store.open(newest)
            rows = table.between(datetime.fromisoformat(begun.since)).to_arrow(
                [table.key, self.label_column]
            )
            known = [table.key, self.label_column]
            key, label = (rows[n].cast(t) for n, t in zip(known, nothing.schema.types, strict=True))
            return pa.table([key, label], schema=nothing.schema)

        return read


def _finding(turn: "Turn", look: "Look") -> dict[str, Any]:
    """Return what status shows of a stage."""
    statuses = {"running": "ok", "passed": "ok", "stopped": "broken", "invalid": "broken"}
    line = f"{type(turn.stage).__name__} of {turn.ref}: {look}"
    return look.to_dict() | {"status": statuses[look.status], "look": look.status, "line": line}


def _patience(stage: Mapping[str, Any]) -> float:
    """Return for how long to wait by the wall clock, in seconds: rows may come late, or not."""
    lasts = duration(str(stage.get("within") or stage.get("hold") or "0s"))
    return max(3 * lasts, duration("30d")).total_seconds()
