"""Child processes that outlive the command that started them."""

import json
import os
import signal
import stat
import time

import psutil
import pytest

from airflow_mlops.core.errors import UnavailableError
from airflow_mlops.local import processes as module
from airflow_mlops.local.processes import Processes, wait_until

SLEEP = "import time; print('up'); time.sleep(60)"


def pid_of(processes, name):
    return json.loads((processes.home / "processes.json").read_text())[name][0]


def wait_for(question, seconds=10):
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_is_found_again_by_another_command(processes, python):
    first = processes()
    first.start("server", python(SLEEP), {})
    again = Processes(first.home)
    assert again.alive("server")
    assert again.known() == ("server",)
    again.stop()
    assert not first.alive("server")
    assert first.known() == ()


def test_it_has_the_environment_it_was_given_and_nothing_of_an_outer_airflow(
    processes, python, monkeypatch
):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "outer")
    one = processes()
    code = "import os; print({k: v for k, v in os.environ.items() if 'AIRFLOW' in k})"
    one.run("show", python(code), {"AIRFLOW_HOME": "/h"})
    assert one.log("show").read_text().strip() == "{'AIRFLOW_HOME': '/h'}"


def test_one_that_dies_is_reported_with_its_last_lines(processes, python):
    one = processes()
    code = "import sys; [print('line', i) for i in range(99)]; sys.exit('port is taken')"
    one.start("server", python(code), {})
    with pytest.raises(UnavailableError, match="server died while waiting for the sky") as caught:
        wait_until(lambda: False, "the sky", seconds=20, processes=one)
    text = str(caught.value)
    assert "port is taken" in text
    assert "line 98" in text
    assert "line 80" not in text
    assert str(one.log("server")) in text


def test_waiting_has_an_end(processes):
    with pytest.raises(UnavailableError, match="the sky did not come up within 0 s"):
        wait_until(lambda: False, "the sky", seconds=0, processes=processes())


def test_a_command_that_fails_is_reported_with_its_exit_code(processes, python):
    one = processes()
    with pytest.raises(UnavailableError, match="migrate failed with exit code 3") as caught:
        one.run("migrate", python("import sys; print('no such table'); sys.exit(3)"), {})
    assert "no such table" in str(caught.value)
    assert one.known() == ()


def test_a_command_that_ends_well_is_forgotten(processes, python):
    one = processes()
    one.run("migrate", python("pass"), {})
    assert one.known() == ()


def test_stop_ends_its_own_and_their_children_only(processes, python):
    mine, other = processes(), processes()
    parent = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {!r}]).pid)"
    parent = f"{parent.format(SLEEP)}\nimport time; time.sleep(60)"
    mine.start("parent", python(parent), {})
    other.start("server", python(SLEEP), {})
    wait_for(lambda: mine.log("parent").read_text().splitlines()[:1])
    child = int(mine.log("parent").read_text().split()[0])
    mine.stop()
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")
    assert other.alive("server")


@pytest.mark.parametrize("leader", ["sleeps", "has gone"])
def test_a_child_that_does_not_listen_goes_too(processes, python, leader):
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    parent = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {!r}]).pid)"
    rest = "import time; time.sleep(60)" if leader == "sleeps" else ""
    mine = processes()
    mine.start("parent", python(f"{parent.format(deaf)}\n{rest}"), {})
    wait_for(lambda: len(mine.log("parent").read_text().split()) == 2)
    child = next(int(word) for word in mine.log("parent").read_text().split() if word.isdigit())
    if leader == "has gone":
        wait_for(lambda: not mine.alive("parent"))
    mine.stop()
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie")


def test_a_number_that_was_given_to_another_process_is_left_alone(processes, python):
    mine, other = processes(), processes()
    other.start("innocent", python(SLEEP), {})
    pid = pid_of(other, "innocent")
    earlier = psutil.Process(pid).create_time() - 100
    (mine.home / "processes.json").write_text(json.dumps({"server": [pid, earlier]}))
    assert not mine.alive("server")
    mine.stop()
    assert other.alive("innocent")


def test_one_that_does_not_listen_is_killed(processes, python, monkeypatch):
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.5)
    one = processes()
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    one.start("stubborn", python(code), {})
    wait_for(lambda: "up" in one.log("stubborn").read_text())
    one.stop()
    assert one.known() == ()
    assert not one.alive("stubborn")


def test_one_that_was_killed_is_known_and_not_alive(processes, python):
    one = processes()
    one.start("server", python(SLEEP), {})
    os.kill(pid_of(one, "server"), signal.SIGKILL)
    wait_for(lambda: not one.alive("server"))
    assert one.known() == ("server",)
    one.stop()
    assert one.known() == ()


def test_logs_are_appended_to(processes, python):
    one = processes()
    for word in ("first", "second"):
        one.run("show", python(f"print('{word}')"), {})
    assert one.log("show").read_text().split() == ["first", "second"]
    assert stat.S_ISREG(one.log("show").stat().st_mode)
