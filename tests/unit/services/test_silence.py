"""When a consumer is taken to hang."""

import pytest

from services.worker.silence import SILENT_FOR_S, ConsumerHangs, Silence


class Clock:
    """Seconds that pass when a test says so."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_who_comes_back_with_no_news_is_not_silent(clock: Clock):
    """A shop without customers at night."""
    silence = Silence(clock)

    for _ in range(100):
        clock.now_s += 10
        silence.check(fetched_s=clock.now_s - 1, kafka_answers=True)


def test_who_does_not_come_back_hangs(clock: Clock):
    """Its partitions are nobody's while it says that it is alive."""
    silence = Silence(clock)
    fetched_s = clock.now_s + 5
    clock.now_s = fetched_s + SILENT_FOR_S
    silence.check(fetched_s, kafka_answers=True)
    clock.now_s += 1

    with pytest.raises(ConsumerHangs, match="61 s"):
        silence.check(fetched_s, kafka_answers=True)


def test_a_kafka_that_is_away_silences_everybody(clock: Clock):
    """To begin anew would help nobody; the minute counts from its return."""
    silence = Silence(clock)
    fetched_s = clock.now_s
    for _ in range(100):
        clock.now_s += 10
        silence.check(fetched_s, kafka_answers=False)
    clock.now_s += SILENT_FOR_S
    silence.check(fetched_s, kafka_answers=True)
    clock.now_s += 1

    with pytest.raises(ConsumerHangs):
        silence.check(fetched_s, kafka_answers=True)
