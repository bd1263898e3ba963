"""Operator for approval: a person decides, in Airflow's own Human-in-the-loop form."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context, Param
from airflow.sdk.execution_time.hitl import HITLUser

from airflow_mlops.operators._base import RETRY_POLICY, Xcom
from airflow_mlops.policy import duration

ANSWERS = ("promote", "reject", "retrain")

NOBODY = "nobody"
"""Who answered when the time was over."""


class ApproveModelOperator(HITLOperator):
    """
    Ask named people whether a candidate may become champion.

    The task waits without holding a worker. No answer in time is *reject*. Returns ``choice``,
    ``note``, ``params``, ``by`` and ``at``.

    :param model: name of the model (templated).
    :param smoke: what ``SmokeTestModelOperator`` returned (templated).
    :param by: ids of the users who may answer, as the auth manager knows them: for its simple one
        the user name, for FAB the number of the user; or mappings with ``id`` and ``name``.
    :param within: how long to wait, such as ``"2d"``.
    """

    template_fields = ("model", "smoke", *HITLOperator.template_fields)

    def __init__(
        self,
        *,
        model: str,
        smoke: Xcom,
        by: Sequence[str | Mapping[str, str]],
        within: str = "2d",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", RETRY_POLICY)
        kwargs.setdefault("subject", f"Promote a candidate of {model}?")
        super().__init__(
            options=list(ANSWERS),
            defaults="reject",
            assigned_users=[_user(user) for user in by],
            response_timeout=duration(within),
            params={
                "note": Param("", type="string", description="why; everybody can read it later"),
                "params": Param(
                    {},
                    type="object",
                    description="for retrain: parameters of the training function",
                ),
            },
            **kwargs,
        )
        self.model = model
        self.smoke = smoke
        self.by = list(by)
        self.within = within

    def execute(self, context: Context) -> Any:
        """Show the candidate's card, and wait."""
        self.body = str(self.smoke["card"])
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the answer; who gave it is on record."""
        answer = super().execute_complete(context, event)
        user = answer.get("responded_by_user")
        given = answer.get("params_input") or {}
        at = answer.get("responded_at")
        return {
            "choice": answer["chosen_options"][0],
            "note": str(given.get("note") or "") or ("" if user else "no answer in time"),
            "params": dict(given.get("params") or {}),
            "by": user["name"] if user else NOBODY,
            "at": at.isoformat() if at is not None else None,
        }


def _user(user: str | Mapping[str, str]) -> HITLUser:
    if isinstance(user, str):
        return HITLUser(id=user, name=user)
    return HITLUser(id=str(user["id"]), name=str(user["name"]))
