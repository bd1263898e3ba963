"""Columns that come later: they join by consent, and what was there before stays what it was."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.data.contract import infer_contract
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import ContractBrokenError
from airflow_mlops.core.refs import DatasetRef

WEEK = timedelta(days=7)


@pytest.fixture
def wider(labelled_weeks):
    """``wider(first, last)``: the rows of these weeks, with a column more."""
    weeks = labelled_weeks()

    def rows(first: int, last: int) -> ArrowSource:
        part = weeks.rows.slice(first * 168, (last - first) * 168)
        rain = pa.array([float(i % 7) for i in part["id"].to_pylist()])
        return ArrowSource(part.append_column("rain", rain), "id", "at")

    return rows


@pytest.fixture
def adopted(dataset_store, labelled_weeks, append, wider):
    """A store whose dataset has four weeks without the column, and four with it."""
    append(dataset_store, "d", labelled_weeks().source(0, 4), "a")
    append(dataset_store, "d", wider(0, 8), "b", adopt=["rain"])
    return dataset_store


def test_a_new_column_is_left_out_without_consent(
    dataset_store, labelled_weeks, append, wider, caplog
):
    append(dataset_store, "d", labelled_weeks().source(0, 4), "a")
    commit = append(dataset_store, "d", wider(0, 5), "b")
    table = dataset_store.open(DatasetRef.parse(commit.ref))
    assert "rain" not in table.schema.names
    assert "column 'rain' is new at the source; left out, unless the snapshot adopts it" in (
        caplog.text
    )


def test_a_column_that_is_adopted_is_a_new_version_of_the_contract(adopted):
    before, after = (adopted.open(DatasetRef("d", v)) for v in (1, 2))
    assert (before.sidecar.contract, after.sidecar.contract) == (1, 2)
    assert (after.schema.names[-1], after.sidecar.adopted) == ("rain", {"rain": 2})
    assert before.schema.names == after.schema.names[:-1]


def test_earlier_rows_have_no_value_in_it_and_both_versions_verify(adopted):
    before, after = (adopted.open(DatasetRef("d", v)) for v in (1, 2))
    rain = after.between().to_arrow(["rain"])["rain"]
    assert rain.null_count == 3 * 168  # the fourth week was read again, with the column
    assert (
        before.between()
        .to_arrow()
        .equals(
            after.between(until=before.watermark + timedelta(seconds=1))
            .to_arrow()
            .drop_columns(["rain"])
        )
    )
    before.verify()
    after.verify()
    assert [w.contract for w in after.windows()] == [1, 1, 1, 2, 2, 2, 2, 2]


def test_later_appends_go_on_with_it(adopted, append, wider, labelled_weeks):
    again = append(adopted, "d", wider(0, 8), "c", adopt=["rain"])
    assert (again.ref, again.added) == ("d@2", 0)
    with pytest.raises(ContractBrokenError, match="column 'rain' missing"):
        append(adopted, "d", labelled_weeks().source(), "d")


def test_profiles_of_all_windows_add_up(adopted):
    profile = adopted.open(DatasetRef("d", 2)).between().profile()
    rain = profile.columns["rain"]
    assert (rain.rows, rain.missing) == (8 * 168, 3 * 168)
    assert rain.mean == pytest.approx(sum(i % 7 for i in range(504, 1344)) / 840)
    rows = {c.rows for c in profile.columns.values()}
    assert rows == {8 * 168}


def test_a_contract_over_rows_without_it_allows_nulls(adopted):
    table = adopted.open(DatasetRef("d", 2))
    columns = {c.name: c for c in infer_contract(table.schema, table.between().profile()).columns}
    assert columns["rain"].nullable
    assert not columns["x"].nullable


def test_a_second_column_shares_centres_with_its_own_kind(adopted, append, wider):
    more = wider(0, 8).table.append_column("snow", pa.array([0.5] * 1344))
    commit = append(adopted, "d", ArrowSource(more, "id", "at"), "c", adopt=["rain", "snow"])
    table = adopted.open(DatasetRef.parse(commit.ref))
    assert table.sidecar.adopted == {"rain": 2, "snow": 3}
    assert [w.contract for w in table.windows()] == [1, 1, 1, 2, 2, 2, 2, 3]
    assert table.between().profile().columns["snow"].missing == 7 * 168
    table.verify()


def test_a_column_to_adopt_that_is_not_offered_yet_is_named(
    dataset_store, labelled_weeks, append, caplog
):
    append(dataset_store, "d", labelled_weeks().source(0, 4), "a", adopt=["rain"])
    append(dataset_store, "d", labelled_weeks().source(0, 5), "b", adopt=["rain"])
    assert "no column 'rain' to adopt at the source yet; it has id, at, x, y, kind" in caplog.text


def test_consent_does_not_cover_a_column_that_is_retyped(dataset_store, labelled_weeks, append):
    weeks = labelled_weeks()
    append(dataset_store, "d", weeks.source(0, 4), "a")
    text = weeks.rows.set_column(2, "x", weeks.rows["x"].cast(pa.string()))
    with pytest.raises(ContractBrokenError, match="'x' retyped: expected number, found string"):
        append(dataset_store, "d", ArrowSource(text, "id", "at"), "b", adopt=["x"])


def test_restoring_takes_the_column_away_again(adopted, append, wider):
    commit = adopted.restore(DatasetRef("d", 1), app_key="r", author="me", run="by hand")
    table = adopted.open(DatasetRef.parse(commit.ref))
    assert (table.sidecar.contract, "rain" in table.schema.names) == (1, False)
    table.verify()
    again = append(adopted, "d", wider(0, 8), "c", adopt=["rain"])
    table = adopted.open(DatasetRef.parse(again.ref))
    assert table.sidecar.adopted == {"rain": 2}
    table.verify()


def test_the_query_is_stored_with_its_hash(dataset_store, labelled_weeks, append):
    commit = append(dataset_store, "d", labelled_weeks().source(0, 4), "a")
    assert commit.query == "672 rows in memory"
    assert len(commit.query_hash) == 16
    later = append(dataset_store, "d", labelled_weeks().source(), "b")
    assert later.query_hash != commit.query_hash
    assert DatasetStore(dataset_store.root).commits("d") == (later, commit)
    assert datetime.fromisoformat(later.created_at).tzinfo == UTC
