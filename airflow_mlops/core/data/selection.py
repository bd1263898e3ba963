"""Labelled rows: one version of the rows joined with one version of their labels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.data.commits import WindowStats
from airflow_mlops.core.data.datasets import DatasetStore, Slice, Table
from airflow_mlops.core.data.digest import digest_of
from airflow_mlops.core.data.keys import has_repeats
from airflow_mlops.core.data.tables import COMPLETE
from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError, RejectedError
from airflow_mlops.core.refs import DatasetRef

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Which labelled rows: two dataset versions and a span of time.

    :param data: version of the rows, ``name@version``.
    :param labels: version of the labels, ``name@version``.
    :param label: column of ``labels`` that holds the label.
    :param since: first time, ISO 8601 (inclusive).
    :param until: end, ISO 8601 (exclusive).
    """

    data: str
    labels: str
    label: str
    since: str
    until: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the selection that :meth:`to_dict` wrote."""
        return cls(**data)

    def read(self, store: DatasetStore) -> "Labelled":
        """
        Join the rows with their labels, ordered by time; rows without a label are left out.

        A label that is NaN is none, as null is.

        :raises NotEnoughDataError: if no labelled row lies in the span.
        :raises ConfigurationError: if the label column is not in the labels, or the keys of rows
            and labels are of two types.
        :raises RejectedError: if a key repeats: each of its rows would get each of its labels; or
            if rows or labels are not those on record.
        """
        rows = store.open(DatasetRef.parse(self.data))
        labels = store.open(DatasetRef.parse(self.labels))
        if self.label not in labels.schema.names:
            known = ", ".join(labels.schema.names)
            msg = f"no column {self.label!r} in {self.labels}; it has {known}"
            raise ConfigurationError(msg)
        _check_keys(rows, labels)
        since, until = datetime.fromisoformat(self.since), datetime.fromisoformat(self.until)
        found = _on_record(labels.between(since, until))
        found = found.select([labels.key, self.label]).rename_columns([rows.key, _LABEL])
        found = found.filter(pc.invert(pc.is_null(found[_LABEL], nan_is_null=True)))
        asked = _on_record(rows.between(since, until))
        check_unique(asked[rows.key], rows.key, self.data)
        check_unique(found[rows.key], labels.key, self.labels)
        joined = asked.join(found, keys=rows.key, join_type="inner")
        if joined.num_rows == 0:
            msg = (
                f"no labelled row of {self.data} and {self.labels} between {self.since} and "
                f"{self.until}: wait for labels, or select a longer span"
            )
            raise NotEnoughDataError(msg)
        joined = joined.sort_by([(rows.time, "ascending"), (rows.key, "ascending")])
        return Labelled(self, joined.drop_columns([_LABEL]), joined[_LABEL], rows.time, rows.key)


def _on_record(part: Slice) -> pa.Table:
    """Read rows, and compare them with their digests: what is learnt from is what is on record."""
    found = part.to_arrow()
    part.check_digest(found)
    return found


_LABEL = "__label"
MOST_CLASSES = 100
"""More different labels than this are a quantity."""

EXAMPLES = 5
"""Values of a label that a message shows."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """
    Rows with their labels, in the order of time.

    :param rows: all columns of the source, shape ``(n_rows, n_columns)``.
    :param labels: label of each row.
    :param time: name of the time column.
    :param key: name of the key column.
    """

    selection: Selection
    rows: pa.Table
    labels: pa.ChunkedArray
    time: str
    key: str

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @property
    def y(self) -> NDArray[np.float64]:
        """Labels as numbers, shape ``(n_rows,)``."""
        return np.asarray(self.labels.cast(pa.float64()).to_numpy())

    @property
    def frame(self) -> "pd.DataFrame":
        """Rows as pandas, which is what a user's ``build`` is given."""
        return self.rows.to_pandas()  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        """Content digest of the rows with their labels."""
        table = self.rows.append_column(_LABEL, self.labels)
        return str(digest_of(table.to_batches()))

    def slice(self, start: int, stop: int | None = None) -> "Labelled":
        """Return rows ``start`` to ``stop``, by position in time."""
        stop = len(self) if stop is None else stop
        rows, labels = (part.slice(start, stop - start) for part in (self.rows, self.labels))
        return Labelled(self.selection, rows, labels, self.time, self.key)

    def filter(self, mask: pa.BooleanArray) -> "Labelled":
        """
        Return the rows where a mask is true.

        :param mask: shape ``(n_rows,)``.
        """
        rows, labels = self.rows.filter(mask), self.labels.filter(mask)
        return Labelled(self.selection, rows, labels, self.time, self.key)

    @property
    def classes(self) -> int:
        """How many different labels there are."""
        return len(self.labels.unique())

    def check_classes(self) -> None:
        """
        Refuse labels that are not classes: 0 and 1, or booleans, or whole numbers from 0 on.

        :raises NotEnoughDataError: if all labels are the same.
        :raises ConfigurationError: if there are other values, or a class between has no row.
        """
        values = self.labels.unique().to_pylist()
        if len(values) < 2:
            msg = (
                f"only one class in the {len(self)} labels {self.selection.label!r} between "
                f"{self.selection.since} and {self.selection.until}: {values[0]!r}; "
                "nothing can be learnt from it"
            )
            raise NotEnoughDataError(msg)
        if len(values) > MOST_CLASSES or set(values) != {*range(len(values))}:  # False is 0
            more = f" and {len(values) - EXAMPLES:,} more" if len(values) > EXAMPLES else ""
            msg = (
                f"label {self.selection.label!r} of {self.selection.labels} has to be a class for "
                f"a loss of probabilities: 0 or 1 (or a boolean), or whole numbers from 0 on, each "
                f"of which occurs, {MOST_CLASSES} at the most; found "
                f"{len(values)} values: {', '.join(map(repr, values[:EXAMPLES]))}{more}; offer it "
                "as one, for instance through a view with 'case when ... then 1 else 0 end', or "
                "choose a loss of quantities"
            )
            raise ConfigurationError(msg)


def check_unique(keys: pa.ChunkedArray, key: str, dataset: str) -> None:
    """
    Refuse keys that name more than one row; an append looks for them among its own rows only.

    :param key: name of the column.
    :param dataset: version the rows are of.
    :raises RejectedError: if a key repeats.
    """
    if not has_repeats(keys):
        return
    counts = keys.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    msg = (
        f"{len(twice)} values of key {key!r} repeat in {dataset}, such as "
        f"{', '.join(map(str, twice[:3]))}: it is unclear which row is meant; offer one row per "
        "key, for instance through a view, as a dataset of another name"
    )
    raise RejectedError(msg)


def _check_keys(rows: Table, labels: Table) -> None:
    one, two = (t.schema.field(t.key).type for t in (rows, labels))
    if one != two:
        msg = (
            f"key {rows.key!r} is {one} in {rows.ref} and {two} in {labels.ref}; offer both as one "
            "type, for instance through a view"
        )
        raise ConfigurationError(msg)


def labelled_windows(data: Table, labels: Table) -> tuple[WindowStats, ...]:
    """
    Return the complete windows of which at least 95 % of the rows have a label.

    Labels that come early are a biased sample, and a window that still fills up is judged anew
    every day.
    """
    found = {w.start: w.rows for w in labels.windows()}
    return tuple(w for w in data.closed() if found.get(w.start, 0) >= COMPLETE * w.rows)


def labelled_until(data: Table, labels: Table) -> datetime:
    """
    Return the end of the newest window of :func:`labelled_windows` (exclusive).

    :raises NotEnoughDataError: if there is none yet.
    """
    windows = labelled_windows(data, labels)
    if not windows:
        msg = (
            f"no complete window of {data.ref} is labelled in {labels.ref} yet ({labels.rows} "
            f"labels for {data.rows} rows): wait for more rows and labels"
        )
        raise NotEnoughDataError(msg)
    return datetime.fromisoformat(windows[-1].end)


def train_and_holdout(
    data: Table,
    labels: Table,
    *,
    label: str,
    span: timedelta,
    embargo: timedelta = timedelta(0),
) -> tuple[Selection, Selection]:
    """
    Split by time: the newest labelled window is held out, what came before is learnt.

    :param span: how much history to learn from, counted back from the hold-out.
    :param embargo: how long before the hold-out the rows to learn from end: a label that looks
        ahead, or a feature made of labels, would know what is held out.
    :raises ConfigurationError: if the embargo leaves no row to learn from.

    Source: Lopez de Prado, Advances in Financial Machine Learning, 2018, chapter 7.
    """
    if embargo >= span:
        msg = f"an embargo of {embargo} leaves nothing of a span of {span}; learn from a longer one"
        raise ConfigurationError(msg)
    end = labelled_until(data, labels)
    middle = end - labels.window
    bounds = [(middle - span, middle - embargo), (middle, end)]
    learn, hold = (
        Selection(str(data.ref), str(labels.ref), label, _iso(since), _iso(until))
        for since, until in bounds
    )
    return learn, hold


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
