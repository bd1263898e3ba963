"""Models of a simulation: fitted and asked in this process, never stored."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from airflow_mlops.core.data.selection import Labelled, Selection
from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.metrics import Metric
from airflow_mlops.core.monitoring.challenger import ROWS, Own, challenge
from airflow_mlops.core.retraining.history import History
from airflow_mlops.core.retraining.simulation import Setting
from airflow_mlops.core.training.functions import Functions
from airflow_mlops.core.training.own_metrics import load_loss
from airflow_mlops.policy import PROBABILITIES, Drift

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

SAMPLE = 500
"""Rows that show which columns the features are made of."""


@dataclass(frozen=True, slots=True)
class Fit:
    """
    A fitted model.

    :param first: first window it learnt from.
    :param end: window behind the last one it learnt from.
    :param base: loss of its own backtest.
    :param importance: what each column is worth to it, if the policy asks.
    """

    estimator: Any
    first: int
    end: int
    base: float = 0.0
    importance: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Learner:
    """Fits and asks models on the windows of a history; features are built once."""

    history: History
    setting: Setting
    functions: Functions
    frame: "pd.DataFrame"
    loss: Metric
    own: Own | None = None

    @classmethod
    def load(cls, history: History, setting: Setting, folder: Path) -> Self:
        """
        Import the user's functions, and build the features of all rows.

        :param folder: scratch folder for the code.
        :raises UserCodeError: if one of them is missing or fails.
        """
        name, ends = setting.model, (history.times[0], history.times[-1])
        span = [moment.isoformat() for moment in ends]
        rows = Labelled(
            Selection(f"{name}@1", f"{name}.labels@1", history.label, *span),
            history.rows,
            pa.chunked_array([pa.array(history.y)]),
            history.time,
            history.key,
        )
        if setting.metric in PROBABILITIES:
            rows.check_classes()
        named = setting.policy.challenger
        own = Own.load(named, folder / "challenger") if named else None
        functions = Functions.load(
            rows,
            setting.features,
            setting.train,
            folder,
            params=setting.params,
            seed=setting.seed,
        )
        loss = load_loss(setting.metric)
        return cls(history, setting, functions, functions.built(), loss, own)

    def fit(self, first: int, end: int, *, params: Any = None) -> Fit:
        """Fit on windows ``first`` to ``end``, ``end`` excluded."""
        rows, functions = self.rows(first, end), self.functions
        if params:
            functions = replace(functions, params={**functions.params, **params})
        return Fit(functions.estimator(self.frame.iloc[rows], self.history.y[rows]), first, end)

    def based(self, model: Fit) -> Fit:
        """Measure a model's own backtest, and what the columns are worth if the policy asks."""
        rows = self.rows(model.first, model.end)
        part = replace(self.functions, rows=self.functions.rows.slice(rows.start, rows.stop))
        word = self.setting.policy.trigger(Drift)
        asks = word is not None and word.weights == "importance"
        tested = part.backtest(self.frame.iloc[rows], self.loss, importance=asks)
        return replace(model, base=tested.loss, importance=tested.importance)

    def predict(self, model: Fit, window: int) -> Floats:
        """Predict the rows of a window."""
        rows = self.history.span(window)
        found = self.functions.answers(model.estimator, self.frame.iloc[rows])
        return np.asarray(found, dtype=np.float64)

    def losses(self, predicted: Floats, window: int) -> Floats:
        """Return the loss of each row of a window."""
        y = self.history.y[self.history.span(window)]
        return self.loss(y, predicted)

    def probe(self, window: int, like: Floats) -> Floats:
        """
        Ask the cheap challenger of the newest rows before a window.

        :param like: what the champion predicted: a column for each class, or one number a row.
        :raises UserCodeError: if it is the user's own, and fails.
        """
        asked = self.history.span(window)
        learn = slice(max(0, asked.start - ROWS), asked.start)
        return challenge(
            self.frame.iloc[learn],
            self.history.y[learn],
            self.frame.iloc[asked],
            metric=self.setting.metric,
            name=self.setting.features.name,
            own=self.own,
            classes=like.shape[1] if like.ndim == 2 else 2,
        )

    def rows(self, first: int, end: int) -> slice:
        """Return the rows of windows ``first`` to ``end``, but for those under the embargo."""
        history = self.history
        start, stop = history.bounds[first], history.bounds[end]
        latest = history.start(end) - self.setting.embargo
        return slice(start, bisect.bisect_left(history.times, latest, start, stop))

    def used(self, columns: Sequence[str]) -> list[str]:
        """Return the columns that the features are made of: without them, others come out."""
        frame = self.history.rows.slice(0, SAMPLE).to_pandas()
        whole = self.functions.features_of(frame)

        def missed(name: str) -> bool:
            try:
                return not self.functions.features_of(frame.drop(columns=[name])).equals(whole)
            except UserCodeError:
                return True

        return [name for name in columns if missed(name)]
