"""Waiting for rows and findings: in a worker, in the triggerer, as the watcher of an asset."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from airflow.sdk import DAG

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.sensors.monitoring import (
    DriftDetectedSensor,
    FindingRecordedSensor,
    ModelDecayedSensor,
    RowsArrivedSensor,
)
from airflow_mlops.triggers.polling import (
    FindingRecordedTrigger,
    PollingTrigger,
    RowsArrivedTrigger,
    moment,
)
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PAST, FUTURE = "2020-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"


class AssetState:
    """What Airflow keeps with an asset."""

    def __init__(self):
        self.kept = {}

    async def aget(self, key):
        return self.kept.get(key)

    async def aset(self, key, value):
        self.kept[key] = value


async def events(trigger, number):
    """Take so many events, and stop at once, as a triggerer that is killed."""
    found = []
    async for event in trigger.run():
        found.append(event.payload)
        if len(found) == number:
            break
    return found


@pytest.fixture
def table(connections, warehouse):
    name = f"arrivals_{uuid.uuid4().hex[:8]}"
    warehouse(f"create table {name} (id int primary key, at timestamptz not null)")

    def arrive(key, at):
        warehouse(f"insert into {name} values ({key}, '{at.isoformat()}')")

    yield name, arrive
    warehouse(f"drop table {name}")


def rows_trigger(name, **given):
    return RowsArrivedTrigger(table=name, time="at", key="id", interval=0.05, **given)


class TestTriggers:
    def test_an_empty_table_is_nothing_new(self, table):
        assert rows_trigger(table[0]).look("") is None

    def test_newer_rows_are_an_event_and_the_watermark(self, table):
        name, arrive = table
        arrive(1, NOON)
        assert rows_trigger(name).look("") == (
            NOON.isoformat(),
            {"table": name, "until": NOON.isoformat()},
        )
        assert rows_trigger(name).look(NOON.isoformat()) is None
        assert rows_trigger(name).look("2026-03-02T12:00:00") is None  # without zone: UTC
        assert rows_trigger(name).look("2026-03-02T13:30:00+02:00")[0] == NOON.isoformat()

    def test_a_watcher_goes_on_where_it_was_killed_and_loses_nothing(self, table):
        name, arrive = table
        arrive(1, NOON)
        state = AssetState()
        first = rows_trigger(name)
        first.asset_state_store = state
        assert [e["until"] for e in asyncio.run(events(first, 1))] == [NOON.isoformat()]
        assert state.kept == {}  # killed after the event: it comes again, rather than never

        later = NOON + timedelta(hours=1)
        arrive(2, later)
        second = rows_trigger(name)
        second.asset_state_store = state
        assert [e["until"] for e in asyncio.run(events(second, 1))] == [later.isoformat()]

        third = rows_trigger(name)
        third.asset_state_store = state
        state.kept[third.watermark] = later.isoformat()
        arrive(3, later + timedelta(hours=1))
        assert len(asyncio.run(events(third, 1))) == 1

    def test_a_database_that_is_away_is_waited_for(self, table, connect, services):
        name, arrive = table
        arrive(1, NOON)
        connect("away", conn_type="postgres", host="127.0.0.1", port=1, schema="x", login="y")
        trigger = rows_trigger(name, warehouse_conn_id="away")

        async def back():
            task = asyncio.create_task(events(trigger, 1))
            await asyncio.sleep(0.3)
            assert not task.done()
            trigger.warehouse_conn_id = "warehouse"
            return await asyncio.wait_for(task, 20)

        assert asyncio.run(back())[0]["until"] == NOON.isoformat()

    def test_a_finding_counts_by_its_status_and_in_its_order(
        self, connections, observations, model
    ):
        for subject, status in (("a", "ok"), ("b", "broken"), ("c", "warn"), ("d", "broken")):
            body = {"status": status, "line": f"line of {subject}"}
            observations.record(model, "drift", subject, body)
        broken = {"monitor": "drift", "statuses": ["broken"], "interval": 0.05}
        trigger = FindingRecordedTrigger(model=model, **broken)
        at, said = trigger.look("")
        assert (said["subject"], said["status"], said["line"]) == ("b", "broken", "line of b")
        assert trigger.look(at)[1]["subject"] == "d"
        assert trigger.look(trigger.look(at)[0]) is None
        warned = FindingRecordedTrigger(model=model, monitor="drift", statuses=["warn"])
        assert warned.look("")[1]["subject"] == "c"

    @pytest.mark.parametrize(
        "trigger",
        [
            RowsArrivedTrigger(table="t", time="at", key="id", after=PAST, interval=5),
            FindingRecordedTrigger(model="m", monitor="drift", statuses=("warn", "broken")),
        ],
    )
    def test_a_trigger_comes_back_from_what_is_stored(self, trigger):
        path, arguments = trigger.serialize()
        assert path == f"airflow_mlops.triggers.polling.{type(trigger).__name__}"
        again = type(trigger)(**arguments)
        assert isinstance(again, PollingTrigger)
        assert again.serialize() == (path, arguments)

    def test_a_watermark_that_is_no_moment_is_named(self):
        with pytest.raises(ConfigurationError, match="after='noon' is no moment"):
            moment("noon")


class TestSensors:
    def once(self, make):
        with DAG(f"waits_{uuid.uuid4().hex[:8]}", schedule=None) as dag:
            make(task_id="wait", poke_interval=0.1, timeout=3)
        return run(dag)

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_rows_that_are_there_end_the_wait(self, table, deferrable):
        name, arrive = table
        arrive(1, NOON)
        done = self.once(
            lambda **given: RowsArrivedSensor(
                table=name, time="at", key="id", after=PAST, deferrable=deferrable, **given
            )
        )
        assert done.state == "success"
        assert done.value("wait")["until"] == NOON.isoformat()

    def test_the_triggerer_takes_over_until_rows_come(self, table, warehouse):
        name, _ = table
        at = f"'{datetime.now(UTC).isoformat()}'::timestamptz + interval '2 seconds'"
        warehouse(  # a row that arrives while the task waits
            f"create or replace function late_{name}() returns timestamptz language sql as "
            f"$$ select case when clock_timestamp() > {at} then clock_timestamp() end $$"
        )
        view = f"(select 1 as id, at from late_{name}() as f(at))"
        done = self.once(
            lambda **given: RowsArrivedSensor(table=view, time="at", key="id", **given)
        )
        warehouse(f"drop function late_{name}()")
        assert done.state == "success"
        assert set(done.value("wait")) == {"table", "until", "watermark"}

    @pytest.mark.parametrize(
        ("sensor", "monitor"), [(DriftDetectedSensor, "drift"), (ModelDecayedSensor, "performance")]
    )
    def test_a_finding_ends_the_wait(self, connections, observations, model, sensor, monitor):
        observations.record(model, monitor, "m@1:7", {"status": "broken", "line": "x moved"})
        done = self.once(lambda **given: sensor(model=model, after=PAST, **given))
        assert done.value("wait")["line"] == "x moved"

    def test_rows_of_before_do_not(self, table):
        name, arrive = table
        arrive(1, NOON)
        waits = {"table": name, "time": "at", "key": "id", "deferrable": False}
        assert self.once(lambda **given: RowsArrivedSensor(**waits, **given)).state == "failed"
        with pytest.raises(ConfigurationError, match="mode='reschedule' say after"):
            RowsArrivedSensor(task_id="wait", mode="reschedule", **waits).poke({})

    def test_a_warning_is_no_drift(self, connections, observations, model):
        observations.record(model, "drift", "m@1:7", {"status": "warn", "line": "10 rows"})
        waits = {"model": model, "after": PAST, "deferrable": False}
        assert self.once(lambda **given: DriftDetectedSensor(**waits, **given)).state == "failed"

    def test_a_finding_of_before_does_not(self, connections, observations, model):
        observations.record(model, "drift", "m@1:7", {"status": "broken", "line": "x moved"})
        done = self.once(
            lambda **given: FindingRecordedSensor(
                model=model, monitor="drift", after=FUTURE, deferrable=False, **given
            )
        )
        assert done.state == "failed"

    def test_an_event_of_something_else_is_refused(self):
        sensor = DriftDetectedSensor(task_id="wait", model="m")
        for event in (None, "x", {"line": "y"}):
            with pytest.raises(ConfigurationError, match="something else"):
                sensor.resumed({}, event)
