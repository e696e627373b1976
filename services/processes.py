"""What a process and its children use: Triton's models and Redis' rewriting are children."""

from collections.abc import Callable
from contextlib import suppress

import psutil


def of_family(process: psutil.Process, used: Callable[[psutil.Process], float]) -> float:
    """
    What *process* has *used*, and those of its children that still live.

    Raises:
        psutil.NoSuchProcess: If *process* itself has ended.
    """
    total = used(process)
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # as Redis' own does, once it has written the log anew
            total += used(child)
    return total


def own_cpu_s(process: psutil.Process) -> float:
    """CPU seconds of *process*, without any child's."""
    times = process.cpu_times()
    return float(times.user + times.system)


def own_pss_bytes(process: psutil.Process) -> float:
    """Memory of *process*, pages that it shares divided among those who share them."""
    return float(process.memory_full_info().pss)
