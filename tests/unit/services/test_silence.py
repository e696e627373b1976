"""When a consumer is taken to hang."""

import pytest
from structlog.testing import capture_logs

from services.kafka.connection import KafkaConnection
from services.worker import silence
from services.worker.silence import SILENT_FOR_S, STALLED_FOR_S, ConsumerHangs, Silence


class Worker:
    """A consumer that has come back just now, unless a test says otherwise."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.fetched_s: float | None = None
        self.at = {0: 5, 3: 7}
        self.silence = Silence(
            ends=lambda: None,
            fetched_s=lambda: self.now_s if self.fetched_s is None else self.fetched_s,
            positions=lambda: self.at,
            clock=lambda: self.now_s,
        )


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_who_has_nothing_to_fetch_does_not_hang(worker: Worker):
    """A shop without customers at night."""
    for _ in range(100):
        worker.now_s += 10
        worker.silence.check({0: 5, 3: 7})


def test_who_does_not_come_back_hangs(worker: Worker):
    """Its partitions are nobody's while it says that it is alive."""
    worker.fetched_s = worker.now_s
    worker.now_s += SILENT_FOR_S
    worker.silence.check({0: 5, 3: 7})
    worker.now_s += 1

    with pytest.raises(ConsumerHangs, match="no fetch has ended for 61 s"):
        worker.silence.check({0: 5, 3: 7})


def test_who_comes_back_with_nothing_where_there_is_news_hangs(worker: Worker):
    """It may go on with other partitions meanwhile."""
    worker.silence.check({0: 6, 3: 9})
    worker.now_s += STALLED_FOR_S
    worker.at = {0: 5, 3: 8}
    worker.silence.check({0: 6, 3: 9})
    worker.now_s += 1

    with pytest.raises(ConsumerHangs, match="partition 0 has been at 5 for 121 s, and ends at 6"):
        worker.silence.check({0: 6, 3: 9})


def test_who_is_far_behind_and_goes_on_does_not_hang(worker: Worker):
    """After an import the queue is hours long."""
    for at in range(100):
        worker.at = {0: at}
        worker.now_s += STALLED_FOR_S
        worker.silence.check({0: 10**6})


def test_a_partition_that_has_gone_to_another_is_forgotten(worker: Worker):
    """It comes back later, where it was left."""
    worker.silence.check({0: 6, 3: 7})
    worker.at = {3: 7}
    worker.now_s += STALLED_FOR_S
    worker.silence.check({0: 6, 3: 7})
    worker.at = {0: 5, 3: 7}
    worker.now_s += 1

    worker.silence.check({0: 6, 3: 7})


def test_who_is_given_its_partitions_again_and_again_and_moves_none_hangs(worker: Worker):
    """A group that rebalances without end: between two looks, or at one, they are nobody's."""
    for _ in range(int(STALLED_FOR_S / 10)):
        worker.at = {0: 5}
        worker.silence.check({0: 6})
        worker.now_s += 5
        worker.at = {}
        worker.silence.check({0: 6})
        worker.now_s += 5
    worker.at = {0: 5}
    worker.silence.check({0: 6})
    worker.now_s += 1

    with pytest.raises(ConsumerHangs, match="partition 0 has been at 5"):
        worker.silence.check({0: 6})


def test_a_kafka_that_is_away_silences_everybody(worker: Worker):
    """To begin anew would help nobody; time counts from its return."""
    worker.fetched_s = worker.now_s
    worker.silence.check({0: 6})
    for _ in range(100):
        worker.now_s += 10
        worker.silence.check(None)
    worker.now_s += SILENT_FOR_S
    worker.silence.check({0: 6})
    worker.now_s += 1

    with pytest.raises(ConsumerHangs):
        worker.silence.check({0: 6})


def test_a_refusal_is_said_once_and_is_no_answer(monkeypatch: pytest.MonkeyPatch):
    """A right that is missing would switch the watch off for good."""
    monkeypatch.setattr(silence, "ANSWERS_WITHIN_S", 0.2)
    ask = silence.ends_of(KafkaConnection("127.0.0.1:1"), "events.v1", partitions=2)

    with capture_logs() as said:
        assert ask() is None
        assert ask() is None

    assert [one["event"] for one in said] == ["consumer_not_watched"]
    assert said[0]["reason"]


def test_after_a_refusal_another_client_asks(monkeypatch: pytest.MonkeyPatch):
    """One of before Kafka's restart is refused as fenced for a minute and more."""
    clients = []

    class Counted(silence.AdminClient):
        def __init__(self, *config: object) -> None:
            super().__init__(*config)
            clients.append(self)

    monkeypatch.setattr(silence, "AdminClient", Counted)
    monkeypatch.setattr(silence, "ANSWERS_WITHIN_S", 0.2)
    ask = silence.ends_of(KafkaConnection("127.0.0.1:1"), "events.v1", partitions=2)

    ask()
    ask()

    assert len(clients) == 2
