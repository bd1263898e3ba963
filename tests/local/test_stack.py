"""The stack: its settings, its addresses, and what it says of itself."""

import json
import os
import signal
import socket
import stat
import sys
import time
import warnings

import psutil
import psycopg
import pytest

from airflow_mlops.core.errors import ConfigurationError, UnavailableError
from airflow_mlops.local import Services, Settings, Stack, __main__
from airflow_mlops.local.settings import PORTS, USERS, free_ports
from airflow_mlops.local.stack import answers

COMPONENTS = ["postgresql", "mlflow", "api-server", "scheduler", "dag-processor", "triggerer"]


@pytest.fixture
def dags(home):
    (home / "dags").mkdir()
    return home / "dags"


class TestSettings:
    def test_ports_are_free_and_different(self):
        ports = free_ports(20)
        assert len(set(ports)) == 20
        for port in ports:
            with socket.socket() as one:
                one.bind(("127.0.0.1", port))

    def test_are_chosen_once_and_read_by_the_owner_only(self, home):
        settings = Settings.of(home)
        assert Settings.of(home) == settings
        assert set(settings.ports) == set(PORTS)
        assert set(settings.passwords) == set(USERS)
        for name in ("settings.json", "passwords.json"):
            assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
        assert json.loads((home / "passwords.json").read_text()) == settings.passwords

    def test_two_homes_share_no_secret(self, home):
        for name in ("a", "b"):
            (home / name).mkdir()
        one, two = (Settings.of(home / name) for name in ("a", "b"))
        assert not set(one.passwords.values()) & set(two.passwords.values())
        for name in ("jwt_secret", "api_secret", "fernet_key"):
            assert getattr(one, name) != getattr(two, name)

    def test_everything_listens_on_this_machine_only(self, home, dags):
        settings = Settings.of(home)
        found = settings.airflow(home, dags, "postgresql://db", "/socket")
        assert found["AIRFLOW__API__HOST"] == "127.0.0.1"
        addresses = [v for v in found.values() if v.startswith("http")]
        assert addresses
        assert all(a.startswith("http://127.0.0.1:") for a in addresses)
        connections = {k: json.loads(v) for k, v in found.items() if "AIRFLOW_CONN" in k}
        assert {c["host"] for c in connections.values()} == {
            "/socket",
            "127.0.0.1",
            str(home / "datasets"),
        }


class TestStopped:
    def test_a_home_says_that_everything_is_down(self, home, dags):
        found = Stack(home / "h", dags).status()
        assert [c.name for c in found] == COMPONENTS
        assert {c.state for c in found} == {"down"}
        assert str(home / "h" / "logs" / "scheduler.log") in str(found[3])

    def test_check_names_the_first_that_does_not_run(self, home, dags):
        with pytest.raises(UnavailableError, match="mlflow does not run"):
            Stack(home / "h", dags).check()

    def test_down_is_harmless(self, home, dags):
        Stack(home / "h", dags).down()

    def test_the_database_has_no_address(self, home, dags):
        with pytest.raises(UnavailableError, match="PostgreSQL does not run in"):
            Stack(home / "h", dags).dsn("mlops")

    def test_a_folder_of_dags_has_to_be_there(self, home):
        with pytest.raises(ConfigurationError, match=f"no folder of Dags at {home / 'none'}"):
            Stack(home / "h", home / "none")

    def test_the_folder_of_dags_is_remembered(self, home, dags):
        stack = Stack(home / "h", dags)
        stack._check_dags()
        assert Stack(home / "h").dags == stack.dags

    def test_a_running_stack_takes_no_other_folder_of_dags(self, home, dags, monkeypatch):
        stack = Stack(home / "h", dags)
        stack._check_dags()
        (home / "other").mkdir()
        other = Stack(home / "h", home / "other")
        monkeypatch.setattr(type(other.processes), "alive", lambda _, name: name == "scheduler")
        with pytest.raises(ConfigurationError, match=f"runs with the Dags of {stack.dags}, not"):
            other._check_dags()

    def test_a_database_of_another_home_is_left_running(self, home, services):
        stale = Services(home / "h")
        lock = (services.home / "pg" / "postmaster.pid").read_text()
        (home / "h" / "pg").mkdir()
        (home / "h" / "pg" / "postmaster.pid").write_text(lock)  # its number was given away
        stale.down()
        with psycopg.connect(services.dsn("mlops")) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


class TestCommand:
    @pytest.fixture
    def local(self, monkeypatch, capsys):
        def run(*arguments):
            monkeypatch.setattr(sys, "argv", ["local", *map(str, arguments)])
            code = __main__.main()
            return code, *capsys.readouterr()

        return run

    def test_status_of_a_stopped_home(self, local, home, dags):
        code, out, _ = local("status", "--home", home / "h", "--dags", dags)
        assert code == 1
        assert [line.split()[:2] for line in out.splitlines()] == [[c, "down"] for c in COMPONENTS]

    def test_a_missing_folder_of_dags(self, local, home):
        code, out, err = local("up", "--home", home / "h", "--dags", home / "none")
        assert (code, out) == (1, "")
        assert f"ConfigurationError: no folder of Dags at {home / 'none'}" in err
        assert not (home / "h").exists()

    def test_env_of_a_stopped_home(self, local, home, dags):
        code, _, err = local("env", "--home", home / "h", "--dags", dags)
        assert code == 1
        assert "PostgreSQL does not run" in err

    def test_status_and_down_need_no_folder_of_dags(self, local, home):
        assert local("status", "--home", home / "h")[0] == 1
        assert local("down", "--home", home / "h")[0] == 0

    def test_down_of_a_stopped_home(self, local, home, dags):
        assert local("down", "--home", home / "h", "--dags", dags)[0] == 0


@pytest.mark.services
class TestRunning:
    def test_listens_on_this_machine_only(self, services):
        ours = [p for p in psutil.process_iter() if str(services.home) in _command(p)]
        assert len(ours) >= 2
        ports = {
            c.laddr.ip
            for p in ours
            for q in (p, *p.children(recursive=True))
            for c in q.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        }
        assert ports == {"127.0.0.1"}

    def test_tasks_may_read_the_warehouse_and_not_write_it(self, services):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            psycopg.connect(services.dsn("warehouse", user="mlops_task")) as connection,
        ):
            connection.execute("create table mine (id int)")

    def test_a_killed_database_starts_again_and_one_that_cannot_says_why(self, home):
        stack = Services(home / "h")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # MLflow outlives what started it, on purpose
                stack.up()
                with psycopg.connect(stack.dsn("warehouse"), autocommit=True) as connection:
                    connection.execute("create table kept as select 42 as answer")
                mlflow = stack.processes.known()
                pid = int((home / "h" / "pg" / "postmaster.pid").read_text().splitlines()[0])
                os.kill(pid, signal.SIGKILL)
                _gone(pid)
                assert (home / "h" / "pg" / "postmaster.pid").exists()
                with pytest.raises(UnavailableError, match="PostgreSQL does not run"):
                    stack.dsn("warehouse")
                stack.up()
            with psycopg.connect(stack.dsn("warehouse")) as connection:
                assert connection.execute("select answer from kept").fetchone() == (42,)
            assert stack.processes.known() == mlflow == ("mlflow",)
            assert answers(f"{stack.urls['mlflow']}/health")
            stack.down()
            (home / "h" / "pg" / "postgresql.auto.conf").write_text("max_connections = 'lots'\n")
            with pytest.raises(UnavailableError, match="PostgreSQL did not start") as caught:
                stack.up()
            assert "max_connections" in str(caught.value)
        finally:
            stack.down()
        assert not [p for p in psutil.process_iter() if str(home) in _command(p)]


def _command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _gone(pid):
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)
