"""Run each piece of work in a process of its own, and say what it cost."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """
    What one process cost.

    :param cpu: user and system seconds of the whole process, start and imports included.
    :param imports: user and system seconds until the libraries were there.
    :param peak: largest resident memory, in MB.
    :param answer: what the work returned, to see that all peers did the same.
    """

    work: str
    cpu: float
    imports: float
    peak: float
    answer: str

    @property
    def beyond(self) -> float:
        """Seconds of the work itself."""
        return self.cpu - self.imports


def cost_of(script: str, work: str, *arguments: str) -> Cost:
    """Run ``python script --child work arguments`` and measure it from outside."""
    command = [sys.executable, "-W", "ignore", script, "--child", work, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{work} failed with exit code {child.returncode}")
    said = json.loads(text.splitlines()[-1])
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(work, cpu, said["imports"], said["peak"], said["answer"])


def run_child(
    works: Mapping[str, Callable[..., Callable[[], object]]], arguments: Sequence[str]
) -> None:
    """
    Do one piece of work in this process; the last line says what only the process itself knows.

    :param works: name -> function that imports what it needs and returns the work to do.
    """
    work = works[arguments[0]](*arguments[1:])
    used = resource.getrusage(resource.RUSAGE_SELF)
    imports = used.ru_utime + used.ru_stime
    answer = str(work())
    print(json.dumps({"imports": imports, "peak": _peak(), "answer": answer}))


def _peak() -> float:
    """Peak of this program alone; ``ru_maxrss`` also knows the parent it was forked from."""
    status = Path("/proc/self/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def table(costs: Sequence[Cost], against: str) -> str:
    """Write the costs as a Markdown table; ratios are against one of them."""
    base = next(cost for cost in costs if cost.work == against)
    lines = [
        f"| work | CPU s | of it imports | peak MB | CPU against *{against}* | answer |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for c in costs:
        ratio = f"{c.cpu / base.cpu:.2f}"
        lines.append(
            f"| {c.work} | {c.cpu:.2f} | {c.imports:.2f} | {c.peak:.0f} | {ratio} | {c.answer} |"
        )
    return "\n".join(lines)
