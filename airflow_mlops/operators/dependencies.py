"""Operator for monitoring: is the champion, with what is installed here, what it was?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Context

from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.operators._base import MlopsOperator
from airflow_mlops.policy.monitoring import FAILS, FailOn


class CheckDependenciesOperator(MlopsOperator):
    """
    Ask the champion, in the environment of this worker, what it was asked when it was trained.

    It is asked once in each environment; after that the report on record is the answer. Returns the
    finding; it is on record as ``dependencies`` (and ``constraints``). Skipped without a champion.

    :param constraints: file of pins that is going to be installed: what it would change is said,
        and what of that is known to go wrong; none: not looked at (templated).
    :param fail_on: what fails the task: ``"error"``: answers that moved, or a model that does not
        load; ``"warn"``: also what is uncertain or known to go wrong; ``"never"``: nothing.
    :param skip: ids of tasks to skip if it fails by what it found. What waits for it does not run
        and is run when the failed tasks are cleared; what waits for a skipped one may go on.
    """

    template_fields = (*MlopsOperator.template_fields, "constraints")

    def __init__(
        self,
        *,
        constraints: str | None = None,
        fail_on: FailOn = "error",
        skip: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.constraints = constraints
        self.fail_on = fail_on
        self.skip = skip

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Compare, ask, and put both findings on record.

        :raises RejectedError: if the champion may not serve here.
        """
        from airflow_mlops.core.monitoring.constraints import check_constraints
        from airflow_mlops.core.monitoring.dependencies import (
            check_dependencies,
            record_dependencies,
        )

        ref, observations = self._champion(), self.observations()
        report = check_dependencies(ref, observations, lambda: (self.models(), self.datasets()))
        record_dependencies(observations, report)
        self.log.info("%s: %s", report.status, report.line)
        planned = None
        if self.constraints not in (None, "", "None"):
            planned = check_constraints(Path(str(self.constraints)), report)
            subject = f"{ref}:{planned.file}"
            observations.record(self.model, "constraints", subject, planned.to_dict())
            self.log.info("%s: %s", planned.status, planned.line)
        found = [f for f in (report, planned) if f is not None]
        status = next(s for s in ("broken", "warn", "ok") if any(f.status == s for f in found))
        line = "; ".join(f.line for f in found if f.status == status)
        if status in FAILS[self.fail_on]:
            self.skip_tasks(self.skip)
            raise RejectedError(line)
        return {
            "model": str(ref),
            "status": status,
            "line": line,
            "environment": report.here.id,
            "trained_in": report.training.id,
            "changes": [str(c) for c in report.changes if c.used],
            "answers": report.to_dict()["answers"],
            "known_bad": list(report.known_bad),
            "constraints": planned and {"status": planned.status, "line": planned.line},
        }

    def _champion(self) -> ModelRef:
        """
        Return the version to ask.

        :raises ConfigurationError: if ``fail_on`` is no word that is known.
        """
        if self.fail_on not in FAILS:
            known = ", ".join(map(repr, FAILS))
            msg = f"fail_on={self.fail_on!r}; known: {known}"
            raise ConfigurationError(msg)
        return self.champion_of(self.ledger().standing(self.model), "to ask")
