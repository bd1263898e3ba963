"""Who met which version, and what came of it: two tables of PostgreSQL."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.monitoring.citations import sums
from airflow_mlops.core.monitoring.observations import Observations, copy_rows
from airflow_mlops.core.rollout.arms import Arm, Arms
from airflow_mlops.core.rollout.assignment import Split
from airflow_mlops.core.rollout.looks import Look, look
from airflow_mlops.core.rollout.shadow import look_at_pairs
from airflow_mlops.core.rollout.stages import Begun
from airflow_mlops.core.training.own_metrics import load_loss
from airflow_mlops.policy import Shadow

if TYPE_CHECKING:
    import psycopg

_COLUMNS = {
    "key": "text",
    "entity": "text",
    "arm": "text",
    "exposed_at": "timestamptz",
    "latency_ms": "double precision",
    "failed": "boolean",
}

_REQUESTS = """
select arm, count(*), count(*) filter (where failed), count(latency_ms),
  count(*) filter (where latency_ms > %s),
  percentile_cont(0.95) within group (order by latency_ms), max(exposed_at)
from mlops.exposures where model = %s and experiment = %s group by arm
"""

# A unit is an entity: the mean of its outcomes counts once, however many requests it made.
_UNITS = """
select arm, crossed, count(*), count(mean), avg(mean), var_samp(mean) from (
  select min(e.arm) as arm, min(e.arm) <> max(e.arm) as crossed, avg(o.value) as mean
  from mlops.exposures e left join mlops.outcomes o
    on o.model = e.model and o.experiment = e.experiment and o.key = e.key and o.metric = %s
  where e.model = %s and e.experiment = %s group by e.entity) as units
group by arm, crossed
"""

_UNSETTLED = """
select key, coalesce(p.scores, array[p.prediction])
from mlops.exposures e join mlops.predictions p using (model, version, key)
where model = %s and e.experiment = %s and not exists (select from mlops.outcomes o
  where o.model = e.model and o.experiment = e.experiment and o.key = e.key and o.metric = %s)
"""


@dataclass(frozen=True, slots=True)
class Exposures:
    """
    Exposures and outcomes of one database.

    :param observations: the findings and predictions of the same database.
    """

    observations: Observations

    def write(self, split: Split, rows: pa.Table) -> int:
        """
        Store who met which version; of several of a key, the first stays.

        :param split: the split by which the keys were assigned.
        :param rows: columns ``key`` (the request), ``entity`` (who is assigned), ``arm`` and
            ``exposed_at`` (clock of the data); if known ``latency_ms`` and ``failed``.
        :return: number of new exposures.
        :raises ConfigurationError: if no stage is running, or a value has no place in it.
        """
        if not split.experiment:
            msg = f"no stage of {split.model} is running, so there is nothing to be exposed to"
            raise ConfigurationError(msg)
        names = [name for name in _COLUMNS if name in rows.column_names]
        kinds = ", ".join(f"{name} {_COLUMNS[name]}" for name in names)
        said = ", ".join("coalesce(failed, false)" if n == "failed" else n for n in names)
        insert = (
            f"insert into mlops.exposures (model, experiment, version, {', '.join(names)}) "  # noqa: S608
            f"select %s, %s, case arm when 'candidate' then %s else %s end, {said} "
            "from arrived on conflict (model, experiment, key) do nothing"
        )
        values = (split.model, split.experiment, split.candidate, split.champion)
        create = f"create temporary table arrived ({kinds}) on commit drop"
        return self._insert(create, rows.select(names), insert, values)

    def write_outcomes(self, begun: Begun, metric: str, rows: pa.Table) -> int:
        """
        Store what came of exposures; of several of a key, the first stays.

        :param begun: the stage whose exposures these are.
        :param metric: what was measured, such as ``brier`` or ``conversion``.
        :param rows: columns ``key`` (the request) and ``value``.
        :return: number of new outcomes.
        :raises ConfigurationError: if a value is no finite number.
        """
        return self._insert(
            "create temporary table arrived (key text, value double precision) on commit drop",
            rows.select(("key", "value")),
            "insert into mlops.outcomes (model, experiment, metric, key, value) "
            "select %s, %s, %s, key, value from arrived "
            "on conflict (model, experiment, key, metric) do nothing",
            (begun.model, begun.experiment, metric),
        )

    def settle(self, begun: Begun, labels: pa.Table) -> int:
        """
        Store the losses of exposed rows whose labels are known: their outcomes, of a batch.

        :param begun: the stage, as it is on record; its metric is a per-row loss.
        :param labels: columns ``key`` (text, as exposures and predictions have it) and ``label``.
        :return: number of new outcomes.
        """
        with self._reading() as connection:
            rows = connection.execute(_UNSETTLED, (begun.model, begun.experiment, begun.metric))
            predicted = _table(rows.fetchall(), {"key": pa.string(), "p": _SAID})
        found = _labelled(predicted, labels)
        if not found.num_rows:
            return 0
        losses = load_loss(begun.metric)(found["label"].to_numpy(), _answers(found["p"]))
        rows = pa.table({"key": found["key"], "value": losses})
        return self.write_outcomes(begun, begun.metric, rows)

    def losses(self, begun: Begun, labels: pa.Table, *, until: datetime) -> NDArray[np.float64]:
        """
        Return the losses of the champion's own predictions, of the rows whose label is known.

        :param begun: whose champion and metric, and since when.
        :param labels: columns ``key`` (text) and ``label``.
        :param until: up to when, exclusive.
        :return: shape ``(n_rows,)``.
        """
        with self._reading() as connection:
            rows = connection.execute(
                "select key, coalesce(scores, array[prediction]) from mlops.predictions "
                "where model = %s and version = %s and observed_at >= %s and observed_at < %s",
                (begun.model, begun.champion, begun.since, until),
            ).fetchall()
        found = _labelled(_table(rows, {"key": pa.string(), "p": _SAID}), labels)
        y = found["label"].to_numpy()
        return np.asarray(load_loss(begun.metric)(y, _answers(found["p"])) if len(y) else y)

    def _insert(self, create: str, rows: pa.Table, insert: str, values: tuple[Any, ...]) -> int:
        with self.observations.connected() as connection, connection.transaction():
            connection.execute(create)
            copy_rows(connection, "copy arrived from stdin (format csv)", rows)
            return connection.execute(insert, values).rowcount

    @contextlib.contextmanager
    def _reading(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        """
        Read without nested loops.

        Minutes after rows came in, PostgreSQL has no statistics of them and takes them for a few:
        joined in a nested loop, 100,000 exposures and their outcomes took more than ten minutes.
        """
        with self.observations.connected() as connection, connection.transaction():
            connection.execute("set local enable_nestloop = off")
            yield connection

    def arms(self, begun: Begun) -> Arms:
        """
        Read what both arms of a stage have shown so far, added up in the database.

        :param begun: the stage, as it is on record.
        """
        place = (begun.model, begun.experiment)
        with self._reading() as connection:
            requests = connection.execute(_REQUESTS, (begun.stage.p95_ms, *place)).fetchall()
            units = connection.execute(_UNITS, (begun.metric, *place)).fetchall()
        of_arm = {arm: numbers for arm, crossed, *numbers in units if not crossed}
        crossed = sum(row[2] for row in units if row[1])
        times = [row[6] for row in requests]
        found = {arm: _arm(of_arm.get(arm), numbers) for arm, *numbers in requests}
        return Arms(
            found.get("champion", Arm()),
            found.get("candidate", Arm()),
            crossed,
            max(times).astimezone(UTC).isoformat() if times else "",
        )

    def cited(self, begun: Begun) -> dict[str, Any]:
        """Return what a look at a stage rests on, as the entry of its end names it."""
        names = ("model", "experiment", "champion", "candidate", "since")
        of = {name: getattr(begun, name) for name in names}
        shadow = isinstance(begun.stage, Shadow)
        tables = ("exposures", "predictions" if shadow else "outcomes")
        return {"of": of, "rows": sums(self.observations, of, dict.fromkeys(tables, ""))}

    def look(self, begun: Begun, *, now: datetime | None = None) -> Look:
        """
        Look at a canary or an A/B test.

        :param begun: the stage, as it is on record.
        :param now: time by the clock of the data; none: that of the newest exposure.
        """
        return look(begun, self.arms(begun), now=now)

    def look_at_shadow(self, begun: Begun, labels: pa.Table, *, now: datetime) -> Look:
        """
        Look at a shadow: the predictions of both versions, and the labels that are known.

        :param begun: the stage, as it is on record.
        :param labels: columns ``key`` (text, as predictions have it) and ``label``.
        :param now: time by the clock of the data.
        """
        pairs = self._pairs(begun, labels)
        y, loss = pairs["label"].to_numpy(), load_loss(begun.metric)
        first, second = (loss(y, _answers(pairs[n])) if len(y) else y for n in ("a", "b"))
        return look_at_pairs(
            begun,
            pairs["at"].to_numpy(),
            (first, second),
            now=now,
            candidate=self.arms(begun).candidate,
        )

    def _pairs(self, begun: Begun, labels: pa.Table) -> pa.Table:
        """Join the predictions of both versions since the stage began with the labels, by time."""
        with self._reading() as connection:
            rows = connection.execute(
                "select key, a.observed_at, coalesce(a.scores, array[a.prediction]), "
                "coalesce(b.scores, array[b.prediction]) from mlops.predictions a "
                "join mlops.predictions b using (model, key) where model = %s and a.version = %s "
                "and b.version = %s and a.observed_at >= %s",
                (begun.model, begun.champion, begun.candidate, begun.since),
            ).fetchall()
        kinds = {"key": pa.string(), "at": pa.timestamp("us", "UTC")}
        predicted = _table(rows, {**kinds, "a": _SAID, "b": _SAID})
        found = _labelled(predicted, labels)
        order = pc.sort_indices(found, sort_keys=[("at", "ascending"), ("key", "ascending")])
        return found.take(order)


_SAID = pa.list_(pa.float64())
"""One probability or number; of more than two classes, a probability for each."""


def _labelled(predicted: pa.Table, labels: pa.Table) -> pa.Table:
    """Return the rows whose label is known, with it; joined by places: Arrow joins no lists."""
    places = predicted.select(["key"]).append_column("place", pa.array(np.arange(len(predicted))))
    both = places.join(_finite(labels), "key", join_type="inner")
    found = predicted.take(both["place"])
    return found.append_column("label", both["label"])


def _answers(said: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return what losses are computed of: shape ``(n_rows,)``, or ``(n_rows, n_classes)``."""
    found = np.array(said.to_pylist(), dtype=np.float64)
    return found[:, 0] if found.shape[1] == 1 else found


def _table(rows: Sequence[Sequence[Any]], kinds: Mapping[str, Any]) -> pa.Table:
    """Make a table of what the database answered."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(kinds)
    arrays = [pa.array(part, kind) for part, kind in zip(columns, kinds.values(), strict=True)]
    return pa.table(arrays, names=list(kinds))


def _finite(labels: pa.Table) -> pa.Table:
    """Return the labels that are known, as numbers."""
    known = pa.table({"key": labels["key"], "label": labels["label"].cast(pa.float64())})
    return known.filter(pc.is_finite(known["label"]))  # null is not finite either


def _arm(units: Sequence[Any] | None, requests: Sequence[Any]) -> Arm:
    """Put the two answers of the database about one arm together."""
    number, outcomes, mean, variance = units or (0, 0, None, None)
    return Arm(number, requests[0], outcomes, mean, variance, *requests[1:5])
