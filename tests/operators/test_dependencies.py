"""A champion whose packages changed does not serve, and there is a decision all the same."""

from datetime import UTC, datetime

import pytest

from airflow_mlops.core.errors import ConfigurationError, RejectedError
from airflow_mlops.core.ledger import Entry
from airflow_mlops.operators.dependencies import CheckDependenciesOperator
from tests.operators.running import run
from tests.operators.test_loop import first_champion, says

pytestmark = [pytest.mark.airflow, pytest.mark.services]

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
FEATURES = """
    import tinypkg

    def build(rows):
        return rows[["x"]].assign(y=tinypkg.scaled(rows["y"]))
"""
OTHER = "def scaled(values):\n    return values * 2.5\n"


@pytest.fixture
def features(user_module):
    return f"{user_module(FEATURES)}:build"


@pytest.fixture
def check(connections, alone):
    return lambda **given: run(alone(CheckDependenciesOperator, **given))


class TestLifecycle:
    def test_nothing_is_scored_by_answers_that_moved_until_the_packages_are_back(
        self, market, package, features, observations, ledger
    ):
        package()
        told = []
        (monitor, _, _), (first, *_) = first_champion(
            market, features=features, notify=[told.append]
        )
        assert first.states["dependencies"] == first.states["score"] == "skipped"
        assert first.states["may_serve"] == "success"
        market.deliver(5, 6, labels=(4, 5))
        package("2.0", OTHER)
        broken = run(monitor, at=NOON)
        assert broken.state == "failed"
        assert [c["dag_run"].run_id for c in told if "mlops" not in c] == [broken.run_id]
        wanted = {
            "dependencies": "failed",
            "may_serve": "upstream_failed",
            "score": "upstream_failed",
            "performance": "skipped",
            "drift": "success",
            "decide": "success",
            "housekeep": "success",
        }
        assert {t: broken.states[t] for t in wanted} == wanted
        assert isinstance(broken.error, RejectedError)
        assert "tinypkg 1.0 -> 2.0 (used by the model)" in str(broken.error)
        assert observations.served(market.name) == ()
        (finding,) = observations.read(market.name, "dependencies")
        assert finding.body["status"] == "broken"
        assert ledger.state(market.name).entries[-1].op == "keep"

        package("1.0")
        mended = run(monitor, at=NOON)
        assert mended.state == "success"
        assert mended.value("score")["written"] == 168
        found = mended.value("dependencies")
        assert (found["status"], found["answers"]["verdict"]) == ("ok", "same")

    def test_a_champion_that_does_not_load_can_be_replaced(
        self, market, package, features, ledger, observations
    ):
        package()
        first_champion(market, features=features)
        market.deliver(5, 6, labels=(4, 5))
        package("")
        draft = Entry(market.name, "request", "", "ann", "new image", evidence={"params": {}})
        ledger.record(market.name, "r", {"op": "request"}, lambda _: draft)
        monitor, train, rollout, _ = market.lifecycle().dags
        broken = run(monitor)
        assert broken.state == "failed"
        assert "imports 'tinypkg'" in str(broken.error)
        assert broken.states["contract"] == "success"
        assert broken.value("decide")["op"] == "retrain"
        assert broken.states["request"] == "success"
        trained = run(train)
        assert trained.value("gate")["status"] == "uncertain"
        assert run(rollout, answer=says("promote", "it has to be")).state == "success"
        assert ledger.state(market.name).champion == 2
        assert run(monitor).state == "success"
        assert {v for _, v, _ in observations.served(market.name)} == {2}

    def test_never_lets_it_serve_all_the_same(self, market, package, features, observations):
        from airflow_mlops.policy import Dependencies

        package()
        first_champion(market, features=features)
        market.deliver(5, 6)
        package("2.0", OTHER)
        life = market.lifecycle(features=features, dependencies=Dependencies("never"))
        done = run(life.dags[0])
        assert (done.state, done.value("dependencies")["status"]) == ("success", "broken")
        assert len(observations.served(market.name)) == 168


class TestAlone:
    def test_is_skipped_without_a_champion(self, check):
        assert check().states == {"t": "skipped"}

    def test_leaves_one_finding_however_often_it_runs(
        self, check, trained_champions, model, observations, tmp_path
    ):
        (ref,) = trained_champions(1)
        path = tmp_path / "constraints.txt"
        path.write_text("# nothing new\nnumpy\n")
        both = [check(constraints=str(path)).value("t") for _ in range(2)]
        assert both[0] == both[1]
        assert both[0]["model"] == str(ref)
        assert both[0]["constraints"]["status"] == "ok"
        assert both[0]["environment"] == both[0]["trained_in"]
        (finding,) = observations.read(model, "dependencies")
        assert finding.subject == f"{ref}:{both[0]['environment']}"
        (planned,) = observations.read(model, "constraints", of=ref)
        assert planned.body["line"] == both[0]["constraints"]["line"]

    def test_a_bad_plan_is_a_warning_that_fails_where_that_was_asked_for(
        self, check, trained_champions, tmp_path
    ):
        trained_champions(1)
        path = tmp_path / "constraints.txt"
        path.write_text("scikit-learn==99.0\n")
        found = check(constraints="{{ '" + str(path) + "' }}").value("t")
        assert (found["status"], found["answers"]["verdict"]) == ("warn", "same")
        assert "-> 99.0 (used by the model): major version" in found["line"]
        failed = check(constraints=str(path), fail_on="warn")
        assert (failed.states, failed.tries) == ({"t": "failed"}, {"t": 1})
        assert isinstance(failed.error, RejectedError)
        assert "gives the answers" not in str(failed.error)

    def test_what_it_cannot_work_with_is_named(self, check, trained_champions, tmp_path):
        trained_champions(1)
        for given, words in (
            ({"fail_on": "always"}, "fail_on='always'; known: 'error', 'warn', 'never'"),
            ({"constraints": str(tmp_path / "gone.txt")}, "gone.txt is no file of constraints"),
        ):
            done = check(**given)
            assert isinstance(done.error, ConfigurationError)
            assert words in str(done.error)
