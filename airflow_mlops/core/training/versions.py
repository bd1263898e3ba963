"""One registered version of a model, as MLflow names it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from airflow_mlops.core.errors import ModelNotFoundError
from airflow_mlops.core.refs import ModelRef

LEARNT_UNTIL = "mlops.until"
"""Tag that says where the rows end that a version has learnt from."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """
    One registered version.

    :param run_id: MLflow run that made it.
    :param recipe: id of its recipe.
    :param digest: SHA-256 over the paths and bytes of its files.
    :param tags: all its tags.
    :param created_at: when it was registered, ISO 8601.
    """

    ref: ModelRef
    run_id: str
    recipe: str
    digest: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    created_at: str = ""

    @property
    def learnt_until(self) -> datetime | None:
        """Where the rows end that it has learnt from; ``None``: it does not say."""
        text = self.tags.get(LEARNT_UNTIL)
        return datetime.fromisoformat(text) if text else None

    def fact(self, name: str) -> str:
        """
        Return a tag that training wrote.

        :raises ModelNotFoundError: if it is missing: the version was not trained by this package.
        """
        if name not in self.tags:
            msg = f"{self.ref} has no tag {name}: it was not trained by airflow_mlops"
            raise ModelNotFoundError(msg)
        return self.tags[name]
