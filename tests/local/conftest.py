"""Fixtures of the local stack: homes with short paths, and children that are not left behind."""

import gc
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_mlops.local.processes import Processes


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder whose path is short enough for a socket, and that PostgreSQL's user may enter."""
    path = Path(tempfile.mkdtemp(prefix="local-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def processes(home) -> Iterator[Callable[[], Processes]]:
    """``processes()``: the processes of one more home; stopped at the end."""
    made: list[Processes] = []

    def make() -> Processes:
        folder = home / f"home{len(made)}"
        folder.mkdir()
        made.append(Processes(folder))
        return made[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # children outlive what started them, on purpose
        yield make
        for one in made:
            one.stop()
        gc.collect()


@pytest.fixture
def python() -> Callable[..., list[str]]:
    """``python(code)``: the command that runs it."""
    return lambda code: [sys.executable, "-u", "-c", code]
