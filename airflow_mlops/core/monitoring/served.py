"""A labelled window that a model version served, and what is said about it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.metrics import Estimate, block_means, standard_error
from airflow_mlops.core.monitoring.slices import SliceLoss
from airflow_mlops.core.monitoring.unlabelled import Bins, Guess, past_error
from airflow_mlops.policy import Decay

SHOWN = 3
"""Slices, and waiting windows, that a line names."""

Status = Literal["ok", "warn"]


@dataclass(frozen=True, slots=True)
class ServedWindow:
    """
    One labelled window that a model version served.

    :param index: number of the window in the dataset.
    :param rows: rows with a prediction and a label.
    :param champion: mean served loss of each block, in the order of time.
    :param probe: mean loss of the cheap challenger on the same blocks.
    :param served: predictions for the window, with or without a label.
    :param labels: content digest of the labels it was measured with; others make it be measured
        anew.
    :param labelled_until: newest time among all labels then, ISO 8601.
    :param base: loss of the version in its own backtest.
    :param metrics: the loss with its interval and, of a classifier, its scores.
    :param slices: losses of parts of the rows.
    :param bins: what came true, by tenths of the probability; empty for a regression.
    :param unprobed: why there is no challenger's loss, and ``probe`` is empty; empty: there is one.
    """

    model: str
    index: int
    since: str
    until: str
    metric: str
    rows: int
    champion: tuple[float, ...]
    probe: tuple[float, ...]
    served: int = 0
    labels: str = ""
    labelled_until: str = ""
    base: float | None = None
    metrics: tuple[Estimate, ...] = ()
    slices: tuple[SliceLoss, ...] = ()
    bins: Bins = ()
    unprobed: str = ""

    @property
    def loss(self) -> float:
        """Mean served loss."""
        return float(np.mean(self.champion))

    @property
    def probe_loss(self) -> float:
        """Mean loss of the cheap challenger; NaN if there is none."""
        return float(np.mean(self.probe)) if self.probe else float("nan")

    @property
    def losses(self) -> NDArray[np.float64]:
        """Served loss, per block."""
        return np.array(self.champion, dtype=np.float64)

    @property
    def gain(self) -> NDArray[np.float64]:
        """What the challenger saves, per block, if there is one; positive: a retrain helps."""
        return np.subtract(self.champion, self.probe, dtype=np.float64)

    @property
    def realised(self) -> Estimate | None:
        """The loss with its interval, if it was measured."""
        return next((m for m in self.metrics if m.metric == self.metric), None)

    @property
    def value(self) -> float:
        """Mean loss of the rows; of a window measured long ago, of its blocks."""
        return self.realised.value if self.realised else self.loss

    @property
    def decayed(self) -> bool:
        """Whether it is surely worse than the backtest, by what rule ``Decay`` asks for."""
        word = Decay()
        if self.base is None:
            return False
        return p_more(self.losses, self.base * (1 + word.drop)) <= word.alpha

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        parts = {name: [p.to_dict() for p in getattr(self, name)] for name in ("metrics", "slices")}
        numbers = {name: list(getattr(self, name)) for name in ("champion", "probe")}
        return asdict(self) | numbers | parts | {"bins": [list(b) for b in self.bins]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the window that :meth:`to_dict` wrote, now or before it knew as much."""
        parts = {
            "metrics": tuple(Estimate.from_dict(m) for m in data.get("metrics", ())),
            "slices": tuple(SliceLoss.from_dict(s) for s in data.get("slices", ())),
            "bins": tuple((n, said, came) for n, said, came in data.get("bins", ())),
            **{name: tuple(data[name]) for name in ("champion", "probe")},
        }
        return cls(**{n: data[n] for n in cls.__dataclass_fields__ if n in data} | parts)


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A complete window that was served and is not measured yet.

    :param labelled: rows with a label.
    :param served: predictions.
    :param why: what else it waits for; empty: labels.
    """

    index: int
    labelled: int
    served: int
    why: str = ""

    def __str__(self) -> str:
        share = self.labelled / max(self.served, 1)
        what = self.why or f"{self.labelled} of {self.served} rows have a label, {share:.0%}"
        return f"window {self.index} waits: {what}"


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What is known about one model version.

    :param windows: every labelled window it served, oldest first.
    :param waiting: complete windows whose labels are not there yet.
    :param guesses: window -> what was expected of it before its labels came.
    """

    windows: tuple[ServedWindow, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    guesses: Mapping[int, Guess] | None = None

    def body(self, window: ServedWindow) -> dict[str, Any]:
        """Return what goes on record about a window: it, a status and a line."""
        past = [w for w in self.windows if w.index <= window.index]
        worse = window.decayed or any(s.decayed for s in window.slices)
        status: Status = "warn" if worse or window.unprobed else "ok"
        waiting = [str(w) for w in self.waiting if w.index > window.index]
        parts = [_realised(window), _decay(past), _guess(past, self.guesses or {})]
        parts += [_slices(window), *waiting[:SHOWN]]
        if len(waiting) > SHOWN:
            parts.append(f"{len(waiting) - SHOWN} more windows wait")
        if worse:
            parts.append(f"see airflow mlops report {window.model.partition('@')[0]} --performance")
        line = "; ".join(filter(None, parts))
        return window.to_dict() | {"status": status, "line": line, "waiting": waiting}


def _realised(window: ServedWindow) -> str:
    found = window.realised
    text = str(found) if found else f"{window.metric} {window.value:.4f}"
    share = f"{window.rows / max(window.served, 1):.0%} labelled"
    mark = f" ({share}, labels up to {window.labelled_until[:10]})" if window.labels else ""
    return f"window {window.index}{mark}: {window.model} {text}"


def _decay(past: Sequence[ServedWindow]) -> str:
    """Compare with the backtest and with the challenger, and count the windows that decayed."""
    window = past[-1]
    fresh = f"a fresh small model {window.probe_loss:.4f}"
    if window.unprobed:
        fresh = f"no fresh small model beside it: {window.unprobed}"
    if window.base is None:
        return fresh
    word, last = Decay(), past[-Decay().counts[1] :]
    change, found = window.value - window.base, window.realised
    span = f" [{found.low - window.base:+.4f}, {found.high - window.base:+.4f}]" if found else ""
    share = f", {change / window.base:+.1%}" if window.base > 0 else ""
    worse = sum(w.decayed for w in last)
    return (
        f"{window.base:.4f} in its backtest: {change:+.4f}{span}{share}; surely worse by "
        f"{word.drop:.0%} in {worse} of {len(last)} windows; {fresh}"
    )


def _guess(past: Sequence[ServedWindow], guesses: Mapping[int, Guess]) -> str:
    window = past[-1]
    if window.index not in guesses:
        return ""
    error = past_error(guesses, {w.index: w.value for w in past[:-1]})
    known = "no past error yet" if error is None else f"past error {error:.4f}"
    return f"estimate without labels {guesses[window.index].value:.4f} ({known})"


def _slices(window: ServedWindow) -> str:
    worse = [str(s) for s in window.slices if s.decayed]
    more = [f"{len(worse) - SHOWN} more"] if len(worse) > SHOWN else []
    return f"slices that decayed: {', '.join([*worse[:SHOWN], *more])}" if worse else ""


def p_more(losses: NDArray[np.float64], limit: float) -> float:
    """
    Return the one-sided p-value of "the mean is above ``limit``".

    :param losses: means of contiguous blocks, shape ``(n_blocks,)``.
    """
    from scipy.stats import t

    error = max(standard_error(losses), 1e-12)
    return float(t.sf((float(losses.mean()) - limit) / error, len(losses) - 1))


def blocks(losses: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the mean of each of the contiguous blocks of a window, in the order of time."""
    return tuple(block_means(losses).tolist())
