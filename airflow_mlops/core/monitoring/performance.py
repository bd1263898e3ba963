"""
How the champion really does, once labels arrive, and whether a retrain would help.

Each labelled window is measured twice: by the predictions that were served, and by a cheap
challenger fitted on the newest rows before it. The second number is what no drift test gives.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from airflow_mlops.core.data.commits import WindowStats
from airflow_mlops.core.data.datasets import DatasetStore, Table
from airflow_mlops.core.data.selection import Labelled, Selection
from airflow_mlops.core.data.tables import COMPLETE
from airflow_mlops.core.errors import (
    ConfigurationError,
    NotEnoughDataError,
    UserCodeError,
    refuse_exhausted,
)
from airflow_mlops.core.metrics import BLOCKS, estimates
from airflow_mlops.core.monitoring.challenger import ROWS, Own, challenge
from airflow_mlops.core.monitoring.findings import parsed
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.monitoring.served import Measured, ServedWindow, Waiting, blocks
from airflow_mlops.core.monitoring.slices import Part, judge_slices
from airflow_mlops.core.monitoring.unlabelled import MONITOR as ESTIMATE
from airflow_mlops.core.monitoring.unlabelled import Guess, binned, expected
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.models import BASE_LOSS, ModelStore
from airflow_mlops.policy import PROBABILITIES

if TYPE_CHECKING:
    import pandas as pd

MONITOR = "performance"

SAID = 500
"""Letters of what a challenger that failed says for itself."""


@dataclass(frozen=True, slots=True)
class _Cohort:
    """
    The predictions of one complete window.

    :param labels: digest and number of its labels; empty and 0 if there are none.
    """

    window: WindowStats
    served: pa.Table
    labels: tuple[str, int]

    def waits(self, labelled: int, why: str = "") -> Waiting:
        return Waiting(self.window.index, labelled, self.served.num_rows, why)


@dataclass(frozen=True, slots=True)
class PerformanceMonitor:
    """
    Measures the windows that a champion served.

    :param data: version of the rows.
    :param labels: version of the labels.
    :param label: column of the labels.
    :param metric: name of the per-row loss.
    :param loss: the per-row loss itself.
    :param slices: columns of the rows by which the loss is measured, too.
    :param challenger: ``module:function`` of the user's own challenger; none: 30 small trees. If it
        fails, the window is measured without, and says why.
    """

    store: DatasetStore
    models: ModelStore
    observations: Observations
    data: Table
    labels: Table
    label: str
    metric: str
    loss: Any
    slices: Sequence[str] = ()
    challenger: str | None = None

    def measure(self, champion: ModelRef) -> Measured:
        """
        Return every labelled window a version served; new ones are measured and stored.

        Rows that it has learnt from are no rows that it served, whoever scored them.

        A window whose labels have changed since is measured anew.

        :param champion: the version that predicts now, or one that did.
        :raises ConfigurationError: if a column to slice by is none of the rows, or holds lists or
            structures.
        """
        self._check_slices()
        learnt = self.models.get(champion).learnt_until
        known, guesses = self._known(champion, learnt)
        fresh, foreseen, waiting = [], [], []
        holdout = cache(partial(self._holdout, champion))
        for cohort in self._cohorts(champion, known, learnt):
            index = cohort.window.index
            if index not in guesses and index not in known:
                guess = self._guess(champion, cohort, known)
                if guess is not None:
                    guesses[index] = guess
                    foreseen.append(guess)
            found = self._measured(champion, cohort, holdout)
            if isinstance(found, ServedWindow):
                known[index] = found
                fresh.append(found)
            elif index not in known:
                waiting.append(found)
        windows = tuple(known[index] for index in sorted(known))
        measured = Measured(windows, tuple(waiting), guesses)
        self._record(champion, measured, fresh, foreseen)
        return measured

    def _known(
        self, champion: ModelRef, learnt: datetime | None
    ) -> tuple[dict[int, ServedWindow], dict[int, Guess]]:
        """Return what is on record, by window."""
        read = self.observations.read
        windows = (
            parsed(o, ServedWindow.from_dict) for o in read(champion.name, MONITOR, of=champion)
        )
        guesses = (parsed(o, Guess.from_dict) for o in read(champion.name, ESTIMATE, of=champion))
        return (
            {w.index: w for w in windows if w.metric == self.metric and _is_new(w.since, learnt)},
            {g.index: g for g in guesses if g.metric == self.metric and _is_new(g.since, learnt)},
        )

    def _record(
        self,
        champion: ModelRef,
        measured: Measured,
        fresh: Sequence[ServedWindow],
        foreseen: Sequence[Guess],
    ) -> None:
        """Put on record what is new; the newest window comes last, for it sums up the others."""
        name = champion.name
        newest = measured.windows[-1:]
        windows = (*(w for w in fresh if w not in newest), *newest)
        bodies = [
            *((ESTIMATE, g.index, g.to_dict()) for g in foreseen),
            *((MONITOR, w.index, measured.body(w)) for w in windows),
        ]
        self.observations.record_all(
            (name, monitor, f"{champion}:{index}", body) for monitor, index, body in bodies
        )

    def _cohorts(
        self, champion: ModelRef, known: dict[int, ServedWindow], learnt: datetime | None
    ) -> Iterator[_Cohort]:
        """Yield the complete windows that were served, but for those that need no measuring."""
        labels = {w.start: (w.digest, w.rows) for w in self.labels.windows()}
        first, last = self.observations.served_span(champion)
        for window in self.data.closed():
            since, until = window.span
            found = labels.get(window.start, ("", 0))
            old = known.get(window.index)
            same = old is not None and old.labels in ("", found[0])
            if old is not None and old.unprobed and window.index == max(known):
                same = False  # its challenger may be mended by now
            if same or until <= first or since > last or not _is_new(window.start, learnt):
                continue
            served = self.observations.predictions(champion, since, until)
            if served.num_rows:
                yield _Cohort(window, served, found)

    def _guess(
        self, champion: ModelRef, cohort: _Cohort, known: dict[int, ServedWindow]
    ) -> Guess | None:
        """Say what to expect of a window, from what came true in those before it."""
        window, p = cohort.window, np.asarray(cohort.served["p"].to_numpy())
        past = [w.bins for w in known.values() if w.bins and w.index < window.index]
        several = "scores" in cohort.served.schema.names
        found = None if several else expected(self.metric, p, past)
        if found is None or not np.isfinite(found).all():
            return None
        loss, accuracy = found
        span = window.start, window.end
        return Guess(
            str(champion), window.index, *span, self.metric, len(p), loss, accuracy, len(past)
        )

    def _measured(
        self, champion: ModelRef, cohort: _Cohort, holdout: Callable[[], Part | None]
    ) -> ServedWindow | Waiting:
        """
        Measure one window.

        It waits while fewer than 95 % of its predictions have a label, if no labels before it are
        there for the challenger to learn from, or if the metric is not defined on it.
        """
        (since, until), served = cohort.window.span, cohort.served
        needed = max(COMPLETE * served.num_rows, BLOCKS)
        if cohort.labels[1] < needed:
            return cohort.waits(min(cohort.labels[1], served.num_rows))
        try:
            rows = self._selection(since, until).read(self.store)
        except NotEnoughDataError:
            return cohort.waits(0)
        keys = rows.rows[rows.key].cast(pa.string()).to_pylist()
        places = {key: place for place, key in enumerate(served["key"].to_pylist())}
        both, every = np.array([key in places for key in keys]), _answers(served)
        if both.sum() < needed:
            return cohort.waits(int(both.sum()))
        try:
            probed = self._probe(champion, rows, since, every.shape[1] if every.ndim == 2 else 2)
        except NotEnoughDataError:
            return cohort.waits(int(both.sum()), "no labels before it to learn from")
        p = every[[places[key] for key, has in zip(keys, both, strict=True) if has]]
        part = rows.filter(pa.array(both))
        try:
            kept = probed if isinstance(probed, str) else probed[both]
            return self._found(champion, cohort, part, p, kept, holdout)
        except NotEnoughDataError as error:
            return cohort.waits(int(both.sum()), str(error))

    def _found(
        self,
        champion: ModelRef,
        cohort: _Cohort,
        rows: Labelled,
        p: NDArray[np.float64],
        probed: NDArray[np.float64] | str,
        holdout: Callable[[], Part | None],
    ) -> ServedWindow:
        """Put together what one window gives."""
        y, tags = rows.y, self.models.get(champion).tags
        mark = self.labels.watermark
        slices = Part({c: rows.rows[c] for c in self.slices}, self.loss(y, p))
        unprobed = probed if isinstance(probed, str) else ""
        return ServedWindow(
            str(champion),
            cohort.window.index,
            cohort.window.start,
            cohort.window.end,
            self.metric,
            len(y),
            blocks(self.loss(y, p)),
            () if isinstance(probed, str) else blocks(self.loss(y, probed)),
            served=cohort.served.num_rows,
            labels=cohort.labels[0],
            labelled_until=mark.isoformat() if mark else "",
            base=float(tags[BASE_LOSS]) if BASE_LOSS in tags else None,
            metrics=estimates(self.loss, y, p, seed=0),
            slices=judge_slices(slices, holdout()) if self.slices else (),
            bins=binned(p, y) if self.metric in PROBABILITIES and p.ndim == 1 else (),
            unprobed=unprobed,
        )

    def _holdout(self, champion: ModelRef) -> Part | None:
        """Ask a version about the window after its training rows; nothing if that is gone."""
        since = self.models.get(champion).learnt_until
        if since is None:
            return None
        try:
            rows = self._selection(since, since + self.labels.window).read(self.store)
        except NotEnoughDataError:
            return None
        with self.models.opened(champion) as model:
            p = np.asarray(model.predict(rows.frame), dtype=np.float64)
        return Part({c: rows.rows[c] for c in self.slices}, self.loss(rows.y, p))

    def _check_slices(self) -> None:
        for name in self.slices:
            if name not in self.data.schema.names:
                known = ", ".join(self.data.schema.names)
                msg = f"no column {name!r} to slice by in {self.data.ref}; it has {known}"
                raise ConfigurationError(msg)
            kind = self.data.schema.field(name).type
            if pa.types.is_nested(kind):
                msg = (
                    f"column {name!r} of {self.data.ref} is {kind}, and slices are of single "
                    "values: slice by a column of texts, numbers or times"
                )
                raise ConfigurationError(msg)

    def _probe(
        self, champion: ModelRef, rows: Labelled, since: datetime, classes: int
    ) -> NDArray[np.float64] | str:
        """
        Predict a window with a small model of the newest labelled rows before it.

        :param classes: how many classes the champion knows, at least 2.
        :return: the predictions, or why the user's own challenger gave none.
        """
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
        parts, name = (learn, recent.y, ask), f"{champion}: build"
        if self.challenger is None:
            return challenge(*parts, metric=self.metric, name=name, classes=classes)
        try:
            with scratch_folder("train") as scratch:
                own = Own.load(self.challenger, scratch)
                return challenge(*parts, metric=self.metric, name=name, own=own, classes=classes)
        except UserCodeError as error:
            return "".join(c if c.isprintable() else " " for c in str(error)[:SAID])

    def _selection(self, since: datetime, until: datetime) -> Selection:
        return Selection(
            str(self.data.ref),
            str(self.labels.ref),
            self.label,
            since.isoformat(),
            until.isoformat(),
        )


def _answers(served: pa.Table) -> NDArray[np.float64]:
    """Return one number for each row, or one for each class of several."""
    if "scores" in served.schema.names:
        return np.array(served["scores"].to_pylist(), dtype=np.float64)
    return np.asarray(served["p"].to_numpy())


def _built(model: Any, rows: "pd.DataFrame", champion: ModelRef) -> "pd.DataFrame":
    """Build the features of a version with the user's function that is archived in it."""
    name = f"{champion}: build"
    try:
        frame = model.build(rows)
    except Exception as error:  # the user's function may raise anything
        refuse_exhausted(name, error)
        msg = (
            f"{name} raised {type(error).__name__} on {len(rows)} rows: {error}; correct it, and "
            "train and promote a version that has it"
        )
        raise UserCodeError(msg) from error
    if not hasattr(frame, "iloc") or len(frame) != len(rows):
        msg = f"{name} gave {type(frame).__name__} for {len(rows)} rows; it gives a row for each"
        raise UserCodeError(msg)
    return frame  # type: ignore[no-any-return]


def _is_new(start: str, learnt: datetime | None) -> bool:
    """Say whether a window begins after the rows that a version has learnt from."""
    return learnt is None or datetime.fromisoformat(start) >= learnt
