"""Whether slates are fresh: which events still wait for theirs, and since when."""

import threading
import time
from collections import deque
from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition

from services.kafka.slates import Slate, poll_slates
from stream.topics import EVENT_PARTITIONS
from tests.chaos.background import Background
from tests.chaos.ledger import ANSWERED, Entry, Ledger

SAMPLE_S = 0.1
WINDOW_S = 1.0

OnAnswer = Callable[[str, float], None]


class Waiting:
    """
    The events that the broker has and no slate has answered.

    A slate answers every event of its user at or below its ``state.offset``.

    Args:
        on_answer: Told the user of each event answered, and the seconds since it was sent.
    """

    def __init__(self, on_answer: OnAnswer = lambda user_id, seconds: None) -> None:
        self._on_answer = on_answer
        self.answers = 0
        self._sent: dict[str, deque[tuple[int, float]]] = {}  # user to offset and time, in order
        self._answered: dict[str, int] = {}
        self._lock = threading.Lock()

    def delivered(self, entry: Entry) -> None:
        """The broker has *entry*: from now on its slate is awaited, unless it was faster."""
        if entry.kind not in ANSWERED or entry.place is None:
            return
        _, offset = entry.place
        with self._lock:
            if offset > self._answered.get(entry.user_id, -1):
                self._sent.setdefault(entry.user_id, deque()).append((offset, entry.sent_s))

    def answered(self, slate: Slate) -> None:
        """Nothing of this user up to the slate's state waits any more."""
        _, offset = slate.state
        with self._lock:
            self._answered[slate.user_id] = max(offset, self._answered.get(slate.user_id, -1))
            waiting = self._sent.get(slate.user_id, deque())
            while waiting and waiting[0][0] <= offset:
                _, sent_s = waiting.popleft()
                self.answers += 1
                self._on_answer(slate.user_id, time.monotonic() - sent_s)
            if not waiting:
                self._sent.pop(slate.user_id, None)

    def oldest_s(self) -> float | None:
        """When the oldest event that still waits was sent; None if none waits."""
        with self._lock:
            return min((waiting[0][1] for waiting in self._sent.values()), default=None)

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._sent.values()))


class Watch(Background):
    """Reads the results topic in a thread, as a storefront would."""

    def __init__(self, servers: str, topic: str, waiting: Waiting) -> None:
        super().__init__("watch")
        self.waiting = waiting
        self.slates = 0
        self._modelled: deque[tuple[float, bool]] = deque()  # received, whether a model ranked it
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "chaos-watch",  # never joined
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 200,  # what recovers is measured, not this client
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(EVENT_PARTITIONS)])

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._consumer.close()

    def modelled_share(self) -> float:
        """Of the slates of the last second, how many a model has ranked."""
        since_s = time.monotonic() - WINDOW_S
        recent = [by_model for at_s, by_model in list(self._modelled) if at_s >= since_s]
        return sum(recent) / len(recent) if recent else 0.0

    def _run(self) -> None:
        while not self._stop.is_set():
            for slate in poll_slates(self._consumer, 0.05):
                self._take(slate)

    def _take(self, slate: Slate) -> None:
        if slate.value is None:
            return
        self.slates += 1
        self.waiting.answered(slate)
        now_s = time.monotonic()
        self._modelled.append((now_s, slate.value["model"] is not None))
        while self._modelled[0][0] < now_s - WINDOW_S:
            self._modelled.popleft()


class Freshness:
    """How old the oldest unanswered event is, from its sending on."""

    def __init__(self, ledger: Ledger, watch: Watch) -> None:
        self._ledger, self._watch = ledger, watch

    def age_s(self) -> float:
        """Seconds; 0 when nothing waits."""
        waits = (self._ledger.oldest_undelivered_s(), self._watch.waiting.oldest_s())
        oldest_s = min((since for since in waits if since is not None), default=None)
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s

    def recovery_s(
        self, since_s: float, *, fresh_s: float, steady_s: float, limit_s: float
    ) -> float | None:
        """
        Wait until no event has waited longer than *fresh_s* for *steady_s* running.

        Returns:
            Seconds from *since_s* (monotonic) to the first moment of that calm; None if *limit_s*
            passed without one.
        """
        return _held(lambda: self.age_s() < fresh_s, since_s, steady_s, limit_s)

    def model_back_s(self, since_s: float, *, limit_s: float) -> float | None:
        """Seconds from *since_s* until a model ranks most slates again; None past *limit_s*."""
        return _held(lambda: self._watch.modelled_share() > 0.5, since_s, WINDOW_S, limit_s)


def _held(
    condition: Callable[[], bool], since_s: float, steady_s: float, limit_s: float
) -> float | None:
    holds_since_s: float | None = None
    while (now_s := time.monotonic()) < since_s + limit_s:
        if not condition():
            holds_since_s = None
        elif holds_since_s is None:
            holds_since_s = now_s
        if holds_since_s is not None and now_s - holds_since_s >= steady_s:
            return max(0.0, holds_since_s - since_s)
        time.sleep(SAMPLE_S)
    return None
