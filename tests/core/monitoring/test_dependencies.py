"""A champion in another environment: the same answers, moved ones, or none at all."""

import json
import time
from dataclasses import replace

import pytest

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.errors import ModelChangedError, ModelNotFoundError
from airflow_mlops.core.evaluation.gate import judge
from airflow_mlops.core.evaluation.offline import evaluate
from airflow_mlops.core.metrics import loss_function
from airflow_mlops.core.monitoring.dependencies import (
    Answers,
    DependencyReport,
    check_dependencies,
    record_dependencies,
    summary,
)
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.fit import train_model
from airflow_mlops.core.training.provenance import Environment, EnvironmentChange
from airflow_mlops.policy import AtLeast, NotWorse

BRIER = ("brier", loss_function("brier"))
USES_A_PACKAGE = """
    import tinypkg

    def build(rows):
        return rows[["x", "y"]].assign(z=tinypkg.scaled(rows["y"]))
"""


@pytest.fixture
def train(model_store, make_training):
    def make(*code, **asked):
        done = train_model(model_store, make_training(*code, **asked), loss=BRIER, tags={})
        return ModelRef.parse(done.model)

    return make


@pytest.fixture
def opened():
    """How often the stores were opened."""
    return []


@pytest.fixture
def check(observations, model_store, dataset_store, opened):
    """``check(ref)``: what the monitor finds and puts on record."""

    def ask(ref, datasets=dataset_store):
        def stores():
            opened.append(ref)
            return model_store, datasets

        report = check_dependencies(ref, observations, stores)
        record_dependencies(observations, report)
        body = observations.read(ref.name, "dependencies", of=ref, last=1)[0].body
        assert DependencyReport.from_dict(body) == report
        assert (body["status"], body["line"]) == (report.status, report.line)
        return report

    return ask


@pytest.mark.services
class TestAsked:
    def test_where_it_was_trained_it_answers_the_same(self, check, train):
        ref = train()
        found = check(ref)
        assert (found.status, found.answers.verdict, found.changes) == ("ok", "same", ())
        assert found.line == (
            f"{ref} gives the answers of its training here; no package changed since training"
        )
        assert (found.stored, found.before) == ("skops", "")
        assert "scikit-learn" in {u.partition("==")[0] for u in found.uses}

    def test_once_in_each_environment(self, check, train, package, opened, observations):
        ref = train()
        first = check(ref)
        assert check(ref) == first  # a retry
        assert len(opened) == 1
        package("7.0", name="something-else")
        second = check(ref)
        assert (len(opened), second.status) == (2, "ok")
        assert second.before == first.here.id
        assert [str(c) for c in second.since] == ["something-else absent -> 7.0"]
        assert "1 that it does not use" in second.line
        assert check(ref) == second
        package("", name="something-else")
        assert check(ref).before == second.here.id
        assert len(opened) == 2
        assert len(observations.read(ref.name, "dependencies")) == 2

    def test_again_by_each_version(self, check, train, opened):
        check(train())
        check(train(seed=2))
        assert len(opened) == 2

    def test_a_report_on_record_costs_milliseconds(self, check, train):
        ref = train()
        check(ref)
        times = []
        for _ in range(5):
            start = time.process_time()
            check(ref)
            times.append(time.process_time() - start)
        assert min(times) < 0.05

    def test_a_major_version_is_known_to_go_wrong_though_the_answers_are_the_same(
        self, check, train, package
    ):
        ref = train()
        package("99.0.0", name="scikit-learn")
        found = check(ref)
        assert (found.answers.verdict, found.status) == ("same", "warn")
        assert "-> 99.0.0 (used by the model): major version:" in found.known_bad[0]
        assert found.known_bad[0] in found.line

    def test_answers_that_moved_are_measured_and_the_package_is_named(self, check, train, package):
        package()
        ref = train(USES_A_PACKAGE)
        assert check(ref).answers.verdict == "same"
        package("2.0", "def scaled(values):\n    return values * 2.5\n")
        found = check(ref)
        assert (found.status, found.answers.verdict) == ("broken", "moved")
        assert 1e-6 < found.answers.moved < 1
        for words in (
            "'z' differ on 200 rows",
            f"200 answers moved by up to {found.answers.moved:.3g}",
            "changed: tinypkg 1.0 -> 2.0 (used by the model) since training",
            f"airflow mlops retrain {ref.name}",
        ):
            assert words in found.line
        package("1.0")
        assert check(ref).status == "ok"

    def test_what_broke_is_asked_again_each_time(self, check, train, package, opened):
        package()
        ref = train(USES_A_PACKAGE)
        package("2.0", "def scaled(values):\n    return values * 2.5\n")
        assert [check(ref).status for _ in range(2)] == ["broken", "broken"]
        package("2.0")  # mended in place, the version is the same
        assert check(ref).status == "ok"
        assert len(opened) == 3

    def test_a_package_that_is_gone_is_named(self, check, train, package):
        package()
        ref = train(USES_A_PACKAGE)
        package("")
        found = check(ref)
        assert (found.status, found.answers.verdict) == ("broken", "fails")
        assert f"{ref} does not load here: ModuleNotFoundError" in found.line
        assert "imports 'tinypkg'" in found.line
        assert "tinypkg 1.0 -> absent (used by the model)" in found.line

    def test_a_package_without_its_function_is_a_finding(self, check, train, package):
        package()
        ref = train(USES_A_PACKAGE)
        package("2.0", "def rescaled(values):\n    return values\n")
        found = check(ref)
        assert (found.status, found.answers.verdict) == ("broken", "fails")
        assert "AttributeError" in found.line

    def test_a_package_that_no_longer_loads_is_a_finding(self, check, train, package):
        package()
        ref = train(USES_A_PACKAGE)
        package("2.0", "raise RuntimeError('needs a GPU')\n")
        assert "does not load here: RuntimeError: needs a GPU" in check(ref).line

    def test_rows_that_are_gone_leave_it_uncertain(self, check, train, tmp_path, opened):
        ref = train()
        found = check(ref, DatasetStore(str(tmp_path / "empty")))
        assert (found.status, found.answers.verdict) == ("warn", "not asked")
        assert f"nobody knows whether {ref} answers here as in training" in found.line
        assert check(ref).status == "ok"  # asked again: nobody knew
        assert len(opened) == 2

    def test_changed_files_are_no_finding_of_this_monitor(
        self, check, train, services, model_store
    ):
        ref = train()
        version = model_store.get(ref)
        path = next(services.home.rglob(f"{version.run_id}/artifacts/model/requirements.txt"))
        path.write_text(path.read_text() + "# changed\n")
        with pytest.raises(ModelChangedError):
            check(ref)

    def test_a_version_made_elsewhere_is_named(self, check, make_version):
        ref = make_version()
        with pytest.raises(ModelNotFoundError, match=r"environment\.txt"):
            check(ref)


@pytest.mark.services
@pytest.mark.parametrize("left", ["", "2.0"])
def test_a_candidate_can_replace_a_champion_that_does_not_work_here(
    train, package, model_store, make_training, left
):
    package()
    champion = train(USES_A_PACKAGE)
    candidate = train(seed=2)
    package(left, "def rescaled(values):\n    return values\n")
    rows = make_training().rows
    later = rows.slice(len(rows) - 168)
    found = evaluate(model_store, candidate, champion, later, loss="brier", epoch=1, seed=0)
    assert (found.champion, found.comparisons) == (str(champion), ())
    assert str(champion) in found.note
    verdict = judge([AtLeast("roc_auc", 0.6), NotWorse("brier")], found)
    assert verdict.status == "uncertain"


class TestLine:
    def test_says_what_changed_since_it_last_ran(self):
        here = Environment(("a==2",), "3.11.7", "Linux")
        change = EnvironmentChange("a", "1", "2", used=True)
        more = EnvironmentChange("b", "1", "", used=False)
        answers = Answers("moved", "200 answers moved by up to 0.1", 0.1)
        found = DependencyReport("m@1", here, here, (change, more), answers, (), ("a==1",), "skops")
        assert "since it ran in" not in found.line
        again = replace(found, before="env-1", since=(change,))
        assert "changed: a 1 -> 2 (used by the model) since it ran in env-1; put back" in again.line
        assert DependencyReport.from_dict(json.loads(json.dumps(again.to_dict()))) == again

    def test_names_a_few_and_counts_the_rest(self):
        used = [EnvironmentChange(f"p{i}", "1", "2", used=True) for i in range(7)]
        machine = EnvironmentChange("machine cpu", "X", "Y", used=False)
        assert summary([*used, machine]).endswith("p4 1 -> 2 (used by the model), 2 more")
        assert summary([machine]) == "no package changed"
