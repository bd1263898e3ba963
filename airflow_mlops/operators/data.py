"""Operators for data: snapshot, features by SQL, restore, contract, selection."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from airflow.sdk import Context

from airflow_mlops.core.errors import ContractBrokenError
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.hooks.warehouse import WarehouseHook
from airflow_mlops.operators._base import (
    MlopsOperator,
    Xcom,
    about_decision,
    newest_event,
    run_of,
    task_of,
)
from airflow_mlops.operators._snapshots import SnapshotOperator
from airflow_mlops.policy import duration
from airflow_mlops.policy.monitoring import BreakKind, FailOn

if TYPE_CHECKING:
    from airflow_mlops.core.data.contract import Break
    from airflow_mlops.core.data.sources import Source


class SnapshotTableOperator(SnapshotOperator):
    """
    Version the new rows of a PostgreSQL table or query, exactly once per run.

    Returns the commit as a plain dict: ``ref``, ``added``, ``since``, ``until``, ``digest`` and so
    on; its windows are in the store. Without new rows the newest version is the answer.
    ``looked_at`` is when the source was read: if an earlier try made the commit, the moment of
    that. ``unread`` is how many late rows the source has that no snapshot will read, ``ahead`` how
    many whose time is still to come; both are a finding of the monitor ``late``, too.

    :param table: table or view, ``schema.table``, or a query in parentheses; ``*.sql`` is read from
        that file (templated).
    :param dataset: name of the dataset to append to (templated).
    :param key: column that names a row.
    :param time: timestamp column by which rows arrive.
    :param columns: columns to read; none: all.
    :param window: length of a window, such as ``"7d"``; fixed with the first snapshot.
    :param lateness: how late a row may arrive behind newer ones.
    :param ahead: how far beyond now the time of a row may lie; rows beyond wait until it has come.
    :param windows_of: dataset whose windows are shared, such as that of the rows for their labels;
        it has to be there first (templated).
    :param adopt: columns that may join the dataset when the source begins to offer them; others
        are left out, with a warning. If ``columns`` are named, name it there as well.
    :param warehouse_conn_id: connection to the PostgreSQL server (templated).
    """

    template_fields = (*SnapshotOperator.template_fields, "table", "warehouse_conn_id")
    template_ext = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"table": "sql"}

    def __init__(
        self,
        *,
        table: str,
        columns: Sequence[str] | None = None,
        warehouse_conn_id: str = WarehouseHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.table = table
        self.columns = columns
        self.warehouse_conn_id = warehouse_conn_id

    def source(self) -> tuple["Source", str]:
        """Return the table."""
        hook = WarehouseHook(self.warehouse_conn_id)
        source = hook.source(self.table, key=self.key, time=self.time, columns=self.columns)
        name = "query" if self.table.lstrip().startswith("(") else self.table
        return source, f"{self.warehouse_conn_id}:{name}"


class SnapshotFilesOperator(SnapshotOperator):
    """
    Version the new rows of Parquet or CSV files, exactly once per run.

    The same as :class:`SnapshotTableOperator` for files: those that were added since are read with
    the next run.

    :param path: a file, or a pattern such as ``/data/meter/*.parquet`` (templated).
    :param dataset: name of the dataset to append to (templated).
    :param key: column that names a row.
    :param time: timestamp column by which rows arrive; without time zone it is read as UTC.
    :param window: length of a window; fixed with the first snapshot.
    :param lateness: how late a row may arrive behind newer ones.
    :param ahead: how far beyond now the time of a row may lie; rows beyond wait until it has come.
    :param windows_of: dataset whose windows are shared; it has to be there first (templated).
    :param adopt: columns that may join the dataset when the source begins to offer them; others
        are left out, with a warning. If ``columns`` are named, name it there as well.
    """

    template_fields = (*SnapshotOperator.template_fields, "path")

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def source(self) -> tuple["Source", str]:
        """Return the files."""
        from airflow_mlops.core.data.file_sources import FileSource

        return FileSource(self.path, self.key, self.time), f"files:{self.path}"


class MaterializeFeaturesOperator(SnapshotOperator):
    """
    Compute features by SQL from dataset versions, as a dataset of their own, exactly once per run.

    The SQL is one ``select`` in the words of DuckDB over the names in ``inputs``; times are UTC. A
    row may look at what was known at its own time, such as by an ``asof join``: whether any sees
    later rows is tried, and refused.

    :param sql: the statement; ``*.sql`` is read from that file (templated).
    :param inputs: name in the SQL -> dataset, the newest version, or ``name@version`` (templated).
    :param known_after: input -> how long after its own time a row of it is known, such as
        ``{"labels": "7d"}``; a row that sees it earlier sees the future.
    :param dataset: name of the dataset to append to (templated).
    :param key: column of the result that names a row.
    :param time: timestamp column of the result by which rows arrive.
    :param window: length of a window; fixed with the first version.
    :param lateness: how far back rows are computed again.
    :param ahead: how far beyond now the time of a row may lie.
    :param windows_of: dataset whose windows are shared; it has to be there first (templated).
    :param adopt: columns that may join the dataset when the SQL begins to make them.
    """

    template_fields = (*SnapshotOperator.template_fields, "sql", "inputs")
    template_ext = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"sql": "sql"}

    def __init__(
        self,
        *,
        sql: str,
        inputs: Mapping[str, str],
        known_after: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.inputs = inputs
        self.known_after = known_after

    def source(self) -> tuple["Source", str]:
        """Open the newest versions of the inputs."""
        from airflow_mlops.core.data.sql_source import SqlSource

        store = self.datasets()
        tables = {name: store.open(store.find(ref)) for name, ref in self.inputs.items()}
        origin = ", ".join(f"{name}={table.ref}" for name, table in tables.items())
        known = {name: duration(text) for name, text in (self.known_after or {}).items()}
        return SqlSource(self.sql, tables, self.key, self.time, known), f"sql:{origin}"


class RestoreDatasetOperator(MlopsOperator):
    """
    Make the rows of an earlier version the newest version again, exactly once per run.

    Returns the commit as a plain dict. No row is copied, and no version is lost.

    :param version: ``name@version`` or ``name@tag`` (templated).
    """

    template_fields = (*MlopsOperator.template_fields, "version")

    def __init__(self, *, version: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version

    def execute(self, context: Context) -> dict[str, Any]:
        """Commit the rows of that version again."""
        store, facts = self.datasets(), {"author": self.owner, "run": run_of(context)}
        ref = store.resolve(self.version)
        commit = store.restore(ref, app_key=task_of(context), **facts)
        self.log.info("%s has the rows of %s: %d", commit.ref, ref, commit.rows)
        return commit.summary()


class CheckContractOperator(MlopsOperator):
    """
    Check the new rows against what the champion was trained on.

    Returns the report, which is on record also when the task fails; only there it names rows and
    values, for ``forget`` cannot take them out of an XCom. Rows that break the contract
    are set aside by scoring. Without a champion there is nothing to check against, and the report
    says so.

    :param snapshot: what ``SnapshotTableOperator`` returned (templated).
    :param fail_on: what fails the task: ``"error"``: a column that is missing or of another type;
        ``"warn"``: also nulls, values out of range and new categories; ``"never"``: nothing, and
        scoring still refuses what it cannot score.
    :param fail_kinds: kinds of break that fail it in any case, such as ``"new category"``.
    :param skip: tasks of the same Dag that are skipped if this one fails for what it found, so that
        those that wait for them can go on.
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot")

    def __init__(
        self,
        *,
        snapshot: Xcom,
        fail_on: FailOn = "error",
        fail_kinds: Sequence[str] = (),
        skip: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.fail_on = fail_on
        self.fail_kinds = fail_kinds
        self.skip = skip

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Compare column by column, and note what was found.

        :raises ContractBrokenError: if something was found that fails the task.
        """
        from airflow_mlops.core.data.contract import SCHEMA, failing

        ref = DatasetRef.parse(self.snapshot["ref"])
        self._refuse_unknown()
        champion = self.ledger().standing(self.model).champion
        if champion is None:
            line = "no champion yet, so there is no contract"
            return {"status": "ok", "line": line, "breaks": [], "fatal": [], "dataset": str(ref)}
        breaks = self._breaks(ref, ModelRef(self.model, champion))
        stops = failing(breaks, self.fail_on, self.fail_kinds)
        stopping = [b for b in breaks if b.kind in SCHEMA or b in stops]
        status = "broken" if stopping else "warn" if breaks else "ok"
        who = f"the contract of {self.model}@{champion} on {ref}"
        line = f"{who}: {'; '.join(map(str, breaks)) or 'holds'}"
        finding = {"status": status, "dataset": str(ref)}
        plain = {
            "line": f"{who}: {'; '.join(b.counted for b in breaks) or 'holds'}",
            "breaks": [b.counted for b in breaks],
            "fatal": [b.counted for b in stopping],
        }
        named = {
            "line": line,
            "breaks": [str(b) for b in breaks],
            "fatal": list(map(str, stopping)),
        }
        kept = {**finding, **named, "plain": plain}
        self.observations().record(self.model, "contract", run_of(context), kept)
        self.log.info("%s", line)
        if stops:
            self.skip_tasks(self.skip)
            msg = (
                f"{who} is broken: {'; '.join(map(str, stops))}. Nothing is scored. Correct the "
                f"delivery, and the next run reads it anew; or train a model that knows such rows"
            )
            raise ContractBrokenError(msg)
        return finding | plain

    def _breaks(self, ref: DatasetRef, champion: ModelRef) -> "tuple[Break, ...]":
        """Compare the schema; and the rows, if they can be."""
        from airflow_mlops.core.data.contract import SCHEMA, Contract, row_breaks, schema_breaks

        table = self.datasets().open(ref)
        contract = Contract.from_dict(self.models().about(champion)["contract"])
        breaks = schema_breaks(contract, table.schema)
        if any(b.kind in SCHEMA for b in breaks):
            return breaks
        rows = table.between(datetime.fromisoformat(self.snapshot["since"])).to_arrow()
        return (*breaks, *row_breaks(contract, rows, table.key)[1])

    def _refuse_unknown(self) -> None:
        """Refuse words that would silently fail nothing."""
        from airflow_mlops.core.errors import ConfigurationError

        for name, words, known in (
            ("fail_on", [self.fail_on], get_args(FailOn)),
            ("fail_kinds", self.fail_kinds, get_args(BreakKind)),
        ):
            wrong = [word for word in words if word not in known]
            if wrong:
                msg = f"{name}={wrong[0]!r}; known: {', '.join(map(repr, known))}"
                raise ConfigurationError(msg)


class SelectRowsOperator(MlopsOperator):
    """
    Turn a decision to retrain into the rows to learn from, and the later rows to be judged on.

    The decision is the one whose event started this run, else the newest on record.

    :param label_column: column of the labels.
    :param span: how much history to learn from, such as ``"182d"``.
    :param embargo: rows so shortly before the hold-out are not learnt from, such as ``"2d"``.
    """

    template_fields = (*MlopsOperator.template_fields, "label_column", "span", "embargo")

    def __init__(self, *, label_column: str, span: str, embargo: str = "0d", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_column = label_column
        self.span = span
        self.embargo = embargo

    def execute(self, context: Context) -> dict[str, Any]:
        """Read the decision, and name the rows; nothing is copied."""
        from airflow_mlops.core.data.selection import train_and_holdout
        from airflow_mlops.core.errors import ConfigurationError, RejectedError

        state = self.ledger().weighed(self.model)
        number = newest_event(context, "decision")
        last = state.last("retrain")
        decision = self.entry(number) if number else last
        if decision is None:
            msg = f"no decision to retrain {self.model} is on record: airflow mlops retrain"
            raise ConfigurationError(msg)
        if decision.op != "retrain":
            msg = f"entry {decision.seq} of {self.model} is no decision to retrain: {decision.op}"
            raise RejectedError(msg)
        evidence, store = decision.evidence, self.datasets()
        pins = evidence.get("pins", {})
        span = duration(pins.get("window", self.span)) * float(evidence.get("share", 1.0))
        learn, holdout = train_and_holdout(
            store.open(DatasetRef.parse(pins.get("data", evidence["data"]))),
            store.open(DatasetRef.parse(evidence["labels"])),
            label=self.label_column,
            span=span,
            embargo=duration(self.embargo),
        )
        self.log.info("decision %d: %s", decision.seq, decision.reason)
        selection = {
            "decision": decision.seq,
            "reason": decision.reason,
            "burden": evidence["burden"],
            "params": evidence["params"],
            "features": pins.get("features"),
            "share": float(evidence.get("share", 1.0)),
            "pinned": "data" in pins,
            "train": learn.to_dict(),
            "holdout": holdout.to_dict(),
            "champion": state.champion,
            "epoch": state.epoch,
        }
        self.hand_over(context, "select", about_decision(selection), selection)
        return selection
