"""Publishes a log to `events.v1`: selection, pacing, and how far it got."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from services.errors import CommandFailed
from services.kafka.publishing import Header, Publisher
from services.logs.columns import Column
from services.logs.eventlog import EventReader, LogEvent
from services.logs.pacing import Pacer
from services.logs.replay_position import ReplayPosition
from services.logs.rows import BadRow, Row

SAVE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events of a log are published."""

    from_ms: int | None = None
    until_ms: int | None = None
    most: int | None = None
    skip_bad: bool = False

    def has(self, event_ms: int) -> bool:
        """Whether an event of that time is wanted."""
        return (self.from_ms is None or event_ms >= self.from_ms) and (
            self.until_ms is None or event_ms < self.until_ms
        )


@dataclass(slots=True)
class Tally:
    """What a replay did."""

    rows: int = 0
    published: int = 0
    bad: int = 0
    seconds: float = 0.0
    first_bad: list[str] = field(default_factory=list)


class Sender(Protocol):
    """What takes the events: at full speed, or one slate after another."""

    def send(self, event: LogEvent) -> None:
        """Publish *event*, now or when its turn comes."""
        ...

    def idle(self, timeout_s: float) -> None:
        """Do what is to be done while the next event is not due."""
        ...

    def finish(self) -> None:
        """Return when everything is published and answered."""
        ...

    def stop(self) -> None:
        """Return when what has been published is acknowledged."""
        ...


def replay(
    rows: Iterator[Row],
    reader: EventReader,
    selection: Selection,
    pacer: Pacer,
    position: ReplayPosition,
    sender: Sender,
    on_row: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """
    Publish the selected events of a log from *position* on.

    Raises:
        CommandFailed: At a row that is not an event, naming line, field and rule. What came before
            it is published and its position kept.
    """
    tally = Tally()
    started_s = saved_s = time.monotonic()
    try:
        for event in _selected(rows, reader, selection, position, tally, on_row):
            if tally.published == 0:
                started_s = time.monotonic()  # reading up to where an earlier run got is no rate
            while (wait_s := pacer.wait_s(event.event.timestamp_ms, now_s=time.monotonic())) > 0:
                sender.idle(min(wait_s, 0.1))
            sender.send(event)
            pacer.sent()
            tally.published += 1
            if (now_s := time.monotonic()) - saved_s > SAVE_EVERY_S:
                position.save()
                saved_s = now_s
            if tally.published == selection.most:
                break
        sender.finish()
    except BaseException:
        sender.stop()
        raise
    finally:
        position.save()
    tally.seconds = time.monotonic() - started_s
    return tally


def _selected(
    rows: Iterator[Row],
    reader: EventReader,
    selection: Selection,
    position: ReplayPosition,
    tally: Tally,
    on_row: Callable[[Tally], None],
) -> Iterator[LogEvent]:
    start = position.row
    for index, row in enumerate(rows):
        tally.rows = index + 1
        on_row(tally)
        try:
            event = reader.read(index, row)  # rows before the start too: ids depend on them
        except BadRow as error:
            if not selection.skip_bad:
                raise CommandFailed(
                    f"line {row.line} is not an event: {error}. "
                    "Mend it, map its columns (--map), or pass over such rows with --skip-bad."
                ) from error
            if index >= start:
                tally.bad += 1
                if len(tally.first_bad) < 3:
                    tally.first_bad.append(f"line {row.line}: {error}")
                position.done(index)
            continue
        if index < start:
            continue
        if selection.has(event.event.timestamp_ms):
            yield event
        else:
            position.done(index)


@dataclass(slots=True)
class FullSpeed:
    """Publishes at once and looks back only for Kafka's acknowledgements."""

    publisher: Publisher
    topic: str
    position: ReplayPosition
    headers: Sequence[Header] = ()

    def send(self, event: LogEvent) -> None:
        """Queue *event*."""
        self.publisher.send(
            self.topic,
            event.key,
            event.value,
            headers=self.headers,
            delivered=partial(self._delivered, event.row),
        )

    def _delivered(self, row: int, partition: int, offset: int) -> None:
        self.position.done(row)

    def idle(self, timeout_s: float) -> None:
        """Serve acknowledgements."""
        self.publisher.poll(timeout_s)

    def finish(self) -> None:
        """Wait for every acknowledgement."""
        self.publisher.flush()

    stop = finish


def describe(mapping: dict[str, Column], constants: dict[str, str]) -> str:
    """The mapping as text that is the same for the same mapping."""
    columns = [f"{field}={column.name}:{column.unit}" for field, column in sorted(mapping.items())]
    return " ".join((*columns, *(f"{name}:={value}" for name, value in sorted(constants.items()))))


def log_name(path: Path) -> str:
    """How a log is called in messages."""
    return "standard input" if str(path) == "-" else path.name
