"""Several trainings at a time, each in a process and on a thread of its own."""

import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from services.embedded.process import PR_SET_PDEATHSIG
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
    shares = context.Array(ctypes.c_double, len(jobs))
    workers = min(processes, len(jobs))
    with ProcessPoolExecutor(workers, context, _begin, (shares,)) as pool, _ended_with_us():
        futures = [pool.submit(_run, job, number) for number, job in enumerate(jobs)]
        while wait(futures, timeout=LOOK_EVERY_S).not_done:
            progress(sum(shares[:]) / len(jobs))
            for future in futures:
                if future.done():
                    future.result()  # one that has failed ends all
        return [future.result() for future in futures]


@contextmanager
def _ended_with_us() -> Iterator[None]:
    """End the workers when this fails or is interrupted: a pool would wait for their hours."""
    try:
        yield
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise


def _begin(shares: Any) -> None:
    global _shares  # noqa: PLW0603  # a pool has no other way to give a worker what is shared
    _shares = shares
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, in one line
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # however the parent ends


def _run(job: Callable[[Progress], T], number: int) -> T:
    def report(share: float) -> None:
        _shares[number] = share

    result = job(report)
    report(1.0)
    return result
