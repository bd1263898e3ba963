"""The seam between the question "did it drift?" and the ways to compute the answer."""

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError
from airflow_mlops.core.monitoring.drift.report import ColumnDrift, DriftReport

if TYPE_CHECKING:
    from airflow_mlops.core.data.tables import Slice

_ROOM = "airflow_mlops.core.monitoring.drift.engines"

ENGINES = {name: f"{_ROOM}.{name}" for name in ("profile", "spark", "evidently", "stub")}
"""Engine name -> module; a module is imported when it is first asked for."""


class DriftEngine(Protocol):
    """
    A module that can compare two slices.

    Every engine passes the same tests: ``tests/core/monitoring/drift/test_engines.py``.
    """

    def compare(
        self, reference: "Slice", current: "Slice", columns: Sequence[str], *, alpha: float
    ) -> tuple[ColumnDrift, ...]:
        """Compare ``columns`` and return all of them, in this order."""
        ...


def detect_drift(
    reference: "Slice",
    current: "Slice",
    *,
    columns: Sequence[str] | None = None,
    ignore: Collection[str] = (),
    engine: str = "profile",
    alpha: float = 0.01,
) -> DriftReport:
    """
    Compare rows with the rows a model was trained on.

    :param reference: the training rows; five windows or more calibrate the verdict on them.
    :param current: the rows in question.
    :param columns: columns to compare; ``None``: all of the reference but key and time.
    :param ignore: columns to leave out, of either.
    :param engine: a key of :data:`ENGINES`.
    :param alpha: rate of false alarms over all columns, 0 to 1.
    :raises ConfigurationError: if the engine or a column is unknown.
    :raises NotEnoughDataError: if there is no whole window to compare.
    """
    table = reference.table
    known = [name for name in table.schema.names if name not in (table.key, table.time)]
    wanted = list(columns) if columns is not None else known
    # what came after the training may be ignored before a champion knows it
    new = [name for name in ignore if name in current.table.schema.names]
    for name in (*wanted, *ignore):
        if name not in known and name not in new:
            msg = f"no column {name!r} to compare in {table.ref}; it has {', '.join(known)}"
            raise ConfigurationError(msg)
    wanted = [name for name in wanted if name not in ignore]
    for part in (reference, current):
        if not part.windows():
            msg = f"no whole window of {part.table.ref} between {part.since} and {part.until}"
            raise NotEnoughDataError(msg)
    found = load_engine(engine).compare(reference, current, wanted, alpha=alpha)
    return DriftReport(str(table.ref), str(current.table.ref), engine, alpha, found)


def load_engine(name: str) -> DriftEngine:
    """
    Import an engine by name.

    :raises ConfigurationError: if no engine has that name.
    """
    try:
        module = ENGINES[name]
    except KeyError:
        msg = f"unknown drift engine {name!r}; known: {', '.join(sorted(ENGINES))}"
        raise ConfigurationError(msg) from None
    return cast("DriftEngine", import_module(module))
