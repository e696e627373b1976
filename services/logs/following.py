"""Publishes events and follows each to the slate that it caused: what came back, and how fast."""

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

import numpy as np
import orjson
from confluent_kafka import Consumer

from services.kafka.publishing import Publisher
from services.kafka.slates import Answer, Sent, Unanswered, poll_slates
from services.logs.eventlog import LogEvent
from services.logs.replay_position import ReplayPosition


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
    slates: Consumer  # of the results topic
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
