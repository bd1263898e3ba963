"""Random histories of one dataset, beside a model of what each version has to hold."""

import random
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from airflow_mlops.core.data import retention
from airflow_mlops.core.data.forgetting import forget
from airflow_mlops.core.data.retention import remove
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.refs import DatasetRef

START, HOUR = datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=1)
SECOND_COLUMN = "late"


class History:
    """
    One dataset, what its source holds, and what each of its versions has to hold.

    :param source: key -> hour and value, as the source has them now.
    :param versions: version -> key -> hour, value and value of the column that came later.
    """

    def __init__(self, store, seed):
        self.store, self.chance = store, random.Random(seed)
        self.source, self.versions, self.gone = {}, {}, set()
        self.hour, self.wide, self.number = 0, False, 0

    def newest(self):
        return self.versions[max(self.versions)] if self.versions else {}

    def append(self):
        for _ in range(self.chance.randrange(1, 60)):
            self.hour += self.chance.choice((0, 1, 1, 5))
            self.source[self.key()] = (self.hour, self.chance.random())
        for key in self.chance.sample(sorted(self.source), min(3, len(self.source))):
            self.source[key] = (self.source[key][0], self.chance.random())  # corrected
        self.wide = self.wide or self.chance.random() < 0.2
        lateness = timedelta(days=self.chance.choice((0, 0, 3, 30)))
        before = self.newest()
        commit = self.store.append(
            "d",
            ArrowSource(self.table(), "k", "at"),
            app_key=self.key(),
            time="at",
            key="k",
            window=timedelta(days=2),
            lateness=lateness,
            adopt=[SECOND_COLUMN] if self.wide else (),
        )
        since = self.reread(before, lateness)
        kept = {k: v for k, v in before.items() if v[0] < since}
        extra = 1.0 if self.wide else None
        fresh = {k: (h, x, extra) for k, (h, x) in self.source.items() if h >= since}
        self.note(commit, {**kept, **fresh})

    def reread(self, before, lateness):
        if not before:
            return 0
        late = max(hour for hour, _, _ in before.values()) - lateness // HOUR
        return max(0, late // 48 * 48)

    def restore(self):
        whole = [v for v in self.versions if v not in self.gone]
        version = self.chance.choice(whole)
        commit = self.store.restore(DatasetRef("d", version), app_key=self.key())
        self.note(commit, self.versions[version])
        self.wide = self.wide or any(v[2] for v in self.versions[version].values())

    def forget(self):
        keys = self.chance.sample(sorted(self.newest()), min(2, len(self.newest())))
        forget(self.store, "d", keys)
        for key in keys:
            self.source.pop(key, None)
        for version, rows in self.versions.items():
            self.versions[version] = {k: v for k, v in rows.items() if k not in keys}
        self.note(self.store.commits("d")[0], self.newest())

    def remove(self):
        keep = self.chance.sample(sorted(self.versions), 1)
        self.gone |= {*remove(self.store, "d", keep=keep, older=0 * HOUR, why="test").versions}

    def note(self, commit, rows):
        self.versions.setdefault(DatasetRef.parse(commit.ref).version, dict(rows))

    def key(self):
        self.number += 1
        return f"change {self.number}"

    def table(self):
        rows = sorted(self.source.items())
        columns = {
            "k": [k for k, _ in rows],
            "at": pa.array([START + h * HOUR for _, (h, _) in rows], pa.timestamp("us", "UTC")),
            "x": [x for _, (_, x) in rows],
        }
        return pa.table(columns | ({SECOND_COLUMN: [1.0] * len(rows)} if self.wide else {}))

    def check(self):
        for version, wanted in self.versions.items():
            table = self.store.open(DatasetRef("d", version))
            if version in self.gone:
                with pytest.raises(DatasetNotFoundError, match="are gone"):
                    table.verify()
                continue
            table.verify()
            found = table.between().to_arrow().to_pylist()
            assert {
                row["k"]: ((row["at"] - START) // HOUR, row["x"], row.get(SECOND_COLUMN))
                for row in found
            } == wanted
            assert len(found) == table.rows == table.between().profile().rows == len(wanted)
            assert table.watermark >= max((r["at"] for r in found), default=START)


@pytest.mark.parametrize("seed", range(8))
def test_every_version_holds_what_it_has_to(dataset_store, monkeypatch, seed):
    monkeypatch.setattr(retention, "SHORTEST", 0 * HOUR)
    history = History(dataset_store, seed)
    history.append()
    for _ in range(14):
        change = history.chance.choices(
            (history.append, history.restore, history.forget, history.remove), (6, 2, 2, 1)
        )[0]
        change()
        history.check()
