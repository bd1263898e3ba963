"""
A person with an unmistakable key and unmistakable values goes through a whole lifecycle.

Everything that is stored anywhere is then looked through, by brute force: whatever is found of them
is at a place that ``PLACES`` names, and after ``forget`` at none that it says is erased.
"""

import io
import re
import sqlite3
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from airflow_mlops.core.deployment.forgetting import forget_person
from airflow_mlops.core.deployment.places import PLACES
from airflow_mlops.core.deployment.registry import Ask
from airflow_mlops.core.rollout import Begun
from airflow_mlops.policy import Canary, Contract, Full
from tests.conftest import MONDAY, Weeks
from tests.operators.airflow_home import HOME
from tests.operators.running import run
from tests.operators.test_loop import first_champion, says
from tests.operators.test_rollout import Feed, ask_for, quick

pytestmark = [pytest.mark.airflow, pytest.mark.services]

DOCS = Path(__file__).parents[2] / "docs" / "forgetting.md"
KEYS = [918273645, 9182736451, 9182736452, 9182736453, 9182736454, 9182736455]
LEARNT, JUDGED, BREAKS, ASIDE, ROLLED, LATE = KEYS
TEXT, BIG = "Zanzibarbara", 876543000000.0
MARKS = re.compile(rf"{LEARNT}|{TEXT}|8\.76543e|876543000")
"""The key, the text, and the number as it is written in short and in full."""

FEATURES = """
    def build(rows):
        return rows[["x", "y"]].clip(-3, 3)
"""


def with_person(weeks: Weeks) -> Weeks:
    """Put the person into weeks that are learnt from, judged on, checked and rolled out."""
    rows, labels = weeks.rows.to_pylist(), weeks.labels.to_pylist()
    for row in rows[5 * 168 : 6 * 168]:
        row["kind"] = "b"  # so that this week drifts, and a page shows its values
    theirs = {
        168 + 7: (LEARNT, {"kind": TEXT, "x": BIG}),
        4 * 168 + 7: (JUDGED, {"kind": TEXT, "x": BIG, "y": 9.0}),
        5 * 168 + 7: (BREAKS, {"kind": f"{TEXT} again", "x": BIG * 10}),
        5 * 168 + 8: (ASIDE, {"kind": TEXT, "x": None}),
        7 * 168 + 7: (ROLLED, {"kind": TEXT, "x": BIG}),
    }
    for place, (key, values) in theirs.items():
        rows[place] |= {"id": key, **values}
        labels[place] |= {"id": key, "up": 1}
    return Weeks(
        pa.Table.from_pylist(rows, weeks.rows.schema),
        pa.Table.from_pylist(labels, weeks.labels.schema),
    )


@pytest.fixture
def lived(market, registry, observations, dataset_store, ledger, labelled_weeks):
    """A champion, a delivery with breaks and a late row, a candidate that a canary stops."""
    market.weeks = with_person(labelled_weeks(10))
    words = {
        "features": f"{market.module(FEATURES)}:build",
        "gates": market.lifecycle().gates[:1],
        "rollout": [Canary(percent=50, hold="7d"), Full()],
    }
    (monitor, train, rollout), _ = first_champion(market, **words)
    late = (MONDAY + timedelta(days=2, minutes=5)).isoformat()
    market.execute(f"insert into {{}} values ({LATE}, '{late}', 1, 1, 'a')")
    market.deliver(5, 6, labels=(4, 5))
    strict = market.lifecycle(contract=Contract(fail_kinds=["new category"]), **words).dags[0]
    assert run(strict).states["contract"] == "failed"
    ask_for(ledger, market.name, bad=True)
    assert run(monitor).value("decide")["op"] == "retrain"
    assert run(train).states["submit"] == "success"
    with Feed(market, registry, observations, dataset_store, range(6, 9)):
        run(quick(rollout), answer=says("promote", "fine"))
    assert Begun.of(ledger.standing(market.name)) is None
    return market.name


def texts_of(path: Path, data: bytes):
    """Yield all that a file says, opened as far as it can be."""
    yield data.decode("utf-8", "replace")
    if data[:4] == b"PAR1":
        yield str(pq.read_table(io.BytesIO(data)).to_pylist())
    elif data[:6] == b"ARROW1":
        yield str(pa.ipc.open_file(data).read_all().to_pylist())
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from texts_of(path / name, archive.read(name))


def numbers_in(data: bytes) -> bool:
    """Say whether a file holds one of the keys, or the number, as eight bytes."""
    marks = pa.array(KEYS).buffers()[1], pa.array([BIG, BIG * 10]).buffers()[1]
    return any(
        bytes(m)[i : i + 8] in data for m in marks for i in range(0, len(bytes(m)) // 8 * 8, 8)
    )


def in_files(root: Path):
    for path in root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if numbers_in(data) or any(MARKS.search(text) for text in texts_of(path, data)):
                yield str(path.relative_to(root))


def in_postgres(dsn: str):
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "select schemaname, tablename from pg_tables where schemaname in ('mlops', 'public')"
        ).fetchall()
        for place in tables:
            asked = sql.SQL("select to_jsonb(t)::text from {} t").format(sql.Identifier(*place))
            if any(MARKS.search(text) for (text,) in connection.execute(asked)):
                yield place[1]


def in_sqlite(path: Path):
    with sqlite3.connect(path) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        for (table,) in tables.fetchall():
            rows = connection.execute(f'select * from "{table}"')
            if any(MARKS.search(str(row)) for row in rows):
                yield table


PARTS = (
    (r"rows/.*_delta_log/.*", "dataset: log"),
    (r"rows/.*/_mlops/.*", "dataset: sidecars and profiles"),
    (r"rows/.*\.parquet", "dataset: files of rows"),
    (
        r"mlops/(predictions|exposures|outcomes)",
        "`mlops.predictions`, `mlops.exposures`, `mlops.outcomes`",
    ),
    (r"mlops/quarantine", "`mlops.quarantine`"),
    (r"mlops/(observations|rewritten)", "`mlops.observations`, `mlops.rewritten`"),
    (r"artifacts/.*/flips\..*", "MLflow: `flips.json`, `flips.html`"),
    (r"artifacts/.*/data-card\..*", "MLflow: `data-card.md`, `data-card.html`"),
    (r"artifacts/.*/monitoring/.*", "MLflow: `monitoring/<page>`"),
    (r"artifacts/.*/artifacts/model/.*", "MLflow: `model/`"),
    (r"artifacts/.*/card\..*", "MLflow: `card.md`, `card.html`"),
    (
        r"airflow/(xcom|hitl_detail|hitl_detail_history|rendered_task_instance_fields"
        r"|task_instance|task_instance_history)",
        "Airflow: XComs, forms, rendered fields",
    ),
)  # fmt: skip


@pytest.fixture
def hits(services, dataset_store):
    """``hits()``: place -> where in it something of the person is; ``""``: no place of the list."""

    def look() -> dict[str, list[str]]:
        found = [f"rows/{one}" for one in in_files(Path(dataset_store.root))]
        found += [f"artifacts/{one}" for one in in_files(services.home / "artifacts")]
        found += [f"mlops/{one}" for one in in_postgres(services.dsn("mlops"))]
        found += [f"mlflow/{one}" for one in in_postgres(services.dsn("mlflow"))]
        found += [f"airflow/{one}" for one in in_sqlite(HOME / "airflow.db")]
        places: dict[str, list[str]] = {}
        for one in found:
            named = (place for part, place in PARTS if re.fullmatch(part, one))
            places.setdefault(next(named, ""), []).append(one)
        return places

    return look


def test_nothing_of_a_person_is_left_where_the_list_says_it_goes(
    lived, hits, registry, dataset_store, observations
):
    fates = {place.name: place.fate for place in PLACES}
    before = hits()
    assert before.get("") is None, before[""]
    written = {n for n, fate in fates.items() if fate == "erased"} - {
        "dataset: notes of what is under way"
    }
    assert written <= {*before}, written - {*before}

    ask = Ask("forget:1", "me", "they asked", {})
    stores = registry, dataset_store, observations
    done = forget_person(*stores, lived, [str(key) for key in KEYS], ask=ask)
    assert done.cases > 0
    after = hits()
    assert {fates[name] for name in after} <= {"elsewhere", "stays"}, after
    for version in range(1, dataset_store.latest(lived).version + 1):
        dataset_store.open(type(dataset_store.latest(lived))(lived, version)).verify()

    clean_airflow()
    assert {fates[name] for name in hits()} == {"stays"}


def clean_airflow():
    """Do what the report says about Airflow."""
    from airflow.utils.db_cleanup import run_cleanup

    (place,) = (p for p in PLACES if p.name.startswith("Airflow: XComs"))
    tables = place.how.rpartition(" ")[2].split(",")
    now = datetime.now(UTC) + timedelta(days=1)
    run_cleanup(clean_before_timestamp=now, table_names=tables, skip_archive=True, confirm=False)


def test_the_page_shows_the_list():
    rows = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| ")]
    head = "| place | what it holds of a person | what becomes of it | how |"
    assert rows[0] == head
    assert rows[2:] == [f"| {p.name} | {p.holds} | {p.fate} | {p.how} |" for p in PLACES]
