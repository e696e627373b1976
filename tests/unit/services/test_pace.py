"""How many users are asked for at once."""

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
