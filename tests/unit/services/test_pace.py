"""How many users are asked for at once, and whose turn it is."""

import asyncio
from collections.abc import Sequence

import pytest

from services.models.pace import Pace

DEADLINE_S = 0.5


def test_nothing_is_held_back_before_the_first_answer():
    """The first micro-batch after a start is as large as any."""
    assert Pace().users(DEADLINE_S) is None


def test_what_takes_long_is_asked_for_in_parts_that_do_not():
    """Four workers on one Triton, or a catalogue of a million items."""
    pace = Pace()

    pace.took(400, 0.4)

    assert pace.users(DEADLINE_S) == 300


def test_a_late_request_is_followed_by_smaller_ones():
    """Nobody knows how long it would have taken."""
    pace, sizes = Pace(), []
    users = 384
    for _ in range(3):
        pace.took(users, DEADLINE_S)
        users = pace.users(DEADLINE_S) or users
        sizes.append(users)

    assert sizes == [230, 138, 82]


def test_a_slow_moment_is_forgotten():
    """Triton was paused for a second; no batch need be cut for ever."""
    pace = Pace()
    pace.took(100, DEADLINE_S)
    asked = 0
    while (users := pace.users(DEADLINE_S) or 0) < 384:
        pace.took(users, users * 0.00025)
        asked += 1

    assert 5 < asked < 20


def test_a_user_alone_says_little():
    """At night each request is for one, and takes what a request takes."""
    pace = Pace()

    pace.took(1, 0.005)

    assert (pace.users(DEADLINE_S) or 0) > 500


class OneAtATime:
    """A server that answers requests in their order, when it is told to."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._answers: list[asyncio.Future[str]] = []

    async def __call__(self, users: Sequence[str]) -> str:
        self.sent.append("".join(users))
        self._answers.append(asyncio.get_running_loop().create_future())
        return await self._answers[-1]

    async def answer(self) -> None:
        """The oldest request that waits."""
        waiting = next(answer for answer in self._answers if not answer.done())
        waiting.set_result(self.sent[self._answers.index(waiting)])
        await _all_that_can_go_on()


async def _all_that_can_go_on() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_batch_is_asked_for_before_the_next_one_begins():
    """In alternation neither would have its slates until both had been ranked."""
    pace, server = Pace(), OneAtATime()
    first = asyncio.create_task(pace.asked(server, "aaabbb", most=3, deadline_s=DEADLINE_S))
    second = asyncio.create_task(pace.asked(server, "cccd", most=3, deadline_s=DEADLINE_S))

    await _all_that_can_go_on()
    assert server.sent == ["aaa"]
    await server.answer()
    # The first batch's last request is on its way, and the next batch's first one behind it.
    assert server.sent == ["aaa", "bbb", "ccc"]
    await server.answer()
    assert await first == ["aaa", "bbb"]
    await server.answer()
    await server.answer()
    assert await second == ["ccc", "d"]


async def test_a_batch_that_fails_gives_its_turn_away():
    """Triton was killed in the middle of one."""
    pace, server = Pace(), OneAtATime()

    async def refuse(users: Sequence[str]) -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await pace.asked(refuse, "aaabbb", most=3, deadline_s=DEADLINE_S)
    second = asyncio.create_task(pace.asked(server, "c", most=3, deadline_s=DEADLINE_S))
    await _all_that_can_go_on()
    await server.answer()

    assert await second == ["c"]
