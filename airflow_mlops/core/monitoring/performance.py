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
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.models import ModelStore

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = 8
PROBE_ROWS = 2_000
PROBE_TREES = 30
PROBE_CATEGORIES = 254
"""HistGradientBoosting has 255 bins."""

CLASSIFICATION = ("brier", "log_loss")


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
        champion_blocks, probe_blocks = (_blocks(self.loss(y, x)) for x in (p, probed[both]))
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
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        windows = self.labels.windows()
        origin = datetime.fromisoformat(windows[0].start)
        enough, start = 0, origin
        for window in reversed(windows):
            if datetime.fromisoformat(window.end) <= since and enough < PROBE_ROWS:
                enough, start = enough + window.rows, datetime.fromisoformat(window.start)
        recent = self._selection(start, since).read(self.store)
        recent = recent.slice(max(0, len(recent) - PROBE_ROWS))
        with self.models.opened(champion) as model:
            learn, ask = (_built(model, part.frame, champion) for part in (recent, rows))
        learn, ask = _learnable(learn, ask, champion)
        if self.metric not in CLASSIFICATION:
            regressor = HistGradientBoostingRegressor(max_iter=PROBE_TREES, random_state=0)
            return np.asarray(regressor.fit(learn, recent.y).predict(ask), dtype=np.float64)
        if len(np.unique(recent.y)) < 2:
            return np.full(len(rows), recent.y.mean())
        classifier = HistGradientBoostingClassifier(max_iter=PROBE_TREES, random_state=0)
        return np.asarray(classifier.fit(learn, recent.y).predict_proba(ask)[:, 1])

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


def _learnable(
    learn: "pd.DataFrame", ask: "pd.DataFrame", champion: ModelRef
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Turn features into what HistGradientBoosting learns from: numbers and categories."""
    import pandas as pd

    if list(learn.columns) != list(ask.columns):
        first, second = (", ".join(map(repr, frame.columns)) for frame in (learn, ask))
        msg = f"{champion}: build gave {second} for later rows and {first} for those before them"
        raise UserCodeError(msg)
    pairs = [_pair(learn.iloc[:, i], ask.iloc[:, i]) for i in range(learn.shape[1])]
    pairs = [p for p in pairs if not pd.isna(p[0]).all()]  # scikit-learn cannot bin such a column
    pairs = pairs or [(np.zeros(len(learn)), np.zeros(len(ask)))]
    one, two = (pd.DataFrame({f"{i}": pair[k] for i, pair in enumerate(pairs)}) for k in (0, 1))
    return one, two


def _pair(learn: "pd.Series[Any]", ask: "pd.Series[Any]") -> tuple[Any, Any]:
    """A column as numbers if it is, else as its most frequent values; others are missing."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    both = (learn, ask)
    if all(is_numeric_dtype(part.dtype) for part in both):
        numbers = [part.to_numpy(dtype=np.float64, na_value=np.nan) for part in both]
        return numbers[0], numbers[1]
    texts = [part.astype(object).map(str, na_action="ignore") for part in both]
    kept = texts[0].value_counts().index[:PROBE_CATEGORIES]
    known = [pd.Categorical(part.where(part.isin(kept)), categories=kept) for part in texts]
    return known[0], known[1]


def _blocks(losses: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(part.mean()) for part in np.array_split(losses, BLOCKS))
