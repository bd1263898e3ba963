"""Datasets made of datasets: the same rows, or SQL over versions that cannot see the future."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.data.dataset_sources import DatasetSource
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.data.sql_source import SqlSource
from airflow_mlops.core.errors import ConfigurationError, UserCodeError
from airflow_mlops.core.refs import DatasetRef

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)

ASOF = """
    -- the newest report, at least an hour old
    select r.id, r."at", r.x * 2 as twice, w.temp,
           avg(r.x) over (
             order by r."at" range between interval 24 hours preceding and current row
           ) as day
    from rows as r
    asof left join weather as w on r."at" >= w."at" + interval 1 hour
"""


@pytest.fixture
def tables(dataset_store, labelled_weeks, append):
    """Rows of five weeks, and a weather report every seven hours."""
    append(dataset_store, "rows", labelled_weeks().source(0, 5))
    n = 5 * 168 // 7
    at = [MONDAY + timedelta(hours=7 * i) for i in range(n)]
    weather = pa.table(
        {
            "station": list(range(n)),
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "temp": [float(i) for i in range(n)],
        }
    )
    append(dataset_store, "weather", ArrowSource(weather, "station", "at"), key="station")
    return {name: dataset_store.open(DatasetRef(name, 1)) for name in ("rows", "weather")}


def features(tables, sql=ASOF, **named):
    return SqlSource(sql, tables, named.get("key", "id"), named.get("time", "at"))


def read(source, since=None):
    with source.read(since) as reader:
        return reader.read_all()


def test_a_dataset_of_a_dataset_has_its_rows(dataset_store, tables, append):
    commit = append(dataset_store, "copy", DatasetSource(tables["rows"]))
    copy = dataset_store.open(DatasetRef.parse(commit.ref))
    assert copy.digest == tables["rows"].digest
    assert commit.query == "dataset rows"


def test_columns_can_be_chosen_and_key_and_time_come_along(tables):
    source = DatasetSource(tables["rows"], ("x",))
    assert source.schema().names == read(source).schema.names == ["x", "at", "id"]
    assert source.query == "dataset rows (x)"
    with pytest.raises(ConfigurationError, match=r"rows@1 has no column 'z'; it has id, at, x"):
        DatasetSource(tables["rows"], ("z",)).schema()


@pytest.mark.parametrize("hours", [0, 1, 167, 168, 400])
def test_both_read_from_a_moment_on(tables, hours):
    since = MONDAY + timedelta(hours=hours)
    for source in (DatasetSource(tables["rows"]), features(tables)):
        assert read(source, since)["id"].to_pylist() == list(range(hours, 5 * 168))


def test_point_in_time_joins_see_what_was_known(tables):
    found = read(features(tables))
    ids, temps = found["id"].to_pylist(), found["temp"].to_pylist()
    known = [None if i < 1 else float((i - 1) // 7) for i in ids]
    assert temps == known
    x = tables["rows"].between().to_arrow(["x"])["x"].to_pylist()
    day = [sum(x[max(0, i - 24) : i + 1]) / len(x[max(0, i - 24) : i + 1]) for i in ids]
    assert found["day"].to_pylist() == pytest.approx(day)
    assert found.schema.field("at").type == pa.timestamp("us", "UTC")


def test_features_week_by_week_are_features_at_once(dataset_store, tables, append, labelled_weeks):
    for weeks in (2, 3, 5):
        commit = append(dataset_store, "few", labelled_weeks().source(0, weeks), f"r{weeks}")
        inputs = {**tables, "rows": dataset_store.open(DatasetRef.parse(commit.ref))}
        slow = append(dataset_store, "slow", features(inputs), f"f{weeks}")
    quick = append(dataset_store, "quick", features(tables))
    assert slow.digest == quick.digest
    assert slow.rows == 5 * 168


LEAKS = {
    "a centred mean": 'select id, "at", avg(x) over (order by "at" rows between 2 preceding and '
    "2 following) as leak from rows",
    "a mean of everything": 'select id, "at", x - (select avg(x) from rows) as leak from rows',
    "the next report": 'select id, r."at", w.temp as leak from rows r asof left join weather w on '
    'r."at" <= w."at"',
    "chance": 'select id, "at", random() as leak from rows',
}


LEAKS["the next one of the same moment"] = (
    'select id, r."at", case when id % 7 > 5 then lead(x) over (order by "at", id) end as leak '
    "from rows r"
)


@pytest.mark.parametrize("sql", LEAKS.values(), ids=LEAKS.keys())
def test_sql_that_sees_the_future_is_refused_with_the_column(tables, sql):
    with pytest.raises(UserCodeError, match=r"see the future: .* differ in 'leak'"):
        read(features(tables, sql))


LABEL = 'select r.id, r."at", w.temp as up from rows r asof left join weather w on r."at" >= w."at"'


def test_what_is_known_later_may_not_be_seen_at_its_own_time(tables):
    late = {"weather": timedelta(days=2)}
    assert read(features(tables, LABEL)).num_rows == 5 * 168
    with pytest.raises(UserCodeError, match=r"see the future: .* differ in 'up'"):
        read(SqlSource(LABEL, tables, "id", "at", late))
    honest = LABEL.replace('>= w."at"', '>= w."at" + interval 2 days')
    found = read(SqlSource(honest, tables, "id", "at", late))
    assert found["up"].null_count == 48


def test_a_leak_among_rows_of_one_moment_is_found(dataset_store, labelled_weeks, append):
    """Daily batches: 1,000 rows of one time are more than are compared one by one."""
    n, day = 10_000, timedelta(days=1)
    at = pa.array([MONDAY + (i // 1000) * day for i in range(n)], pa.timestamp("us", "UTC"))
    rows = pa.table({"id": list(range(n)), "at": at, "x": [float(i % 977) for i in range(n)]})
    append(dataset_store, "many", ArrowSource(rows, "id", "at"))
    table = dataset_store.open(DatasetRef("many", 1))
    leak = (
        'select id, "at", case when id % 1000 >= 600 then lead(x) over (partition by id % 1000 '
        'order by "at") end as leak from many'
    )
    with pytest.raises(UserCodeError, match=r"see the future: .* differ in 'leak'"):
        read(SqlSource(leak, {"many": table}, "id", "at"))
    honest = leak.replace("lead", "lag")
    assert read(SqlSource(honest, {"many": table}, "id", "at")).num_rows == n


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_times_are_utc_wherever_it_runs(zone, tmp_path, dataset_store, tables, append):
    sql = 'select id, timezone(\'UTC\', "at") as "at", x from rows'
    program = f"""
import sys
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.sql_source import SqlSource
from airflow_mlops.core.refs import DatasetRef
from datetime import timedelta
store = DatasetStore({dataset_store.root!r})
for version in (1, 2):
    rows = store.open(DatasetRef("rows", version))
    store.append("made", SqlSource({sql!r}, {{"rows": rows}}, "id", "at"), app_key=str(version),
        time="at", key="id", window=timedelta(days=7))
"""
    more = labelled(dataset_store, append)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = dataset_store.open(DatasetRef("made", 2)).between().to_arrow()
    assert made.equals(more.select(["id", "at", "x"]))


def labelled(dataset_store, append):
    """A second version of the rows, which ends in the middle of a window."""
    before = dataset_store.open(DatasetRef("rows", 1)).between().to_arrow()
    later = before.slice(0, 30).set_column(0, "id", pa.array(range(840, 870)))
    at = [MONDAY + timedelta(hours=840 + i) for i in range(30)]
    later = later.set_column(1, "at", pa.array(at, pa.timestamp("us", "UTC")))
    rows = pa.concat_tables([before, later])
    append(dataset_store, "rows", ArrowSource(rows, "id", "at"), "more")
    return rows


def test_names_of_inputs_cannot_be_mistaken(tables, dataset_store, append, labelled_weeks):
    append(dataset_store, "other", labelled_weeks(seed=1).source(0, 2), "o")
    other = dataset_store.open(DatasetRef("other", 1))
    for name in ("_rows", "result", "_result", "before", "made", 'a "quoted" one'):
        sql = 'select id, "at", x from rows'
        found = read(SqlSource(sql, {"rows": tables["rows"], name: other}, "id", "at"))
        assert found.num_rows == 5 * 168
    with pytest.raises(ConfigurationError, match="two inputs of the SQL have one name: rows, ROWS"):
        features({"rows": tables["rows"], "ROWS": other}).schema()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ('select x as id, "at" from rows union all from (select x, "at" from rows)', "one row for"),
        ('select null::bigint as id, "at" from rows', "840 rows without 'id' or 'at'"),
        ('select id, "at"::date as "at" from rows', r"'at' of the SQL is date32\[day\], it has"),
    ],
)
def test_rows_that_are_none_are_named(tables, sql, says):
    with pytest.raises(UserCodeError, match=says):
        read(features(tables, sql))


def test_a_semicolon_ends_the_statement(tables):
    assert read(features(tables, 'select id, "at" from rows;\n')).num_rows == 840


def test_sql_is_named_by_what_it_does(tables):
    same = ASOF.replace("-- the newest report, at least an hour old", "").replace("\n", "   \n")
    assert features(tables).query == features(tables, same).query
    other = ASOF.replace("interval 1 hour", "interval 2 hour")
    assert features(tables).query != features(tables, other).query


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("selec 1", "not one select of SQL: syntax error"),
        ("select 1; select 2", "not one select of SQL: there is more than one"),
        ("drop table rows", "not one select of SQL: Only SELECT"),
    ],
)
def test_what_is_no_select_is_refused(tables, sql, says):
    with pytest.raises(UserCodeError, match=says):
        _ = features(tables, sql).query


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select * from nothing", r"does not run.*may read rows \(id, at, x, y, kind\); weather"),
        ("select * from read_csv('/etc/passwd')", "does not run: Permission Error"),
        ("select x from rows", "makes no column 'id', 'at'; it makes x"),
        ("select id, \"at\", x / 0 as z, error('boom') as e from rows", "does not run"),
    ],
)
def test_sql_that_does_not_run_says_what_it_may_read(tables, sql, says):
    with pytest.raises(UserCodeError, match=says):
        read(features(tables, sql))
