"""
An alarm for a monitor that says nothing: Airflow's own deadlines call the notifiers.

The scheduler calls them by their import path, with what JSON can hold, and not the objects of the
Dag file: a function has to be one of a module, a notifier one that keeps its arguments.
"""

import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    from airflow.sdk.definitions.callback import SyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from airflow_mlops.lifecycle.declaration import Lifecycle


def alarms(life: "Lifecycle") -> "list[DeadlineAlert] | None":
    """
    Return a deadline for each notifier; it counts from the moment that a run is created.

    :raises ConfigurationError: if there is nobody to tell, or one that Airflow could not call.
    """
    if life.deadline is None:
        return None
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from airflow_mlops.deadlines import RunCreated

    if not life.notify:
        msg = f"Lifecycle {life.name!r}: deadline={life.deadline!r} has nobody to tell; give notify"
        raise ConfigurationError(msg)
    created, within = RunCreated(), duration(life.deadline)
    return [DeadlineAlert(created, within, _callback(life.name, one)) for one in life.notify]


def _callback(name: str, notify: Any) -> "SyncCallback":
    from airflow.sdk.definitions.callback import SyncCallback

    if isinstance(notify, BaseNotifier):
        return SyncCallback(_path(name, type(notify)), kwargs=_arguments(name, notify))
    return SyncCallback(_path(name, notify))


def _path(name: str, found: Callable[..., Any]) -> str:
    qualified = getattr(found, "__qualname__", "<object>")
    if not qualified.isidentifier():
        msg = (
            f"Lifecycle {name!r}: {found!r} cannot be called at a deadline, Airflow would not find "
            "it again; make it a function or a notifier at the top level of a module"
        )
        raise ConfigurationError(msg)
    return f"{found.__module__}.{qualified}"


def _arguments(name: str, notifier: BaseNotifier) -> dict[str, Any]:
    """Read back what a notifier was made with, from attributes of the same names."""
    given = inspect.signature(type(notifier).__init__).parameters.values()
    named = (p.name for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    wanted = [n for n in named if n not in ("self", "context")]
    try:
        arguments = {n: getattr(notifier, n) for n in wanted}
        json.dumps(arguments)
    except (AttributeError, TypeError, ValueError) as error:
        msg = (
            f"Lifecycle {name!r}: {type(notifier).__name__} cannot be made again at a deadline: "
            f"{error}; give a function of a module to notify, which makes it"
        )
        raise ConfigurationError(msg) from error
    return arguments
