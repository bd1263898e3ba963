"""
Credentials for MLflow without secrets in environment variables.

MLflow asks the auth plugin named by ``MLFLOW_TRACKING_AUTH`` to sign each request. Keeping the
secrets here, by server, they reach that server only, also from MLflow's own upload threads, and
never show up in the environment of a child process.
"""

from urllib.parse import urlsplit

from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from requests import PreparedRequest
from requests.auth import AuthBase

_authorization: dict[str, str] = {}


def remember(url: str, authorization: str | None) -> None:
    """Send ``authorization`` with every MLflow request to the server of ``url``; none: nothing."""
    if authorization is None:
        _authorization.pop(_server(url), None)
    else:
        _authorization[_server(url)] = authorization


def _server(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class _ServerAuth(AuthBase):
    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        value = _authorization.get(_server(r.url or ""))
        if value is not None:
            r.headers["Authorization"] = value
        return r


class AirflowAuthProvider(RequestAuthProvider):  # type: ignore[misc]
    """MLflow auth plugin ``airflow``."""

    def get_name(self) -> str:
        """Return the name to put into ``MLFLOW_TRACKING_AUTH``."""
        return "airflow"

    def get_auth(self) -> AuthBase:
        """Return the object that signs one request."""
        return _ServerAuth()
