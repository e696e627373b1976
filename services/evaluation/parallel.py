"""Several trainings at a time, each in a process and on a thread of its own."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from ctypes import c_double
from typing import Any, TypeVar

from services.evaluation.contest import Progress

T = TypeVar("T")
LOOK_EVERY_S = 0.5

_shares: Any = None  # in a worker process: how far each job has come


def run_all(jobs: Sequence[Callable[[Progress], T]], processes: int, progress: Progress) -> list[T]:
    """
    The results of *jobs*, in their order, at most *processes* of them at a time.

    Args:
        jobs: Called with where to report the share done; they and their results can be sent to
            another process.
        progress: Called with the share of all the work that is done.
    """
    context = multiprocessing.get_context("spawn")  # forked threads of PyTorch would hang
    shares = context.Array(c_double, len(jobs))
    workers = min(processes, len(jobs))
    with ProcessPoolExecutor(workers, context, _share_progress, (shares,)) as pool:
        futures = [pool.submit(_run, job, number) for number, job in enumerate(jobs)]
        while wait(futures, timeout=LOOK_EVERY_S).not_done:
            progress(sum(shares[:]) / len(jobs))
            for future in futures:
                if future.done():
                    future.result()  # one that has failed ends all
        return [future.result() for future in futures]


def _share_progress(shares: Any) -> None:
    global _shares  # noqa: PLW0603  # a pool has no other way to give a worker what is shared
    _shares = shares


def _run(job: Callable[[Progress], T], number: int) -> T:
    def report(share: float) -> None:
        _shares[number] = share

    result = job(report)
    report(1.0)
    return result
