"""What is asked, and what may be known then."""

import numpy as np

from services.evaluation.queries import (
    Histories,
    after,
    last_items,
    next_in_session,
    runs,
    session_numbers,
)
from tests.unit.evaluation.logs import CHECKOUT, MINUTE_MS, PURCHASE, VIEW, a_log


def test_only_a_quick_step_to_another_item_in_the_same_session_is_a_target() -> None:
    """The protocol that the published figures of the live storefront use."""
    log = a_log(
        (1, 0, VIEW, 0),
        (1, 0, VIEW, 1),  # the same item
        (1, 1, VIEW, 2),  # a target
        (2, 3, VIEW, 3),  # a user's first event
        (1, 2, CHECKOUT, 4),  # a checkout is none
        (1, 3, PURCHASE, 5),  # a purchase is
        (1, 4, VIEW, 36),  # 31 minutes later
        (1, 5, VIEW, 37),  # another session
        sessions=[1, 1, 1, 2, 1, 1, 1, 9],
    )

    queries = next_in_session(log, from_ms=0)

    assert queries.asked_at.tolist() == [2, 5]
    assert queries.before.tolist() == [1, 4]
    assert queries.right[:, 0].tolist() == [1, 3]


def test_targets_before_the_test_begins_do_not_count() -> None:
    """Training has seen them."""
    log = a_log((1, 0, VIEW, 0), (1, 1, VIEW, 1), (1, 2, VIEW, 2))

    assert next_in_session(log, from_ms=2 * MINUTE_MS).asked_at.tolist() == [2]


def test_the_last_item_is_asked_of_all_before_it_and_two_are_kept_from_training() -> None:
    """Leave-one-out: neither the test item nor the one before it may be learnt."""
    log = a_log(
        (1, 0, VIEW, 0),
        (2, 7, VIEW, 1),
        (1, 1, VIEW, 2),
        (2, 8, VIEW, 3),
        (1, 2, VIEW, 4),
        (1, 2, PURCHASE, 5),  # the same run as the view before it
        (1, 3, VIEW, 6),
    )

    test, without_last = last_items(log, back=1)
    validation, learnt = last_items(log, back=2)

    assert test.users.tolist() == [1, 2]
    assert test.right[:, 0].tolist() == [3, 8]
    assert test.before.tolist() == [5, 1]
    assert without_last.tolist() == [True, True, True, False, True, True, False]
    assert validation.right[:, 0].tolist() == [2]  # user 2 has too few
    assert validation.before.tolist() == [2]
    assert learnt.tolist() == [True, True, True, True, False, False, False]


def test_everything_after_a_moment_is_right_and_nothing_of_it_is_known() -> None:
    """A global time split: one list a user against the set of what they did later."""
    log = a_log(
        (1, 0, VIEW, 0), (2, 1, VIEW, 1), (1, 2, VIEW, 10), (1, 1, VIEW, 11), (3, 0, VIEW, 12)
    )

    queries = after(log, from_ms=10 * MINUTE_MS)

    assert queries.users.tolist() == [1, 3]
    assert queries.right.tolist() == [[1, 2], [0, -1]]
    assert queries.before.tolist() == [0, -1]
    assert queries.asked_at.tolist() == [2, 2]


def test_a_history_ends_where_it_is_asked_and_begins_with_its_user() -> None:
    """Another user's events between, before and after are not in it."""
    log = a_log((2, 5, VIEW, 0), (1, 0, VIEW, 1), (2, 6, VIEW, 2), (1, 1, VIEW, 3), (1, 2, VIEW, 4))
    histories = Histories(log)

    items = histories.items(np.array([3, 2, -1]))

    assert items.tolist() == [[0, 1], [5, 6], [-1, -1]]
    assert histories.lengths(np.array([4, -1])).tolist() == [3, 0]


def test_the_newest_event_before_a_time_is_the_users_own() -> None:
    """What a nightly batch would know: nothing of the day itself."""
    log = a_log((1, 0, VIEW, 0), (2, 1, VIEW, 1), (1, 2, VIEW, 5))
    histories = Histories(log)

    found = histories.newest_before(np.array([1, 1, 2, 2]), np.array([0, 6, 1, 2]) * MINUTE_MS)

    assert found.tolist() == [-1, 2, -1, 1]


def test_a_session_ends_with_its_id_or_where_there_is_none_after_half_an_hour() -> None:
    """Logs without session ids have sessions as well."""
    events = (1, 0, VIEW, 0), (1, 1, VIEW, 29), (1, 2, VIEW, 60), (1, 3, VIEW, 61)

    assert session_numbers(a_log(*events)).tolist() == [0, 0, 1, 1]
    assert session_numbers(a_log(*events, sessions=[4, 4, 4, 5])).tolist() == [0, 0, 0, 1]
    histories = Histories(a_log(*events))
    assert histories.session_items(np.array([1, 2])).tolist() == [[-1, 0, 1], [-1, -1, 2]]


def test_runs_of_one_item_count_once() -> None:
    """A view, a cart and a purchase of a thing are one step."""
    assert runs(np.array([-1, -1, 4, 4, 2, 4])) == [4, 2, 4]
