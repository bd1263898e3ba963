"""
What a piece of work costs the machine: processor, memory, disk, GPU, rows per second.

A thread looks at this process and its children, about once a second and never for more than one
percent of a processor: where a look is dear, there are fewer. What falls between two looks is not
lost: the kernel adds up processor time and keeps the highest memory of its own.
"""

import contextlib
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import psutil

from airflow_mlops.core.monitoring.gpus import Gpus

INTERVAL = 1.0
"""Seconds between two looks, if they are cheap."""

SHARE = 0.01
"""Most processor time that may go into looking, as a share of the time that has passed."""

_DEAR = 0.005
"""CPU seconds that the first look is thought to cost; reading all processes is most of it."""

_MB = 1e6
_KB = 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What a process and its children used.

    Memory that processes share counts for each of them. A child that ended between two looks shows
    in ``cpu_s``, ``read_mb`` and ``written_mb`` once its parent has waited for it.

    :param wall_s: seconds by a clock that nobody sets.
    :param cpu_s: processor seconds, children included.
    :param rss_mb: highest resident memory, children included, in MB.
    :param read_mb: read from disks, in MB; what was in memory already does not count.
    :param written_mb: written to disks, in MB.
    :param threads: most threads of the process itself.
    :param children: most children at one time.
    :param disk_free_gb: least free space of the temporary folder, in GB.
    :param gpu_mb: highest memory on all GPUs, in MB; ``None``: there is no GPU.
    :param gpu_util: highest utilisation of a GPU, in percent, whoever used it.
    :param rows: rows that the work handled, if it told.
    :param overhead_s: processor seconds that went into looking.
    """

    wall_s: float
    cpu_s: float
    rss_mb: float
    read_mb: float = 0.0
    written_mb: float = 0.0
    threads: int = 1
    children: int = 0
    disk_free_gb: float | None = None
    gpu_mb: float | None = None
    gpu_util: float | None = None
    rows: int | None = None
    overhead_s: float = 0.0

    @property
    def rows_per_s(self) -> float | None:
        """Rows per second; ``None`` if the work told no rows."""
        return None if self.rows is None else self.rows / max(self.wall_s, 1e-3)

    def __str__(self) -> str:
        rate = "" if self.rows_per_s is None else f", {self.rows_per_s:,.0f} rows/s"
        return f"{self.wall_s:,.2f} s, {self.cpu_s:,.2f} CPU s, {self.rss_mb:,.0f} MB{rate}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        found = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}
        rate = self.rows_per_s
        return found | {"rows_per_s": None if rate is None else round(rate, 3)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the usage that :meth:`to_dict` wrote; what else is there is left out."""
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})


@dataclass(frozen=True, slots=True)
class _Tally:
    """Counters of one or more processes."""

    cpu: float = 0.0
    rss: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def __add__(self, other: "_Tally") -> "_Tally":
        return _Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def since(self, before: "_Tally") -> "_Tally":
        return _Tally(
            max(0.0, self.cpu - before.cpu),
            self.rss,
            max(0.0, self.read - before.read),
            max(0.0, self.written - before.written),
        )


@dataclass(slots=True)
class Meter:
    """
    Measures this process and the children that it starts from now on.

    :param place: folder whose free space counts.
    :param spent: processor seconds that went into looking, and into what was done with it.
    """

    place: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    spent: float = 0.0
    _me: psutil.Process = field(default_factory=psutil.Process)
    _gpus: Gpus | None = None
    _began: float = field(default_factory=time.monotonic)
    _before: _Tally = field(init=False)
    _peaks: tuple[float, float] = field(init=False)
    _strangers: frozenset[psutil.Process] | None = None
    _most: Usage = Usage(0.0, 0.0, 0.0)
    _dear: float = _DEAR

    def __post_init__(self) -> None:
        self._before, self._peaks = _of_me(self._me), _kernel_peaks()

    def look(self, *, rows: int | None = None) -> Usage:
        """
        Measure, and return what was used since the meter was made.

        :param rows: rows handled so far.
        """
        began = time.thread_time()
        tally, children = _of_me(self._me), 0
        if self._may_look_at_children():
            found = self._children()
            children = len(found)
            tally = sum(map(_of_one, found), tally)
            self._dear = max(time.thread_time() - began, _DEAR / 10)
        used, most = tally.since(self._before), self._most
        self._gpus = self._gpus or Gpus()  # not before: a driver may take its time
        memory, busy = self._gpus.look()
        self._most = Usage(
            wall_s=time.monotonic() - self._began,
            cpu_s=max(most.cpu_s, used.cpu),
            rss_mb=max(most.rss_mb, used.rss / _MB, *self._new_peaks()),
            read_mb=max(most.read_mb, used.read / _MB),
            written_mb=max(most.written_mb, used.written / _MB),
            threads=max(most.threads, _threads(self._me)),
            children=max(most.children, children),
            disk_free_gb=_least(most.disk_free_gb, _free_gb(self.place)),
            gpu_mb=_most(most.gpu_mb, memory),
            gpu_util=_most(most.gpu_util, busy),
            rows=rows,
        )
        self.spent += time.thread_time() - began
        return replace(self._most, overhead_s=self.spent)

    def pause(self) -> float:
        """Return how many seconds to wait for the next look: its price sets it."""
        return max(INTERVAL, self._dear / SHARE)

    def _may_look_at_children(self) -> bool:
        first = self._strangers is None
        passed = time.monotonic() - self._began
        return first or self.spent + self._dear <= SHARE * passed

    def _children(self) -> list[psutil.Process]:
        """Return the children of this process, without those that it had before."""
        with contextlib.suppress(psutil.Error):
            found = self._me.children(recursive=True)
            if self._strangers is None:
                self._strangers = frozenset(found)
            return [child for child in found if child not in self._strangers]
        return []

    def _new_peaks(self) -> tuple[float, float]:
        """Peaks that the kernel saw of this process, and of one child, if they are of this time."""
        now = zip(_kernel_peaks(), self._peaks, strict=True)
        mine, child = (peak if peak > before else 0.0 for peak, before in now)
        return mine, child


class Sampler:
    """
    A thread that looks until it is told that the work has ended.

    :param on_look: given what was used so far, after each look.
    :param on_end: given what was used, once the work has ended; runs in the thread, too.
    """

    def __init__(
        self, on_look: Callable[[Usage], None], on_end: Callable[[Usage], None] | None = None
    ) -> None:
        self._on_look, self._on_end = on_look, on_end
        self._ended = threading.Event()
        self._rows: int | None = None
        self._meter = Meter()  # here: work that does not let other threads run shall count, too
        self._thread = threading.Thread(target=self._run, name="mlops-sampler", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def end(self, rows: int | None = None) -> None:
        """
        Say that the work has ended; returns at once, and only the first time counts.

        :param rows: rows that it handled.
        """
        if not self._ended.is_set():
            self._rows = rows
            self._ended.set()

    def join(self, timeout: float) -> bool:
        """
        Wait until ``on_end`` is done.

        :param timeout: longest time to wait, in seconds.
        :return: whether it is done.
        """
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        meter, pause = self._meter, 0.0
        while not self._ended.wait(pause):
            self._on_look(meter.look())
            meter.spent = time.thread_time()
            pause = meter.pause()
        if self._on_end is not None:
            self._on_end(meter.look(rows=self._rows))


def _of_one(process: psutil.Process) -> _Tally:
    """Read the counters of one process; nothing if it is gone, or not ours to see."""
    tally = _Tally()
    with contextlib.suppress(psutil.Error), process.oneshot():
        tally = replace(tally, cpu=sum(process.cpu_times()[:4]), rss=process.memory_info().rss)
        disk = process.io_counters()
        tally = replace(tally, read=disk.read_bytes, written=disk.write_bytes)
    return tally


def _of_me(process: psutil.Process) -> _Tally:
    """Read the counters of this process; the kernel tells it its own time finer than in ticks."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    found = map(resource.getrusage, who)
    return replace(_of_one(process), cpu=sum(used.ru_utime + used.ru_stime for used in found))


def _threads(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.num_threads()
    return 1


def _kernel_peaks() -> tuple[float, float]:
    """Highest memory ever of this process, and of one child that it has waited for, in MB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    mine, child = (resource.getrusage(one).ru_maxrss * _KB / _MB for one in who)
    return mine, child


def _free_gb(place: Path) -> float | None:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(place).free / 1e9
    return None


def _most(*values: float | None) -> float | None:
    return max((v for v in values if v is not None), default=None)


def _least(*values: float | None) -> float | None:
    return min((v for v in values if v is not None), default=None)
