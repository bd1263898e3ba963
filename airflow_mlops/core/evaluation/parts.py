"""In which parts of the rows something is frequent: a small tree finds them, words name them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAMPLE = 50_000
"""Rows that the tree learns from; what it found is counted on all."""

LEAVES, DEPTH, FEWEST = 8, 3, 30
VALUES = 10
"""Most frequent values of a column of categories that the tree may ask for."""

QUESTIONS = 200
"""What the tree may ask for in all: numbers first, then the most frequent values."""

FAR, ABSENT = 1e28, -1e30
"""Larger numbers count as this; and what stands for one that is missing."""

SURE = 3.0
"""Standard errors above the usual share, among rows that the tree has not seen."""

LETTERS = 80


@dataclass(frozen=True, slots=True)
class Part:
    """
    A part of the rows.

    :param where: its conditions in words.
    :param inside: which rows are in it, shape ``(n_rows,)``.
    """

    where: str
    inside: NDArray[np.bool_]


def find_parts(rows: pa.Table, flagged: NDArray[np.bool_], *, seed: int) -> Iterator[Part]:
    """
    Yield the leaves of a small tree in which flags are frequent, among rows it has not seen, too.

    :param rows: the columns it may ask for, shape ``(n_rows, n_columns)``.
    :param flagged: shape ``(n_rows,)``.
    :param seed: of the sample that the tree learns from.
    """
    from sklearn.tree import DecisionTreeClassifier

    inputs, number = _inputs(rows), len(flagged)
    if not inputs or not flagged.any() or flagged.all() or number < 2 * FEWEST:
        return
    seen = np.random.default_rng(seed).permutation(number)[: min(SAMPLE, number // 2)]
    learn = np.empty((len(seen), len(inputs)), np.float32)
    for place, one in enumerate(inputs):
        learn[:, place] = one.numbers()[seen]
    fewest = max(FEWEST, len(seen) // 100)
    tree = DecisionTreeClassifier(
        max_depth=DEPTH, max_leaf_nodes=LEAVES, min_samples_leaf=fewest, random_state=seed
    ).fit(learn, flagged[seen])
    unseen = np.ones(number, np.bool_)
    unseen[seen] = False
    usual = flagged.mean()
    for path in _paths(tree.tree_):
        inside = np.ones(number, np.bool_)
        for place, (low, high) in path.items():
            inside &= inputs[place].between(low, high)
        checked = flagged[inside & unseen]
        spread = math.sqrt(usual * (1 - usual) / max(len(checked), 1))
        if len(checked) and checked.mean() > usual + SURE * spread:
            where = " and ".join(inputs[place].words(*ends) for place, ends in path.items())
            yield Part(where, inside)


@dataclass(frozen=True, slots=True)
class _Input:
    """One question that the tree can ask: a number, or whether a column has a value."""

    name: str
    column: pa.ChunkedArray = field(repr=False)
    value: str | None = None

    def numbers(self) -> Floats:
        """Return what the tree compares; made anew each time, for it takes room."""
        if self.value is not None:
            same = pc.fill_null(pc.equal(self.column, self.value), fill_value=False)
            return np.asarray(same.to_numpy(), np.float64)
        numbers = np.asarray(self.column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
        return np.where(np.isnan(numbers), ABSENT, numbers.clip(-FAR, FAR))

    def between(self, low: float, high: float) -> NDArray[np.bool_]:
        """Say which rows lie above ``low`` and up to ``high``."""
        numbers = self.numbers()
        return np.asarray((numbers > low) & (numbers <= high), np.bool_)

    def words(self, low: float, high: float) -> str:
        """Say the same in words."""
        name = self.name
        if self.value is not None:
            return f"{name} {'=' if low > -math.inf else 'is not'} {self.value[:LETTERS]}"
        if high < ABSENT / 10:
            return f"{name} is missing"
        if low < ABSENT / 10:
            left = f"{name} is there" if low > -math.inf else ""
            right = f"{name} <= {high:.6g}{'' if left else self.or_missing()}"
            return " and ".join(filter(None, [left, right])) if high < math.inf else left
        return f"{low:.6g} < {name} <= {high:.6g}" if high < math.inf else f"{name} > {low:.6g}"

    def or_missing(self) -> str:
        """Say whether a bound from above holds for missing ones, too."""
        return " or missing" if (self.numbers() == ABSENT).any() else ""


def _inputs(rows: pa.Table) -> list[_Input]:
    """Return the questions; what is neither number nor category is left out."""
    numbers: list[_Input] = []
    values: list[tuple[int, _Input]] = []
    for name in rows.schema.names:
        column, kind = rows[name], rows[name].type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if any(known(kind) for known in _NUMBERS):
            numbers.append(_Input(name, column))
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            values.extend(_values(name, column))
    values.sort(key=lambda found: -found[0])
    return [*numbers, *(one for _, one in values)][:QUESTIONS]


def _values(name: str, column: pa.ChunkedArray) -> Iterator[tuple[int, _Input]]:
    """Yield the most frequent values, with how often they occur."""
    counts = column.drop_null().value_counts()
    order = pc.sort_indices(counts.field("counts"), sort_keys=[("", "descending")])[:VALUES]
    for found in counts.take(order).to_pylist():
        yield found["counts"], _Input(name, column, found["values"])


_NUMBERS = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
)


def _paths(tree: Any) -> Iterator[dict[int, tuple[float, float]]]:
    """Yield the bounds of each leaf: feature -> above, up to."""
    waiting: list[tuple[int, dict[int, tuple[float, float]]]] = [(0, {})]
    while waiting:
        node, bounds = waiting.pop()
        feature = int(tree.feature[node])
        if feature < 0:
            yield bounds
            continue
        cut, (low, high) = float(tree.threshold[node]), bounds.get(feature, (-math.inf, math.inf))
        left, right = (int(side[node]) for side in (tree.children_left, tree.children_right))
        waiting.append((left, {**bounds, feature: (low, min(high, cut))}))
        waiting.append((right, {**bounds, feature: (max(low, cut), high)}))
