"""Who is served by which version, and what one change after the other makes of it."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from stream.deployments import EVERYBODY, Canary, Deployment, follow
from tests.fakes import NOW, a_deployment

USERS = [f"user-{number}" for number in range(20_000)]
LATER = datetime(2026, 1, 2, tzinfo=UTC)


def taken(canary: Canary) -> set[str]:
    return {user for user in USERS if canary.takes(user)}


def test_a_canary_has_its_share_of_the_users() -> None:
    """Five per cent are five per cent, within what chance allows."""
    assert len(taken(Canary(version="4", share=500))) == pytest.approx(1_000, abs=100)
    assert taken(Canary(version="4", share=EVERYBODY)) == set(USERS)


def test_users_stay_with_their_version_when_the_share_grows() -> None:
    """Somebody's list must not change its taste back and forth."""
    assert taken(Canary(version="4", share=500)) < taken(Canary(version="4", share=2_000))


def test_the_next_canary_has_other_users() -> None:
    """It must not be the same people each time who try what is new."""
    first, second = (taken(Canary(version=version, share=1_000)) for version in "45")

    assert len(first & second) == pytest.approx(200, abs=80)


@pytest.mark.parametrize("share", [0, EVERYBODY + 1])
def test_a_share_that_is_none_is_refused(share: int) -> None:
    """A record that says so is not followed."""
    with pytest.raises(ValidationError):
        Canary(version="4", share=share)


def test_a_version_on_trial_becomes_the_one_that_serves() -> None:
    """The usual way of a version, and what each step leaves at hand."""
    state = a_deployment(version="1", previous="0")
    state = state.compare_with("2", now=LATER, reason="shadow")
    assert (state.shadow, state.versions) == ("2", ("0", "1", "2"))

    state = state.try_on(Canary(version="2", share=500), now=LATER, reason="canary")
    assert (state.shadow, state.role_of("2")) == (None, "canary, 5%")

    state = state.serve("2", ("scarf",), now=LATER, reason="promoted")
    assert (state.version, state.previous, state.canary) == ("2", "1", None)
    assert (state.popular, state.revision) == (("scarf",), 4)
    assert (state.changed_at, state.reason) == (LATER, "promoted")


def test_going_back_twice_does_not_bring_the_bad_one_back() -> None:
    """Somebody in a hurry presses the button again."""
    state = a_deployment(version="2", previous="1").go_back((), now=NOW, reason="back")

    assert (state.version, state.previous) == ("1", None)


def test_a_retired_version_loses_every_part() -> None:
    """Triton would go on holding it in memory."""
    state = a_deployment(version="3", previous="1", shadow="2", canary=Canary(version="4", share=1))
    for version in "124":
        state = state.without(version, now=NOW, reason="retired")

    assert state.versions == ("3",)
    assert state.revision == 4


def test_versions_are_in_the_order_of_their_numbers() -> None:
    """As text, 10 would come before 9."""
    assert a_deployment(version="10", previous="9").versions == ("9", "10")


def test_of_two_changes_at_the_same_moment_the_first_holds() -> None:
    """A person promotes the canary while a worker rolls it back: every reader must agree."""
    before = a_deployment(canary=Canary(version="2", share=500))
    promoted = before.serve("2", (), now=NOW, reason="a person")
    rolled_back = before.try_on(None, now=NOW, reason="a worker")

    state: Deployment | None = None
    for record in (before, promoted, rolled_back, before):
        state = follow(state, record)

    assert state == promoted


def test_the_state_survives_its_way_through_kafka() -> None:
    """What a worker follows is what was written."""
    state = a_deployment(canary=Canary(version="2", share=500), shadow="3")

    assert Deployment.model_validate_json(state.model_dump_json()) == state
