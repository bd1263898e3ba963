"""Datasets made of datasets: the same rows, or SQL over versions that cannot see the future."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.data.dataset_sources import DatasetSource, SqlSource
from airflow_mlops.core.data.sources import ArrowSource
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
