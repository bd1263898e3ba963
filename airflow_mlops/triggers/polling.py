"""
Triggers that look again and again, and remember how far they have looked.

As the watcher of an asset, the watermark is kept with the asset: a triggerer that was restarted
goes on from there. It is written after the event: an event may come twice, and is never lost.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_mlops.core.errors import ConfigurationError, UnavailableError
from airflow_mlops.core.refs import canonical_digest
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.warehouse import WarehouseHook

WATERMARK = "mlops.watermark"
"""Beginning of the key of an asset's state."""


def moment(text: str) -> datetime:
    """
    Read a watermark; without time zone it is UTC.

    :raises ConfigurationError: if it is no moment.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"after={text!r} is no moment; write it as 2026-01-31T06:00:00+00:00"
        raise ConfigurationError(msg) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class PollingTrigger(BaseEventTrigger):
    """
    Looks again and again; what a subclass finds becomes an event.

    :param after: watermark to begin from, ISO 8601; empty: whatever is there already is an event.
    :param interval: seconds between two looks.
    :param name: tells two watchers apart that look at the same thing for two assets: Airflow would
        make one of them, and give it two assets.
    """

    def __init__(
        self, *, after: str = "", interval: float = 60.0, name: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.name = name
        self.after = after
        self.interval = interval

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the subclass; plain JSON types."""
        raise NotImplementedError

    def look(self, after: str) -> tuple[str, Mapping[str, Any]] | None:
        """
        Look once, in a thread of its own.

        :param after: watermark; empty: everything counts.
        :return: the new watermark and what the event says; nothing if there is nothing new.
        """
        raise NotImplementedError

    @property
    def watermark(self) -> str:
        """Key of the watermark: each watcher of an asset has its own."""
        return f"{WATERMARK}.{canonical_digest([type(self).__name__, self.arguments()])[:12]}"

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return class path and arguments."""
        kind = type(self)
        own = {"after": self.after, "interval": self.interval, "name": self.name}
        return f"{kind.__module__}.{kind.__qualname__}", {**self.arguments(), **own}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield an event whenever there is something new; a service that is away is waited for."""
        store, key = self.asset_state_store, self.watermark
        try:
            kept = await store.aget(key) if store is not None else None
        except ValueError as error:
            msg = f"several assets share this watcher; give each trigger its own name=: {error}"
            raise ConfigurationError(msg) from error
        after = str(kept or self.after)
        while True:
            try:
                found = await asyncio.to_thread(self.look, after)
            except (UnavailableError, ConfigurationError) as error:
                if store is None and isinstance(error, ConfigurationError):
                    raise  # a task waits for it; a watcher is there before its table
                self.log.warning("looking again in %g s: %s", self.interval, error)
                found = None
            if found is not None:
                after, says = found
                yield TriggerEvent({**says, "watermark": after})
                if store is not None:
                    await store.aset(key, after)
            await asyncio.sleep(self.interval)


class RowsArrivedTrigger(PollingTrigger):
    """
    Fires when a table holds rows newer than the watermark.

    :param table: ``schema.table``, or a query in parentheses.
    :param time: timestamp column by which rows arrive.
    :param key: column that names a row.
    :param warehouse_conn_id: Airflow connection of type ``postgres``.
    """

    def __init__(
        self,
        *,
        table: str,
        time: str,
        key: str,
        warehouse_conn_id: str = "warehouse",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.time = time
        self.key = key
        self.warehouse_conn_id = warehouse_conn_id

    def arguments(self) -> dict[str, Any]:
        """Return the arguments; plain JSON types."""
        names = ("table", "time", "key", "warehouse_conn_id")
        return {name: getattr(self, name) for name in names}

    def look(self, after: str) -> tuple[str, Mapping[str, Any]] | None:
        """Ask for the newest time."""
        source = WarehouseHook(self.warehouse_conn_id).source(
            self.table, key=self.key, time=self.time
        )
        newest = source.newest()
        seen = min(moment(after), datetime.now(UTC)) if after else None
        if newest is None or (seen is not None and newest <= seen):
            return None
        return newest.isoformat(), {"table": self.table, "until": newest.isoformat()}


class FindingRecordedTrigger(PollingTrigger):
    """
    Fires when a monitor recorded a finding after the watermark.

    :param model: name of the model.
    :param monitor: such as ``drift``, ``performance``, ``system`` or ``dependencies``.
    :param statuses: which findings count, such as ``["warn", "broken"]``.
    :param ledger_conn_id: connection to the database of schema ``mlops``.
    """

    def __init__(
        self,
        *,
        model: str,
        monitor: str,
        statuses: Sequence[str] = ("warn", "broken"),
        ledger_conn_id: str = "mlops_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.monitor = monitor
        self.statuses = list(statuses)
        self.ledger_conn_id = ledger_conn_id

    def arguments(self) -> dict[str, Any]:
        """Return the arguments; plain JSON types."""
        names = ("model", "monitor", "statuses", "ledger_conn_id")
        return {name: getattr(self, name) for name in names}

    def look(self, after: str) -> tuple[str, Mapping[str, Any]] | None:
        """Ask for the oldest finding that is new."""
        found = (
            LedgerHook(self.ledger_conn_id)
            .observations()
            .next_after(self.model, self.monitor, moment(after) if after else None, self.statuses)
        )
        if found is None:
            return None
        says = {"model": self.model, "monitor": self.monitor, "subject": found.subject}
        line = str(found.body.get("line", ""))
        return found.recorded_at, {**says, "status": found.body.get("status"), "line": line}
