"""Datasets: appended exactly once, read at any version, refused when they do not fit."""

import contextlib
import json
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from airflow_mlops.core.data.commits import Commit, Sidecar
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.digest import digest_of
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import (
    ConfigurationError,
    ContractBrokenError,
    DatasetNotFoundError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.core.refs import DatasetRef

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture
def weeks(labelled_weeks):
    return labelled_weeks()


def table(rows):
    return pa.table(
        {
            "id": pa.array([r[0] for r in rows], pa.int64()),
            "at": pa.array(
                [None if r[1] is None else MONDAY + timedelta(hours=r[1]) for r in rows],
                pa.timestamp("us", "UTC"),
            ),
            "x": pa.array([r[2] for r in rows], pa.float64()),
        }
    )


def source(*rows):
    return ArrowSource(table(rows), "id", "at")


def opened(store, ref):
    return store.open(DatasetRef.parse(str(ref)))


def test_an_append_stores_the_rows_of_the_source(dataset_store, weeks, append):
    commit = append(dataset_store, "d", weeks.source(), author="me", origin="here", run="r1")
    found = opened(dataset_store, commit.ref)
    assert found.between().to_arrow().equals(weeks.rows)
    assert (commit.ref, commit.rows, commit.added) == ("d@1", 1344, 1344)
    assert (commit.author, commit.origin, commit.run) == ("me", "here", "r1")
    assert len(commit.windows) == 8
    found.verify()


def test_the_same_append_key_gives_the_same_commit(dataset_store, weeks, append):
    first = append(dataset_store, "d", weeks.source(0, 4), "a")
    again = append(dataset_store, "d", weeks.source(), "a")
    assert again == first
    assert dataset_store.commits("d") == (first,)


def test_an_append_that_finds_nothing_new_makes_no_version(dataset_store, weeks, append):
    first = append(dataset_store, "d", weeks.source(), "a")
    again = append(dataset_store, "d", weeks.source(), "b")
    assert (again.ref, again.added, again.windows) == (first.ref, 0, ())
    assert len(dataset_store.commits("d")) == 1


def test_appending_week_by_week_equals_appending_all_at_once(dataset_store, weeks, append):
    for last in range(1, 9):
        append(dataset_store, "slow", weeks.source(0, last), f"k{last}")
    slow = dataset_store.open(dataset_store.latest("slow"))
    quick = opened(dataset_store, append(dataset_store, "quick", weeks.source(), "k").ref)
    assert slow.digest == quick.digest
    assert slow.between().to_arrow().equals(quick.between().to_arrow())
    assert [w.digest for w in slow.windows()] == [w.digest for w in quick.windows()]
    one, two = (t.between().profile().columns["x"] for t in (slow, quick))
    assert one.rows == two.rows
    assert one.mean == pytest.approx(two.mean, abs=1e-9)


def test_an_append_writes_only_windows_that_are_new_or_changed(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 4), "a")
    commit = append(dataset_store, "d", weeks.source(0, 5), "b")
    assert [w.index for w in commit.windows] == [4]
    assert commit.added == 168


def test_a_window_that_grows_is_not_written_again(dataset_store, weeks, append):
    for n, rows in enumerate((3 * 168 + 5, 3 * 168 + 9, 4 * 168 + 1)):
        part = ArrowSource(weeks.rows.slice(0, rows), "id", "at")
        commit = append(dataset_store, "d", part, f"k{n}")
        found = opened(dataset_store, commit.ref)
        assert found.between().to_arrow().equals(weeks.rows.slice(0, rows))
        assert len(found.delta.file_uris()) == n + 1
        found.verify()
        assert found.between().profile().rows == rows
    whole = opened(dataset_store, append(dataset_store, "e", part).ref)
    assert [w.digest for w in found.windows()] == [w.digest for w in whole.windows()]


def test_a_window_that_grows_and_changes_is_written_again(dataset_store, weeks, append):
    append(dataset_store, "d", ArrowSource(weeks.rows.slice(0, 173), "id", "at"), "a")
    values = weeks.rows["x"].slice(0, 180).to_pylist()
    for changed in (170, 172):  # the watermark is row 172
        values[changed] += 1
        rows = weeks.rows.slice(0, 180).set_column(2, "x", pa.array(values))
        commit = append(dataset_store, "d", ArrowSource(rows, "id", "at"), f"k{changed}")
        found = opened(dataset_store, commit.ref)
        assert found.between().to_arrow().equals(rows)
        found.verify()
    twin = rows.slice(179, 1).set_column(0, "id", pa.array([10_000]))  # as late as the newest
    rows = pa.concat_tables([rows, twin])
    found = opened(
        dataset_store, append(dataset_store, "d", ArrowSource(rows, "id", "at"), "t").ref
    )
    assert found.between().to_arrow().equals(rows)
    found.verify()


def test_an_old_version_stays_what_it_was(dataset_store, weeks, append):
    first = append(dataset_store, "d", weeks.source(0, 3), "a")
    append(dataset_store, "d", weeks.source(0, 6), "b")
    old = opened(dataset_store, first.ref)
    assert old.rows == 3 * 168
    assert old.between().rows == 3 * 168
    old.verify()


def test_a_late_row_within_the_lateness_replaces_its_window(dataset_store, weeks, append):
    late = weeks.rows.slice(0, 5 * 168)
    early = pa.concat_tables([late.slice(0, 600), late.slice(601)])
    append(dataset_store, "d", ArrowSource(early, "id", "at"), "a")
    commit = append(dataset_store, "d", ArrowSource(late, "id", "at"), "b", lateness=2 * WEEK)
    found = opened(dataset_store, commit.ref)
    assert commit.added == 1
    assert [w.index for w in commit.windows] == [3, 4]
    assert found.between().to_arrow().equals(late)
    found.verify()


def test_a_row_later_than_the_lateness_is_not_looked_for(dataset_store, weeks, append):
    early = pa.concat_tables([weeks.rows.slice(0, 10), weeks.rows.slice(11)])
    append(dataset_store, "d", ArrowSource(early, "id", "at"), "a")
    assert append(dataset_store, "d", weeks.source(), "b", lateness=WEEK).added == 0


def test_a_changed_value_is_a_new_version_of_its_window(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 2), "a")
    values = weeks.rows["x"].slice(0, 336).to_pylist()
    values[-1] = 99.0
    commit = append(dataset_store, "d", weeks.source(0, 2, x=values), "b")
    assert commit.added == 0
    assert [w.index for w in commit.windows] == [1]
    opened(dataset_store, commit.ref).verify()


def test_versions_are_listed_newest_first(dataset_store, weeks, append):
    made = [append(dataset_store, "d", weeks.source(0, n), f"k{n}") for n in (1, 2, 3)]
    assert dataset_store.commits("d") == tuple(reversed(made))
    assert str(dataset_store.latest("d")) == made[-1].ref


def test_a_slice_honours_its_edges(dataset_store, weeks, append):
    found = opened(dataset_store, append(dataset_store, "d", weeks.source()).ref)
    part = found.between(MONDAY + WEEK, MONDAY + 3 * WEEK)
    assert part.rows == 336
    assert part.to_arrow().equals(weeks.rows.slice(168, 336))
    assert part.digest == str(digest_of(weeks.rows.slice(168, 336).to_batches()))
    assert [w.index for w in part.windows()] == [1, 2]
    assert part.profile().rows == 336
    assert len(part.profiles()) == 2


def test_a_slice_reads_only_the_wanted_columns(dataset_store, weeks, append):
    found = opened(dataset_store, append(dataset_store, "d", weeks.source()).ref)
    assert found.between().to_arrow(["kind"]).schema.names == ["kind"]
    assert found.between().batches(["x"]).schema.names == ["x"]


def test_the_windows_of_a_dataset_start_at_its_first_midnight(dataset_store, append):
    commit = append(dataset_store, "d", source((1, 5, 1.0), (2, 30, 2.0)))
    assert commit.windows[0].start == MONDAY.isoformat()
    assert commit.watermark == (MONDAY + timedelta(hours=30)).isoformat()


def test_a_commit_and_its_sidecar_round_trip_through_json(dataset_store, weeks, append):
    commit = append(dataset_store, "d", weeks.source())
    assert Commit.from_dict(json.loads(json.dumps(commit.to_dict()))) == commit
    sidecar = opened(dataset_store, commit.ref).sidecar
    assert Sidecar.from_json(sidecar.to_json().encode()) == sidecar


def test_more_versions_than_the_recent_history_are_still_found(dataset_store, append):
    rows = [(i, i * 24, float(i)) for i in range(20)]
    for number in range(1, 20):
        append(dataset_store, "d", source(*rows[:number]), f"k{number}", window=timedelta(days=1))
    assert opened(dataset_store, "d@1").rows == 1
    assert append(dataset_store, "d", source(*rows), "k1").ref == "d@1"
    assert len(dataset_store.commits("d")) == 19


# what does not fit is refused, and the message says how to go on


def test_an_empty_source_is_refused_and_may_be_tried_again(dataset_store, append):
    with pytest.raises(RejectedError, match=r"^d: the source is empty"):
        append(dataset_store, "d", source(), "a")
    assert dataset_store.latest("d") is None
    assert append(dataset_store, "d", source((1, 0, 1.0)), "a").rows == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None], ids=str)
def test_values_that_are_no_numbers_are_stored_as_they_are(dataset_store, append, value):
    commit = append(dataset_store, "d", source((1, 0, value), (2, 1, 3.0)))
    found = opened(dataset_store, commit.ref)
    found.verify()
    assert repr(found.between().to_arrow()["x"][0].as_py()) == repr(value)


def test_a_key_that_repeats_is_named_with_its_values(dataset_store, append):
    rows = source((1, 0, 1.0), (7, 1, 1.0), (7, 200, 1.0))
    with pytest.raises(
        RejectedError, match="1 values of key 'id' repeat, such as 7; name a column"
    ):
        append(dataset_store, "d", rows)
    assert dataset_store.latest("d") is None


def test_a_row_without_a_time_is_named_by_its_key(dataset_store, append):
    with pytest.raises(RejectedError, match="d: 1 rows have no time, such as 8"):
        append(dataset_store, "d", source((1, 0, 1.0), (8, None, 1.0)))


def test_a_row_without_a_key_is_named_by_its_time(dataset_store, append):
    with pytest.raises(RejectedError, match="1 rows have no key, such as 2024-01-01 01:00"):
        append(dataset_store, "d", source((1, 0, 1.0), (None, 1, 1.0)))


def test_a_renamed_column_breaks_the_contract_and_nothing_is_written(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 2), "a")
    renamed = ArrowSource(weeks.rows.rename_columns({"kind": "sort"}), "id", "at")
    with pytest.raises(ContractBrokenError) as caught:
        append(dataset_store, "d", renamed, "b")
    assert "'kind' missing" in str(caught.value)
    assert "renamed to 'sort'?" in str(caught.value)
    assert "Correct the delivery and clear the task" in str(caught.value)
    assert len(dataset_store.commits("d")) == 1


def test_a_retyped_column_breaks_the_contract(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 2), "a")
    texts = [f"{x} MW" for x in weeks.rows["x"].to_pylist()]
    with pytest.raises(ContractBrokenError, match="'x' retyped: expected number, found string"):
        append(dataset_store, "d", weeks.source(x=texts), "b")


def test_a_corrected_delivery_succeeds_under_the_same_key(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 2), "a")
    with pytest.raises(ContractBrokenError):
        append(dataset_store, "d", weeks.source(x=["?"] * 1344), "b")
    assert append(dataset_store, "d", weeks.source(), "b").added == 6 * 168


def test_a_value_too_large_for_its_column_is_refused(dataset_store, append):
    small = table([(1, 0, 1.0)]).append_column("n", pa.array([1], pa.int8()))
    append(dataset_store, "d", ArrowSource(small, "id", "at"), "a")
    large = table([(1, 0, 1.0), (2, 1, 1.0)]).append_column("n", pa.array([1, 1000]))
    with pytest.raises(RejectedError, match="column 'n' does not fit int8"):
        append(dataset_store, "d", ArrowSource(large, "id", "at"), "b")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"time": "nope"}, "d: no column 'nope' in the source; it has id, at, x"),
        ({"key": "nope"}, "d: no column 'nope' in the source; it has id, at, x"),
        ({"time": "x"}, "'x' is double, it has to be a timestamp; offer it as one"),
        ({"window": timedelta(0)}, "window of 0:00:00 is too short; it lasts a second or more"),
    ],
)
def test_a_first_request_that_cannot_work_says_what_there_is(dataset_store, append, asked, says):
    with pytest.raises(ConfigurationError) as caught:
        append(dataset_store, "d", source((1, 0, 1.0)), **asked)
    assert says in str(caught.value)


@pytest.mark.parametrize("asked", [{"window": 2 * WEEK}, {"key": "x"}, {"time": "x"}], ids=str)
def test_what_the_first_commit_fixed_cannot_be_changed(dataset_store, append, asked):
    append(dataset_store, "d", source((1, 0, 1.0)), "a")
    with pytest.raises(ConfigurationError, match="fixed with the first commit; use another"):
        append(dataset_store, "d", source((1, 0, 1.0), (2, 1, 1.0)), "b", **asked)


@pytest.mark.parametrize(
    "name",
    ["../outside", "a/b", "Upper", "a b", "a;drop", "a'b", 'a"b', "a\0b", "", "ä", "a🙂", "d@1"],
    ids=ascii,
)
def test_a_hostile_name_is_refused_before_anything_is_written(dataset_store, append, name):
    root = Path(dataset_store.root)
    with pytest.raises(ConfigurationError) as caught:
        append(dataset_store, name, source((1, 0, 1.0)))
    assert repr(name)[1:-1] in str(caught.value)
    assert not root.exists()
    assert not (root.parent / "outside").exists()


@pytest.mark.parametrize(
    "column", ['say "x"', "a'b", "x; drop table d", "ü🙂", "a" * 64, "with space"]
)
def test_a_hostile_column_name_is_only_a_name(dataset_store, append, column):
    rows = table([(1, 0, 1.0), (2, 24, 2.0)]).rename_columns(["id", "at", column])
    first = append(dataset_store, "d", ArrowSource(rows.slice(0, 1), "id", "at"), "a")
    commit = append(dataset_store, "d", ArrowSource(rows, "id", "at"), "b", lateness=WEEK)
    assert first.rows == 1
    assert opened(dataset_store, commit.ref).between().to_arrow().equals(rows)


def test_a_hostile_time_column_is_quoted_in_the_predicate(dataset_store, append):
    rows = table([(1, 0, 1.0), (2, 24, 2.0)]).rename_columns(["id", 'at "; drop', "x"])
    asked = {"time": 'at "; drop', "lateness": WEEK}
    append(dataset_store, "d", ArrowSource(rows.slice(0, 1), "id", 'at "; drop'), "a", **asked)
    commit = append(dataset_store, "d", ArrowSource(rows, "id", 'at "; drop'), "b", **asked)
    assert commit.rows == 2
    opened(dataset_store, commit.ref).verify()


@pytest.mark.parametrize("ref", ["d@9", "other@1"])
def test_a_version_that_does_not_exist_says_what_there_is(dataset_store, append, ref):
    append(dataset_store, "d", source((1, 0, 1.0)))
    says = "the latest version is 1" if ref == "d@9" else "no such dataset"
    with pytest.raises(DatasetNotFoundError, match=f"no dataset {ref} below .*: {says}"):
        opened(dataset_store, ref)


def test_the_empty_version_before_the_first_commit_is_no_version(dataset_store, append):
    append(dataset_store, "d", source((1, 0, 1.0)))
    with pytest.raises(DatasetNotFoundError, match=r"d@0 .* was not written by airflow_mlops"):
        opened(dataset_store, "d@0")


def test_a_time_without_zone_is_refused(dataset_store, append):
    found = opened(dataset_store, append(dataset_store, "d", source((1, 0, 1.0))).ref)
    with pytest.raises(ConfigurationError, match=r"no time zone; say datetime\(..., tzinfo=UTC\)"):
        found.between(datetime(2024, 1, 1))  # noqa: DTZ001


def test_changed_rows_are_found_by_the_digest(dataset_store, append, weeks):
    import pyarrow.parquet as pq

    commit = append(dataset_store, "d", weeks.source())
    (file,) = Path(dataset_store.root, "d").glob("*.parquet")
    size, rows = file.stat().st_size, pq.read_table(file)
    pq.write_table(rows.set_column(2, "x", pa.array([0.0] * len(rows))), file)
    log = Path(dataset_store.root, "d", "_delta_log", f"{1:020}.json")
    log.write_text(log.read_text().replace(f'"size":{size}', f'"size":{file.stat().st_size}'))
    with pytest.raises(
        RejectedError, match=r"rows of d@1 have digest ctd1-.*the commit says ctd1-"
    ):
        opened(dataset_store, commit.ref).verify()


def test_a_lost_or_cut_file_is_found(dataset_store, append, weeks):
    commit = append(dataset_store, "d", weeks.source())
    (file,) = Path(dataset_store.root, "d").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        RejectedError, match=r"rows of d@1 cannot be read back.*bring the file back"
    ):
        opened(dataset_store, commit.ref).verify()
    file.unlink()
    with pytest.raises(RejectedError, match="rows of d@1 cannot be read back"):
        opened(dataset_store, commit.ref).verify()


def test_a_store_that_is_no_folder_is_unavailable(tmp_path, append):
    (tmp_path / "file").write_text("")
    store = DatasetStore(str(tmp_path / "file" / "below"))
    with pytest.raises(UnavailableError, match="dataset"):
        append(store, "d", source((1, 0, 1.0)))


def test_a_store_that_does_not_answer_is_unavailable(append):
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "hidden-id",
        "AWS_SECRET_ACCESS_KEY": "hidden-secret",
        "AWS_REGION": "none",
        "max_retries": "0",
        "retry_timeout": "1s",
    }
    store = DatasetStore("s3://bucket/root", options)
    with pytest.raises(UnavailableError, match=r"s3://bucket/root") as caught:
        store.latest("d")
    assert "hidden-secret" not in str(caught.value)
    assert "hidden" not in repr(store)


def test_a_dataset_deleted_outside_is_named(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 3))
    table = opened(dataset_store, "d@1")
    shutil.rmtree(Path(dataset_store.root, "d"))
    with pytest.raises(DatasetNotFoundError, match=r"no dataset d@1 below .*: no such dataset"):
        opened(dataset_store, "d@1")
    with pytest.raises(
        RejectedError, match=r"d@1 cannot be read back.*a backup|is gone: bring .* a backup"
    ):
        table.between().to_arrow()
    assert dataset_store.latest("d") is None


def test_a_commit_whose_sidecar_was_deleted_is_named(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 3))
    shutil.rmtree(Path(dataset_store.root, "d", "_mlops"))
    with pytest.raises(RejectedError, match=r"_mlops/.* of .*/d.* is gone: bring it back"):
        opened(dataset_store, "d@1")


def test_a_version_opens_as_frame_and_as_relation(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source())
    part = opened(dataset_store, "d@1").between(MONDAY + WEEK, MONDAY + 2 * WEEK)
    frame = part.to_pandas(["id", "x"])
    assert list(frame.columns) == ["id", "x"]
    assert frame["id"].tolist() == list(range(168, 336))
    with duckdb.connect() as connection:
        relation = part.to_duckdb(connection)
        assert relation.aggregate("count(*), min(id), max(id)").fetchall() == [(168, 168, 335)]
        rows = opened(dataset_store, "d@1").between().to_duckdb(connection)
        assert rows.filter("kind = 'a'").aggregate("count(*)").fetchall()[0][0] == (
            weeks.rows["kind"].to_pylist().count("a")
        )


def test_sidecars_grow_with_what_changed_and_are_read_from_any_version(dataset_store, append):
    """Many windows, many versions: each names what it changed, and is whole in two reads."""

    def part(rows):
        return source(*((i, 24 * i, float(i)) for i in range(rows)))

    whole = {}
    for rows in (300, *range(301, 360)):
        commit = append(dataset_store, "d", part(rows), f"k{rows}", window=timedelta(days=1))
        whole[commit.ref] = rows
    root = Path(dataset_store.log.uri("d"))
    sidecars = [p for p in (root / "_mlops").iterdir() if p.is_file() and not p.suffix]
    first = max(p.stat().st_size for p in sidecars)
    assert sum(p.stat().st_size for p in sidecars) < 12 * first  # 60 times the whole, before
    for ref, rows in whole.items():
        found = opened(dataset_store, ref)
        assert [w.index for w in found.windows()] == list(range(rows))
        assert found.sidecar.commit.windows
        if rows % 10 == 0:
            found.verify()
    full = {
        found.sidecar.base.path
        for ref in whole
        if (found := opened(dataset_store, ref)).sidecar.base
    }
    assert 1 < len(full) < 10
    assert [c.rows for c in dataset_store.commits("d")] == sorted(whole.values(), reverse=True)


def test_a_sidecar_of_an_earlier_release_is_read_and_built_upon(dataset_store, weeks, append):
    append(dataset_store, "d", weeks.source(0, 4), "a")
    before = opened(dataset_store, "d@1")
    entry = next(dataset_store.log.entries(before.delta))
    windows = [asdict(w) for w in before.windows()]
    commit = {k: v for k, v in before.sidecar.commit.to_dict().items() if k != "corrected"}
    old = json.loads(before.sidecar.to_json()) | {"commit": commit, "windows": windows}
    old.pop("owners")
    dataset_store.log.write_file(before.delta, entry["mlops"], json.dumps(old).encode())
    assert opened(dataset_store, "d@1").sidecar == before.sidecar
    append(dataset_store, "d", weeks.source(0, 5), "b")
    found = opened(dataset_store, "d@2")
    assert found.sidecar.base.path == entry["mlops"]
    found.verify()
    assert found.between().profile().rows == 5 * 168


def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(
    dataset_store, append, labelled_weeks
):
    append(dataset_store, "d", labelled_weeks(1).source(), "k")
    log, stop, seen = dataset_store.log, threading.Event(), set()
    table = log.get("d")
    short, long = b"x" * 10, b"y" * 5_000

    def replace():
        while not stop.is_set():
            for data in (short, long):
                log.write_file(table, "_mlops/torn", data)

    log.write_file(table, "_mlops/torn", short)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(replace)
        try:
            for _ in range(400):
                with contextlib.suppress(UnavailableError):
                    seen.add(log.read_file(table, "_mlops/torn"))
        finally:
            stop.set()
        writing.result()
    assert seen <= {short, long}
    assert seen
