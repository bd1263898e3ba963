"""Operator for what approvers are shown: which decisions change with a candidate."""

import json
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.errors import (
    ContractBrokenError,
    ModelChangedError,
    ModelLostError,
    ModelNotFoundError,
    UserCodeError,
)
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.hooks.mlflow import MlflowHook
from airflow_mlops.operators._base import MlopsOperator, Xcom, about_proposal
from airflow_mlops.operators._reports import attach_report
from airflow_mlops.operators.links import ModelVersionLink, ReportLink

if TYPE_CHECKING:
    from airflow_mlops.core.data.selection import Selection
    from airflow_mlops.core.training.models import ModelStore

_CANNOT_ANSWER = (
    UserCodeError,
    ModelChangedError,
    ModelLostError,
    ModelNotFoundError,
    ContractBrokenError,
)
"""What a champion that has to be replaced may end in."""


class ReportFlipsOperator(MlopsOperator):
    """
    Say which decisions change if the candidate becomes champion: a page, and a text for the form.

    Both are asked about the rows that the candidate was judged on. Returns ``line``, ``text`` and
    the numbers; skipped if there is no champion.

    :param smoke: what ``SmokeTestModelOperator`` returned (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "smoke")
    operator_extra_links = (ModelVersionLink(), ReportLink())

    def __init__(self, *, smoke: Xcom, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.smoke = smoke
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask both, compare decision by decision, and store page and numbers beside the model."""
        from airflow_mlops.core.evaluation.flips import Answered, find_flips
        from airflow_mlops.core.reports.flips import flips_page, flips_text
        from airflow_mlops.core.reports.markdown import plain
        from airflow_mlops.core.training.models import FLIPS, FLIPS_PAGE

        self.handed("smoke", about_proposal(self.smoke), self.smoke)
        if self.smoke["champion"] is None:
            msg = f"{self.model} has no champion whose decisions could change"
            raise AirflowSkipException(msg)
        ref = ModelRef.parse(self.smoke["model"])
        champion = ModelRef(self.model, int(self.smoke["champion"]))
        hook = MlflowHook(self.mlflow_conn_id)
        models, store = self.models(), self.datasets()
        rows = self._judged_on(models, ref).read(store)
        try:
            answered = Answered.ask(models, ref, champion, rows)
        except _CANNOT_ANSWER as error:
            line = f"which decisions change cannot be said: {error}"
            self.log.warning("%s", line)  # a champion that cannot answer has to be replaced
            said = {"line": line, "text": f"**Decisions that change:** {plain(line)}"}
            self.hand_over(context, "flips", about_proposal(self.smoke), said)
            return said
        found = find_flips(answered, candidate=str(ref), champion=str(champion))
        run_id, numbers = models.get(ref).run_id, found.to_dict()
        models.log_document(run_id, FLIPS, json.dumps(numbers, indent=1))
        page = attach_report(self, ref, FLIPS_PAGE, numbers, lambda: flips_page(found))
        self.urls = {ModelVersionLink.name: hook.model_url(ref), ReportLink.name: page}
        self.processed = found.total.rows
        self.log.info("%s", found.line)
        kept = {key: value for key, value in numbers.items() if key != "cases"}
        said = kept | {"text": flips_text(found, page)}
        self.hand_over(context, "flips", about_proposal(self.smoke), said)
        return said

    def _judged_on(self, models: "ModelStore", ref: ModelRef) -> "Selection":
        """Name the rows of the offline evaluation."""
        from airflow_mlops.core.data.selection import Selection

        recipe = models.about(ref)["recipe"]
        judged = self.entry(self.smoke["proposal"]).evidence["evaluation"]
        versions = recipe["data"], recipe["labels"], recipe["label"]
        return Selection(*versions, judged["since"], judged["until"])
