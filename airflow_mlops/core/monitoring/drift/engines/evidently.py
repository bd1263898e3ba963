"""Evidently's default tests, for frames that fit in memory: the reference of our own verdict."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.drift.report import ColumnDrift

if TYPE_CHECKING:
    import pandas as pd

    from airflow_mlops.core.data.tables import Slice


def compare(
    reference: "Slice", current: "Slice", columns: Sequence[str], *, alpha: float
) -> tuple[ColumnDrift, ...]:
    """
    Run Evidently's data drift preset.

    Its decision is its own: ``alpha`` is not honoured, and ``p_value`` is 0 or 1.

    :raises ConfigurationError: if Evidently left a column out; it does so silently.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    frames = [_frame(part, columns) for part in (reference, current)]
    numeric = [c for c in columns if frames[0][c].dtype.kind == "f"]
    other = [c for c in columns if c not in numeric]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=other)
    before, now = (Dataset.from_pandas(f, data_definition=definition) for f in frames)
    result = Report([DataDriftPreset()]).run(now, before).dict()
    found = {m["config"]["column"]: m for m in result["metrics"] if "column" in m.get("config", {})}
    left_out = [c for c in columns if c not in found]
    if left_out:
        msg = f"Evidently left out {', '.join(left_out)}: compare them with engine 'profile'"
        raise ConfigurationError(msg)
    return tuple(_column(name, found[name]) for name in columns)


def report_html(reference: "Slice", current: "Slice", columns: Sequence[str]) -> str:
    """
    Return Evidently's own report as one page of HTML, of some megabytes.

    Evidently writes names and values into its page as they are, so it is given neither: columns
    have other names meanwhile, texts are escaped. Its scripts still run: show the page as a file or
    in a sandbox, never from the address of Airflow.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    stand_ins = {name: f"mlopscolumn{i:05}" for i, name in enumerate(columns)}
    frames = [_frame(part, columns).rename(columns=stand_ins) for part in (reference, current)]
    numeric = [c for c in stand_ins.values() if frames[0][c].dtype.kind == "f"]
    other = [c for c in stand_ins.values() if c not in numeric]
    for frame in frames:
        frame[other] = frame[other].map(_harmless, na_action="ignore")
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=other)
    before, now = (Dataset.from_pandas(f, data_definition=definition) for f in frames)
    page = str(Report([DataDriftPreset()]).run(now, before).get_html_str(as_iframe=False))
    for name, stand_in in stand_ins.items():
        page = page.replace(stand_in, _harmless(name))
    return page


def _harmless(value: object) -> str:
    """Escape a text for HTML and for a string of JavaScript, both of which it may end up in."""
    escaped = html.escape(str(value)).replace("\\", "&#92;").replace("`", "&#96;")
    return "".join(c if c.isprintable() else "?" for c in escaped)


def _frame(part: "Slice", columns: Sequence[str]) -> "pd.DataFrame":
    """Give every column a type that Evidently tests: double, or text."""
    frame = part.to_arrow(columns).to_pandas()
    for name in columns:
        number = frame[name].dtype.kind in "iuf"
        frame[name] = frame[name].astype("float64" if number else "object")
    return frame  # type: ignore[no-any-return]


def _column(name: str, metric: Any) -> ColumnDrift:
    value, threshold = float(metric["value"]), float(metric["config"]["threshold"])
    method = str(metric["config"]["method"])
    drifted = value < threshold if "p_value" in method else value >= threshold
    reason = f"{method} {value:.3g}, threshold {threshold:g}" if drifted else ""
    return ColumnDrift(name, method, value, threshold, 0.0 if drifted else 1.0, drifted, reason)
