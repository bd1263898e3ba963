"""What MLflow answers, in the error families of this package."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import ConfigurationError, ModelNotFoundError, UnavailableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "UNAUTHENTICATED")


@contextlib.contextmanager
def talking(
    what: str, *, existing_is_fine: bool = False, missing_is_fine: bool = False
) -> Iterator[None]:
    """
    Give MLflow's errors their family.

    :param what: what is asked about: the errors name it.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        code = error.error_code
        # two writers at once: the database answers before MLflow does
        exists = code == "RESOURCE_ALREADY_EXISTS" or "UniqueViolation" in error.message
        if exists and existing_is_fine:
            return
        if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            if missing_is_fine:
                return
            msg = f"MLflow knows no {what}: {error.message}"
            raise ModelNotFoundError(msg) from error
        if code in _REFUSED and not exists:
            msg = f"MLflow refuses {what}: {error.message}"
            raise ConfigurationError(msg) from error
        msg = f"MLflow does not answer about {what}: {error.message}"
        raise UnavailableError(msg) from error


def ping(client: "MlflowClient") -> str:
    """
    Ask an MLflow server for anything, and return its address.

    :raises UnavailableError: if it does not answer.
    """
    with talking("the server"):
        client.search_registered_models(max_results=1)
    return str(client.tracking_uri)
