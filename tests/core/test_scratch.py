"""Temporary folders: held while their process lives, removed when nobody holds them."""

import os
import re
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.scratch import PURPOSES, scratch_folder, sweep

PACKAGE = Path(__file__).parents[2] / "airflow_mlops"
NOW, DAY = timedelta(0), timedelta(days=1)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_its_block_whatever_happens(place):
    def work():
        with scratch_folder("train") as folder:
            (folder / "a").write_text("x")
            assert folder.parent == place
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert list(place.iterdir()) == []


def test_a_folder_in_use_is_never_removed_however_old(place):
    with scratch_folder("train") as folder:
        os.utime(folder, (0, 0))
        assert sweep(DAY) == ()
        (folder / "a").write_text("still here")


def test_a_process_that_was_killed_leaves_a_folder_that_goes(place):
    code = f"""
import os, signal, tempfile
from airflow_mlops.core.scratch import scratch_folder
tempfile.tempdir = {str(place)!r}
with scratch_folder("model") as folder:
    (folder / "sub").mkdir()
    (folder / "sub" / "weights").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -9
    assert sweep(DAY) == ()
    (left,) = place.iterdir()
    assert sweep(NOW) == (left.name,)
    assert list(place.iterdir()) == []
    assert sweep(NOW) == ()


def test_nothing_else_is_touched(place):
    elsewhere = place / "kept"
    elsewhere.mkdir()
    (elsewhere / "a").write_text("x")
    for name in ("mlops", "mlops-train", "mlops-other-1", "mlops-test-1", "x-mlops-train-1"):
        (place / name).mkdir()
    (place / "mlops-train-file").write_text("x")
    (place / "mlops-train-link").symlink_to(elsewhere, target_is_directory=True)
    before = sorted(place.rglob("*"))
    assert sweep(NOW) == ()
    assert sorted(place.rglob("*")) == before


def test_somebody_elses_folder_is_left_alone(place, monkeypatch):
    (place / "mlops-train-1").mkdir()
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert sweep(NOW) == ()


def test_an_unknown_purpose_is_named():
    with pytest.raises(ConfigurationError, match="'games'"), scratch_folder("games"):
        pass


def test_the_package_makes_its_temporary_folders_here_and_uses_every_purpose():
    text = {path: path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    others = [p for p, t in text.items() if re.search(r"TemporaryDirectory\(|mkdtemp\(", t)]
    assert others == [PACKAGE / "core" / "scratch.py"]
    used = {word for t in text.values() for word in re.findall(r'scratch_folder\("(\w+)"\)', t)}
    assert used == set(PURPOSES)
