"""Several processes at a time: order, progress, and an end for all when one fails."""

import multiprocessing
import time
from functools import partial

import pytest

from services.evaluation.contest import Progress
from services.evaluation.parallel import run_all


def square(number: int, progress: Progress) -> int:
    """A job that is quick."""
    progress(0.5)
    return number**2


def fail(progress: Progress) -> int:
    """A job that cannot be done."""
    raise ValueError("no such seed")


def wait_long(progress: Progress) -> int:
    """A job that would hold everything up."""
    time.sleep(120)
    return 0


def test_results_come_in_the_order_of_the_jobs() -> None:
    """A seed's network must not be taken for another's."""
    assert run_all([partial(square, number) for number in (3, 1, 2)], 2, lambda share: None) == [
        9,
        1,
        4,
    ]


def test_one_that_fails_ends_the_others() -> None:
    """Nobody waits for hours to read what was wrong in the first second."""
    started_s = time.monotonic()

    with pytest.raises(ValueError, match="no such seed"):
        run_all([wait_long, fail], 2, lambda share: None)

    assert time.monotonic() - started_s < 60
    assert multiprocessing.active_children() == []
