"""An engine with no statistics: compares row counts. For tests and dry runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.monitoring.drift.report import ColumnDrift

if TYPE_CHECKING:
    from airflow_mlops.core.data.tables import Slice


def compare(
    reference: "Slice", current: "Slice", columns: Sequence[str], *, alpha: float
) -> tuple[ColumnDrift, ...]:
    """Call a column drifted when a window holds more than half as many rows more, or fewer."""
    usual = sum(w.rows for w in reference.windows()) / len(reference.windows())
    rows = sum(w.rows for w in current.windows()) / len(current.windows())
    effect = min(abs(rows - usual) / max(usual, 1), 1.0)
    drifted = effect > 0.5
    p = 0.0 if drifted else 1.0
    reason = f"{rows:.0f} rows a window instead of {usual:.0f}" if drifted else ""
    return tuple(ColumnDrift(c, "row count", effect, 0.5, p, drifted, reason) for c in columns)
