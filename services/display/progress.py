"""How far a long work has come: what moves on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

SAID_EVERY_S = 5


@contextmanager
def reported(console: Console, what: str) -> Iterator[Callable[[float], None]]:
    """What to call with the share of *what* that is done; it shows the time that is left."""
    if not console.is_terminal:
        yield (lambda share: None) if console.quiet else _Lines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    with Progress(*columns, remaining, console=console) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)
        bar.update(task, completed=1.0)


@contextmanager
def steps(console: Console, first: str) -> Iterator[Callable[[str], None]]:
    """What to call with each step of a long work as it begins."""
    with console.status(first) as status:
        yield status.update if console.is_terminal else _Steps()


class _Steps:
    def __init__(self) -> None:
        self._said = ""

    def __call__(self, step: str) -> None:
        if step != self._said:
            self._said = step
            click.echo(step, err=True)


class _Lines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._started_s = self._said_s = time.monotonic()

    def __call__(self, share: float) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s >= SAID_EVERY_S and share > 0.01:  # the first steps tell nothing
            self._said_s = now_s
            left_s = (now_s - self._started_s) * (1 - share) / share
            click.echo(f"{self._what}: {share:.0%}, about {left_s:.0f} s left", err=True)
