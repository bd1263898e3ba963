"""What people are told: each message once, whatever is tried again."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

if TYPE_CHECKING:
    from airflow_mlops.core.monitoring.observations import Observations

TOLD = "told"
"""Monitor under which is kept what people were told."""

log = logging.getLogger(__name__)


def tell(
    observations: "Observations",
    notifiers: Sequence[Any],
    context: Context,
    model: str,
    subject: str,
    mlops: Mapping[str, Any],
    **kept: Any,
) -> None:
    """
    Call every notifier, once for each subject; one that fails is no reason to do anything again.

    :param notifiers: called with the context, and ``mlops`` in it.
    :param subject: what it is about; the same message has the same one.
    :param mlops: what they find: ``line`` and so on.
    :param kept: facts to keep beside it.
    """
    before = observations.read(model, TOLD)
    if not notifiers or subject in {o.body.get("subject") for o in before}:
        return
    for notifier in notifiers:
        try:
            notifier({**context, "mlops": {"model": model, **mlops}})
        except Exception:
            log.exception("%r failed to tell: %s", notifier, mlops["line"])
    body = {"status": "ok", "line": mlops["line"], "subject": subject, **kept}
    observations.record(model, TOLD, subject, body)
