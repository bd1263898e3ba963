"""NVIDIA's GPUs, if there are some: extra ``gpu`` brings the library, a driver the rest."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Gpus:
    """The GPUs of this machine; none is normal."""

    _nvml: Any = None
    _handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            self._nvml = pynvml
        except pynvml.NVMLError:  # the library is there, a driver is not
            return

    def look(self) -> tuple[float | None, float | None]:
        """Return used memory of all GPUs in MB, and the busiest one's utilisation in percent."""
        if not self._handles:
            return None, None
        try:
            memory = sum(self._nvml.nvmlDeviceGetMemoryInfo(h).used for h in self._handles)
            busy = max(self._nvml.nvmlDeviceGetUtilizationRates(h).gpu for h in self._handles)
        except self._nvml.NVMLError:
            return None, None
        return memory / 1e6, float(busy)
