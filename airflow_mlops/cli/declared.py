"""Models as the Dag files declare them."""

from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import conf

from airflow_mlops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow_mlops.lifecycle import Lifecycle


def lifecycles(name: str | None = None) -> "tuple[tuple[Lifecycle, ...], tuple[str, ...]]":
    """
    Read the Lifecycles of Airflow's Dag folder.

    :param name: only the first one of this model; ``None``: all.
    :return: what was found, and why files could not be read.
    """
    from airflow_mlops.lifecycle.files import read_lifecycles

    found: list[Lifecycle] = []
    wrong: list[str] = []
    for path in sorted(Path(conf.get("core", "dags_folder")).rglob("*.py")):
        if "Lifecycle" not in path.read_text("utf-8", errors="replace"):
            continue
        try:
            found += [life for life in read_lifecycles(path) if name in (None, life.name)]
        except ConfigurationError as error:
            wrong.append(str(error))
        if name and found:
            break
    return tuple(found), tuple(wrong)


def declared(name: str, dags: str | None) -> "Lifecycle":
    """
    Find the Dag file that declares a model: the one given, else in the Dag folder.

    :raises ConfigurationError: if none does.
    """
    from airflow_mlops.lifecycle.files import read_lifecycle

    if dags:
        return read_lifecycle(Path(dags), name)
    found, wrong = lifecycles(name)
    if found:
        return found[0]
    failed = f"; {'; '.join(wrong)}" if wrong else ""
    folder = conf.get("core", "dags_folder")
    msg = f"no Dag file in {folder} declares {name!r}: give it with --dags{failed}"
    raise ConfigurationError(msg)
