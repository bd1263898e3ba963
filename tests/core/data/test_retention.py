"""What a dataset may forget: kept versions stay whole, the others say that they are gone."""

from datetime import timedelta

import pytest

from airflow_mlops.core.data import retention
from airflow_mlops.core.data.retention import find_removable, remove
from airflow_mlops.core.errors import ConfigurationError, DatasetNotFoundError
from airflow_mlops.core.refs import DatasetRef

NOW = timedelta(0)
DAY = timedelta(days=1)


@pytest.fixture
def at_once(monkeypatch):
    """Let what was replaced a moment ago go."""
    monkeypatch.setattr(retention, "SHORTEST", NOW)


@pytest.fixture
def store(dataset_store, labelled_weeks, append):
    """Four versions: each corrects the newest week of the one before."""
    weeks = labelled_weeks()
    for n in range(4):
        values = [v + n for v in weeks.rows["x"].to_pylist()]
        append(dataset_store, "d", weeks.source(0, 3, x=values[: 3 * 168]), f"k{n}")
    return dataset_store


def version(store, number):
    return store.open(DatasetRef("d", number))


@pytest.mark.usefixtures("at_once")
def test_only_looking_changes_nothing(store):
    found = find_removable(store, "d", keep=[2], older=NOW)
    assert found.versions == (1, 3)
    assert len(found.files) == 2
    assert find_removable(store, "d", keep=[2], older=NOW) == found
    for number in (1, 2, 3, 4):
        version(store, number).verify()


@pytest.mark.usefixtures("at_once")
def test_kept_versions_stay_whole_and_the_others_say_that_they_are_gone(store):
    store.tag(DatasetRef("d", 3), "paper")
    found = remove(store, "d", keep=[2], older=NOW, why="not used for 90 days")
    assert (found.versions, found.kept) == ((1,), (2, 3))
    for number in (2, 3, 4):
        version(store, number).verify()
    gone = version(store, 1)
    with pytest.raises(
        DatasetNotFoundError, match=r"rows of d@1 are gone, removed on .* \(not used for 90 days\)"
    ):
        gone.between().to_arrow()
    for read in (gone.verify, lambda: gone.between().rows, lambda: gone.between().batches()):
        with pytest.raises(DatasetNotFoundError, match="d@1 are gone"):
            read()


@pytest.mark.usefixtures("at_once")
def test_what_was_stored_about_a_removed_version_stays(store):
    before = version(store, 1).between().profile()
    remove(store, "d", keep=[], older=NOW, why="test")
    gone = version(store, 1)
    assert gone.rows == 3 * 168
    assert gone.between().profile().columns["x"].mean == before.columns["x"].mean


@pytest.mark.usefixtures("at_once")
def test_a_removed_version_is_not_restored(store):
    remove(store, "d", keep=[], older=NOW, why="test")
    with pytest.raises(DatasetNotFoundError, match="d@1 are gone"):
        store.restore(DatasetRef("d", 1), app_key="r")
    assert store.latest("d").version == 4


@pytest.mark.usefixtures("at_once")
def test_removing_again_finds_nothing(store):
    remove(store, "d", keep=[2], older=NOW, why="first")
    again = remove(store, "d", keep=[2], older=NOW, why="second")
    assert (again.versions, again.files) == ((), ())


@pytest.mark.usefixtures("at_once")
def test_a_kill_after_the_mark_is_finished_by_the_next_call(store, monkeypatch):
    log = type(store.log)
    whole = log.vacuum

    def dies(self, *values, apply):
        if apply:
            raise KeyboardInterrupt
        return whole(self, *values, apply=apply)

    monkeypatch.setattr(log, "vacuum", dies)
    with pytest.raises(KeyboardInterrupt):
        remove(store, "d", keep=[], older=NOW, why="test")
    monkeypatch.setattr(log, "vacuum", whole)
    assert "test" in version(store, 1).removed
    found = remove(store, "d", keep=[], older=NOW, why="test")
    assert (found.versions, len(found.files)) == ((), 3)
    assert find_removable(store, "d", keep=[], older=NOW).files == ()
    version(store, 4).verify()


@pytest.mark.usefixtures("at_once")
def test_an_append_goes_on_after_a_removal(store, append, labelled_weeks):
    remove(store, "d", keep=[], older=NOW, why="test")
    commit = append(store, "d", labelled_weeks().source(0, 5), "later")
    version(store, DatasetRef.parse(commit.ref).version).verify()
    assert commit.rows == 5 * 168


def test_what_is_young_stays(store):
    assert find_removable(store, "d", keep=[], older=DAY).files == ()
    with pytest.raises(ConfigurationError, match="younger than 1 day, 0:00:00 always stays"):
        find_removable(store, "d", keep=[], older=timedelta(hours=23))


def test_versions_of_appends_alone_need_all_their_files(dataset_store, labelled_weeks, append):
    for n in range(1, 5):
        append(dataset_store, "d", labelled_weeks().source(0, n), f"k{n}")
    found = find_removable(dataset_store, "d", keep=[], older=DAY)
    assert (found.versions, found.files) == ((), ())
    with pytest.raises(DatasetNotFoundError, match="no such dataset"):
        find_removable(dataset_store, "e", keep=[], older=DAY)


@pytest.mark.usefixtures("at_once")
def test_a_tag_given_meanwhile_is_honoured(store, monkeypatch):
    mark, ref = retention.mark_removed, DatasetRef("d", 1)

    def tagged(*values):
        monkeypatch.setattr(retention, "mark_removed", mark)
        store.tag(ref, "paper")
        return mark(*values)

    monkeypatch.setattr(retention, "mark_removed", tagged)
    found = remove(store, "d", keep=[], older=NOW, why="test")
    assert 1 not in found.versions
    version(store, 1).verify()
    with pytest.raises(DatasetNotFoundError, match="d@2 are gone"):
        store.tag(DatasetRef("d", 2), "late")


@pytest.mark.usefixtures("at_once")
def test_an_append_meanwhile_is_no_trouble(store, append, labelled_weeks, monkeypatch):
    log = type(store.log)
    whole = log.vacuumed

    def overlapped(self, *values):
        monkeypatch.setattr(log, "vacuumed", whole)
        table = store.log.get("d")
        append(store, "d", labelled_weeks().source(0, 4), "meanwhile")
        monkeypatch.setattr(log, "get", lambda self, name: table)
        try:
            return whole(self, *values)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(log, "vacuumed", overlapped)
    assert not log.vacuumed(store.log, "d", (), NOW)
    monkeypatch.setattr(retention, "SHORTEST", NOW)
    remove(store, "d", keep=[], older=NOW, why="test")
    version(store, store.latest("d").version).verify()
