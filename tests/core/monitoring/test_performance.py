"""Realised performance: what was served, against late labels and a cheap challenger."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.errors import ConfigurationError, UserCodeError
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.monitoring.performance import PerformanceMonitor
from airflow_mlops.core.monitoring.served import Measured, ServedWindow
from airflow_mlops.core.refs import DatasetRef, ModelRef
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.models import UNTIL
from airflow_mlops.core.training.own_metrics import load_loss
from tests.conftest import MONDAY, WEEK

pytestmark = pytest.mark.services

BRIER = loss_function("brier")


@pytest.fixture
def served(dataset_store, model_store, observations, make_training, labelled_weeks, append, model):
    """``served(share)``: a model that predicted .3 for a share of the rows of week 7."""
    training = make_training()
    ref = ModelRef.parse(train_model(model_store, training, loss=("brier", BRIER), tags={}).model)
    rows = labelled_weeks().rows

    def predict(share: float = 1.0, week: int = 7) -> ModelRef:
        part = rows.slice(week * 168, int(168 * share))
        out = pa.table(
            {
                "key": part["id"].cast(pa.string()),
                "observed_at": part["at"],
                "prediction": pa.array([0.3] * part.num_rows),
            }
        )
        observations.write_predictions(ref, out, dataset=f"{model}@1", run="r")
        return ref

    return predict


@pytest.fixture
def monitor(dataset_store, model_store, observations, model):
    def make() -> PerformanceMonitor:
        data, labels = (
            dataset_store.open(dataset_store.latest(name)) for name in (model, f"{model}.labels")
        )
        return PerformanceMonitor(
            dataset_store, model_store, observations, data, labels, "up", "brier", BRIER
        )

    return make


def test_a_served_window_is_measured_once_and_agrees_with_scikit_learn(
    served, monitor, labelled_weeks
):
    ref = served()
    (found,) = monitor().measure(ref).windows
    truth = labelled_weeks().labels["up"].to_numpy()[7 * 168 : 8 * 168]
    assert found.loss == pytest.approx(brier_score_loss(truth, np.full(168, 0.3)))
    assert (found.index, found.rows, found.model) == (7, 168, str(ref))
    assert found.probe_loss < found.loss  # a model of the rows beats a constant
    assert monitor().measure(ref).windows == (found,)
    assert ServedWindow.from_dict(found.to_dict()) == found


def test_what_is_measured_has_an_interval_a_backtest_a_watermark_and_slices(
    served, monitor, observations, model_store
):
    ref = served()
    asked = replace(monitor(), slices=("kind", "x"))
    (found,) = asked.measure(ref).windows
    assert (found.served, found.labelled_until) == (168, "2024-02-25T23:00:00+00:00")
    assert found.realised.low < found.loss < found.realised.high
    assert {m.metric for m in found.metrics} >= {"brier", "roc_auc", "accuracy"}
    assert found.base == float(model_store.get(ref).tags["mlops.base_loss"])
    assert [s.value for s in found.slices if s.column == "kind"] == ["a", "b", "c"]
    assert len(found.slices) == 7
    assert sum(s.rows for s in found.slices) == 2 * 168
    (seen,) = observations.read(ref.name, "performance")
    assert (seen.body["status"], "in its backtest" in seen.body["line"]) == ("warn", True)
    assert found.decayed  # a constant .3 is worse than the model that was trained
    with pytest.raises(ConfigurationError, match=r"no column 'colour' to slice by.* it has id, at"):
        replace(asked, slices=("colour",)).measure(ref)


def test_labels_that_change_later_are_measured_anew_and_the_same_ones_are_not(
    dataset_store, labelled_weeks, append, served, monitor, model, observations
):
    ref = served()
    (before,) = monitor().measure(ref).windows
    (estimate,) = observations.read(model, "estimate")
    labels = labelled_weeks().labels
    flipped = pa.array([1 - up for up in labels["up"].to_pylist()], pa.int8())
    source = ArrowSource(labels.set_column(2, "up", flipped), "id", "at")
    for key in ("late", "twice"):
        append(dataset_store, f"{model}.labels", source, app_key=key, lateness=timedelta(days=6))
        (after,) = monitor().measure(ref).windows
        assert after.labels != before.labels
        assert after.loss == pytest.approx(_brier(flipped))
    (seen,) = observations.read(model, "performance")
    assert ServedWindow.from_dict(seen.body) == after
    assert observations.read(model, "estimate") == (estimate,)  # said before, and never afterwards


def _brier(labels):
    truth = np.array(labels.to_pylist()[7 * 168 :])
    return brier_score_loss(truth, np.full(168, 0.3))


CHALLENGERS = """
    import numpy as np
    from sklearn.linear_model import LinearRegression, LogisticRegression

    def fit(X, y, *, seed):
        return LogisticRegression(random_state=seed).fit(X, y)

    def raises(X, y, *, seed):
        raise ValueError("too few")

    def nothing(X, y, *, seed):
        return None

    class Nan:
        def predict(self, X):
            return np.full(len(X), np.nan)

    def nan(X, y, *, seed):
        return Nan()

    def line(X, y, *, seed):
        return LinearRegression().fit(X, y)

    def classes(X, y, *, seed):
        return LogisticRegression().fit(X, np.arange(len(y)) % 3)

    def talks(X, y, *, seed):
        raise ValueError("no\\x00such\\nvalue" * 99_999)
"""

FAILS = {
    "raises": "raised ValueError: too few (line 9)",
    "nothing": "'NoneType' object has no attribute 'predict'",
    "nan": "gave (168,) numbers for 168 rows, 168 of them not finite",
    "line": "brier is of probabilities",
    "classes": "was fitted on 3 classes",
    "gone": "defines no function 'gone' at top level",
    "talks": "raised ValueError: no such value",
}


def test_a_challenger_of_the_user_takes_the_place_of_the_trees_or_says_why_not(
    served, monitor, observations, user_module, labelled_weeks
):
    ref, name = served(), user_module(CHALLENGERS)
    for function, why in {**FAILS, "fit": ""}.items():
        (found,) = replace(monitor(), challenger=f"{name}:{function}").measure(ref).windows
        (seen,) = observations.read(ref.name, "performance")
        assert (found.rows, found.realised is not None) == (168, True)
        assert (found.probe == ()) == bool(why)
        assert why in found.unprobed
        if why:
            assert f"challenger {name}:{function}" in found.unprobed
            assert found.unprobed in seen.body["line"]
            assert len(found.unprobed) < 1_000
    rows, labels = (p.to_pandas() for p in (labelled_weeks().rows, labelled_weeks().labels))
    model = LogisticRegression().fit(rows[["x", "y"]][: 7 * 168], labels.up[: 7 * 168])
    p = model.predict_proba(rows[["x", "y"]][7 * 168 :])[:, 1]
    assert found.probe_loss == pytest.approx(brier_score_loss(labels.up[7 * 168 :], p))


def test_a_window_that_nobody_served_is_not_measured(served, monitor):
    ref = served()
    assert [w.index for w in monitor().measure(ref).windows] == [7]


def test_labels_for_a_part_of_the_window_wait(
    dataset_store, labelled_weeks, append, served, monitor, model
):
    weeks = labelled_weeks(9)
    append(dataset_store, model, weeks.source(0, 9), app_key="rows")
    half = weeks.label_source(0, 9)
    half = type(half)(half.table.slice(0, 8 * 168 + 100), "id", "at")
    append(dataset_store, f"{model}.labels", half, app_key="labels")
    ref = served()
    part = weeks.rows.slice(8 * 168, 168)
    out = pa.table(
        {
            "key": part["id"].cast(pa.string()),
            "observed_at": part["at"],
            "prediction": pa.array([0.5] * 168),
        }
    )
    monitor().observations.write_predictions(ref, out, dataset=f"{model}@2", run="r")
    found = monitor().measure(ref)
    assert [w.index for w in found.windows] == [7]
    assert [str(w) for w in found.waiting] == ["window 8 waits: 100 of 168 rows have a label, 60%"]
    (known,) = monitor().observations.read(ref.name, "performance")
    assert "; window 8 waits: 100 of 168 rows have a label, 60%" in known.body["line"]
    (first, second) = monitor().observations.read(ref.name, "estimate")
    assert [first.body["index"], second.body["index"]] == [7, 8]
    assert (first.body["windows"], second.body["windows"]) == (0, 1)  # corrected by window 7


def test_a_window_that_cannot_be_measured_waits_with_the_reason(
    served, monitor, observations, services
):
    ref = served()
    with psycopg.connect(services.dsn("mlops")) as connection:
        connection.execute(
            "update mlops.predictions set prediction = 'NaN' where model = %s and key = '1180'",
            (ref.name,),
        )
    found = monitor().measure(ref)
    (waiting,) = found.waiting
    assert str(waiting).startswith("window 7 waits: brier is not defined on these 168 rows")
    assert (found.windows, observations.read(ref.name, "performance")) == ((), ())


def test_a_column_of_lists_is_no_column_to_slice_by(
    dataset_store, labelled_weeks, append, served, monitor, model
):
    ref = served()
    rows = labelled_weeks().rows
    rows = rows.append_column("tags", pa.array([["a"]] * rows.num_rows))
    asked, lists = monitor(), "tags"
    other = append(dataset_store, f"{model}.lists", ArrowSource(rows, "id", "at"))
    asked = replace(asked, data=dataset_store.open(DatasetRef.parse(other.ref)), slices=(lists,))
    with pytest.raises(ConfigurationError, match=r"column 'tags' of .*@1 is list<.*single values"):
        asked.measure(ref)


def test_rows_that_it_has_learnt_from_are_none_that_it_served(
    served, monitor, observations, model_store
):
    ref = served(week=6)
    assert monitor().measure(ref) == Measured((), (), {})
    assert observations.read(ref.name, "performance") == ()
    model_store.tag(ref, UNTIL, (MONDAY + 6 * WEEK).isoformat())
    assert [w.index for w in monitor().measure(ref).windows] == [6]
    model_store.tag(ref, UNTIL, (MONDAY + 7 * WEEK).isoformat())  # as an earlier release had it
    assert monitor().measure(ref).windows == ()


def test_the_first_window_has_no_labels_before_it_and_waits(served, monitor, model_store):
    ref = served(week=0)
    model_store.tag(ref, UNTIL, MONDAY.isoformat())
    (waiting,) = monitor().measure(ref).waiting
    assert str(waiting) == "window 0 waits: no labels before it to learn from"


def test_the_challenger_never_sees_the_window_it_is_measured_on(served, monitor):
    found = monitor()
    ref = served()
    asked: list[tuple[datetime, datetime]] = []
    original = type(found)._selection

    class Watching(PerformanceMonitor):
        def _selection(self, since, until):
            asked.append((since, until))
            return original(self, since, until)

    fields = (getattr(found, name) for name in PerformanceMonitor.__dataclass_fields__)
    Watching(*fields).measure(ref)
    window, learnt = asked
    assert learnt[1] == window[0]
    assert window[1] - window[0] == timedelta(days=7)


def test_the_holdout_is_asked_once_for_all_windows(
    make_training, model_store, observations, labelled_weeks, monitor, model, tmp_path
):
    weeks, calls = labelled_weeks(10), tmp_path / "calls"
    build = f"""
    def build(rows):
        with open({str(calls)!r}, "a") as file:
            print(rows.id.min(), len(rows), file=file)
        return rows[["x", "y"]]
    """
    training = make_training(build, weeks=weeks)
    ref = ModelRef.parse(train_model(model_store, training, loss=("brier", BRIER), tags={}).model)
    part = weeks.rows.slice(7 * 168)
    key = part["id"].cast(pa.string())
    out = {"key": key, "observed_at": part["at"], "prediction": pa.array([0.3] * len(part))}
    observations.write_predictions(ref, pa.table(out), dataset=f"{model}@1", run="r")
    calls.unlink()
    found = replace(monitor(), slices=("kind",)).measure(ref).windows
    assert [len(w.slices) for w in found] == [3, 3, 3]
    asked = calls.read_text().splitlines()
    assert asked.count(f"{7 * 168} 168") == 2  # as the first window, and as the hold-out
    assert len(asked) == 2 * len(found) + 1
    replace(monitor(), slices=("kind",)).measure(ref)
    assert calls.read_text().splitlines() == asked  # nothing is new, so nobody is asked


def test_the_dataset_refs_are_those_of_the_monitor(served, monitor, model):
    served()
    assert monitor().data.ref == DatasetRef(model, 1)


@pytest.fixture
def served_with(make_training, model_store, observations, labelled_weeks, model):
    """``served_with(build)``: a model of these features, that predicted .3 for week 7."""
    encoded = """
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    def fit(X, y, *, seed):
        one = OneHotEncoder(handle_unknown="ignore", max_categories=9)
        return make_pipeline(
            make_column_transformer((one, ["t"])), LogisticRegression(random_state=seed)
        ).fit(X, y)
    """

    def make(build: str) -> ModelRef:
        training = make_training(build, encoded)
        done = train_model(model_store, training, loss=("brier", BRIER), tags={})
        ref = ModelRef.parse(done.model)
        rows = labelled_weeks().rows.slice(7 * 168, 168)
        out = {
            "key": rows["id"].cast(pa.string()),
            "observed_at": rows["at"],
            "prediction": pa.array([0.3] * 168),
        }
        observations.write_predictions(ref, pa.table(out), dataset=f"{model}@1", run="r")
        return ref

    return make


SIDE = "(rows.y > 0).map({True: 'up', False: 'down'})"


@pytest.mark.parametrize(
    "columns",
    [
        f"t={SIDE}",
        f"t={SIDE}.astype('category')",
        f"t={SIDE}.astype('string')",
        f"t={SIDE}.where(rows.id % 5 > 0, None)",
        "t=rows.y > 0",
        "t=(rows.y > 0).astype('boolean').where(rows.id % 5 > 0)",
        "t=(rows.y > 0).astype('Int64').where(rows.id % 5 > 0)",
        f"t={SIDE}, many=rows.id.astype(str), time=rows['at'], none=None, nan=float('nan')",
        f"t={SIDE}, mixed=rows.kind.where(rows.id % 2 > 0, rows.id)",
        f"t={SIDE}, late=rows.kind.where(rows.id < 7 * 168, 'new')",
    ],
    ids=[
        "text",
        "category",
        "string",
        "null",
        "bool",
        "boolean",
        "integer",
        "many",
        "mixed",
        "new",
    ],
)
def test_the_challenger_learns_from_columns_of_every_kind(served_with, monitor, columns):
    ref = served_with(f"def build(rows):\n    return rows[['kind']].assign({columns})")
    (found,) = monitor().measure(ref).windows
    assert found.probe_loss < 0.8 * found.loss


@pytest.mark.parametrize(
    ("late", "says"),
    [
        ("1 / 0", "build raised ZeroDivisionError on 168 rows: division by zero"),
        ("frame.rename(columns={'kind': 'sort'})", "build gave .*'sort', 't'.* and .*'kind', 't'"),
        ("None", "build gave NoneType"),
    ],
    ids=["raises", "other columns", "nothing"],
)
def test_a_build_that_fails_on_later_rows_is_named(served_with, monitor, late, says):
    ref = served_with(
        "def build(rows):\n"
        f"    frame = rows[['kind']].assign(t={SIDE})\n"
        f"    return {late} if rows.id.max() >= 7 * 168 else frame"
    )
    with pytest.raises(UserCodeError, match=rf"{ref}: .*{says}"):
        monitor().measure(ref)


def test_a_metric_of_the_user_is_watched_like_one_of_ours(served, monitor, user_module):
    ref = served()
    own = f"{user_module('def loss(y, p):' + chr(10) + '    return (p - y) ** 2')}:loss"
    (plain,) = monitor().measure(ref).windows
    (found,) = replace(monitor(), metric=own, loss=load_loss(own)).measure(ref).windows
    assert found.metric == own
    for values in ("champion", "probe"):
        assert getattr(found, values) == pytest.approx(getattr(plain, values))
    assert {m.metric for m in found.metrics} == {own, *(m.metric for m in plain.metrics[1:])}


def test_a_score_of_the_user_is_no_loss_to_watch_by(served, monitor, user_module):
    ref = served()
    own = f"{user_module('def one(y, p):' + chr(10) + '    return 0.5')}:one"
    with pytest.raises(ConfigurationError, match=r"one number for 168 rows; here a loss of each"):
        replace(monitor(), metric=own, loss=load_loss(own)).measure(ref)
