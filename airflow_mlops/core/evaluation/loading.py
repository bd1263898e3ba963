"""
Load a model in a process of its own, and see what it takes to answer.

The process is given the files of the model and some rows. How long a small batch takes, how much
memory that took, and in which environment, is written to ``result.json``.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

import airflow_mlops
from airflow_mlops.core.errors import UserCodeError
from airflow_mlops.core.scratch import scratch_folder

ROWS, RESULT = "rows.arrow", "result.json"
SMALL_BATCH = 32
REPEATS = 20

PATIENCE = 60.0
"""Seconds to start and load in, beside what the answers may take."""

DAY = 86_400.0

_STATUS = Path("/proc/self/status")
_CHILD = f"""
import sys
try:
    empty = open({str(_STATUS)!r}).read()  # before anything is imported
except OSError:
    empty = ""
from {__name__} import measure
measure(*sys.argv[1:], empty)
"""

_KEPT = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "OMP_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Loading:
    """
    What it took to load a model and to answer.

    :param p95_ms: 95th percentile of the time of one batch, in milliseconds; the first one, which
        warms up, is left out.
    :param memory_mb: largest resident memory beyond that of an empty Python, in MB; ``None`` where
        the system does not say.
    :param environment: id of the environment it ran in.
    """

    p95_ms: float
    memory_mb: float | None
    environment: str


def load_apart(model: Path, rows: pa.Table, name: str, *, p95_ms: float) -> Loading:
    """
    Load a model in a process of its own, and let it answer rows in batches of 32.

    :param model: folder that the loader is given.
    :param rows: rows it may be asked about; not empty.
    :param name: the version; errors name it.
    :param p95_ms: milliseconds that a batch may take; one that takes longer throughout is ended.
    :raises UserCodeError: if it does not load or answer there, or not in time.
    """
    seconds = min(PATIENCE + (1 + REPEATS) * p95_ms / 1000, DAY)
    package = str(Path(airflow_mlops.__file__).parent.parent)
    kept = {n: os.environ[n] for n in _KEPT if n in os.environ}  # noqa: TID251  (no secret)
    paths = os.pathsep.join(filter(None, [package, *sys.path]))  # where packages are found here
    with scratch_folder("read") as folder:
        with pa.ipc.new_file(str(folder / ROWS), rows.schema) as file:
            file.write_table(rows.slice(0, SMALL_BATCH * REPEATS))
        command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(folder), str(model)]
        said, code = _run(command, folder, {**kept, "PYTHONPATH": paths}, seconds)
        result = folder / RESULT
        if not result.is_file():
            late = f"it took longer than {seconds:g} s, and was ended"
            last = [late] if code is None else said.strip().splitlines()[-1:]
            last = last or [f"exit code {code}"]
            msg = f"{name} does not load or answer in a process of its own: {last[0]}"
            raise UserCodeError(msg)
        return Loading(**json.loads(result.read_text("utf-8")))


def _run(
    command: Sequence[str], folder: Path, env: Mapping[str, str], seconds: float
) -> tuple[str, int | None]:
    """Return what a process writes to stderr, and its exit code; ``None``: it had to be ended."""
    with subprocess.Popen(  # noqa: S603  (our own module and two folders)
        command,
        env=env,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as child:
        try:
            return child.communicate(timeout=seconds)[1], child.returncode
        except subprocess.TimeoutExpired:
            return "", None
        finally:  # processes that it started go, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def measure(folder: str, model: str, empty: str) -> None:
    """
    Load, answer, and write what it took; the process of :func:`load_apart` does.

    :param folder: where the rows are, and the result goes.
    :param model: folder that the loader is given.
    :param empty: what the kernel said of the process before it imported anything.
    """
    from airflow_mlops.core.training.mlops_loader_v1 import Model
    from airflow_mlops.core.training.provenance import environment

    loaded = Model(Path(model))
    rows = pa.ipc.open_file(str(Path(folder) / ROWS)).read_all()
    starts = range(0, rows.num_rows, SMALL_BATCH)
    batches = [rows.slice(start, SMALL_BATCH).to_pandas() for start in starts]
    loaded.predict(batches[0])
    times = []
    for turn in range(REPEATS):
        start = time.perf_counter()
        loaded.predict(batches[turn % len(batches)])
        times.append(time.perf_counter() - start)
    p95 = 1000 * sorted(times)[int(0.95 * REPEATS)]
    peak = _memory(_STATUS.read_text("ascii"), "VmHWM") if empty else None
    beyond = None if peak is None else peak - _memory(empty, "VmRSS")
    found = Loading(p95, beyond, environment().id)
    (Path(folder) / RESULT).write_text(json.dumps(asdict(found)), "utf-8")


def _memory(status: str, what: str) -> float:
    """Read a line of what the kernel says about a process, in MB."""
    line = next(line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024
