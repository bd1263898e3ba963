"""The engine for tables of any size: compares stored profiles, and never reads a row."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.data.profile import Profile
from airflow_mlops.core.monitoring.drift.report import ColumnDrift
from airflow_mlops.core.monitoring.drift.verdict import calibrate, judge

if TYPE_CHECKING:
    from airflow_mlops.core.data.tables import Slice


def compare(
    reference: "Slice", current: "Slice", columns: Sequence[str], *, alpha: float
) -> tuple[ColumnDrift, ...]:
    """Judge every column against a null that the reference's own windows calibrate."""
    past = [_only(profile, columns) for profile in reference.profiles()]
    return judge(calibrate(past), _only(current.profile(), columns), columns, alpha=alpha)


def _only(profile: Profile, columns: Sequence[str]) -> Profile:
    return Profile({n: c for n, c in profile.columns.items() if n in columns})
