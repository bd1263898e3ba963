"""Labelled rows: joined by key, ordered by time, never without a label."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.selection import (
    Selection,
    labelled_until,
    train_and_holdout,
)
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    NotEnoughDataError,
    RejectedError,
)
from airflow_mlops.core.refs import DatasetRef

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture
def weeks(labelled_weeks):
    return labelled_weeks()


@pytest.fixture
def refs(dataset_store, weeks, append):
    data = append(dataset_store, "d", weeks.source())
    labels = append(dataset_store, "d.labels", weeks.label_source(0, 6))
    return data.ref, labels.ref


def selection(refs, first=0, last=8, label="up"):
    span = ((MONDAY + first * WEEK).isoformat(), (MONDAY + last * WEEK).isoformat())
    return Selection(*refs, label, *span)


def test_rows_without_a_label_are_left_out(dataset_store, refs, weeks):
    found = selection(refs).read(dataset_store)
    assert len(found) == 6 * 168
    assert found.rows.equals(weeks.rows.slice(0, 6 * 168))
    assert np.array_equal(found.y, weeks.labels["up"].to_numpy()[: 6 * 168])


@pytest.mark.parametrize(
    ("none", "kind"), [(None, pa.int8()), (float("nan"), pa.float64())], ids=["null", "NaN"]
)
def test_a_missing_label_is_no_label(dataset_store, append, weeks, none, kind):
    up = weeks.labels["up"].to_pylist()
    up[5] = none
    labels = weeks.labels.set_column(2, "up", pa.array(up, kind))
    data = append(dataset_store, "d", weeks.source())
    given = append(dataset_store, "d.labels", ArrowSource(labels, "id", "at"))
    found = selection((data.ref, given.ref)).read(dataset_store)
    assert len(found) == 8 * 168 - 1
    assert 5 not in found.rows["id"].to_pylist()


def test_the_order_is_by_time_however_labels_arrived(dataset_store, refs):
    at = selection(refs).read(dataset_store).rows["at"].to_pylist()
    assert at == sorted(at)


def test_a_slice_keeps_rows_and_labels_together(dataset_store, refs, weeks):
    found = selection(refs).read(dataset_store).slice(10, 20)
    assert found.rows["id"].to_pylist() == list(range(10, 20))
    assert found.y.tolist() == weeks.labels["up"].to_pylist()[10:20]
    assert len(found.slice(4)) == 6
    assert len(found.frame) == 10


def test_a_selection_round_trips_through_json(refs):
    found = selection(refs)
    assert Selection.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_an_unknown_label_column_says_what_there_is(dataset_store, refs):
    with pytest.raises(
        ConfigurationError, match=r"no column 'down' in d.labels@1; it has id, at, up"
    ):
        selection(refs, label="down").read(dataset_store)


def test_a_span_without_labels_says_to_wait(dataset_store, refs):
    with pytest.raises(
        NotEnoughDataError, match=r"no labelled row of d@1 and d.labels@1 .* wait for"
    ):
        selection(refs, 6, 8).read(dataset_store)


def test_an_unknown_version_is_named(dataset_store, refs):
    with pytest.raises(DatasetNotFoundError, match="no dataset d@7"):
        selection(("d@7", refs[1])).read(dataset_store)


def test_keys_of_two_types_are_refused_with_both(dataset_store, append, weeks):
    texts = [str(i) for i in weeks.labels["id"].to_pylist()]
    labels = weeks.labels.set_column(0, "id", pa.array(texts))
    data = append(dataset_store, "d", weeks.source())
    given = append(dataset_store, "d.labels", ArrowSource(labels, "id", "at"))
    with pytest.raises(
        ConfigurationError, match=r"key 'id' is int64 in d@1 and string in d.labels@1"
    ):
        selection((data.ref, given.ref)).read(dataset_store)


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_only_is_refused_with_the_class(dataset_store, append, weeks, value):
    labels = weeks.labels.set_column(2, "up", pa.array([value] * 1344, pa.int8()))
    data = append(dataset_store, "d", weeks.source())
    given = append(dataset_store, "d.labels", ArrowSource(labels, "id", "at"))
    found = selection((data.ref, given.ref)).read(dataset_store)
    with pytest.raises(
        NotEnoughDataError, match=f"only one class in the 1344 labels 'up' .*{value}"
    ):
        found.check_classes()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (pa.array([-1.0, 1.0] * 672), r"-1\.0, 1\.0"),
        (pa.array([0, 2] * 672, pa.int8()), "0, 2"),
        (pa.array([0, 1, 3, 1] * 336, pa.int8()), "0, 1, 3"),
        (pa.array([1, 2, 3, 1] * 336, pa.int8()), "1, 2, 3"),
        (pa.array([0.0, 0.5, 1.0, 2.0] * 336), r"0\.0, 0\.5, 1\.0, 2\.0"),
        (pa.array(["no", "yes"] * 672), "'no', 'yes'"),
        (pa.array(range(1344)), r"0, 1, 2, 3, 4 and 1,339 more"),
    ],
    ids=["signs", "0 and 2", "a gap", "from 1", "halves", "text", "a quantity"],
)
def test_labels_of_classes_are_whole_numbers_from_zero(dataset_store, append, weeks, values, says):
    labels = weeks.labels.set_column(2, "up", values)
    data = append(dataset_store, "d", weeks.source())
    given = append(dataset_store, "d.labels", ArrowSource(labels, "id", "at"))
    found = selection((data.ref, given.ref)).read(dataset_store)
    with pytest.raises(
        ConfigurationError, match=f"label 'up' of d.labels@1 .*: {says}; .*case when"
    ):
        found.check_classes()


@pytest.mark.parametrize("kind", [pa.int8(), pa.float64()], ids=str)
def test_several_classes_pass(dataset_store, append, weeks, kind):
    labels = weeks.labels.set_column(2, "up", pa.array([0, 2, 1] * 448).cast(kind))
    data = append(dataset_store, "d", weeks.source())
    given = append(dataset_store, "d.labels", ArrowSource(labels, "id", "at"))
    found = selection((data.ref, given.ref)).read(dataset_store)
    found.check_classes()
    assert found.classes == 3


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int64(), pa.float64()], ids=str)
def test_zeros_and_ones_of_any_type_pass(dataset_store, append, weeks, kind):
    labels = weeks.labels.set_column(2, "up", pa.array([0, 1] * 672).cast(kind))
    data = append(dataset_store, "d", weeks.source())
    given = append(dataset_store, "d.labels", ArrowSource(labels, "id", "at"))
    found = selection((data.ref, given.ref)).read(dataset_store)
    found.check_classes()
    assert found.y.tolist() == [0, 1] * 672


@pytest.mark.parametrize("side", ["d", "d.labels"])
def test_a_key_that_repeats_in_another_window_is_refused(dataset_store, append, weeks, side):
    tables = {"d": weeks.rows, "d.labels": weeks.labels}
    ids = pa.chunked_array([[*range(7 * 168), *range(7, 11), *range(7 * 168 + 4, 8 * 168)]])
    refs = []
    for name, table in tables.items():
        append(dataset_store, name, ArrowSource(table.slice(0, 7 * 168), "id", "at"), "one")
        if name == side:
            table = table.set_column(0, "id", ids)
        refs.append(append(dataset_store, name, ArrowSource(table, "id", "at"), "two").ref)
    with pytest.raises(
        RejectedError,
        match=f"4 values of key 'id' repeat in {side}@2, such as 7, 8, 9: .* one row per key",
    ):
        selection(refs).read(dataset_store)
    assert len(selection(refs, 1, 8).read(dataset_store)) > 0  # each is there once


def test_a_label_that_was_null_first_is_no_second_label(dataset_store, append, weeks):
    up, ids = weeks.labels["up"].to_pylist(), weeks.labels["id"].to_pylist()
    first = weeks.labels.set_column(2, "up", pa.array([None, *up[1:]], pa.int8()))
    ids[-1] = 0  # the label of row 0, a few windows later
    data = append(dataset_store, "d", weeks.source())
    append(dataset_store, "d.labels", ArrowSource(first.slice(0, 7 * 168), "id", "at"), "one")
    second = first.set_column(0, "id", pa.array(ids))
    given = append(dataset_store, "d.labels", ArrowSource(second, "id", "at"), "two")
    found = selection((data.ref, given.ref)).read(dataset_store)
    assert found.rows["id"].to_pylist() == list(range(8 * 168 - 1))


def test_two_classes_pass(dataset_store, refs):
    selection(refs).read(dataset_store).check_classes()


def test_the_newest_labelled_window_is_held_out(dataset_store, refs):
    data, labels = (dataset_store.open(DatasetRef.parse(r)) for r in refs)
    assert labelled_until(data, labels) == MONDAY + 6 * WEEK
    learn, hold = train_and_holdout(data, labels, label="up", span=3 * WEEK)
    assert (hold.since, hold.until) == (
        (MONDAY + 5 * WEEK).isoformat(),
        (MONDAY + 6 * WEEK).isoformat(),
    )
    assert learn.until == hold.since
    assert learn.since == (MONDAY + 2 * WEEK).isoformat()
    times = learn.read(dataset_store).rows["at"].to_pylist()
    assert max(times) < min(hold.read(dataset_store).rows["at"].to_pylist())


@pytest.mark.parametrize("embargo", [timedelta(hours=1), timedelta(days=2), timedelta(days=9)])
def test_no_row_that_is_learnt_lies_within_the_embargo_of_what_is_held_out(
    dataset_store, refs, embargo
):
    data, labels = (dataset_store.open(DatasetRef.parse(r)) for r in refs)
    plain, _ = train_and_holdout(data, labels, label="up", span=3 * WEEK)
    learn, hold = train_and_holdout(data, labels, label="up", span=3 * WEEK, embargo=embargo)
    first = min(hold.read(dataset_store).rows["at"].to_pylist())
    times = learn.read(dataset_store).rows["at"].to_pylist()
    assert max(times) < first - embargo <= max(times) + timedelta(hours=1)
    assert (learn.since, learn.data) == (plain.since, plain.data)


def test_an_embargo_that_leaves_nothing_to_learn_is_refused(dataset_store, refs):
    data, labels = (dataset_store.open(DatasetRef.parse(r)) for r in refs)
    with pytest.raises(ConfigurationError, match=r"embargo of 21 days.*learn from a longer one"):
        train_and_holdout(data, labels, label="up", span=3 * WEEK, embargo=3 * WEEK)
