"""What MLflow answers, in the error families of this package."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import ConfigurationError, ModelNotFoundError, UnavailableError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

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
    from requests import RequestException

    try:
        yield
    except RequestException as error:  # of its artifacts: no answer, or one that is none
        status = None if error.response is None else error.response.status_code
        if status in (401, 403):
            msg = f"MLflow refuses {what} (HTTP {status}): check the login of its connection"
            raise ConfigurationError(msg) from error
        msg = f"MLflow does not answer about {what}: {type(error).__name__}: {error}"
        raise UnavailableError(msg) from error
    except MlflowException as error:
        code = error.error_code
        # two writers at once: the database answers before MLflow does
        exists = code == "RESOURCE_ALREADY_EXISTS" or "UniqueViolation" in error.message
        if exists and existing_is_fine:
            return
        if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") and not _by_another(error):
            if missing_is_fine:
                return
            msg = f"MLflow knows no {what}: {error.message}"
            raise ModelNotFoundError(msg) from error
        if code in _REFUSED and not exists:
            msg = f"MLflow refuses {what}: {error.message}"
            raise ConfigurationError(msg) from error
        msg = f"MLflow does not answer about {what}: {error.message}"
        raise UnavailableError(msg) from error


def _by_another(error: "MlflowException") -> bool:
    """Say whether something between here and MLflow answered: a proxy knows nothing of models."""
    from mlflow.exceptions import RestException

    return not isinstance(error, RestException) and "API request to" in error.message


def ping(client: "MlflowClient") -> str:
    """
    Ask an MLflow server for anything, and return its address.

    :raises UnavailableError: if it does not answer.
    """
    with talking("the server"):
        client.search_registered_models(max_results=1)
    return str(client.tracking_uri)
