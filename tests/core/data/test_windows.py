"""Which windows are complete: what is judged must not change from day to day."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.data.selection import labelled_until, labelled_windows, train_and_holdout
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import ContractBrokenError, NotEnoughDataError
from airflow_mlops.core.refs import DatasetRef

DAY = 24


@pytest.fixture
def fill(dataset_store, labelled_weeks, append):
    """``fill(rows, labels)``: the first so many hours of rows and of labels, as two tables."""
    weeks = labelled_weeks(9)

    def make(rows: int, labels: int = 0):
        found = []
        for name, table, count in (("d", weeks.rows, rows), ("d.labels", weeks.labels, labels)):
            if count:
                source = ArrowSource(table.slice(0, count), "id", "at")
                append(dataset_store, name, source, app_key=f"{name}{count}")
            latest = dataset_store.latest(name)
            found.append(latest and dataset_store.open(latest))
        return found

    return make


@pytest.mark.parametrize(
    ("hours", "complete"),
    [(3 * 168 + DAY, 3), (3 * 168 + 6 * DAY, 3), (4 * 168, 4), (4 * 168 + 1, 4), (168, 0)],
)
def test_a_window_that_still_fills_up_is_not_complete(fill, hours, complete):
    assert len(fill(hours)[0].closed()) == complete


def test_the_holdout_is_the_newest_complete_window_with_its_labels(fill):
    data, labels = fill(7 * 168 + DAY, 6 * 168 + 4)
    assert [w.index for w in labelled_windows(data, labels)] == list(range(6))
    learn, held = train_and_holdout(data, labels, label="up", span=timedelta(days=14))
    assert learn.until == held.since == data.windows()[5].start
    assert held.until == data.windows()[5].end
    assert labelled_until(data, labels).isoformat() == held.until


def test_labels_for_less_than_95_percent_of_a_window_wait(fill):
    data, labels = fill(7 * 168, 6 * 168 + 150)
    assert len(labelled_windows(data, labels)) == 6
    data, labels = fill(7 * 168, 6 * 168 + 160)
    assert len(labelled_windows(data, labels)) == 7


def test_no_complete_labelled_window_is_said(fill):
    data, labels = fill(168, 20)
    with pytest.raises(NotEnoughDataError, match=r"d@1 is labelled in d.labels@1 yet \(20 labels"):
        labelled_until(data, labels)


def test_labels_share_the_windows_of_their_rows(dataset_store, labelled_weeks, append):
    weeks = labelled_weeks(3)
    append(dataset_store, "d", weeks.source())
    rows = dataset_store.open(DatasetRef("d", 1))
    later = ArrowSource(weeks.labels.slice(2 * DAY), "id", "at")
    append(dataset_store, "d.labels", later, windows_from=rows.origin)
    labels = dataset_store.open(DatasetRef("d.labels", 1))
    assert [w.start for w in labels.windows()] == [w.start for w in rows.windows()]


def test_a_time_in_the_future_waits_and_does_not_hide_what_comes_after(
    dataset_store, labelled_weeks, append
):
    rows = labelled_weeks(1).rows.slice(0, 3)
    times = [*rows["at"].to_pylist()[:2], datetime.now(UTC) + timedelta(days=8)]
    rows = rows.set_column(1, "at", pa.array(times, pa.timestamp("us", "UTC")))
    commit = append(dataset_store, "d", ArrowSource(rows, "id", "at"))
    assert (commit.rows, commit.watermark) == (2, times[1].isoformat())


def test_a_new_column_at_the_source_is_left_out_and_said(
    dataset_store, labelled_weeks, append, caplog
):
    weeks = labelled_weeks(2)
    append(dataset_store, "d", weeks.source(0, 1))
    wider = weeks.source(0, 2).table.append_column("extra", pa.array([1] * 336))
    append(dataset_store, "d", ArrowSource(wider, "id", "at"), app_key="k2")
    found = dataset_store.open(DatasetRef("d", dataset_store.latest("d").version))
    assert found.rows == 336
    assert "extra" not in found.schema.names
    assert "column 'extra' is new at the source; left out" in caplog.text
    renamed = wider.rename_columns(["id", "at", "ex", "y", "kind", "extra"])
    with pytest.raises(ContractBrokenError, match="'x' missing"):
        append(dataset_store, "d", ArrowSource(renamed, "id", "at"), app_key="k3")


def test_rows_older_than_where_windows_are_counted_from_are_read_again_too(
    dataset_store, labelled_weeks, append
):
    weeks = labelled_weeks()
    later = datetime(2024, 1, 22, tzinfo=UTC)  # the fourth week
    for n, rows in enumerate((100, 300, 600)):
        part = ArrowSource(weeks.rows.slice(0, rows), "id", "at")
        commit = append(dataset_store, "d", part, f"k{n}", windows_from=later)
        assert commit.rows == rows
    dataset_store.open(DatasetRef.parse(commit.ref)).verify()
