"""The shop floor: live shoppers publish events and see what is pushed to them, and it is timed."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import orjson

from services.kafka.connection import KafkaConnection
from services.kafka.publishing import Publisher
from services.kafka.slates import Answer, Newest, Sent, Slate, Unanswered, poll_slates, whole_topic
from services.logs.eventlog import LogEvent, timestamp_text
from services.simulator.live import LiveShoppers
from services.simulator.world import PushedSlate, World
from stream.events import read_event

KEPT = 1_000_000  # latencies that the summary is taken from
RECENT = 500  # latencies that the shown percentiles are taken from
GUEST = 0  # the shopper whose list is shown
WAIT_S = 15.0  # longer than this is counted as unanswered
GUEST_CLICKS = 6
SHOWN_TYPES = {"click", "view", "search", "add_to_cart", "purchase", "wishlist", "dislike"}


@dataclass
class Figures:
    """What has happened so far."""

    events: int = 0
    slates: int = 0
    unanswered: int = 0
    strategies: Counter[str] = field(default_factory=Counter)
    followed: int = 0  # clicks on a recommended item
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    all_latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    recent_models: deque[str | None] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def degraded_share(self) -> float:
        """Share of the newest slates in which no model took part."""
        recent = list(self.recent_models)
        return recent.count(None) / len(recent) if recent else 0.0

    @property
    def model(self) -> str | None:
        """The model behind the newest slate."""
        return self.recent_models[-1] if self.recent_models else None


def percentiles_ms(latencies_s: Iterable[float]) -> tuple[float, float]:
    """p50 and p99, from event to result; NaN before the first."""
    p50, p99 = np.percentile(list(latencies_s) or [np.nan], [50, 99]) * 1000
    return float(p50), float(p99)


class LiveShop:
    """
    Runs live shoppers against the real topics, in a thread of its own.

    Args:
        kafka: Where Kafka is.
        events: Full name of the events topic.
        results: Full name of the results topic.
        world: Whose shoppers.
        users: How many may come.
        rate: Events per second.
        run: Another for each run: it goes into event ids.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        *,
        events: str,
        results: str,
        world: World,
        users: int,
        rate: float,
        run: str,
    ) -> None:
        self.figures = Figures()
        self.guest = world.shopper(GUEST)
        self.guest_clicks: deque[dict[str, Any]] = deque(maxlen=GUEST_CLICKS)
        self.guest_slate: Slate | None = None
        self.guest_before: list[str] = []  # the list before that one
        self.failure: BaseException | None = None
        self._topic = events
        self._kafka, self._results = kafka, results
        self._world, self._users, self._rate, self._run = world, users, rate, run
        self._pushed: dict[str, PushedSlate] = {}
        self._newest = Newest()
        self._awaited = Unanswered()
        self._overtaken: list[Answer] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="live-shop", daemon=True)

    def open(self) -> None:
        """Let the shoppers in."""
        self._thread.start()

    def close(self) -> None:
        """Send them home, and wait until what they did is acknowledged."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _main(self) -> None:
        try:
            self._trade()
        except BaseException as error:  # shown by the thread that owns the terminal
            self.failure = error

    def _trade(self) -> None:
        slates, _ = whole_topic(self._kafka, self._results, from_beginning=False)
        shoppers = LiveShoppers(
            self._world,
            self._users,
            rate=self._rate,
            run=self._run,
            start_s=time.time(),
            slate_of=self._pushed.get,
            guest=GUEST,
        )
        try:
            with Publisher(self._kafka, client_id="headrace-demo", linger_ms=0) as publisher:
                while not self._stop.is_set():
                    while (event := shoppers.take(time.time())) is not None:
                        self._publish(publisher, event)
                    publisher.poll()
                    while self._overtaken:
                        self._answered(self._overtaken.pop())
                    pause_s = min(0.05, max(0.0, shoppers.next_due_s() - time.time()))
                    for slate in poll_slates(slates, pause_s):
                        self._received(slate)
                    self._give_up()
        finally:
            slates.close()

    def _publish(self, publisher: Publisher, fields: dict[str, Any]) -> None:
        fields["event_timestamp"] = timestamp_text(fields["event_timestamp"], "ms")
        value = orjson.dumps(fields)
        event = LogEvent(self.figures.events, 0, read_event(value), value)
        sent = Sent(event, time.time())
        self._awaited.add(sent)
        publisher.send(self._topic, event.key, value, delivered=partial(self._delivered, sent))
        self.figures.events += 1
        self.figures.followed += fields["event_type"] == "click" and "recommendation_id" in fields
        if fields["user_id"] == self.guest.user_id and fields["event_type"] in SHOWN_TYPES:
            self.guest_clicks.append(fields)

    def _delivered(self, sent: Sent, partition: int, offset: int) -> None:
        if answer := self._awaited.delivered(sent, partition, offset):
            self._overtaken.append(answer)

    def _received(self, slate: Slate) -> None:
        if not self._newest.is_news(slate) or slate.value is None:
            return
        if answer := self._awaited.answer(slate):
            self._answered(answer)
        figures = self.figures
        figures.slates += 1
        figures.strategies[slate.value["strategy"]] += 1
        model = slate.value.get("model")
        figures.recent_models.append(model and f"{model['name']} {model['version']}")
        self._pushed[slate.user_id] = slate.value["recommendation_id"], slate.item_ids
        if slate.user_id == self.guest.user_id:
            if self.guest_slate is not None:
                self.guest_before = self.guest_slate.item_ids
            self.guest_slate = slate

    def _answered(self, answer: Answer) -> None:
        for sent in answer.events:
            latency_s = answer.slate.received_s - sent.sent_s
            self.figures.latencies_s.append(latency_s)
            self.figures.all_latencies_s.append(latency_s)

    def _give_up(self) -> None:
        for user_id in self._awaited.overdue(time.time() - WAIT_S):
            self.figures.unanswered += self._awaited.forget(user_id)
