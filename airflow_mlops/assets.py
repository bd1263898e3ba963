"""What other systems call the assets of scheme ``mlops``."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.sdk import Asset


def to_openlineage(
    asset: "Asset",
    lineage_context: Any,  # noqa: ARG001  (Airflow's signature)
) -> "Dataset | None":
    """
    Name an asset as OpenLineage does: ``mlops://churn/data`` is ``data`` of ``mlops://churn``.

    Neither depends on an address of Airflow, so the name stays when a server moves.

    :param asset: an inlet or outlet of a task.
    :param lineage_context: what Airflow knows about the task; not needed.
    :return: nothing if the package ``openlineage-python`` is not installed.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset

    parts = urlsplit(asset.uri)
    return Dataset(namespace=f"{parts.scheme}://{parts.netloc}", name=parts.path.strip("/") or "/")
