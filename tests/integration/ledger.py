"""
What a test sent, and whether the system accounts for all of it.

It knows nothing of the fold: expectations are kept by hand, from what was sent.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from features.store import FeatureRows
from stream import topics
from stream.history import FORMAT, UserRow
from stream.keys import event_key
from stream.marks import Mark
from tests.builders import event_json
from tests.integration.support import Running, eventually

QUIET = {"log_level": 0}


def read_topic(servers: str, topic: str) -> list[Message]:
    """Everything on *topic* now, in order for each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "test-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            **QUIET,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    found, unread = [], set(partitions)
    while unread:
        for message in consumer.consume(500, timeout=0.2):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
            else:
                raise AssertionError(error.str())
    consumer.close()
    return found


@dataclass
class Ledger:
    """Sends events, remembers where each went, and compares."""

    environment: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    state: int = 1  # whose rows are looked at
    row_format: int = FORMAT
    sent: int = 0
    event_ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    newest: dict[str, tuple[int, int]] = field(default_factory=dict)  # user: partition, offset

    def __post_init__(self) -> None:
        self.servers = self.environment["HEADRACE_KAFKA_SERVERS"]
        self.prefix = self.environment["HEADRACE_PREFIX"]
        self.producer = Producer(
            {
                "bootstrap.servers": self.servers,
                "partitioner": "murmur2_random",
                "linger.ms": 2,
                **QUIET,
                **self.config,
            }
        )

    def topic(self, name: str) -> str:
        return topics.with_prefix(self.prefix, name)

    def send(self, **fields: Any) -> dict[str, Any]:
        """Send one event under its user's key."""
        event = event_json(**fields)
        user_id = event["user_id"]
        self.sent += 1
        self.event_ids[user_id].append(event["event_id"])
        self.raw(user_id.encode(), orjson.dumps(event), on_delivery=self._delivered_to(user_id))
        return event

    def raw(self, key: bytes | None, value: bytes | None, **options: Any) -> None:
        """Send anything to `events.v1`."""
        self.producer.produce(self.topic(topics.EVENTS), key=key, value=value, **options)
        self.producer.poll(0)

    def send_many(self, users: int, events: int, *, rate: float | None = None) -> None:
        """*events* events of *users* users in turn, all distinct; *rate* a second if given."""
        began = time.monotonic()
        for number in range(events):
            self.send(user_id=f"u{number % users}", item_id=f"i{number % 50}")
            if rate is not None:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
        self.flush()

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def counters(self) -> dict[str, int]:
        """Records by outcome, over all partitions, as the marks have them."""
        raw = self.store.read_marks(range(16))  # more than there are
        marks = [orjson.loads(Mark.from_bytes(one).to_bytes()) for one in raw]
        names = ("folded", "duplicate", "late", "rekeyed", "dead_lettered")
        return {name: sum(mark[name] for mark in marks) for name in names}

    @property
    def store(self) -> FeatureRows:
        if not hasattr(self, "_store"):
            self._store = FeatureRows.open(
                self.environment["HEADRACE_REDIS_ADDRESS"],
                Path(self.environment["HEADRACE_DATA_DIR"]) / "feast" / "registry.db",
                self._project(),
            )
        return self._store

    def use_state(self, number: int, row_format: int = FORMAT) -> None:
        """Look at the rows of another state from now on."""
        self.state, self.row_format = number, row_format
        self.__dict__.pop("_store", None)

    def row(self, user_id: str) -> UserRow:
        """The user's row as it is stored."""
        (raw,) = self.store.read([user_id])
        return UserRow.from_bytes(raw)

    def settled(self) -> bool:
        """Whether every record sent has been accounted for."""
        return sum(self.counters().values()) >= self.sent

    def slates(self) -> list[dict[str, Any]]:
        """Every slate published so far."""
        found = read_topic(self.servers, self.topic(topics.RECOMMENDATIONS))
        return [orjson.loads(message.value()) for message in found if message.value()]

    def slates_after(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Every slate published so far that *event* triggered."""
        return [s for s in self.slates() if s["trigger"]["event_id"] == event["event_id"]]

    def letters(self) -> list[Message]:
        """Every dead letter so far."""
        return read_topic(self.servers, self.topic(topics.EVENTS_DLQ))

    def assert_exact(self) -> None:
        """Nothing lost and nothing folded twice, by counts, by rows and by last slates."""
        assert self.counters() == {
            "folded": self.sent,
            "duplicate": 0,
            "late": 0,
            "rekeyed": 0,
            "dead_lettered": 0,
        }
        for user_id, event_ids in self.event_ids.items():
            in_row = self.row(user_id).lists["interactions"]["event_key"].tolist()
            assert sorted(in_row) == sorted(map(event_key, event_ids)), user_id
        last: dict[str, tuple[int, int]] = {}
        for slate in self.slates():
            state = (slate["state"]["partition"], slate["state"]["offset"])
            last[slate["user_id"]] = max(last.get(slate["user_id"], state), state)
        assert last == self.newest

    def _delivered_to(self, user_id: str) -> Any:
        def delivered(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            at = (message.partition(), message.offset())
            self.newest[user_id] = max(self.newest.get(user_id, at), at)

        return delivered

    def _project(self) -> str:
        from services.settings import Settings
        from services.states import project

        return project(Settings(prefix=self.prefix), self.state, self.row_format)


@contextmanager
def load(ledger: Ledger, *, events: int, rate: float, users: int = 40) -> Iterator[None]:
    """Send in the background, and until the end of the block at least."""
    sending = threading.Thread(target=ledger.send_many, args=(users, events), kwargs={"rate": rate})
    sending.start()
    try:
        yield
    finally:
        sending.join()


async def settled_under_care(ledger: Ledger, worker: Running, start: Callable[[], Running]) -> None:
    """Until all that was sent is accounted for, *start* a worker again whenever it has ended."""

    def settled() -> bool:
        nonlocal worker
        if worker.popen.poll() is not None:
            worker = start()
        return ledger.settled()

    await eventually(settled, timeout_s=90)


def repeats(slates: Iterable[Mapping[str, Any]]) -> int:
    """How many slates were published again for a state already answered."""
    states = [(s["user_id"], s["state"]["partition"], s["state"]["offset"]) for s in slates]
    return len(states) - len(set(states))
