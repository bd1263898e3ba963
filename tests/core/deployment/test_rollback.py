"""A rollback looks before it goes: files, answers, rows of today."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.sources import ArrowSource
from airflow_mlops.core.deployment.registry import ModelRegistry
from airflow_mlops.core.deployment.rollback import parse_target, plan_rollback, roll_back
from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.ledger import Entry

pytestmark = pytest.mark.services

S3 = {"AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


def statuses(plan):
    return {check.name: check.status for check in plan.checks}


def test_a_version_that_can_serve_names_all_that_goes_back_with_it(
    registry, dataset_store, trained_champions, model, ask
):
    one, two = trained_champions(2)
    plan = plan_rollback(registry, dataset_store, model)
    assert (plan.champion, plan.target) == (str(two), str(one))
    assert plan.parts["data"] == f"{model}@1"
    assert plan.parts["features"].startswith(f"{model}.features@fs-")
    assert statuses(plan) == dict.fromkeys(("files", "features", "answers", "rows of today"), "ok")
    assert registry.champion(model) == two  # it only looked
    entry = roll_back(registry, dataset_store, model, ask("back", "bad week"))
    assert (registry.champion(model), entry.reason) == (one, "bad week")
    assert entry.evidence["plan"]["parts"] == plan.parts
    assert entry.evidence["forced"] is False
    again = roll_back(registry, dataset_store, model, ask("back", "bad week"))
    assert again == entry


def test_changed_files_name_the_version_that_can_serve(
    registry, dataset_store, trained_champions, model, model_store, ask
):
    refs = trained_champions(3)
    run = model_store.get(refs[1]).run_id
    model_store.client.log_text(run, "x", "model/data/mlops/estimator/model.skops")
    with pytest.raises(
        RejectedError, match=f"{refs[1]} cannot serve: files: .*{refs[0]} can serve: --to 1"
    ):
        roll_back(registry, dataset_store, model, ask("back"))
    assert registry.champion(model) == refs[2]
    with pytest.raises(RejectedError, match="not those that were evaluated"):
        roll_back(registry, dataset_store, model, ask("forced"), force=True)
    roll_back(registry, dataset_store, model, ask("further"), to=1)
    assert registry.champion(model) == refs[0]


def test_rows_of_today_that_do_not_fit_stop_it(
    registry, dataset_store, trained_champions, model, ask, labelled_weeks, append
):
    one, _ = trained_champions(2)
    other = DatasetStore(dataset_store.root + "2")  # today's rows have lost a column
    append(other, f"{model}.labels", labelled_weeks().label_source())
    rows = labelled_weeks().rows.drop_columns(["y"])
    other.append(
        model, ArrowSource(rows, "id", "at"), app_key="k", time="at", key="id",
        window=dataset_store.open(dataset_store.latest(model)).window,
    )  # fmt: skip
    plan = plan_rollback(registry, other, model)
    assert statuses(plan) == {
        "files": "ok",
        "features": "failed",
        "answers": "failed",
        "rows of today": "failed",
    }
    with pytest.raises(RejectedError, match=r"'y' missing.*no earlier champion can; or insist"):
        roll_back(registry, other, model, ask("back"))
    entry = roll_back(registry, other, model, ask("insist"), force=True)
    assert entry.evidence["forced"] is True
    assert registry.champion(model) == one


def test_old_rows_that_are_gone_leave_it_uncertain_and_possible(
    registry, dataset_store, trained_champions, model, ask, tmp_path
):
    one, _ = trained_champions(2)
    empty = DatasetStore(str(tmp_path / "empty"))
    plan = plan_rollback(registry, empty, model)
    assert statuses(plan) == {"files": "ok"} | dict.fromkeys(
        ("features", "answers", "rows of today"), "uncertain"
    )
    roll_back(registry, empty, model, ask("back"))
    assert registry.champion(model) == one


def test_a_dataset_store_that_is_down_does_not_hold_up_a_rollback(
    registry, trained_champions, model, ask
):
    one, _ = trained_champions(2)
    store = DatasetStore("s3://away", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", **S3})
    plan = plan_rollback(registry, store, model)
    assert statuses(plan) == {"files": "ok"} | dict.fromkeys(
        ("features", "answers", "rows of today"), "uncertain"
    )
    roll_back(registry, store, model, ask("back"))
    assert registry.champion(model) == one


def test_answers_that_moved_are_found(
    registry, dataset_store, trained_champions, model, append, labelled_weeks
):
    """The rows behind the answers were changed on disk: then its answers are other ones."""
    trained_champions(2)
    table = dataset_store.open(dataset_store.latest(model))
    changed = table.between().to_arrow()
    place = changed.schema.get_field_index("y")
    changed = changed.set_column(place, "y", pa.array([9.0] * changed.num_rows))
    other = DatasetStore(dataset_store.root + "3")
    append(other, model, ArrowSource(changed, "id", "at"))
    append(other, f"{model}.labels", labelled_weeks().label_source())
    plan = plan_rollback(registry, other, model)
    assert statuses(plan)["answers"] == statuses(plan)["features"] == "failed"
    assert "200 answers moved by up to" in str(plan)


SHIFTED = """
    import os

    def build(rows):
        shift = float(os.environ.get("MLOPS_TEST_SHIFT", "0"))
        return rows[["y"]].assign(other=rows["x"] + shift)
"""
OF_Y = """
    from sklearn.tree import DecisionTreeClassifier

    def fit(X, y, *, seed, **params):
        return DecisionTreeClassifier(max_depth=1, random_state=seed).fit(X, y)
"""


def test_features_that_are_others_here_stop_it_though_the_code_is_the_same(
    registry, dataset_store, trained_champions, model, ask, monkeypatch
):
    one, two = trained_champions(2, features=SHIFTED, train=OF_Y)
    monkeypatch.setenv("MLOPS_TEST_SHIFT", "0.25")
    plan = plan_rollback(registry, dataset_store, model)
    assert statuses(plan) == {
        "files": "ok",
        "features": "failed",
        "answers": "ok",  # the tree looks at y only
        "rows of today": "ok",
    }
    with pytest.raises(RejectedError, match=f"{one} cannot serve: features: 'other' differ on 200"):
        roll_back(registry, dataset_store, model, ask("back"))
    assert registry.champion(model) == two


@pytest.mark.parametrize(
    ("when", "version"),
    [("2024-01-31", None), ("2024-02-01", 1), ("2024-03-05T00:00+00:00", 2), ("2024-04-01", 1)],
)
def test_a_moment_is_one_of_the_data(ledger, model, when, version):
    """Decisions carry the clock of the data; what follows them happened then."""

    def add(op, number=None, now=None):
        evidence = {"now": now} if now else {}
        key = f"{op}{number}{now}"
        build = lambda _: Entry(model, op, "", "t", "r", number, evidence=evidence)  # noqa: E731
        ledger.record(model, key, {"op": op}, build)

    add("retrain", now="2024-02-01T00:00:00+00:00")
    add("promote", 1)
    add("retrain", now="2024-03-01T00:00:00+00:00")
    add("promote", 2)
    add("keep", now="2024-04-01T00:00:00+00:00")
    add("rollback", 1)
    found = ledger.state(model).changed_at(parse_target(when))
    assert (found and found.version) == version


def test_a_moment_leads_to_whoever_was_champion_then(
    registry: ModelRegistry, dataset_store, trained_champions, model, ask
):
    one, _ = trained_champions(2)
    then = datetime.fromisoformat(registry.ledger.state(model).entries[0].at)
    roll_back(registry, dataset_store, model, ask("back"), to=then)
    assert registry.champion(model) == one
    with pytest.raises(ConfigurationError, match=f"{model} had no champion at 1999"):
        plan_rollback(registry, dataset_store, model, datetime(1999, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("text", ["yesterday", "4.5", "@4", "-1"])
def test_a_target_that_is_none_is_refused(text):
    with pytest.raises(ConfigurationError, match="neither a version nor a moment"):
        parse_target(text)
