"""Publishes a log to `events.v1`: selection, pacing, position, and optionally the slates behind."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import orjson

from services.columns import Column
from services.errors import CommandFailed
from services.eventlog import EventReader, LogEvent
from services.pacing import Pacer
from services.publishing import Header, Publisher
from services.replay_position import ReplayPosition
from services.rows import BadRow, Row
from services.slates import Answer, Sent, Unanswered, poll_slates

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


@dataclass(slots=True)
class Following:
    """
    Publishes events and follows each to its slate.

    With *in_turn*, a user's next event waits for the slate of the one before, as a shopper waits
    for the page; other users' events go ahead meanwhile, up to *window* users at once.
    """

    publisher: Publisher
    topic: str
    position: ReplayPosition
    slates: Any  # a `Consumer` of the results topic
    out: IO[bytes] | None
    in_turn: bool
    window: int = 256
    timeout_s: float = 30.0
    latencies_s: list[float] = field(default_factory=list)
    unanswered: int = 0
    _awaited: Unanswered = field(default_factory=Unanswered)
    _queued: dict[str, deque[LogEvent]] = field(default_factory=lambda: defaultdict(deque))
    _queued_events: int = 0
    _overtaken: list[Answer] = field(default_factory=list)
    _checked_s: float = 0.0

    def send(self, event: LogEvent) -> None:
        """Publish *event*, or queue it behind its user's last one."""
        while len(self._awaited) >= self.window or self._queued_events >= 16 * self.window:
            self.idle(0.05)
        if self.in_turn and event.event.user_id in self._awaited:
            self._queued[event.event.user_id].append(event)
            self._queued_events += 1
        else:
            self._publish(event)
        self.idle(0)

    def _publish(self, event: LogEvent) -> None:
        sent = Sent(event, time.time())
        self._awaited.add(sent)
        self.publisher.send(
            self.topic, event.key, event.value, delivered=partial(self._delivered, sent)
        )

    def _delivered(self, sent: Sent, partition: int, offset: int) -> None:
        self.position.done(sent.event.row)
        if answer := self._awaited.delivered(sent, partition, offset):
            self._overtaken.append(answer)  # to send from within a report is not allowed

    def idle(self, timeout_s: float) -> None:
        """Take slates that have arrived, waiting up to *timeout_s* for the first."""
        self.publisher.poll(0)
        while self._overtaken:
            self._take(self._overtaken.pop())
        for slate in poll_slates(self.slates, timeout_s):
            if answer := self._awaited.answer(slate):
                self._take(answer)
        if (now_s := time.time()) - self._checked_s > 1:
            self._checked_s = now_s
            for user_id in self._awaited.overdue(now_s - self.timeout_s):
                self.unanswered += self._awaited.forget(user_id)
                self._next(user_id)

    def _take(self, answer: Answer) -> None:
        for sent in answer.events:
            self.latencies_s.append(answer.slate.received_s - sent.sent_s)
        if self.out is not None:
            # Earlier events it answers get no line: the slate knows of more than they did.
            self.out.write(orjson.dumps(_line(answer)) + b"\n")
        self._next(answer.slate.user_id)

    def _next(self, user_id: str) -> None:
        if user_id in self._awaited or not (queue := self._queued.get(user_id)):
            return
        self._queued_events -= 1
        event = queue.popleft()
        if not queue:
            del self._queued[user_id]
        self._publish(event)

    def finish(self) -> None:
        """Wait until every event has its slate, or has waited too long for it."""
        while self._awaited or self._queued:
            self.idle(0.05)
        self.stop()

    def stop(self) -> None:
        """Wait for acknowledgements, not for slates."""
        self.publisher.flush()

    def percentiles_ms(self) -> tuple[float, float]:
        """p50 and p99 from the event's send to its slate's receipt."""
        p50, p99 = np.percentile(self.latencies_s or [np.nan], [50, 99]) * 1000
        return float(p50), float(p99)


def _line(answer: Answer) -> dict[str, Any]:
    newest = answer.events[-1]
    return {
        "row": newest.event.row,
        "user_id": newest.event.event.user_id,
        "trigger_event_id": newest.event.event.event_id,
        "items": answer.slate.item_ids,
        "strategy": (answer.slate.value or {})["strategy"],
        "latency_ms": round((answer.slate.received_s - newest.sent_s) * 1000, 3),
    }


def describe(mapping: dict[str, Column], constants: dict[str, str]) -> str:
    """The mapping as text that is the same for the same mapping."""
    columns = [f"{field}={column.name}:{column.unit}" for field, column in sorted(mapping.items())]
    return " ".join((*columns, *(f"{name}:={value}" for name, value in sorted(constants.items()))))


def log_name(path: Path) -> str:
    """How a log is called in messages."""
    return "standard input" if str(path) == "-" else path.name
