"""A replay keeps its pace, knows how far it got, and follows events to their slates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import CommandFailed
from services.kafka.slates import Newest, Sent, Slate, Unanswered
from services.logs.eventlog import EventReader, LogEvent
from services.logs.pacing import Pacer, parse_speed
from services.logs.replay_position import ReplayPosition
from services.logs.replaying import Selection, replay
from services.logs.rows import Row
from tests.builders import T0_MS, an_event, event_json


class FakeSender:
    """Takes events; acknowledges when told to."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self.finished = self.stopped = False

    def send(self, event: LogEvent) -> None:
        self.events.append(event)

    def idle(self, timeout_s: float) -> None:
        raise AssertionError("nothing here has to wait")

    def finish(self) -> None:
        self.finished = True

    def stop(self) -> None:
        self.stopped = True


def rows(*events: dict[str, Any] | str) -> Iterator[Row]:
    for line, event in enumerate(events, start=1):
        if isinstance(event, str):
            yield Row(line, {}, fault=event)
        else:
            yield Row(line, event, orjson.dumps(event))


def run(sender: FakeSender, log: Iterator[Row], **options: Any) -> Any:
    position = options.pop("position", ReplayPosition())
    return replay(log, EventReader(), Selection(**options), Pacer(), position, sender)


def test_a_resumed_replay_sends_the_rest() -> None:
    """Rows before the position are read, since ids depend on them, and not sent."""
    sender = FakeSender()
    run(
        sender,
        rows(*(event_json(event_id=f"e{n}") for n in range(5))),
        position=ReplayPosition(row=3),
    )

    assert [event.event.event_id for event in sender.events] == ["e3", "e4"]
    assert sender.finished


def test_a_bad_row_stops_the_replay_with_its_line() -> None:
    """What came before it is out, and said so by the position; nothing after it is."""
    sender = FakeSender()

    with pytest.raises(CommandFailed, match="line 2 is not an event: user_id") as failure:
        run(sender, rows(event_json(), event_json(user_id=""), event_json()))

    assert failure.value.exit_code == 2
    assert len(sender.events) == 1
    assert sender.stopped


def test_bad_rows_are_counted_when_they_may_be_skipped() -> None:
    """Skipping is asked for, and reported."""
    sender = FakeSender()
    tally = run(sender, rows(event_json(), "value: not JSON", event_json()), skip_bad=True)

    assert (tally.published, tally.bad) == (2, 1)
    assert tally.first_bad == ["line 2: value: not JSON"]


def test_only_the_asked_time_is_published() -> None:
    """From is included, until is not: two halves of a log make the whole."""
    log = [event_json(at_ms=T0_MS + n) for n in range(4)]
    sender = FakeSender()
    run(sender, rows(*log), from_ms=T0_MS + 1, until_ms=T0_MS + 3)

    assert [event.row for event in sender.events] == [1, 2]


def test_max_is_a_number_of_events_and_the_next_run_goes_on() -> None:
    """Not a number of rows: what is filtered does not count."""
    sender = FakeSender()
    run(sender, rows(*(event_json(at_ms=T0_MS + n) for n in range(9))), from_ms=T0_MS + 2, most=3)

    assert [event.row for event in sender.events] == [2, 3, 4]


@given(st.permutations(range(12)), st.integers(0, 12))
def test_the_position_never_passes_an_unacknowledged_row(order: list[int], known: int) -> None:
    """Kafka acknowledges in any order. A crash must not leave a row out."""
    position = ReplayPosition()
    for row in order[:known]:
        position.done(row)

    missing = set(range(13)) - set(order[:known])
    assert position.row == min(missing)


def test_the_position_survives_and_belongs_to_its_log(tmp_path: Path) -> None:
    """The same command goes on; another log, mapping or cluster begins at its beginning."""
    log = tmp_path / "log.jsonl"
    log.write_text("x\n" * 10)
    position = ReplayPosition.load(tmp_path / "replays", log, "mapping", "cluster")
    position.done(0)
    position.save()

    assert ReplayPosition.load(tmp_path / "replays", log, "mapping", "cluster").row == 1
    assert ReplayPosition.load(tmp_path / "replays", log, "mapping", "another").row == 0
    log.write_text("y\n" * 10)
    assert ReplayPosition.load(tmp_path / "replays", log, "mapping", "cluster").row == 0


def test_speed_is_the_logs_own_time() -> None:
    """10x: an hour of the log in six minutes, whenever the replay is looked at."""
    pacer = Pacer(speed=10)

    assert pacer.wait_s(T0_MS, now_s=100) == 0
    assert pacer.wait_s(T0_MS + 60_000, now_s=101) == pytest.approx(5)
    assert pacer.wait_s(T0_MS + 60_000, now_s=107) == 0
    assert pacer.wait_s(T0_MS - 60_000, now_s=107) == 0  # out of order: at once


def test_rate_is_events_a_second_without_drift() -> None:
    """A late event does not make the following ones later."""
    pacer = Pacer(rate=2)
    waits = []
    for now_s in (0.0, 0.1, 2.0, 2.0):
        waits.append(pacer.wait_s(T0_MS, now_s=now_s))
        pacer.sent()

    assert waits == pytest.approx([0, 0.4, 0, 0])


@pytest.mark.parametrize(("text", "speed"), [("10x", 10), ("0.5", 0.5), (" 1x ", 1)])
def test_speeds_are_read(text: str, speed: float) -> None:
    """As people write them."""
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0x", "-1x", "fast", "", "1e3x", "xx"])
def test_speeds_that_mean_nothing_are_refused(text: str) -> None:
    """In one line."""
    with pytest.raises(click.BadParameter):
        parse_speed(text)


def sent(row: int, user_id: str = "ada") -> Sent:
    return Sent(LogEvent(row, row + 1, an_event(user_id=user_id), b""), sent_s=float(row))


def slate(offset: int, *, partition: int = 3, user_id: str = "ada") -> Slate:
    state = {"partition": partition, "offset": offset}
    return Slate(user_id, {"state": state, "items": []}, received_s=99.0, event_time_ms=None)


def test_a_slate_answers_the_events_up_to_its_state() -> None:
    """The worker makes one slate of events that arrive together."""
    awaited, events = Unanswered(), [sent(0), sent(1), sent(2)]
    for offset, event in enumerate(events, start=10):
        awaited.add(event)
        awaited.delivered(event, 3, offset)

    answer = awaited.answer(slate(11))

    assert answer is not None
    assert answer.events == events[:2]
    assert awaited.answer(slate(11)) is None
    assert "ada" in awaited
    assert awaited.answer(slate(12)) is not None
    assert len(awaited) == 0


def test_a_slate_that_overtakes_kafkas_report_is_not_missed() -> None:
    """Both come from Kafka by different ways; else the user would wait for ever."""
    awaited, event = Unanswered(), sent(0)
    awaited.add(event)

    assert awaited.answer(slate(10)) is None
    answer = awaited.delivered(event, 3, 10)

    assert answer is not None
    assert answer.events == [event]


def test_an_older_slate_answers_nothing() -> None:
    """A refreshed slate of the event before must not be taken for this one's."""
    awaited, event = Unanswered(), sent(0)
    awaited.add(event)
    awaited.delivered(event, 3, 10)

    assert awaited.answer(slate(9)) is None
    assert awaited.overdue(before_s=0.5) == ["ada"]
    assert awaited.forget("ada") == 1


def test_stale_slates_are_ignored() -> None:
    """A consumer ignores a slate whose state is lower than one it has seen from that partition."""
    newest = Newest()

    seen = [newest.is_news(slate(offset)) for offset in (5, 4, 5, 6)]

    assert seen == [True, False, True, True]
    assert newest.is_news(slate(1, partition=4))
