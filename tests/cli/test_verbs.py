"""Every verb of ``airflow mlops``: what it prints, what it leaves, how it ends."""

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from airflow.sdk import DAG

from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.monitoring.observations import Observations
from tests.operators.running import sync

pytestmark = [pytest.mark.airflow, pytest.mark.services]


@pytest.fixture
def decided(ledger, model):
    """A model about which one thing was decided; it never had a champion."""
    evidence = {"facts": {"probe": 0.25}, "thresholds": {"margin": 0.05}, "params": {}}
    entry = Entry(model, "keep", "", "monitor", "nothing asks for it", evidence=evidence)
    ledger.record(model, "k1", {"op": "decide"}, lambda _: entry)
    return model


class TestStatus:
    def test_of_a_model_without_champion(self, mlops, decided):
        done = mlops("status", decided)
        assert done.code == 0
        assert f"{decided}: champion none since none" in done.out
        assert "nothing yet" in done.out
        assert "nothing asks for it" in done.out
        found = mlops("status", decided, "--json").json
        assert (found["champion"], found["previous"], found["challenger"]) == (None, None, None)
        assert found["decision"]["op"] == "keep"
        names = ("contract", "drift", "performance", "dependencies", "system")
        assert found["monitors"] == dict.fromkeys(names)

    def test_of_a_model_that_serves(self, mlops, champions, model, ledger, connections):
        from airflow_mlops.hooks.ledger import LedgerHook

        champions(2)
        observations = LedgerHook().observations()
        lines = {
            "contract": ("broken", "column 'x' is gone in d@4"),
            "drift": ("warn", "window 7: price drifted"),
            "performance": ("ok", "brier 0.2500 in window 6"),
            "dependencies": ("ok", "it gives the answers of its training here"),
            "system": ("broken", "0.2 GB are free at /data"),
        }
        for number, earlier in enumerate(("ok", "broken", "broken")):
            body = {"status": earlier, "line": "0.3 GB are free at /data"}
            observations.record(model, "system", f"earlier {number}", body)
        for monitor, (status, line) in lines.items():
            observations.record(model, monitor, "s", {"status": status, "line": line})
        done = mlops("status", model)
        assert f"{model}: champion 2 since {ledger.state(model).entries[1].at}" in done.out
        assert "previous 1, waiting for approval none" in done.out
        for monitor, (status, line) in lines.items():
            (shown,) = [text for text in done.out.splitlines() if text.startswith(f"  {monitor} ")]
            assert shown.split()[1] == status
            assert shown.endswith(line)
        found = mlops("status", model, "--json").json
        assert (found["champion"], found["previous"]) == (2, 1)
        assert found["monitors"]["drift"]["line"] == lines["drift"][1]
        broken_since = observations.read(model, "system")[1].recorded_at
        assert found["monitors"]["system"]["since"] == broken_since
        for version in (2, 1):  # what was said last is about a version that serves no more
            body = {"status": "ok", "line": f"about {version}"}
            observations.record(model, "drift", f"{model}@{version}:7", body)
        assert mlops("status", model, "--json").json["monitors"]["drift"]["line"] == "about 2"


class TestWhyAndHistory:
    def test_why_shows_evidence_and_thresholds(self, mlops, decided):
        done = mlops("why", decided)
        assert done.code == 0
        assert 'facts: {"probe": 0.25}' in done.out
        assert 'thresholds: {"margin": 0.05}' in done.out
        assert "params" not in done.out
        (entry,) = mlops("why", decided, "--json").json["entries"]
        assert entry["evidence"]["facts"] == {"probe": 0.25}

    @pytest.mark.parametrize(("last", "shown"), [("2", [2, 3]), ("9", [1, 2, 3]), ("1", [3])])
    def test_why_shows_the_newest(self, mlops, champions, model, last, shown):
        champions(3)
        found = mlops("why", model, "--last", last, "--json").json
        assert [e["seq"] for e in found["entries"]] == shown

    @pytest.mark.parametrize("last", ["0", "-1"])
    def test_why_shows_none_for_no_number(self, mlops, champions, model, last):
        champions(2)
        done = mlops("why", model, "--last", last)
        assert done.code == 2
        assert last in done.err

    def test_history_is_checked(self, mlops, champions, model, ledger):
        champions(2)
        number, digest = ledger.state(model).head
        done = mlops("history", model)
        assert done.code == 0
        assert f"{number} entries, the chain of hashes holds up to {digest[:16]}" in done.out
        assert f"promote   {model}@1" in done.out
        found = mlops("history", model, "--json").json
        assert (found["verified"], found["head"]) == (True, digest)
        assert found["entries"][1]["prev_hash"] == found["entries"][0]["hash"]

    def test_a_changed_ledger_is_not_shown(self, mlops, champions, model, ledger):
        champions(2)
        with psycopg.connect(ledger.dsn, autocommit=True) as connection:
            connection.execute("alter table mlops.decisions disable trigger all")
            connection.execute("delete from mlops.decisions where seq = 1")  # as a superuser could
        for verb in ("status", "why", "history"):
            done = mlops(verb, model)
            assert (done.code, done.out) == (1, "")
            assert f"LedgerLostError: the ledger of {model} breaks at entry 1" in done.err
        assert mlops("history", model, "--json").json["error"] == "LedgerLostError"
        done = mlops("doctor")
        assert done.code == 1
        assert "BAD ledger and aliases" in done.out
        assert "breaks at entry 1" in done.out

    def test_history_as_a_command(self, decided, connections):
        program = str(Path(sys.executable).parent / "airflow")
        done = subprocess.run(
            [program, "mlops", "history", decided, "--json"],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [e["op"] for e in found["entries"]] == ["keep"]


class TestRetrain:
    def test_puts_a_request_on_record(self, mlops, ledger, decided):
        params = ("--params", '{"depth": 3}')
        done = mlops("retrain", decided, "--reason", "new tariff", *params, "--no-trigger")
        assert done.code == 0
        assert f"request 2 of {decided} by {getpass.getuser()} is on record: new tariff" in done.out
        assert f"the next run of {decided}__monitor answers it" in done.out
        entry = ledger.state(decided).entries[-1]
        assert (entry.op, entry.reason) == ("request", "new tariff")
        assert entry.evidence == {"params": {"depth": 3}, "pins": {}}

    def test_starts_the_monitor(self, mlops, ledger, decided):
        with DAG(f"{decided}__monitor", schedule=None) as dag:
            pass
        sync(dag)
        done = mlops("retrain", decided, "--reason", "r", "--by", "ann", "--json")
        assert done.code == 0
        assert (done.json["op"], done.json["by"]) == ("request", "ann")
        assert done.json["run_id"].startswith("manual__")
        assert done.json["run_id"] in runs_of(dag.dag_id)

    def test_says_that_there_is_no_dag_to_answer(self, mlops, ledger, decided):
        done = mlops("retrain", decided, "--reason", "r")
        assert done.code == 2
        assert "the request is on record" in done.err
        assert f"'{decided}__monitor'" in done.err
        assert [e.op for e in ledger.state(decided).entries] == ["keep", "request"]

    def test_refuses_a_model_that_is_not_on_record(self, mlops, ledger, decided):
        done = mlops("retrain", f"{decided}x", "--reason", "r", "--no-trigger")
        assert done.code == 2
        assert f"'{decided}x'" in done.err
        assert ledger.models() == (decided,)

    @pytest.mark.parametrize(
        ("params", "words"),
        [("{depth: 3}", ["{depth: 3}", "not JSON"]), ("[1]", ["[1]", "object"])],
    )
    def test_refuses_params_that_are_no_object(self, mlops, ledger, decided, params, words):
        done = mlops("retrain", decided, "--reason", "r", "--params", params, "--no-trigger")
        assert done.code == 2
        assert all(word in done.err for word in words)
        assert len(ledger.state(decided).entries) == 1

    def test_refuses_params_that_json_cannot_hold(self, mlops, ledger, decided):
        params = ("--params", '{"C": NaN}')
        done = mlops("retrain", decided, "--reason", "r", *params, "--no-trigger")
        assert done.code == 2
        assert len(ledger.state(decided).entries) == 1


class TestPromoteAndRollback:
    def test_promote_by_hand(self, mlops, make_version, ledger, model_store, model):
        ref = make_version()
        done = mlops("promote", str(ref), "--reason", "hotfix", "--by", "ann")
        assert done.code == 0
        assert f"{ref} is champion (entry 1, by ann): hotfix" in done.out
        (entry,) = ledger.state(model).entries
        assert entry.evidence["by_hand"] is True
        assert dict(model_store.client.get_registered_model(model).aliases) == {"champion": "1"}
        done = mlops("promote", str(ref), "--reason", "again", "--json")
        assert done.code == 1
        assert done.json["error"] == "ConcurrentPromotionError"
        assert "champion already" in done.json["message"]

    @pytest.mark.parametrize("version", ["{}@9", "{}", "nobody@1"])
    def test_promote_names_what_it_cannot_find(self, mlops, make_version, ledger, model, version):
        make_version()
        done = mlops("promote", version.format(model), "--reason", "r")
        assert done.code == 2
        assert version.format(model) in done.err
        assert ledger.state(model).entries == ()

    def test_reject_turns_down_the_candidate_and_nothing_else(
        self, mlops, champions, registry, make_version, ask, model, ledger
    ):
        champions(1)
        ref = make_version()
        registry.propose(ref, ask("propose"), epoch=ledger.state(model).epoch, order=9)
        wrong = mlops("reject", f"{model}@1", "--reason", "hurts")
        assert wrong.code == 2
        assert f"{model}@1 is no candidate, {ref} is" in wrong.err
        done = mlops("reject", str(ref), "--reason", "hurts", "--by", "ann")
        assert done.code == 0
        assert f"{ref} is rejected (entry 3, by ann): hurts" in done.out
        assert ledger.state(model).challenger is None
        assert "there is none now" in mlops("reject", str(ref), "--reason", "again").err

    def test_status_shows_a_stage_while_it_runs(
        self, mlops, champions, registry, make_version, ask, model, ledger
    ):
        champions(1)
        ref = make_version()
        registry.propose(ref, ask("propose"), epoch=ledger.state(model).epoch, order=9)
        line = {"status": "ok", "line": f"Canary of {ref}: running"}
        Observations(ledger.dsn).record(model, "rollout", f"{ref}:0", line)
        assert "rollout      ok      since" in mlops("status", model).out
        mlops("reject", str(ref), "--reason", "hurts")
        assert "rollout" not in mlops("status", model).out

    def test_rollback(self, mlops, trained_champions, model, ledger):
        trained_champions(3)
        look = mlops("rollback", model, "--dry-run")
        assert look.code == 0
        assert look.out.startswith(f"{model}@3 -> {model}@2\n  data         {model}@1")
        assert "ok        answers: 200 answers are what they were" in look.out
        assert "can serve; nothing was changed" in look.out
        assert ledger.state(model).champion == 3
        done = mlops("rollback", model, "--reason", "complaints", "--by", "ann")
        assert done.code == 0
        assert f"{model}: champion 3 -> 2 (entry 4, by ann)" in done.out
        done = mlops("rollback", model, "--to", "1", "--reason", "still", "--json")
        assert (done.code, done.json["version"], done.json["reason"]) == (0, 1, "still")
        assert done.json["evidence"]["plan"]["checks"][0]["status"] == "ok"
        assert ledger.state(model).champion == 1

    def test_rollback_to_what_cannot_serve_is_refused_or_insisted_on(
        self, mlops, champions, model, ledger
    ):
        champions(2)  # of files that are no model
        done = mlops("rollback", model, "--dry-run")
        assert done.code == 1
        assert f"{model}@1 cannot serve" in done.out
        done = mlops("rollback", model, "--reason", "r")
        assert done.code == 1
        assert "no earlier champion can; or insist with --force" in done.err
        assert ledger.state(model).champion == 2
        done = mlops("rollback", model, "--reason", "r", "--force")
        assert done.code == 0
        assert ledger.state(model).entries[-1].evidence["forced"] is True

    def test_a_moment_that_is_none_is_refused(self, mlops, champions, model):
        champions(2)
        for words in (("rollback", model, "--reason", "r", "--to"), ("history", model, "--at")):
            done = mlops(*words, "last tuesday")
            assert done.code == 2
            assert "'last tuesday'" in done.err

    def test_history_says_who_was_champion_then(self, mlops, champions, model, ledger):
        champions(2)
        done = mlops("history", model, "--at", "2999-01-01")
        assert done.code == 0
        assert f"{model}@2 was champion at 2999-01-01" in done.out
        done = mlops("history", model, "--at", "1999-01-01", "--json")
        assert (done.code, done.json["message"]) == (2, f"{model} had no champion at 1999-01-01")

    @pytest.mark.parametrize(
        ("number", "to", "words"),
        [(1, (), "nothing to roll back to"), (2, ("--to", "7"), "never was champion")],
    )
    def test_rollback_says_why_it_cannot(self, mlops, champions, model, number, to, words):
        champions(number)
        done = mlops("rollback", model, "--reason", "r", *to)
        assert done.code == 2
        assert model in done.err
        assert words in done.err


class TestDoctorAndMigrate:
    def test_from_an_empty_database_to_health(self, mlops, connections, model):
        done = mlops("doctor")
        assert done.code == 1
        assert "BAD schema mlops" in done.out
        assert "airflow mlops migrate" in done.out
        done = mlops("migrate")
        assert done.code == 0
        assert "schema mlops: " in done.out
        assert mlops("migrate").out.strip() == "schema mlops is up to date"
        assert mlops("migrate", "--json").json == {"before": None}
        done = mlops("doctor")
        assert done.code == 0
        assert "BAD" not in done.out
        assert "no model yet" in done.out

    def test_an_alias_moved_by_hand_is_put_back(self, mlops, champions, model, model_store):
        champions(2)
        model_store.client.set_registered_model_alias(model, "champion", "1")
        done = mlops("doctor", "--json")
        assert done.code == 0
        assert "@champion: 1 -> 2" in done.json["checks"]["ledger and aliases"]["found"]
        assert model_store.client.get_registered_model(model).aliases["champion"] == "2"

    @pytest.mark.parametrize(
        ("statement", "says"),
        [
            ("delete from mlops.decisions where model = '{m}' and seq = 2", "breaks at entry 2"),
            ("delete from mlops.decisions where model = '{m}' and seq = 3", "remembers entry 3"),
        ],
        ids=["in the middle", "at the end"],
    )
    def test_names_the_entry_that_is_broken_and_looks_after_the_other_models(
        self, mlops, champions, make_version, registry, ask, model, statement, says
    ):
        champions(3)
        others = [make_version(name=f"{model}_other") for _ in range(2)]
        for ref in others:
            registry.promote(ref, ask(str(ref)), epoch=None, order=None)
        client = registry.models.client
        client.set_registered_model_alias(f"{model}_other", "champion", "1")
        client.set_registered_model_alias(model, "champion", "1")
        with psycopg.connect(registry.ledger.dsn, autocommit=True) as connection:
            connection.execute("alter table mlops.decisions disable trigger all")
            connection.execute(statement.format(m=model))
        done = mlops("doctor", "--json")
        assert (done.code, done.json["healthy"]) == (1, False)
        check = done.json["checks"]["ledger and aliases"]
        assert not check["ok"]
        assert f"{model}: LedgerLostError: " in check["found"]
        assert says in check["found"]
        assert f"{model}_other: 2 entries verified, @champion: 1 -> 2" in check["found"]
        assert client.get_registered_model(model).aliases["champion"] == "1"  # nothing is decided

    def test_says_what_it_adopted_if_that_is_the_policy(
        self, mlops, champions, model, registry, monkeypatch
    ):
        champions(2)
        registry.models.client.set_registered_model_alias(model, "champion", "1")
        monkeypatch.setenv("AIRFLOW__MLOPS__MOVED_ALIAS", "adopt")
        done = mlops("doctor")
        assert done.code == 0
        assert f"{model}: 2 entries verified, @champion: 2 -> 1, adopted (entry 3)" in done.out
        assert registry.champion(model).version == 1
        monkeypatch.setenv("AIRFLOW__MLOPS__MOVED_ALIAS", "follow")
        done = mlops("doctor")
        assert done.code == 1
        assert "unknown moved_alias 'follow' in section [mlops]; known: restore, adopt" in done.out

    def test_names_each_service_that_is_down(self, mlops, ledger, connect, closed_port):
        connect("mlops_default", conn_type="postgres", host="127.0.0.1", port=closed_port)
        connect("dataset_default", conn_type="dataset")
        done = mlops("doctor", "--json")
        assert done.code == 1
        ok = {name: check["ok"] for name, check in done.json["checks"].items()}
        assert ok == {
            "connection to the dataset store": False,
            "connection to MLflow": True,
            "schema mlops": False,
            "ledger and aliases": False,
        }
        assert str(closed_port) in done.json["checks"]["schema mlops"]["found"]


class TestExitCodes:
    @pytest.mark.parametrize("verb", ["status", "why", "history"])
    def test_an_unknown_model_is_2_and_the_known_ones_are_named(self, mlops, decided, verb):
        done = mlops(verb, "nobody")
        assert (done.code, done.out) == (2, "")
        assert "'nobody'" in done.err
        assert decided in done.err
        done = mlops(verb, "nobody", "--json")
        assert done.code == 2
        assert done.json["error"] == "ConfigurationError"

    def test_a_name_that_is_none_is_2(self, mlops, ledger):
        done = mlops("status", "No Name")
        assert done.code == 2
        assert "No Name" in done.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ("status", "m"),
            ("history", "m"),
            ("retrain", "m", "--reason", "r", "--no-trigger"),
            ("migrate",),
        ],
        ids=lambda a: a[0],
    )
    def test_a_server_that_is_down_is_3(self, mlops, connections, connect, closed_port, arguments):
        connect("mlops_default", conn_type="postgres", host="127.0.0.1", port=closed_port)
        done = mlops(*arguments)
        assert (done.code, done.out) == (3, "")
        assert str(closed_port) in done.err
        assert "UnavailableError" in done.err

    @pytest.mark.parametrize("verb", ["retrain", "promote"])
    def test_a_reason_is_required(self, mlops, verb):
        done = mlops(verb, "m")
        assert done.code == 2
        assert "--reason" in done.err

    @pytest.mark.parametrize("verb", ["retrain", "promote", "rollback"])
    @pytest.mark.parametrize("reason", ["", "   "])
    def test_a_reason_says_something(self, mlops, champions, model, ledger, verb, reason):
        champions(2)
        name = f"{model}@1" if verb == "promote" else model
        done = mlops(verb, name, "--reason", reason)
        assert done.code == 2
        assert "--reason" in done.err
        assert len(ledger.state(model).entries) == 2


def runs_of(dag_id):
    import sqlalchemy as sa
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        return list(session.scalars(sa.select(DagRun.run_id).where(DagRun.dag_id == dag_id)))


FORGED = "fine\n   9  2030-01-01T00:00:00  promote   m@7  forged  [ann]\x1b[2K\r\u2028"


@pytest.mark.parametrize(
    "arguments",
    [("history",), ("why",), ("status",), ("retrain", "--no-trigger", "--reason", FORGED)],
    ids=lambda arguments: arguments[0],
)
def test_what_people_said_forges_no_line_and_moves_no_cursor(mlops, ledger, model, arguments):
    entry = Entry(model, "keep", "", FORGED, FORGED, evidence={"facts": {}})
    ledger.record(model, "k1", {"op": "decide"}, lambda _: entry)
    verb, *more = arguments
    from airflow_mlops.hooks.ledger import LedgerHook

    LedgerHook().observations().record(model, "drift", "s", {"status": "ok", "line": FORGED})
    done = mlops(verb, model, *more)
    assert done.code == 0
    assert (
        r"fine\n   9  2030-01-01T00:00:00  promote   m@7  forged  [ann]\x1b[2K\r\u2028" in done.out
    )
    assert not [line for line in done.out.splitlines() if line.startswith("   9  ")]
    assert "\x1b" not in done.out
    kept = mlops("history", model, "--json").json["entries"][0]
    assert kept["reason"] == FORGED  # what is on record stays as it was said


def test_an_error_forges_no_line(mlops, connections, ledger):
    done = mlops("status", f"m{FORGED}")
    assert done.code == 2
    assert "\x1b" not in done.err
    assert not [line for line in done.err.splitlines() if line.startswith("   9  ")]
