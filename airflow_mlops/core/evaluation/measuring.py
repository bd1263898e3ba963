"""Measure what the gates of a policy ask about, from the answers of two models to the same rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from airflow_mlops.core.data.selection import MOST_CLASSES
from airflow_mlops.core.data.slicing import cut, values_of
from airflow_mlops.core.errors import ConfigurationError, UserCodeError
from airflow_mlops.core.evaluation.calibration import calibration_error
from airflow_mlops.core.evaluation.comparison import (
    MIN_RARE,
    MIN_ROWS,
    MIN_SLICE,
    Comparison,
    compare_by,
    compare_slices,
)
from airflow_mlops.core.evaluation.evaluation import Evaluation, Finding
from airflow_mlops.core.evaluation.leaks import strongest_feature
from airflow_mlops.core.metrics import (
    Floats,
    Metric,
    estimates,
    indicators,
    is_of_classes,
    per_class,
    rarest,
    read_only,
    resampled,
)
from airflow_mlops.core.training.functions import called
from airflow_mlops.core.training.own_metrics import load_function, load_metric
from airflow_mlops.policy import (
    PROBABILITIES,
    AtLeast,
    AtMost,
    Better,
    Calibrated,
    Custom,
    Fair,
    Gate,
    NoLeak,
    NotWorse,
    Output,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Answers:
    """
    What a gate may look at; a function of the user (``Custom``) is given it, too.

    :param rows: rows of the hold-out in time order, shape ``(n_rows, n_columns)``.
    :param y: their labels, shape ``(n_rows,)``.
    :param candidate: predictions of the candidate, shape ``(n_rows,)``; of more than two classes
        ``(n_rows, n_classes)``.
    :param champion: those of the champion; ``None``: there is none, or it is not compared with.
    :param build: builds the features of the candidate.
    """

    rows: pa.Table
    y: Floats
    candidate: Floats
    champion: Floats | None
    build: Callable[[Any], Any]

    @property
    def frame(self) -> "pd.DataFrame":
        """The rows, as pandas."""
        return self.rows.to_pandas()  # type: ignore[no-any-return]


def assessed(
    base: Evaluation, answers: Answers, gates: Sequence[Gate], loss: Metric, *, seed: int
) -> Evaluation:
    """
    Measure all that the gates will be judged by.

    :param base: who was evaluated on what, and what is known already.
    :param answers: predictions of both models.
    :param gates: conditions of the policy.
    :param loss: the per-row loss of the lifecycle.
    :param seed: seed of the resamples.
    :raises ConfigurationError: if a gate slices by what the rows do not have, or a label is no
        class where the loss is of classes.
    :raises UserCodeError: if a function of the user fails.
    """
    _check_labels(answers, loss)
    answers = _fixed(_aligned(answers))
    known = _known(answers, gates, loss)
    asked = [known[g.metric] for g in gates if isinstance(g, AtLeast | AtMost)]
    found = replace(
        base,
        metrics=estimates(loss, answers.y, answers.candidate, seed=seed, more=asked),
        comparisons=_comparisons(answers, gates, known, loss, seed),
        same=base.same or _same(answers),
    )
    asked_of = _Asked(found, answers, known, seed)
    findings = (_ASKED[type(gate)](gate, asked_of) for gate in gates if type(gate) in _ASKED)
    return replace(found, findings=tuple(findings))


def _known(answers: Answers, gates: Sequence[Gate], loss: Metric) -> dict[str, Metric]:
    """Load the metrics that gates name, and see that they go with the labels."""
    known = {loss.name: loss}
    classes = is_of_classes(loss.name, answers.y, answers.candidate)
    for gate in gates:
        name = getattr(gate, "metric", loss.name)
        if name not in known:
            known[name] = load_metric(name)
        of_classes = known[name].of_classes or name in PROBABILITIES
        if of_classes > classes or (classes and name == "r2"):
            what = "classes" if of_classes else "quantities"
            msg = (
                f"{type(gate).__name__}: {name} is of {what}, and {loss.name} is not; name another"
            )
            raise ConfigurationError(msg)
        _check_direction(gate, known[name])
    return known


def _check_direction(gate: Gate, metric: Metric) -> None:
    """See that a standard for a metric of the user points to where it says that it is better."""
    if isinstance(gate, AtLeast | AtMost) and isinstance(gate, AtLeast) != metric.greater_is_better:
        better, other = ("more", AtLeast) if metric.greater_is_better else ("less", AtMost)
        msg = (
            f"{gate}: of {metric.name} {better} is better, as its greater_is_better says: write "
            f"{other.__name__}({metric.name!r}, {gate.value:g}), or correct that attribute"
        )
        raise ConfigurationError(msg)


def _check_labels(answers: Answers, loss: Metric) -> None:
    """Refuse labels that are no classes; a class may be new, or have no row."""
    y = answers.y
    if not is_of_classes(loss.name, y, answers.candidate):
        return
    wrong = y[~np.isin(y, range(MOST_CLASSES))]
    if len(wrong):
        msg = (
            f"{len(wrong)} of {len(y)} labels of the hold-out are no classes, such as "
            f"{wrong[0]:g}: {loss.name} wants whole numbers from 0 on, below {MOST_CLASSES}; "
            "correct them where they come from, or choose a loss of quantities"
        )
        raise ConfigurationError(msg)


def _fixed(answers: Answers) -> Answers:
    """Let nobody write into what all gates are measured on."""
    one, two = read_only(answers.candidate), answers.champion
    other = None if two is None else read_only(two)
    return replace(answers, y=read_only(answers.y), candidate=one, champion=other)


def _aligned(answers: Answers) -> Answers:
    """Give both models a column for each class, if one of them knows more than two."""
    both = [answers.candidate, *([] if answers.champion is None else [answers.champion])]
    if all(p.ndim == 1 for p in both):
        return answers
    classes = max(int(answers.y.max()) + 1, *(p.shape[1] if p.ndim == 2 else 2 for p in both))
    wide = [per_class(p, classes) for p in both]
    return replace(answers, candidate=wide[0], champion=None if len(wide) == 1 else wide[1])


def _same(answers: Answers) -> Literal["", "answers"]:
    champion = answers.champion
    same = champion is not None and np.array_equal(champion, answers.candidate)
    return "answers" if same else ""


def _comparisons(
    answers: Answers, gates: Sequence[Gate], known: Mapping[str, Metric], loss: Metric, seed: int
) -> tuple[Comparison, ...]:
    """Compare by the loss, and by what the gates name; each metric and each cut once."""
    if answers.champion is None:
        return ()
    pair = answers.y, answers.champion, answers.candidate
    words = [g for g in gates if isinstance(g, NotWorse | Better)]
    asked = [(w.metric, w.by if isinstance(w, NotWorse) else None) for w in words]
    found: list[Comparison] = []
    for name, by in dict.fromkeys([(loss.name, None), *asked]):
        if by is None:
            found.append(compare_by(known[name], *pair, seed=seed))
        else:
            cuts = by, values_of(answers.rows, by)
            found.extend(compare_slices(known[name], *pair, by=cuts, seed=seed))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Asked:
    """
    What there is to look at.

    :param found: what was measured so far.
    :param known: metrics that the gates name.
    """

    found: Evaluation
    answers: Answers
    known: Mapping[str, Metric]
    seed: int

    @property
    def classes(self) -> int:
        """How many classes the labels are of; 0: they are quantities."""
        y, p = self.answers.y, self.answers.candidate
        if p.ndim == 2:
            return int(p.shape[1])
        return 2 if is_of_classes(self.found.metrics[0].metric, y, p) else 0


def _output(gate: Output, asked: _Asked) -> Finding:
    p = asked.answers.candidate
    outside = int(((p < gate.low) | (p > gate.high)).reshape(len(p), -1).any(axis=1).sum())
    return Finding.of(gate, outside, (p.min(), p.max()), len(p), "")


def _calibrated(gate: Calibrated, asked: _Asked) -> Finding:
    y, p = asked.answers.y, asked.answers.candidate
    if not asked.classes or p.min() < 0 or p.max() > 1:
        why = "answers that are no probabilities have no calibration"
        return Finding.unknown(gate, len(y), why)
    if len(y) < MIN_ROWS:
        return Finding.unknown(gate, len(y), _more(MIN_ROWS - len(y)))
    value, bounds = calibration_error(y, p, alpha=gate.alpha, seed=asked.seed)
    return Finding.of(gate, value, bounds, len(y), "")


def _no_leak(gate: NoLeak, asked: _Asked) -> Finding:
    answers, y = asked.answers, asked.answers.y
    if len(y) < MIN_ROWS:
        return Finding.unknown(gate, len(y), _more(MIN_ROWS - len(y)))
    rare = rarest(y, answers.candidate) if asked.classes else MIN_RARE
    if rare < MIN_RARE:
        return Finding.unknown(gate, len(y), _more_of_each(len(y), rare))
    features = answers.build(answers.frame)
    power, name = strongest_feature(features, y, classes=asked.classes)
    return Finding.of(gate, power, (power, power), len(y), name)


def _custom(gate: Custom, asked: _Asked) -> Finding:
    name = f"check {gate.check}"
    given = called(name, load_function("check", gate.check), asked.found, asked.answers)
    said, reason = given if isinstance(given, tuple) and len(given) == 2 else (given, "")
    if not isinstance(said, bool | np.bool_) or not isinstance(reason, str):
        msg = f"{name} gave {given!r}; it has to give True or False, or one of them and a reason"
        raise UserCodeError(msg)
    value = float(said)
    return Finding.of(gate, value, (value, value), len(asked.answers.y), reason)


def _fair(gate: Fair, asked: _Asked) -> Finding:
    """Measure each slice large enough, and the gap between the two that lie farthest apart."""
    answers, known = asked.answers, asked.known[gate.metric]
    metric = known.on(answers.y, answers.candidate)
    parts: dict[str, Floats] = {}
    small = []
    for name, here, _ in cut(values_of(answers.rows, gate.by)):
        y, p = answers.y[here], answers.candidate[here]
        if len(y) < MIN_SLICE:
            small.append(f"{name} has {len(y)} rows, {_more(MIN_SLICE - len(y))}")
        elif metric.of_classes and rarest(y, p) < MIN_RARE:
            small.append(f"{name}: {_more_of_each(len(y), rarest(y, p))}")
        elif not math.isfinite(value := metric.tried(y, p)):
            why = f"{metric.name} is not defined in {name}"
            return Finding.unknown(gate, len(answers.y), why)
        else:
            doubted = _doubted(y, p) if metric.of_classes else (y, p)
            drawn = resampled(metric, doubted[0], [doubted[1]], seed=asked.seed + len(parts))
            parts[name] = np.append(drawn[:, 0], value)
    if len(parts) < 2:
        why = "; ".join([f"{len(parts)} slices are large enough to compare", *small])
        return Finding.unknown(gate, len(answers.y), why)
    return _gap(gate, parts, small, len(answers.y))


def _doubted(y: Floats, p: Floats) -> tuple[Floats, Floats]:
    """
    Add two right and two wrong answers for each class: a slice without errors may have some.

    Source: Agresti and Coull, The American Statistician 52(2), 1998.
    """
    classes = p.shape[1] if p.ndim == 2 else 2
    truth = np.tile(np.arange(classes), 4)
    right = np.repeat([True, False, True, False], classes)
    said = np.where(right, truth, (truth + 1) % classes).astype(np.float64)
    added = indicators(said, classes) if p.ndim == 2 else said
    places = np.linspace(0, len(y), 4 * classes + 2).astype(int)[1:-1]
    return np.insert(y, places, truth), np.insert(p, places, added, axis=0)


def _gap(gate: Fair, parts: Mapping[str, Floats], small: Sequence[str], rows: int) -> Finding:
    """
    Bound the largest gap.

    Small if it is for every pair, at the error rate of one (an intersection of hypotheses, Berger,
    Technometrics 24(4), 1982); large if it is for one pair, at that rate over all (Bonferroni).
    """
    values = np.stack([*parts.values()])
    gaps = values[:, None, :-1] - values[None, :, :-1]
    pairs = len(parts) * (len(parts) - 1)
    high = float(np.nanquantile(gaps, 1 - gate.alpha, axis=2).max())
    low = float(np.nanquantile(gaps, gate.alpha / pairs, axis=2).max())
    names, now = [*parts], values[:, -1]
    most, least = int(np.argmax(now)), int(np.argmin(now))
    text = f"{names[most]} {now[most]:.4f}, {names[least]} {now[least]:.4f}"
    more = f" (not compared: {'; '.join(small)})" if small else ""
    return Finding.of(gate, now[most] - now[least], (low, high), rows, f"{text}{more}")


def _more(rows: int) -> str:
    return f"about {rows:,} more labels are needed"


def _more_of_each(rows: int, rare: int) -> str:
    text = f"{rare} rows of the rarest class, {MIN_RARE} can decide"
    return f"{text}: {_more(-(-rows * MIN_RARE // rare) - rows)}" if rare else text


_ASKED: Mapping[type[Gate], Callable[[Any, _Asked], Finding]] = {
    Output: _output,
    Calibrated: _calibrated,
    NoLeak: _no_leak,
    Custom: _custom,
    Fair: _fair,
}
