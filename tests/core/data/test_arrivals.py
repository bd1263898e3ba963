"""Rows that are late, ahead of now, or corrected: read, counted, named, never lost or doubled."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from psycopg import sql

from airflow_mlops.core.data.arrears import find_arrears
from airflow_mlops.core.data.dataset_sources import DatasetSource
from airflow_mlops.core.data.file_sources import FileSource
from airflow_mlops.core.data.sources import ArrowSource, PostgresSource
from airflow_mlops.core.errors import ConfigurationError, RejectedError

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)


def table(times):
    """Rows ``key -> time``: hours since the first Monday, or a moment."""
    moments = [
        t if isinstance(t, datetime) else MONDAY + timedelta(hours=t) for t in times.values()
    ]
    return pa.table(
        {
            "id": pa.array(list(times), pa.int64()),
            "at": pa.array(moments, pa.timestamp("us", "UTC")),
            "x": pa.array([float(k) for k in times], pa.float64()),
        }
    )


def rows(times):
    return ArrowSource(table(times), "id", "at")


def hourly(weeks):
    return {i: i for i in range(weeks * 168)}


def newest(store):
    return store.open(store.latest("d"))


def held(store):
    """What is stored, as ``key -> hours``; everything about it is checked on the way."""
    found = newest(store)
    found.verify()
    read = found.between().to_arrow()
    assert found.rows == read.num_rows == len(set(read["id"].to_pylist()))
    for window in found.windows():
        part = found.between(*window.span)
        assert part.rows == window.rows == part.profile().rows
    return {
        k: (t - MONDAY) / HOUR
        for k, t in zip(*(read[c].to_pylist() for c in ("id", "at")), strict=True)
    }


class TestACorrectedTime:
    @pytest.fixture
    def store(self, dataset_store, append):
        append(dataset_store, "d", rows(hourly(5)), "k1")
        return dataset_store

    @pytest.mark.parametrize("lateness", [timedelta(0), 2 * WEEK], ids=["none", "two weeks"])
    @pytest.mark.parametrize(
        ("key", "hours"),
        [
            pytest.param(100, 5 * 168 + 3, id="from long ago to a new window"),
            pytest.param(100, 4 * 168 + 9.5, id="from long ago to the newest window"),
            pytest.param(4 * 168 + 20, 5 * 168 + 3, id="from the newest window to a new one"),
            pytest.param(4 * 168 + 20, 4 * 168 + 2.5, id="within the newest window"),
            pytest.param(4 * 168 + 20, 100.5, id="from the newest window to long ago"),
            pytest.param(3 * 168 + 20, 4 * 168 + 2.5, id="from the window before"),
        ],
    )
    def test_moves_the_row(self, store, append, key, hours, lateness):
        source = {**hourly(5), 5 * 168: 5 * 168, key: hours}
        commit = append(store, "d", rows(source), "k2", lateness=lateness)
        assert held(store) == source
        assert commit.rows == len(source)
        if commit.corrected:
            assert commit.corrected == 1
        assert append(store, "d", rows(source), "k2", lateness=lateness) == commit
        assert append(store, "d", rows(source), "k3", lateness=lateness).added == 0

    def test_is_counted(self, store, append):
        source = {**hourly(5), 3: 5 * 168 + 1, 200: 5 * 168 + 2, 4 * 168 + 5: 10.5}
        assert append(store, "d", rows(source), "k2").corrected == 3
        assert held(store) == source

    def test_leaves_the_other_windows_and_files_alone(self, store, append):
        before = {w.index: w for w in newest(store).windows()}
        commit = append(store, "d", rows({**hourly(5), 200: 5 * 168 + 2}), "k2")
        after = {w.index: w for w in newest(store).windows()}
        assert [w.index for w in commit.windows] == [1, 5]
        assert all(after[i] == before[i] for i in (0, 2, 3, 4))
        assert commit.since == (MONDAY + 5 * WEEK).isoformat()

    def test_drops_a_window_that_has_no_row_left(self, dataset_store, append):
        few = {1: 0, 2: 200, 3: 400, 4: 700}
        append(dataset_store, "d", rows(few), "k1")
        append(dataset_store, "d", rows({**few, 2: 701}), "k2")
        assert held(dataset_store) == {1: 0, 2: 701, 3: 400, 4: 700}
        assert [w.index for w in newest(dataset_store).windows()] == [0, 2, 4]

    def test_is_found_for_the_only_row_of_the_newest_window(self, dataset_store, append):
        few = {1: 0, 2: 200, 3: 400}
        append(dataset_store, "d", rows(few), "k1")
        append(dataset_store, "d", rows({**few, 3: 100}), "k2")
        assert held(dataset_store) == {1: 0, 2: 200, 3: 100}

    def test_of_a_column_that_joins_meanwhile(self, store, append):
        wider = table({**hourly(5), 200: 5 * 168 + 2})
        wider = wider.append_column("z", pa.array([1.0] * len(wider)))
        append(store, "d", ArrowSource(wider, "id", "at"), "k2", adopt=["z"])
        assert held(store)[200] == 5 * 168 + 2

    def test_is_no_correction_if_the_old_row_is_still_there(self, store, append, caplog):
        twice = pa.concat_tables([table(hourly(5)), table({7: 5 * 168 + 1})])
        commit = append(store, "d", ArrowSource(twice, "id", "at"), "k2")
        assert (commit.added, commit.corrected) == (1, 0)
        assert newest(store).between().to_arrow()["id"].to_pylist().count(7) == 2
        assert "1 values of key 'id' name two rows at the source each, such as 7" in caplog.text

    def test_that_leaves_a_key_twice_in_what_is_read_is_refused(self, store, append):
        twice = pa.concat_tables([table(hourly(5)), table({5 * 168 - 1: 5 * 168 + 1})])
        with pytest.raises(RejectedError, match="1 values of key 'id' repeat, such as 839"):
            append(store, "d", ArrowSource(twice, "id", "at"), "k2")
        assert held(store) == hourly(5)

    def test_moves_thousands_of_rows(self, store, append):
        source = {k: (h if k % 2 else h + 5 * 168) for k, h in hourly(5).items()}
        assert append(store, "d", rows(source), "k2").corrected == 4 * 84
        assert held(store) == source


def test_a_nul_in_the_name_of_a_column_is_refused(dataset_store, append):
    wrong = table({1: 0}).rename_columns(["id", "at", "x\0y"])
    with pytest.raises(ConfigurationError, match=r"column 'x\\x00y' has a NUL"):
        append(dataset_store, "d", ArrowSource(wrong, "id", "at"))


class TestRowsAheadOfNow:
    def test_wait_until_their_time_has_come(self, dataset_store, append):
        now = datetime.now(UTC)
        soon = now + timedelta(seconds=3600)
        source = {1: now - 3 * HOUR, 2: now - 2 * HOUR, 3: soon}
        commit = append(dataset_store, "d", rows(source), "k1")
        assert (commit.rows, commit.watermark) == (2, (now - 2 * HOUR).isoformat())
        source |= {4: now - HOUR}
        assert append(dataset_store, "d", rows(source), "k2").added == 1
        assert append(dataset_store, "d", rows(source), "k3", ahead=2 * HOUR).added == 1
        assert newest(dataset_store).rows == 4

    def test_are_named(self, dataset_store, append):
        now = datetime.now(UTC)
        source = rows({1: now - HOUR, 7: now + 6 * timedelta(days=1)})
        append(dataset_store, "d", source)
        found = arrears(dataset_store, source)
        assert (found.ahead, found.early) == (1, ("7",))
        assert "1 rows are ahead of now" in found.line
        assert "such as 7: they wait" in found.line
        assert found.to_dict()["status"] == "warn"

    def test_are_no_more_than_the_tolerance_ahead(self, dataset_store, append):
        now = datetime.now(UTC)
        source = rows({1: now - HOUR, 2: now + HOUR, 3: now + 3 * HOUR})
        assert append(dataset_store, "d", source, ahead=2 * HOUR).rows == 2
        assert arrears(dataset_store, source, ahead=2 * HOUR).ahead == 1

    def test_alone_are_nothing_to_version(self, dataset_store, append):
        with pytest.raises(RejectedError, match="nothing to version yet"):
            append(dataset_store, "d", rows({1: datetime.now(UTC) + HOUR}))


def arrears(store, source, lateness=timedelta(0), ahead=timedelta(0)):
    return find_arrears(source, newest(store), lateness=lateness, ahead=ahead)


class TestLateRows:
    @pytest.fixture
    def store(self, dataset_store, append):
        append(dataset_store, "d", rows(hourly(5)), "k1")
        return dataset_store

    @pytest.fixture(params=["memory", "parquet", "dataset", "postgres", "postgres, naive"])
    def late(self, request, tmp_path, append):
        """A source in which rows have come late: one in window 1, two in window 3."""
        if "postgres" in request.param:
            request.applymarker(pytest.mark.services)
        found = table({**hourly(5), 9001: 200.5, 9002: 505.5, 9003: 510.5})
        if request.param == "memory":
            return ArrowSource(found, "id", "at")
        if request.param == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(found, tmp_path / "rows.parquet")
            return FileSource(str(tmp_path / "*.parquet"), "id", "at")
        if request.param == "dataset":
            from airflow_mlops.core.data.datasets import DatasetStore

            other = DatasetStore(str(tmp_path / "other"))
            append(other, "raw", ArrowSource(found, "id", "at"))
            return DatasetSource(other.open(other.latest("raw")))
        kind = "timestamp" if "naive" in request.param else "timestamptz"
        services = request.getfixturevalue("services")
        import psycopg

        dsn = services.dsn("warehouse")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("set time zone 'UTC'")
            connection.execute("drop table if exists late_rows")
            connection.execute(
                sql.SQL("create table late_rows (id bigint, at {}, x float8)").format(sql.SQL(kind))
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    "insert into late_rows values (%s, %s, %s)",
                    [tuple(r.values()) for r in found.to_pylist()],
                )
        return PostgresSource(dsn, "late_rows", "id", "at")

    def test_are_counted_and_named_with_the_lateness_that_lets_them_in(self, store, append, late):
        append(store, "d", late, "k2")
        found = arrears(store, late)
        assert (found.unread, found.late) == (3, ("9002", "9003"))
        assert found.lateness == "21d"
        assert "3 late rows of the source stay unread, such as 9002, 9003" in found.line
        append(store, "d", late, "k3", lateness=timedelta(days=21))
        assert newest(store).rows == 5 * 168 + 3
        assert arrears(store, late).unread == 0
        assert arrears(store, late).to_dict()["status"] == "ok"

    def test_that_the_next_append_reads_are_not_counted(self, store, late):
        assert arrears(store, late, lateness=5 * WEEK).unread == 0

    def test_move_no_row_that_is_only_corrected(self, store, append, late):
        """A source reads by keys and ends, too, whatever it is."""
        with late.read(MONDAY + HOUR, until=MONDAY + 4 * HOUR, keys=[1, 2, 7]) as reader:
            assert reader.read_all()["id"].to_pylist() == [1, 2]

    def test_are_counted_by_window(self, late):
        until = MONDAY + 4 * WEEK
        assert late.count(MONDAY + WEEK, WEEK, until) == {-1: 168, 0: 169, 1: 168, 2: 170}
