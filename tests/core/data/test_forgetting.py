"""Forgetting: the rows of a person are gone from every version, and all versions stay whole."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.data import profile as profiles
from airflow_mlops.core.data.forgetting import find_rows, forget
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.data.version_log import UNDER_WAY
from airflow_mlops.core.errors import (
    ConfigurationError,
    DatasetNotFoundError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
KEYS = ["person 100", "person 500", "nobody"]


def people(last, shift=0.0):
    """Hourly rows of people, each with a name of their own."""
    n = last * 168
    at = [MONDAY + timedelta(hours=i) for i in range(n)]
    return pa.table(
        {
            "who": [f"person {i}" for i in range(n)],
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "x": [i + shift for i in range(n)],
            "name": [f"name {i}" for i in range(n)],
        }
    )


def without(table, keys=KEYS):
    return table.filter(pc.invert(pc.is_in(table["who"], pa.array(keys))))


DELIVERIES = (people(3), people(3, shift=0.5), people(5, shift=0.5))
"""The second one corrects the newest week of the first."""


@pytest.fixture
def deliver(append):
    def run(store, deliveries, name="d"):
        for n, rows in enumerate(deliveries):
            append(store, name, ArrowSource(rows, "who", "at"), f"k{n}", key="who")
        return store

    return run


@pytest.fixture
def store(dataset_store, deliver):
    return deliver(dataset_store, DELIVERIES)


@pytest.fixture
def never(dataset_store, deliver):
    """The same dataset, had the person never been in it."""
    return deliver(dataset_store, map(without, DELIVERIES), "never")


def versions(store, name="d"):
    return [store.open(DatasetRef(name, v)) for v in (1, 2, 3)]


def assert_never_there(store):
    for found, wanted in zip(versions(store), versions(store, "never"), strict=True):
        found.verify()
        assert found.between().to_arrow().equals(wanted.between().to_arrow())
        assert found.between().rows == found.rows == wanted.rows
        assert [(w.index, w.rows, w.digest) for w in found.windows()] == [
            (w.index, w.rows, w.digest) for w in wanted.windows()
        ]
        assert found.sidecar.commit.digest == wanted.sidecar.commit.digest
        for mine, theirs in zip(
            found.between().profiles(), wanted.between().profiles(), strict=True
        ):
            assert dict(mine.columns["name"].values) == dict(theirs.columns["name"].values)
            x, y = mine.columns["x"], theirs.columns["x"]
            assert (x.rows, x.low, x.high) == (y.rows, y.low, y.high)


def traces(store, text):
    """Files that hold this value, compressed ones opened."""
    return [str(p) for p in Path(store.root, "d").rglob("*") if p.is_file() and text in said(p)]


def said(path):
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pylist())
    if path.suffix == ".profiles":
        columns = [p.columns for p in profiles.from_bytes(path.read_bytes()).values()]
        return str([dict(c[name].values) for c in columns for name in ("who", "name")])
    return path.read_text("utf-8")


@pytest.mark.usefixtures("never")
def test_every_version_is_what_it_were_without_the_rows(store):
    found = forget(store, "d", KEYS)
    assert found.rows == 4  # each is in the first file, and in the one that corrects it
    assert found.versions == (1, 2, 3, 4)  # that it was done is a version, too
    assert store.commits("d")[0].origin == "rows were forgotten on request"
    assert_never_there(store)


def test_no_file_names_the_person_any_more(store):
    assert len(traces(store, "'person 500'")) == len(traces(store, "'name 500'")) == 4
    forget(store, "d", KEYS)
    assert traces(store, "person 500") == traces(store, "name 500") == []
    assert len(traces(store, "'person 501'")) == 4


def test_looking_changes_nothing(store):
    before = {p: p.read_bytes() for p in Path(store.root, "d").rglob("*") if p.is_file()}
    found = find_rows(store, "d", KEYS)
    assert (found.rows, found.versions, len(found.files)) == (4, (1, 2, 3), 2)
    assert found.times[0] == (MONDAY + timedelta(hours=100)).isoformat()
    after = {p: p.read_bytes() for p in Path(store.root, "d").rglob("*") if p.is_file()}
    assert before == after


@pytest.mark.usefixtures("never")
def test_forgetting_twice_finds_nothing_more(store):
    forget(store, "d", KEYS)
    again = forget(store, "d", KEYS)
    assert (again.rows, again.versions, again.files) == (0, (), ())
    assert_never_there(store)


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("write", range(1, 16))
def test_a_call_that_is_killed_anywhere_is_finished_by_the_next(store, monkeypatch, write):
    log, count = type(store.log), 0
    whole = log.write_file

    def dies(self, *values):
        nonlocal count
        count += 1
        if count == write:
            raise KeyboardInterrupt
        whole(self, *values)

    monkeypatch.setattr(log, "write_file", dies)
    with pytest.raises(KeyboardInterrupt):
        forget(store, "d", KEYS)
    monkeypatch.setattr(log, "write_file", whole)
    forget(store, "d", KEYS)
    assert_never_there(store)
    assert traces(store, "person 500") == []
    log = store.log
    assert log.list_files(log.find("d"), UNDER_WAY) == []
    stats = [said(p) for p in Path(store.root, "d", "_delta_log").iterdir() if p.suffix == ".json"]
    assert not [text for text in stats if "person 500" in text]


@pytest.mark.parametrize("write", range(3, 16))  # the second one is the note
def test_who_reads_meanwhile_sees_rows_and_digest_that_belong_together(store, monkeypatch, write):
    log, count = type(store.log), 0
    whole = log.write_file
    refused = []

    def watched(self, *values):
        nonlocal count
        count += 1
        if count == write:
            for version in range(1, 4):
                with pytest.raises(UnavailableError, match="rows are forgotten since"):
                    store.open(DatasetRef("d", version))
            refused.append(count)
        whole(self, *values)

    monkeypatch.setattr(log, "write_file", watched)
    forget(store, "d", KEYS)
    assert refused == [write]
    for version in range(1, 5):
        store.open(DatasetRef("d", version)).verify()


ROWS = {
    "to_arrow": lambda part: part.to_arrow(),
    "batches": lambda part: part.batches().read_all(),
    "rows": lambda part: part.rows,
    "profile": lambda part: part.profile(),
    "verify": lambda part: part.table.verify(),
}


@pytest.mark.parametrize("read", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("write", [3, 9, 15])
def test_who_opened_it_before_is_told_to_open_it_again(store, monkeypatch, read, write):
    """Also of a part in which the number of rows is no proof: it begins within a window."""
    log, count = type(store.log), 0
    whole, told = log.write_file, []
    opened = store.open(DatasetRef("d", 3))
    parts = opened.between(), opened.between(MONDAY + timedelta(hours=99))

    def watched(self, *values):
        nonlocal count
        count += 1
        if count == write:
            for part in parts:
                with pytest.raises(UnavailableError, match="rows are forgotten since"):
                    read(part)
                told.append(part)
        whole(self, *values)

    monkeypatch.setattr(log, "write_file", watched)
    forget(store, "d", KEYS)
    assert len(told) == 2
    for part in parts:
        with pytest.raises(UnavailableError, match=r"were forgotten on request .* open it again"):
            read(part)
    read(store.open(DatasetRef("d", 3)).between())


def test_a_note_that_is_gone_when_it_is_read_blames_nobody(store, monkeypatch):
    log = type(store.log)
    whole = log.list_files

    def listed(self, table, folder):
        monkeypatch.setattr(log, "list_files", whole)
        return [f"{folder}/gone.json"]

    monkeypatch.setattr(log, "list_files", listed)
    with pytest.raises(UnavailableError, match="has just ended; try again"):
        store.log.refuse_under_way(store.log.find("d"))


def test_a_call_that_ends_between_log_and_sidecar_blames_nobody(store, monkeypatch):
    log = type(store.log)
    whole = log.newest

    def late(self, table):
        monkeypatch.setattr(log, "newest", whole)
        forget(store, "d", KEYS)
        return whole(self, table)

    monkeypatch.setattr(log, "newest", late)
    store.open(DatasetRef("d", 3)).verify()


def test_an_append_that_began_before_reads_again_and_is_refused_until_it_is_done(
    store, append, monkeypatch
):
    """What it copied from the version before would be wrong afterwards."""
    rows, log = people(6, shift=0.5), type(store.log)
    whole, refused = log.write, []

    def meanwhile(self, *values, **named):
        monkeypatch.setattr(log, "write", whole)
        rewrite = log.renew_checkpoint

        def during(self, table):
            with pytest.raises(UnavailableError, match=r"rows are forgotten since .* same keys"):
                append(store, "d", ArrowSource(rows, "who", "at"), "other", key="who")
            refused.append(True)
            rewrite(self, table)

        monkeypatch.setattr(log, "renew_checkpoint", during)
        forget(store, "d", KEYS)
        monkeypatch.setattr(log, "renew_checkpoint", rewrite)
        whole(self, *values, **named)

    monkeypatch.setattr(log, "write", meanwhile)
    rows = without(rows)
    commit = append(store, "d", ArrowSource(rows, "who", "at"), "later", key="who")
    assert (commit.ref, refused) == ("d@5", [True])
    for version in range(1, 6):
        store.open(DatasetRef("d", version)).verify()
    assert traces(store, "person 500") == []


def test_others_are_not_forgotten_until_a_call_that_was_killed_is_finished(store, monkeypatch):
    log = type(store.log)
    whole = log.renew_checkpoint

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "renew_checkpoint", dies)
    with pytest.raises(KeyboardInterrupt):
        forget(store, "d", ["person 99"])
    monkeypatch.setattr(log, "renew_checkpoint", whole)
    with pytest.raises(UnavailableError, match="rows are forgotten since"):
        forget(store, "d", ["person 50"])
    with pytest.raises(UnavailableError, match="rows are forgotten since"):
        store.restore(DatasetRef("d", 1), app_key="r")
    forget(store, "d", ["person 99"])
    forget(store, "d", ["person 50"])
    for version in range(1, 6):
        table = store.open(DatasetRef("d", version))
        table.verify()
        assert not {"person 50", "person 99"} & {*table.between().to_arrow()["who"].to_pylist()}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x1c", "\n", "\r"], ids=ascii)
def test_a_text_with_a_line_separator_is_no_hindrance(dataset_store, append, separator):
    rows = people(3)
    texts = [f"{separator}a{i}{separator}b" for i in range(rows.num_rows)]
    rows = rows.set_column(3, "name", [texts])
    append(dataset_store, "d", ArrowSource(rows, "who", "at"), "k", key="who")
    assert forget(dataset_store, "d", ["person 5"]).rows == 1
    for version in (1, 2):
        table = dataset_store.open(DatasetRef("d", version))
        table.verify()
        assert table.rows == rows.num_rows - 1
    assert traces(dataset_store, "person 5'") == []


@pytest.mark.parametrize("kind", ["sidecar", "profiles", "rows"])
def test_nothing_is_begun_if_a_file_is_cut(store, kind):
    folder = Path(store.root, "d")
    log = store.log
    first = next(e for e in log.entries(log.find("d")) if e["version"] == 1)
    owner = log.sidecar(log.find("d"), first).windows[0].owner
    path = {
        "sidecar": folder / first["mlops"],
        "profiles": folder / owner,
        "rows": sorted(folder.glob("*.parquet"))[0],
    }[kind]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(RejectedError, match="bring it back from a backup"):
        forget(store, "d", KEYS)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    path.write_bytes(whole)
    forget(store, "d", KEYS)
    assert traces(store, "person 500") == []


def test_what_an_attempt_that_never_landed_wrote_goes_too(store, append, monkeypatch):
    log = type(store.log)
    whole = log.write

    def dies(self, *values, **named):
        list(values[1])  # all rows have passed, so the sidecar is written
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "write", dies)
    rows = people(6, shift=0.5)
    rows = rows.set_column(0, "who", pa.array([*rows["who"].to_pylist()[:-1], "person 500b"]))
    with pytest.raises(KeyboardInterrupt):
        append(store, "d", ArrowSource(rows, "who", "at"), "later", key="who")
    monkeypatch.setattr(log, "write", whole)
    assert len(traces(store, "person 500b")) == 1
    forget(store, "d", ["person 500"])
    assert traces(store, "person 500b") == []


def test_the_dataset_goes_on(store, append):
    forget(store, "d", KEYS)
    rows = without(people(6, shift=0.5))
    commit = append(store, "d", ArrowSource(rows, "who", "at"), "later", key="who")
    table = store.open(DatasetRef.parse(commit.ref))
    table.verify()
    assert (
        table.between().to_arrow()["who"].to_pylist()
        == without(pa.concat_tables([people(2), rows.slice(2 * 168 - 1)]))["who"].to_pylist()
    )
    restored = store.restore(DatasetRef("d", 1), app_key="r")
    store.open(DatasetRef.parse(restored.ref)).verify()


def test_a_log_with_a_checkpoint_is_corrected_too(dataset_store, append):
    rows = people(1)
    for n in range(105):
        source = ArrowSource(rows.slice(0, n + 1), "who", "at")
        append(dataset_store, "d", source, f"k{n}", key="who")
    log = dataset_store.log
    assert any("checkpoint" in f for f in log.list_files(log.find("d"), "_delta_log"))
    forget(dataset_store, "d", ["person 3"])
    assert any("checkpoint" in f for f in log.list_files(log.find("d"), "_delta_log"))
    for version in (1, 3, 4, 50, 99, 100, 101, 105):
        table = dataset_store.open(DatasetRef("d", version))
        table.verify()
        assert table.rows == table.between().rows == version - (version > 3)
    assert traces(dataset_store, "'person 3'") == traces(dataset_store, '"person 3\\\\"') == []


def test_a_dataset_of_that_person_alone_becomes_empty(dataset_store, append):
    append(dataset_store, "d", ArrowSource(people(1).slice(0, 1), "who", "at"), key="who")
    forget(dataset_store, "d", ["person 0"])
    table = dataset_store.open(DatasetRef("d", 1))
    table.verify()
    assert (table.rows, table.between().to_arrow().num_rows) == (0, 0)


def test_what_cannot_be_a_key_is_refused(dataset_store, labelled_weeks, append):
    append(dataset_store, "n", labelled_weeks().source(0, 1))
    with pytest.raises(ConfigurationError, match=r"key 'id' of n is int64, \['me'\] cannot be"):
        forget(dataset_store, "n", ["me"])
    with pytest.raises(DatasetNotFoundError, match="no such dataset"):
        forget(dataset_store, "nothing", ["1"])
    assert forget(dataset_store, "n", ["3"]).rows == 1
