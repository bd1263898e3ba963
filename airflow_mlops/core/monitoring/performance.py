"""
How the champion really does, once labels arrive, and whether a retrain would help.

Each labelled window is measured twice: by the predictions that were served, and by a cheap
challenger fitted on the newest rows before it. The second number is what no drift test gives.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from airflow_mlops.core.data.datasets import DatasetStore, Table
from airflow_mlops.core.data.selection import Labelled, Selection
from airflow_mlops.core.data.tables import COMPLETE
from airflow_mlops.core.errors import NotEnoughDataError, UserCodeError
from airflow_mlops.core.monitoring.challenger import ROWS, challenge
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.models import ModelStore

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = 8


@dataclass(frozen=True, slots=True)
class ServedWindow:
    """
    One labelled window that a model version served.

    :param index: number of the window in the dataset.
    :param rows: rows with a prediction and a label.
    :param champion: mean served loss of each block, in the order of time.
    :param probe: mean loss of the cheap challenger on the same blocks.
    """

    model: str
    index: int
    since: str
    until: str
    metric: str
    rows: int
    champion: tuple[float, ...]
    probe: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean served loss."""
        return float(np.mean(self.champion))

    @property
    def probe_loss(self) -> float:
        """Mean loss of the cheap challenger."""
        return float(np.mean(self.probe))

    @property
    def losses(self) -> NDArray[np.float64]:
        """Served loss, per block."""
        return np.array(self.champion, dtype=np.float64)

    @property
    def gain(self) -> NDArray[np.float64]:
        """What the challenger saves, per block; positive: a retrain would have helped."""
        return np.subtract(self.champion, self.probe, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"champion": list(self.champion), "probe": list(self.probe)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the window that :meth:`to_dict` wrote."""
        return cls(**{**data, "champion": tuple(data["champion"]), "probe": tuple(data["probe"])})


@dataclass(frozen=True, slots=True)
class PerformanceMonitor:
    """
    Measures the windows that a champion served.

    :param data: version of the rows.
    :param labels: version of the labels.
    :param label: column of the labels.
    :param metric: name of the per-row loss.
    :param loss: the per-row loss itself.
    """

    store: DatasetStore
    models: ModelStore
    observations: Observations
    data: Table
    labels: Table
    label: str
    metric: str
    loss: Any

    def measure(self, champion: ModelRef) -> tuple[ServedWindow, ...]:
        """
        Return every labelled window a version served; new ones are measured and stored.

        :param champion: the version that predicts now, or one that did.
        """
        known = {
            served.index: served
            for o in self.observations.read(champion.name, "performance", of=champion)
            if (served := ServedWindow.from_dict(o.body)).metric == self.metric
        }
        fresh: list[ServedWindow] = []
        first, last = self.observations.served_span(champion)
        for window in self.data.closed():
            since, until = (datetime.fromisoformat(t) for t in (window.start, window.end))
            if window.index in known or until <= first or since > last:
                continue
            served = self.observations.predictions(champion, since, until)
            if served.num_rows:
                fresh += self._measured(champion, window.index, since, until, served)
        for found in fresh:
            subject = f"{champion}:{found.index}"
            self.observations.record(champion.name, "performance", subject, found.to_dict())
        every = {**known, **{w.index: w for w in fresh}}
        return tuple(every[index] for index in sorted(every))

    def _measured(
        self, champion: ModelRef, index: int, since: datetime, until: datetime, served: pa.Table
    ) -> list[ServedWindow]:
        """
        Measure one window.

        Nothing while fewer than 95 % of its predictions have a label, or if no labels before it are
        there for the challenger to learn from.
        """
        try:
            rows = self._selection(since, until).read(self.store)
            probed = self._probe(champion, rows, since)
        except NotEnoughDataError:
            return []
        keys = rows.rows[rows.key].cast(pa.string()).to_pylist()
        predicted = dict(zip(served["key"].to_pylist(), served["p"].to_pylist(), strict=True))
        both = np.array([key in predicted for key in keys])
        if both.sum() < max(COMPLETE * served.num_rows, BLOCKS):
            return []
        p = np.array([predicted[key] for key, has in zip(keys, both, strict=True) if has])
        y = rows.y[both]
        champion_blocks, probe_blocks = (blocks(self.loss(y, x)) for x in (p, probed[both]))
        return [
            ServedWindow(
                str(champion),
                index,
                since.isoformat(),
                until.isoformat(),
                self.metric,
                len(y),
                champion_blocks,
                probe_blocks,
            )
        ]

    def _probe(self, champion: ModelRef, rows: Labelled, since: datetime) -> NDArray[np.float64]:
        """Predict a window with a small model of the newest labelled rows before it."""
        windows = self.labels.windows()
        origin = datetime.fromisoformat(windows[0].start)
        enough, start = 0, origin
        for window in reversed(windows):
            if datetime.fromisoformat(window.end) <= since and enough < ROWS:
                enough, start = enough + window.rows, datetime.fromisoformat(window.start)
        recent = self._selection(start, since).read(self.store)
        recent = recent.slice(max(0, len(recent) - ROWS))
        with self.models.opened(champion) as model:
            learn, ask = (_built(model, part.frame, champion) for part in (recent, rows))
        return challenge(learn, recent.y, ask, metric=self.metric, name=f"{champion}: build")

    def _selection(self, since: datetime, until: datetime) -> Selection:
        return Selection(
            str(self.data.ref),
            str(self.labels.ref),
            self.label,
            since.isoformat(),
            until.isoformat(),
        )


def _built(model: Any, rows: "pd.DataFrame", champion: ModelRef) -> "pd.DataFrame":
    """Build the features of a version with the user's function that is archived in it."""
    name = f"{champion}: build"
    try:
        frame = model.build(rows)
    except Exception as error:  # the user's function may raise anything
        msg = (
            f"{name} raised {type(error).__name__} on {len(rows)} rows: {error}; correct it, and "
            "train and promote a version that has it"
        )
        raise UserCodeError(msg) from error
    if not hasattr(frame, "iloc") or len(frame) != len(rows):
        msg = f"{name} gave {type(frame).__name__} for {len(rows)} rows; it gives a row for each"
        raise UserCodeError(msg)
    return frame  # type: ignore[no-any-return]


def blocks(losses: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the mean of each of the contiguous blocks of a window, in the order of time."""
    return tuple(float(part.mean()) for part in np.array_split(losses, BLOCKS))
