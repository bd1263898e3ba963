"""Records on their way: none is lost with its process, none stays for ever."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from airflow_mlops.core.monitoring import spool as module
from airflow_mlops.core.monitoring.spool import Spool


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "not" / "there" / "yet")


def records(spool):
    return [(one.record["n"], one.killed) for one in spool.waiting()]


def test_what_has_ended_waits_and_what_goes_on_does_not(spool):
    first, second = spool.begin(), spool.begin()
    spool.write(second, {"n": 2}, ended=True)
    spool.write(first, {"n": 1}, ended=False)
    assert records(spool) == [(2, False)]
    spool.write(first, {"n": 1}, ended=True)
    assert records(spool) == [(1, False), (2, False)]  # oldest first
    spool.remove(first)
    spool.remove(first)
    assert records(spool) == [(2, False)]


def test_a_killed_process_leaves_what_it_wrote_last(spool):
    script = f"""
        import time
        from pathlib import Path
        from airflow_mlops.core.monitoring.spool import Spool
        spool = Spool(Path({str(spool.folder)!r}))
        path = spool.begin()
        for n in range(3):
            spool.write(path, {{"n": n}}, ended=False)
        print("written", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "written\n"
        assert records(spool) == []
        os.kill(process.pid, signal.SIGKILL)
    assert records(spool) == [(2, True)]


def test_a_process_of_another_machine_is_not_judged(spool, monkeypatch):
    monkeypatch.setattr(module.platform, "node", lambda: "elsewhere")
    spool.write(spool.begin(), {"n": 1}, ended=False)
    monkeypatch.undo()
    assert records(spool) == []


def test_a_number_that_another_process_has_now_is_not_taken_for_the_old_one(spool, monkeypatch):
    path = spool.begin()
    spool.write(path, {"n": 1}, ended=False)
    text = path.read_text()
    born = text.partition('"born": ')[2].partition("}")[0]
    path.write_text(text.replace(born, str(float(born) - 3600)))
    assert records(spool) == [(1, True)]


@pytest.mark.parametrize("delivered", [True, False])
def test_one_that_ends_while_it_is_looked_at_was_not_killed(spool, monkeypatch, delivered):
    path = spool.begin()
    spool.write(path, {"n": 1}, ended=False)

    def ends(owner):
        spool.write(path, {"n": 2}, ended=True)
        if delivered:
            spool.remove(path)
        return True

    monkeypatch.setattr(module, "_dead", ends)
    assert records(spool) == ([] if delivered else [(2, False)])


def test_what_is_no_record_goes(spool):
    spool.write(spool.begin(), {"n": 1}, ended=True)
    for name, text in (("0-a.json", "{"), ("0-b.json", "[]"), ("0-c.json", '{"ended": true}')):
        (spool.folder / name).write_text(text)
    assert records(spool) == [(1, False)]
    assert len(list(spool.folder.iterdir())) == 1


def test_the_oldest_go_when_there_are_too_many(spool, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 3)
    for n in range(5):
        spool.write(spool.begin(), {"n": n}, ended=True)
    assert spool.bound() == 2
    assert [n for n, _ in records(spool)] == [2, 3, 4]
    assert spool.bound() == 0


def test_a_folder_that_is_not_there_holds_nothing(spool):
    assert (spool.waiting(), spool.bound()) == ((), 0)
