"""Commits of other tools: seen at the next open, refused or adopted on record, never built upon."""

import json
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from airflow_mlops.core.data import retention
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.selection import Selection
from airflow_mlops.core.errors import (
    ConfigurationError,
    ForeignCommitError,
    MlopsError,
    RejectedError,
)
from airflow_mlops.core.refs import DatasetRef

WEEK = timedelta(days=7)


@pytest.fixture
def weeks(labelled_weeks):
    return labelled_weeks()


@pytest.fixture
def store(dataset_store, weeks, append):
    for last in (2, 4):
        append(dataset_store, "d", weeks.source(0, last), f"k{last}")
    append(dataset_store, "d.labels", weeks.label_source(), "k1")
    return dataset_store


def foreign(store, name="d"):
    return DeltaTable(store.log.uri(name))


def newest(store, name="d"):
    return store.open(store.latest(name))


def other_rows(store, **columns):
    """Rows of the dataset, as another tool would write them."""
    rows = foreign(store).to_pyarrow_table().slice(0, 5)
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, [values])
    return rows


CHANGES = {
    "delete": lambda store: foreign(store).delete("id < 100"),
    "update": lambda store: foreign(store).update({"x": "0.0"}, predicate="id = 7"),
    "append": lambda store: write_deltalake(
        store.log.uri("d"), other_rows(store, id=pa.array(range(9000, 9005))), mode="append"
    ),
    "overwrite": lambda store: write_deltalake(
        store.log.uri("d"), other_rows(store), mode="overwrite"
    ),
    "restore": lambda store: foreign(store).restore(1),
    "a delete, and a vacuum": lambda store: (
        foreign(store).delete("id < 100"),
        foreign(store).vacuum(0, dry_run=False, enforce_retention_duration=False),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
class TestRowsChangedByAnotherTool:
    def test_are_named_and_not_built_upon(self, store, weeks, append, change):
        change(store)
        with pytest.raises(ForeignCommitError, match=r"since d@2: version 3 [A-Z]+ by delta-rs"):
            append(store, "d", weeks.source(), "k8")
        with pytest.raises(ForeignCommitError, match=r"rows\), \d+ removed .* `airflow mlops adop"):
            store.latest("d")
        with pytest.raises(ForeignCommitError, match="airflow mlops restore d@2"):
            store.open(DatasetRef("d", foreign(store).version()))

    def test_leave_older_versions_as_they_were(self, store, weeks, change):
        if "vacuum" in str(change.__code__.co_names):
            return  # the files of the old version are gone
        change(store)
        found = store.open(DatasetRef("d", 2))
        assert found.between().to_arrow().equals(weeks.rows.slice(0, 4 * 168))

    def test_are_adopted_once_on_record(self, store, weeks, append, change):
        change(store)
        there = (
            foreign(store).to_pyarrow_table().sort_by([("at", "ascending"), ("id", "ascending")])
        )
        commit = store.adopt("d", author="ann")
        found = newest(store)
        assert (commit.author, commit.rows, found.rows) == ("ann", len(there), len(there))
        assert commit.added == len(there) - 4 * 168
        assert commit.origin.startswith("adopted commits of another tool: version 3 ")
        assert found.between().to_arrow().equals(there.select(found.schema.names))
        found.verify()
        assert found.between().profile().rows == len(there)
        entry = next(store.log.entries(foreign(store)))
        assert json.loads(entry["mlops.foreign"])["commits"][0]["version"] == 3
        assert store.adopt("d") is None
        assert append(store, "d", weeks.source(), "k8").rows > commit.rows

    def test_are_adopted_by_a_store_that_is_told_to(self, store, weeks, append, change):
        change(store)
        there = len(foreign(store).to_pyarrow_table())
        trusting = DatasetStore(store.root, foreign="adopt")
        assert newest(trusting).rows == there
        newest(store).verify()

    def test_go_when_a_version_is_restored(self, store, weeks, change):
        if "vacuum" in str(change.__code__.co_names):
            return
        change(store)
        commit = store.restore(DatasetRef("d", 2), app_key="back")
        assert newest(store).between().to_arrow().equals(weeks.rows.slice(0, 4 * 168))
        assert commit.rows == 4 * 168


HARMLESS = {
    "compaction": lambda store: foreign(store).optimize.compact(),
    "z-order": lambda store: foreign(store).optimize.z_order(["x"]),
    "a compaction, and a vacuum": lambda store: (
        foreign(store).optimize.compact(),
        foreign(store).vacuum(0, dry_run=False, enforce_retention_duration=False),
    ),
    "a checkpoint": lambda store: foreign(store).create_checkpoint(),
    "a vacuum": lambda store: foreign(store).vacuum(
        0, dry_run=False, enforce_retention_duration=False
    ),
    "a property": lambda store: foreign(store).alter.set_table_properties(
        {"delta.appendOnly": "false"}
    ),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_leaves_the_rows_as_they_are_is_accepted(store, weeks, append, change):
    change(store)
    found = newest(store)
    assert found.between().to_arrow().equals(weeks.rows.slice(0, 4 * 168))
    found.verify()
    versions = foreign(store).version()
    assert (newest(store).ref, foreign(store).version()) == (found.ref, versions)  # looked at once
    assert append(store, "d", weeks.source(0, 5), "k5").added == 168
    newest(store).verify()


def test_a_column_that_another_tool_added_is_a_change(store):
    import deltalake

    field = deltalake.Field("z", deltalake.schema.PrimitiveType("double"))
    foreign(store).alter.add_columns([field])
    with pytest.raises(ForeignCommitError, match=r"ADD COLUMN .* columns changed"):
        store.latest("d")
    assert store.adopt("d").rows == 4 * 168
    newest(store).verify()


def test_a_claim_that_nothing_changed_is_not_believed(store):
    path = Path(store.log.uri("d"), "_delta_log", f"{3:020}.json")
    foreign(store).delete("id < 100")
    path.write_text(path.read_text().replace('"dataChange":true', '"dataChange":false'))
    with pytest.raises(ForeignCommitError):
        store.latest("d")


def test_gc_leaves_what_a_foreign_compaction_made_readable(store, weeks, monkeypatch):
    monkeypatch.setattr(retention, "SHORTEST", timedelta(0))
    foreign(store).optimize.compact()
    retention.remove(store, "d", keep=[], older=timedelta(0), why="old")
    found = newest(store)
    assert found.between().to_arrow().equals(weeks.rows.slice(0, 4 * 168))
    found.verify()


def test_rows_that_another_tool_wrote_first_are_not_written_over(dataset_store, weeks, append):
    write_deltalake(dataset_store.log.uri("e"), weeks.rows)
    with pytest.raises(RejectedError, match="another tool wrote; they would be lost"):
        append(dataset_store, "e", weeks.source())
    assert len(foreign(dataset_store, "e").to_pyarrow_table()) == len(weeks.rows)


def test_a_foreign_commit_that_comes_while_rows_are_read_is_seen(store, weeks, append):
    class Meddling(type(weeks.source())):
        __slots__ = ()

        def read(self, since=None):
            if foreign(store).version() == 2:
                foreign(store).delete("id < 100")
            return super().read(since)

    source = weeks.source()
    with pytest.raises(ForeignCommitError):
        append(store, "d", Meddling(source.table, source.key, source.time), "k8")


def test_an_unknown_answer_to_foreign_commits_is_refused():
    with pytest.raises(ConfigurationError, match=r"foreign_commits 'trust' .* refuse, adopt"):
        DatasetStore("/nowhere", foreign="trust")


def built_upon(store):
    """What an earlier release did: its commit landed on that of another tool."""
    log = Path(store.log.uri("d"), "_delta_log")
    text = (log / f"{2:020}.json").read_text().splitlines()
    (info,) = (line for line in text if "commitInfo" in line)
    foreign(store).delete("id < 100")
    (log / f"{4:020}.json").write_text(info)


def test_a_version_with_other_rows_than_on_record_is_refused(store):
    built_upon(store)
    with pytest.raises(RejectedError, match=r"d@4 has 572 rows in its files, 672 are on record"):
        store.open(DatasetRef("d", 4))


def test_training_reads_the_rows_on_record_or_none(store, weeks):
    since, until = (weeks.rows["at"][i].as_py().isoformat() for i in (0, 3 * 168))
    select = Selection("d@2", "d.labels@1", "up", since, until)
    assert len(select.read(store)) == 3 * 168
    path = Path(foreign(store).file_uris()[0].removeprefix("file://"))
    rows = pq.read_table(path)
    other = pa.array([0.5] * len(rows), pa.float64())
    pq.write_table(rows.set_column(rows.schema.get_field_index("x"), "x", other), path)
    with pytest.raises(RejectedError, match=r"digest|read back"):
        select.read(store)


CUTS = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "garbled": lambda data: b"\xff" * len(data),
    "another kind": lambda data: b"[1]",
    "lacking": lambda data: b"{}",
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize(
    "which", ["sidecar", "profiles", "log", "old log", "tag", "note", "mark", "checkpoint"]
)
def test_stored_bytes_that_are_not_what_was_written_are_an_error_of_a_family(
    store, weeks, append, which, cut
):
    root = Path(store.log.uri("d"))
    store.tag(DatasetRef("d", 2), "paper")
    made = root / "_mlops"
    for folder, name, body in (
        ("under_way", "1.json", {"id": "1", "what": "w", "at": "a"}),
        ("removed", "1.json", {"versions": [1], "at": "a", "why": "w"}),
    ):
        if folder == "under_way" and which != "note":
            continue  # nobody reads what is being forgotten
        (made / folder).mkdir()
        (made / folder / name).write_text(json.dumps(body))
    foreign(store).create_checkpoint()
    entry = next(store.log.entries(foreign(store)))
    path = {
        "sidecar": root / entry["mlops"],
        "profiles": root / f"{entry['mlops']}.profiles",
        "log": root / "_delta_log" / f"{2:020}.json",
        "old log": root / "_delta_log" / f"{1:020}.json",
        "tag": made / "tags" / "paper.json",
        "note": made / "under_way" / "1.json",
        "mark": made / "removed" / "1.json",
        "checkpoint": next(root.glob("_delta_log/*.parquet")),
    }[which]
    path.write_bytes(cut(path.read_bytes()))
    wrong = []
    for ask in (
        lambda: newest(store).between().profiles(),
        lambda: newest(store).between().to_arrow(),
        lambda: store.resolve("d@paper"),
        lambda: store.commits("d"),
        lambda: append(store, "d", weeks.source(), "k8"),
        lambda: retention.find_removable(store, "d", keep=[], older=timedelta(days=1)),
    ):
        try:
            ask()
        except MlopsError as error:
            wrong.append(error)
    assert wrong
    if which != "note":
        assert any(isinstance(error, RejectedError) for error in wrong)
