"""Draw rows again in blocks, as they depend on each other, and see how a metric varies."""

from collections.abc import Sequence

import numpy as np

from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.metrics.losses import Floats, indicators
from airflow_mlops.core.metrics.metric import Metric

DRAWS = 999
AUTOMATIC = 500
"""From so many rows on, the rows themselves say how long a block has to be."""

MOST_BLOCKS = 1_000
"""Of a large sample blocks are longer than they need to be: as honest, and a draw costs less."""


def automatic_length(series: Floats) -> float:
    """
    Estimate the best block length for the mean of a series.

    :param series: in the order of time, shape ``(n_rows,)``.

    Source: Politis and White, Econometric Reviews 23(1), 2004, corrected by Patton, Politis and
    White, Econometric Reviews 28(4), 2009; for blocks of one length.
    """
    n = len(series)
    centred = series - series.mean()
    run = max(5, int(np.ceil(np.log10(n))))
    most = min(int(np.ceil(np.sqrt(n))) + run, n - 1)
    covariances = _autocovariances(centred, most)
    if covariances[0] <= 0:
        return 1.0
    small = np.abs(covariances[1:]) < 2 * np.sqrt(np.log10(n) / n) * covariances[0]
    runs = np.convolve(small, np.ones(run), "valid") == run
    first = int(np.argmax(runs)) if runs.any() else int(np.flatnonzero(~small)[-1]) + 1
    last = max(first, 1)
    lags = np.arange(1, min(2 * last, most) + 1)
    weights = np.minimum(1.0, 2 * (1 - lags / (2 * last)))
    weighted = weights * covariances[lags]
    spectrum = covariances[0] + 2 * weighted.sum()
    if spectrum <= 0:
        return 1.0
    bias = 2 * (weighted * lags).sum()
    best = (1.5 * bias**2 / spectrum**2 * n) ** (1 / 3)
    return float(min(best, np.ceil(min(3 * np.sqrt(n), n / 3))))


def _autocovariances(centred: Floats, most: int) -> Floats:
    size = 1 << int(np.ceil(np.log2(len(centred) + most)))
    spectrum = np.fft.rfft(centred, size)
    power = spectrum.real**2 + spectrum.imag**2
    return np.asarray(np.fft.irfft(power, size)[: most + 1] / len(centred))


def block_length(n: int, series: Sequence[Floats] = ()) -> int:
    """
    Return how many rows a block has: ``ceil(n ** (1/3))``, or more if the rows depend for longer.

    A thousand blocks at the most.

    :param n: rows of the sample.
    :param series: what varies, in the order of time, each of shape ``(n_rows,)``.
    """
    floor = max(int(np.ceil(round(n ** (1 / 3), 9))), -(-n // MOST_BLOCKS))
    if n < AUTOMATIC:
        return floor
    return max([floor, *(int(np.ceil(automatic_length(s))) for s in series)])


def resampled(
    metric: Metric, y: Floats, predictions: Sequence[Floats], *, seed: int, draws: int = DRAWS
) -> Floats:
    """
    Measure the same resamples for all predictions; shape ``(draws, n_predictions)``.

    NaN where a resample leaves the metric undefined.

    :param metric: its kind is known.
    :param y: labels in the order of time, shape ``(n_rows,)``.
    :param predictions: of the same rows, one array for each model.
    :param seed: seed of the draws.
    :param draws: how many.

    Source: moving blocks: Kunsch, Annals of Statistics 17(3), 1989. Of a score the first-order
    terms are drawn, so that a draw costs its blocks and not its rows.
    """
    n = len(y)
    if metric.number is not None:
        length = block_length(n, [_misses(y, p) for p in predictions])
        return _anew(metric, y, predictions, length, seed, draws)
    parts = [metric.parts(y, p) for p in predictions]
    series = [_terms(metric, part) for part in parts]
    length = block_length(n, series if len(series) != 2 else [series[1] - series[0]])
    del series
    sums = (_block_sums(part, length, seed, draws) for part in parts)
    return np.stack([metric.of_sums(part, n) for part in sums], axis=1)


def _block_sums(parts: Floats, length: int, seed: int, draws: int) -> Floats:
    """Sum the rows of each draw; the same seed draws the same rows. Shape ``(draws, n_parts)``."""
    n, blocks = parts.shape[1], -(-parts.shape[1] // length)
    lengths = np.full(blocks, length)
    lengths[0] = n - (blocks - 1) * length
    random = np.random.default_rng(seed)
    starts = random.integers(0, n - length + 1, size=(draws, blocks), dtype=np.int32)
    ends = starts + lengths.astype(np.int32)
    found, totals = np.empty((draws, len(parts))), np.zeros(n + 1)
    for place, part in enumerate(parts):
        np.cumsum(part, out=totals[1:])
        found[:, place] = totals[ends].sum(axis=1) - totals[starts].sum(axis=1)
    return found


def _anew(
    metric: Metric, y: Floats, predictions: Sequence[Floats], length: int, seed: int, draws: int
) -> Floats:
    """Draw rows, and ask the function of the user each time."""
    n, random = len(y), np.random.default_rng(seed)
    blocks, found = -(-n // length), np.empty((draws, len(predictions)))
    for draw in range(draws):
        starts = random.integers(0, n - length + 1, size=blocks)
        rows = (starts[:, None] + np.arange(length)).ravel()[:n]
        found[draw] = [metric.tried(y[rows], p[rows]) for p in predictions]
    if np.isnan(found).all():
        msg = (
            f"metric {metric.name} is defined in none of {draws} resamples of {n} rows: give a "
            "finite number for whatever a model may answer"
        )
        raise UserCodeError(msg)
    return found


def _misses(y: Floats, p: Floats) -> Floats:
    """How far each row is off, whatever it is measured in."""
    return np.abs(p - indicators(y, p.shape[1])).sum(axis=1) if p.ndim == 2 else np.abs(p - y)


def _terms(metric: Metric, parts: Floats) -> Floats:
    """What each row adds to the metric, to first order: its parts times the slopes of the sums."""
    sums, n = parts.sum(axis=1), parts.shape[1]
    steps = np.diag(1e-4 * np.maximum(np.abs(sums), 1.0))
    high, low = (metric.of_sums(sums + sign * steps, n) for sign in (1, -1))
    slopes = (high - low) / (2 * steps.diagonal())
    return np.asarray(np.nan_to_num(slopes) @ parts)


def of_one_row(metric: Metric, y: Floats, one: Floats, two: Floats) -> float:
    """
    Return how far one row moves the difference of two models, if it moves it at all.

    The root of the mean square over such rows; 0 if there are none.

    :param metric: its kind is known.
    :param y: labels, shape ``(n_rows,)``.
    :param one: predictions of a model.
    :param two: those of another one.
    """
    if metric.number is not None:
        moved = _swapped(metric, y, one, two)
    else:
        parts = [metric.parts(y, p) for p in (one, two)]
        other = (parts[0] != parts[1]).any(axis=0)
        moved = (_terms(metric, parts[1]) - _terms(metric, parts[0]))[other]
    moved = np.abs(moved[np.isfinite(moved)])
    moved = moved[moved > 1e-9 * moved.max(initial=0.0)]
    return float(np.sqrt((moved**2).mean())) if len(moved) else 0.0


def _swapped(metric: Metric, y: Floats, one: Floats, two: Floats) -> Floats:
    """Ask the function of the user what changes if one row is answered as the other model does."""
    other = np.flatnonzero((one != two).reshape(len(y), -1).any(axis=1))
    other = other[:: -(-len(other) // DRAWS) or 1]
    found, whole, mixed = np.empty(len(other)), metric.value(y, two), two.copy()
    for place, row in enumerate(other):
        mixed[row] = one[row]
        found[place] = metric.tried(y, mixed) - whole
        mixed[row] = two[row]
    return found
