"""Read the lifecycles that a Dag file declares."""

import runpy
import sys
from pathlib import Path

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.lifecycle.declaration import Lifecycle, declared


def read_lifecycles(path: Path) -> tuple[Lifecycle, ...]:
    """
    Run a Dag file, and return what it declares.

    Its folder and the one above it join ``sys.path``, so that its functions are found as Airflow
    finds them.

    :raises ConfigurationError: if there is no such file, it fails, or it declares no lifecycle.
    """
    if not path.is_file():
        msg = f"no Dag file {path}"
        raise ConfigurationError(msg)
    for folder in (path.resolve().parent, path.resolve().parent.parent, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    found: list[Lifecycle] = []
    token = declared.set(found)
    try:
        runpy.run_path(str(path))
    except Exception as error:  # the file of a user may raise anything
        msg = f"{path} fails: {type(error).__name__}: {error}"
        raise ConfigurationError(msg) from error
    finally:
        declared.reset(token)
    if not found:
        msg = f"{path} declares no Lifecycle(...); Dags wired by hand have no policy to replay"
        raise ConfigurationError(msg)
    return tuple(found)


def read_lifecycle(path: Path, name: str | None = None) -> Lifecycle:
    """
    Return the lifecycle of a Dag file.

    :param name: its name, if the file declares several.
    :raises ConfigurationError: if there is none of that name, or several and no name.
    """
    found = read_lifecycles(path)
    named = [life for life in found if name in (None, life.name)]
    if len(named) != 1:
        known = ", ".join(life.name for life in found)
        msg = f"{path} declares {known}; name one of them (--model, or --policy-model)"
        raise ConfigurationError(msg)
    return named[0]
