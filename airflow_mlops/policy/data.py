"""Words about data: where rows come from, and which of them to learn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_mlops.policy.words import Word, between, duration


@dataclass(frozen=True, slots=True)
class Table(Word):
    """
    Where new rows and their labels come from.

    :param conn_id: Airflow connection to the PostgreSQL server.
    :param table: table or view of the rows, ``schema.table``, or a query in parentheses.
    :param key: column that names a row; unique.
    :param time: timestamp column by which rows arrive.
    :param label: column that holds the label.
    :param labels: table of the labels, with the columns ``key``, ``time`` (of the row) and
        ``label``; labels usually arrive later than their rows.
    :param lateness: how late a row, or a label, may arrive behind newer ones and still be read;
        what is later stays unread, is counted, and is a finding of the monitor ``late``, which says
        which lateness would do. None: a day, which is no reason for an embargo.
    :param ahead: how far beyond now the time of a row may lie, such as ``"5m"`` if clocks differ.
        Rows beyond wait until their time has come, and are named by the monitor ``late``.
    :param columns: columns to read from ``table``; none: all.
    :param adopt: columns that may join the rows when ``table`` begins to offer them; others are
        left out, with a warning. If ``columns`` are named, name it there as well.
    :param stale: the time of the rows is the world's, and the newest of them should not be older
        than this when it is looked at, such as ``"2h"``; older is a finding of the monitor
        ``drift``. None: rows may have a time of their own, and their age is not judged.
    :param entity: column of who a row belongs to, such as a customer: in a canary or an A/B test
        all rows of one have one version. None: each row is assigned by its key.
    """

    conn_id: str
    table: str
    key: str
    time: str
    label: str
    labels: str
    lateness: str | None = None
    columns: tuple[str, ...] | None = None
    adopt: tuple[str, ...] = ()
    stale: str | None = None
    entity: str | None = None
    ahead: str = "0s"

    @property
    def read_again(self) -> str:
        """How far behind the newest row each snapshot reads again."""
        return "1d" if self.lateness is None else self.lateness

    def __post_init__(self) -> None:
        duration(self.read_again)
        duration(self.ahead)
        if self.stale is not None and not duration(self.stale):
            msg = f"Table stale is {self.stale!r}; no row is that new, allow it some time"
            raise ValueError(msg)
        entity: object = self.entity
        if entity is not None and not (isinstance(entity, str) and entity):
            msg = f"Table entity is {self.entity!r}; it has to be the name of a column"
            raise ValueError(msg)
        if self.entity and self.columns and self.entity not in self.columns:
            msg = f"Table entity {self.entity!r} is not among columns={list(self.columns)}; add it"
            raise ValueError(msg)
        for name in ("conn_id", "table", "key", "time", "label", "labels"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                msg = f"Table {name} is {value!r}; it has to be a name"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Arrival(Word):
    """
    A schedule: the monitor runs when the table holds newer rows, and never without.

    :param interval: time between two looks at the table, such as ``"5m"``.
    """

    interval: str = "5m"

    def __post_init__(self) -> None:
        if not duration(self.interval):
            msg = f"Arrival interval is {self.interval!r}; a minute or so is kind to the database"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Sql(Word):
    """
    Features by SQL, with what was known at the time of each row; computed once, as a dataset.

    :param select: one ``select`` of DuckDB over ``rows``, ``labels`` and ``inputs``, which makes
        key and time of the rows, too. If a row sees the future, it is refused.
    :param inputs: further names in it -> dataset.
    :param known_after: name in it -> how long after its own time a row of it is known, such as
        ``{"labels": "7d"}``.
    """

    select: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    known_after: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in self.known_after.items():
            duration(text)
            if name not in (names := ("rows", "labels", *self.inputs)):
                msg = f"Sql known_after {name!r} is no input; there are {', '.join(names)}"
                raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Window(Word):
    """
    Which rows to learn from.

    :param span: most history to train on, counted back from the newest labelled row.
    :param step: length of one window: the unit of monitoring, of labels and of the hold-out.
    :param shorter: shares of ``span`` that a retrain also tries: old rows may be wrong by now. One
        of them is taken if its model is surely better on the hold-out; empty: always ``span``.
    :param embargo: rows so shortly before the hold-out are not learnt from, such as ``"2d"``: as
        long as a label looks ahead, and a feature made of labels looks back. None: as long as rows
        and labels may be late (``lateness`` of the table, ``known_after`` of the labels).
    """

    span: str
    step: str = "7d"
    shorter: tuple[float, ...] = (0.25, 0.0625)
    embargo: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shorter", tuple(self.shorter))
        for share in self.shorter:
            between("Window shorter", share, 1e-6, 0.999999)
        if duration(self.span) < 2 * duration(self.step):
            msg = f"span {self.span!r} must hold two windows of {self.step!r} or more"
            raise ValueError(msg)
        if self.embargo is not None and duration(self.embargo) >= duration(self.span):
            msg = f"Window embargo {self.embargo!r} leaves nothing of span {self.span!r}"
            raise ValueError(msg)
