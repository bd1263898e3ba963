"""
One run of a recipe: the two functions of a user, called with care.

``build(rows, **params) -> frame`` and ``fit(X, y, *, seed, **params) -> estimator`` come from their
archives, never from the author's import path.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.data.selection import Labelled
from airflow_mlops.core.errors import (
    MlopsError,
    NotEnoughDataError,
    UserCodeError,
    refuse_exhausted,
)
from airflow_mlops.core.training.fingerprints import (
    ROUNDING,
    Fingerprint,
    frame_digest,
    precision,
)
from airflow_mlops.core.training.importance import importances, spread

if TYPE_CHECKING:
    import pandas as pd

PROBE_ROWS = 2_000
"""Rows on which a training function shows that it is deterministic."""

ANSWERS = 200
"""Newest training rows whose answers travel with the model."""

Verify = Literal["sample", "twice"]

Loss = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


SMALL = 50
"""Rows of a fit that tells whether an estimator can be stored."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """
    What one run of a recipe computed.

    :param steps: digest of what each step made, in their order.
    :param answers: predictions and the features' fingerprint of the newest training rows, the time
        of the first, and how many rows there are from then on; not their keys: a model that is
        signed keeps what is in it for ever.
    """

    estimator: Any
    steps: Mapping[str, str]
    answers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Backtest:
    """
    What a model of the first three quarters does on the last one.

    :param loss: mean loss.
    :param importance: column -> how much the loss rises when it is permuted; empty: not measured.
    """

    loss: float
    importance: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Functions:
    """
    The two functions of a recipe, loaded from their archives, and what they are given.

    :param features: source of ``build``, with its parameters: it is loaded bound to them.
    :param train: source of ``fit``.
    :param params: parameters that ``fit`` is called with.
    """

    rows: Labelled
    features: CodeArchive
    train: CodeArchive
    build: Callable[..., Any]
    fit: Callable[..., Any]
    params: Mapping[str, Any]
    seed: int

    @classmethod
    def load(
        cls,
        rows: Labelled,
        features: CodeArchive,
        train: CodeArchive,
        folder: Path,
        *,
        params: Mapping[str, Any],
        seed: int,
    ) -> Self:
        """
        Import both archives.

        :param folder: scratch folder for the code; it has to outlive the estimator.
        :raises UserCodeError: if a module fails to import, or lacks its function.
        """
        features.save(folder / "features")
        train.save(folder / "train")
        build, fit = features.load(folder / "features"), train.load(folder / "train")
        return cls(rows, features, train, build, fit, params, seed)

    def built(self) -> "pd.DataFrame":
        """
        Build the features of all rows.

        :raises UserCodeError: if ``build`` fails, or a row depends on its neighbours.
        """
        frame = self._built(self.rows)
        self._check_rows_alone(frame)
        return frame

    def backtest(
        self, features: "pd.DataFrame", loss: Loss, *, importance: bool = False
    ) -> Backtest:
        """
        Fit the first three quarters, and measure the loss on the last one.

        :param importance: whether to measure what each column of the rows is worth, too.
        """
        y = self.rows.y
        cut = len(y) * 3 // 4
        early = self.estimator(features.iloc[:cut], y[:cut])
        late = np.asarray(self.answers(early, features.iloc[cut:]), dtype=np.float64)
        worth = self._importance(early, cut, loss) if importance else {}
        return Backtest(float(loss(y[cut:], late).mean()), worth)

    def _importance(self, early: Any, cut: int, loss: Loss) -> dict[str, float]:
        """Permute columns of the rows from ``cut`` on, and ask what was fitted on those before."""
        late = self.rows.slice(cut)
        late = late.filter(spread(len(late)))
        names, y = late.rows.schema.names, late.y

        def lost(frame: "pd.DataFrame") -> float:
            found = self.answers(early, self.features_of(frame))
            return float(loss(y, np.asarray(found, dtype=np.float64)).mean())

        return importances(late.frame, [n for n in names if n not in (late.key, late.time)], lost)

    def fitted(self, features: "pd.DataFrame", verify: Verify | None = None) -> Fitted:
        """
        Fit on all rows.

        :param verify: which rows are fitted twice to see whether ``fit`` is deterministic.
        :raises UserCodeError: if ``fit`` fails or is not deterministic.
        """
        rows, y = self.rows, self.rows.y
        if verify == "sample":
            self._check_deterministic(features.tail(PROBE_ROWS), y[-PROBE_ROWS:])
        estimator = self.estimator(features, y)
        if verify == "twice":
            self._check_deterministic(features, y, estimator)
        newest = features.tail(ANSWERS)
        answers = np.asarray(self.answers(estimator, newest), dtype=np.float64)
        asked = rows.slice(len(rows) - len(newest))
        since = asked.rows[rows.time][0]
        return Fitted(
            estimator,
            {"rows": rows.digest, "features": frame_digest(features)},
            {
                "since": since.as_py().isoformat(),
                "rows": pc.sum(pc.greater_equal(rows.rows[rows.time], since)).as_py(),
                "predictions": answers.tolist(),
                # built alone, as whoever asks again will build them
                "features": Fingerprint.of(self._built(asked)).to_dict(),
            },
        )

    def predict(self, estimator: Any, rows: pa.Table) -> NDArray[np.float64]:
        """Build the features of other rows, and predict them."""
        frame = self.features_of(rows.to_pandas())
        return np.asarray(self.answers(estimator, frame), dtype=np.float64)

    def features_of(self, rows: "pd.DataFrame") -> Any:
        """
        Build the features of a frame.

        :raises UserCodeError: if ``build`` fails.
        """
        return called(self.features.name, self.build, rows)

    def _built(self, rows: Labelled) -> "pd.DataFrame":
        name, frame = self.features.name, self.features_of(rows.frame)
        if not hasattr(frame, "iloc"):
            found = "nothing" if frame is None else type(frame).__name__
            msg = f"{name} returned {found} for {len(rows)} rows; it has to return a frame"
            raise UserCodeError(msg)
        if len(frame) != len(rows):
            found = f"{len(frame)} rows"
            msg = f"{name} returned {found} for {len(rows)} rows; it has to return one row for each"
            raise UserCodeError(msg)
        return frame  # type: ignore[no-any-return]

    def _check_rows_alone(self, frame: "pd.DataFrame") -> None:
        """Build some of the rows again: a row has to get the same features in every batch."""
        rows = self.rows
        stop = len(rows) - 1  # without the last one, so that a look ahead shows, too
        start = stop - min(len(rows), PROBE_ROWS) // 2
        if start >= stop:
            return
        alone = self._built(rows.slice(start, stop))
        differing = _differing(frame.iloc[start:stop], alone)
        if differing:
            msg = (
                f"{self.features.name} depends on neighbouring rows (or on chance): "
                f"{len(alone)} rows built alone and among {len(rows)} differ in "
                f"{', '.join(map(repr, differing))}; compute such features in SQL, before the "
                "snapshot"
            )
            raise UserCodeError(msg)

    def estimator(self, features: "pd.DataFrame", y: NDArray[np.float64]) -> Any:
        """
        Fit once.

        :raises UserCodeError: if ``fit`` fails, or returns nothing that predicts.
        """
        name = self.train.name
        estimator = called(name, self.fit, features, y, seed=self.seed, **self.params)
        if not hasattr(estimator, "predict"):
            msg = f"{name} returned {type(estimator).__name__}; it has to return a fitted estimator"
            raise UserCodeError(msg)
        return estimator

    def small(self, features: "pd.DataFrame") -> Any:
        """
        Fit on few rows, some of each class: what comes of it tells what can be stored.

        :param features: of all rows.
        :return: the estimator; ``None``, if it cannot be fitted on so few.
        """
        y = self.rows.y
        values = np.unique(y)
        groups = [np.flatnonzero(y == v) for v in values] if len(values) <= SMALL // 2 else []
        each = max(2, SMALL // max(1, len(groups)))
        rows = np.sort(np.concatenate([g[:each] for g in groups] or [np.arange(len(y))[:SMALL]]))
        try:
            return self.estimator(features.iloc[rows], y[rows])
        except UserCodeError:
            return None  # the whole fit says it, if it is true there, too

    def answers(self, estimator: Any, features: "pd.DataFrame") -> Any:
        """Predict from features; see :func:`predicted`."""
        who = f"what {self.train.name} fitted"
        return called(who, predicted, estimator, features, classes=self.rows.classes)

    def _check_deterministic(
        self, features: "pd.DataFrame", y: NDArray[np.float64], estimator: Any = None
    ) -> None:
        """Fit twice, or once more, and compare what is predicted."""
        both = (estimator or self.estimator(features, y), self.estimator(features, y))
        first, second = (self.answers(one, features) for one in both)
        if not np.array_equal(first, second):
            moved = float(np.max(np.abs(np.asarray(first) - np.asarray(second))))
            msg = (
                f"{self.train.name} is not deterministic: two fits of the same "
                f"{len(features)} rows with seed {self.seed} differ by up to "
                f"{moved:.3g}; pass the seed to every source of randomness"
            )
            raise UserCodeError(msg)


def _differing(among: "pd.DataFrame", alone: "pd.DataFrame") -> list[Any]:
    """Return the columns in which two frames of the same rows differ."""
    one, two = list(among.columns), list(alone.columns)
    if one != two:
        return [n for n in dict.fromkeys([*one, *two]) if (n in one) != (n in two)] or two
    return [n for i, n in enumerate(one) if not _equal(among.iloc[:, i], alone.iloc[:, i])]


def _equal(one: "pd.Series[Any]", two: "pd.Series[Any]") -> bool:
    """
    Compare values, whatever their type.

    Floats may differ in the last digits: a matrix product rounds by the place of a row in it.
    """
    from pandas.api.types import is_float_dtype

    if not (is_float_dtype(one.dtype) and is_float_dtype(two.dtype)):
        one, two = (s.astype(object).reset_index(drop=True) for s in (one, two))
        return bool(one.equals(two))
    x, y = (s.to_numpy(dtype=np.float64, na_value=np.nan) for s in (one, two))
    size = float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))
    near = ROUNDING * max(precision(one), precision(two))
    return np.allclose(x, y, rtol=0.0, atol=near * size, equal_nan=True)


def called(name: str, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """
    Call a function of the user; whatever it raises becomes an error that names it.

    :param name: what it is called in the error.
    :param function: the function, called with ``values`` and ``named``.
    :raises UserCodeError: if it fails.
    """
    try:
        return function(*values, **named)
    except MlopsError:
        raise
    except Exception as error:
        refuse_exhausted(name, error)
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "/features/" in f.filename or "/train/" in f.filename]
        where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        msg = f"{name} raised {type(error).__name__}: {error}{where.replace('__init__.py, ', '')}"
        raise UserCodeError(msg) from error


def predicted(estimator: Any, features: "pd.DataFrame", *, classes: int = 2) -> Any:
    """
    Predict from features: of a classifier, the probability of the second class.

    Of a classifier of more classes, a row of probabilities; a class that it has not seen has none.

    :param classes: how many classes the labels are of; of quantities it does not count.
    :return: shape ``(n_rows,)``, or ``(n_rows, classes)`` of more than two.
    :raises NotEnoughDataError: if it knows fewer than two classes, or of two classes more.
    :raises UserCodeError: if its classes are no whole numbers from 0 on.
    """
    if not hasattr(estimator, "predict_proba"):
        return estimator.predict(features)
    chances = np.asarray(estimator.predict_proba(features))
    known = chances.shape[1]
    if known < 2 or (classes <= 2 and known > 2):
        wanted = "exactly" if classes <= 2 else "at least"
        msg = (
            f"{type(estimator).__name__} was fitted on {known} classes; a classifier needs rows of "
            f"{wanted} two, in every quarter of its training span"
        )
        raise NotEnoughDataError(msg)
    if classes <= 2:
        return chances[:, 1]
    places = np.asarray(getattr(estimator, "classes_", range(known)), dtype=np.float64)
    if not np.isin(places, range(classes)).all():
        msg = f"classes of {type(estimator).__name__} are {places.tolist()}; labels go from 0 on"
        raise UserCodeError(msg)
    found = np.zeros((len(chances), classes))
    found[:, places.astype(np.int64)] = chances
    return found
