"""Words about candidates: the conditions they have to meet."""

from dataclasses import dataclass, field

from airflow_mlops.policy.monitoring import FailOn, known_fail_on
from airflow_mlops.policy.words import Word, between, function_name, number

PROBABILITIES = ("brier", "log_loss")
"""Losses of a probability: the labels are classes, 0 and 1 or more."""

QUANTITIES = ("absolute_error", "squared_error")
"""Losses of a quantity."""

LOSSES = tuple(sorted((*PROBABILITIES, *QUANTITIES)))
"""Metrics of which less is better; each gives a number for every row."""

CLASS_SCORES = ("roc_auc", "accuracy", "recall", "precision", "f1", "average_precision")
"""Scores of classes."""

SCORES = tuple(sorted((*CLASS_SCORES, "r2")))
"""Metrics of which more is better; each gives a number for all rows together."""


def known_metric(word: str, metric: object) -> None:
    """
    See that a metric is built in, or named as ``module:function``; nothing is imported.

    :param word: whose it is; the error names it.
    :param metric: name of the metric.
    :raises ValueError: if it is neither.
    """
    if metric in LOSSES or metric in SCORES:
        return
    if not is_own(metric):
        known = ", ".join(sorted([*LOSSES, *SCORES]))
        msg = f"{word}: unknown metric {metric!r}; known: {known}, or your own 'module:function'"
        raise ValueError(msg)
    function_name(f"{word} metric", metric)


def is_own(metric: object) -> bool:
    """
    Say whether a metric is a function of the user.

    :param metric: name of the metric.
    """
    return isinstance(metric, str) and ":" in metric


@dataclass(frozen=True, slots=True)
class Gate(Word):
    """
    A condition a candidate has to meet.

    :param fail_on: ``"error"``: a candidate that fails it is refused, and if it cannot be decided,
        people decide; ``"warn"``: it is refused in both cases; ``"never"``: what came of it is
        shown, and does not count.
    """

    fail_on: FailOn = field(default="error", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        known_fail_on(type(self).__name__, self.fail_on)


@dataclass(frozen=True, slots=True)
class Loads(Gate):
    """
    In a process of its own the candidate loads from its files, builds its features, and answers.

    :param p95_ms: 95th percentile of the time one batch of 32 rows takes, in milliseconds.
    :param memory_mb: most memory it takes beyond an empty Python, in MB; none: no limit.
    """

    p95_ms: float = 500.0
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        between("Loads p95_ms", self.p95_ms, 1e-3, 1e9)
        if self.memory_mb is not None:
            between("Loads memory_mb", self.memory_mb, 1e-3, 1e9)


@dataclass(frozen=True, slots=True)
class AtLeast(Gate):
    """
    An absolute standard: the metric on the hold-out reaches ``value``.

    :param metric: a score of which more is better, such as ``roc_auc`` or ``accuracy``.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        known_metric("AtLeast", self.metric)
        number("AtLeast value", self.value)
        if self.metric in LOSSES:
            msg = f"of {self.metric} less is better: write AtMost({self.metric!r}, {self.value})"
            raise ValueError(msg)
        if self.metric in SCORES:
            low = 0.0 if self.metric in CLASS_SCORES else -1e9  # r2
            between(f"AtLeast value of {self.metric}", self.value, low, 1.0)


@dataclass(frozen=True, slots=True)
class AtMost(Gate):
    """
    An absolute standard: the loss on the hold-out stays at or below ``value``.

    :param metric: a loss of which less is better, such as ``brier``.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        known_metric("AtMost", self.metric)
        number("AtMost value", self.value)
        if self.metric in SCORES:
            msg = f"of {self.metric} more is better: write AtLeast({self.metric!r}, {self.value})"
            raise ValueError(msg)
        if self.metric in LOSSES:
            high = 1.0 if self.metric == "brier" else 1e300
            between(f"AtMost value of {self.metric}", self.value, 0.0, high)


@dataclass(frozen=True, slots=True)
class Better(Gate):
    """
    The candidate is surely better than the champion on the same rows.

    :param metric: a loss, a score, or a function of yours.
    :param alpha: one-sided error rate.
    """

    metric: str = "brier"
    alpha: float = 0.05

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        known_metric("Better", self.metric)
        between("Better alpha", self.alpha, 0.001, 0.5)


@dataclass(frozen=True, slots=True)
class NotWorse(Gate):
    """
    The candidate is surely not worse than the champion by more than a margin.

    :param metric: a loss, a score, or a function of yours.
    :param margin: harm accepted for a fresher model: of a score in its own unit, of anything else
        as a share of the champion's value. Not given: 0.02, of a score 0.005, in slices 0.05.
    :param alpha: one-sided error rate; with ``by``, over all slices together.
    :param by: column of the rows, or an expression of SQL over them such as ``"hour >= 18"``: it
        has to hold in each slice of 96 rows or more.
    :param point: after a probe model asked for the retrain, a candidate passes that is no worse on
        the point estimate, too. Not given, a candidate that is worse by the margin passes in
        ``alpha`` of all gates at the most; with it, one that is a little worse in up to half.
    """

    metric: str = "brier"
    margin: float | None = None
    alpha: float = 0.05
    by: str | None = None
    point: bool = False

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        known_metric("NotWorse", self.metric)
        usual = 0.05 if self.by is not None else 0.005 if self.metric in SCORES else 0.02
        object.__setattr__(self, "margin", usual if self.margin is None else self.margin)
        between("NotWorse margin", self.harm, 0.0, 1e9)
        between("NotWorse alpha", self.alpha, 0.001, 0.5)
        _check_by("NotWorse", self.by)

    @property
    def harm(self) -> float:
        """The margin, as a number."""
        return 0.0 if self.margin is None else self.margin


@dataclass(frozen=True, slots=True)
class Fair(Gate):
    """
    The metric differs between slices by no more than ``max_gap``.

    :param metric: a loss, a score, or a function of yours.
    :param by: column of the rows, or an expression of SQL over them.
    :param max_gap: largest gap between two slices of 96 rows or more, in the unit of the metric.
    :param alpha: one-sided error rate.
    """

    metric: str
    by: str
    max_gap: float
    alpha: float = 0.05

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        known_metric("Fair", self.metric)
        _check_by("Fair", self.by or "")
        between("Fair max_gap", self.max_gap, 0.0, 1e9)
        between("Fair alpha", self.alpha, 0.001, 0.5)


@dataclass(frozen=True, slots=True)
class Calibrated(Gate):
    """
    Probabilities come true: the expected calibration error is at most ``max_error``.

    :param max_error: mean distance between what is said and what comes true, 0 to 1.
    :param alpha: one-sided error rate.
    """

    max_error: float = 0.05
    alpha: float = 0.05

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        between("Calibrated max_error", self.max_error, 1e-6, 1.0)
        between("Calibrated alpha", self.alpha, 0.001, 0.5)


@dataclass(frozen=True, slots=True)
class Output(Gate):
    """
    Every answer lies within bounds; that there is one finite number per row is always asked.

    :param low: least answer.
    :param high: greatest answer.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        number("Output low", self.low)
        number("Output high", self.high)
        if not self.low < self.high:
            msg = f"Output low is {self.low!r} and high is {self.high!r}; low has to be less"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class NoLeak(Gate):
    """
    No single feature gives the label away.

    :param limit: largest power of one feature to rank the label: area under the ROC curve of
        classes, Spearman's correlation of quantities, whichever sign.
    """

    limit: float = 0.98

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        between("NoLeak limit", self.limit, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Custom(Gate):
    """
    A function of yours says yes or no.

    :param check: ``module:function`` of ``check(evaluation, answers) -> bool``, or ``(bool,
        reason)``; ``answers`` has the rows, the labels and the predictions of both models.
    """

    check: str

    def __post_init__(self) -> None:
        Gate.__post_init__(self)
        function_name("Custom check", self.check)


def _check_by(word: str, by: object) -> None:
    if by is not None and (not isinstance(by, str) or not by.strip()):
        msg = f"{word} by is {by!r}; it has to be a column, or an expression of SQL"
        raise ValueError(msg)
