"""The sampler sees what a process and its children use, and costs next to nothing itself."""

import dataclasses
import json
import subprocess
import sys
import textwrap
import threading
import time
from types import ModuleType

import psutil
import pytest

from airflow_mlops.core.monitoring import resources
from airflow_mlops.core.monitoring.resources import SHARE, Meter, Sampler, Usage

CHILD = """
    import time
    kept = bytearray({megabytes} * 1_000_000)
    end = time.process_time() + {seconds}
    while time.process_time() < end:
        pass
"""


def child(**given):
    code = textwrap.dedent(CHILD).format(**given)
    return [sys.executable, "-S", "-E", "-c", code]


def measured(work) -> Usage:
    """What a piece of work used, by a sampler."""
    found = []
    sampler = Sampler(lambda usage: None, found.append)
    sampler.start()
    rows = work()
    sampler.end(rows)
    assert sampler.join(20)
    return found[0]


def spin(seconds):
    end = time.thread_time() + seconds  # of this thread: the sampler's own is not work
    while time.thread_time() < end:
        pass


def test_memory_and_cpu_of_a_child_count():
    def work():
        subprocess.run(child(megabytes=400, seconds=0.5), check=True)

    usage = measured(work)
    assert usage.cpu_s > 0.5
    assert usage.rss_mb > 400


def test_memory_is_that_of_all_at_the_same_time():
    meter = Meter()
    alone = meter.look().rss_mb
    both = [subprocess.Popen(child(megabytes=100, seconds=30)) for _ in range(2)]
    try:
        time.sleep(1.2)  # the first look was allowed anyway; this one has to be within the share
        usage = meter.look()
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert usage.children == 2
    assert usage.rss_mb > alone + 200


def test_children_that_were_there_before_belong_to_somebody_else():
    other = subprocess.Popen(child(megabytes=200, seconds=30))
    try:
        time.sleep(0.5)
        meter = Meter()
        usage = meter.look()
        time.sleep(1.2)
        usage = meter.look()
    finally:
        other.kill()
        other.wait()
    assert usage.children == 0
    assert usage.rss_mb < psutil.Process().memory_info().rss / 1e6 + 100


def test_memory_between_two_looks_is_not_lost():
    if resources._kernel_peaks()[0] > 1.2 * psutil.Process().memory_info().rss / 1e6:
        pytest.skip("this process held more before, so that the kernel's peak is older")

    def work():
        assert len(b"x" * 400_000_000) == 400_000_000

    before = psutil.Process().memory_info().rss / 1e6
    assert measured(work).rss_mb > before + 350


def test_cpu_and_time_are_those_of_the_work():
    usage = measured(lambda: spin(0.3))
    assert 0.3 <= usage.cpu_s < 0.3 + 0.3
    assert usage.wall_s >= 0.3


def test_rows_make_a_rate_if_they_are_told():
    usage = measured(lambda: time.sleep(0.1) or 5_000)
    assert usage.rows == 5_000
    assert usage.rows_per_s == pytest.approx(5_000 / usage.wall_s)
    assert measured(lambda: None).rows_per_s is None


def test_a_clock_that_is_set_back_changes_nothing(monkeypatch):
    meter, now = Meter(), time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    time.sleep(0.05)
    assert 0.05 <= meter.look().wall_s < 10


def test_the_end_counts_once_and_the_thread_ends():
    ended = []
    sampler = Sampler(lambda usage: None, ended.append)
    sampler.start()
    sampler.end(7)
    sampler.end(None)
    assert sampler.join(20)
    assert [usage.rows for usage in ended] == [7]
    assert "mlops-sampler" not in {t.name for t in threading.enumerate()}


def test_where_looking_is_dear_there_are_fewer_looks():
    meter = Meter()
    assert meter.pause() == resources.INTERVAL
    meter._dear = 0.08
    assert meter.pause() == pytest.approx(0.08 / SHARE)
    meter.look()  # the first one finds out who was there before
    meter._dear = 0.08
    assert not meter._may_look_at_children()


def test_a_thousand_children_are_seen_within_the_share():
    script = """
        import os, sys, time
        from airflow_mlops.core.monitoring.resources import Meter
        meter, began = Meter(), time.monotonic()
        meter.look()
        pids = []
        for _ in range(1_000):
            pid = os.fork()
            if not pid:
                time.sleep(60)
                os._exit(0)
            pids.append(pid)
        pauses = []
        while (usage := meter.look()).children < 1_000:
            time.sleep(0.1)
        price = meter.pause()
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        print(usage.children, price, usage.overhead_s / (time.monotonic() - began))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    children, pause, share = map(float, done.stdout.split())
    assert children == 1_000
    assert pause > resources.INTERVAL  # reading 1,000 processes costs more than 10 ms
    assert share < 0.3  # one look at all of them, in a process that did nothing else


def test_a_usage_round_trips_through_json():
    usage = Usage(1.5, 2.5, 300.0, 1.0, 2.0, 3, 4, 5.0, 6.0, 7.0, 8, 0.125)
    found = json.loads(json.dumps(usage.to_dict()))
    assert Usage.from_dict(found) == usage
    assert found["rows_per_s"] == pytest.approx(8 / 1.5, abs=0.001)
    assert {f.name for f in dataclasses.fields(Usage)} < found.keys()


GPUS = """
    class NVMLError(Exception):
        pass

    class Found:
        def __init__(self, **values):
            vars(self).update(values)

    def nvmlInit():
        if {broken}:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetCount():
        return 2

    def nvmlDeviceGetHandleByIndex(index):
        return index

    def nvmlDeviceGetMemoryInfo(handle):
        return Found(used=(handle + 1) * 1_000_000_000)

    def nvmlDeviceGetUtilizationRates(handle):
        return Found(gpu=40 + handle)
"""


@pytest.mark.parametrize(("broken", "found"), [(False, (3000.0, 41.0)), (True, (None, None))])
def test_gpus_count_if_library_and_driver_are_there(monkeypatch, broken, found):
    module = ModuleType("pynvml")  # in the place of NVIDIA's own, which needs its driver
    exec(textwrap.dedent(GPUS).format(broken=broken), vars(module))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    usage = Meter().look()
    assert (usage.gpu_mb, usage.gpu_util) == found


def test_without_the_library_nothing_is_said_about_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    usage = Meter().look()
    assert (usage.gpu_mb, usage.gpu_util) == (None, None)
