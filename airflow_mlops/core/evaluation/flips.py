"""Which decisions change between two models: how many, where, and some of them to read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.data.selection import Labelled
from airflow_mlops.core.errors import ConfigurationError, NotEnoughDataError
from airflow_mlops.core.evaluation.offline import predictions, usable_rows
from airflow_mlops.core.evaluation.parts import find_parts
from airflow_mlops.core.metrics import per_class
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.models import ModelStore

Floats = NDArray[np.float64]
Kind = Literal["class", "number"]

THRESHOLD = 0.5
"""Probability from which on a row is decided to be a one."""

CASES = 20
LETTERS = 200


@dataclass(frozen=True, slots=True)
class Segment:
    """
    A part of the rows that a small tree found.

    :param where: its conditions in words; empty: all rows.
    :param rows: number of its rows.
    :param flips: of them, those that are decided otherwise.
    :param gained: flips that the candidate gets right and the champion does not; for numbers, rows
        whose error falls; ``None``: no labels.
    :param lost: the reverse.
    """

    where: str
    rows: int
    flips: int
    gained: int | None = None
    lost: int | None = None

    @property
    def share(self) -> float:
        """Share of its rows that flip, 0 to 1."""
        return self.flips / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """
    One row that is decided otherwise.

    :param values: column -> value, as text.
    :param champion: its answer: a probability, a class or a number.
    :param candidate: its answer.
    :param label: what came true; ``None``: not known.
    """

    key: str
    time: str
    values: Mapping[str, str]
    champion: float
    candidate: float
    label: float | None = None


@dataclass(frozen=True, slots=True)
class Flips:
    """
    The decisions that change.

    :param kind: ``class``: a row flips if its class changes; ``number``: if the answer moves by
        more than ``size``.
    :param size: in the unit of the label: the champion's median error on these rows, without
        labels a tenth of the standard deviation of its answers; 0 for classes.
    :param changes: for classes: from, to and how many rows, most first.
    :param total: all rows as one segment.
    :param segments: where flips are more frequent than on the whole, most flips first.
    """

    candidate: str
    champion: str
    since: str
    until: str
    kind: Kind
    size: float
    total: Segment
    changes: tuple[tuple[int, int, int], ...] = ()
    segments: tuple[Segment, ...] = ()
    cases: tuple[Case, ...] = field(default=(), repr=False)

    @property
    def line(self) -> str:
        """What there is to know, in one sentence."""
        found = self.total
        what = "decisions change" if self.kind == "class" else f"answers move by > {self.size:.4g}"
        text = f"{found.flips:,} of {found.rows:,} {what} ({found.share:.1%})"
        if found.gained is not None and found.flips:
            text += f", {found.gained:,} to the better and {found.lost:,} to the worse"
        if self.segments:
            first = self.segments[0]
            text += f"; most where {first.where} ({first.share:.1%} of {first.rows:,})"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"line": self.line}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the report that :meth:`to_dict` wrote."""
        parts = {k: v for k, v in data.items() if k != "line"}
        parts["total"] = Segment(**data["total"])
        parts["segments"] = tuple(Segment(**s) for s in data["segments"])
        parts["cases"] = tuple(Case(**c) for c in data["cases"])
        parts["changes"] = tuple(tuple(change) for change in data["changes"])
        return cls(**parts)


@dataclass(frozen=True, slots=True)
class Answered:
    """
    What two models say to the same rows.

    :param kind: whether an answer stands for a class or is a number itself.
    :param rows: columns of the source, shape ``(n_rows, n_columns)``.
    :param champion: its answers: probabilities or numbers of shape ``(n_rows,)``, or probabilities
        of several classes, ``(n_rows, n_classes)``.
    :param candidate: of the same shape.
    :param labels: what came true, shape ``(n_rows,)``; ``None``: not known.
    :param key: column that names a row.
    :param time: column of its time.
    """

    kind: Kind
    rows: pa.Table
    champion: Floats
    candidate: Floats
    labels: Floats | None
    key: str
    time: str

    @classmethod
    def ask(
        cls, models: ModelStore, candidate: ModelRef, champion: ModelRef, asked: Labelled
    ) -> Self:
        """
        Ask both models about the same rows, those that both may be asked about.

        :param asked: rows with their labels.
        :raises UserCodeError: if one does not load, or answers what is no finite number.
        :raises ContractBrokenError: if a column that one needs is missing or of another type.
        """
        with models.opened(champion) as before, models.opened(candidate) as after:
            good = [usable_rows(one, asked.rows, asked.key) for one in (before, after)]
            kept = asked.filter(pc.and_(*good))
            frame = kept.frame
            first = predictions(before, frame, champion)
            second = predictions(after, frame, candidate)
            kind: Kind = "class" if hasattr(after.estimator, "predict_proba") else "number"
        return cls(kind, kept.rows, *_alike(first, second), kept.y, kept.key, kept.time)

    def __post_init__(self) -> None:
        shapes = {len(self.champion), len(self.candidate), self.rows.num_rows}
        if len(shapes) > 1 or self.champion.shape != self.candidate.shape:
            msg = (
                f"answers of shape {self.champion.shape} and {self.candidate.shape} for "
                f"{self.rows.num_rows} rows: two models have to be asked about the same rows"
            )
            raise ConfigurationError(msg)

    @property
    def truth(self) -> Floats:
        """
        What came true.

        :raises NotEnoughDataError: if it is not known.
        """
        if self.labels is None:
            msg = f"no labels for {self.rows.num_rows} rows: nothing says who is right"
            raise NotEnoughDataError(msg)
        return self.labels


def find_flips(answers: Answered, *, candidate: str, champion: str, seed: int = 0) -> Flips:
    """
    Compare two models decision by decision.

    :param candidate: name of the candidate, ``name@version``.
    :param champion: name of the champion.
    :param seed: of the sample that the tree learns from.

    Source: segments by a classification tree, as for slices of large error in Chung et al.,
    Slice Finder, IEEE ICDE 2019.
    """
    kind = answers.kind
    before, after = (_decided(p, kind) for p in (answers.champion, answers.candidate))
    size = 0.0 if kind == "class" else _size(answers)
    flipped = before != after if kind == "class" else np.abs(after - before) > size
    better = None if answers.labels is None else _better(before, after, answers.labels, kind)
    times = answers.rows[answers.time]
    columns = answers.rows.drop_columns([answers.key, answers.time])
    parts = find_parts(columns, flipped, seed=seed)
    segments = [_segment(part.where, part.inside, flipped, better) for part in parts]
    return Flips(
        candidate,
        champion,
        _text(pc.min(times).as_py()),
        _text(pc.max(times).as_py()),
        kind,
        size,
        _segment("", np.ones(len(flipped), bool), flipped, better),
        _changes(before[flipped], after[flipped]) if kind == "class" else (),
        tuple(sorted(segments, key=lambda segment: -segment.flips)),
        tuple(_cases(answers, flipped, better)),
    )


def _alike(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Give a model that knows fewer classes columns for the others: it never says them."""
    classes = max(one.shape[1] if one.ndim > 1 else 1 for one in (first, second))
    if classes == 1:
        return first, second
    return per_class(first, classes), per_class(second, classes)


def _decided(answer: Floats, kind: Kind) -> Floats:
    if answer.ndim > 1:
        return np.asarray(answer.argmax(axis=1), np.float64)
    return np.asarray(answer >= THRESHOLD, np.float64) if kind == "class" else answer


def _size(answers: Answered) -> float:
    if answers.labels is not None:
        return float(np.median(np.abs(answers.champion - answers.labels)))
    return float(answers.champion.std()) / 10


def _better(before: Floats, after: Floats, labels: Floats, kind: Kind) -> Floats:
    """Return how much smaller the error has become; of a class it is 0 or 1."""
    if kind == "class":
        wrong = np.not_equal(before, labels), np.not_equal(after, labels)
        return np.subtract(*wrong, dtype=np.float64)
    return np.asarray(np.abs(before - labels) - np.abs(after - labels))


def _changes(before: Floats, after: Floats) -> tuple[tuple[int, int, int], ...]:
    pairs, counts = np.unique(np.stack([before, after]), axis=1, return_counts=True)
    found = [(int(a), int(b), int(n)) for (a, b), n in zip(pairs.T, counts, strict=True)]
    return tuple(sorted(found, key=lambda change: -change[2]))


def _segment(
    where: str, inside: NDArray[np.bool_], flipped: NDArray[np.bool_], better: Floats | None
) -> Segment:
    both = inside & flipped
    rows, flips = int(inside.sum()), int(both.sum())
    if better is None:
        return Segment(where, rows, flips)
    return Segment(where, rows, flips, int((better[both] > 0).sum()), int((better[both] < 0).sum()))


def _cases(answers: Answered, flipped: NDArray[np.bool_], better: Floats | None) -> Iterator[Case]:
    """Yield the rows that move most; with labels, as many to the worse as to the better."""
    moved = np.abs(answers.candidate - answers.champion)
    moved = moved.max(axis=1) if moved.ndim > 1 else moved
    for place in _places(moved, flipped, better):
        row = answers.rows.slice(int(place), 1).to_pylist()[0]
        values = {
            name: _text(value)
            for name, value in row.items()
            if name not in (answers.key, answers.time)
        }
        yield Case(
            _text(row[answers.key]),
            _text(row[answers.time]),
            values,
            _answer(answers.champion, int(place)),
            _answer(answers.candidate, int(place)),
            None if answers.labels is None else float(answers.labels[place]),
        )


def _places(moved: Floats, flipped: NDArray[np.bool_], better: Floats | None) -> Sequence[np.int64]:
    places = np.flatnonzero(flipped)
    places = places[np.argsort(-moved[places], kind="stable")]
    if better is None:
        return list(places[:CASES])
    worse, good = places[better[places] < 0], places[better[places] >= 0]
    half = max(CASES // 2, CASES - len(good))
    picked = [*worse[:half]]
    return [*picked, *good[: CASES - len(picked)]]


def _answer(answer: Floats, place: int) -> float:
    return float(answer[place].argmax() if answer.ndim > 1 else answer[place])


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "missing"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}\u2026"
