"""Tags: a name stands for a version, is moved only by consent, and goes without a trace."""

import pytest

from airflow_mlops.core.errors import ConfigurationError, DatasetNotFoundError, RejectedError
from airflow_mlops.core.refs import DatasetRef

ONE, TWO = DatasetRef("d", 1), DatasetRef("d", 2)


@pytest.fixture
def store(dataset_store, labelled_weeks, append):
    append(dataset_store, "d", labelled_weeks().source(0, 3), "a")
    append(dataset_store, "d", labelled_weeks().source(0, 5), "b")
    return dataset_store


def test_a_tag_stands_for_its_version(store):
    made = store.tag(ONE, "audit-1997", by="me")
    assert store.resolve("d@audit-1997") == ONE
    assert store.resolve("d@2") == TWO
    assert store.tags("d") == {"audit-1997": made}
    assert (made.version, made.by) == (1, "me")


def test_tagging_makes_no_version(store):
    store.tag(ONE, "paper")
    assert store.latest("d") == TWO


def test_the_same_tag_again_changes_nothing(store):
    assert store.tag(ONE, "paper", by="me") == store.tag(ONE, "paper", by="you")


def test_a_tag_moves_only_by_consent(store):
    store.tag(ONE, "paper", by="me")
    with pytest.raises(RejectedError, match="'paper' names d@1, by me; to move it, say --move"):
        store.tag(TWO, "paper")
    store.tag(TWO, "paper", move=True)
    assert store.resolve("d@paper") == TWO


def test_a_tag_can_be_taken_away_twice(store):
    store.tag(ONE, "paper")
    store.untag("d", "paper")
    store.untag("d", "paper")
    with pytest.raises(DatasetNotFoundError, match="no tag 'paper' of dataset d; tags: none"):
        store.resolve("d@paper")


@pytest.mark.parametrize("name", ["17", "", "Paper", "a/b", "../x", "a" * 64])
def test_what_may_not_be_a_tag_is_refused(store, name):
    with pytest.raises(ConfigurationError, match="not a tag"):
        store.tag(ONE, name)


def test_neither_versions_nor_datasets_that_are_not_there_can_be_tagged(store):
    with pytest.raises(DatasetNotFoundError, match="the latest version is 2"):
        store.tag(DatasetRef("d", 3), "x")
    with pytest.raises(DatasetNotFoundError, match="no such dataset"):
        store.tags("nothing")
    with pytest.raises(DatasetNotFoundError, match="no such dataset"):
        store.resolve("nothing@x")
    with pytest.raises(ConfigurationError, match="not a dataset reference"):
        store.resolve("D@x")
