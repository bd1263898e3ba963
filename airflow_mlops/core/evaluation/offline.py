"""Judge a candidate offline: score it and the champion on the same later rows."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from airflow_mlops.core.data.contract import Break, Contract, row_breaks, schema_breaks
from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.selection import Labelled
from airflow_mlops.core.errors import (
    ContractBrokenError,
    NotEnoughDataError,
    UserCodeError,
    refuse_exhausted,
)
from airflow_mlops.core.evaluation.comparison import MIN_ROWS
from airflow_mlops.core.evaluation.evaluation import Evaluation
from airflow_mlops.core.evaluation.loading import load_apart
from airflow_mlops.core.evaluation.measuring import Answers, assessed
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.agreement import ServingCheck, check_answers
from airflow_mlops.core.training.models import ModelStore
from airflow_mlops.core.training.own_metrics import load_loss
from airflow_mlops.policy import Gate, Loads


def evaluate(
    store: ModelStore,
    candidate: ModelRef,
    champion: ModelRef | None,
    holdout: Labelled,
    *,
    loss: str,
    epoch: int,
    seed: int,
    burden: str = "not worse",
    datasets: DatasetStore | None = None,
    gates: Sequence[Gate] = (),
) -> Evaluation:
    """
    Measure a candidate on rows it has not seen, and against the champion if that is fair.

    :param holdout: labelled rows later than the candidate's training rows.
    :param loss: the per-row loss that both are compared in.
    :param epoch: entry of the ledger that made ``champion``.
    :param burden: see :class:`~airflow_mlops.core.evaluation.evaluation.Evaluation`.
    :param datasets: where the candidate's training rows are: it is asked again, here, what it was
        asked when it was trained; ``None``: it is not.
    :param gates: conditions it will be judged by: what they ask about is measured.
    :raises ConfigurationError: if the loss is unknown, or a gate slices by what is not there.
    :raises NotEnoughDataError: if every row breaks a contract.
    :raises UserCodeError: if the candidate does not load, or predicts what is no finite number; a
        champion that does so is not compared with, for it has to be replaced.
    """
    function = load_loss(loss)
    with contextlib.ExitStack() as stack:
        opened, why_not = _opened(store, stack, candidate, champion)
        holdout, notes = _usable(opened, holdout)
        model, frame = opened[candidate], holdout.frame
        why_not = why_not or _why_not_compared(opened, champion, holdout)
        predicted, other = predictions(model, frame, candidate), None
        if champion is not None and not why_not:
            try:
                other = predictions(opened[champion], frame, champion)
            except UserCodeError as error:
                why_not = str(error)
        span = holdout.selection
        base = Evaluation(
            str(candidate),
            None if champion is None else str(champion),
            epoch,
            span.since,
            span.until,
            (),
            (),
            None,
            "; ".join(filter(None, [*notes, why_not])),
            burden,
            check_answers(datasets, model) if datasets else (),
            same="files" if _same_files(store, candidate, champion) else "",
        )
        limits = [gate.p95_ms for gate in gates if isinstance(gate, Loads)]
        if limits:
            base = _loaded(base, model, holdout.rows, max(limits))
        answers = Answers(holdout.rows, holdout.y, predicted, other, model.build)
        return assessed(base, answers, gates, function, seed=seed)


def _same_files(store: ModelStore, candidate: ModelRef, champion: ModelRef | None) -> bool:
    """Say whether the candidate is the champion, whatever its version is called."""
    return champion is not None and store.get(candidate).digest == store.get(champion).digest


def _loaded(base: Evaluation, model: Any, rows: pa.Table, p95_ms: float) -> Evaluation:
    """Load the candidate in a process of its own, and see what that takes."""
    try:
        found = load_apart(model.folder, rows, base.model, p95_ms=p95_ms)
    except UserCodeError as error:
        failed = ServingCheck("loading", "failed", str(error))
        return replace(base, checks=(*base.checks, failed))
    trained_in = model.about["recipe"]["environment"]
    same = found.environment == trained_in
    text = f"it loads in {found.environment}, {'as' if same else 'not as'} it was trained"
    # another environment is fine if it gives the features and answers of training there
    known = same or any(check.name == "answers" for check in base.checks)
    environment = ServingCheck("environment", "ok" if known else "uncertain", text)
    checks = (*base.checks, environment)
    return replace(base, load_ms=found.p95_ms, memory_mb=found.memory_mb, checks=checks)


def _opened(
    store: ModelStore, stack: contextlib.ExitStack, candidate: ModelRef, champion: ModelRef | None
) -> tuple[dict[ModelRef, Any], str]:
    """Open both models, and say why the champion does not load here; empty if it does."""
    opened: dict[ModelRef, Any] = {candidate: stack.enter_context(store.opened(candidate))}
    try:
        if champion is not None:
            opened[champion] = stack.enter_context(store.opened(champion))
    except UserCodeError as error:
        return opened, str(error)
    return opened, ""


def usable_rows(model: Any, rows: pa.Table, key: str) -> pa.BooleanArray:
    """
    Say which rows a model may be asked about: no null where its training saw none.

    :param model: an opened version.
    :param rows: columns of the source.
    :param key: column that names a row.
    :return: shape ``(n_rows,)``.
    :raises ContractBrokenError: if a column the model needs is missing or of another type.
    """
    return _checked(model, rows, key)[0]


def _checked(model: Any, rows: pa.Table, key: str) -> tuple[pa.BooleanArray, tuple[Break, ...]]:
    """Return which rows are usable, and why the others are not."""
    contract = Contract.from_dict(model.about["contract"])
    fatal = schema_breaks(contract, rows.schema)
    if fatal:
        name = model.about["recipe"]["model"]
        msg = f"rows do not fit what {name} was trained on: {'; '.join(map(str, fatal))}"
        raise ContractBrokenError(msg)
    good, breaks = row_breaks(contract, rows, key)
    return good, tuple(b for b in breaks if b.kind == "null")


def _usable(opened: Mapping[ModelRef, Any], holdout: Labelled) -> tuple[Labelled, list[str]]:
    """Leave out, for all models alike, the rows that one of them may not be asked about."""
    good = pa.array([True] * len(holdout), pa.bool_())
    reasons = []
    for ref, model in opened.items():
        found, breaks = _checked(model, holdout.rows, holdout.key)
        good = pc.and_(good, found)
        if breaks:
            reasons.append(f"{ref} was trained on none such: {'; '.join(map(str, breaks))}")
    if not reasons:
        return holdout, []
    kept = holdout.filter(good)
    if not len(kept):
        span = holdout.selection
        msg = (
            f"all {len(holdout)} rows between {span.since} and {span.until} are left out, for "
            f"{'; '.join(reasons)}; correct the delivery, or train on rows that have such nulls"
        )
        raise NotEnoughDataError(msg)
    out = len(holdout) - len(kept)
    return kept, [f"{out} of {len(holdout)} rows left out, for {'; '.join(reasons)}"]


def predictions(model: Any, frame: Any, name: object) -> NDArray[np.float64]:
    """
    Predict, and insist on one finite number per row, or one per class of several.

    :param model: something with ``predict(frame)``.
    :param frame: rows, shape ``(n_rows, n_columns)``.
    :return: shape ``(n_rows,)``, or ``(n_rows, n_classes)`` of more than two classes.
    :raises UserCodeError: if it raises, or the answer is not ``n_rows`` finite numbers.
    """
    try:
        found = np.asarray(model.predict(frame), dtype=np.float64)
    except Exception as error:  # the user's features may raise anything
        refuse_exhausted(str(name), error)
        msg = f"{name} raised {type(error).__name__} on {len(frame)} rows: {error}"
        raise UserCodeError(msg) from error
    several = found.ndim == 2 and found.shape[1] > 2
    whole = found.shape[:1] == (len(frame),) and (found.ndim == 1 or several)
    if not whole or not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).sum())
        msg = (
            f"{name} answered {found.shape} with {bad} values that are not finite for "
            f"{len(frame)} rows; a model answers one finite number per row"
        )
        raise UserCodeError(msg)
    return found


def _why_not_compared(
    opened: Mapping[ModelRef, Any], champion: ModelRef | None, holdout: Labelled
) -> str:
    """Say why a comparison would not be fair; empty if it is."""
    if champion is None:
        return "no champion yet"
    if len(holdout) < MIN_ROWS:
        few = f"{len(holdout)} labelled rows in the hold-out; a comparison needs {MIN_ROWS}"
        return f"{few}: about {MIN_ROWS - len(holdout)} more labels are needed"
    until = opened[champion].about["recipe"]["until"]
    if datetime.fromisoformat(until) > datetime.fromisoformat(holdout.selection.since):
        return f"champion {champion} was fitted on rows up to {until}, inside the hold-out"
    return ""
