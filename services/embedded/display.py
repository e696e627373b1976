"""How a running stack looks: a live table on a terminal, a line for each change elsewhere."""

from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from services.embedded.part import Status

COLOURS = {
    "ready": "green",
    "external": "green",
    "failing": "red",
    "restarting": "red",
    "starting": "yellow",
    "waiting": "dim",
    "stopped": "dim",
}


class Display(Protocol):
    """Is told every status whenever one changes, and what else there is to say."""

    def show(self, statuses: Mapping[str, Status]) -> None:
        """Show every part as it is now."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """Give the terminal back."""


def display(console: Console) -> Display:
    """The kind that suits *console*."""
    return LiveTable(console) if console.is_terminal else Lines(console)


class LiveTable:
    """The table, drawn again in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4)
        self._live.start()

    def show(self, statuses: Mapping[str, Status]) -> None:
        self._live.update(table(statuses))

    def say(self, line: str) -> None:
        self._live.console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


class Lines:
    """One line for each part whose state has changed: what a log or a test can read."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, tuple[str, str | None]] = {}

    def show(self, statuses: Mapping[str, Status]) -> None:
        for name, status in statuses.items():
            reason = status.reason if status.state in ("failing", "restarting") else None
            if self._shown.get(name) == (status.state, reason) or status.state == "waiting":
                continue
            started = self._shown.get(name, ("",))[0] == "starting" and status.state == "ready"
            self._shown[name] = (status.state, reason)
            after = f" after {status.ready_after_s} s" if started else ""
            said = f": {reason}" if reason else ""
            self.say(f"{name:<10} {status.state:<10} {status.address}{after}{said}")

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass


def table(statuses: Mapping[str, Status]) -> Table:
    """Parts, addresses and states."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("part", "address"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("state", "pid", "ready", "CPU", "memory", "restarts", "reason"):
        shown.add_column(heading)
    for name, status in statuses.items():
        colour = COLOURS[status.state]
        shown.add_row(
            name,
            status.address,
            f"[{colour}]{status.state}[/]",
            str(status.pid or ""),
            f"{status.ready_after_s:.1f} s" if status.ready_after_s is not None else "",
            f"{status.cpu_s:.1f} s" if status.cpu_s is not None else "",
            f"{status.memory_mb:.0f} MB" if status.memory_mb is not None else "",
            str(status.restarts or ""),
            (status.reason or "").replace("[", r"\["),
        )
    return shown


def shares(statuses: Mapping[str, Status], total_s: float) -> str:
    """Each part's share of the start: how long it took, and when it could begin."""
    parts = [
        f"{name} {status.ready_after_s:.1f} s"
        + (f" (began at {status.starts_after_s:.1f} s)" if (status.starts_after_s or 0) > 1 else "")
        for name, status in statuses.items()
        if status.ready_after_s is not None
    ]
    return f"Ready in {total_s:.1f} s: {', '.join(parts)}."
