"""Restoring a version: its rows are the newest again, nothing is lost, and only one can win."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.refs import DatasetRef

ONE, TWO = DatasetRef("d", 1), DatasetRef("d", 2)


@pytest.fixture
def store(dataset_store, labelled_weeks, append):
    weeks = labelled_weeks()
    append(dataset_store, "d", weeks.source(0, 3), "a")
    values = [v * 100 for v in weeks.rows["x"].to_pylist()]
    append(dataset_store, "d", weeks.source(0, 5, x=values[: 5 * 168]), "b")
    return dataset_store


def test_a_restored_version_has_the_rows_of_the_earlier_one(store):
    commit = store.restore(ONE, app_key="r", author="me", run="by hand")
    assert (commit.ref, commit.rows, commit.added) == ("d@3", 504, -336)
    assert (commit.author, commit.origin, commit.run) == ("me", "restored from d@1", "by hand")
    restored, before = store.open(DatasetRef.parse(commit.ref)), store.open(ONE)
    assert restored.between().to_arrow().equals(before.between().to_arrow())
    assert restored.digest == before.digest
    restored.verify()
    assert restored.between().profile().rows == 504
    store.open(TWO).verify()


def test_a_retry_gets_the_same_commit(store):
    first = store.restore(ONE, app_key="r")
    assert store.restore(ONE, app_key="r") == first
    assert store.restore(ONE, app_key="another").ref == first.ref  # there already
    assert len(store.commits("d")) == 3


def test_restoring_the_newest_version_changes_nothing(store):
    commit = store.restore(TWO, app_key="r")
    assert (commit.ref, commit.added) == ("d@2", 0)


def test_the_next_append_reads_on_from_the_restored_watermark(store, labelled_weeks, append):
    store.restore(ONE, app_key="r")
    commit = append(store, "d", labelled_weeks().source(0, 4), "c")
    table = store.open(DatasetRef.parse(commit.ref))
    assert (commit.ref, table.rows) == ("d@4", 4 * 168)
    assert table.between().to_arrow().equals(labelled_weeks().rows.slice(0, 4 * 168))
    table.verify()


def test_two_restores_at_once_are_two_versions_or_one(store):
    store.restore(ONE, app_key="first")  # now @1 and @2 differ from the newest, or equal it
    with ThreadPoolExecutor(2) as pool:
        refs = [
            pool.submit(store.restore, ref, app_key=key) for ref, key in ((ONE, "x"), (TWO, "y"))
        ]
        found = {ref.result().ref for ref in refs}
    assert found <= {"d@3", "d@4", "d@5"}
    newest = store.open(store.latest("d"))
    assert newest.digest in {store.open(ONE).digest, store.open(TWO).digest}
    newest.verify()


@pytest.mark.parametrize(
    ("version", "says"), [(9, "the latest version is 2"), (0, "not written by")]
)
def test_a_version_that_is_not_there_is_named(store, version, says):
    with pytest.raises(DatasetNotFoundError, match=says):
        store.restore(DatasetRef("d", version), app_key="r")


def test_a_version_whose_files_are_gone_is_not_restored(store):
    gone = {p.split("/")[-1] for p in store.open(ONE).delta.file_uris()}
    for path in gone - {p.split("/")[-1] for p in store.open(TWO).delta.file_uris()}:
        store.log.remove_file(store.log.find("d"), path)
    with pytest.raises(DatasetNotFoundError, match=r"cannot restore version 1.*its rows are gone"):
        store.restore(ONE, app_key="r")
    assert store.latest("d") == TWO
