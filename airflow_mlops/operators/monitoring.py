"""Operators for monitoring: drift of the data, performance of the champion."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.operators._base import MlopsOperator, Xcom
from airflow_mlops.operators._reports import attach_report
from airflow_mlops.operators.links import ReportLink
from airflow_mlops.policy import duration
from airflow_mlops.policy.retraining import Weights

if TYPE_CHECKING:
    from airflow_mlops.core.data.commits import WindowStats
    from airflow_mlops.core.data.tables import Slice, Table
    from airflow_mlops.core.monitoring.served import ServedWindow

DRAWN = 1_000
"""Entries of the ledger that the picture of the performance shows, the newest ones."""


class DetectDriftOperator(MlopsOperator):
    """
    Compare the newest windows with the rows the champion was trained on.

    Returns the drifted columns of each new window, once it is complete. Drift is a finding: the
    task succeeds either way, and the decision weighs it. Skipped while there is no champion. The
    number of rows is held against the windows before, and the age of the newest row, if there is a
    clock, against earlier runs. A window that is not ok is drawn as a page in the champion's MLflow
    run, and again if its finding changes.

    :param snapshot: what ``SnapshotTableOperator`` returned (templated).
    :param columns: columns to compare; none: all but key and time.
    :param ignore: columns to leave out, such as those of the calendar.
    :param engine: ``profile`` for tables of any size, ``spark`` to read the rows with Spark,
        ``evidently`` for frames that fit in memory.
    :param alpha: rate of false alarms, per window and over all columns; of warnings, too.
    :param share: the dataset drifted if the drifted columns carry this much of the weight.
    :param important: columns of which one is enough.
    :param weights: column -> weight; ``"importance"``: those that the champion's training measured
        (``TrainModelOperator(importance=True)``); none: all weigh the same.
    :param now: what the clock of the data said when they were looked at, ISO 8601, such as
        ``"{{ ti.xcom_pull(task_ids='snapshot')['looked_at'] }}"``; none: the age of the newest row
        is not judged (templated).
    :param stale: age of the newest row that is too old, such as ``"2d"``; none: what is usual.
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot", "columns", "engine", "now")
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        snapshot: Xcom,
        columns: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        engine: str = "profile",
        alpha: float = 0.01,
        share: float = 0.3,
        important: Sequence[str] = (),
        weights: Weights = None,
        now: str | None = None,
        stale: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.columns = columns
        self.ignore = ignore
        self.engine = engine
        self.alpha = alpha
        self.share = share
        self.important = important
        self.weights = weights
        self.now = now
        self.stale = stale
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare each window that the snapshot wrote, and note the findings."""
        from airflow_mlops.core.monitoring.drift.reference import training_rows

        ref = self.champion_of(self.ledger().standing(self.model), "to compare with")
        store = self.datasets()
        reference = training_rows(store, self.models().get(ref))
        current = store.open(DatasetRef.parse(self.snapshot["ref"]))
        known = {
            o.subject: dict(o.body)
            for o in self.observations().read(self.model, "drift", of=ref)
            if o.body["window"] is not None
        }
        windows = self._to_judge(current, ref, known)
        asks = bool(windows) and self.weights == "importance"
        importance = self.models().about(ref).get("importance", {}) if asks else {}
        found = {
            f"{ref}:{window.index}": self._body(ref, reference, current, window, importance)
            for window in windows
        }
        drifted = {str(body["window"]): list(body["drifted"]) for body in found.values()}
        for subject, body in (found | self._fresh(ref, current, known, found)).items():
            before = known.get(subject, {"status": "ok"})
            if body["window"] is not None and {body["status"], before.get("status")} != {"ok"}:
                self._attach(ref, reference, current, body)
            self.observations().record(self.model, "drift", subject, body)
            self.log.info("%s", body["line"])
        return {
            "model": str(ref),
            "reference": str(reference.table.ref),
            "drifted": drifted,
        }

    def _body(
        self,
        ref: ModelRef,
        reference: "Slice",
        current: "Table",
        window: "WindowStats",
        importance: Mapping[str, float],
    ) -> dict[str, Any]:
        """Compare one window with the training rows, and its rows with those before it."""
        from airflow_mlops.core.monitoring.drift import detect_drift
        from airflow_mlops.core.monitoring.drift.arrival import LOOKED, judge_volume
        from airflow_mlops.core.monitoring.drift.record import body_of

        rows = current.between(*window.span)
        report = detect_drift(
            reference,
            rows,
            columns=self.columns,
            ignore=self.ignore,
            engine=self.engine,
            alpha=self.alpha,
        )
        verdict = report.verdict(
            share=self.share,
            important=self.important,
            weights=self.weights or None,
            importance=importance,
        )
        before = {w.index: w.rows for w in current.windows() if w.index < window.index}
        first = max(min(before, default=window.index), window.index - LOOKED)
        past = [before.get(i, 0) for i in range(first, window.index)]
        arrivals = judge_volume(past, window.rows, alpha=self.alpha)
        return body_of(report, verdict, arrivals, model=str(ref), window=window.index)

    def _fresh(
        self, ref: ModelRef, current: "Table", known: Mapping[str, Any], new: Mapping[str, Any]
    ) -> dict[str, Any]:
        """
        Put the age of the newest row into the newest body, of an earlier run if need be.

        While no window of this champion is complete, it is a finding without a window.
        """
        from airflow_mlops.core.monitoring.drift.arrival import Arrival, clock, judge_freshness
        from airflow_mlops.core.monitoring.drift.record import body_before, with_arrivals

        if not self.now or current.watermark is None:
            return {}
        bodies = {**known, **new} or {f"{ref}:": body_before(str(ref))}
        newest = max(bodies, key=lambda subject: bodies[subject]["window"] or 0)
        body, now = bodies.pop(newest), clock(self.now)
        if body["window"] not in (None, *(w.index for w in current.closed())):
            return {}  # an old run that is cleared says nothing about today
        past = [b["lag_s"] for b in bodies.values() if b.get("lag_s") is not None]
        limit = duration(self.stale) if self.stale else None
        late = judge_freshness(current.watermark, now, past, limit=limit, alpha=self.alpha)
        others = [Arrival.from_dict(f) for f in body.get("findings", ())]
        kept = [f for f in others if f.kind != "freshness"]
        lag = (now - current.watermark).total_seconds()
        if newest in known and newest not in new:
            lag = body.get("lag_s") or lag  # what is usual is the age when a window is first seen
        return {newest: with_arrivals(body | {"lag_s": lag}, [*kept, *late])}

    def _attach(
        self, ref: ModelRef, reference: "Slice", current: "Table", body: Mapping[str, Any]
    ) -> None:
        """Draw a window of which something is to be said, or was."""
        from airflow_mlops.core.monitoring.drift.reference import compared
        from airflow_mlops.core.reports.drift import drift_report

        def draw() -> str:
            return drift_report(body, compared(body, reference, current))

        name = f"monitoring/drift-{body['window']}.html"
        self.urls = {ReportLink.name: attach_report(self, ref, name, body, draw)}

    def _to_judge(
        self, current: "Table", champion: ModelRef, known: Mapping[str, Any]
    ) -> list["WindowStats"]:
        """Return complete windows that the champion serves and that are new, or were rewritten."""
        first, _ = self.observations().served_span(champion)
        first = min(first, datetime.fromisoformat(self.snapshot["since"]))
        judged = {body["window"] for body in known.values()}
        changed = self.snapshot["added"] or self.snapshot.get("corrected")
        written = {w.index for w in current.sidecar.commit.windows} if changed else set()
        return [
            window
            for window in current.closed()
            if window.span[1] > first and window.index not in judged - written
        ]


class MeasurePerformanceOperator(MlopsOperator):
    """
    Measure the champion on every window whose labels have arrived; skipped without a champion.

    Also the champion before it: the labels of its last window arrive when it serves no more. A
    newest window that is not ok is drawn as a page in the champion's MLflow run, and again if its
    finding changes.

    :param snapshot: what ``SnapshotTableOperator`` returned for the rows (templated).
    :param labels: what ``SnapshotTableOperator`` returned for the labels (templated).
    :param label_column: column of the labels.
    :param metric: per-row loss.
    :param slices: columns of the rows, such as ``("day",)``: parts of the rows that got worse than
        in the champion's hold-out are named; each needs 50 rows in both (templated).
    :param challenger: ``module:function`` of ``fit(X, y, *, seed) -> estimator``: a model of the
        newest rows beside which the champion is measured; none: 30 small trees (templated).
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "snapshot",
        "labels",
        "label_column",
        "metric",
        "slices",
        "challenger",
    )
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        snapshot: Xcom,
        labels: Xcom,
        label_column: str,
        metric: str = "brier",
        slices: Sequence[str] = (),
        challenger: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.labels = labels
        self.label_column = label_column
        self.metric = metric
        self.slices = slices
        self.challenger = challenger
        self.urls: dict[str, str] = {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Join predictions with labels, window by window."""
        from airflow_mlops.core.monitoring.performance import PerformanceMonitor
        from airflow_mlops.core.training.own_metrics import load_loss

        state = self.ledger().standing(self.model)
        champion, store = self.champion_of(state, "to measure"), self.datasets()
        monitor = PerformanceMonitor(
            store,
            self.models(),
            self.observations(),
            store.open(DatasetRef.parse(self.snapshot["ref"])),
            store.open(DatasetRef.parse(self.labels["ref"])),
            self.label_column,
            self.metric,
            load_loss(self.metric),
            tuple(self.slices),
            self.challenger,
        )
        if state.previous is not None:
            monitor.measure(ModelRef(self.model, state.previous))
        seen = self.observations().read(self.model, "performance", of=champion, last=1)
        before = {o.subject: o.body.get("status") for o in seen}
        found = monitor.measure(champion)
        newest = found.windows[-1] if found.windows else None
        body = found.body(newest) if newest else {"status": "ok", "line": "no labelled window yet"}
        (self.log.warning if body["status"] == "warn" else self.log.info)("%s", body["line"])
        for waiting in found.waiting:
            self.log.info("%s", waiting)
        was = before.get(f"{champion}:{newest.index}", "ok") if newest else "ok"
        if newest is not None and "warn" in (body["status"], was):
            self._attach(newest, body)
        return {
            "model": str(champion),
            "windows": len(found.windows),
            "newest": None if newest is None else newest.to_dict(),
            "waiting": [str(w) for w in found.waiting],
            "status": body["status"],
            "line": body["line"],
        }

    def _attach(self, newest: "ServedWindow", body: Mapping[str, Any]) -> None:
        """Draw how the champion did, if its newest window is not ok."""
        from airflow_mlops.core.ledger import DECISIONS
        from airflow_mlops.core.reports.performance import MARKED, performance_report

        ref, observations = ModelRef.parse(newest.model), self.observations()
        ledger = self.ledger()

        def draw() -> str:
            bodies, guesses = (
                [o.body for o in observations.read(self.model, monitor)]
                for monitor in ("performance", "estimate")
            )
            state = ledger.weighed(self.model, ops=(*MARKED, *DECISIONS), last=DRAWN)
            return performance_report(self.model, bodies, guesses, state.entries)

        name = f"monitoring/performance-{newest.index}.html"
        self.urls = {ReportLink.name: attach_report(self, ref, name, body, draw)}
