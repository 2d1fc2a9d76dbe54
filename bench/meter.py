"""
What a run costs besides time: CPU, memory, thread switches. What a platform does not tell is None.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, Optional, Sequence, Tuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MEGABYTE = 1024 * 1024


class Meter:
    """
    Reads CPU time and switches of all threads of this process, from ``start`` to ``stop``.
    """

    def start(self) -> None:
        """
        Begin; the last thing before the work.
        """
        self.switches_before = switches()
        self.cpu_before = time.process_time()
        self.started_at = time.perf_counter()

    def stop(self, finished_at: Optional[float] = None) -> None:
        """
        End; the work was done at *finished_at*, by default now.
        """
        self.seconds = (finished_at or time.perf_counter()) - self.started_at
        self.cpu_seconds = time.process_time() - self.cpu_before
        before, after = self.switches_before, switches()
        self.switches = None if before is None or after is None else after[0] - before[0]
        self.preemptions = None if before is None or after is None else after[1] - before[1]

    def throughput(self, messages: int) -> Dict[str, Any]:
        """
        Return the figures of a run of *messages*.
        """
        return {
            "messages": messages,
            "seconds": self.seconds,
            "rate": messages / self.seconds,
            "cpu_seconds_per_million": self.cpu_seconds / messages * 1e6,
            "peak_mb": peak_memory(),
            "switches_per_message": None if self.switches is None else self.switches / messages,
            "preemptions": self.preemptions,
        }


def percentiles(microseconds: Sequence[float]) -> Dict[str, Any]:
    """
    Return how many these are, and the times that half, 90% and 99% of them keep to.
    """
    times = sorted(microseconds)
    return {"messages": len(times), **{f"p{at}_us": times[len(times) * at // 100] for at in (50, 90, 99)}}


class OtherLoad:
    """
    How many cores all other processes together used, since this object was made.

    Args:
        broker: Id of a process that belongs to this one's work.
    """

    def __init__(self, broker: Optional[int] = None) -> None:
        self.broker = broker
        self.busy_before = busy_seconds()
        self.cpu_before = self._own_seconds()
        self.started_at = time.perf_counter()

    def read(self) -> Optional[float]:
        """
        Return the cores, None where the system does not tell.
        """
        busy = busy_seconds()
        if busy is None or self.busy_before is None:
            return None
        others = busy - self.busy_before - (self._own_seconds() - self.cpu_before)
        return max(0.0, others / (time.perf_counter() - self.started_at))

    def _own_seconds(self) -> float:
        return time.process_time() + (seconds_of_process(self.broker) if self.broker else 0.0)


def seconds_of_process(pid: int) -> float:
    """
    Return the CPU seconds of all threads of a process so far; 0 where the system does not tell.
    """
    try:
        with open(f"/proc/{pid}/stat") as stat:
            user, system = stat.readline().rpartition(")")[2].split()[11:13]
    except (OSError, ValueError):
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> Optional[float]:
    """
    Return the seconds that all cores together were busy, or were taken away by the host, since the system started.
    """
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def switches() -> Optional[Tuple[int, int]]:
    """
    Return how often threads of this process, ended ones included, went to sleep and were preempted.
    """
    if resource is None:
        return None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw, usage.ru_nivcsw


def status_of_process(name: str) -> Optional[float]:
    """
    Return the field *name* of the status that Linux keeps of this process, in MB.
    """
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def memory() -> Optional[float]:
    """
    Return the resident memory in MB.
    """
    return status_of_process("VmRSS")


def peak_memory() -> Optional[float]:
    """
    Return the greatest resident memory so far in MB.
    """
    peak = status_of_process("VmHWM")
    if peak is None and resource is not None:  # here Linux was ruled out: of the others macOS counts bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
    return peak
